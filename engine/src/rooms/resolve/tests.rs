//! Known forks, and what must come of them.

use ruma::RoomVersionId;
use serde_json::json;

use super::test_graph::{ALICE, BOB, Branch, CAROL, TestGraph};

/// A version with each algorithm.
const V1: RoomVersionId = RoomVersionId::V1;
const V2: RoomVersionId = RoomVersionId::V10;
const V2_1: RoomVersionId = RoomVersionId::V12;

/// A room with Alice at 100, Bob at 50 and Carol at 0, all joined.
fn room(version: RoomVersionId) -> (TestGraph, Branch) {
    let (mut graph, mut room) = TestGraph::new(version);
    graph.member(&mut room, BOB, BOB, "join");
    graph.member(&mut room, CAROL, CAROL, "join");
    let users = match graph.rules.authorization.explicitly_privilege_room_creators {
        true => json!({BOB: 50}),
        false => json!({ALICE: 100, BOB: 50}),
    };
    graph.power_levels(&mut room, ALICE, users);
    (graph, room)
}

fn levels(graph: &TestGraph, alice: i64, bob: i64, carol: i64) -> serde_json::Value {
    match graph.rules.authorization.explicitly_privilege_room_creators {
        true => json!({BOB: bob, CAROL: carol}),
        false => json!({ALICE: alice, BOB: bob, CAROL: carol}),
    }
}

#[test]
fn a_later_topic_wins_over_an_earlier_one() {
    for version in [V1, V2, V2_1] {
        let (mut graph, room) = room(version);
        let (mut left, mut right) = (room.clone(), room);
        graph.topic(&mut left, ALICE, "left");
        let later = graph.topic(&mut right, BOB, "right");
        if graph.rules.state_res.v2_rules().is_none() {
            continue;
        }
        assert_eq!(
            graph.at(&graph.resolve(&[&left, &right]), "m.room.topic", ""),
            Some(later)
        );
    }
}

#[test]
fn a_key_that_only_one_side_has_is_kept_if_it_is_allowed() {
    for version in [V1, V2, V2_1] {
        let (mut graph, room) = room(version);
        let (left, mut right) = (room.clone(), room);
        let topic = graph.topic(&mut right, BOB, "right");
        assert_eq!(
            graph.at(&graph.resolve(&[&left, &right]), "m.room.topic", ""),
            Some(topic)
        );
    }
}

/// The banned moderator can't keep power by acting on another side of the fork.
#[test]
fn a_ban_wins_over_what_the_banned_did_meanwhile() {
    for version in [V2, V2_1] {
        let (mut graph, room) = room(version);
        let (mut left, mut right) = (room.clone(), room);
        let ban = graph.member(&mut left, ALICE, BOB, "ban");
        let users = levels(&graph, 100, 50, 50);
        graph.power_levels(&mut right, BOB, users);
        let topic = graph.topic(&mut right, BOB, "mine");
        let state = graph.resolve(&[&left, &right]);
        assert_eq!(graph.at(&state, "m.room.member", BOB), Some(ban));
        assert_ne!(graph.at(&state, "m.room.topic", ""), Some(topic));
        assert_eq!(
            graph.at(&state, "m.room.power_levels", ""),
            graph.at(&left.state, "m.room.power_levels", "")
        );
    }
}

#[test]
fn a_ban_by_a_moderator_loses_to_the_demotion_of_that_moderator() {
    for version in [V2, V2_1] {
        let (mut graph, room) = room(version);
        let (mut left, mut right) = (room.clone(), room);
        // Bob's ban is older, but Alice has more power.
        graph.member(&mut left, BOB, CAROL, "ban");
        let users = levels(&graph, 100, 0, 0);
        let demotion = graph.power_levels(&mut right, ALICE, users);
        let state = graph.resolve(&[&left, &right]);
        assert_eq!(graph.at(&state, "m.room.power_levels", ""), Some(demotion));
        assert_eq!(
            graph.at(&state, "m.room.member", CAROL),
            graph.at(&right.state, "m.room.member", CAROL)
        );
    }
}

#[test]
fn joining_on_a_side_where_the_room_was_still_public_does_not_evade_the_join_rules() {
    const EVE: &str = "@eve:e";
    for version in [V1, V2, V2_1] {
        let (mut graph, room) = room(version);
        let (mut left, mut right) = (room.clone(), room);
        let rules = graph.send(
            &mut left,
            ALICE,
            "m.room.join_rules",
            "",
            json!({"join_rule": "invite"}),
        );
        // Later than the change, and claims not to know of it.
        graph.member(&mut right, EVE, EVE, "join");
        let state = graph.resolve(&[&left, &right]);
        if graph.rules.state_res.v2_rules().is_none() {
            // No conflict, as version 1 has it: one side has no member event at all.
            continue;
        }
        assert_eq!(graph.at(&state, "m.room.join_rules", ""), Some(rules));
        assert_eq!(graph.at(&state, "m.room.member", EVE), None);
    }
}

#[test]
fn two_changes_of_power_levels_by_one_sender_follow_each_other() {
    for version in [V2, V2_1] {
        let (mut graph, room) = room(version);
        let (mut left, mut right) = (room.clone(), room);
        let users = levels(&graph, 100, 50, 10);
        graph.power_levels(&mut left, ALICE, users);
        let users = levels(&graph, 100, 40, 0);
        let later = graph.power_levels(&mut right, ALICE, users);
        let state = graph.resolve(&[&left, &right]);
        assert_eq!(graph.at(&state, "m.room.power_levels", ""), Some(later));
    }
}

/// A topic that was set under old power levels does not win by being later over one set under the new.
#[test]
fn the_mainline_comes_before_the_clock() {
    for version in [V2, V2_1] {
        let (mut graph, room) = room(version);
        let (mut left, mut right) = (room.clone(), room.clone());
        let users = levels(&graph, 100, 50, 10);
        graph.power_levels(&mut left, ALICE, users);
        let newer_power = graph.topic(&mut left, ALICE, "left");
        graph.topic(&mut right, BOB, "right");
        let state = graph.resolve(&[&left, &right]);
        assert_eq!(graph.at(&state, "m.room.topic", ""), Some(newer_power));
    }
}

#[test]
fn power_levels_that_only_one_side_had_decide_about_what_was_sent_by_them() {
    for version in [V2, V2_1] {
        let (mut graph, room) = room(version);
        let (mut left, mut right) = (room.clone(), room);
        // On the left Carol gets power, uses it, and loses it: the levels between are in no state.
        let users = levels(&graph, 100, 50, 50);
        graph.power_levels(&mut left, ALICE, users);
        let topic = graph.topic(&mut left, CAROL, "Carol's");
        let users = levels(&graph, 100, 50, 0);
        let last = graph.power_levels(&mut left, ALICE, users);
        graph.send(&mut right, ALICE, "m.room.name", "", json!({"name": "n"}));
        let state = graph.resolve(&[&left, &right]);
        assert_eq!(graph.at(&state, "m.room.power_levels", ""), Some(last));
        // Checked by the levels that stand in the end, as the specification has it.
        assert_eq!(graph.at(&state, "m.room.topic", ""), None);
        assert_ne!(graph.at(&left.state, "m.room.topic", ""), None);
        assert_eq!(graph.at(&left.state, "m.room.topic", ""), Some(topic));
    }
}

#[test]
fn what_authorises_a_rejected_event_is_not_taken_from_it() {
    let (mut graph, room) = room(V2);
    let (mut left, mut right) = (room.clone(), room);
    let users = levels(&graph, 100, 50, 50);
    let promotion = graph.power_levels(&mut left, ALICE, users);
    graph.topic(&mut left, CAROL, "left");
    let topic = graph.topic(&mut right, BOB, "right");
    graph.events.get_mut(&promotion).expect("it is there").is_rejected = true;
    // Carol's topic has nothing left that allows it.
    let state = graph.resolve(&[&left, &right]);
    assert_eq!(graph.at(&state, "m.room.topic", ""), Some(topic));
}

#[test]
fn three_states_are_resolved_at_once_and_in_any_order() {
    for version in [V1, V2, V2_1] {
        let (mut graph, room) = room(version);
        let mut sides = [room.clone(), room.clone(), room];
        graph.topic(&mut sides[0], ALICE, "0");
        graph.member(&mut sides[1], ALICE, BOB, "ban");
        graph.topic(&mut sides[2], BOB, "2");
        let [a, b, c] = &sides;
        let resolved: Vec<_> = [[a, b, c], [c, b, a], [b, c, a]]
            .iter()
            .map(|order| {
                let mut pairs: Vec<_> = graph.resolve(order.as_slice()).iter().collect();
                pairs.sort();
                pairs
            })
            .collect();
        assert_eq!(resolved[0], resolved[1]);
        assert_eq!(resolved[0], resolved[2]);
    }
}

/// MSC4297: an event of long ago is disputed, and what came between it and now must be looked at again, or the old event
/// is judged by the state of today alone and the room falls back to it.
#[test]
fn since_version_12_what_lies_between_disputed_events_is_decided_anew() {
    let (mut graph, mut room) = room(V2_1);
    let forgotten = room.clone();
    let users = levels(&graph, 100, 60, 0);
    let between = graph.power_levels(&mut room, ALICE, users);
    let users = levels(&graph, 100, 70, 0);
    graph.power_levels(&mut room, BOB_OR_ALICE, users);
    let states = [forgotten.state, room.state];
    let conflicted = super::split::Split::of(&states)
        .conflicted()
        .into_iter()
        .collect();
    assert!(graph.subgraph_by_paths(&conflicted).contains(&between));
    let resolved = graph.resolve_states(&states);
    assert_eq!(
        graph.at(&resolved, "m.room.power_levels", ""),
        graph.at(&states[1], "m.room.power_levels", "")
    );
}

/// Who raises Bob's power in the test above.
const BOB_OR_ALICE: &str = ALICE;

/// A key that only one side has is no conflict in version 1.
#[test]
fn version_1_takes_the_highest_depth_that_is_allowed() {
    let (mut graph, room) = room(V1);
    let (mut left, mut right) = (room.clone(), room);
    graph.topic(&mut left, ALICE, "1");
    let deeper = graph.topic(&mut left, ALICE, "2");
    graph.topic(&mut right, BOB, "3");
    assert_eq!(
        graph.at(&graph.resolve(&[&left, &right]), "m.room.topic", ""),
        Some(deeper)
    );
}

#[test]
fn version_1_takes_power_levels_in_a_row_until_one_is_not_allowed() {
    let (mut graph, room) = room(V1);
    let (mut left, mut right) = (room.clone(), room);
    let demoted = graph.power_levels(&mut left, ALICE, json!({ALICE: 100, BOB: 0}));
    graph.topic(&mut right, BOB, "depth");
    graph.power_levels(&mut right, BOB, json!({ALICE: 100, BOB: 50, CAROL: 50}));
    let state = graph.resolve(&[&left, &right]);
    assert_eq!(graph.at(&state, "m.room.power_levels", ""), Some(demoted));
    // And what the demoted did is judged by that; where nothing else is there, it stays all the same.
    assert!(graph.at(&state, "m.room.topic", "").is_some());
}

#[test]
fn version_1_falls_back_to_the_lowest_where_nothing_is_allowed() {
    let (mut graph, mut room) = room(V1);
    graph.send(
        &mut room,
        ALICE,
        "m.room.power_levels",
        "",
        json!({"users": {ALICE: 100, BOB: 50}}),
    );
    let (mut left, mut right) = (room.clone(), room);
    let lowest = graph.topic(&mut left, BOB, "1");
    graph.member(&mut left, BOB, BOB, "leave");
    graph.send(&mut right, BOB, "m.room.name", "", json!({"name": "n"}));
    graph.topic(&mut right, BOB, "2");
    graph.member(&mut right, ALICE, BOB, "ban");
    let state = graph.resolve(&[&left, &right]);
    assert_eq!(graph.at(&state, "m.room.topic", ""), Some(lowest));
}
