//! Making events: from what a sender says and where the room stands to a PDU, hashed and signed, and its ID
//! (server-server API, "PDUs" and "Signing Events").

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId,
    ServerName,
    room_version_rules::RoomVersionRules,
    signatures::{JsonError, hash_and_sign_event, reference_hash},
};

use super::DecideError;
use crate::{
    Entropy, Error, SigningKey,
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
    /// For the event IDs of room versions 1 and 2, which are made up.
    pub entropy: &'a dyn Entropy,
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
    let prev_events = prev_events.map(|extremity| reference(&extremity.event_id, extremity.reference_hash));
    put("prev_events", CanonicalJsonValue::Array(prev_events.collect()));
    let auth_events = position.auth_events.iter();
    let auth_events = auth_events.map(|event| reference(&event.event_id, event.reference_hash));
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

/// Hashes and signs an event: its ID, and its JSON. In a room of version 1 or 2 it gets an ID.
pub(in crate::rooms) fn sign(
    mut pdu: CanonicalJsonObject,
    signer: Signer<'_>,
    rules: &RoomVersionRules,
) -> Result<(OwnedEventId, String), DecideError> {
    let given_id = rules.event_format.require_event_id.then(|| made_up_id(signer));
    if let Some(event_id) = &given_id {
        pdu.insert("event_id".to_owned(), string(event_id));
    }
    hash_and_sign_event(
        signer.server_name.as_str(),
        signer.key.pair(),
        &mut pdu,
        &rules.redaction,
    )
    .map_err(unbuildable)?;
    let event_id = match given_id {
        Some(event_id) => event_id,
        None => format!("${}", reference_hash(&pdu, rules).map_err(unbuildable)?),
    };
    let event_id =
        OwnedEventId::try_from(event_id).map_err(|error| Error::Damaged(format!("an event ID: {error}")))?;
    let json = serde_json::to_string(&pdu).map_err(|error| Error::Damaged(format!("an event: {error}")))?;
    check_size_of_pdu(&json)?;
    Ok((event_id, json))
}

/// How an event names another (the room version's "Event format").
fn reference(event_id: &EventId, hash: Option<[u8; 32]>) -> CanonicalJsonValue {
    let event_id = string(event_id.as_str());
    let Some(hash) = hash else { return event_id };
    let hashes = [("sha256".to_owned(), string(&STANDARD_NO_PAD.encode(hash)))];
    CanonicalJsonValue::Array(vec![event_id, CanonicalJsonValue::Object(hashes.into())])
}

fn made_up_id(signer: Signer<'_>) -> String {
    format!("${}:{}", signer.entropy.alphanumeric(18), signer.server_name)
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use hearth_storage::{EventNid, KeyNid, RoomNid, StateNid, TypeNid, UserNid, log::NewEvent};
    use ruma::{
        CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomVersionId, owned_user_id, room_id,
        room_version_rules::RoomVersionRules, serde::Base64, server_name, signatures::reference_hash, uint,
    };
    use serde_json::json;

    use super::{Position, Signer, sign, unsigned_pdu};
    use crate::{
        OsEntropy, SigningKey,
        events::Event,
        rooms::{
            draft::{Draft, content_of},
            head::Extremity,
            receive::pdu::{Verified, read, verify},
        },
    };

    fn parsed(event_id: &OwnedEventId, pdu: &str, rules: &RoomVersionRules) -> Arc<Event> {
        let stored = NewEvent {
            event_nid: EventNid::from(1),
            event_id: event_id.to_string(),
            room_nid: RoomNid::from(1),
            sequence: 1,
            type_nid: TypeNid::from(1),
            key_nid: Some(KeyNid::from(1)),
            sender_nid: UserNid::from(1),
            state_after: StateNid::from(1),
            origin_server_ts: 5,
            replaces: None,
            pdu: pdu.into(),
            push_class: 0,
            transaction: None,
            auth_nids: Vec::new(),
            is_stored: false,
            after_gap: false,
        };
        Arc::new(Event::parse(&stored, 0, room_id!("!r:domain"), rules).unwrap())
    }

    #[test]
    fn what_is_made_here_is_what_another_server_accepts_in_every_version() {
        let key = SigningKey::from_seed("1", &[7; 32]).unwrap();
        let public_key = Base64::new(key.pair().public_key().to_vec());
        let keys = BTreeMap::from([(
            "domain".to_owned(),
            BTreeMap::from([("ed25519:1".to_owned(), public_key)]),
        )]);
        let signer = Signer {
            server_name: server_name!("domain"),
            key: &key,
            now: MilliSecondsSinceUnixEpoch(uint!(5)),
            entropy: &OsEntropy,
        };
        let sender = (owned_user_id!("@a:domain"), UserNid::from(1));
        for version in 1..=12 {
            let rules = RoomVersionId::try_from(version.to_string())
                .unwrap()
                .rules()
                .unwrap();
            let mut made: Vec<Arc<Event>> = Vec::new();
            for depth in 1..=3 {
                let content = content_of(&json!({ "topic": format!("é{depth}") })).unwrap();
                let draft = Draft::state(sender.clone(), "m.room.topic", "", content);
                let prev_events = made.last().map(|event| Extremity::of(event, StateNid::from(1)));
                let position = Position {
                    room_id: Some(room_id!("!r:domain")),
                    prev_events: prev_events.as_slice(),
                    auth_events: &made,
                    depth,
                };
                let unsigned = unsigned_pdu(&draft, position, signer.now, &rules);
                let (event_id, json) = sign(unsigned, signer, &rules).unwrap();
                let pdu = read(&json, &rules).unwrap();
                assert_eq!(pdu.event_id, event_id, "version {version}");
                assert_eq!(pdu.depth, depth);
                let ids: Vec<_> = made.iter().map(|event| event.event_id.clone()).collect();
                assert_eq!(pdu.auth_events, ids);
                assert_eq!(pdu.prev_events.as_slice(), &ids[ids.len().saturating_sub(1)..]);
                assert_eq!(*pdu.json, json);
                assert!(matches!(verify(pdu, &keys, &rules), Ok(Verified::Whole(_))));
                made.push(parsed(&event_id, &json, &rules));
            }
            // The oldest versions name events by their hashes too.
            let last: BTreeMap<String, CanonicalJsonValue> = serde_json::from_str(&made[2].pdu).unwrap();
            let named = &last["prev_events"].as_array().unwrap()[0];
            let expected = match version {
                1 | 2 => {
                    let object = serde_json::from_str(&made[1].pdu).unwrap();
                    json!([made[1].event_id, { "sha256": reference_hash(&object, &rules).unwrap() }])
                }
                _ => json!(made[1].event_id),
            };
            assert_eq!(
                serde_json::to_value(named).unwrap(),
                expected,
                "version {version}"
            );
        }
    }
}
