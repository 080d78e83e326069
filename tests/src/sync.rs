//! Syncing, and what can be found in a sync.

use std::{panic::Location, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::{Answer, Client, PATIENCE, encoded, event_ids};

/// How long one request of [`Client::sync_until`] polls.
const POLL: Duration = Duration::from_secs(5);

impl Client {
    /// What is new, without waiting for it; what came before when this is the first sync.
    pub async fn sync(&self) -> Value {
        self.sync_with("timeout=0").await.ok()
    }

    /// A sync with more parameters, as in `timeout=0&full_state=true`. The next one goes on from it.
    pub async fn sync_with(&self, query: &str) -> Answer {
        let since = self
            .since()
            .map(|since| format!("&since={}", encoded(&since)))
            .unwrap_or_default();
        let answer = self.get(&format!("/v3/sync?{query}{since}")).await;
        if let Some(next_batch) = answer.body["next_batch"].as_str() {
            self.set_since(Some(next_batch));
        }
        answer
    }

    /// A sync from nothing, by a filter. The next one goes on from it.
    pub async fn first_sync(&self, filter: &Value) -> Value {
        self.set_since(None);
        self.sync_filtered(filter).await
    }

    /// What is new, by a filter.
    pub async fn sync_filtered(&self, filter: &Value) -> Value {
        self.sync_with(&format!("timeout=0&filter={}", encoded(&filter.to_string())))
            .await
            .ok()
    }

    /// Syncs until a response is as `wanted`: that response.
    ///
    /// # Panics
    ///
    /// When none is within [`PATIENCE`].
    #[track_caller]
    pub fn sync_until(&self, wanted: impl Fn(&Value) -> bool) -> impl Future<Output = Value> {
        let caller = Location::caller();
        async move {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let sync = self
                    .sync_with(&format!("timeout={}", POLL.as_millis()))
                    .await
                    .ok();
                if wanted(&sync) {
                    return sync;
                }
                assert!(
                    Instant::now() < deadline,
                    "{caller}: {} synced in vain; the last response was {sync}",
                    self.user_id
                );
            }
        }
    }

    /// Syncs until `last` has come by: the events of the room's timeline up to then. A gap is filled by paging, as
    /// a client does.
    ///
    /// # Panics
    ///
    /// When `last` does not come within [`PATIENCE`].
    #[track_caller]
    pub fn timeline_up_to<'a>(
        &'a self,
        room_id: &'a str,
        last: &'a str,
    ) -> impl Future<Output = Vec<Value>> + 'a {
        let caller = Location::caller();
        async move {
            let deadline = Instant::now() + PATIENCE;
            let mut events = Vec::new();
            loop {
                let since = self.since();
                let sync = self
                    .sync_with(&format!("timeout={}", POLL.as_millis()))
                    .await
                    .ok();
                let room = &sync["rooms"]["join"][room_id]["timeline"];
                if room["limited"] == true {
                    events.extend(self.gap(room_id, room, since.as_deref()).await);
                }
                events.extend(timeline(&sync, room_id));
                if event_ids(&Value::from(events.clone()))
                    .iter()
                    .any(|event_id| event_id == last)
                {
                    return events;
                }
                assert!(
                    Instant::now() < deadline,
                    "{caller}: {} did not see {last} in {room_id}",
                    self.user_id
                );
            }
        }
    }

    /// What a limited timeline left out since the sync before, oldest first.
    async fn gap(&self, room_id: &str, timeline: &Value, since: Option<&str>) -> Vec<Value> {
        let mut from = timeline["prev_batch"]
            .as_str()
            .expect("a limited timeline has a prev_batch")
            .to_owned();
        let to = since
            .map(|since| format!("&to={}", encoded(since)))
            .unwrap_or_default();
        let mut missed = Vec::new();
        loop {
            let page = self
                .messages(room_id, &format!("dir=b&limit=100&from={}{to}", encoded(&from)))
                .await
                .ok();
            let chunk = page["chunk"].as_array().cloned().unwrap_or_default();
            missed.extend(chunk);
            match page["end"].as_str() {
                Some(end) => from = end.to_owned(),
                None => break,
            }
        }
        missed.reverse();
        missed
    }
}

fn events(value: &Value) -> Vec<Value> {
    value["events"].as_array().cloned().unwrap_or_default()
}

/// The timeline of a joined room, or of one that was left.
pub fn timeline(sync: &Value, room_id: &str) -> Vec<Value> {
    let rooms = &sync["rooms"];
    let mut found = events(&rooms["join"][room_id]["timeline"]);
    found.extend(events(&rooms["leave"][room_id]["timeline"]));
    found
}

/// The state of a joined room, or of one that was left.
pub fn state(sync: &Value, room_id: &str) -> Vec<Value> {
    let rooms = &sync["rooms"];
    let mut found = events(&rooms["join"][room_id]["state"]);
    found.extend(events(&rooms["leave"][room_id]["state"]));
    found
}

/// The ephemeral events of a joined room that are of `event_type`: their contents.
pub fn ephemeral(sync: &Value, room_id: &str, event_type: &str) -> Vec<Value> {
    contents(&sync["rooms"]["join"][room_id]["ephemeral"], event_type)
}

/// The account data of `data_type` in `part`, a sync or a room of one: the contents.
pub fn account_data(part: &Value, data_type: &str) -> Vec<Value> {
    contents(&part["account_data"], data_type)
}

fn contents(part: &Value, event_type: &str) -> Vec<Value> {
    events(part)
        .into_iter()
        .filter(|event| event["type"] == event_type)
        .map(|event| event["content"].clone())
        .collect()
}

/// Has this event in the room's timeline.
pub fn timeline_has(room_id: &str, event_id: &str) -> impl Fn(&Value) -> bool {
    move |sync| {
        timeline(sync, room_id)
            .iter()
            .any(|event| event["event_id"] == event_id)
    }
}

/// Has state of that type and key, in the state or in the timeline.
pub fn state_has(room_id: &str, event_type: &str, state_key: &str) -> impl Fn(&Value) -> bool {
    move |sync| {
        let both = [state(sync, room_id), timeline(sync, room_id)].concat();
        both.iter()
            .any(|event| event["type"] == event_type && event["state_key"] == state_key)
    }
}

/// Has the room among those joined.
pub fn is_joined(room_id: &str) -> impl Fn(&Value) -> bool {
    move |sync| sync["rooms"]["join"][room_id].is_object()
}

/// Has the room among those invited to.
pub fn is_invited(room_id: &str) -> impl Fn(&Value) -> bool {
    move |sync| sync["rooms"]["invite"][room_id].is_object()
}

/// Has the room among those left.
pub fn has_left(room_id: &str) -> impl Fn(&Value) -> bool {
    move |sync| sync["rooms"]["leave"][room_id].is_object()
}
