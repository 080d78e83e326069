//! `sendToDevice`: a client sends messages to devices, of this server and of others.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hearth_storage::{
    log::{Change, CommitError, Fact, OutgoingToDevice, ToDevice, ToDeviceMessage},
    to_device::{self, Recipient},
};
use ruma::{OwnedUserId, ServerName, UserId, to_device::DeviceIdOrAllDevices};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{MAX_CONTENT_BYTES, MAX_REQUEST_BYTES, MAX_TYPE_BYTES, accepted};
use crate::{
    Engine, Error,
    accounts::Requester,
    transactions::{RequestKey, request_key},
};

/// About how many bytes of messages go to another server in one EDU.
const EDU_BYTES: usize = 1 << 16;

/// Why messages were not sent; none of them was.
#[derive(Debug, thiserror::Error)]
pub enum SendToDeviceError {
    /// A message is no JSON object.
    #[error("a message is a JSON object")]
    BadContent,
    /// The type is empty or too long.
    #[error("the type of a message has between 1 and {MAX_TYPE_BYTES} bytes")]
    BadType,
    /// A message is too long.
    #[error("a message has {MAX_CONTENT_BYTES} bytes at most")]
    ContentTooLarge,
    /// All together are too long.
    #[error("messages come to {MAX_REQUEST_BYTES} bytes at most, once for each device")]
    TooLarge,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(SendToDeviceError);

impl From<CommitError> for SendToDeviceError {
    fn from(error: CommitError) -> Self {
        Self::Failed(error.into())
    }
}

/// What goes to the devices of one user.
pub(super) type ToDevices<C> = BTreeMap<DeviceIdOrAllDevices, C>;

/// What goes to whom.
pub type Messages<C> = BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, C>>;

/// Sends messages of one type to devices. They are kept, durably, when this returns. The same request of the same device
/// sends nothing a second time.
pub async fn send_to_device(
    engine: &Engine,
    requester: &Requester,
    event_type: &str,
    txn_id: &str,
    messages: &Messages<&RawValue>,
) -> Result<(), SendToDeviceError> {
    check(event_type, messages)?;
    let device_nid = i64::from(requester.device_nid).to_string();
    let request_key = request_key(&["sendToDevice", &device_nid, event_type, txn_id]);
    let own = &engine.config.server_name;
    let (ours, theirs): (Vec<_>, Vec<_>) = messages
        .iter()
        .partition(|(user_id, _)| user_id.server_name() == *own);
    let Some(recipients) = recipients_unless_accepted(engine, &request_key, &ours).await? else {
        return Ok(());
    };
    let sent = ToDevice {
        messages: to_own_devices(&requester.user_id, event_type, &recipients, &ours),
        outgoing: to_servers(engine, &requester.user_id, event_type, &theirs)?,
    };
    check_size(&sent)?;
    if sent.messages.is_empty() && sent.outgoing.is_empty() {
        return Ok(());
    }
    let change = Change {
        to_device_requests: vec![accepted::request(engine, request_key)],
        ..Change::of(Fact::ToDevice(Arc::new(sent)))
    };
    accepted::commit(engine, change).await?;
    Ok(())
}

fn check(event_type: &str, messages: &Messages<&RawValue>) -> Result<(), SendToDeviceError> {
    if event_type.is_empty() || event_type.len() > MAX_TYPE_BYTES {
        return Err(SendToDeviceError::BadType);
    }
    for content in messages.values().flat_map(BTreeMap::values) {
        if !content.get().starts_with('{') {
            return Err(SendToDeviceError::BadContent);
        }
        if content.get().len() > MAX_CONTENT_BYTES {
            return Err(SendToDeviceError::ContentTooLarge);
        }
    }
    Ok(())
}

fn check_size(sent: &ToDevice) -> Result<(), SendToDeviceError> {
    let ours = sent.messages.iter().map(|message| message.content.len());
    let theirs = sent.outgoing.iter().map(|message| message.content.len());
    if ours.chain(theirs).sum::<usize>() > MAX_REQUEST_BYTES {
        return Err(SendToDeviceError::TooLarge);
    }
    Ok(())
}

/// The devices of users of this server; nothing if the request was accepted before.
async fn recipients_unless_accepted(
    engine: &Engine,
    request_key: &RequestKey,
    ours: &[(&OwnedUserId, &ToDevices<&RawValue>)],
) -> Result<Option<Vec<Recipient>>, Error> {
    let mut connection = engine.db.acquire().await?;
    if !to_device::accepted(&mut connection, &[*request_key])
        .await?
        .is_empty()
    {
        return Ok(None);
    }
    let user_ids: Vec<&str> = ours.iter().map(|(user_id, _)| user_id.as_str()).collect();
    Ok(Some(recipients(&mut connection, &user_ids).await?))
}

/// The devices of users of this server.
pub(super) async fn recipients(
    connection: &mut hearth_storage::Connection,
    user_ids: &[&str],
) -> Result<Vec<Recipient>, Error> {
    // U+0000 would be an error of the database rather than a user that isn't there.
    let user_ids: Vec<&str> = user_ids
        .iter()
        .copied()
        .filter(|user_id| !user_id.contains('\0'))
        .collect();
    if user_ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(to_device::recipients(connection, &user_ids).await?)
}

/// What goes to devices of this server: each gets one message at most, its own rather than that to all. Devices that
/// aren't there get nothing.
pub(super) fn to_own_devices<C: Borrow<RawValue>>(
    sender: &UserId,
    event_type: &str,
    recipients: &[Recipient],
    messages: &[(&OwnedUserId, &ToDevices<C>)],
) -> Vec<ToDeviceMessage> {
    let by_user: HashMap<&str, &ToDevices<C>> = messages
        .iter()
        .map(|(user_id, messages)| (user_id.as_str(), *messages))
        .collect();
    let (sender, event_type): (Arc<str>, Arc<str>) = (sender.as_str().into(), event_type.into());
    fn json<C: Borrow<RawValue>>(content: &C) -> &str {
        content.borrow().get()
    }
    // One copy of what goes to all devices of a user.
    let mut to_all: HashMap<&str, Arc<str>> = HashMap::new();
    let mut sent = Vec::new();
    for recipient in recipients {
        let Some(messages) = by_user.get(&*recipient.user_id) else {
            continue;
        };
        let own = DeviceIdOrAllDevices::DeviceId(recipient.device_id.as_str().into());
        let content: Arc<str> = match (
            messages.get(&own),
            messages.get(&DeviceIdOrAllDevices::AllDevices),
        ) {
            (Some(content), _) => json(content).into(),
            (None, Some(content)) => {
                let copy = to_all
                    .entry(&recipient.user_id)
                    .or_insert_with(|| json(content).into());
                Arc::clone(copy)
            }
            (None, None) => continue,
        };
        sent.push(ToDeviceMessage {
            user_nid: recipient.user_nid,
            device_nid: recipient.device_nid,
            sender: Arc::clone(&sender),
            event_type: Arc::clone(&event_type),
            content,
        });
    }
    sent
}

/// The content of an EDU `m.direct_to_device`.
#[derive(Serialize)]
struct DirectToDevice<'a> {
    sender: &'a UserId,
    #[serde(rename = "type")]
    event_type: &'a str,
    message_id: String,
    messages: BTreeMap<&'a UserId, BTreeMap<&'a DeviceIdOrAllDevices, &'a RawValue>>,
}

/// What goes to other servers, as far as they may be sent anything, to each by as few EDUs as are not too long.
fn to_servers(
    engine: &Engine,
    sender: &UserId,
    event_type: &str,
    messages: &[(&OwnedUserId, &ToDevices<&RawValue>)],
) -> Result<Vec<OutgoingToDevice>, Error> {
    let mut by_server: BTreeMap<&ServerName, Vec<DirectToDevice<'_>>> = BTreeMap::new();
    let mut bytes_of_last: HashMap<&ServerName, usize> = HashMap::new();
    for (user_id, devices) in messages {
        let server = user_id.server_name();
        if !engine.outgoing.may_send_to(server) {
            continue;
        }
        for (device, content) in *devices {
            let edus = by_server.entry(server).or_default();
            let bytes = bytes_of_last.entry(server).or_default();
            let length = content.get().len();
            if edus.is_empty() || *bytes + length > EDU_BYTES {
                *bytes = 0;
                edus.push(DirectToDevice {
                    sender,
                    event_type,
                    message_id: engine.entropy.alphanumeric(24),
                    messages: BTreeMap::new(),
                });
            }
            *bytes += length;
            if let Some(edu) = edus.last_mut() {
                edu.messages.entry(*user_id).or_default().insert(device, *content);
            }
        }
    }
    let mut outgoing = Vec::new();
    for (server, edus) in by_server {
        let destination: Arc<str> = server.as_str().into();
        for edu in edus {
            let content = to_raw_value(&edu)
                .map_err(|error| Error::Damaged(format!("a message to a device: {error}")))?;
            outgoing.push(OutgoingToDevice {
                destination: Arc::clone(&destination),
                content: content.get().into(),
            });
        }
    }
    Ok(outgoing)
}

#[cfg(test)]
mod tests {
    use hearth_storage::{DeviceNid, UserNid};
    use ruma::owned_user_id;

    use super::*;

    fn content(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("JSON")
    }

    fn devices(count: i64) -> Vec<Recipient> {
        let device = |number: i64| Recipient {
            user_id: "@a:example.org".to_owned(),
            user_nid: UserNid::from(1),
            device_id: format!("D{number}"),
            device_nid: DeviceNid::from(number),
        };
        (1..=count).map(device).collect()
    }

    #[test]
    fn a_device_gets_one_message_its_own_rather_than_that_to_all() {
        let own = DeviceIdOrAllDevices::DeviceId("D2".into());
        let none = DeviceIdOrAllDevices::DeviceId("NONE".into());
        let messages = BTreeMap::from([
            (DeviceIdOrAllDevices::AllDevices, content("{\"to\":\"all\"}")),
            (own, content("{\"to\":\"it\"}")),
            (none, content("{}")),
        ]);
        let user_id = owned_user_id!("@a:example.org");
        let sender = owned_user_id!("@b:example.org");
        let sent = to_own_devices(&sender, "t", &devices(3), &[(&user_id, &messages)]);
        let told: Vec<(i64, &str)> = sent
            .iter()
            .map(|message| (message.device_nid.into(), &*message.content))
            .collect();
        let (all, it) = ("{\"to\":\"all\"}", "{\"to\":\"it\"}");
        assert_eq!(told, [(1, all), (2, it), (3, all)]);
    }

    #[test]
    fn what_is_little_for_each_device_can_be_too_much_for_all() {
        let long = format!("{{\"x\":\"{}\"}}", "x".repeat(60_000));
        let messages = BTreeMap::from([(DeviceIdOrAllDevices::AllDevices, content(&long))]);
        let user_id = owned_user_id!("@a:example.org");
        let to = |count| ToDevice {
            messages: to_own_devices(&user_id, "t", &devices(count), &[(&user_id, &messages)]),
            outgoing: Vec::new(),
        };
        assert!(check_size(&to(139)).is_ok());
        assert!(matches!(check_size(&to(140)), Err(SendToDeviceError::TooLarge)));
    }
}
