//! Rooms joined with a part of their state: what is kept of them, and that nothing is built on a state that was
//! replaced.

use hearth_storage::{
    EventNid, Position, StateNid,
    events::{self, EventStatus},
    log::{Change, CommitError, Fact, HeadMove, PartialRoom, Restated},
    partial_rooms::{self, Completeness},
};

use super::ground::{Ground, Room, settled};

fn joined_with_a_part(room: &Room, join_nid: EventNid) -> PartialRoom {
    PartialRoom {
        room_nid: room.nid,
        join_nid,
        state_before: StateNid::from(7),
        since: 1_700_000_000_000,
        via: "a.example".to_owned(),
        servers: vec!["a.example".to_owned(), "c.example".to_owned()],
    }
}

/// The state of a room is replaced by another, without an event.
fn replaced(room: &Room, before: i64, after: i64) -> Change {
    Change {
        heads: vec![HeadMove {
            room_nid: room.nid,
            sequence_before: room.sequence,
            state_before: Some(StateNid::from(before)),
            sequence: room.sequence,
            forward_extremities: Vec::new(),
            state_nid: StateNid::from(after),
        }],
        ..Change::default()
    }
}

/// The next event of a room, decided on a state.
async fn decided_on(ground: &Ground, room: &Room, state: i64) -> Change {
    let mut change = room.clone().send(ground).await;
    change.heads[0].state_before = Some(StateNid::from(state));
    change.heads[0].state_nid = StateNid::from(state);
    change
}

async fn completeness(ground: &Ground, room: &Room) -> Option<Completeness> {
    let mut connection = ground.connection().await;
    partial_rooms::of_room(&mut connection, room.nid)
        .await
        .expect("it can be read")
}

#[tokio::test]
async fn a_change_decided_on_a_state_that_was_replaced_is_refused() {
    let ground = Ground::new().await;
    let room = ground.room().await;
    let stale = decided_on(&ground, &room, 1).await;
    ground
        .committer
        .commit(replaced(&room, 1, 2))
        .await
        .expect("it is decided on what is there");
    let refused = ground.committer.commit(stale).await;
    assert!(matches!(refused, Err(CommitError::Conflict)), "{refused:?}");
    let sound = decided_on(&ground, &room, 2).await;
    ground.committer.commit(sound).await.expect("this one follows");
    ground.end().await;
}

#[tokio::test]
async fn so_is_one_that_waits_behind_the_replacement_in_the_same_batch() {
    let ground = Ground::new().await;
    let room = ground.room().await;
    let held = ground.hold().await;
    let replacement = ground.queue(replaced(&room, 1, 2)).await;
    let stale = ground.queue(decided_on(&ground, &room, 1).await).await;
    let sound = ground.queue(decided_on(&ground, &room, 2).await).await;
    held.release().await;
    settled(replacement).await.expect("it came first");
    let refused = settled(stale).await;
    assert!(matches!(refused, Err(CommitError::Conflict)), "{refused:?}");
    settled(sound).await.expect("this one follows");
    ground.end().await;
}

#[tokio::test]
async fn a_room_is_partial_until_it_is_completed_which_happens_once() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    assert_eq!(completeness(&ground, &room).await, None);
    let mut arrival = room.send(&ground).await;
    let stored = joined_with_a_part(&room, EventNid::from(5));
    arrival.partial_rooms.push(stored.clone());
    ground.committer.commit(arrival).await.expect("it arrives");
    assert_eq!(
        completeness(&ground, &room).await,
        Some(Completeness::Partial(stored.clone()))
    );

    let completion = Change {
        facts: vec![Fact::Account(ground.user)],
        completed_rooms: vec![room.nid],
        ..replaced(&room, 1, 2)
    };
    let committed = ground
        .committer
        .commit(completion)
        .await
        .expect("it is completed");
    let whole = Completeness::WholeAt(committed.position);
    assert_eq!(completeness(&ground, &room).await, Some(whole.clone()));
    let mut connection = ground.connection().await;
    let all = partial_rooms::all(&mut connection)
        .await
        .expect("they can be read");
    assert_eq!(all, [(room.nid, whole)]);
    drop(connection);

    let again = Change {
        completed_rooms: vec![room.nid],
        ..replaced(&room, 2, 3)
    };
    let refused = ground.committer.commit(again).await;
    let once = "partial_rooms_completed_once";
    assert!(
        matches!(&refused, Err(CommitError::Constraint(name)) if name == once),
        "{refused:?}"
    );

    let mut arrival = room.send(&ground).await;
    let stored = joined_with_a_part(&room, EventNid::from(9));
    arrival.partial_rooms.push(stored.clone());
    ground.committer.commit(arrival).await.expect("it arrives again");
    assert_eq!(
        completeness(&ground, &room).await,
        Some(Completeness::Partial(stored))
    );
    ground.end().await;
}

#[tokio::test]
async fn events_are_given_the_states_that_they_have_by_the_whole() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let change = room.send(&ground).await;
    let Some(Fact::Event(event, _)) = change.facts.first().cloned() else {
        panic!("it has an event")
    };
    ground.committer.commit(change).await.expect("it is sent");
    let mut connection = ground.connection().await;
    let since = partial_rooms::events_since(&mut connection, room.nid, room.sequence)
        .await
        .expect("they can be read");
    let found: Vec<_> = since
        .iter()
        .map(|event| (event.event_nid, event.sequence))
        .collect();
    assert_eq!(found, [(event.event_nid, Some(room.sequence))]);

    let restated = Restated {
        event_nid: event.event_nid,
        state_after: StateNid::from(11),
        status: EventStatus::Rejected,
    };
    let change = Change {
        restated: vec![restated],
        ..replaced(&room, 1, 11)
    };
    ground.committer.commit(change).await.expect("it is restated");
    let stored = events::by_nids(&mut connection, &[event.event_nid])
        .await
        .expect("it can be read")
        .pop()
        .expect("it is there");
    assert_eq!(stored.status, EventStatus::Rejected);
    assert_eq!(stored.event.state_after, StateNid::from(11));
    assert_eq!(stored.event.sequence, room.sequence, "it keeps its place");
    assert!(stored.position > Position(0));
    drop(connection);
    ground.end().await;
}
