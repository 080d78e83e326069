use hearth_engine::typing::{self, TypingError};
use hearth_storage::RoomNid;
use ruma::room_id;

use super::*;

const LONG: Option<Duration> = Some(Duration::from_secs(60));

fn any(_: RoomNid) -> bool {
    true
}

impl Server {
    async fn types(
        &self,
        user: &Requester,
        room_id: &RoomId,
        timeout: Option<Duration>,
    ) -> Result<(), TypingError> {
        typing::set(&self.engine, user, room_id, &user.user_id, timeout).await
    }

    /// How many type in the one room in which someone does.
    fn typists(&self) -> usize {
        self.engine
            .typing
            .present(any)
            .iter()
            .map(|room| room.typists.len())
            .sum()
    }
}

#[tokio::test]
async fn typing_ends_by_itself() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    let mut versions = server.engine.typing.watch();
    let before = server.engine.typing.version();
    server
        .types(&alice, &room_id, Some(Duration::from_millis(50)))
        .await
        .unwrap();
    let fell_quiet = async {
        versions.wait_for(|version| *version == before + 2).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(10), fell_quiet)
        .await
        .unwrap();
    assert_eq!(server.typists(), 0);
    let changes = server.engine.typing.changed_since(before, any);
    assert_eq!(
        changes.into_iter().map(|room| room.typists).collect::<Vec<_>>(),
        [vec![]]
    );
}

#[tokio::test]
async fn saying_so_again_prolongs_typing() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room_id = server.room(&alice).await;
    server
        .types(&alice, &room_id, Some(Duration::from_millis(30)))
        .await
        .unwrap();
    server.types(&alice, &room_id, LONG).await.unwrap();
    let version = server.engine.typing.version();
    let mut versions = server.engine.typing.watch();
    let changed = versions.wait_for(|now| *now != version);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), changed)
            .await
            .is_err()
    );
    assert_eq!(server.typists(), 1);
}

#[tokio::test]
async fn typing_ends_with_the_message_and_with_leaving() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room_id = server.room_of(&alice, &bob).await;
    server.types(&alice, &room_id, LONG).await.unwrap();
    server.types(&bob, &room_id, LONG).await.unwrap();
    assert_eq!(server.typists(), 2);
    server.say(&alice, &room_id, "here it is").await;
    assert_eq!(server.typists(), 1);
    server.leave(&bob, &room_id).await;
    assert_eq!(server.typists(), 0);
    server.types(&alice, &room_id, LONG).await.unwrap();
    server.types(&alice, &room_id, None).await.unwrap();
    assert_eq!(server.typists(), 0);
}

#[tokio::test]
async fn only_members_type_and_only_for_themselves() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room_id = server.room(&alice).await;
    assert!(matches!(
        server.types(&bob, &room_id, LONG).await,
        Err(TypingError::NotInRoom)
    ));
    let nowhere = room_id!("!nowhere:example.org");
    assert!(matches!(
        server.types(&bob, nowhere, LONG).await,
        Err(TypingError::NotInRoom)
    ));
    let for_another = typing::set(&server.engine, &bob, &room_id, &alice.user_id, LONG).await;
    assert!(matches!(for_another, Err(TypingError::NotYou)));
    assert_eq!(server.typists(), 0);
}
