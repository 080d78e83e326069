//! Auth chains as they are read for state resolution, against graphs in memory.

use std::collections::{BTreeMap, BTreeSet};

use hearth_storage::{EventNid, KeyNid, RoomNid, event_auth};

use super::ground::{Dice, Ground};

const LEVELS: i64 = 2;
const OTHER: i64 = 3;

/// Stores events of a room by number, each with its key and the events that authorise it.
async fn store(ground: &Ground, room: i64, graph: &BTreeMap<i64, (i64, Vec<i64>)>) {
    let mut connection = ground.db.acquire().await.expect("the database answers");
    for (event_nid, (key_nid, auth_nids)) in graph {
        sqlx::query(
            "WITH edges AS (INSERT INTO event_auth (event_nid, auth_nids) VALUES ($1, $4))
             INSERT INTO events (event_nid, room_nid, type_nid, key_nid, sender_nid, origin_server_ts, status, event_id, pdu)
             VALUES ($1, $2, 1, $3, 1, 0, $1 % 4, $5, $6)",
        )
        .bind(event_nid)
        .bind(room)
        .bind(key_nid)
        .bind(auth_nids)
        .bind([b"\0$", event_nid.to_string().as_bytes()].concat())
        .bind(format!("pdu {event_nid}").into_bytes())
        .execute(&mut *connection)
        .await
        .expect("an event is stored");
    }
}

/// Events from 1 to `count`, each authorised by some before it. Now and then by a later one too, but for `ordered`.
fn random_graph(seed: i64, count: i64, ordered: bool) -> BTreeMap<i64, (i64, Vec<i64>)> {
    let dice = Dice::new(seed);
    let mut graph = BTreeMap::new();
    for event_nid in 1..=count {
        let before: BTreeSet<i64> = (0..3)
            .map(|_| event_nid - 1 - dice.roll(8))
            .filter(|nid| *nid > 0)
            .collect();
        let mut auth_nids: Vec<i64> = before.into_iter().collect();
        if !ordered && event_nid % 17 == 0 && event_nid + 3 <= count {
            auth_nids.push(event_nid + 3);
        }
        graph.insert(
            event_nid,
            (if dice.roll(3) == 0 { LEVELS } else { OTHER }, auth_nids),
        );
    }
    graph
}

fn numbers(edges: &[event_auth::AuthEdges]) -> BTreeSet<i64> {
    edges.iter().map(|edges| i64::from(edges.event_nid)).collect()
}

/// All that the events of `from` lead to, they included, going nowhere below `floor`.
fn closure(graph: &BTreeMap<i64, (i64, Vec<i64>)>, from: &[i64], floor: i64) -> BTreeSet<i64> {
    let mut reached: BTreeSet<i64> = from.iter().copied().collect();
    let mut stack = from.to_vec();
    while let Some(event_nid) = stack.pop() {
        stack.extend(
            graph[&event_nid]
                .1
                .iter()
                .filter(|nid| **nid >= floor && reached.insert(**nid)),
        );
    }
    reached
}

#[tokio::test]
async fn an_auth_chain_is_read_whole_or_down_to_a_floor_or_as_far_as_is_asked() {
    let ground = Ground::new().await;
    let graph = random_graph(1, 200, false);
    store(&ground, 1, &graph).await;
    let mut connection = ground.db.acquire().await.expect("the database answers");
    for (from, floor) in [
        (vec![200], 1),
        (vec![200, 150], 100),
        (vec![3, 90], 90),
        (vec![17], 18),
    ] {
        let nids: Vec<EventNid> = from.iter().copied().map(EventNid::from).collect();
        let chain = event_auth::chain(&mut connection, &nids, EventNid::from(floor), 1000)
            .await
            .expect("it is read");
        assert_eq!(numbers(&chain), closure(&graph, &from, floor), "{from:?} {floor}");
        for edges in &chain {
            let (key_nid, auth_nids) = &graph[&i64::from(edges.event_nid)];
            assert_eq!(i64::from(edges.key_nid), *key_nid);
            let found: Vec<i64> = edges.auth_nids.iter().copied().map(i64::from).collect();
            assert_eq!(found, *auth_nids);
        }
        let part = event_auth::chain(&mut connection, &nids, EventNid::from(floor), 2)
            .await
            .expect("it is read");
        assert!(part.len() <= nids.len() + 2);
        assert!(numbers(&part).is_superset(&from.iter().copied().collect()));
    }
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn an_event_that_is_authorised_by_a_later_one_is_found_across_the_floor_between() {
    let ground = Ground::new().await;
    let graph = random_graph(2, 60, false);
    store(&ground, 1, &graph).await;
    let elsewhere: BTreeMap<i64, (i64, Vec<i64>)> =
        BTreeMap::from([(1001, (OTHER, vec![1002])), (1002, (OTHER, vec![]))]);
    store(&ground, 2, &elsewhere).await;
    let mut connection = ground.db.acquire().await.expect("the database answers");
    for floor in (1..=60).chain([1002]) {
        let across = graph
            .iter()
            .find(|(nid, (_, auth))| **nid < floor && auth.iter().any(|auth| *auth >= floor));
        let expected = across.map(|(nid, _)| EventNid::from(*nid));
        let found =
            event_auth::reaching_across(&mut connection, RoomNid::from(1), EventNid::from(floor)).await;
        assert_eq!(found.expect("it is read"), expected, "{floor}");
    }
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn lines_of_one_key_are_followed_each_event_once() {
    let ground = Ground::new().await;
    let graph = random_graph(3, 120, true);
    store(&ground, 1, &graph).await;
    let next = |event_nid: i64| {
        graph[&event_nid]
            .1
            .iter()
            .copied()
            .filter(|nid| graph[nid].0 == LEVELS)
            .min()
    };
    let heads: Vec<i64> = graph
        .keys()
        .copied()
        .filter(|nid| graph[nid].0 == LEVELS && nid % 5 == 0)
        .collect();
    let mut expected = BTreeSet::new();
    for head in &heads {
        let mut line = Some(*head);
        while let Some(event_nid) = line {
            line = next(event_nid);
            expected.insert((event_nid, line));
        }
    }
    let nids: Vec<EventNid> = heads.into_iter().map(EventNid::from).collect();
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let found = event_auth::lineage(&mut connection, &nids, KeyNid::from(LEVELS), 1000)
        .await
        .expect("it is read");
    let found: Vec<(i64, Option<i64>)> = found
        .into_iter()
        .map(|(nid, next)| (nid.into(), next.map(i64::from)))
        .collect();
    assert_eq!(found.len(), expected.len());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    drop(connection);
    ground.end().await;
}

#[tokio::test]
async fn an_event_says_whether_it_was_rejected() {
    let ground = Ground::new().await;
    store(&ground, 1, &random_graph(4, 8, true)).await;
    let mut connection = ground.db.acquire().await.expect("the database answers");
    let wanted: Vec<EventNid> = (1..=9).map(EventNid::from).collect();
    let mut events = event_auth::events(&mut connection, &wanted)
        .await
        .expect("they are read");
    events.sort_by_key(|event| event.event_nid);
    let found: Vec<_> = events
        .iter()
        .map(|event| (event.event_id.as_str(), event.is_rejected, &*event.pdu))
        .collect();
    assert_eq!(found.len(), 8);
    assert_eq!(found[1], ("$2", true, "pdu 2"));
    assert_eq!(found[2], ("$3", false, "pdu 3"));
    drop(connection);
    ground.end().await;
}
