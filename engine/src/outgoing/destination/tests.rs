//! What is sent to a server, in which order, and what is told when it fails.

use hearth_storage::EventNid;

use super::{super::edus::Kind, *};

fn event(position: i64) -> OutgoingEvent {
    OutgoingEvent {
        position: Position(position),
        room_nid: RoomNid::from(1),
        event_nid: EventNid::from(position),
    }
}

fn positions(taken: &Taken) -> Vec<i64> {
    taken.events.iter().map(|event| event.position.0).collect()
}

fn owing(positions: impl IntoIterator<Item = i64>) -> Destination {
    let mut destination = Destination::default();
    positions
        .into_iter()
        .for_each(|position| destination.owe(event(position), 0));
    destination
}

const FAILING: Failing = Failing {
    since: 0,
    failures: 1,
    retry_at: 1_000,
};

fn fail(destination: &mut Destination) {
    let taken = destination.take();
    destination.failed(taken, FAILING, "it is away".to_owned());
}

#[test]
fn events_go_in_order_and_fifty_at_a_time() {
    let mut destination = owing(1..=120);
    destination.owe(event(7), 0);
    for expected in [
        (1..=50).collect::<Vec<i64>>(),
        (51..=100).collect(),
        (101..=120).collect(),
    ] {
        assert_eq!(destination.served(), Some(Position(expected[0] - 1)));
        let taken = destination.take();
        assert_eq!(positions(&taken), expected);
        assert_eq!(
            destination.served(),
            Some(Position(expected[0] - 1)),
            "it has nothing of it yet"
        );
        destination.delivered(&taken, 5);
    }
    assert!(!destination.has_work());
    assert_eq!((destination.served(), destination.row("a", 5, 0)), (None, None));
}

#[test]
fn what_was_not_delivered_comes_again_first() {
    let mut destination = owing(1..=60);
    fail(&mut destination);
    let row = destination.row("a", 0, 1_000).expect("it fails");
    assert_eq!(
        (row.behind_since, row.retry_at, row.failures),
        (Some(Position(0)), Some(1_000), 1)
    );
    destination.owe(event(61), 0);
    let taken = destination.take();
    assert_eq!(positions(&taken), (1..=50).collect::<Vec<i64>>());
    destination.delivered(&taken, 0);
    assert_eq!(positions(&destination.take()), (51..=61).collect::<Vec<i64>>());
}

#[test]
fn more_than_fits_in_memory_is_read_off_the_log() {
    let most = i64::try_from(MOST_QUEUED).expect("it fits");
    let mut destination = owing(11..=most + 11);
    assert_eq!(
        (destination.served(), destination.waiting()),
        (Some(Position(10)), (0, true))
    );
    destination.owe(event(most + 12), 0);
    assert_eq!(
        destination.read_next(Position(5), 10),
        Some(ToRead::Rooms { since: Position(10) })
    );
    // From here on memory goes on where the log is left off.
    destination.owe(event(most + 13), 0);
    destination.read_rooms(vec![RoomNid::from(1), RoomNid::from(2)]);
    let upto = Position(most + 12);
    let rooms = |room: i64| vec![RoomNid::from(room)];
    let read = |room| ToRead::Events {
        rooms: rooms(room),
        since: Position(10),
        upto,
    };
    assert_eq!(destination.read_next(Position(5), 1), Some(read(1)));
    destination.read_events(vec![event(11)], Vec::new());
    assert_eq!(destination.read_next(Position(5), 1), Some(read(2)));
    destination.read_events(vec![event(12)], Vec::new());
    assert_eq!(destination.read_next(Position(5), 1), None);
    let taken = destination.take();
    assert_eq!(positions(&taken), [11, 12, most + 13]);
    assert_eq!(
        destination.served(),
        Some(Position(10)),
        "nothing of the plan is delivered yet"
    );
    destination.delivered(&taken, 0);
    assert_eq!((destination.served(), destination.has_work()), (None, false));
}

#[test]
fn a_plan_that_fails_is_made_anew() {
    let mut destination = Destination::of_stored(owing([]).row_of_behind(10), 0);
    assert!(destination.has_events());
    destination.read_next(Position(20), 1);
    destination.read_rooms(vec![RoomNid::from(1)]);
    destination.read_next(Position(20), 1);
    destination.read_events(vec![event(11)], Vec::new());
    destination.owe(event(21), 0);
    fail(&mut destination);
    assert_eq!(
        (destination.served(), destination.waiting()),
        (Some(Position(10)), (0, true))
    );
    assert_eq!(
        destination.read_next(Position(20), 1),
        Some(ToRead::Rooms { since: Position(10) })
    );
    let Some(plan) = &destination.plan else {
        panic!("there is a plan")
    };
    assert_eq!(
        plan.upto,
        Position(21),
        "what came meanwhile is in the log as well"
    );
}

#[test]
fn a_plan_with_nothing_in_it_ends() {
    let mut destination = Destination::of_stored(owing([]).row_of_behind(10), 0);
    destination.read_next(Position(20), 1);
    destination.read_rooms(Vec::new());
    assert_eq!(destination.read_next(Position(20), 1), None);
    assert_eq!(positions(&destination.take()), Vec::<i64>::new());
    assert_eq!((destination.served(), destination.has_work()), (None, false));
}

#[test]
fn a_queue_that_runs_over_in_flight_goes_on_after_what_is_delivered() {
    let most = i64::try_from(MOST_QUEUED).expect("it fits");
    let mut destination = owing(1..=50);
    let taken = destination.take();
    (51..=most + 51).for_each(|position| destination.owe(event(position), 0));
    assert_eq!(destination.served(), Some(Position(0)));
    destination.delivered(&taken, 0);
    assert_eq!(destination.served(), Some(Position(50)));
}

#[test]
fn a_queue_that_runs_over_beside_a_plan_is_read_off_the_log_after_it() {
    let most = i64::try_from(MOST_QUEUED).expect("it fits");
    let mut destination = Destination::of_stored(owing([]).row_of_behind(10), 0);
    destination.read_next(Position(20), 1);
    destination.read_rooms(Vec::new());
    (21..=most + 21).for_each(|position| destination.owe(event(position), 0));
    let taken = destination.take();
    assert_eq!(positions(&taken), Vec::<i64>::new());
    assert_eq!(
        (destination.served(), destination.has_events()),
        (Some(Position(20)), true)
    );
}

#[test]
fn a_receipt_that_was_not_delivered_is_owed_still() {
    let mut destination = Destination::default();
    let key: ReceiptKey = (RoomNid::from(1), UserNid::from(1), Kind::Read, "".into());
    let receipt = PendingReceipt {
        position: Position(5),
        event_id: "$a".into(),
        ts: 0,
    };
    destination.owe_receipt(key, receipt, 0);
    assert!(destination.has_work() && !destination.has_events());
    fail(&mut destination);
    assert_eq!(destination.served(), Some(Position(4)));
    let taken = destination.take();
    assert_eq!(taken.edus.receipts.len(), 1);
    destination.delivered(&taken, 0);
    assert_eq!(destination.served(), None);
}

#[test]
fn what_nobody_misses_is_not_kept_for_a_server_that_fails() {
    let edu = || EphemeralEdu {
        key: "typing".into(),
        json: serde_json::value::to_raw_value(&1).expect("JSON").into(),
    };
    let mut destination = Destination::default();
    destination.add_ephemeral(edu(), 0);
    assert!(destination.has_work());
    fail(&mut destination);
    assert!(!destination.has_work());
    destination.add_ephemeral(edu(), FAILING.retry_at - 1);
    assert!(!destination.has_work());
    destination.add_ephemeral(edu(), FAILING.retry_at);
    assert!(destination.has_work(), "it is time to try again");
    fail(&mut destination);
    destination.heard_from();
    destination.add_ephemeral(edu(), 0);
    assert!(destination.has_work());
}

#[test]
fn a_slow_server_gets_a_row_so_that_it_holds_up_no_others() {
    let mut destination = owing([5]);
    assert_eq!(destination.row("a", 1_000, 1_000), None);
    let row = destination.row("a", 1_001, 1_000).expect("it is slow");
    assert_eq!((row.behind_since, row.failing_since), (Some(Position(4)), None));
    let taken = destination.take();
    destination.delivered(&taken, 2_000);
    assert_eq!(destination.row("a", 9_000, 1_000), None);
}

#[test]
fn when_a_server_got_an_event_is_remembered() {
    let mut destination = owing(1..=120);
    assert_eq!(destination.has_since(Position(1), 7), None);
    let taken = destination.take();
    assert_eq!(
        destination.has_since(Position(50), 7),
        None,
        "nobody answered yet"
    );
    destination.delivered(&taken, 1_000);
    let taken = destination.take();
    destination.delivered(&taken, 5_000);
    fail(&mut destination);
    assert_eq!(destination.has_since(Position(50), 7), Some(1_000));
    assert_eq!(destination.has_since(Position(51), 7), Some(5_000));
    assert_eq!(destination.has_since(Position(101), 7), None);
    let idle = Destination::default();
    assert_eq!(
        idle.has_since(Position(1), 7),
        Some(7),
        "the run before served it"
    );
    let behind = Destination::of_stored(owing([]).row_of_behind(10), 0);
    assert_eq!(behind.has_since(Position(11), 7), None);
    assert_eq!(behind.has_since(Position(10), 7), Some(7));
}

#[test]
fn no_more_answers_are_remembered_than_have_their_place() {
    let mut destination = Destination::default();
    for position in 1..=1_000 {
        destination.owe(event(position), 0);
        let taken = destination.take();
        destination.delivered(&taken, position * 2_000);
    }
    assert_eq!(destination.answers.len(), MOST_ANSWERS);
    let oldest = destination.answers.front().map(|(_, at)| *at);
    assert_eq!(
        destination.has_since(Position(1), 7),
        oldest,
        "a time by which it had it, for what is forgotten"
    );
}

#[test]
fn where_the_log_lost_its_end_it_is_read_again() {
    let mut destination = owing(1..=10);
    destination.cut_back(Position(5));
    assert_eq!(destination.served(), Some(Position(0)));
    assert_eq!(
        destination.read_next(Position(5), 1),
        Some(ToRead::Rooms { since: Position(0) })
    );
    destination.owe(event(6), 0);
    assert_eq!(
        destination.waiting(),
        (1, true),
        "it is another event than before"
    );
    let mut idle = owing([10]);
    let taken = idle.take();
    idle.delivered(&taken, 0);
    idle.cut_back(Position(5));
    idle.owe(event(6), 0);
    assert!(idle.has_work());
}

impl Destination {
    fn row_of_behind(&self, position: i64) -> Stored {
        let row = Self {
            behind: Some(Position(position)),
            ..Self::default()
        };
        row.row("a", 0, 0).expect("it is behind")
    }
}
