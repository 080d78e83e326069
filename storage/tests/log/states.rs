//! States as deltas and wholes: what is packed comes back, through whatever chain.

use std::collections::BTreeMap;

use hearth_storage::{
    EventNid, KeyNid, StateNid, StorageError,
    log::{Change, Fact, NewState},
    states::{self, LoadedState},
};

use super::ground::{Dice, Ground};

type Map = BTreeMap<KeyNid, EventNid>;

/// States as they are made, one from another.
struct Maker<'a> {
    ground: &'a Ground,
    dice: Dice,
    made: Vec<(NewState, Map)>,
}

impl<'a> Maker<'a> {
    fn new(ground: &'a Ground) -> Self {
        Self {
            ground,
            dice: Dice::new(5),
            made: Vec::new(),
        }
    }

    async fn next_nid(&self) -> StateNid {
        self.ground.numbers.states(1).await.expect("numbers are given")[0]
    }

    async fn first(&mut self, map: Map) -> usize {
        let state = states::pack(self.next_nid().await, None, &[], || map.clone()).expect("it packs");
        self.made.push((state, map));
        self.made.len() - 1
    }

    /// The state after that one by `delta`.
    async fn after(&mut self, previous: usize, delta: &[(KeyNid, Option<EventNid>)]) -> usize {
        let (before, mut map) = self.made[previous].clone();
        for (key, event) in delta {
            match event {
                Some(event) => map.insert(*key, *event),
                None => map.remove(key),
            };
        }
        let previous = Some((before.state_nid, before.depth));
        let state = states::pack(self.next_nid().await, previous, delta, || map.clone()).expect("it packs");
        assert_eq!(state.previous_nid, Some(before.state_nid));
        self.made.push((state, map));
        self.made.len() - 1
    }

    /// A few keys set, some anew, and now and then some removed.
    fn random_delta(&self, previous: usize) -> Vec<(KeyNid, Option<EventNid>)> {
        let mut delta = BTreeMap::new();
        for _ in 0..=self.dice.roll(4) {
            delta.insert(
                KeyNid::from(1 + self.dice.roll(300)),
                Some(EventNid::from(1 + self.dice.roll(i64::MAX - 1))),
            );
        }
        if self.dice.roll(3) == 0
            && let Some(key) = self.made[previous]
                .1
                .keys()
                .nth(usize::try_from(self.dice.roll(20)).expect("small"))
        {
            delta.insert(*key, None);
        }
        delta.into_iter().collect()
    }

    async fn store(&self) {
        let states = self.made.iter().map(|(state, _)| state.clone()).collect();
        let change = Change {
            states,
            ..Change::of(Fact::Account(self.ground.user))
        };
        self.ground
            .committer
            .commit(change)
            .await
            .expect("they are committed");
    }

    async fn load(&self, which: &[usize]) -> Vec<LoadedState> {
        let nids: Vec<StateNid> = which.iter().map(|at| self.made[*at].0.state_nid).collect();
        let mut connection = self.ground.db.acquire().await.expect("the database answers");
        states::load(&mut connection, &nids)
            .await
            .expect("they can be loaded")
    }

    fn assert_loaded(&self, loaded: &[LoadedState], which: &[usize]) {
        assert_eq!(loaded.len(), which.len());
        for at in which {
            let (state, map) = &self.made[*at];
            let found = loaded
                .iter()
                .find(|loaded| loaded.state_nid == state.state_nid)
                .expect("it is loaded");
            assert_eq!((found.depth, &found.map), (state.depth, map), "state {at}");
        }
    }
}

#[tokio::test]
async fn each_state_of_a_long_chain_comes_back() {
    let ground = Ground::new().await;
    let mut maker = Maker::new(&ground);
    let mut last = maker.first(Map::new()).await;
    for _ in 0..200 {
        let delta = maker.random_delta(last);
        last = maker.after(last, &delta).await;
    }
    let depths: Vec<i16> = maker.made.iter().map(|(state, _)| state.depth).collect();
    let expected: Vec<i16> = (0..201).map(|place| place % 64).collect();
    assert_eq!(depths, expected, "whole every so often");
    maker.store().await;
    let all: Vec<usize> = (0..=last).collect();
    maker.assert_loaded(&maker.load(&all).await, &all);
    for at in [0, 1, 63, 64, 65, 127, 128, 200] {
        maker.assert_loaded(&maker.load(&[at]).await, &[at]);
    }
    let (first, again) = (maker.load(&[5, 5, 70]).await, maker.load(&[5, 70]).await);
    assert_eq!(first.len(), again.len(), "asked for twice, loaded once");
    ground.end().await;
}

#[tokio::test]
async fn forked_states_share_what_is_before_the_fork() {
    let ground = Ground::new().await;
    let mut maker = Maker::new(&ground);
    let mut trunk = maker
        .first(Map::from([(1.into(), 1.into()), (2.into(), 2.into())]))
        .await;
    for _ in 0..40 {
        let delta = maker.random_delta(trunk);
        trunk = maker.after(trunk, &delta).await;
    }
    let mut ends = Vec::new();
    for _ in 0..3 {
        let mut branch = trunk;
        for _ in 0..40 {
            let delta = maker.random_delta(branch);
            branch = maker.after(branch, &delta).await;
        }
        ends.push(branch);
    }
    // A merge changes many keys at once, and may undo everything.
    let undo: Vec<_> = maker.made[ends[2]].1.keys().map(|key| (*key, None)).collect();
    ends.push(maker.after(ends[2], &undo).await);
    assert!(maker.made[ends[3]].1.is_empty());
    maker.store().await;
    ends.push(trunk);
    maker.assert_loaded(&maker.load(&ends).await, &ends);
    ground.end().await;
}

#[tokio::test]
async fn a_large_state_is_small_on_disk() {
    const MEMBERS: i64 = 20_000;
    let ground = Ground::new().await;
    let mut maker = Maker::new(&ground);
    // Members as they come: keys nearly in order, events with others between them.
    let mut event = 1_000_000;
    let map: Map = (0..MEMBERS)
        .map(|member| {
            event += 1 + maker.dice.roll(40);
            (
                KeyNid::from(500_000 + member + maker.dice.roll(3)),
                EventNid::from(event),
            )
        })
        .collect();
    let whole = maker.first(map).await;
    let delta = maker
        .after(
            whole,
            &[(KeyNid::from(500_007), Some(EventNid::from(event + 10)))],
        )
        .await;
    let bytes = |at: usize| maker.made[at].0.body.len();
    assert!(bytes(whole) < 20_000 * 2, "{} bytes", bytes(whole));
    assert!(bytes(delta) < 10, "{} bytes", bytes(delta));
    maker.store().await;
    maker.assert_loaded(&maker.load(&[whole, delta]).await, &[whole, delta]);
    ground.end().await;
}

#[tokio::test]
async fn a_state_without_its_past_is_damaged_and_one_that_is_not_there_is_passed_over() {
    let ground = Ground::new().await;
    let mut maker = Maker::new(&ground);
    let whole = maker.first(Map::from([(1.into(), 1.into())])).await;
    let lost = maker.after(whole, &[(2.into(), Some(2.into()))]).await;
    let orphan = maker.after(lost, &[(3.into(), Some(3.into()))]).await;
    let mut garbage = maker.made[whole].0.clone();
    garbage.state_nid = maker.next_nid().await;
    garbage.body = vec![1, 2, 3];
    let garbage_nid = garbage.state_nid;
    maker.made.push((garbage, Map::new()));
    let unsaved = maker.made.remove(lost).0.state_nid;
    let orphan_nid = maker.made[orphan - 1].0.state_nid;
    maker.store().await;

    let mut connection = ground.db.acquire().await.expect("the database answers");
    assert!(
        states::load(&mut connection, &[unsaved])
            .await
            .expect("it is not there")
            .is_empty()
    );
    assert!(
        states::load(&mut connection, &[])
            .await
            .expect("nothing is asked for")
            .is_empty()
    );
    for damaged in [orphan_nid, garbage_nid] {
        let error = states::load(&mut connection, &[damaged])
            .await
            .expect_err("it makes no sense");
        assert!(matches!(error, StorageError::Damaged(_)), "{error:?}");
    }
    drop(connection);
    ground.end().await;
}
