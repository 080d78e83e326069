//! A room split in two and healed: both sides act while neither hears of the other, against each other where they can, and
//! come to one state by the room version's resolution.

use hearth_tests::{Client, is_joined, public_chat};
use serde_json::{Value, json};

use super::{Pair, has_all, is_seen_as, join_via, same_state};

/// One of each algorithm of state resolution, and of the rules that it goes by.
const VERSIONS: [&str; 5] = ["1", "2", "6", "10", "12"];

/// A room with two people of each side.
struct Split {
    room: String,
    version: &'static str,
}

struct People {
    /// Of Hearth: the creator, and a moderator.
    alice: Client,
    dave: Client,
    /// Of Synapse: as mighty as may be, a moderator, and one who comes later.
    bob: Client,
    carol: Client,
    erin: Client,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_synapse_a_room_that_was_split_heals() {
    let mut pair = Pair::start().await;
    let people = People {
        alice: pair.hearth().register("alice").await,
        dave: pair.hearth().register("dave").await,
        bob: pair.synapse().register("bob").await,
        carol: pair.synapse().register("carol").await,
        erin: pair.synapse().register("erin").await,
    };
    let mut rooms = Vec::new();
    for version in VERSIONS {
        rooms.push(shared(&pair, &people, version).await);
    }
    let mut said = Vec::new();
    pair.synapse.stop().await;
    for Split { room, version } in &rooms {
        said.push(people.act_on_hearth(room, version).await);
    }
    pair.hearth.stop().await;
    pair.synapse.start_again().await;
    for (Split { room, .. }, said) in rooms.iter().zip(&mut said) {
        said.push(people.act_on_synapse(room).await);
    }
    pair.hearth.restart().await;
    for (Split { room, .. }, said) in rooms.iter().zip(&said) {
        let now = people.alice.send_text(room, "we are one again").await.event_id();
        has_all(&people.bob, room, &[said[0].clone(), now]).await;
        let now = people.bob.send_text(room, "so we are").await.event_id();
        has_all(&people.alice, room, &[said[1].clone(), now]).await;
        same_state(&people.alice, &people.bob, room).await;
        let (ours, theirs) = tokio::join!(people.alice.memberships(room), people.bob.memberships(room));
        assert_eq!(ours, theirs);
        // Who was banned there is banned here.
        if ours[&people.dave.user_id] == "ban" {
            people.dave.set_since(None);
            people.dave.sync_until(|sync| !is_joined(room)(sync)).await;
        }
    }
}

async fn shared(pair: &Pair, people: &People, version: &'static str) -> Split {
    let People {
        alice,
        dave,
        bob,
        carol,
        ..
    } = people;
    let mut parameters = public_chat();
    parameters["room_version"] = json!(version);
    let room = alice.create_room(parameters).await.room_id();
    dave.join(&room).await.ok();
    for guest in [bob, carol] {
        join_via(guest, &room, &pair.hearth()).await;
        is_seen_as(alice, &room, guest, "join").await;
    }
    levels(alice, &room, &[(bob, 100), (carol, 50), (dave, 50)]).await;
    same_state(alice, bob, &room).await;
    Split { room, version }
}

/// Sets the power levels of users, and leaves the others as they are.
async fn levels(who: &Client, room: &str, users: &[(&Client, i64)]) {
    let mut levels = who.state(room, "m.room.power_levels", "").await.ok();
    if !levels["users"].is_object() {
        levels["users"] = json!({});
    }
    for (user, level) in users {
        levels["users"][&user.user_id] = json!(level);
    }
    who.send_state(room, "m.room.power_levels", "", levels)
        .await
        .event_id();
}

async fn topic(who: &Client, room: &str, topic: &str) {
    let content: Value = json!({ "topic": topic });
    who.send_state(room, "m.room.topic", "", content).await.event_id();
}

async fn name(who: &Client, room: &str, name: &str) {
    let content: Value = json!({ "name": name });
    who.send_state(room, "m.room.name", "", content).await.event_id();
}

impl People {
    /// What happens on Hearth meanwhile: the last message said.
    async fn act_on_hearth(&self, room: &str, version: &str) -> Vec<String> {
        topic(&self.alice, room, "as Hearth has it").await;
        name(&self.dave, room, "Dave's").await;
        levels(&self.alice, room, &[(&self.carol, 0)]).await;
        name(&self.dave, room, "Dave's, once more").await;
        let closed = json!({ "join_rule": "invite" });
        self.alice
            .send_state(room, "m.room.join_rules", "", closed)
            .await
            .event_id();
        let own = format!("set on Hearth in version {version}");
        let content = json!({ "value": own });
        self.alice
            .send_state(room, "org.example.hearth", "", content)
            .await
            .event_id();
        vec![self.alice.send_text(room, "is anybody there?").await.event_id()]
    }

    /// What happens on Synapse meanwhile: the last message said.
    async fn act_on_synapse(&self, room: &str) -> String {
        name(&self.carol, room, "Carol's").await;
        topic(&self.carol, room, "as Carol has it").await;
        topic(&self.bob, room, "as Synapse has it").await;
        self.erin.join(room).await.ok();
        self.bob.ban(room, &self.dave, Some("of all people")).await.ok();
        levels(&self.bob, room, &[(&self.erin, 75)]).await;
        name(&self.erin, room, "Erin's").await;
        let content = json!({ "value": "set on Synapse" });
        self.bob
            .send_state(room, "org.example.synapse", "", content)
            .await
            .event_id();
        self.bob.send_text(room, "hello?").await.event_id()
    }
}
