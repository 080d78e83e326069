//! One user, with time given by hand.

use super::*;

const TIMES: Times = Times {
    idle_ms: 300_000,
    grace_ms: 30_000,
};
/// When the tests begin.
const T: i64 = 1_000_000;

fn phone() -> DeviceNid {
    DeviceNid::from(1)
}

fn laptop() -> DeviceNid {
    DeviceNid::from(2)
}

fn state(local: &mut Local, now: i64) -> State {
    local.settle(now);
    local.state(now, TIMES)
}

fn last_active(local: &mut Local, now: i64) -> Option<i64> {
    local.settle(now);
    local.shown(now, TIMES).last_active_at
}

#[test]
fn who_connects_is_online_then_idle_and_offline_a_while_after_the_last_connection() {
    let mut alice = Local::default();
    assert_eq!(state(&mut alice, T), State::Offline);
    assert_eq!(last_active(&mut alice, T), None);
    alice.connect(phone(), State::Online, T);
    assert_eq!(state(&mut alice, T), State::Online);
    assert_eq!(alice.due(T, TIMES), Some(T + 300_000));
    assert_eq!(state(&mut alice, T + 299_999), State::Online);
    assert_eq!(state(&mut alice, T + 300_000), State::Unavailable);
    assert_eq!(alice.due(T + 300_000, TIMES), None, "nothing comes by itself");
    alice.disconnect(phone(), T + 400_000, TIMES);
    assert_eq!(alice.due(T + 400_000, TIMES), Some(T + 430_000));
    assert_eq!(state(&mut alice, T + 429_999), State::Unavailable);
    assert_eq!(state(&mut alice, T + 430_000), State::Offline);
    assert_eq!(
        last_active(&mut alice, T + 430_000),
        Some(T + 400_000),
        "they were seen until they left"
    );
    assert!(alice.is_gone());
}

#[test]
fn polling_again_and_again_is_no_activity_and_no_absence() {
    let mut alice = Local::default();
    for round in 0..20 {
        let now = T + round * 29_000;
        alice.connect(phone(), State::Online, now);
        let expected = match round * 29_000 < 300_000 {
            true => State::Online,
            false => State::Unavailable,
        };
        assert_eq!(state(&mut alice, now), expected, "round {round}");
        alice.disconnect(phone(), now + 28_000, TIMES);
    }
    assert_eq!(last_active(&mut alice, T + 20 * 29_000), Some(T));
}

#[test]
fn activity_ends_idling_and_what_was_said_of_it() {
    let mut alice = Local::default();
    alice.connect(phone(), State::Online, T);
    alice.connect(laptop(), State::Unavailable, T);
    assert_eq!(state(&mut alice, T + 300_000), State::Unavailable);
    alice.act(phone(), T + 300_000);
    assert_eq!(state(&mut alice, T + 300_000), State::Online);
    alice.set(phone(), State::Unavailable, None, T + 310_000, TIMES);
    assert_eq!(
        state(&mut alice, T + 310_000),
        State::Online,
        "the laptop is online since something was done"
    );
    alice.set(laptop(), State::Unavailable, None, T + 310_000, TIMES);
    assert_eq!(state(&mut alice, T + 310_000), State::Unavailable);
    alice.act(laptop(), T + 320_000);
    assert_eq!(state(&mut alice, T + 320_000), State::Online);
}

#[test]
fn the_most_present_device_counts() {
    let mut alice = Local::default();
    alice.connect(phone(), State::Unavailable, T);
    assert_eq!(state(&mut alice, T), State::Unavailable);
    alice.connect(laptop(), State::Online, T);
    assert_eq!(state(&mut alice, T), State::Online);
    alice.disconnect(laptop(), T + 1, TIMES);
    assert_eq!(state(&mut alice, T + 30_000), State::Online);
    assert_eq!(state(&mut alice, T + 30_001), State::Unavailable);
}

#[test]
fn what_a_request_said_stands_while_connections_say_nothing_new() {
    let mut alice = Local::default();
    let poll = |alice: &mut Local, said, now| {
        alice.connect(phone(), said, now);
        alice.disconnect(phone(), now + 1, TIMES);
    };
    poll(&mut alice, State::Online, T);
    alice.set(phone(), State::Offline, Some("away".into()), T + 5, TIMES);
    poll(&mut alice, State::Online, T + 10);
    assert_eq!(state(&mut alice, T + 12), State::Offline);
    poll(&mut alice, State::Unavailable, T + 20);
    assert_eq!(state(&mut alice, T + 22), State::Unavailable);
    poll(&mut alice, State::Online, T + 30);
    assert_eq!(state(&mut alice, T + 32), State::Online);
    // One who was away for long begins anew.
    alice.set(phone(), State::Offline, Some("away".into()), T + 40, TIMES);
    poll(&mut alice, State::Online, T + 90_000);
    assert_eq!(state(&mut alice, T + 90_002), State::Online);
    assert_eq!(
        alice.shown(T + 90_002, TIMES).status_msg.as_deref(),
        Some("away"),
        "the message is the user's"
    );
}

#[test]
fn a_request_is_a_moment_of_presence_without_a_connection() {
    let mut alice = Local::default();
    alice.set(phone(), State::Online, None, T, TIMES);
    assert_eq!(state(&mut alice, T + 29_999), State::Online);
    assert_eq!(state(&mut alice, T + 30_000), State::Offline);
    assert_eq!(last_active(&mut alice, T + 30_000), Some(T));
}

#[test]
fn who_does_not_want_to_be_seen_is_not_given_away_by_what_they_do() {
    let mut alice = Local::default();
    alice.connect(phone(), State::Offline, T);
    alice.read(None);
    assert_eq!(state(&mut alice, T), State::Offline);
    alice.act(phone(), T + 60_000);
    alice.disconnect(phone(), T + 90_000, TIMES);
    assert_eq!(
        last_active(&mut alice, T + 200_000),
        Some(T),
        "they connected once, which is never absent"
    );
    // Turning invisible on an open connection is at once.
    alice.connect(phone(), State::Online, T + 300_000);
    assert_eq!(state(&mut alice, T + 300_000), State::Online);
    alice.connect(phone(), State::Offline, T + 310_000);
    alice.disconnect(phone(), T + 310_000, TIMES);
    assert_eq!(state(&mut alice, T + 310_000), State::Offline);
    assert_eq!(last_active(&mut alice, T + 310_000), Some(T + 310_000));
}

#[test]
fn one_who_hides_shows_nothing_to_others() {
    let mut alice = Local::default();
    alice.set(phone(), State::Online, Some("here".into()), T, TIMES);
    alice.is_hidden = true;
    assert_eq!(alice.shown(T, TIMES), Shown::hidden());
    assert_eq!(alice.shown_to_self(T, TIMES).state, State::Online);
}

#[test]
fn what_is_stored_is_read_unless_something_newer_was_said() {
    let mut alice = Local::default();
    alice.connect(phone(), State::Offline, T);
    alice.read(Some((T - 5, Some("old".into()))));
    assert_eq!(alice.shown(T, TIMES).status_msg.as_deref(), Some("old"));
    let mut bob = Local::default();
    bob.set(phone(), State::Online, Some("new".into()), T, TIMES);
    bob.read(Some((T - 5, Some("old".into()))));
    let shown = bob.shown(T, TIMES);
    assert_eq!(
        (shown.status_msg.as_deref(), shown.last_active_at),
        (Some("new"), Some(T))
    );
}

#[test]
fn after_a_restart_one_who_was_there_has_a_while_to_come_back() {
    let mut alice = Local::returning(T - 1_000, None, T, TIMES);
    assert_eq!(state(&mut alice, T), State::Online);
    let mut bob = Local::returning(T - 1_000, None, T, TIMES);
    alice.connect(phone(), State::Online, T + 10_000);
    assert_eq!(state(&mut alice, T + 30_000), State::Online);
    assert_eq!(state(&mut bob, T + 30_000), State::Offline);
    assert_eq!(last_active(&mut bob, T + 30_000), Some(T - 1_000));
    let idle = Local::returning(T - 400_000, None, T, TIMES);
    assert_eq!(idle.state(T, TIMES), State::Unavailable);
}

#[test]
fn where_the_server_ends_whoever_is_connected_was_seen() {
    let mut alice = Local::default();
    assert_eq!(alice.take_to_store_at_end(T, TIMES), None);
    alice.connect(phone(), State::Online, T);
    assert_eq!(
        alice.take_to_store_at_end(T + 100, TIMES),
        Some((T + 100, None, true))
    );
}

#[test]
fn another_server_is_believed_for_half_an_hour() {
    let said = Shown {
        state: State::Online,
        last_active_at: Some(T),
        currently_active: true,
        ..Shown::default()
    };
    let mut remote = Remote::new("there.example".try_into().unwrap(), said.clone(), T);
    assert_eq!(remote.shown(T + BELIEVED_MS - 1), said);
    let lost = remote.shown(T + BELIEVED_MS);
    assert_eq!((lost.state, lost.currently_active), (State::Offline, false));
    assert_eq!(lost.last_active_at, Some(T));
    remote.lose();
    assert_eq!((remote.shown(T).state, remote.due()), (State::Offline, None));
}

#[test]
fn only_what_matters_is_news() {
    let online = Shown {
        state: State::Online,
        last_active_at: Some(T),
        currently_active: true,
        ..Shown::default()
    };
    let with = |change: fn(&mut Shown)| {
        let mut shown = online.clone();
        change(&mut shown);
        shown
    };
    let later = with(|shown| shown.last_active_at = Some(T + 500_000));
    assert!(!online.is_outdated_by(&later), "they are active anyway");
    let inactive = with(|shown| shown.currently_active = false);
    assert!(online.is_outdated_by(&inactive));
    let seldom = Shown {
        last_active_at: Some(T + 59_999),
        ..inactive.clone()
    };
    assert!(!inactive.is_outdated_by(&seldom));
    let since = Shown {
        last_active_at: Some(T + 60_000),
        ..inactive.clone()
    };
    assert!(inactive.is_outdated_by(&since));
    assert!(online.is_outdated_by(&with(|shown| shown.status_msg = Some("x".into()))));
}
