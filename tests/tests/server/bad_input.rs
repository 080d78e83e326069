//! What nobody should send. The answer is the specification's code and a sentence, never a fault of the server's.

use hearth_tests::{Answer, Client, Server, encoded, public_chat, text};
use reqwest::Method;
use serde_json::{Value, json};

/// A route, with a body that it takes where it takes one.
struct Route {
    method: Method,
    path: &'static str,
    body: Option<Value>,
}

/// Who asks, and what there is to ask for: the arguments of the paths.
struct Scene {
    server: Server,
    alice: Client,
    arguments: Vec<(&'static str, String)>,
}

impl Scene {
    async fn set() -> Self {
        let server = Server::start().await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.create_room(public_chat()).await.room_id();
        bob.join(&room).await.ok();
        let event = alice.send_text(&room, "hello").await.event_id();
        let filter = alice.store_filter(json!({})).await;
        let arguments = vec![
            ("{room}", room),
            ("{event}", event),
            ("{filter}", filter),
            ("{user}", alice.user_id.clone()),
            ("{other}", bob.user_id.clone()),
            ("{device}", alice.device_id.clone()),
            ("{alias}", encoded(&format!("#alias:{}", server.name()))),
            ("{type}", "org.example.type".to_owned()),
            ("{key}", "key".to_owned()),
            ("{txn}", "txn".to_owned()),
            ("{receipt}", "m.read".to_owned()),
            ("{tag}", "u.work".to_owned()),
            ("{kind}", "content".to_owned()),
            ("{rule}", "rule".to_owned()),
        ];
        Self {
            server,
            alice,
            arguments,
        }
    }

    fn argument(&self, name: &str) -> String {
        let found = self.arguments.iter().find(|(argument, _)| *argument == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    fn path(&self, template: &str) -> String {
        self.arguments
            .iter()
            .fold(template.to_owned(), |path, (name, value)| {
                path.replace(name, value)
            })
    }

    /// Every route of the client-server API that is served. `logout` and `deactivate` would end the scene and have
    /// no body to speak of.
    fn routes(&self) -> Vec<Route> {
        let other = json!({ "user_id": self.argument("{other}"), "reason": "x" });
        let identifier = json!({ "type": "m.id.user", "user": "alice" });
        let auth = json!({ "type": "m.login.dummy", "session": "x" });
        let route = |method: Method, path, body| Route { method, path, body };
        let get = |path| route(Method::GET, path, None);
        let put = |path, body| route(Method::PUT, path, Some(body));
        let post = |path, body| route(Method::POST, path, Some(body));
        vec![
            get("/versions"),
            get("/v3/capabilities"),
            get("/v3/login"),
            post(
                "/v3/login",
                json!({ "type": "m.login.password", "identifier": identifier, "password": "x", "device_id": "d" }),
            ),
            post(
                "/v3/register",
                json!({ "username": "x", "password": "x", "device_id": "d", "inhibit_login": true, "auth": auth }),
            ),
            get("/v3/register/available"),
            post("/v3/refresh", json!({ "refresh_token": "x" })),
            get("/v3/account/whoami"),
            post(
                "/v3/account/password",
                json!({ "new_password": "x", "logout_devices": false, "auth": auth }),
            ),
            get("/v3/devices"),
            get("/v3/devices/{device}"),
            put("/v3/devices/{device}", json!({ "display_name": "x" })),
            route(
                Method::DELETE,
                "/v3/devices/{device}",
                Some(json!({ "auth": auth })),
            ),
            post("/v3/delete_devices", json!({ "devices": ["x"], "auth": auth })),
            post(
                "/v3/createRoom",
                json!({
                    "name": "x", "topic": "x", "preset": "private_chat", "visibility": "private", "is_direct": true,
                    "room_version": "12", "invite": [], "invite_3pid": [], "initial_state": [], "creation_content": {},
                    "power_level_content_override": {}, "room_alias_name": "x",
                }),
            ),
            get("/v3/joined_rooms"),
            post(
                "/v3/join/{room}",
                json!({ "reason": "x", "third_party_signed": null }),
            ),
            post("/v3/rooms/{room}/join", json!({ "reason": "x" })),
            route(Method::POST, "/v3/rooms/{room}/forget", None),
            post("/v3/rooms/{room}/invite", other.clone()),
            post("/v3/rooms/{room}/kick", other.clone()),
            post("/v3/rooms/{room}/ban", other.clone()),
            post("/v3/rooms/{room}/unban", other),
            post(
                "/v3/rooms/{room}/upgrade",
                json!({ "new_version": "x", "additional_creators": [] }),
            ),
            put("/v3/rooms/{room}/send/{type}/{txn}", text("x")),
            put("/v3/rooms/{room}/redact/{event}/{txn}", json!({ "reason": "x" })),
            put("/v3/rooms/{room}/state/{type}/{key}", json!({ "a": "x" })),
            put(
                "/v3/rooms/{room}/state/m.room.power_levels/",
                json!({ "users": {}, "ban": 50, "events": {} }),
            ),
            put(
                "/v3/rooms/{room}/state/m.room.join_rules/",
                json!({ "join_rule": "public", "allow": [] }),
            ),
            put(
                "/v3/rooms/{room}/state/m.room.history_visibility/",
                json!({ "history_visibility": "shared" }),
            ),
            put(
                "/v3/rooms/{room}/state/m.room.canonical_alias/",
                json!({ "alias": null, "alt_aliases": [] }),
            ),
            put(
                "/v3/rooms/{room}/state/m.room.member/{user}",
                json!({ "membership": "join", "displayname": "x", "avatar_url": "x" }),
            ),
            get("/v3/rooms/{room}/state"),
            get("/v3/rooms/{room}/state/{type}/{key}"),
            get("/v3/rooms/{room}/members"),
            get("/v3/rooms/{room}/joined_members"),
            get("/v3/rooms/{room}/event/{event}"),
            get("/v3/rooms/{room}/messages?dir=b"),
            get("/v3/rooms/{room}/aliases"),
            get("/v3/directory/room/{alias}"),
            put(
                "/v3/directory/room/{alias}",
                json!({ "room_id": self.argument("{room}") }),
            ),
            route(Method::DELETE, "/v3/directory/room/{alias}", None),
            get("/v3/profile/{user}"),
            get("/v3/profile/{user}/displayname"),
            put("/v3/profile/{user}/displayname", json!({ "displayname": "x" })),
            put(
                "/v3/profile/{user}/avatar_url",
                json!({ "avatar_url": "mxc://example.org/x" }),
            ),
            get("/v3/user/{user}/account_data/{type}"),
            put("/v3/user/{user}/account_data/{type}", json!({ "a": "x" })),
            get("/v3/user/{user}/rooms/{room}/account_data/{type}"),
            put(
                "/v3/user/{user}/rooms/{room}/account_data/{type}",
                json!({ "a": "x" }),
            ),
            post(
                "/v3/user/{user}/filter",
                json!({
                    "room": { "timeline": { "limit": 1 } }, "event_format": "client", "event_fields": ["content"],
                    "presence": {}, "account_data": {},
                }),
            ),
            get("/v3/user/{user}/filter/{filter}"),
            put(
                "/v3/rooms/{room}/typing/{user}",
                json!({ "typing": true, "timeout": 1000 }),
            ),
            put(
                "/v3/presence/{user}/status",
                json!({ "presence": "online", "status_msg": "here" }),
            ),
            get("/v3/presence/{user}/status"),
            post(
                "/v3/rooms/{room}/receipt/{receipt}/{event}",
                json!({ "thread_id": "main" }),
            ),
            post(
                "/v3/rooms/{room}/read_markers",
                json!({ "m.fully_read": self.argument("{event}"), "m.read": self.argument("{event}"), "m.read.private": self.argument("{event}") }),
            ),
            get("/v3/sync?timeout=0"),
            get("/v3/rooms/{room}/context/{event}"),
            get("/v1/room_summary/{room}"),
            get("/v1/rooms/{room}/hierarchy"),
            get("/v1/rooms/{room}/timestamp_to_event?ts=1&dir=f"),
            get("/v3/publicRooms"),
            post(
                "/v3/publicRooms",
                json!({
                    "limit": 1, "since": "f1_!a:b", "filter": { "generic_search_term": "x", "room_types": [null] },
                    "include_all_networks": true, "third_party_instance_id": null,
                }),
            ),
            get("/v3/directory/list/room/{room}"),
            put(
                "/v3/directory/list/room/{room}",
                json!({ "visibility": "private" }),
            ),
            post("/v3/user/{user}/openid/request_token", json!({})),
            post("/v3/rooms/{room}/report", json!({ "reason": "x" })),
            post(
                "/v3/rooms/{room}/report/{event}",
                json!({ "reason": "x", "score": -100 }),
            ),
            post("/v3/users/{other}/report", json!({ "reason": "x" })),
            get("/v3/user/{user}/rooms/{room}/tags"),
            put("/v3/user/{user}/rooms/{room}/tags/{tag}", json!({ "order": 0.5 })),
            route(Method::DELETE, "/v3/user/{user}/rooms/{room}/tags/{tag}", None),
            get("/v3/pushrules/"),
            get("/v3/pushrules/global/"),
            get("/v3/pushrules/global/{kind}/{rule}"),
            put(
                "/v3/pushrules/global/{kind}/{rule}",
                json!({ "actions": ["notify"], "pattern": "x", "conditions": [] }),
            ),
            put(
                "/v3/pushrules/global/override/{rule}",
                json!({
                    "actions": ["notify", { "set_tweak": "highlight" }],
                    "conditions": [{ "kind": "event_match", "key": "content.body", "pattern": "x" }],
                }),
            ),
            put(
                "/v3/pushrules/global/{kind}/{rule}/enabled",
                json!({ "enabled": true }),
            ),
            get("/v3/pushrules/global/{kind}/{rule}/enabled"),
            put(
                "/v3/pushrules/global/{kind}/{rule}/actions",
                json!({ "actions": [] }),
            ),
            get("/v3/pushrules/global/{kind}/{rule}/actions"),
            route(Method::DELETE, "/v3/pushrules/global/{kind}/{rule}", None),
            post("/v3/rooms/{room}/leave", json!({ "reason": "x" })),
        ]
    }

    async fn ask(&self, route: &Route, body: Option<Vec<u8>>) -> Answer {
        self.alice
            .ask_bytes(route.method.clone(), &self.path(route.path), body)
            .await
    }

    /// The server is as well as ever.
    async fn assert_still_works(&self) {
        let (carol, dave) = (
            self.server.register("carol").await,
            self.server.register("dave").await,
        );
        let room = carol.create_room(public_chat()).await.room_id();
        dave.join(&room).await.ok();
        let event = dave.send_text(&room, "all is well").await.event_id();
        carol.sync_until(hearth_tests::timeline_has(&room, &event)).await;
    }
}

/// The server did what was asked, or said by the book why not.
#[track_caller]
fn assert_answered(answer: &Answer, what: &str) {
    let challenge = answer.status == 401 && answer.body["flows"].is_array();
    assert!(
        answer.status == 200 || challenge || answer.is_proper_refusal(),
        "{what:.300}: {} was answered by {} {}",
        answer.request,
        answer.status,
        answer.body
    );
}

#[tokio::test]
async fn what_is_not_json_is_refused_on_every_route_with_a_body() {
    let scene = Scene::set().await;
    let mut asked = 0;
    for route in scene.routes().iter().filter(|route| route.body.is_some()) {
        for body in [
            &b"{"[..],
            b"nope",
            b"{\"a\":}",
            b"{\"a\":1,}",
            b"\xff\xfe",
            b"{\"a\":\"\xff\"}",
            b"{}{}",
            b"\0",
        ] {
            let answer = scene.ask(route, Some(body.to_vec())).await;
            let what = String::from_utf8_lossy(body).into_owned();
            assert_answered(&answer, &what);
            assert_eq!(
                (answer.status, answer.errcode()),
                (400, "M_NOT_JSON"),
                "{} with {what}: {}",
                answer.request,
                answer.body
            );
            asked += 1;
        }
        for body in ["[]", "null", "17", "\"{}\"", "[{}]"] {
            let answer = scene.ask(route, Some(body.into())).await;
            assert_eq!(
                (answer.status, answer.errcode()),
                (400, "M_BAD_JSON"),
                "{} with {body}: {}",
                answer.request,
                answer.body
            );
            asked += 1;
        }
    }
    assert!(asked > 300, "only {asked} were asked");
    scene.assert_still_works().await;
}

#[tokio::test]
async fn deep_nesting_is_refused_on_every_route_with_a_body() {
    let scene = Scene::set().await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000)).into_bytes();
    let open = format!("{{\"a\":{}", "{\"a\":".repeat(20_000)).into_bytes();
    for route in scene.routes().iter().filter(|route| route.body.is_some()) {
        for body in [&deep, &open] {
            let answer = scene.ask(route, Some(body.clone())).await;
            assert!(
                answer.is_proper_refusal() && answer.status == 400,
                "{}: {} {}",
                answer.request,
                answer.status,
                answer.body
            );
        }
    }
    scene.assert_still_works().await;
}

#[tokio::test]
async fn fields_of_any_type_never_break_the_server() {
    let scene = Scene::set().await;
    let values = [
        "null",
        "true",
        "17",
        "-1",
        "1.5",
        "1e400",
        "18446744073709551616",
        "\"\"",
        "\"x\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"@a:b\"",
        "[]",
        "[null]",
        "[[[[]]]]",
        "[\"\\u0000\"]",
        "{}",
        "{\"\":{}}",
        "{\"\\u0000\":\"\\u0000\"}",
        "{\"a\":1,\"a\":2}",
    ];
    for route in scene.routes() {
        let Some(Value::Object(body)) = &route.body else {
            continue;
        };
        for field in body.keys() {
            for value in values {
                let others: String = body
                    .iter()
                    .filter(|(name, _)| *name != field)
                    .map(|(name, value)| format!(",{}:{value}", Value::from(name.as_str())))
                    .collect();
                let changed = format!("{{{}:{value}{others}}}", Value::from(field.as_str()));
                assert_answered(
                    &scene.ask(&route, Some(changed.clone().into_bytes())).await,
                    &changed,
                );
            }
            let without: serde_json::Map<_, _> = body
                .iter()
                .filter(|(name, _)| *name != field)
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            let without = Value::Object(without).to_string();
            assert_answered(
                &scene.ask(&route, Some(without.clone().into_bytes())).await,
                &without,
            );
        }
    }
    scene.assert_still_works().await;
}

#[tokio::test]
async fn forged_arguments_of_paths_never_break_the_server() {
    let scene = Scene::set().await;
    let long = "a".repeat(3_000);
    let long_id = format!("!{}:x", "a".repeat(300));
    let forged = [
        "%00",
        "a%00b",
        "%FF",
        "%C3%28",
        "!",
        "!:",
        "$",
        "@",
        "@:",
        "%23",
        "%23:",
        "..%2F..%2Fetc",
        "%F0%9F%98%80",
        "%20",
        "'",
        "%22",
        "1'%20OR%20'1'='1",
        "!x:elsewhere.example",
        "@x:elsewhere.example",
        "$x:elsewhere.example",
        "%23x:elsewhere.example",
        "!x:[::1",
        "-1",
        "9223372036854775808",
        &long_id,
        &long,
    ];
    for route in scene.routes() {
        for (argument, _) in scene
            .arguments
            .iter()
            .filter(|(argument, _)| route.path.contains(argument))
        {
            for forgery in forged {
                let path = scene.path(&route.path.replace(argument, forgery));
                let body = route.body.as_ref().map(|body| body.to_string().into_bytes());
                let answer = scene.alice.ask_bytes(route.method.clone(), &path, body).await;
                assert_answered(&answer, forgery);
            }
        }
    }
    scene.assert_still_works().await;
}

#[tokio::test]
async fn absurd_queries_never_break_the_server() {
    let scene = Scene::set().await;
    let (alice, room) = (&scene.alice, scene.argument("{room}"));
    let absurd = [
        "",
        "0",
        "-1",
        "1.5",
        "1e9",
        "abc",
        "null",
        "%00",
        "%FF",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "-9223372036854775809",
        "h1_0",
        "h1_1",
        "h1_-1",
        "h1_9223372036854775807",
        "h2_1",
        "t1_1",
        "%7B%7D",
        "%7B",
        "%5B%5D",
        "%7B%22limit%22%3A-1%7D",
        "%7B%22types%22%3A3%7D",
        "%7B%22rooms%22%3A%5B%22x%22%5D%7D",
        "a%26b%3Dc",
        "true",
        "content",
        "event",
    ];
    let long = "7".repeat(5_000);
    for (path, names) in [
        (
            format!("/v3/rooms/{room}/messages?dir=b"),
            &["limit", "from", "to", "filter", "dir"][..],
        ),
        (
            format!("/v3/rooms/{room}/messages?dir=f"),
            &["limit", "from", "to", "filter"],
        ),
        (
            format!("/v3/rooms/{room}/members?"),
            &["at", "membership", "not_membership"],
        ),
        (format!("/v3/rooms/{room}/state/m.room.name/?"), &["format"]),
        (
            "/v3/sync?timeout=0".to_owned(),
            &["since", "filter", "full_state", "set_presence", "use_state_after"],
        ),
        (format!("/v3/join/{room}?"), &["via", "server_name"]),
        (
            format!("/v3/rooms/{room}/context/{}?", scene.argument("{event}")),
            &["limit", "filter"],
        ),
        ("/v3/register?".to_owned(), &["kind"]),
        ("/v3/register/available?".to_owned(), &["username"]),
    ] {
        for name in names {
            for value in absurd.iter().copied().chain([long.as_str()]) {
                let query = format!("{path}&{name}={value}");
                let is_post = path.contains("/join/") || path.contains("/register?");
                let answer = if is_post {
                    alice.post(&query, json!({})).await
                } else {
                    alice.get(&query).await
                };
                assert_answered(&answer, value);
            }
        }
    }
    scene.assert_still_works().await;
}

#[tokio::test]
async fn the_size_of_a_page_is_a_number_of_sense() {
    let scene = Scene::set().await;
    let (alice, room) = (&scene.alice, scene.argument("{room}"));
    for limit in ["-1", "abc", "1.5", "18446744073709551616"] {
        alice
            .messages(&room, &format!("dir=b&limit={limit}"))
            .await
            .refused(400, "M_INVALID_PARAM");
    }
    let all = alice.messages(&room, "dir=b&limit=1000000").await.ok();
    assert!(all["chunk"].as_array().is_some_and(|chunk| chunk.len() > 5));
    alice
        .messages(&room, "limit=3")
        .await
        .refused(400, "M_MISSING_PARAM");
    for dir in ["", "x", "B", "backwards"] {
        alice
            .messages(&room, &format!("dir={dir}"))
            .await
            .refused(400, "M_INVALID_PARAM");
    }
    for token in ["x", "%00", "h1", "h1_x", "t0", "-1"] {
        alice
            .messages(&room, &format!("dir=b&from={token}"))
            .await
            .refused(400, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn tokens_of_access_are_what_they_are() {
    let scene = Scene::set().await;
    let long = "x".repeat(5_000);
    for token in ["x", "null", "' OR 1=1", "Bearer", &long] {
        let forged = scene.alice.with_token(Some(token));
        forged
            .get("/v3/account/whoami")
            .await
            .refused(401, "M_UNKNOWN_TOKEN");
    }
    let ask = async |header: &[u8]| {
        let nobody = scene.server.anonymous();
        let request = nobody
            .request(Method::GET, "/_matrix/client/v3/account/whoami")
            .header("authorization", header);
        nobody.send_request(request).await
    };
    for header in [
        &b"Bearer "[..],
        b"Bearer",
        b"Basic YTpi",
        b"",
        b"Bearer \xff\xfe",
        b"bearer",
    ] {
        let answer = ask(header).await;
        assert!(
            answer.is_proper_refusal() && answer.status == 401,
            "{header:?}: {} {}",
            answer.status,
            answer.body
        );
    }
    let token = scene.alice.token.clone().unwrap_or_default();
    ask(format!("Bearer {token}x").as_bytes())
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
    ask(format!("Bearer {}", token.to_uppercase()).as_bytes())
        .await
        .refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn huge_bodies_are_refused_for_their_size() {
    let scene = Scene::set().await;
    let huge = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes)).into_bytes();
    for route in scene.routes().iter().filter(|route| route.body.is_some()) {
        let path = scene.path(route.path);
        let answer = scene
            .alice
            .try_ask(route.method.clone(), &path, Some(huge(9 << 20)))
            .await;
        // A server may hang up on who goes on sending after the answer.
        if let Ok(answer) = answer {
            assert_eq!(
                (answer.status, answer.errcode()),
                (413, "M_TOO_LARGE"),
                "{}: {}",
                answer.request,
                answer.body
            );
        }
    }
    let nobody = scene.server.anonymous();
    for path in ["/v3/login", "/v3/register"] {
        if let Ok(answer) = nobody.try_ask(Method::POST, path, Some(huge(2 << 20))).await {
            answer.refused(413, "M_TOO_LARGE");
        }
    }
    let (alice, room) = (&scene.alice, scene.argument("{room}"));
    let one = alice
        .send(&room, "m.room.message", text(&"x".repeat(1 << 20)))
        .await;
    one.refused(413, "M_TOO_LARGE");
    assert_answered(
        &alice
            .set_account_data("org.example.big", json!({ "a": "x".repeat(1 << 20) }))
            .await,
        "a MiB",
    );
    assert_answered(&alice.set_displayname(&"x".repeat(1 << 20)).await, "a MiB");
    assert_answered(
        &alice.create_room(json!({ "name": "x".repeat(1 << 20) })).await,
        "a MiB",
    );
    scene.assert_still_works().await;
}

#[tokio::test]
async fn an_event_with_nul_is_an_event_like_others() {
    let scene = Scene::set().await;
    let (alice, room) = (&scene.alice, scene.argument("{room}"));
    let content = json!({ "body": "a\u{0}b", "msgtype": "m.text", "\u{0}": ["\u{0}"] });
    let event = alice
        .send(&room, "org.example.%00type", content.clone())
        .await
        .event_id();
    let fetched = alice.event(&room, &event).await.ok();
    assert_eq!(
        (&fetched["content"], &fetched["type"]),
        (&content, &json!("org.example.\u{0}type"))
    );
    alice
        .send_state(&room, "org.example.nul", "\u{0}", content.clone())
        .await
        .event_id();
    assert_eq!(alice.state(&room, "org.example.nul", "\u{0}").await.ok(), content);
    alice
        .set_account_data("org.example.%00", content.clone())
        .await
        .ok();
    scene.assert_still_works().await;
}

#[tokio::test]
async fn what_is_no_route_is_unrecognized() {
    let scene = Scene::set().await;
    let alice = &scene.alice;
    for path in [
        "/v3/nothing",
        "/v3/",
        "/",
        "/v2_alpha/sync",
        "/v3/rooms",
        "/v3/rooms/x/y/z",
        "/unstable/org.example/x",
    ] {
        alice.get(path).await.refused(404, "M_UNRECOGNIZED");
        alice.post(path, json!({})).await.refused(404, "M_UNRECOGNIZED");
    }
    for path in [
        "/",
        "/index.html",
        "/_matrix",
        "/_matrix/nothing",
        "/_synapse/admin/v9/x",
        "/.well-known/matrix/nothing",
    ] {
        alice.get_whole(path).await.refused(404, "M_UNRECOGNIZED");
    }
    for (method, path) in [
        (Method::POST, "/v3/sync"),
        (Method::GET, "/v3/createRoom"),
        (Method::DELETE, "/v3/login"),
        (Method::PATCH, "/v3/account/whoami"),
        (Method::PUT, "/v3/joined_rooms"),
    ] {
        alice.ask(method, path, None).await.refused(405, "M_UNRECOGNIZED");
    }
}

#[tokio::test]
async fn every_answer_may_be_read_by_any_web_page() {
    let scene = Scene::set().await;
    let alice = &scene.alice;
    let assert_open = |answer: &Answer| {
        let header = |name: &str| {
            answer
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(header("access-control-allow-origin"), "*", "{}", answer.request);
        header("access-control-allow-methods")
    };
    assert_open(&alice.get("/v3/account/whoami").await);
    assert_open(&alice.get("/v3/nothing").await);
    assert_open(&alice.post("/v3/sync", json!({})).await);
    assert_open(&scene.server.anonymous().get("/v3/sync").await);
    assert_open(&alice.get_whole("/.well-known/matrix/client").await);
    for route in scene.routes() {
        // Preflights carry no token.
        let path = format!("/_matrix/client{}", scene.path(route.path));
        let nobody = scene.server.anonymous();
        let preflight = nobody.send_request(nobody.request(Method::OPTIONS, &path)).await;
        assert!(
            [200, 204].contains(&preflight.status),
            "{path}: {}",
            preflight.status
        );
        let methods = assert_open(&preflight);
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            assert!(methods.contains(method), "{path}: {methods}");
        }
        let headers = preflight
            .headers
            .get("access-control-allow-headers")
            .and_then(|value| value.to_str().ok());
        let headers = headers.unwrap_or_default().to_lowercase();
        assert!(
            ["x-requested-with", "content-type", "authorization"]
                .iter()
                .all(|name| headers.contains(name)),
            "{headers}"
        );
    }
}

#[tokio::test]
async fn what_the_server_is_can_be_asked_by_anyone() {
    let server =
        Server::start_with(|settings| settings.public_url = Some("https://chat.example.org".to_owned()))
            .await;
    let nobody = server.anonymous();
    let versions = nobody.get("/versions").await.ok();
    assert!(
        versions["versions"]
            .as_array()
            .is_some_and(|versions| versions.contains(&json!("v1.11"))),
        "{versions}"
    );
    let client = nobody.get_whole("/.well-known/matrix/client").await.ok();
    assert_eq!(client["m.homeserver"]["base_url"], "https://chat.example.org");
    nobody
        .get("/v3/capabilities")
        .await
        .refused(401, "M_MISSING_TOKEN");
    let alice = server.register("alice").await;
    let capabilities = alice.get("/v3/capabilities").await.ok();
    assert!(
        capabilities["capabilities"]["m.room_versions"].is_object(),
        "{capabilities}"
    );
    let health = nobody.get_whole("/health").await.ok();
    assert_eq!(health["status"], "ok");
}
