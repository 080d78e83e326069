//! A server that asks for more than anyone can answer slows only itself.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use hearth_engine::{Engine, remote::RemoteError};
use hearth_tests::{Server, Two, text, timeline_has, until};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, api::federation::event::get_room_state::v1 as state};

/// Questions that are open at a time.
const AT_ONCE: usize = 400;

/// Asks for the state of a room, over and over, until told to stop.
struct Flood {
    from: Arc<Engine>,
    to: OwnedServerName,
    room: OwnedRoomId,
    event: OwnedEventId,
    is_over: AtomicBool,
    answered: AtomicUsize,
    refused: AtomicUsize,
}

impl Flood {
    async fn run(&self) {
        let asker = || async {
            while !self.is_over.load(Ordering::Relaxed) {
                let request = state::Request::new(self.event.clone(), self.room.clone());
                match self.from.remote.state(&self.to, request).await {
                    Ok(_) => self.answered.fetch_add(1, Ordering::Relaxed),
                    Err(RemoteError::Refused {
                        status: 429, errcode, ..
                    }) if errcode == "M_LIMIT_EXCEEDED" => self.refused.fetch_add(1, Ordering::Relaxed),
                    Err(error) => panic!("neither an answer nor told to wait: {error}"),
                };
            }
        };
        join_all((0..AT_ONCE).map(|_| asker())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_one_server_holds_up_no_other() {
    let two = Two::start().await;
    let (alice, bob) = (&two.alice, &two.bob);
    let room = two.room().await;
    let flooding = Server::start_federated(&two.authority).await;
    let fay = flooding.register("fay").await;
    fay.join_via(&room, two.a.name()).await;
    let event = fay.send(&room, "m.room.message", text("soon")).await.event_id();
    alice.sync_until(timeline_has(&room, &event)).await;

    let flood = Arc::new(Flood {
        from: Arc::clone(flooding.engine()),
        to: two.a.name().try_into().expect("a server name"),
        room: room.as_str().try_into().expect("a room ID"),
        event: event.try_into().expect("an event ID"),
        is_over: AtomicBool::new(false),
        answered: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
    });
    let running = Arc::clone(&flood);
    let running = tokio::spawn(async move { running.run().await });
    until("the flood is refused", || async {
        (flood.refused.load(Ordering::Relaxed) > AT_ONCE).then_some(())
    })
    .await;

    for (from, to) in [(bob, alice), (alice, bob)].repeat(20) {
        let said = from.send(&room, "m.room.message", text("hello")).await.event_id();
        to.sync_until(timeline_has(&room, &said)).await;
    }
    assert!(!running.is_finished(), "the flood went on all the while");
    flood.is_over.store(true, Ordering::Relaxed);
    running.await.expect("every question had its answer");
    assert!(
        flood.answered.load(Ordering::Relaxed) > 0,
        "some of it was answered"
    );
}
