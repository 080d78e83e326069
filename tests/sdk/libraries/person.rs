//! A user with two devices, one of each library, which have to agree.

use hearth_tests::Server;

use crate::{
    device::{Device, View},
    nio::Nio,
    sdk::Sdk,
};

/// A user.
#[derive(Debug)]
pub struct Person {
    /// The device that registered.
    pub sdk: Sdk,
    /// The one that was logged in after it.
    pub nio: Nio,
}

impl Person {
    /// Registers a user, who is called as they are named, but with a capital.
    pub async fn register(server: &Server, username: &str) -> Self {
        let sdk = Sdk::register(&server.url(), username).await;
        let (first, rest) = username.split_at(1);
        sdk.set_displayname(&(first.to_uppercase() + rest)).await;
        let nio = Nio::login(&server.url(), sdk.user_id()).await;
        let person = Self { sdk, nio };
        person.catch_up().await;
        person
    }

    /// The same user, with two more devices that know nothing yet.
    pub async fn with_new_devices(&self, server: &Server) -> Self {
        let person = Self {
            sdk: Sdk::login(&server.url(), self.id()).await,
            nio: Nio::login(&server.url(), self.id()).await,
        };
        person.catch_up().await;
        person
    }

    /// The user's ID.
    pub fn id(&self) -> &str {
        self.sdk.user_id()
    }

    /// Has both devices learn what happened.
    pub async fn catch_up(&self) {
        tokio::join!(self.sdk.catch_up(), self.nio.catch_up());
    }

    /// What both devices see of the room, now.
    ///
    /// # Panics
    ///
    /// When it isn't the same.
    pub async fn view(&self, room_id: &str) -> View {
        self.catch_up().await;
        let (view, other) = tokio::join!(self.sdk.view(room_id), self.nio.view(room_id));
        view.assert_same(&other, self.id());
        view
    }

    /// What both devices have learnt of the user's membership.
    ///
    /// # Panics
    ///
    /// When it isn't the same.
    pub async fn membership(&self, room_id: &str) -> String {
        self.catch_up().await;
        let (membership, other) = tokio::join!(self.sdk.membership(room_id), self.nio.membership(room_id));
        assert_eq!(membership, other, "{}'s membership", self.id());
        membership
    }
}

/// What each of the room's members sees of it, in their order. All see the same, but for what is their own.
///
/// # Panics
///
/// When they don't.
pub async fn views<const N: usize>(people: [&Person; N], room_id: &str) -> [View; N] {
    let mut views = Vec::with_capacity(N);
    for person in people {
        views.push(person.view(room_id).await);
    }
    for view in &views[1..] {
        views[0].assert_same_to_another(view, "everybody");
    }
    let views: Result<[View; N], _> = views.try_into();
    views.unwrap_or_else(|_| unreachable!("there is one for each"))
}
