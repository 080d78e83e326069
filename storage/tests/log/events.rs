//! Paging through a room, by its own order and never beyond what a reader has seen of the log.

use std::sync::Arc;

use hearth_storage::{
    EventNid, Position,
    events::{self, Place, StoredEvent},
    log::{Change, Fact, Receipt, StateChange},
    state_changes,
};

use super::{
    follower::as_read,
    ground::{Dice, Ground, Room},
};

fn places(stored: &[StoredEvent]) -> Vec<(i64, i32)> {
    stored
        .iter()
        .map(|stored| (stored.place().sequence, stored.place().sub))
        .collect()
}

/// Events fetched later: before the live event of `sequence`, in topological order.
async fn backfill(ground: &Ground, room: &Room, sequence: i64, subs: std::ops::RangeInclusive<i32>) {
    let mut connection = ground.db.acquire().await.expect("the database answers");
    for sub in subs {
        let event = room.event(ground, sequence).await;
        sqlx::query(
            "INSERT INTO events (event_nid, room_nid, sequence, sub, type_nid, sender_nid, origin_server_ts, status,
                                 event_id, pdu)
             VALUES ($1, $2, $3, $4, 1, 1, 0, 0, $5, '{}')",
        )
        .bind(i64::from(event.event_nid))
        .bind(i64::from(room.nid))
        .bind(sequence)
        .bind(sub)
        .bind([b"\0", event.event_id.as_bytes()].concat())
        .execute(&mut *connection)
        .await
        .expect("it can be planted");
    }
    // Without a place of their own: soft-failed, rejected, an outlier.
    for status in 1..=3 {
        let event = room.event(ground, sequence).await;
        sqlx::query(
            "INSERT INTO events (event_nid, room_nid, type_nid, sender_nid, origin_server_ts, status, event_id, pdu)
             VALUES ($1, $2, 1, 1, 0, $3, $4, '{}')",
        )
        .bind(i64::from(event.event_nid))
        .bind(i64::from(room.nid))
        .bind(status)
        .bind([b"\0", event.event_id.as_bytes()].concat())
        .execute(&mut *connection)
        .await
        .expect("it can be planted");
    }
}

#[tokio::test]
async fn pages_are_in_the_order_of_sequence_and_sub_both_ways() {
    let ground = Ground::new().await;
    let (mut room, mut other) = (ground.room().await, ground.room().await);
    for _ in 0..9 {
        for room in [&mut room, &mut other] {
            let change = room.send(&ground).await;
            ground.committer.commit(change).await.expect("it is committed");
        }
    }
    backfill(&ground, &room, 6, -5..=-1).await;
    backfill(&ground, &room, 1, -2..=-1).await;
    let mut order = vec![(1, -2), (1, -1)];
    order.extend((1..=5).map(|sequence| (sequence, 0)));
    order.extend((-5..=-1).map(|sub| (6, sub)));
    order.extend((6..=10).map(|sequence| (sequence, 0)));
    let (everything, backwards) = (
        Position(i64::MAX),
        order.iter().rev().copied().collect::<Vec<_>>(),
    );
    let place = |(sequence, sub)| Place { sequence, sub };

    let mut connection = ground.db.acquire().await.expect("the database answers");
    for limit in [1, 2, 3, 7, 100] {
        let (mut seen, mut before) = (Vec::new(), Place::END);
        loop {
            let page =
                events::page_backwards(&mut connection, room.nid, before, Place::START, everything, limit)
                    .await;
            let page = page.expect("it can be read");
            assert!(page.len() <= usize::try_from(limit).expect("small"));
            let Some(last) = page.last() else { break };
            before = last.place();
            seen.extend(places(&page));
        }
        assert_eq!(seen, backwards, "by {limit}");
        let (mut seen, mut after) = (Vec::new(), Place::START);
        loop {
            let page =
                events::page_forwards(&mut connection, room.nid, after, Place::END, everything, limit).await;
            let page = page.expect("it can be read");
            let Some(last) = page.last() else { break };
            after = last.place();
            seen.extend(places(&page));
        }
        assert_eq!(seen, order, "by {limit}");
    }

    // Neither bound is part of what is between.
    let (from, to) = (place((5, 0)), place((6, 0)));
    let page = events::page_forwards(&mut connection, room.nid, from, to, everything, 100)
        .await
        .expect("it can be read");
    assert_eq!(places(&page), (-5..=-1).map(|sub| (6, sub)).collect::<Vec<_>>());
    let page = events::page_backwards(&mut connection, room.nid, to, from, everything, 2)
        .await
        .expect("it can be read");
    assert_eq!(places(&page), [(6, -1), (6, -2)]);
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn nothing_beyond_the_readers_position_is_seen() {
    let ground = Ground::new().await;
    let mut rooms = [ground.room().await, ground.room().await, ground.room().await];
    let dice = Dice::new(3);
    let mut log = vec![rooms[0].nid, rooms[1].nid, rooms[2].nid];
    for _ in 0..40 {
        let room = &mut rooms[usize::try_from(dice.roll(3)).expect("small")];
        let change = room.send(&ground).await;
        ground.committer.commit(change).await.expect("it is committed");
        log.push(room.nid);
    }
    let mut connection = ground.db.acquire().await.expect("the database answers");
    for upto in 0..=log.len() {
        let limit = 1 + dice.roll(8);
        let take = usize::try_from(limit).expect("small");
        let upto_position = Position(i64::try_from(upto).expect("small"));
        let since = Position(dice.roll(upto_position.0 + 1));
        for room in &rooms {
            let live: Vec<Position> = (1..)
                .zip(&log)
                .filter(|(_, nid)| **nid == room.nid)
                .map(|(at, _)| Position(at))
                .collect();
            let seen: Vec<Position> = live
                .iter()
                .copied()
                .filter(|position| *position <= upto_position)
                .collect();
            let (start, end) = (Place::START, Place::END);
            let page =
                events::page_backwards(&mut connection, room.nid, end, start, upto_position, limit).await;
            let found: Vec<Position> = page
                .expect("it can be read")
                .iter()
                .map(|stored| stored.position)
                .collect();
            assert_eq!(found, seen.iter().rev().take(take).copied().collect::<Vec<_>>());
            let page =
                events::page_forwards(&mut connection, room.nid, start, end, upto_position, limit).await;
            let found: Vec<Position> = page
                .expect("it can be read")
                .iter()
                .map(|stored| stored.position)
                .collect();
            assert_eq!(found, seen.iter().take(take).copied().collect::<Vec<_>>());
            let place = events::place_at(&mut connection, room.nid, upto_position)
                .await
                .expect("it can be read");
            assert_eq!(
                place,
                Place {
                    sequence: i64::try_from(seen.len()).expect("small"),
                    sub: 0
                }
            );
        }
        // All rooms at once: the newest of each, in its order.
        let asked = rooms.each_ref().map(|room| (room.nid, since, upto_position));
        let newest = events::newest_of_rooms(&mut connection, &asked, limit)
            .await
            .expect("they can be read");
        for room in &rooms {
            let found: Vec<i64> = newest
                .iter()
                .filter(|stored| stored.event.room_nid == room.nid)
                .map(|stored| stored.position.0)
                .collect();
            let mut wanted: Vec<i64> = (1..)
                .zip(&log)
                .filter(|(at, nid)| **nid == room.nid && *at > since.0 && *at <= upto_position.0)
                .map(|(at, _)| at)
                .collect();
            assert_eq!(
                found,
                wanted.split_off(wanted.len().saturating_sub(take)),
                "after {since} up to {upto_position}"
            );
        }
        assert!(newest.is_sorted_by_key(|stored| (stored.event.room_nid, stored.event.sequence)));
    }
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn events_are_found_by_number_and_by_id() {
    let ground = Ground::new().await;
    let mut room = ground.room().await;
    let ids = [
        "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk",
        "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg",
        "$old:a.org",
    ];
    let mut sent = Vec::new();
    for id in ids {
        let mut event = room.event(&ground, room.sequence + 1).await;
        id.clone_into(&mut event.event_id);
        event.key_nid = Some(ground.topic);
        event.pdu = "{\"nul\":\"\\u0000\0\"}".into();
        sent.push(event.clone());
        let change = room.change_of(Fact::Event(Arc::new(event), Vec::new()));
        ground.committer.commit(change).await.expect("it is committed");
    }
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let nids: Vec<EventNid> = sent
        .iter()
        .map(|event| event.event_nid)
        .chain([EventNid::from(i64::MAX)])
        .collect();
    let mut found = events::by_nids(&mut connection, &nids)
        .await
        .expect("they can be read");
    found.sort_by_key(|stored| stored.position);
    let found: Vec<String> = found
        .into_iter()
        .map(|stored| format!("{:?}", stored.into_event()))
        .collect();
    assert_eq!(
        found,
        sent.iter()
            .map(|event| format!("{:?}", as_read(event)))
            .collect::<Vec<_>>()
    );
    for event in &sent {
        let found = events::by_id(&mut connection, &event.event_id)
            .await
            .expect("it can be read")
            .expect("it is there");
        assert_eq!(
            (found.event.event_nid, found.redacted_by),
            (event.event_nid, None)
        );
    }
    assert!(
        events::by_id(&mut connection, "$no-such")
            .await
            .expect("it can be read")
            .is_none()
    );
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn rooms_of_which_the_log_says_something_are_found() {
    let ground = Ground::new().await;
    let mut rooms = Vec::new();
    for _ in 0..5 {
        rooms.push(ground.room().await);
    }
    let nids: Vec<_> = rooms.iter().map(|room| room.nid).collect();
    let send = rooms[0].send(&ground).await;
    let state = Fact::State(
        nids[1],
        vec![StateChange {
            key_nid: ground.topic,
            old: None,
            new: Some(1.into()),
        }],
    );
    let receipt = Fact::Receipt(Receipt {
        room_nid: nids[2],
        user_nid: ground.user,
        receipt_type: "m.read".into(),
        thread: "".into(),
        event_id: "$a".into(),
        ts: 1,
    });
    for change in [send, Change::of(state), Change::of(receipt)] {
        ground.committer.commit(change).await.expect("it is committed");
    }
    let unasked = rooms[4].send(&ground).await;
    ground.committer.commit(unasked).await.expect("it is committed");
    let mut connection = ground.db.acquire().await.expect("the database answers");
    for (since, upto, changed) in [(5, 9, 0..3), (5, 7, 0..2), (6, 9, 1..3), (8, 9, 3..3)] {
        let found =
            state_changes::rooms_that_changed(&mut connection, &nids[..4], Position(since), Position(upto))
                .await;
        let mut found = found.expect("they can be read");
        found.sort();
        assert_eq!(found, nids[changed], "after {since} up to {upto}");
    }
    drop(connection);
    ground.end().await;
}
