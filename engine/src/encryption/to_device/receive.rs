//! `m.direct_to_device`: messages of other servers' users to devices of this server.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hearth_storage::{
    log::{Change, CommitError, Fact, ToDevice},
    to_device::{self, Recipient},
};
use ruma::{OwnedUserId, ServerName, api::federation::transactions::edu::Edu, serde::Raw};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    MAX_CONTENT_BYTES, MAX_REQUEST_BYTES, MAX_TYPE_BYTES, accepted,
    send::{Messages, recipients, to_own_devices},
};
use crate::{
    Engine, Error,
    transactions::{RequestKey, request_key},
};

/// The type of the EDU.
pub(crate) const DIRECT_TO_DEVICE: &str = "m.direct_to_device";
/// The most bytes that the messages of one transaction may come to, once for each device; what is more is passed over.
const MAX_TRANSACTION_BYTES: usize = 4 * MAX_REQUEST_BYTES;
/// The most characters of an EDU's own ID, by the specification.
const MAX_ID_CHARS: usize = 32;

/// What an EDU says.
#[derive(Deserialize)]
struct Said {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
    message_id: String,
    messages: Messages<Box<RawValue>>,
}

/// Takes the messages to devices in a transaction. They are kept, durably, and before anything else of the transaction
/// counts, when this returns. What isn't understood or believed is passed over, as is what was taken before.
pub(crate) async fn receive(engine: &Engine, origin: &ServerName, edus: &[Raw<Edu>]) -> Result<(), Error> {
    let said: Vec<(RequestKey, Said)> = edus
        .iter()
        .filter_map(|edu| read(origin, edu.json()))
        .map(|said| {
            let key = request_key(&[DIRECT_TO_DEVICE, origin.as_str(), &said.message_id]);
            (key, said)
        })
        .collect();
    if said.is_empty() {
        return Ok(());
    }
    let (mut accepted_before, recipients) = {
        let mut connection = engine.db.acquire().await?;
        let keys: Vec<RequestKey> = said.iter().map(|(key, _)| *key).collect();
        let own = &engine.config.server_name;
        let user_ids: BTreeSet<&str> = said
            .iter()
            .flat_map(|(_, said)| said.messages.keys())
            .filter(|user_id| user_id.server_name() == *own)
            .map(|user_id| user_id.as_str())
            .collect();
        let user_ids: Vec<&str> = user_ids.into_iter().collect();
        (
            to_device::accepted(&mut connection, &keys).await?,
            recipients(&mut connection, &user_ids).await?,
        )
    };
    // In the order in which they came, each at a position of its own: one change, unless some of it came beside this.
    let mut changes = Vec::new();
    let mut left = MAX_TRANSACTION_BYTES;
    for (key, said) in &said {
        if accepted_before.insert(*key)
            && let Some(sent) = to_devices(said, &recipients, &mut left)
        {
            changes.push(Change {
                to_device_requests: vec![accepted::request(engine, *key)],
                ..Change::of(Fact::ToDevice(Arc::new(sent)))
            });
        }
    }
    let Some(all) = changes.iter().cloned().reduce(Change::and) else {
        return Ok(());
    };
    match accepted::commit(engine, all).await {
        Ok(Some(_)) => return Ok(()),
        Ok(None) | Err(CommitError::Refused(_)) => {}
        Err(error) => return Err(error.into()),
    }
    for change in changes {
        match accepted::commit(engine, change).await {
            Ok(_) => {}
            // It would be refused whenever it comes, and hold up all that comes after it.
            Err(CommitError::Refused(error)) => {
                tracing::error!(%error, %origin, "a message to devices can't be stored");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What an EDU says, if it is one of these and its sender is of the server that sent it.
fn read(origin: &ServerName, edu: &RawValue) -> Option<Said> {
    #[derive(Deserialize)]
    struct Any<'a> {
        edu_type: std::borrow::Cow<'a, str>,
        #[serde(borrow)]
        content: &'a RawValue,
    }
    let any: Any<'_> = serde_json::from_str(edu.get()).ok()?;
    if any.edu_type != DIRECT_TO_DEVICE {
        return None;
    }
    let said: Said = serde_json::from_str(any.content.get()).ok()?;
    let contents = || {
        said.messages
            .values()
            .flat_map(BTreeMap::values)
            .map(|content| content.get())
    };
    let is_good = said.sender.server_name() == origin
        && !said.sender.as_str().contains('\0')
        && (1..=MAX_TYPE_BYTES).contains(&said.event_type.len())
        && said.message_id.chars().count() <= MAX_ID_CHARS
        && contents().all(|content| content.starts_with('{') && content.len() <= MAX_CONTENT_BYTES);
    is_good.then_some(said)
}

/// What an EDU sends to devices of this server, if anything, and if that is no more than is `left`.
fn to_devices(said: &Said, recipients: &[Recipient], left: &mut usize) -> Option<ToDevice> {
    let messages: Vec<_> = said.messages.iter().collect();
    let messages = to_own_devices(&said.sender, &said.event_type, recipients, &messages);
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    *left = left.checked_sub(bytes)?;
    (!messages.is_empty()).then_some(ToDevice {
        messages,
        outgoing: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::json;

    use super::*;

    fn reads(edu: serde_json::Value) -> bool {
        let json = serde_json::value::to_raw_value(&edu).expect("JSON");
        read(server_name!("b.example"), &json).is_some()
    }

    #[test]
    fn messages_are_believed_of_the_sending_servers_users_only() {
        let edu = |sender: &str, message_id: &str, content: serde_json::Value| {
            json!({ "edu_type": "m.direct_to_device", "content": {
                "sender": sender, "type": "m.room_key", "message_id": message_id,
                "messages": { "@a:a.example": { "DEVICE": content } },
            } })
        };
        assert!(reads(edu("@b:b.example", "1", json!({}))));
        assert!(!reads(edu("@b:c.example", "1", json!({}))));
        assert!(!reads(edu("b", "1", json!({}))));
        assert!(!reads(edu("@b:b.example", &"x".repeat(33), json!({}))));
        assert!(reads(edu("@b:b.example", &"ü".repeat(32), json!({}))));
        assert!(!reads(edu("@b:b.example", "1", json!("text"))));
        assert!(!reads(edu(
            "@b:b.example",
            "1",
            json!({ "long": "x".repeat(MAX_CONTENT_BYTES) })
        )));
        assert!(!reads(json!({ "edu_type": "m.typing", "content": {} })));
        assert!(!reads(json!({ "edu_type": "m.direct_to_device" })));
        assert!(!reads(json!(7)));
    }
}
