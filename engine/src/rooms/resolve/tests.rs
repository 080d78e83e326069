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
    for version in [V2, V2_1] {
        let (mut graph, room) = room(version);
        let (mut left, mut right) = (room.clone(), room);
        graph.topic(&mut left, ALICE, "left");
        let later = graph.topic(&mut right, BOB, "right");
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

/// A banned moderator can't keep power by acting on another side of the fork.
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
    for version in [V2, V2_1] {
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
        graph.topic(&mut left, CAROL, "Carol's");
        let users = levels(&graph, 100, 50, 0);
        let last = graph.power_levels(&mut left, ALICE, users);
        graph.send(&mut right, ALICE, "m.room.name", "", json!({"name": "n"}));
        let state = graph.resolve(&[&left, &right]);
        assert_eq!(graph.at(&state, "m.room.power_levels", ""), Some(last));
        // Checked by the levels that stand in the end, as the specification has it.
        assert_eq!(graph.at(&state, "m.room.topic", ""), None);
    }
}

/// Auth events aren't checked again in resolution, so what a rejected one says must not count.
#[test]
fn a_rejected_event_authorises_nothing() {
    let (mut graph, room) = room(V2);
    let (mut left, mut right) = (room.clone(), room);
    let rules = graph
        .at(&left.state, "m.room.join_rules", "")
        .expect("there are join rules");
    let join = graph.member(&mut left, "@eve:e", "@eve:e", "join");
    // No state has join rules, so that those count which authorise the join.
    for side in [&mut left, &mut right] {
        side.state.set(graph.events[&rules].key_nid, None);
    }
    let joined = |graph: &TestGraph| graph.at(&graph.resolve(&[&left, &right]), "m.room.member", "@eve:e");
    assert_eq!(joined(&graph), Some(join));
    graph.events.get_mut(&rules).expect("they are there").is_rejected = true;
    assert_eq!(joined(&graph), None);
}

/// "Events that have been rejected due to failing auth based on the state at the event … are handled as usual".
#[test]
fn a_rejected_event_that_is_in_a_state_may_stand_after_all() {
    let (mut graph, room) = room(V2);
    let (mut left, right) = (room.clone(), room);
    let topic = graph.topic(&mut left, BOB, "left");
    graph.events.get_mut(&topic).expect("it is there").is_rejected = true;
    assert_eq!(
        graph.at(&graph.resolve(&[&left, &right]), "m.room.topic", ""),
        Some(topic)
    );
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

/// MSC4297. One side fell back to old power levels, and what came between these and the new is disputed by nobody: a topic
/// that all have goes back to it. Version 2 forgets it, and with it what allowed the new levels.
#[test]
fn since_version_12_what_lies_between_disputed_events_is_decided_anew() {
    for (version, falls_back) in [(V2, true), (V2_1, false)] {
        let (mut graph, mut room) = room(version);
        let old = graph.at(&room.state, "m.room.power_levels", "");
        let users = levels(&graph, 100, 50, 100);
        let between = graph.power_levels(&mut room, ALICE, users);
        graph.topic(&mut room, CAROL, "Carol's");
        let users = levels(&graph, 100, 40, 100);
        let new = graph.power_levels(&mut room, CAROL, users);
        let mut fallen_back = room.state.clone();
        fallen_back.set(graph.events[&new].key_nid, old);
        let states = [fallen_back, room.state];
        assert!(!graph.difference(&states).contains(&between));
        let resolved = graph.at(&graph.resolve_states(&states), "m.room.power_levels", "");
        assert_eq!(resolved, if falls_back { old } else { Some(new) });
    }
}

/// One side has no member event of hers at all: that is no conflict in version 1.
#[test]
fn version_1_lets_everything_stand_that_only_one_side_has() {
    let (mut graph, room) = room(V1);
    let (mut left, mut right) = (room.clone(), room);
    graph.send(
        &mut left,
        ALICE,
        "m.room.join_rules",
        "",
        json!({"join_rule": "invite"}),
    );
    let join = graph.member(&mut right, "@eve:e", "@eve:e", "join");
    let state = graph.resolve(&[&left, &right]);
    assert_eq!(graph.at(&state, "m.room.member", "@eve:e"), Some(join));
}

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
