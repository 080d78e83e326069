//! The directory of published rooms, and what is told of rooms from outside.

use hearth_tests::{Answer, Authority, Client, Server, encoded, is_joined, public_chat, until};
use homeserver::config::Audience;
use ruma::{ServerName, UInt, api::federation::directory::get_public_rooms::v1 as get_public_rooms};
use serde_json::{Value, json};

/// The IDs of the rooms on a page.
fn ids(page: &Value) -> Vec<String> {
    let chunk = page["chunk"].as_array().expect("a list");
    let id = |room: &Value| room["room_id"].as_str().expect("a room ID").to_owned();
    chunk.iter().map(id).collect()
}

async fn list(client: &Client, query: &str) -> Value {
    client.get(&format!("/v3/publicRooms?{query}")).await.ok()
}

async fn search(client: &Client, filter: Value) -> Vec<String> {
    ids(&client
        .post("/v3/publicRooms", json!({ "filter": filter }))
        .await
        .ok())
}

async fn publish(client: &Client, room: &str, visibility: &str) -> Answer {
    let path = format!("/v3/directory/list/room/{room}");
    client.put(&path, json!({ "visibility": visibility })).await
}

/// A room in the directory.
async fn published(client: &Client, mut parameters: Value) -> String {
    parameters["visibility"] = json!("public");
    client.create_room(parameters).await.room_id()
}

#[tokio::test]
async fn a_published_room_is_described_to_anyone() {
    let server = Server::start().await;
    let (alice, nobody) = (server.register("alice").await, server.anonymous());
    let parameters = json!({
        "name": "CHEESE", "topic": "Tasty tasty cheese", "room_alias_name": "cheese", "room_version": "11",
        "creation_content": { "type": "m.space" },
        "initial_state": [
            { "type": "m.room.avatar", "content": { "url": "mxc://example.org/cheese" } },
            { "type": "m.room.guest_access", "content": { "guest_access": "can_join" } },
            { "type": "m.room.history_visibility", "content": { "history_visibility": "world_readable" } },
            { "type": "m.room.join_rules", "content": { "join_rule": "knock" } },
        ],
    });
    let room = published(&alice, parameters).await;
    let private = alice.create_room(public_chat()).await.room_id();
    let expected = json!({
        "room_id": room, "name": "CHEESE", "topic": "Tasty tasty cheese", "avatar_url": "mxc://example.org/cheese",
        "canonical_alias": format!("#cheese:{}", server.name()), "num_joined_members": 1, "join_rule": "knock",
        "world_readable": true, "guest_can_join": true, "room_type": "m.space",
    });
    let page = list(nobody, "").await;
    assert_eq!(
        page,
        json!({ "chunk": [expected], "total_room_count_estimate": 1 })
    );

    let visibility = async |room: &str| {
        let path = format!("/v3/directory/list/room/{room}");
        nobody.get(&path).await.ok()["visibility"].clone()
    };
    assert_eq!(visibility(&room).await, "public");
    assert_eq!(visibility(&private).await, "private");
    nobody
        .get("/v3/directory/list/room/!nowhere:example.org")
        .await
        .refused(404, "M_NOT_FOUND");

    publish(&alice, &private, "public").await.ok();
    publish(&alice, &room, "private").await.ok();
    assert_eq!(visibility(&private).await, "public");
    assert_eq!(ids(&list(nobody, "").await), [private.as_str()]);
    // What is not said is `public`.
    let path = format!("/v3/directory/list/room/{room}");
    alice.put(&path, json!({})).await.ok();
    assert_eq!(ids(&list(nobody, "").await).len(), 2);
}

#[tokio::test]
async fn rooms_come_by_their_members_page_by_page_both_ways() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let others = [
        server.register("bob").await,
        server.register("carol").await,
        server.register("dave").await,
    ];
    let mut rooms = Vec::new();
    for members in [0, 3, 1, 2, 0] {
        let room = published(&alice, json!({})).await;
        for other in &others[..members] {
            other.join(&room).await.ok();
        }
        rooms.push((room, members));
    }
    rooms.sort_by(|(a, more), (b, fewer)| fewer.cmp(more).then_with(|| a.cmp(b)));
    let rooms: Vec<String> = rooms.into_iter().map(|(room, _)| room).collect();
    // The joins are counted by the time the list is next read; that it was read before them would be seen here.
    publish(&alice, &rooms[0], "public").await.ok();

    let first = list(&alice, "limit=2").await;
    assert_eq!(ids(&first), rooms[..2]);
    assert_eq!(first["total_room_count_estimate"], 5);
    assert!(first["prev_batch"].is_null());
    let since = |token: &Value| format!("limit=2&since={}", encoded(token.as_str().expect("a token")));
    let second = list(&alice, &since(&first["next_batch"])).await;
    assert_eq!(ids(&second), rooms[2..4]);
    let third = list(&alice, &since(&second["next_batch"])).await;
    assert_eq!(ids(&third), rooms[4..]);
    assert!(third["next_batch"].is_null(), "{third}");

    let back = list(&alice, &since(&third["prev_batch"])).await;
    assert_eq!(ids(&back), rooms[2..4]);
    let back = list(&alice, &since(&back["prev_batch"])).await;
    assert_eq!(ids(&back), rooms[..2]);
    assert!(back["prev_batch"].is_null(), "{back}");
    let on = list(&alice, &since(&back["next_batch"])).await;
    assert_eq!(ids(&on), rooms[2..4]);

    // The rooms need not be in memory.
    server.engine().drop_idle();
    assert_eq!(ids(&list(&alice, "limit=0").await), rooms);
    let counts: Vec<i64> = list(&alice, "").await["chunk"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|room| room["num_joined_members"].as_i64())
        .collect();
    assert_eq!(counts, [4, 3, 2, 1, 1]);
}

#[tokio::test]
async fn rooms_are_found_by_words_and_by_type() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let by_name = published(&alice, json!({ "name": "The Great HÅLL" })).await;
    let by_topic = published(&alice, json!({ "topic": "of the great hall's cellar" })).await;
    let by_alias = published(&alice, json!({ "room_alias_name": "hall" })).await;
    let space = published(&alice, json!({ "creation_content": { "type": "m.space" } })).await;

    let term = |term: &str| json!({ "generic_search_term": term });
    assert_eq!(search(&alice, term("håll")).await, [by_name.as_str()]);
    let mut great = search(&alice, term(" GREAT ")).await;
    great.sort();
    let mut expected = [by_name, by_topic];
    expected.sort();
    assert_eq!(great, expected);
    assert_eq!(search(&alice, term("#hall")).await, [by_alias]);
    assert_eq!(search(&alice, term("nothing of that")).await, [""; 0]);
    assert_eq!(search(&alice, term("")).await.len(), 4);

    let types = |types: Value| json!({ "room_types": types });
    assert_eq!(search(&alice, types(json!(["m.space"]))).await, [space]);
    assert_eq!(search(&alice, types(json!([null]))).await.len(), 3);
    assert_eq!(search(&alice, types(json!([null, "m.space"]))).await.len(), 4);
    assert_eq!(search(&alice, types(json!(["org.example.game"]))).await.len(), 0);
}

#[tokio::test]
async fn a_room_is_published_by_who_may_set_its_aliases() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    publish(&bob, &room, "public").await.refused(403, "M_FORBIDDEN");
    bob.join(&room).await.ok();
    publish(&bob, &room, "public").await.refused(403, "M_FORBIDDEN");
    let levels = json!({ "events": { "m.room.canonical_alias": 0 }, "state_default": 50 });
    alice
        .send_state(&room, "m.room.power_levels", "", levels)
        .await
        .event_id();
    publish(&bob, &room, "public").await.ok();
    assert_eq!(ids(&list(&bob, "").await), [room.as_str()]);
    bob.leave(&room).await.ok();
    publish(&bob, &room, "private").await.refused(403, "M_FORBIDDEN");
    publish(&bob, "!nowhere:example.org", "public")
        .await
        .refused(404, "M_NOT_FOUND");
    publish(&alice, &room, "secret").await.refused(400, "M_BAD_JSON");
}

#[tokio::test]
async fn what_is_told_follows_the_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = published(&alice, json!({ "preset": "private_chat", "name": "before" })).await;
    assert_eq!(ids(&list(&alice, "").await), [""; 0], "nobody could come to it");
    let public = json!({ "join_rule": "public" });
    alice
        .send_state(&room, "m.room.join_rules", "", public)
        .await
        .event_id();
    assert_eq!(list(&alice, "").await["chunk"][0]["name"], "before");
    let name = json!({ "name": "after" });
    let named = alice.send_state(&room, "m.room.name", "", name).await.event_id();
    assert_eq!(list(&alice, "").await["chunk"][0]["name"], "after");
    alice.redact(&room, &named, "a slip").await.event_id();
    assert!(list(&alice, "").await["chunk"][0]["name"].is_null());
    // A rule that no version has is one for the invited.
    let odd = json!({ "join_rule": "org.example.coin_toss" });
    alice
        .send_state(&room, "m.room.join_rules", "", odd)
        .await
        .event_id();
    assert_eq!(ids(&list(&alice, "").await), [""; 0]);
    let summary = alice.get(&format!("/v1/room_summary/{room}")).await.ok();
    assert_eq!(summary["join_rule"], "invite");

    let public = json!({ "join_rule": "public" });
    alice
        .send_state(&room, "m.room.join_rules", "", public)
        .await
        .event_id();
    assert_eq!(ids(&list(&alice, "").await), [room.as_str()]);
    alice.leave(&room).await.ok();
    assert_eq!(ids(&list(&alice, "").await), [""; 0], "nobody is in it");
}

#[tokio::test]
async fn no_other_network_is_bridged_and_no_other_token_is_taken() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    published(&alice, json!({})).await;
    let bridged = json!({ "third_party_instance_id": "irc-freenode" });
    let page = alice.post("/v3/publicRooms", bridged).await.ok();
    assert_eq!(page, json!({ "chunk": [], "total_room_count_estimate": 0 }));
    let all = json!({ "include_all_networks": true });
    assert_eq!(ids(&alice.post("/v3/publicRooms", all).await.ok()).len(), 1);
    for token in ["x", "f1", "f1_nothing", "%00"] {
        alice
            .get(&format!("/v3/publicRooms?since={token}"))
            .await
            .refused(400, "M_INVALID_PARAM");
    }
    alice
        .get("/v3/publicRooms?limit=-1")
        .await
        .refused(400, "M_INVALID_PARAM");
    alice
        .get("/v3/publicRooms?server=a%20b")
        .await
        .refused(400, "M_INVALID_PARAM");
    // This one does not federate.
    alice
        .get("/v3/publicRooms?server=example.org")
        .await
        .refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn another_servers_directory_is_searched_through_ones_own() {
    let authority = Authority::new();
    let (mut a, b) = (
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
    );
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let mut rooms = Vec::new();
    for name in ["one", "two", "three"] {
        rooms.push(published(&alice, json!({ "name": name })).await);
    }
    let denied = json!({ "allow": ["*"], "deny": ["localhost"], "allow_ip_literals": true });
    let denied = json!({ "type": "m.room.server_acl", "content": denied });
    published(&alice, json!({ "initial_state": [denied] })).await;
    published(&alice, json!({ "creation_content": { "m.federate": false } })).await;
    assert_eq!(ids(&list(&alice, "").await).len(), 5);
    assert_eq!(ids(&list(&bob, "").await).len(), 0);

    let other = format!("server={}", a.name());
    let mut told = ids(&list(&bob, &other).await);
    told.sort();
    rooms.sort();
    assert_eq!(told, rooms, "those that its users could be in");
    let first = list(&bob, &format!("{other}&limit=2")).await;
    let next = encoded(first["next_batch"].as_str().expect("a token"));
    let second = list(&bob, &format!("{other}&limit=2&since={next}")).await;
    assert_eq!((ids(&first).len(), ids(&second).len()), (2, 1));
    assert!(second["next_batch"].is_null(), "{second}");
    let path = format!("/v3/publicRooms?{other}");
    let filter = json!({ "filter": { "generic_search_term": "TWO" } });
    let found = bob.post(&path, filter).await.ok();
    assert_eq!(found["chunk"][0]["name"], "two");
    bob.post(&path, json!({ "since": "x" }))
        .await
        .refused(400, "M_INVALID_PARAM");

    // The older way to ask, which this server has no use for.
    let origin = <&ServerName>::try_from(b.name()).expect("a server name");
    let mut request = get_public_rooms::Request::new();
    request.limit = Some(UInt::from(2_u8));
    let page = hearth_engine::federation::public_rooms(a.engine(), origin, request).await;
    let page = page.expect("the rooms are listed");
    assert_eq!((page.chunk.len(), page.next_batch.is_some()), (2, true));

    // For strangers nobody else is asked.
    b.anonymous().get(&path).await.refused(401, "M_MISSING_TOKEN");
    a.stop().await;
    bob.get(&path).await.refused(502, "M_UNKNOWN");
}

#[tokio::test]
async fn the_operator_says_who_sees_the_directory() {
    let authority = Authority::new();
    let with = async |audience| {
        Server::start_federated_with(&authority, |settings| settings.rooms.directory = audience).await
    };
    let (users, servers) = (with(Audience::Users).await, with(Audience::Servers).await);
    let (alice, bob) = (users.register("alice").await, servers.register("bob").await);
    for (server, client) in [(&users, &alice), (&servers, &bob)] {
        published(client, json!({})).await;
        assert_eq!(ids(&list(client, "").await).len(), 1);
        server
            .anonymous()
            .get("/v3/publicRooms")
            .await
            .refused(401, "M_MISSING_TOKEN");
    }
    bob.get(&format!("/v3/publicRooms?server={}", users.name()))
        .await
        .refused(403, "M_FORBIDDEN");
    assert_eq!(
        ids(&list(&alice, &format!("server={}", servers.name())).await).len(),
        1
    );
}

#[tokio::test]
async fn a_room_elsewhere_is_described_to_users_who_could_come() {
    let authority = Authority::new();
    let (a, b) = (
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
    );
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let public = json!({ "preset": "public_chat", "name": "open", "room_alias_name": "open" });
    let public = alice.create_room(public).await.room_id();
    let private = alice.create_room(json!({ "name": "closed" })).await.room_id();
    let summary = async |client: &Client, room: &str| {
        let path = format!("/v1/room_summary/{}?via={}", encoded(room), a.name());
        client.get(&path).await
    };
    let told = summary(&bob, &public).await.ok();
    assert_eq!(
        (&told["name"], &told["membership"]),
        (&json!("open"), &json!("leave"))
    );
    let by_alias = summary(&bob, &format!("#open:{}", a.name())).await.ok();
    assert_eq!(by_alias["room_id"], public);
    summary(b.anonymous(), &public).await.refused(404, "M_NOT_FOUND");
    summary(&bob, &private).await.refused(404, "M_NOT_FOUND");
    summary(&bob, "!nowhere:example.org")
        .await
        .refused(404, "M_NOT_FOUND");

    alice.invite(&private, &bob).await.ok();
    let told = until("the room is told of to who is invited", || async {
        let told = summary(&bob, &private).await;
        (told.status == 200).then_some(told.body)
    })
    .await;
    assert_eq!(
        (&told["name"], &told["membership"]),
        (&json!("closed"), &json!("invite"))
    );
    bob.join(&private).await.ok();
    bob.sync_until(is_joined(&private)).await;
    let told = summary(&bob, &private).await.ok();
    assert_eq!(
        (&told["membership"], &told["num_joined_members"]),
        (&json!("join"), &json!(2))
    );
}
