//! Spaces: the rooms in them, here and at other servers.

use hearth_engine::remote::RemoteError;
use hearth_tests::{Answer, Authority, Client, Server, encoded, is_joined, public_chat, until};
use ruma::{OwnedRoomId, ServerName, api::federation::space::get_hierarchy::v1 as get_hierarchy};
use serde_json::{Value, json};

async fn hierarchy(client: &Client, space: &str, query: &str) -> Answer {
    client.get(&format!("/v1/rooms/{space}/hierarchy?{query}")).await
}

/// The names of the rooms on a page.
fn names(page: &Value) -> Vec<&str> {
    let rooms = page["rooms"].as_array().expect("a list");
    rooms
        .iter()
        .map(|room| room["name"].as_str().unwrap_or("?"))
        .collect()
}

async fn room(client: &Client, name: &str, mut parameters: Value) -> String {
    parameters["name"] = json!(name);
    client.create_room(parameters).await.room_id()
}

/// A space that anyone may join.
async fn space(client: &Client, name: &str) -> String {
    let mut parameters = public_chat();
    parameters["creation_content"] = json!({ "type": "m.space" });
    room(client, name, parameters).await
}

/// Makes a room a child of a space; `of` is the server through which it is found.
async fn add(client: &Client, space: &str, child: &str, of: &Server, more: Value) {
    let mut content = json!({ "via": [of.name()] });
    for (key, value) in more.as_object().expect("an object") {
        content[key] = value.clone();
    }
    client
        .send_state(space, "m.space.child", child, content)
        .await
        .event_id();
}

/// All pages, one room at a time.
async fn one_by_one(client: &Client, space: &str) -> Vec<String> {
    let (mut all, mut from) = (Vec::new(), String::new());
    loop {
        let page = hierarchy(client, space, &format!("limit=1{from}")).await.ok();
        assert_eq!(names(&page).len(), 1, "{page}");
        all.extend(names(&page).into_iter().map(ToOwned::to_owned));
        match page["next_batch"].as_str() {
            Some(next) => from = format!("&from={}", encoded(next)),
            None => return all,
        }
    }
}

/// `top`: `b` (a space of `b1` and, again, `top`), `a`, `secret` (bob is in none), `c` (suggested).
async fn tree(server: &Server, alice: &Client) -> String {
    let (top, b) = (space(alice, "top").await, space(alice, "b").await);
    let (a, c, b1) = (
        room(alice, "a", public_chat()).await,
        room(alice, "c", public_chat()).await,
        room(alice, "b1", public_chat()).await,
    );
    let secret = room(alice, "secret", json!({})).await;
    add(alice, &top, &a, server, json!({ "order": "2" })).await;
    add(alice, &top, &b, server, json!({ "order": "1" })).await;
    add(alice, &top, &secret, server, json!({})).await;
    add(alice, &top, &c, server, json!({ "suggested": true })).await;
    add(alice, &b, &b1, server, json!({ "suggested": true })).await;
    add(alice, &b, &top, server, json!({})).await;
    top
}

#[tokio::test]
async fn a_space_is_walked_in_depth_and_in_order() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let top = tree(&server, &alice).await;
    let page = hierarchy(&alice, &top, "").await.ok();
    assert_eq!(names(&page), ["top", "b", "b1", "a", "secret", "c"]);
    assert!(page["next_batch"].is_null());
    let page = hierarchy(&bob, &top, "").await.ok();
    assert_eq!(
        names(&page),
        ["top", "b", "b1", "a", "c"],
        "none that he can't come to"
    );

    let root = &page["rooms"][0];
    assert_eq!(root["room_type"], "m.space");
    assert_eq!(root["num_joined_members"], 1);
    let children = root["children_state"].as_array().expect("a list");
    assert_eq!(children.len(), 4);
    let first = &children[0];
    assert_eq!(
        (&first["type"], &first["sender"]),
        (&json!("m.space.child"), &json!(alice.user_id))
    );
    assert_eq!(first["content"], json!({ "via": [server.name()], "order": "1" }));
    assert!(first["origin_server_ts"].is_u64(), "{first}");
    assert_eq!(page["rooms"][2]["children_state"], json!([]));

    assert_eq!(one_by_one(&bob, &top).await, ["top", "b", "b1", "a", "c"]);
    // The rooms need not be in memory.
    server.engine().drop_idle();
    assert_eq!(
        one_by_one(&alice, &top).await,
        ["top", "b", "b1", "a", "secret", "c"]
    );

    let shallow = hierarchy(&bob, &top, "max_depth=1").await.ok();
    assert_eq!(names(&shallow), ["top", "b", "a", "c"]);
    assert_eq!(names(&hierarchy(&bob, &top, "max_depth=0").await.ok()), ["top"]);
    let suggested = hierarchy(&bob, &top, "suggested_only=true").await.ok();
    assert_eq!(
        names(&suggested),
        ["top", "c"],
        "what is below another is not suggested"
    );
    assert_eq!(
        suggested["rooms"][0]["children_state"].as_array().map(Vec::len),
        Some(1)
    );
}

#[tokio::test]
async fn what_can_not_be_walked_is_refused() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let top = tree(&server, &alice).await;
    hierarchy(&bob, "!nowhere:example.org", "")
        .await
        .refused(403, "M_FORBIDDEN");
    let secret = room(&alice, "another", json!({})).await;
    hierarchy(&bob, &secret, "").await.refused(403, "M_FORBIDDEN");
    for bad in [
        "limit=0",
        "limit=-1",
        "limit=x",
        "max_depth=-1",
        "suggested_only=maybe",
        "from=x",
        "from=",
    ] {
        hierarchy(&bob, &top, bad).await.refused(400, "M_INVALID_PARAM");
    }
    let page = hierarchy(&bob, &top, "limit=2&max_depth=3").await.ok();
    let from = encoded(page["next_batch"].as_str().expect("a token"));
    let next = hierarchy(&bob, &top, &format!("max_depth=3&from={from}"))
        .await
        .ok();
    assert_eq!(names(&next), ["b1", "a", "c"]);
    for changed in ["", "max_depth=2", "max_depth=3&suggested_only=true"] {
        hierarchy(&bob, &top, &format!("{changed}&from={from}"))
            .await
            .refused(400, "M_INVALID_PARAM");
    }
    // Of another space.
    let other = space(&alice, "other").await;
    hierarchy(&bob, &other, &format!("max_depth=3&from={from}"))
        .await
        .refused(400, "M_INVALID_PARAM");
    alice.ban(&top, &bob, None).await.ok();
    hierarchy(&bob, &top, "").await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_user_sees_rooms_that_they_may_come_to() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let top = space(&alice, "top").await;
    let rules = |rules: Value| json!([{ "type": "m.room.join_rules", "content": rules }]);
    let allow = json!([{ "type": "m.room_membership", "room_id": top }]);
    let restricted = rules(json!({ "join_rule": "restricted", "allow": allow }));
    let knock = rules(json!({ "join_rule": "knock" }));
    let readable = json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "world_readable" } }]);
    let invited = room(&alice, "invited", json!({})).await;
    let rooms = [
        room(&alice, "restricted", json!({ "initial_state": restricted })).await,
        room(&alice, "knock", json!({ "initial_state": knock })).await,
        room(&alice, "readable", json!({ "initial_state": readable })).await,
        invited.clone(),
    ];
    for (index, room) in rooms.iter().enumerate() {
        add(
            &alice,
            &top,
            room,
            &server,
            json!({ "order": format!("{index}") }),
        )
        .await;
    }
    let seen = async || hierarchy(&bob, &top, "").await.ok();
    assert_eq!(names(&seen().await), ["top", "knock", "readable"]);
    bob.join(&top).await.ok();
    assert_eq!(names(&seen().await), ["top", "restricted", "knock", "readable"]);
    alice.invite(&invited, &bob).await.ok();
    let page = seen().await;
    assert_eq!(
        names(&page),
        ["top", "restricted", "knock", "readable", "invited"]
    );
    assert_eq!(page["rooms"][1]["allowed_room_ids"], json!([top]));
    // A child that is taken out is none any more.
    alice
        .send_state(&top, "m.space.child", &rooms[1], json!({}))
        .await
        .event_id();
    assert_eq!(names(&seen().await), ["top", "restricted", "readable", "invited"]);
}

#[tokio::test]
async fn spaces_of_another_server_are_walked_into() {
    let authority = Authority::new();
    let (mut a, b) = (
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
    );
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let there = tree(&a, &alice).await;
    let here = space(&bob, "here").await;
    let own = room(&bob, "own", json!({})).await;
    add(&bob, &here, &there, &a, json!({ "order": "1" })).await;
    add(&bob, &here, &own, &b, json!({ "order": "2" })).await;
    let everything = ["here", "top", "b", "b1", "a", "c", "own"];
    let page = hierarchy(&bob, &here, "").await.ok();
    assert_eq!(names(&page), everything);
    assert_eq!(
        page["rooms"][1]["children_state"].as_array().map(Vec::len),
        Some(4)
    );
    assert_eq!(one_by_one(&bob, &here).await, everything);

    // What was heard is known for a while, though its server is gone.
    a.stop().await;
    assert_eq!(names(&hierarchy(&bob, &here, "").await.ok()), everything);
    let other = space(&bob, "other").await;
    let unheard = format!("!unheard:{}", a.name());
    add(&bob, &other, &unheard, &a, json!({ "order": "1" })).await;
    add(&bob, &other, &own, &b, json!({ "order": "2" })).await;
    assert_eq!(names(&hierarchy(&bob, &other, "").await.ok()), ["other", "own"]);
}

#[tokio::test]
async fn a_space_of_another_server_is_found_by_its_id_or_by_the_invite() {
    let authority = Authority::new();
    let (a, b) = (
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
    );
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let mut parameters = public_chat();
    parameters["creation_content"] = json!({ "type": "m.space" });
    parameters["room_version"] = json!("11");
    let public = room(&alice, "public", parameters).await;
    let private = room(
        &alice,
        "private",
        json!({ "creation_content": { "type": "m.space" } }),
    )
    .await;
    let child = room(&alice, "child", json!({})).await;
    for space in [&public, &private] {
        add(&alice, space, &child, &a, json!({})).await;
    }
    assert_eq!(names(&hierarchy(&bob, &public, "").await.ok()), ["public"]);
    hierarchy(&bob, &private, "").await.refused(403, "M_FORBIDDEN");
    alice.invite(&private, &bob).await.ok();
    until("the space is shown to who is invited", || async {
        let page = hierarchy(&bob, &private, "").await;
        (page.status == 200 && names(&page.body) == ["private"]).then_some(())
    })
    .await;
    // Once there, the server knows for itself.
    bob.join(&private).await.ok();
    bob.sync_until(is_joined(&private)).await;
    let page = hierarchy(&bob, &private, "").await.ok();
    assert_eq!(page["rooms"][0]["num_joined_members"], 2);
}

/// What `asker` is told by `server` of a space: the names of the children, and how many it can't come to.
async fn told(
    asker: &Server,
    server: &Server,
    space: &str,
    suggested_only: bool,
) -> Result<(Vec<String>, usize), u16> {
    let mut request = get_hierarchy::Request::new(OwnedRoomId::try_from(space).expect("a room ID"));
    request.suggested_only = suggested_only;
    let name = <&ServerName>::try_from(server.name()).expect("a server name");
    match asker.engine().remote.hierarchy(name, request).await {
        Ok(answer) => {
            assert_eq!(answer.room.summary.room_id, space);
            let names = answer.children.into_iter().filter_map(|child| child.name);
            Ok((names.collect(), answer.inaccessible_children.len()))
        }
        Err(RemoteError::Refused { status, errcode, .. }) => {
            assert_eq!(errcode, "M_NOT_FOUND");
            Err(status)
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_server_is_told_of_the_rooms_that_its_users_could_come_to() {
    let authority = Authority::new();
    let (a, b) = (
        Server::start_federated(&authority).await,
        Server::start_federated(&authority).await,
    );
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let top = space(&alice, "top").await;
    let allow = json!([{ "type": "m.room_membership", "room_id": top }]);
    let rules = json!({ "join_rule": "restricted", "allow": allow });
    let rules = json!([{ "type": "m.room.join_rules", "content": rules }]);
    let children = [
        room(&alice, "public", public_chat()).await,
        room(&alice, "restricted", json!({ "initial_state": rules })).await,
        room(&alice, "private", json!({})).await,
        "!elsewhere:example.org".to_owned(),
    ];
    for (index, child) in children.iter().enumerate() {
        let more = json!({ "order": format!("{index}"), "suggested": index == 0 });
        add(&alice, &top, child, &a, more).await;
    }
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(told(&b, &a, &top, false).await, Ok((names(&["public"]), 2)));
    assert_eq!(told(&b, &a, &top, true).await, Ok((names(&["public"]), 0)));
    assert_eq!(told(&b, &a, &children[2], false).await, Err(404));
    assert_eq!(told(&b, &a, "!nowhere:example.org", false).await, Err(404));

    bob.post(&format!("/v3/join/{top}?via={}", a.name()), json!({}))
        .await
        .ok();
    bob.sync_until(is_joined(&top)).await;
    assert_eq!(
        told(&b, &a, &top, false).await,
        Ok((names(&["public", "restricted"]), 1))
    );
    // Ports don't count in a server ACL: the two are one name to it.
    let denied = json!({ "allow": ["*"], "deny": ["localhost"], "allow_ip_literals": true });
    alice
        .send_state(&top, "m.room.server_acl", "", denied)
        .await
        .event_id();
    assert_eq!(told(&b, &a, &top, false).await, Err(404));
}
