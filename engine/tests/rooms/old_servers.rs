//! Other servers that know of an invite only what was known when rooms had two versions.

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use hearth_engine::remote::{Asked, KeysWanted, RemoteError, RemoteServers, invite_v1};
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, ServerName,
    api::federation::membership::create_invite::v2 as invite_v2,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{Ed25519KeyPair, PublicKeyMap, hash_and_sign_event},
    user_id,
};

use super::*;

const OLD: &str = "old.example";

/// The server `old.example`.
#[derive(Debug)]
struct OldServer {
    key: Ed25519KeyPair,
    /// What it was sent in its own way.
    invites: Arc<Mutex<Vec<Value>>>,
}

impl RemoteServers for OldServer {
    fn public_keys<'a>(&'a self, _: &'a KeysWanted) -> BoxFuture<'a, PublicKeyMap> {
        let key = Base64::new(self.key.public_key().to_vec());
        let keys = [("ed25519:1".to_owned(), key)].into();
        ready(PublicKeyMap::from([(OLD.to_owned(), keys)])).boxed()
    }

    fn invite<'a>(&'a self, _: &'a ServerName, _: invite_v2::Request) -> Asked<'a, invite_v2::Response> {
        ready(Err(RemoteError::Refused {
            status: 404,
            errcode: "M_UNRECOGNIZED".to_owned(),
            error: "Unrecognized request".to_owned(),
            body: None,
        }))
        .boxed()
    }

    fn invite_v1<'a>(
        &'a self,
        server: &'a ServerName,
        request: invite_v1::Request,
    ) -> Asked<'a, invite_v1::Response> {
        assert_eq!(server, OLD);
        let mut event: CanonicalJsonObject = serde_json::from_str(request.event.get()).unwrap();
        self.invites.lock().push(serde_json::to_value(&event).unwrap());
        event.remove("unsigned");
        hash_and_sign_event(OLD, &self.key, &mut event, &RoomVersionRules::V1.redaction).unwrap();
        let event = serde_json::value::to_raw_value(&event).unwrap();
        ready(Ok(invite_v1::Response { event })).boxed()
    }
}

#[tokio::test]
async fn a_server_that_knows_only_the_old_way_is_invited_in_it() {
    let database = TestDatabase::new().await;
    let db = database.connect().await;
    let document = Ed25519KeyPair::generate();
    let invites = Arc::default();
    let old = OldServer {
        key: Ed25519KeyPair::from_der(&document, "1".to_owned()).unwrap(),
        invites: Arc::clone(&invites),
    };
    let outside = Outside {
        remote: Arc::new(old),
        ..Outside::default()
    };
    let engine = engine_on(&db, 256 << 20, outside).await;
    let server = Server {
        engine,
        db,
        database,
        room_memory_bytes: 256 << 20,
    };
    let alice = server.user("alice").await;
    let bob = user_id!("@bob:old.example");
    let room_of = async |version: &str| {
        let mut request = CreateRequest::new();
        request.room_version = Some(version.try_into().unwrap());
        request.name = Some("The den".to_owned());
        create_room(&server.engine, &alice, request).await.unwrap()
    };
    for version in ["1", "2"] {
        let room_id = room_of(version).await;
        membership::invite(&server.engine, &alice, &room_id, bob, None)
            .await
            .unwrap();
        let sent = invites.lock().pop().unwrap();
        let told = sent["unsigned"]["invite_room_state"].to_string();
        assert!(told.contains("The den"), "{sent}");
        let member = read::state_event(&server.engine, &alice, &room_id, "m.room.member", bob.as_str())
            .await
            .unwrap();
        assert!(member.content.get().contains("invite"), "{}", member.content);
    }
    // Rooms of later versions can't be spoken of in that way.
    let room_id = room_of("3").await;
    membership::invite(&server.engine, &alice, &room_id, bob, None)
        .await
        .unwrap_err();
    assert!(invites.lock().is_empty());
    server.end().await;
}
