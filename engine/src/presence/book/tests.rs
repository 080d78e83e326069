//! A book without rooms or connections: who is told of what, and when.

use hearth_storage::{DeviceNid, RoomNid, UserNid, presence::LastSeen};
use ruma::server_name;

use super::*;

const TIMES: Times = Times {
    idle_ms: 300_000,
    grace_ms: 30_000,
};
/// When the tests begin.
const T: i64 = 1_700_000_000_000;
const LIMIT: usize = 100;

fn user(number: i64) -> UserNid {
    UserNid::from(number)
}

fn room(number: i64) -> RoomNid {
    RoomNid::from(number)
}

/// A user's only device.
fn device(user_nid: UserNid) -> DeviceNid {
    DeviceNid::from(i64::from(user_nid))
}

fn online() -> Shown {
    Shown {
        state: State::Online,
        last_active_at: Some(T),
        currently_active: true,
        ..Shown::default()
    }
}

/// A book, and the rooms of everyone.
struct Fixture {
    book: Book,
    rooms: HashMap<UserNid, Vec<RoomNid>>,
}

impl Fixture {
    fn new(rooms: &[(i64, &[i64])]) -> Self {
        let rooms = rooms.iter().map(|(number, rooms)| {
            let rooms = rooms.iter().map(|number| room(*number)).collect();
            (user(*number), rooms)
        });
        Self {
            book: Book::new(TIMES),
            rooms: rooms.collect(),
        }
    }

    fn connect(&mut self, number: i64, now: i64) {
        let user_nid = user(number);
        self.book
            .listen(user_nid, device(user_nid), Some(State::Online), now);
    }

    fn disconnect(&mut self, number: i64, now: i64) {
        let user_nid = user(number);
        self.book
            .leave(user_nid, device(user_nid), Some(State::Online), now);
    }

    /// What the keeper does.
    fn round(&mut self, now: i64) -> Announced {
        self.book.turn(now);
        for lookup in self.book.lookups() {
            let found = Found {
                rooms: self.rooms.get(&lookup.user_nid).cloned().unwrap_or_default(),
                ..Found::default()
            };
            self.book.place(&lookup, found, now);
        }
        self.book.announce(now)
    }

    fn viewer(&self, number: i64) -> Viewer<impl Fn(RoomNid) -> bool> {
        let rooms = self.rooms.get(&user(number)).cloned().unwrap_or_default();
        let is_in = rooms.clone();
        Viewer {
            user_nid: user(number),
            is_new: false,
            rooms,
            is_in: move |room_nid| is_in.contains(&room_nid),
            came: Vec::new(),
        }
    }

    /// Of whom a user hears, other than of themselves, and up to where.
    fn heard(&self, number: i64, counter: Option<u64>, now: i64) -> (Vec<(UserNid, State)>, u64) {
        let (seen, upto) = self.book.since(&self.viewer(number), counter, LIMIT, now);
        let others = seen.into_iter().filter(|(user_nid, _)| *user_nid != user(number));
        (
            others.map(|(user_nid, shown)| (user_nid, shown.state)).collect(),
            upto,
        )
    }
}

#[test]
fn those_who_share_a_room_and_are_connected_are_told_and_nobody_else() {
    let mut all = Fixture::new(&[(1, &[1, 2]), (2, &[2]), (3, &[3]), (4, &[1])]);
    for number in [2, 3] {
        all.connect(number, T);
    }
    all.round(T);
    let (_, upto) = all.heard(2, None, T);
    all.connect(1, T + 1);
    let announced = all.round(T + 1);
    assert_eq!(
        announced.concerned,
        HashSet::from([user(1), user(2)]),
        "she arrived"
    );
    assert_eq!(all.heard(2, Some(upto), T + 1).0, [(user(1), State::Online)]);
    assert_eq!(all.heard(3, Some(upto), T + 1).0, []);
    let (heard, upto) = all.heard(4, None, T + 1);
    assert_eq!(
        heard,
        [(user(1), State::Online)],
        "who comes later hears of it, too"
    );
    assert_eq!(all.heard(4, Some(upto), T + 1).0, [], "once");
}

#[test]
fn coming_and_going_within_a_moment_is_no_news() {
    let mut all = Fixture::new(&[(1, &[1]), (2, &[1])]);
    all.connect(2, T);
    all.connect(1, T);
    all.round(T);
    let version = all.book.version();
    all.book.change(user(1), T + 1, |local, times| {
        local.set(device(user(1)), State::Unavailable, None, T + 1, times);
    });
    all.book.change(user(1), T + 2, |local, times| {
        local.set(device(user(1)), State::Online, None, T + 2, times);
    });
    let announced = all.round(T + 2);
    assert_eq!((all.book.version(), announced.news.len()), (version, 0));
    assert!(announced.concerned.is_empty());
}

#[test]
fn the_clock_makes_users_idle_and_offline() {
    let mut all = Fixture::new(&[(1, &[1]), (2, &[1])]);
    all.connect(1, T);
    all.connect(2, T);
    all.round(T);
    let (_, upto) = all.heard(2, None, T);
    assert_eq!(all.heard(2, Some(upto), T + 299_999).0, []);
    all.round(T + 300_000);
    let (heard, upto) = all.heard(2, Some(upto), T + 300_000);
    assert_eq!(heard, [(user(1), State::Unavailable)]);
    all.disconnect(1, T + 400_000);
    all.round(T + 429_999);
    assert_eq!(all.heard(2, Some(upto), T + 429_999).0, []);
    all.round(T + 430_000);
    assert_eq!(
        all.heard(2, Some(upto), T + 430_000).0,
        [(user(1), State::Offline)]
    );
    all.round(T + 10_000_000);
    all.book.take_to_store(T + 10_000_000);
    let next = all.book.next_due();
    assert!(next.is_none_or(|due| due > T + 10_000_000), "{next:?} is past");
}

#[test]
fn a_new_client_is_told_who_is_there_and_one_that_was_told_otherwise_who_is_not() {
    let mut all = Fixture::new(&[(1, &[1]), (2, &[1]), (3, &[1])]);
    all.connect(1, T);
    all.connect(2, T);
    all.round(T);
    all.disconnect(2, T);
    all.round(T + 30_000);
    assert_eq!(
        all.heard(3, None, T + 30_000).0,
        [(user(1), State::Online), (user(2), State::Offline)]
    );
    let new = Viewer {
        is_new: true,
        ..all.viewer(3)
    };
    let (seen, _) = all.book.since(&new, None, LIMIT, T + 30_000);
    assert_eq!(
        seen.into_iter().map(|(nid, _)| nid).collect::<Vec<_>>(),
        [user(1)]
    );
}

#[test]
fn more_than_is_told_at_once_is_told_next() {
    let members: Vec<(i64, &[i64])> = (1..=250).map(|number| (number, [1].as_slice())).collect();
    let mut all = Fixture::new(&members);
    for number in 1..=250 {
        all.connect(number, T);
    }
    all.round(T);
    let (mut counter, mut told) = (None, Vec::new());
    loop {
        let (seen, upto) = all.book.since(&all.viewer(1), counter, LIMIT, T);
        if seen.is_empty() {
            break;
        }
        told.extend(seen.into_iter().map(|(user_nid, _)| i64::from(user_nid)));
        counter = Some(upto);
    }
    told.sort_unstable();
    assert_eq!(told, (1..=250).collect::<Vec<i64>>());
}

#[test]
fn who_comes_into_a_room_is_told_of_and_is_told() {
    let mut all = Fixture::new(&[(1, &[1]), (2, &[2])]);
    all.connect(1, T);
    all.connect(2, T);
    all.round(T);
    let (_, upto) = all.heard(1, None, T);
    let (_, upto_of_other) = all.heard(2, None, T);
    all.rooms.insert(user(2), vec![room(1), room(2)]);
    all.book.doubt(user(2), true);
    let announced = all.round(T + 1);
    assert!(announced.concerned.contains(&user(1)));
    assert_eq!(all.heard(1, Some(upto), T + 1).0, [(user(2), State::Online)]);
    let came = Viewer {
        came: vec![room(1)],
        ..all.viewer(2)
    };
    let (seen, _) = all.book.since(&came, Some(upto_of_other), LIMIT, T + 1);
    assert!(seen.iter().any(|(user_nid, _)| *user_nid == user(1)));
}

#[test]
fn who_left_is_not_told_of_what_comes_after() {
    let mut all = Fixture::new(&[(1, &[1]), (2, &[1])]);
    all.connect(1, T);
    all.connect(2, T);
    all.round(T);
    let (_, upto) = all.heard(2, None, T);
    all.rooms.insert(user(2), Vec::new());
    all.book.doubt(user(2), false);
    all.disconnect(1, T);
    let announced = all.round(T + 30_000);
    assert!(!announced.concerned.contains(&user(2)));
    assert_eq!(all.heard(2, Some(upto), T + 30_000).0, []);
}

#[test]
fn what_changed_while_rooms_were_looked_up_is_looked_up_again() {
    let mut all = Fixture::new(&[(1, &[1])]);
    all.connect(1, T);
    let lookups = all.book.lookups();
    all.book.doubt(user(1), true);
    all.book.place(&lookups[0], Found::default(), T);
    assert!(all.book.announce(T).news.is_empty());
    let again = all.book.lookups();
    assert_eq!((again.len(), again[0].user_nid), (1, user(1)));
    assert_eq!(all.round(T).news.len(), 1);
    assert!(all.book.lookups().is_empty() && !all.book.has_work());
}

#[test]
fn users_of_another_server_are_offline_when_it_is_silent_or_lost() {
    let there = server_name!("there.example");
    let mut all = Fixture::new(&[(1, &[1]), (2, &[1]), (3, &[1]), (4, &[])]);
    all.connect(1, T);
    all.book.hear(user(2), there, online(), T);
    all.book
        .hear(user(3), server_name!("elsewhere.example"), online(), T + 60_000);
    all.book.hear(user(4), there, online(), T);
    let announced = all.round(T + 60_000);
    assert_eq!(
        announced.news.len(),
        1,
        "others tell of their own users themselves"
    );
    let (heard, upto) = all.heard(1, None, T + 60_000);
    assert_eq!(heard, [(user(2), State::Online), (user(3), State::Online)]);
    all.book.sweep(T + 120_000);
    assert_eq!(all.book.len(), 3, "nobody here is to know of who shares no room");
    all.book.lose(there, T + 61_000);
    all.round(T + 61_000);
    let (heard, upto) = all.heard(1, Some(upto), T + 61_000);
    assert_eq!(heard, [(user(2), State::Offline)]);
    let silent = T + 60_000 + super::super::person::BELIEVED_MS;
    all.round(silent - 1);
    let upto = all.heard(1, Some(upto), silent - 1).1;
    all.round(silent);
    assert_eq!(all.heard(1, Some(upto), silent).0, [(user(3), State::Offline)]);
    all.book
        .hear(user(3), server_name!("elsewhere.example"), online(), silent + 5);
    all.round(silent + 5);
    let (heard, _) = all.heard(1, Some(upto), silent + 5);
    assert_eq!(heard, [(user(3), State::Online)]);
}

#[test]
fn other_servers_are_told_again_before_they_believe_it_no_longer() {
    let mut all = Fixture::new(&[(1, &[1])]);
    all.connect(1, T);
    assert_eq!(all.round(T).news.len(), 1);
    let mut times = 0;
    // Idle after five minutes, and connected all the time.
    for minute in 6..=120 {
        let now = T + minute * 60_000;
        let version = all.book.version();
        let announced = all.round(now);
        if minute > 6 {
            assert_eq!(all.book.version(), version, "it is no news here");
            times += announced.news.len();
        }
    }
    assert_eq!(times, 4);
}

#[test]
fn a_user_is_stored_at_most_once_a_minute_and_when_there_is_something_to_store() {
    let mut all = Fixture::new(&[(1, &[1])]);
    all.connect(1, T);
    all.round(T);
    assert_eq!(all.book.take_to_store(T), []);
    let stored = all.book.take_to_store(T + 5_000);
    let first = LastSeen {
        user_nid: user(1),
        last_active_at: T,
        status_msg: None,
        is_present: true,
    };
    assert_eq!(stored, [first]);
    for second in 6..60 {
        let now = T + second * 1_000;
        all.book
            .change(user(1), now, |local, _| local.act(device(user(1)), now));
        all.round(now);
        assert_eq!(all.book.take_to_store(now), [], "after {second} seconds");
    }
    let stored = all.book.take_to_store(T + 70_000);
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].last_active_at, T + 59_000);
    assert_eq!(all.book.take_to_store(T + 200_000), []);
    // What could not be written is written later.
    all.book.not_stored(&stored, T + 200_000);
    assert_eq!(all.book.take_to_store(T + 205_000).len(), 1);
}

#[test]
fn those_who_were_there_have_a_while_to_come_back() {
    let mut all = Fixture::new(&[(1, &[1]), (2, &[1]), (3, &[1])]);
    for number in [1, 2] {
        all.book.expect_back(
            LastSeen {
                user_nid: user(number),
                last_active_at: T - 1_000,
                status_msg: None,
                is_present: true,
            },
            T,
        );
    }
    all.connect(3, T);
    all.round(T);
    let (heard, upto) = all.heard(3, None, T);
    assert_eq!(heard, [(user(1), State::Online), (user(2), State::Online)]);
    all.connect(2, T + 10_000);
    all.round(T + 30_000);
    assert_eq!(
        all.heard(3, Some(upto), T + 30_000).0,
        [(user(1), State::Offline)]
    );
    let shown = all.book.shown(user(1), false, T + 30_000).unwrap();
    assert_eq!(shown.last_active_at, Some(T - 1_000));
}

#[test]
fn those_who_are_offline_are_forgotten_if_they_are_many_and_older_tokens_are_told_all() {
    let there = server_name!("there.example");
    let many = i64::try_from(MOST_QUIET).unwrap() + 10;
    let mut all = Fixture::new(&[(1, &[1]), (2, &[1])]);
    all.connect(1, T);
    all.connect(2, T);
    all.round(T);
    let (_, before) = all.heard(1, None, T);
    for number in 0..many {
        all.rooms.insert(user(1_000 + number), vec![room(1)]);
        all.book.hear(user(1_000 + number), there, online(), T);
    }
    all.round(T);
    all.book.lose(there, T);
    all.round(T);
    assert_eq!(all.book.len() as i64, many + 2);
    all.book.sweep(T);
    assert_eq!(all.book.len(), MOST_QUIET / 2 + 2);
    let (heard, _) = all.heard(1, Some(before), T);
    assert_eq!(heard[0], (user(2), State::Online), "it is all told again");
    let indexed = all.book.by_room[&room(1)].len();
    assert_eq!(
        (indexed, all.book.changes.len()),
        (MOST_QUIET / 2 + 2, MOST_QUIET / 2 + 2)
    );
}

#[test]
fn who_is_heard_of_before_it_is_known_that_they_share_a_room_is_told_of_then() {
    let mut all = Fixture::new(&[(1, &[1]), (2, &[])]);
    all.connect(1, T);
    all.book.hear(user(2), server_name!("there.example"), online(), T);
    all.round(T);
    let (heard, upto) = all.heard(1, None, T);
    assert_eq!(heard, []);
    assert_eq!(all.book.remotes_outside(room(1)), [user(2)]);
    all.rooms.insert(user(2), vec![room(1)]);
    all.book.doubt(user(2), true);
    let announced = all.round(T + 1);
    assert!(announced.concerned.contains(&user(1)));
    assert_eq!(all.heard(1, Some(upto), T + 1).0, [(user(2), State::Online)]);
    assert_eq!(all.book.remotes_outside(room(1)), []);
}

#[test]
fn ones_own_devices_hear_what_one_says_and_not_that_one_connects() {
    let mut all = Fixture::new(&[(1, &[1]), (2, &[1])]);
    all.connect(1, T);
    all.round(T);
    let own = |all: &Fixture, counter| all.book.since(&all.viewer(1), counter, LIMIT, T + 5).0.len();
    let upto = all.book.version();
    assert_eq!(own(&all, None), 1, "a new client is told how one is");
    all.disconnect(1, T);
    all.round(T + 30_000);
    all.connect(1, T + 40_000);
    let announced = all.round(T + 40_000);
    assert!(announced.concerned.is_empty() && own(&all, Some(upto)) == 0);
    all.book.change(user(1), T + 50_000, |local, times| {
        local.set(device(user(1)), State::Unavailable, None, T + 50_000, times);
    });
    let announced = all.round(T + 50_000);
    assert_eq!(announced.concerned, HashSet::from([user(1)]));
    assert_eq!(own(&all, Some(upto)), 1);
}

#[test]
fn who_hides_or_comes_unseen_is_not_given_away_by_it() {
    let mut all = Fixture::new(&[(1, &[1]), (2, &[1]), (3, &[1])]);
    all.connect(3, T);
    all.round(T);
    let (_, upto) = all.heard(3, None, T);
    // Long after they were last seen: one hides, the other says that nobody is to see them.
    all.book
        .listen(user(1), device(user(1)), Some(State::Online), T + 1_000);
    all.book
        .listen(user(2), device(user(2)), Some(State::Offline), T + 1_000);
    for lookup in all.book.lookups() {
        let found = Found {
            rooms: vec![room(1)],
            is_hidden: lookup.user_nid == user(1),
            stored: Some((T - 900_000, Some("away".into()))),
        };
        all.book.place(&lookup, found, T + 1_000);
    }
    assert!(all.book.announce(T + 1_000).news.is_empty());
    assert_eq!(all.heard(3, Some(upto), T + 1_000).0, []);
    let shown = all.book.shown(user(2), false, T + 1_000).unwrap();
    assert_eq!(
        (shown.state, shown.last_active_at, shown.status_msg.as_deref()),
        (State::Offline, Some(T - 900_000), Some("away"))
    );
    // Who was never seen before was seen by coming.
    all.book
        .listen(user(4), device(user(4)), Some(State::Offline), T + 2_000);
    all.round(T + 2_000);
    let shown = all.book.shown(user(4), false, T + 2_000).unwrap();
    assert_eq!(shown.last_active_at, Some(T + 2_000));
}

#[test]
fn who_is_back_before_they_are_expected_is_there() {
    let mut all = Fixture::new(&[(1, &[1])]);
    all.connect(1, T);
    let last_seen = LastSeen {
        user_nid: user(1),
        last_active_at: T - 1_000,
        status_msg: None,
        is_present: true,
    };
    all.book.expect_back(last_seen, T);
    all.round(T);
    all.round(T + 60_000);
    let shown = all.book.shown(user(1), false, T + 60_000).unwrap();
    assert_eq!(shown.state, State::Online);
}

#[test]
fn that_a_user_is_back_is_stored_at_once() {
    let mut all = Fixture::new(&[(1, &[1])]);
    all.connect(1, T);
    all.round(T);
    assert!(all.book.take_to_store(T + 5_000)[0].is_present);
    all.disconnect(1, T + 10_000);
    all.round(T + 41_000);
    assert!(!all.book.take_to_store(T + 70_000)[0].is_present);
    all.connect(1, T + 71_000);
    all.round(T + 71_000);
    assert!(all.book.take_to_store(T + 76_000)[0].is_present);
}

#[test]
fn a_server_that_is_back_is_told_who_went_meanwhile() {
    let mut all = Fixture::new(&[(1, &[1]), (2, &[1])]);
    all.connect(1, T);
    all.round(T);
    all.disconnect(1, T + 1_000);
    all.round(T + 40_000);
    all.book
        .listen(user(2), device(user(2)), Some(State::Offline), T + 40_000);
    all.round(T + 40_000);
    let there = all.book.there(&[room(1)], LIMIT);
    let told: Vec<_> = there
        .iter()
        .map(|news| (news.user_nid, news.shown.state))
        .collect();
    assert_eq!(
        told,
        [(user(1), State::Offline)],
        "and nothing of who was never told of"
    );
}
