//! Events are found by their time: those that have a place, within what a reader may see.

use hearth_storage::{
    Connection, Position, RoomNid,
    event_times::{GapTimes, TimedEvent, Within, first_since, gaps, last_until},
};

use super::ground::{Dice, Ground};

/// An event as it is planted: its place, its position if it is live, its time.
type Planted = (i64, i32, Option<i64>, i64);

async fn plant(connection: &mut Connection, room_nid: i64, number: i64, event: Planted) {
    let (sequence, sub, position, ts) = event;
    sqlx::query(
        "INSERT INTO events (event_nid, room_nid, sequence, sub, position, type_nid, sender_nid, origin_server_ts,
                             status, event_id, pdu)
         VALUES ($1, $2, $3, $4, $5, 1, 1, $6, 0, $7, '{}')",
    )
    .bind(1_000_000 * room_nid + number)
    .bind(room_nid)
    .bind(sequence)
    .bind(sub)
    .bind(position)
    .bind(ts)
    .bind(format!("\0${room_nid}-{number}").into_bytes())
    .execute(connection)
    .await
    .expect("it can be planted");
}

#[tokio::test]
async fn the_nearest_event_is_the_one_that_a_look_at_all_of_them_finds() {
    let ground = Ground::new().await;
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let dice = Dice::new(7);
    let room_nid = 5_000;
    let mut events: Vec<Planted> = Vec::new();
    for sequence in 1..=60 {
        let position = 10_000 + 3 * sequence;
        for sub in -(if sequence % 7 == 0 { 4 } else { 0 })..0 {
            events.push((sequence, sub, None, 10 * sequence + dice.roll(40)));
        }
        events.push((sequence, 0, Some(position), 10 * sequence + dice.roll(40)));
    }
    for (number, event) in (0..).zip(&events) {
        plant(&mut connection, room_nid, number, *event).await;
        plant(
            &mut connection,
            room_nid + 1,
            number,
            (event.0, event.1, event.2.map(|at| at + 1), event.3),
        )
        .await;
    }
    // What has no place is not found.
    sqlx::query(
        "INSERT INTO events (event_nid, room_nid, type_nid, sender_nid, origin_server_ts, status, event_id, pdu)
         SELECT 900000 + n, $1, 1, 1, n, 1 + n % 3, '\\x00'::bytea || convert_to('$out' || n, 'UTF8'), '{}'
         FROM generate_series(0, 700) n",
    )
    .bind(room_nid)
    .execute(&mut *connection)
    .await
    .expect("they can be planted");

    let position = |event: &Planted| event.2.unwrap_or(10_000 + 3 * event.0 - 1);
    let ranges_of = |ranges: &[(i64, i64)]| -> Vec<(Position, Position)> {
        ranges
            .iter()
            .map(|(low, high)| (Position(*low), Position(*high)))
            .collect()
    };
    for ranges in [
        vec![(0, i64::MAX)],
        vec![(0, 10_050), (10_100, 10_120)],
        vec![(10_140, 10_141)],
        vec![],
    ] {
        let seen: Vec<(usize, &Planted)> = events
            .iter()
            .enumerate()
            .filter(|(_, event)| {
                let position = position(event);
                ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&position))
            })
            .collect();
        let found = |found: Option<&(usize, &Planted)>| {
            found.map(|(number, event)| TimedEvent {
                event_id: format!("${room_nid}-{number}"),
                origin_server_ts: event.3,
            })
        };
        let ranges = ranges_of(&ranges);
        let within = Within {
            room_nid: RoomNid::from(room_nid),
            ranges: &ranges,
        };
        for ts in (-1..700).step_by(3) {
            let first = seen
                .iter()
                .filter(|(_, event)| event.3 >= ts)
                .min_by_key(|(_, event)| event.3);
            let last = seen
                .iter()
                .filter(|(_, event)| event.3 <= ts)
                .max_by_key(|(_, event)| event.3);
            let (since, until) = (
                first_since(&mut connection, within, ts)
                    .await
                    .expect("it can be read"),
                last_until(&mut connection, within, ts)
                    .await
                    .expect("it can be read"),
            );
            assert_eq!((since, until), (found(first), found(last)), "{ts} in {ranges:?}");
        }
    }
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn a_gap_is_told_with_the_times_around_it() {
    let ground = Ground::new().await;
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let room_nid = 6_000;
    let events = [
        (1, 0, Some(20_001), 100),
        (2, 0, Some(20_002), 200),
        (3, -2, None, 250),
        (3, -1, None, 260),
        (3, 0, Some(20_003), 300),
    ];
    for (number, event) in (0..).zip(events) {
        plant(&mut connection, room_nid, number, event).await;
    }
    for sequence in [1_i64, 3] {
        sqlx::query("INSERT INTO gaps (room_nid, sequence, missing) VALUES ($1, $2, '{}')")
            .bind(room_nid)
            .bind(sequence)
            .execute(&mut *connection)
            .await
            .expect("it can be planted");
    }
    let told = gaps(&mut connection, RoomNid::from(room_nid), 10)
        .await
        .expect("they can be read");
    let gap = |sequence, position, before, after| GapTimes {
        sequence,
        position: Position(position),
        before,
        after,
    };
    assert_eq!(told, [gap(3, 20_003, Some(200), 250), gap(1, 20_001, None, 100)]);
    let latest = gaps(&mut connection, RoomNid::from(room_nid), 1)
        .await
        .expect("they can be read");
    assert_eq!(latest, told[..1]);
    drop(connection);
    ground.end().await;
}
