//! Two servers that federate, with a user of each: where most tests across servers begin.

use homeserver::config::Settings;
use serde_json::json;

use crate::{Authority, Client, Server, is_joined, public_chat, until};

/// The servers and their users.
#[derive(Debug)]
pub struct Two {
    /// Whom both trust: a third server may join them.
    pub authority: Authority,
    /// The first server.
    pub a: Server,
    /// The other.
    pub b: Server,
    /// Of the first.
    pub alice: Client,
    /// Of the other.
    pub bob: Client,
}

impl Two {
    /// Starts both.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts both, with other settings.
    pub async fn start_with(change: impl Fn(&mut Settings)) -> Self {
        let authority = Authority::new();
        let (a, b) = (
            Server::start_federated_with(&authority, &change).await,
            Server::start_federated_with(&authority, &change).await,
        );
        let (alice, bob) = (a.register("alice").await, b.register("bob").await);
        Self {
            authority,
            a,
            b,
            alice,
            bob,
        }
    }

    /// A public room that both users are in, and know each other to be.
    pub async fn room(&self) -> String {
        let room = self.alice.create_room(public_chat()).await.room_id();
        self.bob.join_via(&room, self.a.name()).await;
        self.alice.sees_membership(&room, &self.bob, "join").await;
        room
    }
}

/// Across servers.
impl Client {
    /// Joins a room through a server that is in it, and syncs until it is there.
    pub async fn join_via(&self, room_id: &str, via: &str) {
        let path = format!("/v3/join/{room_id}?via={via}");
        self.post(&path, json!({})).await.ok();
        self.sync_until(is_joined(room_id)).await;
    }

    /// Waits until the own server knows of a membership.
    pub async fn sees_membership(&self, room_id: &str, member: &Self, membership: &str) {
        until("the membership is known", || async {
            (self.memberships(room_id).await[&member.user_id] == membership).then_some(())
        })
        .await;
    }
}
