//! Whether a server's statement about its keys is to be believed, and for how long.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedServerSigningKeyId, ServerName,
    api::federation::discovery::ServerSigningKeys,
    serde::Base64,
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};
use serde_json::value::RawValue;

/// The longest that a key is believed without being asked for again, in milliseconds, whatever its server says.
const MOST: i64 = 7 * 24 * 60 * 60 * 1000;
/// Keys in one statement; with more it is not one that a server made.
const MAX_KEYS: usize = 500;
/// The longest name of a key.
const MAX_ID: usize = 255;

/// A statement that is to be believed.
#[derive(Debug)]
pub(super) struct Statement {
    /// Whose keys.
    pub server: OwnedServerName,
    /// The keys.
    pub keys: BTreeMap<OwnedServerSigningKeyId, Key>,
    /// The statement as it was made.
    pub json: Vec<u8>,
}

/// A key, and how long it signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub public_key: Base64,
    /// In milliseconds.
    pub valid_until: i64,
    /// When this was learnt, in milliseconds.
    pub fetched_at: i64,
}

/// Checks that a statement is signed by one of the keys that it names as in use, and reads it.
pub(super) fn verify(json: &RawValue, now: i64) -> Result<Statement, String> {
    let object: CanonicalJsonObject = serde_json::from_str(json.get()).map_err(|error| error.to_string())?;
    let stated: ServerSigningKeys = serde_json::from_str(json.get()).map_err(|error| error.to_string())?;
    if stated.verify_keys.len() + stated.old_verify_keys.len() > MAX_KEYS {
        return Err(format!("more than {MAX_KEYS} keys"));
    }
    let in_use: PublicKeySet = stated
        .verify_keys
        .iter()
        .map(|(id, key)| (id.to_string(), key.key.clone()))
        .collect();
    signed_by(object, &stated.server_name, in_use)?;

    let key = |public_key: Base64, valid_until: i64| Key {
        public_key,
        valid_until,
        fetched_at: now,
    };
    let valid_until = i64::from(stated.valid_until_ts.0).min(now.saturating_add(MOST));
    let old = stated.old_verify_keys.into_iter();
    let old = old.map(|(id, old)| (id, key(old.key, i64::from(old.expired_ts.0).min(now))));
    let new = stated.verify_keys.into_iter();
    let new = new.map(|(id, new)| (id, key(new.key, valid_until)));
    Ok(Statement {
        server: stated.server_name,
        // In use after all, if a key is named as both.
        keys: old
            .chain(new)
            .filter(|(id, key)| is_usable(id, &key.public_key))
            .collect(),
        json: json.get().as_bytes().to_vec(),
    })
}

/// Checks a signature of `server` by one of its keys; signatures of others are not looked at.
pub(super) fn signed_by(
    mut object: CanonicalJsonObject,
    server: &ServerName,
    keys: PublicKeySet,
) -> Result<(), String> {
    let of_server = match object.remove("signatures") {
        Some(CanonicalJsonValue::Object(mut all)) => all.remove(server.as_str()),
        _ => None,
    };
    let of_server = of_server.ok_or_else(|| format!("not signed by {server}"))?;
    let signatures = CanonicalJsonObject::from([(server.to_string(), of_server)]);
    object.insert("signatures".to_owned(), CanonicalJsonValue::Object(signatures));
    let keys = PublicKeyMap::from([(server.to_string(), keys)]);
    verify_json(&keys, &object).map_err(|error| error.to_string())
}

fn is_usable(id: &OwnedServerSigningKeyId, key: &Base64) -> bool {
    let id = id.as_str();
    id.starts_with("ed25519:")
        && id.len() <= MAX_ID
        && id.bytes().all(|byte| byte.is_ascii_graphic())
        && key.as_bytes().len() == 32
}

#[cfg(test)]
mod tests {
    use hearth_engine::SigningKey;
    use ruma::{MilliSecondsSinceUnixEpoch, owned_server_name};
    use serde_json::{Value, json};

    use super::*;
    use crate::keys::own::{OwnKeys, RetiredKey};

    const NOW: i64 = 1_700_000_000_000;
    const DAY: i64 = 24 * 60 * 60 * 1000;

    fn signing_key(version: &str) -> SigningKey {
        SigningKey::from_seed(version, &[7; 32]).expect("a key")
    }

    fn ms(time: i64) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(time.try_into().expect("after 1970"))
    }

    fn own_keys() -> OwnKeys {
        let retired = RetiredKey {
            id: "ed25519:old".try_into().expect("an ID"),
            public_key: [9; 32],
            expired_ts: ms(NOW - DAY),
        };
        OwnKeys::new(
            owned_server_name!("a.example"),
            signing_key("new"),
            vec![],
            vec![retired],
        )
    }

    fn published() -> Value {
        let published = own_keys().publish(ms(NOW)).expect("they can be published");
        serde_json::from_str(published.json().get()).expect("JSON")
    }

    fn verified(statement: &Value) -> Result<Statement, String> {
        verify(&serde_json::value::to_raw_value(statement).expect("JSON"), NOW)
    }

    /// Signed by the key `new` of a.example again.
    fn signed_anew(mut statement: Value) -> Value {
        statement.as_object_mut().expect("an object").remove("signatures");
        let mut object: CanonicalJsonObject = serde_json::from_value(statement).expect("canonical");
        own_keys().countersign(&mut object).expect("it can be signed");
        serde_json::to_value(object).expect("JSON")
    }

    #[test]
    fn what_a_server_publishes_is_believed() {
        let statement = verified(&published()).expect("it is signed");
        assert_eq!(statement.server, "a.example");
        let valid: Vec<_> = statement
            .keys
            .iter()
            .map(|(id, key)| (id.as_str(), key.valid_until))
            .collect();
        assert_eq!(valid, [("ed25519:new", NOW + DAY), ("ed25519:old", NOW - DAY)]);
    }

    #[test]
    fn a_changed_or_unsigned_statement_is_not_believed() {
        let mut changed = published();
        changed["valid_until_ts"] = json!(NOW + 5 * DAY);
        assert!(verified(&changed).is_err());
        let mut renamed = published();
        renamed["server_name"] = json!("b.example");
        assert!(verified(&renamed).is_err());
        let mut unsigned = published();
        unsigned["signatures"] = json!({});
        assert!(verified(&unsigned).is_err());
    }

    #[test]
    fn a_key_that_is_only_an_old_one_signs_no_statement() {
        let mut statement = published();
        statement["old_verify_keys"]["ed25519:new"] =
            json!({"key": statement["verify_keys"]["ed25519:new"]["key"], "expired_ts": NOW});
        statement["verify_keys"] = json!({});
        assert!(verified(&signed_anew(statement)).is_err());
    }

    #[test]
    fn nobody_is_believed_for_longer_than_a_week() {
        let mut statement = published();
        statement["valid_until_ts"] = json!(NOW + 400 * DAY);
        let statement = verified(&signed_anew(statement)).expect("it is signed");
        let key = &statement.keys[<&ruma::ServerSigningKeyId>::try_from("ed25519:new").expect("an ID")];
        assert_eq!(key.valid_until, NOW + 7 * DAY);
    }

    #[test]
    fn keys_of_other_kinds_are_passed_over() {
        let mut statement = published();
        statement["verify_keys"]["rsa:1"] = json!({"key": "AAAA"});
        statement["verify_keys"]["ed25519:short"] = json!({"key": "AAAA"});
        let statement = verified(&signed_anew(statement)).expect("it is signed");
        assert_eq!(statement.keys.len(), 2);
    }
}
