//! A client that believes nothing but its syncs, beside the server, through seeded turmoil: whatever happened and however
//! little each sync carried, both have the same room.

use std::collections::BTreeMap;

use hearth_tests::{Client, Server, encoded, event_ids, public_chat, timeline};
use serde_json::{Value, json};

/// Numbers that look random and are the same each time (SplitMix64).
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or_default()
    }
}

/// Event ID by event type and state key.
type StateMap = BTreeMap<(String, String), String>;

/// A device, and what its syncs told it of a room.
struct Observer<'a> {
    device: &'a Client,
    room: &'a str,
    /// Takes the state after the timeline, instead of that before it.
    state_after: bool,
    joined: bool,
    state: StateMap,
    timeline: Vec<String>,
}

impl<'a> Observer<'a> {
    fn new(device: &'a Client, room: &'a str, state_after: bool) -> Self {
        Self {
            device,
            room,
            state_after,
            joined: false,
            state: StateMap::new(),
            timeline: Vec::new(),
        }
    }

    /// Syncs, with at most `limit` events of a room, until nothing is new.
    async fn catch_up(&mut self, limit: usize) {
        let filter = json!({ "room": { "timeline": { "limit": limit }, "include_leave": false } });
        let query = format!(
            "timeout=0&use_state_after={}&filter={}",
            self.state_after,
            encoded(&filter.to_string())
        );
        loop {
            let since = self.device.since();
            let sync = self.device.sync_with(&query).await.ok();
            let section = |name: &str| sync["rooms"][name].get(self.room).cloned();
            if section("leave").is_some() || section("invite").is_some() {
                self.joined = false;
            }
            let Some(joined) = section("join") else { break };
            self.joined = true;
            if joined["timeline"]["limited"] == true {
                self.fill_gap(&joined["timeline"]["prev_batch"], since.as_deref())
                    .await;
            }
            self.timeline
                .extend(event_ids(&timeline(&sync, self.room).into()));
            let (told, other) = if self.state_after {
                ("state_after", "state")
            } else {
                ("state", "state_after")
            };
            assert!(
                joined.get(other).is_none(),
                "only one of the two is told: {joined}"
            );
            self.apply(&joined[told]["events"]);
            if !self.state_after {
                self.apply(&joined["timeline"]["events"]);
            }
        }
    }

    fn apply(&mut self, events: &Value) {
        for event in events.as_array().into_iter().flatten() {
            let text = |key: &str| event[key].as_str().map(ToOwned::to_owned);
            let (Some(event_type), Some(event_id)) = (text("type"), text("event_id")) else {
                continue;
            };
            if let Some(state_key) = text("state_key") {
                self.state.insert((event_type, state_key), event_id);
            }
        }
    }

    async fn fill_gap(&mut self, prev_batch: &Value, since: Option<&str>) {
        let (mut missed, mut from) = (Vec::new(), prev_batch.as_str().unwrap_or_default().to_owned());
        let to = since
            .map(|since| format!("&to={}", encoded(since)))
            .unwrap_or_default();
        loop {
            let query = format!("dir=b&limit=7&from={}{to}", encoded(&from));
            let page = self.device.messages(self.room, &query).await.ok();
            missed.extend(event_ids(&page["chunk"]));
            match page["end"].as_str() {
                Some(end) => from = end.to_owned(),
                None => break,
            }
        }
        missed.reverse();
        self.timeline.extend(missed);
    }

    async fn assert_knows_the_state(&self, what: &str) {
        if !self.joined {
            return;
        }
        let state = self
            .device
            .get(&format!("/v3/rooms/{}/state", self.room))
            .await
            .ok();
        let mut actual = StateMap::new();
        for event in state.as_array().into_iter().flatten() {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            actual.insert((text("type"), text("state_key")), text("event_id"));
        }
        let device = &self.device.user_id;
        assert_eq!(self.state, actual, "{what}: what {device} was told, and what is");
    }
}

/// One thing that somebody does; it may be refused.
async fn stir(random: &mut Seeded, people: &[Client], room: &str, said: &mut Vec<String>) {
    let (who, whom) = (
        &people[random.below(people.len())],
        &people[random.below(people.len())],
    );
    let number = random.next() % 4;
    let answer = match random.below(14) {
        0..5 => who.send_text(room, &format!("message {}", said.len())).await,
        5 | 6 => {
            people[0]
                .send_state(room, "m.room.topic", "", json!({ "topic": number }))
                .await
        }
        7 => {
            people[0]
                .send_state(
                    room,
                    "org.example.shelf",
                    &number.to_string(),
                    json!({ "n": random.next() % 9 }),
                )
                .await
        }
        8 | 9 => who.join(room).await,
        10 if who.user_id != people[0].user_id => who.leave(room).await,
        11 if whom.user_id != people[0].user_id => people[0].kick(room, whom, None).await,
        12 => people[0].invite(room, whom).await,
        13 if !said.is_empty() => {
            people[0]
                .redact(room, &said[random.below(said.len())], "turmoil")
                .await
        }
        _ => who.send_text(room, "nothing else").await,
    };
    assert!(
        answer.status == 200 || answer.is_proper_refusal(),
        "{}: {} {}",
        answer.request,
        answer.status,
        answer.body
    );
    if answer.request.contains("/send/m.room.message/") && answer.status == 200 {
        said.push(answer.event_id());
    }
}

async fn turmoil(seed: u64, rounds: usize) {
    let mut server = Server::start().await;
    let mut random = Seeded(seed);
    let mut people = Vec::new();
    for name in ["alice", "bob", "carol", "dave"] {
        people.push(server.register(name).await);
    }
    let room = people[0].create_room(public_chat()).await.room_id();
    people[1].join(&room).await.ok();
    let devices = [
        people[0].another_device().await,
        people[0].another_device().await,
        people[1].another_device().await,
        people[1].another_device().await,
    ];
    let mut observers: Vec<_> = devices
        .iter()
        .enumerate()
        .map(|(number, device)| Observer::new(device, &room, number % 2 == 1))
        .collect();
    let mut said = Vec::new();
    for round in 0..rounds {
        for _ in 0..=random.below(25) {
            stir(&mut random, &people, &room, &mut said).await;
        }
        if round == rounds / 2 {
            server.restart().await;
        }
        for observer in &mut observers {
            // Some devices sleep through a round.
            if random.below(4) > 0 {
                observer.catch_up(1 + random.below(12)).await;
                observer
                    .assert_knows_the_state(&format!("seed {seed}, round {round}"))
                    .await;
            }
        }
    }
    let whole = event_ids(&people[0].page_through(&room, "f", 50, None).await.into());
    for observer in &mut observers {
        observer.catch_up(5).await;
        observer
            .assert_knows_the_state(&format!("seed {seed}, at last"))
            .await;
    }
    // Alice never left: what her syncs left out, paging reached. (Bob is shown again what he saw before he left.)
    for observer in &observers[..2] {
        assert_eq!(
            observer.timeline, whole,
            "seed {seed}: every event came, in the order of the room"
        );
    }
}

#[tokio::test]
async fn a_client_that_follows_its_syncs_has_the_room_as_it_is() {
    turmoil(1, 12).await;
}

#[tokio::test]
async fn and_so_it_has_in_another_turmoil() {
    turmoil(20_261_124, 12).await;
}
