use hearth_engine::{
    accounts::{login, logins::DeviceRequest, operator},
    aliases::{self, AliasError},
};
use ruma::{RoomAliasId, room_alias_id, room_id};

use super::*;

const ALIAS: &str = "#hearth:example.org";

fn alias() -> &'static RoomAliasId {
    room_alias_id!("#hearth:example.org")
}

impl Server {
    async fn alias(&self, user: &Requester, room_id: &RoomId) -> Result<(), AliasError> {
        aliases::create(&self.engine, user, alias(), room_id).await
    }

    async fn delete(&self, user: &Requester) -> Result<(), AliasError> {
        aliases::delete(&self.engine, user, alias()).await
    }

    async fn admin(&self) -> Requester {
        operator::add_user(&self.engine, "root", Some("password".into()), true)
            .await
            .unwrap();
        let info = json!({
            "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "root" }, "password": "password",
        });
        let info = serde_json::from_value(info).unwrap();
        let login = login::login(&self.engine, info, DeviceRequest::default())
            .await
            .unwrap();
        authenticate(&self.engine, &login.access_token).await.unwrap()
    }

    async fn resolve(&self) -> Option<OwnedRoomId> {
        aliases::resolve(&self.engine, alias()).await.unwrap()
    }
}

#[tokio::test]
async fn an_alias_points_to_its_room_until_it_is_deleted() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    assert_eq!(server.resolve().await, None);
    assert!(matches!(
        aliases::get(&server.engine, alias()).await,
        Err(AliasError::Unknown(_))
    ));
    server.alias(&alice, &room_id).await.unwrap();
    assert_eq!(server.resolve().await.as_ref(), Some(&room_id));
    let (found, servers) = aliases::get(&server.engine, alias()).await.unwrap();
    assert_eq!(
        (found, servers),
        (room_id.clone(), vec![owned_server_name!("example.org")])
    );
    assert_eq!(
        aliases::of_room(&server.engine, &alice, &room_id).await.unwrap(),
        [alias()]
    );
    server.delete(&alice).await.unwrap();
    assert_eq!(server.resolve().await, None);
    assert!(matches!(server.delete(&alice).await, Err(AliasError::Unknown(_))));
}

#[tokio::test]
async fn an_alias_is_given_once() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let (first, second) = (server.room(&alice).await, server.room(&alice).await);
    server.alias(&alice, &first).await.unwrap();
    for room_id in [&first, &second] {
        assert!(matches!(
            server.alias(&alice, room_id).await,
            Err(AliasError::Taken(_))
        ));
    }
    assert_eq!(server.resolve().await, Some(first));
}

#[tokio::test]
async fn members_make_aliases_of_this_server() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room_id = server.room(&alice).await;
    assert!(matches!(
        server.alias(&bob, &room_id).await,
        Err(AliasError::NotInRoom)
    ));
    let nowhere = room_id!("!nowhere:example.org");
    assert!(matches!(
        server.alias(&bob, nowhere).await,
        Err(AliasError::NotInRoom)
    ));
    for bad in ["#hearth:elsewhere.org", "#:example.org", "#two words:example.org"] {
        let alias = <&RoomAliasId>::try_from(bad).unwrap();
        let made = aliases::create(&server.engine, &alice, alias, &room_id).await;
        assert!(matches!(made, Err(AliasError::Invalid(_))), "{bad}");
    }
    let elsewhere = aliases::get(&server.engine, room_alias_id!("#hearth:elsewhere.org")).await;
    assert!(matches!(elsewhere, Err(AliasError::Unknown(_))));
}

#[tokio::test]
async fn the_aliases_of_a_room_are_for_its_members_unless_the_world_may_read_it() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room_id = server.room(&alice).await;
    server.alias(&alice, &room_id).await.unwrap();
    let of_room = || aliases::of_room(&server.engine, &bob, &room_id);
    assert!(matches!(of_room().await, Err(AliasError::NotInRoom)));
    server
        .set_state(
            &alice,
            &room_id,
            "m.room.history_visibility",
            json!({ "history_visibility": "world_readable" }),
        )
        .await;
    assert_eq!(of_room().await.unwrap(), [alias()]);
}

#[tokio::test]
async fn an_alias_is_deleted_by_its_maker_and_by_who_has_the_power() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (carol, dave) = (server.user("carol").await, server.user("dave").await);
    let room_id = server.room_of(&alice, &bob).await;
    server.join(&carol, &room_id).await;

    server.alias(&bob, &room_id).await.unwrap();
    for other in [&carol, &dave] {
        assert!(matches!(server.delete(other).await, Err(AliasError::NotAllowed)));
    }
    server.delete(&bob).await.unwrap();

    server.alias(&bob, &room_id).await.unwrap();
    server.delete(&alice).await.unwrap();

    // In this room everyone may set the aliases, if only they are in it.
    server
        .set_state(
            &alice,
            &room_id,
            "m.room.power_levels",
            json!({ "events": { "m.room.canonical_alias": 0 } }),
        )
        .await;
    server.alias(&bob, &room_id).await.unwrap();
    assert!(matches!(server.delete(&dave).await, Err(AliasError::NotAllowed)));
    server.delete(&carol).await.unwrap();
}

#[tokio::test]
async fn an_administrator_deletes_any_alias() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    server.alias(&alice, &room_id).await.unwrap();
    let admin = server.admin().await;
    server
        .set_state(
            &alice,
            &room_id,
            "m.room.canonical_alias",
            json!({ "alias": ALIAS }),
        )
        .await;
    server.delete(&admin).await.unwrap();
    assert_eq!(server.resolve().await, None);
    // An administrator has no power in the room: its event stays.
    assert_eq!(
        server.state(&alice, &room_id, "m.room.canonical_alias", "").await,
        json!({ "alias": ALIAS })
    );
}

#[tokio::test]
async fn a_deleted_alias_is_no_longer_the_rooms() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    server.alias(&alice, &room_id).await.unwrap();
    let other = room_alias_id!("#other:example.org");
    aliases::create(&server.engine, &alice, other, &room_id)
        .await
        .unwrap();
    let canonical = json!({ "alias": ALIAS, "alt_aliases": [ALIAS, other], "org.example": 1 });
    server
        .set_state(&alice, &room_id, "m.room.canonical_alias", canonical)
        .await;
    server.delete(&alice).await.unwrap();
    assert_eq!(
        server.state(&alice, &room_id, "m.room.canonical_alias", "").await,
        json!({ "alt_aliases": [other], "org.example": 1 })
    );
}
