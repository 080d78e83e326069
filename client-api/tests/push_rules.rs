//! The routes of push rules as a client calls them: paths, bodies and error codes. The rules behind them are tested in
//! the engine.

use axum::{Router, body::Body};
use hearth_engine::test_engine;
use http::{Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

struct Client {
    router: Router,
    token: String,
}

/// Alice on a server of her own.
async fn client() -> Client {
    let (engine, _) = test_engine::start(test_engine::open_config()).await;
    let mut client = Client {
        router: hearth_client_api::router(engine),
        token: String::new(),
    };
    let body = json!({ "username": "alice", "password": "password", "auth": { "type": "m.login.dummy" } });
    let (_, registered) = client.call("POST", "/register", body).await;
    client.token = registered["access_token"].as_str().unwrap().to_owned();
    client
}

impl Client {
    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/_matrix/client/v3{path}"));
        if !self.token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            body.to_string().into()
        };
        let response = self
            .router
            .clone()
            .oneshot(request.body(body).unwrap())
            .await
            .unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn put(&self, path: &str, body: Value) {
        assert_eq!(self.call("PUT", path, body).await, (200, json!({})), "{path}");
    }

    #[track_caller]
    fn refused((status, body): &(u16, Value), expected: u16, code: &str) {
        assert_eq!((*status, &body["errcode"]), (expected, &json!(code)), "{body}");
    }

    /// The IDs of the user's own rules of a kind, in order.
    async fn own(&self, kind: &str) -> Vec<String> {
        let rules = self.get("/pushrules/").await;
        let rules = rules["global"][kind].as_array().unwrap().clone();
        let own = rules.iter().filter(|rule| rule["default"] == false);
        own.map(|rule| rule["rule_id"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn the_server_has_rules_of_every_kind_and_a_name_for_each() {
    let alice = client().await;
    let all = alice.get("/pushrules/").await;
    assert_eq!(alice.get("/pushrules/global/").await, all["global"]);
    for kind in ["override", "content", "room", "sender", "underride"] {
        for rule in all["global"][kind].as_array().unwrap() {
            let path = format!("/pushrules/global/{kind}/{}", rule["rule_id"].as_str().unwrap());
            assert_eq!(alice.get(&path).await, *rule);
            assert_eq!(
                alice.get(&format!("{path}/enabled")).await,
                json!({ "enabled": rule["enabled"] })
            );
            assert_eq!(
                alice.get(&format!("{path}/actions")).await,
                json!({ "actions": rule["actions"] })
            );
        }
    }
    assert_eq!(
        alice
            .get("/user/@alice:example.org/account_data/m.push_rules")
            .await,
        all
    );
    let put = alice
        .call(
            "PUT",
            "/user/@alice:example.org/account_data/m.push_rules",
            json!({}),
        )
        .await;
    Client::refused(&put, 405, "M_BAD_JSON");
}

#[tokio::test]
async fn rules_of_every_kind_can_be_made_changed_and_deleted() {
    let alice = client().await;
    let tweak = json!(["notify", { "set_tweak": "sound", "value": "bing" }]);
    for (kind, rule_id, body) in [
        (
            "override",
            "beer",
            json!({ "actions": tweak, "conditions": [{ "kind": "room_member_count", "is": "<=10" }] }),
        ),
        ("underride", "all", json!({ "actions": tweak })),
        (
            "content",
            "cake",
            json!({ "actions": tweak, "pattern": "cake*lie" }),
        ),
        ("room", "!room:example.org", json!({ "actions": [] })),
        (
            "sender",
            "@spam:example.org",
            json!({ "actions": [], "pattern": 1 }),
        ),
    ] {
        let path = format!("/pushrules/global/{kind}/{rule_id}");
        alice.put(&path, body.clone()).await;
        let rule = alice.get(&path).await;
        assert_eq!(
            (&rule["rule_id"], &rule["enabled"], &rule["default"]),
            (&json!(rule_id), &json!(true), &json!(false))
        );
        assert_eq!(rule["actions"], body["actions"]);
        if kind.ends_with("ride") {
            assert_eq!(
                rule["conditions"],
                body.get("conditions").cloned().unwrap_or(json!([]))
            );
        }
        alice
            .put(&format!("{path}/enabled"), json!({ "enabled": false }))
            .await;
        alice
            .put(&format!("{path}/actions"), json!({ "actions": ["notify"] }))
            .await;
        let rule = alice.get(&path).await;
        assert_eq!(
            (&rule["enabled"], &rule["actions"]),
            (&json!(false), &json!(["notify"]))
        );
        assert_eq!(alice.call("DELETE", &path, Value::Null).await, (200, json!({})));
        Client::refused(&alice.call("GET", &path, Value::Null).await, 404, "M_NOT_FOUND");
        assert!(alice.own(kind).await.is_empty());
    }
}

#[tokio::test]
async fn rules_are_placed_by_others() {
    let alice = client().await;
    let body = || json!({ "actions": [], "pattern": "x" });
    alice.put("/pushrules/global/content/a", body()).await;
    alice.put("/pushrules/global/content/b", body()).await;
    alice.put("/pushrules/global/content/c?after=b", body()).await;
    alice.put("/pushrules/global/content/d?before=b", body()).await;
    assert_eq!(alice.own("content").await, ["d", "b", "c", "a"]);
    alice.put("/pushrules/global/content/d?after=a", body()).await;
    assert_eq!(alice.own("content").await, ["b", "c", "a", "d"]);
    let refused = alice
        .call("PUT", "/pushrules/global/content/e?before=nowhere", body())
        .await;
    Client::refused(&refused, 400, "M_UNKNOWN");
    assert_eq!(refused.1["error"], "before/after rule not found: nowhere");
    let refused = alice
        .call(
            "PUT",
            "/pushrules/global/override/e?before=.m.rule.master",
            body(),
        )
        .await;
    Client::refused(&refused, 400, "M_INVALID_PARAM");
    assert_eq!(alice.own("content").await.len(), 4);
}

#[tokio::test]
async fn a_bad_rule_has_the_code_of_its_fault() {
    let alice = client().await;
    let body = || json!({ "actions": [], "pattern": "x" });
    for (path, code) in [
        ("content/.m.rule.mine", "M_INVALID_PARAM"),
        ("content/a%2Fb", "M_INVALID_PARAM"),
        ("content/a%5Cb", "M_INVALID_PARAM"),
        ("room/nowhere", "M_INVALID_PARAM"),
        ("sender/nobody", "M_INVALID_PARAM"),
        ("nothing/a", "M_INVALID_PARAM"),
    ] {
        Client::refused(
            &alice
                .call("PUT", &format!("/pushrules/global/{path}"), body())
                .await,
            400,
            code,
        );
    }
    for bad in [
        json!({ "pattern": "x" }),
        json!({ "actions": [] }),
        json!({ "actions": 1, "pattern": "x" }),
    ] {
        Client::refused(
            &alice.call("PUT", "/pushrules/global/content/a", bad).await,
            400,
            "M_BAD_JSON",
        );
    }
    let missing = "/pushrules/global/content/a";
    for (method, path, body) in [
        ("GET", missing.to_owned(), Value::Null),
        ("DELETE", missing.to_owned(), Value::Null),
        ("GET", format!("{missing}/enabled"), Value::Null),
        ("PUT", format!("{missing}/enabled"), json!({ "enabled": true })),
        ("GET", format!("{missing}/actions"), Value::Null),
        ("PUT", format!("{missing}/actions"), json!({ "actions": [] })),
        ("GET", "/pushrules/global/nothing/a".to_owned(), Value::Null),
    ] {
        Client::refused(&alice.call(method, &path, body).await, 404, "M_NOT_FOUND");
    }
    let deleted = alice
        .call("DELETE", "/pushrules/global/override/.m.rule.master", Value::Null)
        .await;
    Client::refused(&deleted, 400, "M_INVALID_PARAM");
    alice
        .put(
            "/pushrules/global/override/.m.rule.master/enabled",
            json!({ "enabled": true }),
        )
        .await;
    assert_eq!(
        alice
            .get("/pushrules/global/override/.m.rule.master/enabled")
            .await,
        json!({ "enabled": true })
    );
}
