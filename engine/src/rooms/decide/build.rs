//! Making events: from what a sender says and where the room stands to a PDU, hashed and signed, and its ID
//! (server-server API, "PDUs" and "Signing Events").

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, ServerName,
    room_version_rules::RoomVersionRules,
    signatures::{JsonError, hash_and_sign_event, reference_hash},
};

use super::DecideError;
use crate::{
    Error, SigningKey,
    events::Event,
    rooms::{
        checks::{TooLarge, check_size_of_pdu},
        draft::Draft,
        head::Extremity,
    },
};

/// Who signs, and when.
#[derive(Debug, Clone, Copy)]
pub(in crate::rooms) struct Signer<'a> {
    pub server_name: &'a ServerName,
    pub key: &'a SigningKey,
    pub now: MilliSecondsSinceUnixEpoch,
}

/// Where in a room an event comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position<'a> {
    /// Nothing for the create event of a room that takes its ID from it.
    pub room_id: Option<&'a RoomId>,
    pub prev_events: &'a [Extremity],
    pub auth_events: &'a [Arc<Event>],
    pub depth: i64,
}

/// The event that `draft` asks for, neither hashed nor signed.
pub(super) fn unsigned_pdu(
    draft: &Draft,
    position: Position<'_>,
    now: MilliSecondsSinceUnixEpoch,
    rules: &RoomVersionRules,
) -> CanonicalJsonObject {
    let mut content = draft.content.clone();
    let mut pdu = CanonicalJsonObject::new();
    let mut put = |key: &str, value: CanonicalJsonValue| pdu.insert(key.to_owned(), value);
    put("type", string(&draft.event_type.to_string()));
    put("sender", string(draft.sender.as_str()));
    put(
        "depth",
        CanonicalJsonValue::Integer(position.depth.try_into().unwrap_or_default()),
    );
    put("origin_server_ts", CanonicalJsonValue::Integer(now.0.into()));
    let prev_events = position.prev_events.iter();
    let prev_events = prev_events.map(|extremity| string(extremity.event_id.as_str()));
    put("prev_events", CanonicalJsonValue::Array(prev_events.collect()));
    let auth_events = position.auth_events.iter();
    let auth_events = auth_events.map(|event| string(event.event_id.as_str()));
    put("auth_events", CanonicalJsonValue::Array(auth_events.collect()));
    if let Some(state_key) = &draft.state_key {
        put("state_key", string(state_key));
    }
    if let Some(room_id) = position.room_id {
        put("room_id", string(room_id.as_str()));
    }
    if let Some(redacts) = &draft.redacts {
        if rules.redaction.content_field_redacts {
            content.insert("redacts".to_owned(), string(redacts.as_str()));
        } else {
            put("redacts", string(redacts.as_str()));
        }
    }
    put("content", CanonicalJsonValue::Object(content));
    pdu
}

/// Hashes and signs an event: its ID, and its JSON.
pub(super) fn sign(
    mut pdu: CanonicalJsonObject,
    signer: Signer<'_>,
    rules: &RoomVersionRules,
) -> Result<(OwnedEventId, String), DecideError> {
    hash_and_sign_event(
        signer.server_name.as_str(),
        signer.key.pair(),
        &mut pdu,
        &rules.redaction,
    )
    .map_err(unbuildable)?;
    let event_id = format!("${}", reference_hash(&pdu, rules).map_err(unbuildable)?);
    let event_id =
        OwnedEventId::try_from(event_id).map_err(|error| Error::Damaged(format!("an event ID: {error}")))?;
    let json = serde_json::to_string(&pdu).map_err(|error| Error::Damaged(format!("an event: {error}")))?;
    check_size_of_pdu(&json)?;
    Ok((event_id, json))
}

fn string(text: &str) -> CanonicalJsonValue {
    CanonicalJsonValue::String(text.to_owned())
}

fn unbuildable(error: JsonError) -> DecideError {
    match error {
        JsonError::PduTooLarge => TooLarge::Pdu.into(),
        error => DecideError::Forbidden(format!("this can't be made an event: {error}")),
    }
}
