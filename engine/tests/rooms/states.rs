//! States as they are stored: at every event, of large rooms, and right after a restart.

use std::collections::BTreeMap;

use hearth_storage::{StateNid, states};

use super::*;
use crate::{
    dice::Dice,
    people::{Cast, World},
};

/// Compares the stored state after every event with the replayed one.
async fn check_states(server: &Server) {
    let truth = server.truth().await;
    let mut connection = server.db.acquire().await.unwrap();
    for room in truth.rooms.values() {
        room.check();
        let names: BTreeMap<_, _> = room
            .events
            .iter()
            .map(|event| (event.nid, event.event_id.clone()))
            .collect();
        let mut wanted: Vec<StateNid> = room.events.iter().map(|event| event.state_after).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let loaded = states::load(&mut connection, &wanted).await.unwrap();
        let loaded: BTreeMap<_, _> = loaded
            .into_iter()
            .map(|state| (state.state_nid, state.map))
            .collect();
        for (index, event) in room.events.iter().enumerate() {
            let stored: Vec<&String> = loaded[&event.state_after]
                .values()
                .map(|nid| &names[nid])
                .collect();
            let mut stored: Vec<&str> = stored.into_iter().map(String::as_str).collect();
            let mut replayed: Vec<&str> = room.state_after(index).values().map(String::as_str).collect();
            stored.sort_unstable();
            replayed.sort_unstable();
            assert_eq!(stored, replayed, "{} after its event {}", room.id, event.sequence);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_stored_after_each_event_is_what_replaying_the_room_gives() {
    let mut server = Server::start().await;
    let cast = Cast::new(&server).await;
    let mut dice = Dice::new(7);
    let mut world = World::default();
    world.create(&server.engine, &cast, &mut dice).await;
    world.create(&server.engine, &cast, &mut dice).await;
    for step in 0..60 {
        let deeds: Vec<_> = (0..5).map(|_| world.plan(&mut dice)).collect();
        futures_util::future::join_all(deeds.iter().map(|deed| world.act(&server.engine, &cast, deed))).await;
        if step % 20 == 19 {
            server.restart().await;
        }
    }
    check_states(&server).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_of_many_state_changes_is_loaded_right() {
    let mut server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    // Across several whole states, and with keys that change again and again.
    for chunk in 0..10 {
        let changes = (0..30).map(|number| {
            let key = if number % 3 == 0 {
                "same".to_owned()
            } else {
                format!("{chunk} {number}")
            };
            let (server, alice, room_id) = (&server, &alice, &room_id);
            async move {
                server
                    .set_state(alice, room_id, "test.state", &key, json!({ "value": number }))
                    .await
            }
        });
        futures_util::future::join_all(changes).await;
    }
    check_states(&server).await;
    let truth = server.truth().await;
    let room = &truth.rooms[&room_id];
    assert_eq!(room.current().len(), 6 + 200 + 1, "{:?}", room.current().keys());
    for _ in 0..2 {
        assert_eq!(
            &state_ids(&server.engine, &alice, &room_id).await.unwrap(),
            room.current()
        );
        let filter = json!({ "room": { "timeline": { "limit": 3 } } });
        let synced = sync_json(&server.engine, &alice, None, filter, |_| ())
            .await
            .unwrap();
        let section = &synced["rooms"]["join"][room_id.as_str()];
        let told: Vec<&Value> = section["state"]["events"].as_array().unwrap().iter().collect();
        let first = id_of(&section["timeline"]["events"][0]);
        let before = room.state_before(room.index_of(&first));
        let told: truth::StateIds = told
            .iter()
            .map(|event| (truth::key_of(event).unwrap(), id_of(event)))
            .collect();
        assert_eq!(told, before);
        server.restart().await;
    }
    server.end().await;
}

#[tokio::test]
async fn members_are_told_as_of_any_point_of_history() {
    let server = Server::start().await;
    let (alice, bob, carol) = (
        server.user("alice").await,
        server.user("bob").await,
        server.user("carol").await,
    );
    let room_id = server.room(&alice).await;
    let (mut syncs, mut counts) = (Vec::new(), Vec::new());
    let mut note = async |what: &str| {
        server.say(&alice, &room_id, what).await;
        let synced = sync_json(&server.engine, &alice, None, json!({}), |_| ())
            .await
            .unwrap();
        syncs.push(synced["next_batch"].as_str().unwrap().to_owned());
        let truth = server.truth().await;
        let room = &truth.rooms[&room_id];
        let members = room
            .current()
            .keys()
            .filter(|(event_type, _)| event_type == "m.room.member")
            .count();
        counts.push((members, room.events.last().unwrap().sequence));
    };
    note("alone").await;
    server.join(&bob, &room_id).await;
    note("with bob").await;
    server.join(&carol, &room_id).await;
    server.leave(&bob, &room_id).await;
    note("with carol").await;
    let shown = async |request: read::MembersRequest<'_>| {
        let members = read::members(&server.engine, &alice, &room_id, request)
            .await
            .unwrap();
        let mut members: Vec<String> = members
            .iter()
            .map(|event| {
                let event: Value = serde_json::from_str(event.get()).unwrap();
                format!(
                    "{} {}",
                    event["state_key"].as_str().unwrap(),
                    event["content"]["membership"].as_str().unwrap()
                )
            })
            .collect();
        members.sort();
        members
    };
    for (token, (count, sequence)) in syncs.iter().zip(&counts) {
        for at in [token.clone(), format!("t{sequence}_0")] {
            let members = shown(read::MembersRequest {
                at: Some(&at),
                ..Default::default()
            })
            .await;
            assert_eq!(members.len(), *count, "{at}: {members:?}");
        }
    }
    let at = Some(syncs[1].as_str());
    assert_eq!(
        shown(read::MembersRequest {
            at,
            ..Default::default()
        })
        .await,
        ["@alice:example.org join", "@bob:example.org join"]
    );
    let joined = read::MembersRequest {
        membership: Some("join"),
        ..Default::default()
    };
    assert_eq!(
        shown(joined).await,
        ["@alice:example.org join", "@carol:example.org join"]
    );
    let not_joined = read::MembersRequest {
        not_membership: Some("join"),
        ..Default::default()
    };
    assert_eq!(shown(not_joined).await, ["@bob:example.org leave"]);
    server.end().await;
}

#[tokio::test]
async fn a_change_after_a_restart_builds_on_the_state_before_it() {
    let mut server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    for number in 0..70 {
        if number % 7 == 0 {
            server.restart().await;
        }
        server
            .set_state(
                &alice,
                &room_id,
                "test.state",
                &(number % 9).to_string(),
                json!({ "value": number }),
            )
            .await;
    }
    check_states(&server).await;
    server.end().await;
}
