//! Invites of people who are known by an e-mail address only, and invites in the way of the oldest servers.

use std::collections::BTreeMap;

use hearth_engine::remote::invite_v1;
use hearth_tests::{Answer, Client, Server, Two, is_invited, is_joined};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName,
    api::federation::thirdparty::exchange_invite::v1::Request as ExchangeRequest,
    serde::{Base64, Raw},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};

/// What is there of an identity server: its key.
struct IdentityServer(Ed25519KeyPair);

impl IdentityServer {
    fn new() -> Self {
        let document = Ed25519KeyPair::generate();
        Self(Ed25519KeyPair::from_der(&document, "0".to_owned()).expect("it is a key"))
    }

    fn public_key(&self) -> String {
        Base64::<ruma::serde::base64::Standard, _>::new(self.0.public_key().to_vec()).encode()
    }

    /// The statement that whoever was invited by `token` is `user`.
    fn statement(&self, token: &str, user: &Client, sender: Option<&Client>) -> Value {
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let mut statement: CanonicalJsonObject = BTreeMap::from([
            ("mxid".to_owned(), text(&user.user_id)),
            ("token".to_owned(), text(token)),
        ]);
        statement.extend(sender.map(|sender| ("sender".to_owned(), text(&sender.user_id))));
        sign_json("identity.example", &self.0, &mut statement).expect("it can be signed");
        serde_json::to_value(statement).expect("JSON")
    }

    /// Tells the server of `user` that they were invited. Nobody in particular says so.
    async fn tell(&self, server: &Server, user: &Client, invites: Value) -> Answer {
        let body = json!({
            "medium": "email", "address": "somebody@example.org", "mxid": user.user_id, "invites": invites,
        });
        let request = server
            .anonymous()
            .request(reqwest::Method::PUT, "/_matrix/federation/v1/3pid/onbind")
            .json(&body);
        server.anonymous().send_request(request).await
    }

    fn invite(&self, room: &str, token: &str, sender: &Client, user: &Client) -> Value {
        json!({
            "medium": "email", "address": "somebody@example.org", "mxid": user.user_id, "room_id": room,
            "sender": sender.user_id, "signed": self.statement(token, user, None),
        })
    }
}

/// A room to which somebody with an address is invited by `token`.
async fn room_with_invite(host: &Client, identity: &IdentityServer, token: &str) -> String {
    let room = host.create_room(json!({})).await.room_id();
    let content = json!({
        "display_name": "somebody", "public_key": identity.public_key(),
        "public_keys": [{ "public_key": identity.public_key() }],
    });
    host.send_state(&room, "m.room.third_party_invite", token, content)
        .await
        .event_id();
    room
}

#[tokio::test]
async fn who_was_invited_by_address_is_invited_once_the_identity_server_says_who_it_is() {
    let Two { b, alice, bob, .. } = &Two::start().await;
    let identity = IdentityServer::new();
    let room = room_with_invite(alice, &identity, "token").await;
    let invites = json!([identity.invite(&room, "token", alice, bob)]);
    identity.tell(b, bob, invites).await.ok();
    bob.sync_until(is_invited(&room)).await;
    let member = alice.state(&room, "m.room.member", &bob.user_id).await.ok();
    assert_eq!(member["third_party_invite"]["display_name"], "somebody");
    assert_eq!(member["third_party_invite"]["signed"]["token"], "token");
    bob.join(&room).await.ok();
    bob.sync_until(is_joined(&room)).await;
    alice.sees_membership(&room, bob, "join").await;
}

#[tokio::test]
async fn a_server_that_is_in_the_room_invites_in_the_name_of_another_servers_user() {
    let Two { a, b, alice, bob, .. } = &Two::start().await;
    let identity = IdentityServer::new();
    let room = room_with_invite(alice, &identity, "token").await;
    let carol = b.register("carol").await;
    alice.invite(&room, &carol).await.ok();
    carol.sync_until(is_invited(&room)).await;
    carol.join_via(&room, a.name()).await;
    let invites = json!([identity.invite(&room, "token", alice, bob)]);
    identity.tell(b, bob, invites).await.ok();
    bob.sync_until(is_invited(&room)).await;
    alice.sees_membership(&room, bob, "invite").await;
    bob.join(&room).await.ok();
    alice.sees_membership(&room, bob, "join").await;
}

#[tokio::test]
async fn a_proof_given_with_a_join_makes_an_invite_first() {
    let Two { a, alice, bob, .. } = &Two::start().await;
    let identity = IdentityServer::new();
    let room = room_with_invite(alice, &identity, "here").await;
    let dora = a.register("dora").await;
    let join = |user: &Client, token: &str| {
        let signed = identity.statement(token, user, Some(alice));
        json!({ "third_party_signed": signed })
    };
    let path = format!("/v3/join/{room}?via={}", a.name());
    bob.post(&path, json!({})).await.refused(403, "M_FORBIDDEN");
    dora.post(&path, join(bob, "here"))
        .await
        .refused(403, "M_FORBIDDEN");
    dora.post(&path, join(&dora, "other"))
        .await
        .refused(403, "M_FORBIDDEN");
    dora.post(&path, join(&dora, "here")).await.ok();
    bob.post(&path, join(bob, "here")).await.ok();
    bob.sync_until(is_joined(&room)).await;
    alice.sees_membership(&room, &dora, "join").await;
}

#[tokio::test]
async fn what_proves_nothing_invites_nobody() {
    let Two { b, alice, bob, .. } = &Two::start().await;
    let (identity, other) = (IdentityServer::new(), IdentityServer::new());
    let room = room_with_invite(alice, &identity, "token").await;
    let forged = other.invite(&room, "token", alice, bob);
    identity.tell(b, bob, json!([forged])).await.ok();
    let unknown = identity.invite(&room, "unknown", alice, bob);
    identity.tell(b, bob, json!([unknown])).await.ok();
    let by_another = identity.invite(&room, "token", bob, bob);
    identity.tell(b, bob, json!([by_another])).await.ok();
    let of_another = identity.invite(&room, "token", alice, alice);
    identity
        .tell(b, bob, json!([of_another]))
        .await
        .refused(400, "M_INVALID_PARAM");
    identity
        .tell(b, alice, json!([]))
        .await
        .refused(400, "M_INVALID_PARAM");
    let many = vec![identity.invite(&room, "token", alice, bob); 51];
    identity
        .tell(b, bob, json!(many))
        .await
        .refused(400, "M_INVALID_PARAM");
    identity.tell(b, bob, json!(1)).await.refused(400, "M_BAD_JSON");
    assert!(alice.memberships(&room).await[&bob.user_id].is_null());
    // The proof is good still.
    let good = identity.invite(&room, "token", alice, bob);
    identity.tell(b, bob, json!([good])).await.ok();
    bob.sync_until(is_invited(&room)).await;
    // Once more, and for who is in it, changes nothing.
    bob.join(&room).await.ok();
    let again = identity.invite(&room, "token", alice, bob);
    identity.tell(b, bob, json!([again])).await.ok();
    assert_eq!(alice.memberships(&room).await[&bob.user_id], "join");
}

#[tokio::test]
async fn an_exchange_is_for_users_of_who_asks_and_the_key_must_be_in_use() {
    let Two { a, b, alice, bob, .. } = &Two::start().await;
    let identity = IdentityServer::new();
    let room = room_with_invite(alice, &identity, "token").await;
    let dora = a.register("dora").await;
    let host: OwnedServerName = a.name().try_into().expect("a server name");
    let exchange = async |user: &Client, token: &str, membership: &str| {
        let content = json!({
            "membership": membership,
            "third_party_invite": { "display_name": "x", "signed": identity.statement(token, user, None) },
        });
        let request = ExchangeRequest::new(
            room.as_str().try_into().expect("an ID"),
            alice.user_id.as_str().try_into().expect("an ID"),
            user.user_id.as_str().try_into().expect("an ID"),
            Raw::new(&content).expect("JSON").cast_unchecked(),
        );
        let answered = b.engine().remote.exchange_invite(&host, request).await;
        answered.map(|_| ()).map_err(|error| error.to_string())
    };
    let refused = exchange(&dora, "token", "invite").await.expect_err("not theirs");
    assert!(refused.contains("M_FORBIDDEN"), "{refused}");
    let refused = exchange(bob, "token", "join").await.expect_err("no invite");
    assert!(refused.contains("M_INVALID_PARAM"), "{refused}");
    // Of a key that says where to ask about it, it must be known that it is in use.
    let content = json!({
        "display_name": "somebody", "public_key": identity.public_key(),
        "key_validity_url": format!("https://{}/nothing", b.name()),
    });
    alice
        .send_state(&room, "m.room.third_party_invite", "revoked", content)
        .await
        .event_id();
    let refused = exchange(bob, "revoked", "invite")
        .await
        .expect_err("nobody knows");
    assert!(refused.contains("M_FORBIDDEN"), "{refused}");
    exchange(bob, "token", "invite")
        .await
        .expect("it is a good proof");
    bob.sync_until(is_invited(&room)).await;
}

#[tokio::test]
async fn inviting_by_address_is_refused_where_no_identity_server_is_asked() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await.room_id();
    let by_address = json!({
        "id_server": "identity.example", "id_access_token": "x", "medium": "email", "address": "somebody@example.org",
    });
    alice
        .post(&format!("/v3/rooms/{room}/invite"), by_address.clone())
        .await
        .refused(403, "M_THREEPID_DENIED");
    alice
        .create_room(json!({ "invite_3pid": [by_address] }))
        .await
        .refused(403, "M_THREEPID_DENIED");
}

/// The newest event of a server, as others get it.
async fn newest_pdu(server: &Server) -> Value {
    let pool = sqlx::PgPool::connect(server.database_url())
        .await
        .expect("the database is there");
    let pdu: Vec<u8> = sqlx::query_scalar("SELECT pdu FROM events ORDER BY position DESC NULLS LAST LIMIT 1")
        .fetch_one(&pool)
        .await
        .expect("there is one");
    pool.close().await;
    serde_json::from_slice(&pdu).expect("JSON")
}

#[tokio::test]
async fn an_invite_in_the_old_way_is_signed_and_shown() {
    let Two { a, b, alice, bob, .. } = &Two::start().await;
    let room = alice
        .create_room(json!({ "room_version": "2", "name": "The den" }))
        .await
        .room_id();
    alice.invite(&room, bob).await.ok();
    let invite = newest_pdu(a).await;
    assert_eq!(invite["state_key"], bob.user_id.as_str(), "{invite}");
    bob.sync_until(is_invited(&room)).await;
    bob.leave(&room).await.ok();
    alice.sees_membership(&room, bob, "leave").await;
    bob.sync().await;

    let guest: OwnedServerName = b.name().try_into().expect("a server name");
    let ask = async |invite: &Value| {
        let mut event = invite.clone();
        let stripped = json!({
            "type": "m.room.name", "state_key": "", "sender": alice.user_id, "content": { "name": "The den" },
        });
        event["unsigned"] = json!({ "invite_room_state": [stripped] });
        let request = invite_v1::Request {
            room_id: room.as_str().try_into().expect("an ID"),
            event_id: invite["event_id"]
                .as_str()
                .expect("an ID")
                .try_into()
                .expect("an ID"),
            event: serde_json::value::to_raw_value(&event).expect("JSON"),
        };
        a.engine().remote.invite_v1(&guest, request).await
    };
    let signed = ask(&invite).await.expect("it is signed");
    let signed: Value = serde_json::from_str(signed.event.get()).expect("JSON");
    for server in [a.name(), b.name()] {
        assert!(signed["signatures"][server].is_object(), "{signed}");
    }
    let sync = bob.sync_until(is_invited(&room)).await;
    let stripped = sync["rooms"]["invite"][&room]["invite_state"]["events"].to_string();
    assert!(stripped.contains("The den"), "{stripped}");
    // It was not said of which version the room is: that comes with the join.
    let forged = json!({ "membership": "join" });
    let mut other = invite.clone();
    other["content"] = forged;
    let refused = ask(&other).await.expect_err("it is no invite").to_string();
    assert!(refused.contains("M_INVALID_PARAM"), "{refused}");
    alice.invite(&room, bob).await.ok();
    bob.join(&room).await.ok();
    alice.sees_membership(&room, bob, "join").await;
}
