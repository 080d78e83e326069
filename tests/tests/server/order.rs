//! One order for everyone, and nothing acknowledged lost: many senders at once, and kills in the midst of them.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use hearth_tests::{Client, HearthProcess, Server, event_ids, public_chat, until, within};
use sqlx::{Connection as _, PgConnection, Row as _};

/// The sequence numbers and event types of a room's events, as stored, in their order.
async fn stored_sequence(database_url: &str, room: &str) -> Vec<i64> {
    let mut connection = PgConnection::connect(database_url)
        .await
        .expect("the database answers");
    let statement = "SELECT e.sequence FROM events e JOIN rooms r USING (room_nid)
        WHERE r.room_id = $1 AND e.sub = 0 AND e.sequence IS NOT NULL ORDER BY e.sequence";
    let rows = sqlx::query(statement)
        .bind(room)
        .fetch_all(&mut connection)
        .await
        .expect("the tables are as they were");
    rows.iter().map(|row| row.get(0)).collect()
}

/// The positions in the log that events have, over all rooms.
async fn stored_positions(database_url: &str) -> Vec<i64> {
    let mut connection = PgConnection::connect(database_url)
        .await
        .expect("the database answers");
    let statement = "SELECT position FROM events WHERE position IS NOT NULL ORDER BY position";
    let rows = sqlx::query(statement)
        .fetch_all(&mut connection)
        .await
        .expect("the tables are as they were");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn messages_of(client: &Client, room: &str) -> Vec<String> {
    let events = client.page_through(room, "f", 100, None).await;
    let messages = events
        .into_iter()
        .filter(|event| event["type"] == "m.room.message");
    event_ids(&messages.collect::<Vec<_>>().into())
}

#[tokio::test]
async fn fifty_clients_that_send_at_once_see_one_order() {
    const CLIENTS: usize = 50;
    const EACH: usize = 4;
    let server = Server::start().await;
    let names: Vec<_> = (0..CLIENTS).map(|number| format!("user{number}")).collect();
    let mut clients = join_all(names.iter().map(|name| server.register(name))).await;
    let room = clients[0].create_room(public_chat()).await.room_id();
    for joined in join_all(clients[1..].iter().map(|client| client.join(&room))).await {
        joined.ok();
    }
    clients.push(clients[0].another_device().await);
    join_all(clients.iter().map(Client::sync)).await;

    let sent = join_all(
        clients[..CLIENTS]
            .iter()
            .map(|client| client.send_texts(&room, EACH)),
    )
    .await
    .concat();
    let last = clients[0].send_text(&room, "the end").await.event_id();

    let timelines = join_all(clients.iter().map(|client| client.timeline_up_to(&room, &last))).await;
    let reference = event_ids(&timelines[0].clone().into());
    for (client, timeline) in clients.iter().zip(&timelines) {
        assert_eq!(
            event_ids(&timeline.clone().into()),
            reference,
            "{} {}",
            client.user_id,
            client.device_id
        );
    }
    assert_eq!(reference.len(), CLIENTS * EACH + 1);
    assert_eq!(
        reference.iter().collect::<HashSet<_>>(),
        sent.iter().chain([&last]).collect(),
        "each once"
    );
    for client in [&clients[0], &clients[7], &clients[CLIENTS]] {
        assert_eq!(
            messages_of(client, &room).await,
            reference,
            "history has the order that sync had"
        );
    }
    for client in &clients[..CLIENTS] {
        let own: Vec<_> = reference
            .iter()
            .filter(|event_id| sent.contains(event_id))
            .collect();
        assert_eq!(own.len(), sent.len(), "{}", client.user_id);
    }

    let sequence = stored_sequence(server.database_url(), &room).await;
    let count = i64::try_from(sequence.len()).expect("it is a small room");
    assert_eq!(
        sequence,
        (1..=count).collect::<Vec<_>>(),
        "the room's sequence is contiguous"
    );
}

#[tokio::test]
async fn what_one_client_sends_in_turn_stays_in_turn() {
    let server = Server::start().await;
    let names: Vec<_> = (0..8).map(|number| format!("user{number}")).collect();
    let clients = join_all(names.iter().map(|name| server.register(name))).await;
    let room = clients[0].create_room(public_chat()).await.room_id();
    for joined in join_all(clients[1..].iter().map(|client| client.join(&room))).await {
        joined.ok();
    }
    let sent = join_all(clients.iter().map(|client| client.send_texts(&room, 25))).await;
    let order: HashMap<_, _> = messages_of(&clients[0], &room)
        .await
        .into_iter()
        .enumerate()
        .map(|(place, event_id)| (event_id, place))
        .collect();
    assert_eq!(order.len(), 8 * 25);
    for of_one in sent {
        let places: Vec<_> = of_one.iter().map(|event_id| order[event_id]).collect();
        assert!(places.is_sorted(), "{places:?}");
    }
}

/// Eight users in two rooms of a real server, who send as fast as they can.
struct Storm {
    hearth: HearthProcess,
    senders: Vec<Arc<Client>>,
    /// Someone in both rooms who only reads, and synced before it all began.
    reader: Client,
    rooms: [String; 2],
    before: Option<String>,
}

impl Storm {
    async fn brew() -> Self {
        let hearth = HearthProcess::start().await;
        let names: Vec<_> = (0..8).map(|number| format!("sender{number}")).collect();
        let senders = join_all(names.iter().map(|name| hearth.register(name))).await;
        let reader = hearth.register("reader").await;
        let rooms = [
            senders[0].create_room(public_chat()).await.room_id(),
            senders[1].create_room(public_chat()).await.room_id(),
        ];
        for client in senders.iter().chain([&reader]) {
            for room in &rooms {
                client.join(room).await.ok();
            }
        }
        reader.sync().await;
        let before = reader.since();
        Self {
            hearth,
            senders: senders.into_iter().map(Arc::new).collect(),
            reader,
            rooms,
            before,
        }
    }

    /// Has everyone send; the blow falls when `enough` events were acknowledged, and the senders stop when there is no
    /// answer any more, or `enough` more were acknowledged: what was acknowledged, of each sender, by room.
    async fn rage(
        &mut self,
        enough: usize,
        blow: impl FnOnce(&mut HearthProcess),
    ) -> Vec<(String, Vec<String>)> {
        let count = Arc::new(AtomicUsize::new(0));
        let mut sending = Vec::new();
        for (number, sender) in self.senders.iter().enumerate() {
            let (room, count) = (self.rooms[number % 2].clone(), Arc::clone(&count));
            let go_on = move || count.fetch_add(1, Ordering::Relaxed) < 2 * enough;
            let sender = Arc::clone(sender);
            sending.push((room.clone(), tokio::spawn(sender.send_until(room, go_on))));
        }
        until("enough was sent", async || {
            (count.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
        blow(&mut self.hearth);
        assert!(
            count.load(Ordering::Relaxed) < 2 * enough,
            "the blow fell while they were sending"
        );
        let mut acknowledged = Vec::new();
        for (room, sending) in sending {
            let sent = within(Duration::from_secs(60), "the sender is done or cut off", sending).await;
            acknowledged.push((room, sent.expect("a sender does not panic")));
        }
        acknowledged
    }

    /// Everything acknowledged is there, once, in one order for everyone, and old tokens go on.
    async fn assert_nothing_lost(&self, acknowledged: &[(String, Vec<String>)]) {
        for room in &self.rooms {
            let history = messages_of(&self.reader, room).await;
            let places: HashMap<_, _> = history
                .iter()
                .enumerate()
                .map(|(place, event_id)| (event_id, place))
                .collect();
            assert_eq!(places.len(), history.len(), "nothing is there twice");
            for (_, sent) in acknowledged.iter().filter(|(sent_to, _)| sent_to == room) {
                assert!(!sent.is_empty(), "everyone had something acknowledged");
                let found: Vec<_> = sent.iter().filter_map(|event_id| places.get(event_id)).collect();
                assert_eq!(
                    found.len(),
                    sent.len(),
                    "of {} acknowledged events {} are there",
                    sent.len(),
                    found.len()
                );
                assert!(found.is_sorted(), "in the order of their sending");
            }
            for member in &self.senders {
                assert_eq!(
                    messages_of(member, room).await,
                    history,
                    "{} sees the same",
                    member.user_id
                );
            }

            let last = self.senders[0].send_text(room, "after all").await.event_id();
            self.reader.set_since(self.before.as_deref());
            let synced = self.reader.timeline_up_to(room, &last).await;
            let synced = event_ids(&synced.into());
            assert_eq!(
                synced,
                [history, vec![last]].concat(),
                "a sync token from before goes on"
            );

            let sequence = stored_sequence(&self.hearth.database_url(), room).await;
            let count = i64::try_from(sequence.len()).expect("it is a small room");
            assert_eq!(
                sequence,
                (1..=count).collect::<Vec<_>>(),
                "the room's sequence is contiguous"
            );
        }
        let positions = stored_positions(&self.hearth.database_url()).await;
        assert_eq!(
            positions.iter().collect::<HashSet<_>>().len(),
            positions.len(),
            "each position once"
        );
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed_alone_or_with_postgresql() {
    let mut storm = Storm::brew().await;
    let mut acknowledged = storm.rage(400, HearthProcess::kill).await;
    storm.hearth.start_again().await;
    storm.assert_nothing_lost(&acknowledged).await;

    // And again, on what the first kill left; now both go, as when the power fails.
    let both = |hearth: &mut HearthProcess| {
        hearth.kill_postgres();
        hearth.kill();
    };
    let more = storm.rage(200, both).await;
    storm.hearth.start_again().await;
    for ((_, sent), (_, more)) in acknowledged.iter_mut().zip(more) {
        sent.extend(more);
    }
    for (room, sent) in &acknowledged {
        let history: HashSet<_> = messages_of(&storm.reader, room).await.into_iter().collect();
        assert!(sent.iter().all(|event_id| history.contains(event_id)));
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_postgresql_is_killed() {
    let mut storm = Storm::brew().await;
    let acknowledged = storm.rage(400, |hearth| hearth.kill_postgres()).await;
    // The server brings it up again by itself.
    storm.hearth.healthy().await;
    storm.assert_nothing_lost(&acknowledged).await;
}

#[tokio::test]
async fn a_request_cut_off_by_a_kill_is_finished_by_its_repetition() {
    let mut storm = Storm::brew().await;
    let room = storm.rooms[0].clone();
    let sender = Arc::clone(&storm.senders[0]);
    let acknowledged = storm.rage(100, HearthProcess::kill).await;
    storm.hearth.start_again().await;
    // The transaction ids count up from 0, and the last request had no answer: it may or may not have been done.
    let done = acknowledged[0].1.len();
    let content = || hearth_tests::text(&format!("txn{done}"));
    let first = sender
        .send_as(&format!("txn{done}"), &room, "m.room.message", content())
        .await
        .event_id();
    assert_eq!(
        sender
            .send_as(&format!("txn{done}"), &room, "m.room.message", content())
            .await
            .event_id(),
        first
    );
    let last_done = format!("txn{}", done - 1);
    let repeated = sender
        .send_as(&last_done, &room, "m.room.message", content())
        .await
        .event_id();
    assert_eq!(
        acknowledged[0].1.last(),
        Some(&repeated),
        "what was acknowledged is answered as before"
    );
    let own = messages_of(&sender, &room).await;
    assert_eq!(own.iter().filter(|event_id| **event_id == first).count(), 1);
    let bodies = sender.page_through(&room, "f", 100, None).await;
    let own = bodies
        .iter()
        .filter(|event| event["sender"] == sender.user_id && event["type"] == "m.room.message");
    assert_eq!(own.count(), done + 1, "each message once");
}

#[tokio::test]
async fn a_second_server_on_the_database_takes_the_log_over_and_nothing_is_doubled() {
    let first = Server::start().await;
    let alice = first.register("alice").await;
    let room = alice.create_room(public_chat()).await.room_id();
    let mut sent = alice.send_texts(&room, 3).await;
    let second = first.start_another_on_its_database().await;
    let elsewhere = second.anonymous().with_token(alice.token.as_deref());
    for number in 0..10 {
        // Whoever may not write says so; the same request at the other then finds what was done, or does it.
        let txn_id = format!("both{number}");
        let content = hearth_tests::text(&txn_id);
        let at_first = alice
            .send_as(&txn_id, &room, "m.room.message", content.clone())
            .await;
        let at_second = elsewhere
            .send_as(&txn_id, &room, "m.room.message", content)
            .await
            .event_id();
        assert!(
            at_first.status == 200 || at_first.status == 503,
            "{} {}",
            at_first.status,
            at_first.body
        );
        if at_first.status == 200 {
            assert_eq!(at_first.event_id(), at_second);
        }
        sent.push(at_second);
    }
    assert_eq!(messages_of(&elsewhere, &room).await, sent);
    let health = second.anonymous().get_whole("/health").await.ok();
    assert_eq!(health["log"], true);
    let sequence = stored_sequence(first.database_url(), &room).await;
    let count = i64::try_from(sequence.len()).expect("it is a small room");
    assert_eq!(
        sequence,
        (1..=count).collect::<Vec<_>>(),
        "the room's sequence is contiguous"
    );
}
