//! Received PDUs: what can be said of one from its bytes, the version of its room and the keys of its signers. The first
//! three checks of the specification's list (server-server API, "Checks performed on receipt of a PDU"): is it a valid
//! event, is it signed, is it whole. Pure; knows of no room and no other event.

use std::{collections::BTreeSet, sync::Arc};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use ruma::{
    IdParseError, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName,
    OwnedServerSigningKeyId, OwnedUserId, ServerName, UInt, UserId,
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules},
    serde::Base64,
    signatures::{PublicKeyMap, VerificationError, verify_canonical_json_bytes},
};

use crate::{
    events::json::{Json, JsonError, JsonObject, Numbers, canonical, essential, read_object, redact, sha256},
    remote::KeysWanted,
    rooms::checks::{TooLarge, check_size_of_key, check_size_of_pdu},
};

/// What is read at all, `unsigned` apart: four times what an event may come to, for it may be written longer than
/// canonical JSON, mostly by escapes.
const MAX_BYTES_WRITTEN: usize = 262_144;
/// An ID may be this long, in bytes (client-server API, "Size limits").
const MAX_ID_BYTES: usize = 255;
const MAX_PREV_EVENTS: usize = 20;
const MAX_AUTH_EVENTS: usize = 10;
/// The keys of one server that are looked at. Servers sign with one, or two when they change it.
const MAX_KEYS: usize = 16;

/// An event as another server sent it, found to be one by the format of its room's version, and no more.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedPdu {
    /// The event ID.
    pub event_id: OwnedEventId,
    /// The room; for the create event of a version 12 room the one that it makes.
    pub room_id: OwnedRoomId,
    /// `sender`.
    pub sender: OwnedUserId,
    /// `type`.
    pub event_type: String,
    /// `state_key`; a state event has one.
    pub state_key: Option<String>,
    /// The IDs of its predecessors, each once.
    pub prev_events: Vec<OwnedEventId>,
    /// The IDs of the events that authorise it, as it has them: one that is there twice is for the authorisation rules.
    pub auth_events: Vec<OwnedEventId>,
    /// `depth`, not below 0.
    pub depth: i64,
    /// `origin_server_ts`, milliseconds; of any time.
    pub origin_server_ts: i64,
    /// For a redaction: what it redacts, wherever the room version says so.
    pub redacts: Option<OwnedEventId>,
    /// The event to be stored: canonical JSON, without `unsigned`.
    pub json: Arc<str>,
    object: JsonObject,
    /// The servers that must have signed it.
    signers: BTreeSet<OwnedServerName>,
}

/// What signatures and hashes say of an event.
#[derive(Debug)]
pub(crate) enum Verified {
    /// It is as its sender made it.
    Whole(ReceivedPdu),
    /// Its content is another, or was redacted: this is its redacted form.
    Redacted(ReceivedPdu),
}

/// Why an event is dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Dropped {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("`{0}` is missing or can't be that of an event")]
    Field(&'static str),
    #[error("`{0}` names more events than it may")]
    TooMany(&'static str),
    #[error("`{field}` holds what is no ID: {source}")]
    Id {
        field: &'static str,
        source: IdParseError,
    },
    #[error("it names itself as its predecessor, or as what authorises it")]
    NamesItself,
    #[error("it is not signed by {0}")]
    NotSigned(OwnedServerName),
    /// None of the keys that it is signed with are known: some day they may be.
    #[error("no key is known of {0} that it is signed with")]
    KeysUnknown(OwnedServerName),
    #[error("a signature of {server} is wrong: {source}")]
    BadSignature {
        server: OwnedServerName,
        source: VerificationError,
    },
}

/// "Is a valid event": reads what another server says is an event of a room of this version.
pub(crate) fn read(json: &str, rules: &RoomVersionRules) -> Result<ReceivedPdu, Dropped> {
    let object = read_object(json, &["unsigned"], MAX_BYTES_WRITTEN, Numbers::of(rules))?;
    let json = canonical(&object, &[])?;
    check_size_of_pdu(&json)?;
    let fields = Fields {
        object: &object,
        rules,
    };
    let event_type = fields.required_string("type")?;
    let state_key = fields.string("state_key")?;
    check_size_of_key(event_type, state_key)?;
    let sender: OwnedUserId = fields.id("sender")?;
    fields.check_hashes_and_signatures()?;
    let content = object.get("content").and_then(Json::as_object);
    let content = content.ok_or(Dropped::Field("content"))?;
    let event_id = fields.event_id()?;
    let room_id = fields.room_id(event_type, &event_id)?;
    let auth_events = fields.references("auth_events", MAX_AUTH_EVENTS)?;
    let mut prev_events = Vec::new();
    for prev_event in fields.references("prev_events", MAX_PREV_EVENTS)? {
        if !prev_events.contains(&prev_event) {
            prev_events.push(prev_event);
        }
    }
    // Where an ID is no hash, a sender is free to do so.
    if prev_events.contains(&event_id) || auth_events.contains(&event_id) {
        return Err(Dropped::NamesItself);
    }
    fields.check_create_is_no_auth_event(&room_id, &auth_events)?;
    let depth = fields.integer("depth")?;
    if depth < 0 {
        return Err(Dropped::Field("depth"));
    }
    let signers = signing_servers(&sender, &event_id, event_type, content, rules)?;
    Ok(ReceivedPdu {
        room_id,
        event_type: event_type.to_owned(),
        state_key: state_key.map(ToOwned::to_owned),
        prev_events,
        auth_events,
        depth,
        origin_server_ts: fields.integer("origin_server_ts")?,
        redacts: fields.redacts(event_type, content),
        json: json.into(),
        event_id,
        sender,
        object,
        signers,
    })
}

impl ReceivedPdu {
    /// `content`.
    pub fn content(&self) -> &JsonObject {
        static NOTHING: JsonObject = JsonObject::new();
        // `read` has seen that there is one.
        self.object
            .get("content")
            .and_then(Json::as_object)
            .unwrap_or(&NOTHING)
    }

    /// `membership`, of a membership event.
    pub fn membership(&self) -> Option<&str> {
        let content = Some(self.content()).filter(|_| self.event_type == "m.room.member");
        content?.get("membership").and_then(Json::as_str)
    }

    /// The keys with which the servers have signed it that must have; the servers that haven't are missing.
    ///
    /// Each event asks for its own: a time of one must not be asked of a key for the sake of another.
    pub fn signers(&self, rules: &RoomVersionRules) -> KeysWanted {
        let valid_at = match rules.enforce_key_validity {
            true => UInt::new_saturating(u64::try_from(self.origin_server_ts).unwrap_or_default()),
            false => UInt::MIN,
        };
        let keys_of = |server: &OwnedServerName| {
            let keys = self.signatures_of(server);
            keys.map(|(key_id, _)| (key_id, MilliSecondsSinceUnixEpoch(valid_at)))
                .collect()
        };
        let wanted = self.signers.iter();
        wanted.map(|server| (server.clone(), keys_of(server))).collect()
    }

    /// The signatures of a server that can be checked, by their keys.
    fn signatures_of(&self, server: &ServerName) -> impl Iterator<Item = (OwnedServerSigningKeyId, &str)> {
        let signatures = self.object.get("signatures").and_then(Json::as_object);
        let signatures = signatures.and_then(|signatures| signatures.get(server.as_str()));
        let signatures = signatures.and_then(Json::as_object).into_iter().flatten();
        signatures
            .filter_map(|(key_id, signature)| {
                Some((
                    OwnedServerSigningKeyId::try_from(key_id.as_str()).ok()?,
                    signature.as_str()?,
                ))
            })
            .filter(|(key_id, _)| key_id.algorithm() == ruma::SigningKeyAlgorithm::Ed25519)
            .take(MAX_KEYS)
    }
}

/// "Passes signature checks" and "passes hash checks". `keys` are those that [`ReceivedPdu::signers`] asks for, as far
/// as they could be had; others are passed over.
pub(crate) fn verify(
    mut pdu: ReceivedPdu,
    keys: &PublicKeyMap,
    rules: &RoomVersionRules,
) -> Result<Verified, Dropped> {
    let signed = essential(&pdu.object, &rules.redaction)?;
    for server in &pdu.signers {
        check_signatures(&pdu, server, keys, &signed)?;
    }
    if is_whole(&pdu.object)? {
        return Ok(Verified::Whole(pdu));
    }
    redact(&mut pdu.object, &rules.redaction)?;
    // What exempted it may be gone. A third-party invite that was tampered with is an invite like any other now.
    let signers = signing_servers(&pdu.sender, &pdu.event_id, &pdu.event_type, pdu.content(), rules)?;
    for server in signers.difference(&pdu.signers) {
        check_signatures(&pdu, server, keys, &signed)?;
    }
    pdu.signers = signers;
    pdu.json = canonical(&pdu.object, &[])?.into();
    let fields = Fields {
        object: &pdu.object,
        rules,
    };
    pdu.redacts = fields.redacts(&pdu.event_type, pdu.content());
    Ok(Verified::Redacted(pdu))
}

/// All signatures with keys that are known are right, and there is one.
fn check_signatures(
    pdu: &ReceivedPdu,
    server: &ServerName,
    keys: &PublicKeyMap,
    signed: &str,
) -> Result<(), Dropped> {
    let keys = keys.get(server.as_str());
    let (mut is_signed, mut is_checked) = (false, false);
    for (key_id, signature) in pdu.signatures_of(server) {
        is_signed = true;
        let Some(key) = keys.and_then(|keys| keys.get(key_id.as_str())) else {
            continue;
        };
        let bad = |source| Dropped::BadSignature {
            server: server.to_owned(),
            source,
        };
        let signature: Base64 = Base64::parse(signature).map_err(|source| {
            let path = format!("signatures.{server}.{key_id}");
            bad(VerificationError::InvalidBase64Signature { path, source })
        })?;
        verify_canonical_json_bytes(
            &key_id.algorithm(),
            key.as_bytes(),
            signature.as_bytes(),
            signed.as_bytes(),
        )
        .map_err(bad)?;
        is_checked = true;
    }
    match (is_signed, is_checked) {
        (_, true) => Ok(()),
        (true, false) => Err(Dropped::KeysUnknown(server.to_owned())),
        (false, false) => Err(Dropped::NotSigned(server.to_owned())),
    }
}

/// Whether the content hash of an event is that of its content (server-server API, "Calculating the content hash for an
/// event").
fn is_whole(object: &JsonObject) -> Result<bool, Dropped> {
    let hashed = canonical(object, &["hashes", "signatures", "unsigned"])?;
    let hash = Base64::<ruma::serde::base64::Standard>::parse(content_hash(object)?);
    Ok(hash.is_ok_and(|hash| hash.as_bytes() == sha256(&hashed)))
}

fn content_hash(object: &JsonObject) -> Result<&str, Dropped> {
    let hashes = object.get("hashes").and_then(Json::as_object);
    let hash = hashes
        .and_then(|hashes| hashes.get("sha256"))
        .and_then(Json::as_str);
    hash.ok_or(Dropped::Field("hashes"))
}

/// The servers that must have signed an event (server-server API, "Validating hashes and signatures on received
/// events"; for restricted joins the authorisation rules of room version 8).
fn signing_servers(
    sender: &UserId,
    event_id: &OwnedEventId,
    event_type: &str,
    content: &JsonObject,
    rules: &RoomVersionRules,
) -> Result<BTreeSet<OwnedServerName>, Dropped> {
    let is_member = event_type == "m.room.member";
    let is_invite = is_member && content.get("membership").and_then(Json::as_str) == Some("invite");
    let mut servers = BTreeSet::new();
    // Made by the invited user's server in the name of whoever invited an e-mail address: that this may be is for the
    // authorisation rules to say.
    if !(is_invite && content.contains_key("third_party_invite")) {
        servers.insert(sender.server_name().to_owned());
    }
    if rules.signatures.check_event_id_server {
        servers.extend(event_id.server_name().map(ToOwned::to_owned));
    }
    if rules.signatures.check_join_authorised_via_users_server && is_member {
        let field = "join_authorised_via_users_server";
        if let Some(authoriser) = content.get(field) {
            let authoriser = authoriser.as_str().ok_or(Dropped::Field(field))?;
            let authoriser =
                <&UserId>::try_from(authoriser).map_err(|source| Dropped::Id { field, source })?;
            servers.insert(authoriser.server_name().to_owned());
        }
    }
    Ok(servers)
}

/// The fields of an event, by the event format of its room's version.
#[derive(Clone, Copy)]
struct Fields<'a> {
    object: &'a JsonObject,
    rules: &'a RoomVersionRules,
}

impl<'a> Fields<'a> {
    fn string(self, field: &'static str) -> Result<Option<&'a str>, Dropped> {
        let value = self.object.get(field);
        value
            .map(|value| value.as_str().ok_or(Dropped::Field(field)))
            .transpose()
    }

    fn required_string(self, field: &'static str) -> Result<&'a str, Dropped> {
        self.string(field)?.ok_or(Dropped::Field(field))
    }

    fn id<T: TryFrom<&'a str, Error = IdParseError>>(self, field: &'static str) -> Result<T, Dropped> {
        T::try_from(self.required_string(field)?).map_err(|source| Dropped::Id { field, source })
    }

    fn integer(self, field: &'static str) -> Result<i64, Dropped> {
        let value = self.object.get(field).and_then(Json::as_integer);
        value.ok_or(Dropped::Field(field))
    }

    fn check_hashes_and_signatures(self) -> Result<(), Dropped> {
        content_hash(self.object)?;
        let signatures = self.object.get("signatures").and_then(Json::as_object);
        signatures.map(|_| ()).ok_or(Dropped::Field("signatures"))
    }

    /// The event ID: said by the event in versions 1 and 2, its reference hash since.
    fn event_id(self) -> Result<OwnedEventId, Dropped> {
        const FIELD: &str = "event_id";
        if self.rules.event_format.require_event_id {
            let event_id = event_id_in(FIELD, self.required_string(FIELD)?)?;
            return match event_id.server_name() {
                Some(_) => Ok(event_id),
                None => Err(Dropped::Field(FIELD)),
            };
        }
        // It would be part of what it is the hash of.
        if self.object.contains_key(FIELD) {
            return Err(Dropped::Field(FIELD));
        }
        let hash = sha256(&essential(self.object, &self.rules.redaction)?);
        let hash = match self.rules.event_id_format {
            EventIdFormatVersion::V1 | EventIdFormatVersion::V2 => STANDARD_NO_PAD.encode(hash),
            _ => URL_SAFE_NO_PAD.encode(hash),
        };
        OwnedEventId::try_from(format!("${hash}")).map_err(|source| Dropped::Id { field: FIELD, source })
    }

    /// The room: since version 12 the create event has the ID of the room for its own, and does not say it.
    fn room_id(self, event_type: &str, event_id: &OwnedEventId) -> Result<OwnedRoomId, Dropped> {
        const FIELD: &str = "room_id";
        if event_type != "m.room.create" || self.rules.event_format.require_room_create_room_id {
            return self.id(FIELD);
        }
        if self.object.contains_key(FIELD) {
            return Err(Dropped::Field(FIELD));
        }
        OwnedRoomId::try_from(event_id.as_str().replacen('$', "!", 1))
            .map_err(|source| Dropped::Id { field: FIELD, source })
    }

    /// The IDs in `prev_events` or `auth_events`. Versions 1 and 2 have pairs of an ID and hashes there, of which
    /// nobody looks at the hashes.
    fn references(self, field: &'static str, at_most: usize) -> Result<Vec<OwnedEventId>, Dropped> {
        let references = self.object.get(field).and_then(Json::as_array);
        let references = references.ok_or(Dropped::Field(field))?;
        if references.len() > at_most {
            return Err(Dropped::TooMany(field));
        }
        let ids = references.iter().map(|reference| {
            let event_id = match (&self.rules.events_reference_format, reference) {
                (EventsReferenceFormatVersion::V1, Json::Array(pair)) => match pair.as_slice() {
                    [Json::String(event_id), Json::Object(_)] => Some(event_id),
                    _ => None,
                },
                (EventsReferenceFormatVersion::V1, _) => None,
                (_, Json::String(event_id)) => Some(event_id),
                _ => None,
            };
            event_id_in(field, event_id.ok_or(Dropped::Field(field))?)
        });
        ids.collect()
    }

    /// Since version 12 the room ID says which the create event is (room version 12, "Event format").
    fn check_create_is_no_auth_event(
        self,
        room_id: &OwnedRoomId,
        auth_events: &[OwnedEventId],
    ) -> Result<(), Dropped> {
        let is_create =
            |event_id: &OwnedEventId| event_id.as_str().strip_prefix('$') == Some(room_id.strip_sigil());
        match !self.rules.event_format.allow_room_create_in_auth_events && auth_events.iter().any(is_create) {
            true => Err(Dropped::Field("auth_events")),
            false => Ok(()),
        }
    }

    /// What a redaction redacts. Nothing where it says so in no way that can be understood: then it redacts nothing.
    fn redacts(self, event_type: &str, content: &JsonObject) -> Option<OwnedEventId> {
        if event_type != "m.room.redaction" {
            return None;
        }
        let from = match self.rules.redaction.content_field_redacts {
            true => content,
            false => self.object,
        };
        let redacts = from.get("redacts").and_then(Json::as_str)?;
        event_id_in("redacts", redacts).ok()
    }
}

/// ruma looks at the length of those event IDs only that name a server.
fn event_id_in(field: &'static str, event_id: &str) -> Result<OwnedEventId, Dropped> {
    let failed = |source| Dropped::Id { field, source };
    match event_id.len() > MAX_ID_BYTES {
        true => Err(failed(IdParseError::MaximumLengthExceeded)),
        false => OwnedEventId::try_from(event_id).map_err(failed),
    }
}

#[cfg(test)]
mod tests;
