//! Presence: set, asked for, and found in a sync.

use serde_json::Value;

use crate::{Client, until};

fn path(of: &Client) -> String {
    format!("/v3/presence/{}/status", of.user_id)
}

/// Presence.
impl Client {
    /// Says what the user is.
    pub async fn set_presence(&self, body: Value) {
        self.put(&path(self), body).await.ok();
    }

    /// What somebody is.
    pub async fn presence_of(&self, of: &Self) -> Value {
        self.get(&path(of)).await.ok()
    }

    /// Asks until somebody is so.
    pub async fn sees(&self, of: &Self, state: &str) -> Value {
        until(&format!("{} is {state}", of.user_id), || async {
            // Nothing may be known of it yet.
            let presence = self.get(&path(of)).await.body;
            (presence["presence"] == state).then_some(presence)
        })
        .await
    }
}

/// The last that a sync tells of somebody's presence.
///
/// # Panics
///
/// When it isn't told as the specification has it.
pub fn presence(sync: &Value, of: &Client) -> Option<Value> {
    presence_of(sync, &of.user_id)
}

fn presence_of(sync: &Value, user_id: &str) -> Option<Value> {
    let events = sync["presence"]["events"].as_array()?;
    let event = events.iter().rfind(|event| event["sender"] == user_id)?;
    assert_eq!(event["type"], "m.presence");
    Some(event["content"].clone())
}

/// Tells that somebody is so.
pub fn presence_is(of: &Client, state: &str) -> impl Fn(&Value) -> bool {
    let (user_id, state) = (of.user_id.clone(), state.to_owned());
    move |sync| presence_of(sync, &user_id).is_some_and(|content| content["presence"] == state)
}
