//! Rooms that servers share over a bad network: in the end all of them hold the same events and the same state.

#[path = "../rooms/dice.rs"]
mod dice;
mod network;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use hearth_engine::{
    Engine,
    accounts::{
        Requester, authenticate,
        register::{self, Registration},
    },
    rooms::{create::create_room, membership, read, send},
};
use hearth_storage::events::{self, EventStatus};
use ruma::{
    OwnedEventId, OwnedRoomId, RoomId, RoomVersionId,
    api::client::{
        room::create_room::v3::{Request as CreateRequest, RoomPreset},
        uiaa::{AuthData, Dummy},
    },
    events::{StateEventType, TimelineEventType},
};
use serde_json::{Value, json};

use crate::{dice::Dice, network::Servers};

/// Rooms, each forked and healed by a seed of its own.
const SEEDS: u64 = 200;
/// Rooms that are at it at once.
const AT_ONCE: usize = 8;
/// What is done in each while the servers are cut off from each other.
const DEEDS: usize = 15;
const PATIENCE: Duration = Duration::from_secs(60);
const VERSIONS: [RoomVersionId; 4] = [
    RoomVersionId::V6,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// Two of each server: one who stays in the room, and one whom things happen to.
struct Person {
    server: usize,
    requester: Requester,
}

async fn people(servers: &Servers) -> Vec<Person> {
    let mut people = Vec::new();
    for username in ["anchor", "guest"] {
        for (server, engine) in servers.engines.iter().enumerate() {
            let registration = Registration {
                username: Some(username.to_owned()),
                password: Some("password".into()),
                ..Registration::default()
            };
            let registered =
                register::register(engine, registration, Some(&AuthData::Dummy(Dummy::new()))).await;
            let token = registered.unwrap().login.unwrap().access_token;
            people.push(Person {
                server,
                requester: authenticate(engine, &token).await.unwrap(),
            });
        }
    }
    people
}

/// A room that everyone is in.
async fn shared_room(servers: &Servers, people: &[Person], version: RoomVersionId) -> OwnedRoomId {
    let creator = &people[0];
    let mut request = CreateRequest::new();
    request.preset = Some(RoomPreset::PublicChat);
    request.room_version = Some(version);
    let room_id = create_room(&servers.engines[creator.server], &creator.requester, request)
        .await
        .unwrap();
    let moderators: serde_json::Map<String, Value> = people[1..3]
        .iter()
        .map(|person| (person.requester.user_id.to_string(), json!(50)))
        .collect();
    let engine = &servers.engines[0];
    let levels = read::state_event(engine, &creator.requester, &room_id, "m.room.power_levels", "")
        .await
        .unwrap();
    let mut levels: Value = serde_json::from_str(levels.content.get()).unwrap();
    levels["users"].as_object_mut().unwrap().extend(moderators);
    set_state(engine, creator, &room_id, "m.room.power_levels", "", levels)
        .await
        .unwrap();
    let via = [servers.engines[0].config.server_name.clone()];
    for person in &people[1..] {
        let engine = &servers.engines[person.server];
        let begun = Instant::now();
        // The network loses requests of a join too; a client would try again.
        while let Err(error) = membership::join(engine, &person.requester, &room_id, &via, None).await {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} can't join: {error:?}",
                person.requester.user_id
            );
        }
    }
    room_id
}

async fn set_state(
    engine: &Arc<Engine>,
    person: &Person,
    room_id: &RoomId,
    event_type: &str,
    state_key: &str,
    content: Value,
) -> Option<OwnedEventId> {
    let event_type = StateEventType::from(event_type);
    send::send_state(
        engine,
        &person.requester,
        room_id,
        event_type,
        state_key,
        &content.to_string(),
    )
    .await
    .ok()
}

/// Somebody does something that changes the room, or tries to.
async fn act(
    servers: &Servers,
    people: &[Person],
    room_id: &RoomId,
    dice: &mut Dice,
) -> Option<OwnedEventId> {
    let person = dice.pick(people);
    let guest = &dice.pick(&people[3..]).requester.user_id;
    let engine = &servers.engines[person.server];
    let number = dice.roll(1000);
    let member = |membership: &str| json!({ "membership": membership });
    match dice.roll(10) {
        0..3 => {
            let content = json!({ "msgtype": "m.text", "body": number.to_string() }).to_string();
            let txn_id = engine.entropy.alphanumeric(12);
            let kind = TimelineEventType::RoomMessage;
            send::send_message(engine, &person.requester, room_id, kind, &txn_id, &content)
                .await
                .ok()
        }
        3 => {
            set_state(
                engine,
                person,
                room_id,
                "m.room.topic",
                "",
                json!({ "topic": number.to_string() }),
            )
            .await
        }
        4 => {
            set_state(
                engine,
                person,
                room_id,
                "m.room.name",
                "",
                json!({ "name": number.to_string() }),
            )
            .await
        }
        5 => {
            let rule = *dice.pick(&["public", "invite"]);
            set_state(
                engine,
                person,
                room_id,
                "m.room.join_rules",
                "",
                json!({ "join_rule": rule }),
            )
            .await
        }
        6 => {
            set_state(
                engine,
                person,
                room_id,
                "m.room.member",
                guest.as_str(),
                member("ban"),
            )
            .await
        }
        7 => {
            set_state(
                engine,
                person,
                room_id,
                "m.room.member",
                guest.as_str(),
                member("leave"),
            )
            .await
        }
        8 => {
            let levels = read::state_event(engine, &person.requester, room_id, "m.room.power_levels", "")
                .await
                .ok()?;
            let mut levels: Value = serde_json::from_str(levels.content.get()).ok()?;
            levels["users"][guest.as_str()] = json!(*dice.pick(&[0, 25, 50]));
            levels["events"]["m.room.topic"] = json!(*dice.pick(&[0, 25, 50]));
            set_state(engine, person, room_id, "m.room.power_levels", "", levels).await
        }
        _ => {
            let own = person.requester.user_id.as_str();
            let content = json!({ "membership": "join", "displayname": number.to_string() });
            set_state(engine, person, room_id, "m.room.member", own, content).await
        }
    }
}

/// The IDs of the events of the current state, as one who stays in the room reads it.
async fn state(servers: &Servers, person: &Person, room_id: &RoomId) -> BTreeSet<String> {
    let events = read::state(&servers.engines[person.server], &person.requester, room_id)
        .await
        .unwrap();
    let id = |event: &serde_json::value::RawValue| {
        let event: Value = serde_json::from_str(event.get()).unwrap();
        event["event_id"].as_str().unwrap().to_owned()
    };
    events.iter().map(|event| id(event)).collect()
}

/// Those of `sent` that a server does not have in the room.
async fn missing(servers: &Servers, server: usize, sent: &[OwnedEventId]) -> Vec<OwnedEventId> {
    let ids: Vec<&str> = sent.iter().map(|event_id| event_id.as_str()).collect();
    let mut connection = servers.databases[server].acquire().await.unwrap();
    let known = events::known(&mut connection, &ids).await.unwrap();
    // One that came too late for the current state is held back, on this server or that.
    let held = |status: EventStatus| matches!(status, EventStatus::Accepted | EventStatus::SoftFailed);
    let held: BTreeSet<String> = known
        .into_iter()
        .filter(|event| held(event.status))
        .map(|event| event.event_id)
        .collect();
    sent.iter()
        .filter(|event_id| !held.contains(event_id.as_str()))
        .cloned()
        .collect()
}

/// Everyone who stays says something. An event that one server held back, since the state it had just then was against
/// it, and that others took in, is in the past of what they say: then it counts for the first server too, if the room's
/// state allows it after all.
async fn speak(servers: &Servers, people: &[Person], room_id: &RoomId) -> Vec<OwnedEventId> {
    let mut said = Vec::new();
    for person in &people[..3] {
        let engine = &servers.engines[person.server];
        let (kind, txn_id) = (TimelineEventType::RoomMessage, engine.entropy.alphanumeric(12));
        let content = json!({ "msgtype": "m.text", "body": "the last word" }).to_string();
        let sent = send::send_message(engine, &person.requester, room_id, kind, &txn_id, &content);
        said.push(sent.await.unwrap());
    }
    said
}

/// Waits until all servers hold all that was sent.
async fn delivery(servers: &Servers, people: &[Person], room_id: &RoomId, sent: &[OwnedEventId], what: &str) {
    let begun = Instant::now();
    loop {
        let mut lacking = Vec::new();
        for person in &people[..3] {
            lacking.push(missing(servers, person.server, sent).await);
        }
        if lacking.iter().all(Vec::is_empty) {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}, room {room_id}: missing {lacking:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until all servers hold all that was sent, and agree on the state.
async fn agreement(
    servers: &Servers,
    people: &[Person],
    room_id: &RoomId,
    sent: &[OwnedEventId],
    what: &str,
) {
    let begun = Instant::now();
    loop {
        let mut states = Vec::new();
        let mut lacking = Vec::new();
        for person in &people[..3] {
            states.push(state(servers, person, room_id).await);
            lacking.push(missing(servers, person.server, sent).await);
        }
        let agrees = states.iter().all(|state| *state == states[0]);
        if agrees && lacking.iter().all(Vec::is_empty) {
            return;
        }
        if begun.elapsed() > PATIENCE {
            let differing: Vec<Vec<&String>> = states
                .iter()
                .map(|state| {
                    state
                        .iter()
                        .filter(|id| !states.iter().all(|other| other.contains(*id)))
                        .collect()
                })
                .collect();
            panic!("{what}, room {room_id}: missing {lacking:?}, states differ in {differing:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_were_cut_off_from_each_other_agree_in_the_end() {
    // Another seed tries other misfortunes of the network, and the same deeds.
    let seed = std::env::var("HEARTH_TEST_SEED").ok();
    let servers = Servers::start(seed.map_or(1, |seed| seed.parse().unwrap())).await;
    let people = people(&servers).await;
    let seeds: Vec<u64> = (0..SEEDS).collect();
    for some in seeds.chunks(AT_ONCE) {
        let (servers, people) = (&servers, &people);
        let version = |seed: u64| VERSIONS[seed as usize % VERSIONS.len()].clone();
        let rooms: Vec<_> = stream::iter(some)
            .then(|seed| async move { (*seed, shared_room(servers, people, version(*seed)).await) })
            .collect()
            .await;
        let before = stream::iter(&rooms);
        before
            .for_each_concurrent(AT_ONCE, |(seed, room_id)| async move {
                agreement(servers, people, room_id, &[], &format!("seed {seed}, before")).await;
            })
            .await;
        servers.cut(true);
        let acted = stream::iter(&rooms).map(|(seed, room_id)| async move {
            let mut dice = Dice::new(*seed);
            // State that is set to what it is stays the event that it was, which joined servers have as state alone.
            let before = state(servers, &people[0], room_id).await;
            let mut sent = Vec::new();
            for _ in 0..DEEDS {
                sent.extend(act(servers, people, room_id, &mut dice).await);
            }
            sent.retain(|event_id| !before.contains(event_id.as_str()));
            sent
        });
        let sent: Vec<Vec<OwnedEventId>> = acted.buffered(AT_ONCE).collect().await;
        servers.cut(false);
        let after = stream::iter(rooms.iter().zip(&sent));
        after
            .for_each_concurrent(AT_ONCE, |((seed, room_id), sent)| async move {
                let what = format!("seed {seed}, version {}", version(*seed));
                delivery(servers, people, room_id, sent, &what).await;
                let said = speak(servers, people, room_id).await;
                agreement(servers, people, room_id, &said, &what).await;
            })
            .await;
    }
    servers.end().await;
}
