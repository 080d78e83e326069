//! What users do, each a request: the vocabulary of the tests.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{Answer, Client};

/// Every user's.
pub const PASSWORD: &str = "correct horse battery staple";

/// When a client tries again what the server failed at.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A parameter of `createRoom`: a room that anyone may join.
pub fn public_chat() -> Value {
    json!({ "preset": "public_chat" })
}

/// The content of a text message.
pub fn text(body: &str) -> Value {
    json!({ "msgtype": "m.text", "body": body })
}

/// `text` as a segment of a path, or a value of a query.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// The IDs of events, in their order.
pub fn event_ids(events: &Value) -> Vec<String> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events
        .iter()
        .filter_map(|event| event["event_id"].as_str().map(ToOwned::to_owned))
        .collect()
}

/// Accounts.
impl Client {
    /// Registers with the dummy stage sent at once.
    pub async fn register(&self, username: &str) -> Answer {
        let auth = json!({ "type": "m.login.dummy" });
        self.post(
            "/v3/register",
            json!({ "username": username, "password": PASSWORD, "auth": auth }),
        )
        .await
    }

    /// Logs in by password.
    pub async fn login(&self, user: &str, password: &str) -> Answer {
        let identifier = json!({ "type": "m.id.user", "user": user });
        self.post(
            "/v3/login",
            json!({ "type": "m.login.password", "identifier": identifier, "password": password }),
        )
        .await
    }

    /// Another device of the same user.
    pub async fn another_device(&self) -> Self {
        self.session_of(&self.login(&self.user_id, PASSWORD).await.ok())
    }
}

/// Rooms and who is in them.
impl Client {
    /// `createRoom`
    pub async fn create_room(&self, parameters: Value) -> Answer {
        self.post("/v3/createRoom", parameters).await
    }

    /// Joins by room ID or alias.
    pub async fn join(&self, room: &str) -> Answer {
        self.post(&format!("/v3/join/{}", encoded(room)), json!({})).await
    }

    /// Invites.
    pub async fn invite(&self, room_id: &str, user: &Self) -> Answer {
        self.of_member(room_id, "invite", user, None).await
    }

    /// Leaves, or declines an invite.
    pub async fn leave(&self, room_id: &str) -> Answer {
        self.post(&format!("/v3/rooms/{room_id}/leave"), json!({})).await
    }

    /// Forgets.
    pub async fn forget(&self, room_id: &str) -> Answer {
        self.post(&format!("/v3/rooms/{room_id}/forget"), json!({})).await
    }

    /// Kicks.
    pub async fn kick(&self, room_id: &str, user: &Self, reason: Option<&str>) -> Answer {
        self.of_member(room_id, "kick", user, reason).await
    }

    /// Bans.
    pub async fn ban(&self, room_id: &str, user: &Self, reason: Option<&str>) -> Answer {
        self.of_member(room_id, "ban", user, reason).await
    }

    /// Lifts a ban.
    pub async fn unban(&self, room_id: &str, user: &Self) -> Answer {
        self.of_member(room_id, "unban", user, None).await
    }

    async fn of_member(&self, room_id: &str, verb: &str, user: &Self, reason: Option<&str>) -> Answer {
        let mut body = json!({ "user_id": user.user_id });
        if let Some(reason) = reason {
            body["reason"] = reason.into();
        }
        self.post(&format!("/v3/rooms/{room_id}/{verb}"), body).await
    }

    /// The members: `membership` by user ID, as their member events have it.
    pub async fn memberships(&self, room_id: &str) -> Value {
        let members = self.get(&format!("/v3/rooms/{room_id}/members")).await.ok();
        let chunk = members["chunk"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of = |event: &Value| {
            Some((
                event["state_key"].as_str()?.to_owned(),
                event["content"]["membership"].clone(),
            ))
        };
        Value::Object(chunk.iter().filter_map(of).collect())
    }
}

/// Events.
impl Client {
    /// Sends a text message.
    pub async fn send_text(&self, room_id: &str, body: &str) -> Answer {
        self.send(room_id, "m.room.message", text(body)).await
    }

    /// Sends a message event.
    pub async fn send(&self, room_id: &str, event_type: &str, content: Value) -> Answer {
        self.send_as(&self.new_txn_id(), room_id, event_type, content)
            .await
    }

    /// Sends a message event under a transaction id.
    pub async fn send_as(&self, txn_id: &str, room_id: &str, event_type: &str, content: Value) -> Answer {
        self.put(
            &format!("/v3/rooms/{room_id}/send/{event_type}/{txn_id}"),
            content,
        )
        .await
    }

    /// Sends numbered text messages, one after the other: their event IDs.
    pub async fn send_texts(&self, room_id: &str, count: usize) -> Vec<String> {
        let mut sent = Vec::with_capacity(count);
        for number in 0..count {
            sent.push(
                self.send_text(room_id, &format!("message {number}"))
                    .await
                    .event_id(),
            );
        }
        sent
    }

    /// Redacts.
    pub async fn redact(&self, room_id: &str, event_id: &str, reason: &str) -> Answer {
        let (event_id, txn_id) = (encoded(event_id), self.new_txn_id());
        let path = format!("/v3/rooms/{room_id}/redact/{event_id}/{txn_id}");
        self.put(&path, json!({ "reason": reason })).await
    }

    /// Sets state.
    pub async fn send_state(
        &self,
        room_id: &str,
        event_type: &str,
        state_key: &str,
        content: Value,
    ) -> Answer {
        self.put(
            &format!("/v3/rooms/{room_id}/state/{event_type}/{}", encoded(state_key)),
            content,
        )
        .await
    }

    /// The content of a state event.
    pub async fn state(&self, room_id: &str, event_type: &str, state_key: &str) -> Answer {
        self.get(&format!(
            "/v3/rooms/{room_id}/state/{event_type}/{}",
            encoded(state_key)
        ))
        .await
    }

    /// An event.
    pub async fn event(&self, room_id: &str, event_id: &str) -> Answer {
        self.get(&format!("/v3/rooms/{room_id}/event/{}", encoded(event_id)))
            .await
    }

    /// A page of history; `query` as in `dir=b&limit=10`.
    pub async fn messages(&self, room_id: &str, query: &str) -> Answer {
        self.get(&format!("/v3/rooms/{room_id}/messages?{query}")).await
    }

    /// All events that paging reaches, in the order of their coming. Starts at `from`, or at an end of the room.
    ///
    /// # Panics
    ///
    /// When there is no end of pages.
    pub async fn page_through(
        &self,
        room_id: &str,
        dir: &str,
        limit: usize,
        from: Option<&str>,
    ) -> Vec<Value> {
        let mut events = Vec::new();
        let mut from = from.map(ToOwned::to_owned);
        for _ in 0..10_000 {
            let start = from
                .map(|from| format!("&from={}", encoded(&from)))
                .unwrap_or_default();
            let page = self
                .messages(room_id, &format!("dir={dir}&limit={limit}{start}"))
                .await
                .ok();
            events.extend(page["chunk"].as_array().cloned().unwrap_or_default());
            let Some(end) = page["end"].as_str() else {
                return events;
            };
            from = Some(end.to_owned());
        }
        panic!("{room_id} has no end of pages");
    }

    /// Sends as fast as answers come, while `go_on`, which hears of each acknowledged event, says so: the events that
    /// were acknowledged, in order. What the server failed at is sent again, under the same transaction id; when it
    /// gives no answer at all, that is the end.
    ///
    /// # Panics
    ///
    /// When the server refuses.
    pub async fn send_until(
        self: Arc<Self>,
        room_id: String,
        go_on: impl Fn() -> bool + Send + 'static,
    ) -> Vec<String> {
        let mut sent = Vec::new();
        loop {
            let txn_id = self.new_txn_id();
            let path = format!("/v3/rooms/{room_id}/send/m.room.message/{txn_id}");
            let body = text(&txn_id).to_string().into_bytes();
            let answer = loop {
                match self.try_ask(Method::PUT, &path, Some(body.clone())).await {
                    Ok(answer) if answer.status >= 500 => sleep(RETRY_AFTER).await,
                    Ok(answer) => break answer,
                    Err(_) => return sent,
                }
            };
            sent.push(answer.event_id());
            if !go_on() {
                return sent;
            }
        }
    }
}

/// While servers come and go.
impl Client {
    /// Says something in a room, again and again until that is acknowledged; it is said once.
    pub async fn send_over_outages(&self, room_id: &str, body: &str) {
        let path = format!("/v3/rooms/{room_id}/send/m.room.message/{}", self.new_txn_id());
        let body = text(body).to_string().into_bytes();
        loop {
            match self.try_ask(Method::PUT, &path, Some(body.clone())).await {
                Ok(answer) if answer.status == 200 => return,
                Ok(answer) if answer.status < 500 => panic!("refused: {}", answer.body),
                _ => sleep(RETRY_AFTER).await,
            }
        }
    }
}

/// What users say about themselves and what they have seen.
impl Client {
    /// Types, or no longer.
    pub async fn set_typing(&self, room_id: &str, timeout_ms: Option<u64>) -> Answer {
        let body = match timeout_ms {
            Some(timeout_ms) => json!({ "typing": true, "timeout": timeout_ms }),
            None => json!({ "typing": false }),
        };
        self.put(
            &format!("/v3/rooms/{room_id}/typing/{}", encoded(&self.user_id)),
            body,
        )
        .await
    }

    /// Sends a receipt of `receipt_type`.
    pub async fn send_receipt(&self, room_id: &str, receipt_type: &str, event_id: &str) -> Answer {
        self.post(
            &format!("/v3/rooms/{room_id}/receipt/{receipt_type}/{event_id}"),
            json!({}),
        )
        .await
    }

    /// Sets global account data.
    pub async fn set_account_data(&self, data_type: &str, content: Value) -> Answer {
        self.put(
            &format!("/v3/user/{}/account_data/{data_type}", encoded(&self.user_id)),
            content,
        )
        .await
    }

    /// Sets account data of a room.
    pub async fn set_room_account_data(&self, room_id: &str, data_type: &str, content: Value) -> Answer {
        let user_id = encoded(&self.user_id);
        self.put(
            &format!("/v3/user/{user_id}/rooms/{room_id}/account_data/{data_type}"),
            content,
        )
        .await
    }

    /// Stores a filter: its ID.
    pub async fn store_filter(&self, filter: Value) -> String {
        self.post(&format!("/v3/user/{}/filter", encoded(&self.user_id)), filter)
            .await
            .string("filter_id")
    }

    /// Sets the display name.
    pub async fn set_displayname(&self, name: &str) -> Answer {
        let path = format!("/v3/profile/{}/displayname", encoded(&self.user_id));
        self.put(&path, json!({ "displayname": name })).await
    }
}
