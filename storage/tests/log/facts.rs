//! What facts leave in their tables, and that the tables say what the tail said.

use std::sync::Arc;

use hearth_storage::{
    EventNid, Position, UserNid, account_data, device_lists,
    log::{
        AccountData, Change, CommitError, DeviceListChange, EntryKind, Fact, Membership, MembershipChange,
        OutgoingToDevice, Receipt, Redaction, StateChange, ToDevice, ToDeviceMessage, ToDeviceRequest,
    },
    memberships, receipts, state_changes, users,
};

use super::{
    follower::{Follower, describe, read},
    ground::{Dice, Ground, Room, settled},
};

fn receipt(room: &Room, user_nid: UserNid, event_id: &str) -> Fact {
    Fact::Receipt(Receipt {
        room_nid: room.nid,
        user_nid,
        receipt_type: "m.read".into(),
        thread: "main".into(),
        event_id: event_id.into(),
        ts: 1,
    })
}

fn data(room: Option<&Room>, user_nid: UserNid, data_type: &str, content: &str) -> Fact {
    Fact::AccountData(AccountData {
        user_nid,
        room_nid: room.map(|room| room.nid),
        data_type: data_type.into(),
        content: content.into(),
    })
}

fn member(
    room: &Room,
    user_nid: UserNid,
    event_nid: EventNid,
    membership: Membership,
    continues: bool,
) -> Fact {
    Fact::Membership(MembershipChange {
        room_nid: room.nid,
        user_nid,
        event_nid,
        membership,
        continues,
        joined_at: None,
        forgotten: false,
        stripped_state: (membership == Membership::Invite).then(|| "[]".into()),
    })
}

/// A member event and what it makes of the membership.
async fn member_change(ground: &Ground, room: &mut Room, membership: Membership, continues: bool) -> Change {
    let event = room.event(ground, room.sequence + 1).await;
    let fact = member(room, ground.user, event.event_nid, membership, continues);
    let mut change = room.change_of(Fact::Event(Arc::new(event), Vec::new()));
    change.facts.push(fact);
    change
}

async fn stored_membership(ground: &Ground) -> memberships::StoredMembership {
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let mut stored = memberships::of_user(&mut connection, ground.user)
        .await
        .expect("they can be read");
    stored.pop().expect("there is one")
}

#[tokio::test]
async fn a_fact_that_replaces_another_moves_to_its_new_position() {
    let ground = Ground::new().await;
    let room = ground.room().await;
    for (round, event_id) in ["$one", "$two", "$three"].into_iter().enumerate() {
        for fact in [
            receipt(&room, ground.user, event_id),
            data(None, ground.user, "m.direct", event_id),
        ] {
            ground
                .committer
                .commit(Change::of(fact))
                .await
                .expect("it is committed");
        }
        ground
            .committer
            .commit(Change::of(Fact::Account(ground.user)))
            .await
            .expect("it is committed");
        let last = 1 + 3 * (i64::try_from(round).expect("small") + 1);
        let entries = read(&ground.db, Position(1), Position(last)).await;
        let positions: Vec<i64> = entries.iter().map(|entry| entry.position.0).collect();
        assert_eq!(positions, [last - 2, last - 1, last], "only at the new place");
    }
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let all = (Position(0), Position(100));
    let found = receipts::of_rooms(&mut connection, &[room.nid], all.0, all.1)
        .await
        .expect("they can be read");
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].0, found[0].1.event_id.as_ref()),
        (Position(8), "$three")
    );
    let found = account_data::of_user(&mut connection, ground.user, all.0, all.1)
        .await
        .expect("it can be read");
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0, found[0].1.content.as_ref()), (Position(9), "$three"));
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn of_facts_with_one_key_in_one_batch_the_last_is_kept() {
    let ground = Ground::new().await;
    let room = ground.room().await;
    let mut follower = Follower::new(&ground.db, &ground.tail, (1, Position(1)));
    let held = ground.hold().await;
    let mut outcomes = Vec::new();
    for number in 0..20 {
        let value = format!("$event{number}");
        for fact in [
            receipt(&room, ground.user, &value),
            data(Some(&room), ground.user, "m.tag\0", &value),
            data(None, ground.user, "m.tag\0", &value),
            Fact::Account(ground.user),
        ] {
            outcomes.push(ground.queue(Change::of(fact)).await);
        }
    }
    let before = held.release().await.position;
    for outcome in outcomes {
        settled(outcome).await.expect("it is committed");
    }
    let last = Position(before.0 + 80);
    follower.until(last).await;
    assert_eq!(follower.entries.len(), 81, "the tail carries each");
    let kept = read(&ground.db, before, last).await;
    assert_eq!(
        describe(&kept),
        follower.seen_entries()[77..],
        "the tables keep the last four"
    );

    let mut connection = ground.db.acquire().await.expect("the database answers");
    for place in [None, Some(room.nid)] {
        let found = account_data::find(&mut connection, ground.user, place, "m.tag\0")
            .await
            .expect("it can be read");
        assert_eq!(found.as_deref(), Some("$event19"));
    }
    let found = receipts::find(&mut connection, room.nid, ground.user, "m.read", "main")
        .await
        .expect("it can be read");
    assert_eq!(found.expect("it is there").event_id.as_ref(), "$event19");
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn a_membership_shares_the_position_of_its_event() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let change = member_change(&ground, &mut room, Membership::Join, false).await;
    assert_eq!(
        ground
            .committer
            .commit(change)
            .await
            .expect("it is committed")
            .position,
        Position(2)
    );
    let stored = stored_membership(&ground).await;
    assert_eq!(
        (stored.position, stored.membership.joined_at),
        (Position(2), Some(Position(2)))
    );
    assert_eq!(read(&ground.db, Position(1), Position(2)).await.len(), 2);

    // Forgetting has no event: it takes a position of its own.
    let event_nid = stored.membership.event_nid;
    let forgotten = Fact::Membership(MembershipChange {
        membership: Membership::Leave,
        forgotten: true,
        ..stored.membership
    });
    ground
        .committer
        .commit(Change::of(forgotten))
        .await
        .expect("it is committed");
    let stored = stored_membership(&ground).await;
    assert_eq!(
        (stored.position, stored.membership.forgotten),
        (Position(3), true)
    );
    assert_eq!(
        (stored.membership.event_nid, stored.membership.joined_at),
        (event_nid, None)
    );
    ground.end().await;
}

#[tokio::test]
async fn joined_at_is_where_the_unbroken_time_in_the_room_began() {
    use Membership::{Ban, Invite, Join, Knock, Leave};
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    // Each with the position that it has, and the joined_at that is to be.
    let story = [
        (Invite, false, None),
        (Join, false, Some(3)),
        (Join, true, Some(3)),
        (Join, true, Some(3)),
        (Leave, false, None),
        (Knock, false, None),
        (Join, false, Some(8)),
        (Join, true, Some(8)),
        (Ban, false, None),
        (Leave, false, None),
        (Join, false, Some(12)),
    ];
    for (place, (membership, continues, joined_at)) in story.into_iter().enumerate() {
        let change = member_change(&ground, &mut room, membership, continues).await;
        let position = ground
            .committer
            .commit(change)
            .await
            .expect("it is committed")
            .position;
        assert_eq!(position.0, i64::try_from(place).expect("small") + 2);
        let stored = stored_membership(&ground).await;
        assert_eq!(stored.membership.membership, membership);
        assert_eq!(
            stored.membership.joined_at,
            joined_at.map(Position),
            "after {membership:?} at {position}"
        );
        assert_eq!(
            stored.membership.continues, continues,
            "after {membership:?} at {position}"
        );
        assert_eq!(stored.membership.stripped_state.is_some(), membership == Invite);
    }

    // All of it in one batch, to another room, comes to the same.
    let mut again = ground.room().await;
    let mut follower = Follower::new(&ground.db, &ground.tail, ground.head().await);
    let held = ground.hold().await;
    let mut outcomes = Vec::new();
    for (membership, continues, _) in story {
        let change = member_change(&ground, &mut again, membership, continues).await;
        outcomes.push(ground.queue(change).await);
    }
    let before = held.release().await.position;
    for outcome in outcomes {
        settled(outcome).await.expect("it is committed");
    }
    follower.until(Position(before.0 + 11)).await;
    let told: Vec<Option<i64>> = follower
        .entries
        .iter()
        .filter_map(|entry| match &entry.kind {
            EntryKind::Membership(change) => Some(change.joined_at.map(|at| at.0 - before.0 + 1)),
            _ => None,
        })
        .collect();
    assert_eq!(told, story.map(|(_, _, joined_at)| joined_at));
    let stored = ground.membership_in(&again).await;
    assert_eq!(stored.joined_at, Some(Position(before.0 + 11)));

    // A batch that only continues what was committed before it.
    let held = ground.hold().await;
    for _ in 0..2 {
        let change = member_change(&ground, &mut again, Join, true).await;
        drop(ground.queue(change).await);
    }
    held.release().await;
    let change = member_change(&ground, &mut again, Join, true).await;
    ground.committer.commit(change).await.expect("it is committed");
    assert_eq!(
        ground.membership_in(&again).await.joined_at,
        Some(Position(before.0 + 11))
    );
    ground.end().await;
}

impl Ground {
    async fn membership_in(&self, room: &Room) -> MembershipChange {
        let mut connection = self.db.acquire().await.expect("the database answers");
        let stored = memberships::of_user(&mut connection, self.user)
            .await
            .expect("they can be read");
        stored
            .into_iter()
            .map(|stored| stored.membership)
            .find(|m| m.room_nid == room.nid)
            .expect("there is one")
    }
}

#[tokio::test]
async fn a_redaction_is_at_its_event_or_where_it_came_to_count() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let mut follower = Follower::new(&ground.db, &ground.tail, (1, Position(0)));
    let target = room.event(&ground, 2).await;
    let target_nid = target.event_nid;
    let change = room.change_of(Fact::Event(Arc::new(target), Vec::new()));
    ground.committer.commit(change).await.expect("it is committed");

    let redaction = room.event(&ground, 3).await;
    let redaction_nid = redaction.event_nid;
    let mut change = room.change_of(Fact::Event(Arc::new(redaction), Vec::new()));
    change.facts.push(counts(&room, target_nid, redaction_nid));
    assert_eq!(
        ground
            .committer
            .commit(change)
            .await
            .expect("it is committed")
            .position,
        Position(3)
    );

    // A redaction that came before its event, as federation may bring them, counts once the event is there.
    let late = room.event(&ground, 4).await;
    let late_nid = late.event_nid;
    let mut change = room.change_of(Fact::Event(Arc::new(late), Vec::new()));
    change.facts.push(counts(&room, late_nid, redaction_nid));
    ground.committer.commit(change).await.expect("it is committed");
    // And one that counts no more, since it was redacted before.
    ground
        .committer
        .commit(Change::of(counts(&room, target_nid, redaction_nid)))
        .await
        .expect("it is committed");

    follower.until(Position(6)).await;
    assert_eq!(
        describe(&read(&ground.db, Position(1), Position(6)).await),
        follower.seen_entries()[1..6]
    );
    let at_late = read(&ground.db, Position(4), Position(5)).await;
    assert_eq!(at_late.len(), 1, "a follower that lacks only this finds it");

    let mut connection = ground.db.acquire().await.expect("the database answers");
    let stored = hearth_storage::events::by_nids(&mut connection, &[target_nid, late_nid])
        .await
        .expect("they can be read");
    assert!(
        stored
            .iter()
            .all(|stored| stored.redacted_by == Some(redaction_nid))
    );
    let unpruned = hearth_storage::events::unpruned(&mut connection, None, 10)
        .await
        .expect("they can be read");
    assert_eq!(unpruned.len(), 2);
    hearth_storage::events::prune(&mut connection, target_nid, "{}")
        .await
        .expect("it can be pruned");
    let unpruned = hearth_storage::events::unpruned(&mut connection, None, 10)
        .await
        .expect("they can be read");
    assert_eq!(unpruned, [late_nid]);
    let pruned = hearth_storage::events::by_nids(&mut connection, &[target_nid])
        .await
        .expect("it can be read");
    assert_eq!(pruned[0].event.pdu.as_ref(), "{}");
    drop(connection);
    ground.end().await;
}

fn counts(room: &Room, event_nid: EventNid, redaction_nid: EventNid) -> Fact {
    Fact::Redaction(Redaction {
        room_nid: room.nid,
        event_nid,
        redaction_nid,
    })
}

#[tokio::test]
async fn the_tables_say_what_the_tail_said() {
    let ground = Ground::new().await;
    let dice = Dice::new(20_261_124);
    let mut follower = Follower::new(&ground.db, &ground.tail, (1, Position(0)));
    let (mut rooms, mut people) = (Vec::new(), Vec::new());
    for number in 0..4 {
        rooms.push(ground.room().await);
        let mut connection = ground.db.acquire().await.expect("the database answers");
        let user_id = format!("@user{number}:example.org");
        people.push(
            users::intern(&mut connection, &user_id)
                .await
                .expect("a user is interned"),
        );
    }
    let mut outcomes = Vec::new();
    for turn in 0..300 {
        let room = &mut rooms[usize::try_from(dice.roll(4)).expect("small")];
        let change = random_change(&ground, &dice, room, &people, turn).await;
        outcomes.push(ground.queue(change).await);
        if dice.roll(10) == 0 {
            for outcome in outcomes.drain(..) {
                settled(outcome).await.expect("it is committed");
            }
        }
    }
    for outcome in outcomes {
        settled(outcome).await.expect("it is committed");
    }
    let (_, position) = ground.head().await;
    follower.until(position).await;
    assert_eq!(follower.gaps, 0, "all of it came by the tail");
    assert_eq!(
        describe(&read(&ground.db, Position(0), position).await),
        follower.seen_entries()
    );
    for _ in 0..20 {
        let (a, b) = (Position(dice.roll(position.0)), Position(dice.roll(position.0)));
        let (from, to) = (a.min(b), a.max(b));
        let carried: Vec<_> = follower
            .entries
            .iter()
            .filter(|e| e.position > from && e.position <= to)
            .cloned()
            .collect();
        assert_eq!(
            describe(&read(&ground.db, from, to).await),
            describe(&carried),
            "from {from} to {to}"
        );
    }

    // The same through the changes of state alone.
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let nids: Vec<_> = rooms.iter().map(|room| room.nid).collect();
    let history = state_changes::of_keys(&mut connection, &nids, &[ground.topic], position).await;
    let history = history.expect("it can be read");
    assert!(history.is_sorted_by_key(|(_, position, _)| *position));
    let all = nids
        .iter()
        .map(|nid| (*nid, Position(0), position))
        .collect::<Vec<_>>();
    let latest = state_changes::between(&mut connection, &all)
        .await
        .expect("they can be read");
    for nid in nids {
        let last = history
            .iter()
            .rev()
            .find(|(of, ..)| *of == nid)
            .map(|(_, _, change)| *change);
        let found = latest
            .iter()
            .find(|(of, change)| *of == nid && change.key_nid == ground.topic);
        assert_eq!(found.map(|(_, change)| *change), last);
    }
    drop(connection);
    ground.end().await;
}

/// A change in which nothing replaces anything: each key is used once.
async fn random_change(
    ground: &Ground,
    dice: &Dice,
    room: &mut Room,
    people: &[UserNid],
    turn: i64,
) -> Change {
    let user = people[usize::try_from(dice.roll(4)).expect("small")];
    let unique = format!("$turn{turn}");
    match dice.roll(8) {
        0 => Change::of(Fact::Receipt(Receipt {
            room_nid: room.nid,
            user_nid: user,
            receipt_type: "m.read".into(),
            thread: unique.as_str().into(),
            event_id: unique.as_str().into(),
            ts: turn,
        })),
        1 => Change::of(data(Some(room), user, &unique, "{}")),
        2 => Change::of(data(None, user, &unique, "{\"nul\":\"\0\"}")),
        3 => {
            let changes = (1..=1 + dice.roll(3)).map(|key| StateChange {
                key_nid: (1000 + key).into(),
                old: None,
                new: Some(turn.into()),
            });
            Change::of(Fact::State(room.nid, changes.collect()))
        }
        4 => {
            // A user of whom nobody has heard, so that no membership is replaced.
            let mut connection = ground.db.acquire().await.expect("the database answers");
            let newcomer = users::intern(&mut connection, &format!("@{unique}:example.org"))
                .await
                .expect("interned");
            let event = room.event(ground, room.sequence + 1).await;
            let fact = member(room, newcomer, event.event_nid, Membership::Invite, false);
            let mut change = room.change_of(Fact::Event(Arc::new(event), Vec::new()));
            change.facts.extend([fact, Fact::Account(newcomer)]);
            change
        }
        5 => {
            let mut event = room.event(ground, room.sequence + 1).await;
            event.key_nid = Some(ground.topic);
            let (old, new) = ((turn % 2 == 0).then(|| turn.into()), Some(event.event_nid));
            event.replaces = old;
            let change = StateChange {
                key_nid: ground.topic,
                old,
                new,
            };
            room.change_of(Fact::Event(Arc::new(event), vec![change]))
        }
        _ => room.send(ground).await,
    }
}

fn list_change(ground: &Ground, device_id: &str) -> Fact {
    Fact::DeviceList(DeviceListChange {
        user_nid: ground.user,
        device_id: device_id.into(),
        only_for: None,
        pending: Vec::new(),
    })
}

#[tokio::test]
async fn a_change_of_a_device_names_the_one_before_it_and_takes_the_note_away() {
    let ground = Ground::new().await;
    let mut connection = ground.db.acquire().await.expect("the database answers");
    device_lists::announce(&mut connection, ground.user, "C", None, 0)
        .await
        .expect("it is noted");
    let noted = device_lists::pending(&mut connection, Some(ground.user), 10)
        .await
        .expect("it can be read");
    assert_eq!(noted.len(), 1);
    // One of cross-signing keys is none of a device.
    for device_id in ["A", "B", "", "A"] {
        let fact = list_change(&ground, device_id);
        ground
            .committer
            .commit(Change::of(fact))
            .await
            .expect("it is committed");
    }
    let facts = ["A", "B"].map(|device_id| list_change(&ground, device_id));
    let change = Change {
        facts: noted.into_iter().map(Fact::DeviceList).chain(facts).collect(),
        ..Change::default()
    };
    ground.committer.commit(change).await.expect("it is committed");
    let left = device_lists::pending(&mut connection, None, 10)
        .await
        .expect("it can be read");
    assert_eq!(left, []);
    let of: Vec<(UserNid, Arc<str>)> = ["A", "B", "C", ""]
        .map(|device_id| (ground.user, device_id.into()))
        .to_vec();
    let mut last = device_lists::last_changes(&mut connection, &of)
        .await
        .expect("they can be read");
    last.sort_by_key(|change| change.position);
    let last: Vec<(&str, i64, Option<i64>)> = last
        .iter()
        .map(|change| {
            let previous = change.previous.map(|position| position.0);
            (&*change.device_id, change.position.0, previous)
        })
        .collect();
    let first = last[0].1;
    assert_eq!(
        last,
        [
            ("", first, None),
            ("C", first + 2, Some(first + 1)),
            ("A", first + 3, Some(first + 2)),
            ("B", first + 4, Some(first + 3)),
        ]
    );
    let version = device_lists::version(&mut connection, ground.user)
        .await
        .expect("it can be read");
    assert_eq!(version, Position(first + 4));
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn what_was_sent_to_a_device_that_is_gone_goes_nowhere_and_a_request_counts_once() {
    let ground = Ground::new().await;
    let message = ToDeviceMessage {
        user_nid: ground.user,
        device_nid: 77.into(),
        sender: "@a:b".into(),
        event_type: "m.x\0".into(),
        content: "{}".into(),
    };
    let outgoing = OutgoingToDevice {
        destination: "b".into(),
        content: "{\"\\u0000\":1}".into(),
    };
    let sent = ToDevice {
        messages: vec![message],
        outgoing: vec![outgoing.clone()],
    };
    let change = Change {
        to_device_requests: vec![ToDeviceRequest {
            request_key: [7; 16],
            created_at: 0,
        }],
        ..Change::of(Fact::ToDevice(Arc::new(sent)))
    };
    let at = ground
        .committer
        .commit(change.clone())
        .await
        .expect("it is committed");
    let again = ground.committer.commit(change).await;
    assert!(
        matches!(&again, Err(CommitError::Constraint(name)) if name == "to_device_requests_pkey"),
        "{again:?}"
    );
    let entries = read(&ground.db, Position(at.position.0 - 1), at.position).await;
    let [entry] = &entries[..] else {
        panic!("{entries:?}")
    };
    let EntryKind::ToDevice(told) = &entry.kind else {
        panic!("{entry:?}")
    };
    assert_eq!(
        (told.messages.as_slice(), told.outgoing.as_slice()),
        (&[][..], &[outgoing][..])
    );
    ground.end().await;
}
