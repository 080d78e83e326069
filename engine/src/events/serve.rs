//! The client format of events (client-server API, "Room event format"). The part that is the same for everyone is
//! written once; `unsigned` is added for who asks.

use std::{collections::BTreeMap, sync::Arc};

use hearth_storage::{DeviceNid, UserNid, log::NewEvent};
use ruma::{RoomId, events::TimelineEventType, room_version_rules::RoomVersionRules};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Event, ParseError,
    json::{self, JsonError, Numbers, canonical, read_object},
};

/// In which form an event is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientFormat {
    /// `/sync`: without `room_id`, which is the key it is under.
    Sync,
    /// Everywhere else.
    WithRoomId,
    /// As federation carries it, for a filter with `event_format: federation`; and with its ID, without which a client
    /// could tell it from others only by hashing it, as Synapse does. The ID is no part of what is hashed and signed.
    Federation,
}

/// For whom an event is served.
#[derive(Debug, Clone, Copy)]
pub struct Viewer {
    /// The user.
    pub user_nid: UserNid,
    /// The device, which sees the transaction ids of its own requests.
    pub device_nid: DeviceNid,
    /// Now, milliseconds, for `age`.
    pub now: i64,
    /// Is told the sequence numbers of events.
    pub tells_sequence: bool,
}

#[derive(Serialize)]
struct Common<'a> {
    content: &'a RawValue,
    event_id: &'a str,
    origin_server_ts: ruma::MilliSecondsSinceUnixEpoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a str>,
    sender: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    event_type: &'a str,
}

#[derive(Serialize)]
struct Unsigned<'a> {
    age: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces_state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted_because: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<&'a str>,
    /// The place of a live event in its room's order.
    #[serde(rename = "chat.hearth.seq", skip_serializing_if = "Option::is_none")]
    sequence: Option<i64>,
    #[serde(rename = "m.relations", skip_serializing_if = "Option::is_none")]
    relations: Option<&'a RawValue>,
}

/// The four fields of a stripped state event (client-server API, "Stripped state").
#[derive(Serialize)]
struct Stripped<'a> {
    content: &'a RawValue,
    sender: &'a str,
    state_key: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
}

impl Event {
    /// The event in client format. `replaced` is the state event that this one replaced, for `prev_content`;
    /// `membership` is that of the viewer at the event; `relations` is what is bundled with it, `m.relations`.
    pub fn to_client(
        &self,
        format: ClientFormat,
        viewer: &Viewer,
        replaced: Option<&Event>,
        membership: Option<&str>,
        relations: Option<Box<RawValue>>,
    ) -> Box<RawValue> {
        let transaction_id = self
            .transaction
            .as_ref()
            .filter(|(device_nid, _)| *device_nid == viewer.device_nid)
            .map(|(_, txn_id)| txn_id.as_ref());
        let unsigned = Unsigned {
            // A clock that went back must not make an event come from the future.
            age: (viewer.now - i64::from(self.origin_server_ts().0)).max(0),
            membership,
            prev_content: replaced.map(Event::content),
            replaces_state: replaced.map(|event| event.event_id.as_str()),
            redacted_because: self
                .redacted_because
                .as_ref()
                .map(|redaction| redaction.to_client(format, viewer, None, None, None)),
            transaction_id,
            sequence: (viewer.tells_sequence && self.place.sub == 0 && self.place.sequence > 0)
                .then_some(self.place.sequence),
            relations: relations.as_deref(),
        };
        let federated;
        let common: &str = match format {
            ClientFormat::Sync | ClientFormat::WithRoomId => {
                self.client_json.get_or_init(|| self.common_json())
            }
            ClientFormat::Federation => {
                federated = self.pdu_with_id();
                &federated
            }
        };
        let mut json = String::with_capacity(common.len() + 160);
        // `common` is an object: its closing brace makes way for what is added.
        json.push_str(&common[..common.len() - 1]);
        if format == ClientFormat::WithRoomId {
            json.push_str(",\"room_id\":");
            json.push_str(&json_string(self.room_id.as_str()));
        }
        json.push_str(",\"unsigned\":");
        json.push_str(&serde_json::to_string(&unsigned).unwrap_or_else(|_| "{}".to_owned()));
        json.push('}');
        RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }

    /// The stripped form of a state event.
    pub fn to_stripped(&self) -> Box<RawValue> {
        let stripped = Stripped {
            content: self.content(),
            sender: self.sender().as_str(),
            state_key: self.state_key().unwrap_or_default(),
            event_type: &self.event_type().to_string(),
        };
        to_raw_value(&stripped).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }

    /// The PDU and its ID, without `unsigned`, which servers may set as they like.
    fn pdu_with_id(&self) -> String {
        let mut pdu: BTreeMap<String, &RawValue> = serde_json::from_str(&self.pdu).unwrap_or_default();
        let event_id = to_raw_value(&self.event_id).unwrap_or_else(|_| RawValue::NULL.to_owned());
        pdu.insert("event_id".to_owned(), &event_id);
        pdu.remove("unsigned");
        serde_json::to_string(&pdu).unwrap_or_else(|_| "{}".to_owned())
    }

    fn common_json(&self) -> Box<str> {
        let redacts = self
            .redacts()
            .filter(|_| *self.event_type() == TimelineEventType::RoomRedaction);
        let with_redacts = redacts.and_then(|redacts| content_with_redacts(self.content(), redacts.as_str()));
        let common = Common {
            content: with_redacts.as_deref().unwrap_or_else(|| self.content()),
            event_id: self.event_id.as_str(),
            origin_server_ts: self.origin_server_ts(),
            redacts: redacts.map(|redacts| redacts.as_str()),
            sender: self.sender().as_str(),
            state_key: self.state_key(),
            event_type: &self.event_type().to_string(),
        };
        // Strings, numbers and JSON that was parsed before: nothing here can fail to serialise.
        serde_json::to_string(&common)
            .unwrap_or_else(|_| "{}".to_owned())
            .into()
    }
}

/// `redacts` belongs in the content too, also for events of rooms older than version 11 (room version 11, "Moving
/// the `redacts` property"). Nothing where it is there already.
fn content_with_redacts(content: &RawValue, redacts: &str) -> Option<Box<RawValue>> {
    let mut content: serde_json::Map<String, serde_json::Value> = serde_json::from_str(content.get()).ok()?;
    if content.contains_key("redacts") {
        return None;
    }
    content.insert("redacts".to_owned(), redacts.into());
    to_raw_value(&content).ok()
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The redacted form of a PDU (the room version's "Redactions").
pub(super) fn redacted_pdu(event: &Event, rules: &RoomVersionRules) -> Result<Arc<str>, ParseError> {
    let failed = |source| ParseError {
        event_id: event.event_id.to_string(),
        source,
    };
    let redacted = || {
        let mut object = read_object(&event.pdu, &[], usize::MAX, Numbers::Any)?;
        json::redact(&mut object, &rules.redaction)?;
        canonical(&object, &[])
    };
    Ok(redacted()
        .map_err(|error: JsonError| failed(serde::de::Error::custom(error)))?
        .into())
}

/// The redacted form of `event`, redacted by `because`.
pub(crate) fn redact(
    event: &Event,
    because: &Arc<Event>,
    rules: &RoomVersionRules,
) -> Result<Event, ParseError> {
    let redacted = without_content(event, rules)?;
    Ok(Event {
        redacted_because: Some(Arc::clone(because)),
        ..redacted
    })
}

/// The redacted form of `event`, for who is not to see what it says.
pub(crate) fn without_content(event: &Event, rules: &RoomVersionRules) -> Result<Event, ParseError> {
    let stored = NewEvent {
        event_nid: event.nid,
        event_id: event.event_id.to_string(),
        room_nid: event.room_nid,
        sequence: event.place.sequence,
        type_nid: event.type_nid,
        key_nid: event.key_nid,
        sender_nid: event.sender_nid,
        state_after: event.state_after,
        origin_server_ts: event.origin_server_ts().0.into(),
        replaces: event.replaces,
        pdu: redacted_pdu(event, rules)?,
        // There is nothing left to be notified of.
        push_class: 0,
        transaction: event.transaction.clone(),
        auth_nids: Vec::new(),
        is_stored: true,
        after_gap: false,
    };
    let room_id: &RoomId = &event.room_id;
    Ok(Event::parse(&stored, event.place.sub, room_id, rules)?.with_status(event.status))
}
