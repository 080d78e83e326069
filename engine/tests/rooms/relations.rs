//! How deep the tree of an event's relations is followed.

use hearth_storage::{
    relations::{Children, depth_within},
    rooms,
};

use super::*;

/// Sends an event that refers to another.
async fn refer(server: &Server, user: &Requester, room_id: &RoomId, parent: &EventId) -> OwnedEventId {
    let content = json!({
        "msgtype": "m.text",
        "body": "see there",
        "m.relates_to": { "rel_type": "m.reference", "event_id": parent },
    });
    let (txn_id, content) = (server.engine.entropy.alphanumeric(12), content.to_string());
    let event_type = TimelineEventType::RoomMessage;
    send::send_message(&server.engine, user, room_id, event_type, &txn_id, &content)
        .await
        .unwrap()
}

#[tokio::test]
async fn levels_that_have_too_many_events_are_left_out_of_a_recursion() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    let root = server.say(&alice, &room_id, "root").await;
    for _ in 0..2 {
        let child = refer(&server, &alice, &room_id, &root).await;
        for _ in 0..2 {
            refer(&server, &alice, &room_id, &child).await;
        }
    }
    let mut connection = server.db.acquire().await.unwrap();
    let room = rooms::by_id(&mut connection, room_id.as_str()).await.unwrap();
    let room_nid = room.unwrap().room_nid;
    let wanted = |rel_type| Children {
        room_nid,
        parent_id: root.as_str(),
        rel_type,
        type_nid: None,
        depth: 3,
    };
    for (limit, depth) in [(1, 1), (2, 1), (5, 1), (6, 3), (100, 3)] {
        let within = depth_within(&mut connection, wanted(None), limit).await.unwrap();
        assert_eq!(within, depth, "of six events, at most {limit}");
    }
    let none = depth_within(&mut connection, wanted(Some("m.thread")), 1)
        .await
        .unwrap();
    assert_eq!(none, 3, "there is nothing to leave out");
}
