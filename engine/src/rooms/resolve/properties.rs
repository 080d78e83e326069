//! Random forks, from seeds: what resolves does so in one way, whatever is left out and in whatever order it comes.

use std::collections::HashSet;

use hearth_storage::EventNid;
use ruma::RoomVersionId;
use serde_json::json;

use super::{
    split::Split,
    test_graph::{Branch, TestGraph},
};
use crate::rooms::StateMap;

const SEEDS: u64 = 300;
const STEPS: usize = 60;
const USERS: [&str; 5] = ["@alice:a", "@bob:b", "@carol:c", "@dave:a", "@erin:b"];

/// Random numbers from a seed (splitmix64).
#[derive(Clone)]
pub(super) struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }

    fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.roll(choices.len())]
    }
}

/// A room that is forked and joined again at random, by users who mostly do what they may.
pub(super) fn random_forks(version: RoomVersionId, seed: u64) -> (TestGraph, Vec<Branch>) {
    let mut dice = Dice(seed);
    let (mut graph, start) = TestGraph::new(version);
    // Clocks that disagree, so that there are ties and events from the future.
    let mut clock = dice.clone();
    graph.now = Box::new(move || 100 + clock.roll(40) as i64);
    if seed.is_multiple_of(3) {
        // Numbers in no order at all.
        let mut numbers = dice.clone();
        let mut given: HashSet<i64> = graph.events.keys().map(|nid| i64::from(*nid)).collect();
        graph.next_nid = Box::new(move || {
            loop {
                let number = 1 + numbers.roll(100_000) as i64;
                if given.insert(number) {
                    return number;
                }
            }
        });
    }
    let mut branches = vec![start];
    for _ in 0..STEPS {
        match dice.roll(12) {
            0 if branches.len() < 4 => {
                let copy = dice.pick(&branches).clone();
                branches.push(copy);
            }
            1 if branches.len() > 1 => {
                let one = dice.roll(branches.len());
                let other = dice.roll(branches.len());
                branches[one] = graph.merge(&[&branches[one], &branches[other]]);
            }
            _ => {
                let index = dice.roll(branches.len());
                act(&mut graph, &mut branches[index], &mut dice);
            }
        }
    }
    (graph, branches)
}

/// Somebody tries something; the rules may be against it.
fn act(graph: &mut TestGraph, branch: &mut Branch, dice: &mut Dice) {
    // The first of them more often: the others are often powerless.
    let sender = USERS[dice.roll(USERS.len()).min(dice.roll(USERS.len()))];
    let target = *dice.pick(&USERS);
    let (event_type, state_key, content) = match dice.roll(10) {
        0 => ("m.room.topic", "", json!({"topic": dice.roll(1000)})),
        1 => ("m.room.name", "", json!({"name": dice.roll(1000)})),
        2 | 3 => {
            let privileged = graph.rules.authorization.explicitly_privilege_room_creators;
            let users: serde_json::Map<_, _> = USERS
                .iter()
                .skip(usize::from(privileged))
                .map(|user| {
                    let level = if *user == USERS[0] {
                        100
                    } else {
                        *dice.pick(&[0, 0, 50, 50, 100])
                    };
                    ((*user).to_owned(), json!(level))
                })
                .collect();
            ("m.room.power_levels", "", json!({"users": users}))
        }
        4 => {
            let rule = *dice.pick(&["public", "invite"]);
            ("m.room.join_rules", "", json!({"join_rule": rule}))
        }
        5 | 6 => (
            "m.room.member",
            sender,
            json!({"membership": "join", "displayname": dice.roll(1000)}),
        ),
        7 => ("m.room.member", sender, json!({"membership": "leave"})),
        8 => (
            "m.room.member",
            target,
            json!({"membership": *dice.pick(&["leave", "ban"])}),
        ),
        _ => ("m.room.member", target, json!({"membership": "invite"})),
    };
    graph.try_send(branch, sender, event_type, state_key, content);
}

fn pairs(state: &StateMap) -> Vec<(hearth_storage::KeyNid, EventNid)> {
    let mut pairs: Vec<_> = state.iter().collect();
    pairs.sort();
    pairs
}

fn states_of(branches: &[Branch]) -> Vec<StateMap> {
    branches.iter().map(|branch| branch.state.clone()).collect()
}

/// So that a property is not found to hold for want of conflicts.
fn conflicts(states: &[StateMap]) -> usize {
    Split::of(states).differing.len()
}

#[test]
fn what_ruma_is_given_leads_to_what_everything_leads_to() {
    let mut conflicted = 0;
    for version in [
        RoomVersionId::V2,
        RoomVersionId::V6,
        RoomVersionId::V11,
        RoomVersionId::V12,
    ] {
        for seed in 0..SEEDS {
            let (graph, branches) = random_forks(version.clone(), seed);
            let states = states_of(&branches);
            conflicted += conflicts(&states);
            assert_eq!(
                pairs(&graph.resolve_states(&states)),
                pairs(&graph.resolve_whole(&states)),
                "version {version}, seed {seed}\n{graph:?}"
            );
        }
    }
    assert!(conflicted > 4 * SEEDS as usize);
}

#[test]
fn the_order_of_states_and_repetitions_make_no_difference() {
    for version in [RoomVersionId::V1, RoomVersionId::V10, RoomVersionId::V12] {
        for seed in 0..SEEDS / 3 {
            let (graph, branches) = random_forks(version.clone(), seed);
            let mut states = states_of(&branches);
            let resolved = pairs(&graph.resolve_states(&states));
            states.reverse();
            states.push(states[0].clone());
            assert_eq!(
                pairs(&graph.resolve_states(&states)),
                resolved,
                "version {version}, seed {seed}"
            );
        }
    }
}

#[test]
fn the_auth_difference_is_what_its_definition_says() {
    let mut beyond_conflicted = 0;
    for seed in 0..SEEDS {
        let (graph, branches) = random_forks(RoomVersionId::V11, seed);
        let states = states_of(&branches);
        let conflicted: HashSet<EventNid> = Split::of(&states).conflicted().into_iter().collect();
        let mut expected = graph.difference_by_sets(&states);
        beyond_conflicted += expected.difference(&conflicted).count();
        expected.extend(&conflicted);
        assert_eq!(graph.difference(&states), expected, "seed {seed}");
    }
    assert!(beyond_conflicted > SEEDS as usize / 4, "{beyond_conflicted}");
}

#[test]
fn the_conflicted_subgraph_is_what_its_definition_says() {
    let mut beyond_conflicted = 0;
    for seed in 0..SEEDS {
        let (graph, branches) = random_forks(RoomVersionId::V12, seed);
        let conflicted = Split::of(&states_of(&branches)).conflicted();
        let found: HashSet<EventNid> = graph.subgraph(&conflicted).into_iter().collect();
        beyond_conflicted += found.len() - conflicted.len();
        let conflicted = conflicted.into_iter().collect();
        assert_eq!(found, graph.subgraph_by_paths(&conflicted), "seed {seed}");
    }
    assert!(beyond_conflicted > SEEDS as usize / 10, "{beyond_conflicted}");
}
