//! Key objects: JSON that clients and servers publish, and that is told as it came. What is checked of them here is
//! their form, whose they are, and signatures that somebody claims. Pure.

use std::{collections::BTreeMap, sync::Arc};

use hearth_storage::cross_signing::Usage;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, DeviceId, SigningKeyAlgorithm, UserId,
    serde::{Base64, base64::Standard},
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};

/// The largest key object of a device or for cross-signing, in bytes of canonical JSON.
const MAX_OBJECT_BYTES: usize = 32 << 10;
/// The largest one-time key, in bytes of canonical JSON.
const MAX_KEY_BYTES: usize = 8 << 10;
/// The longest ID of a key, without its algorithm, and the longest name of an algorithm.
pub(super) const MAX_ID_BYTES: usize = 255;

const ED25519: &str = "ed25519:";

/// Why a key object is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// It is not canonical JSON.
    #[error("a key must be a JSON object, without fractions and large numbers")]
    NotCanonical,
    /// It is larger than keys are.
    #[error("a key is too large")]
    TooLarge,
    /// It lacks a property, or has one of another type than the specification says.
    #[error("the property `{0}` of a key is missing or of the wrong type")]
    Property(&'static str),
    /// It says that it is another user's or device's.
    #[error("the property `{0}` of a key is not that of who uploads it")]
    Stranger(&'static str),
    /// A cross-signing key says that it is for something else.
    #[error("the property `usage` of a key does not say what it is uploaded for")]
    Usage,
    /// Its name is no name of a key.
    #[error("the name of a key must be an algorithm and an ID of at most 255 bytes each, and without NUL")]
    Name,
}

/// Reads an object.
pub(super) fn parse(json: &str) -> Result<CanonicalJsonObject, BadKey> {
    match serde_json::from_str(json) {
        Ok(CanonicalJsonValue::Object(object)) => Ok(object),
        _ => Err(BadKey::NotCanonical),
    }
}

/// Writes an object.
pub(super) fn to_json(object: CanonicalJsonObject) -> Arc<str> {
    CanonicalJsonValue::Object(object).to_string().into()
}

/// Reads the key object of a device (client-server API, `DeviceKeys`).
pub(super) fn device_keys(
    json: &str,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<CanonicalJsonObject, BadKey> {
    let mut object = parse(json)?;
    // Who stores it adds that.
    object.remove("unsigned");
    is_of(&object, "user_id", user_id.as_str())?;
    is_of(&object, "device_id", device_id.as_str())?;
    let algorithms = object.get("algorithms").and_then(CanonicalJsonValue::as_array);
    if !algorithms.is_some_and(|names| names.iter().all(|name| name.as_str().is_some())) {
        return Err(BadKey::Property("algorithms"));
    }
    if !has_strings(object.get("keys")) {
        return Err(BadKey::Property("keys"));
    }
    if !has_signatures(object.get("signatures")) {
        return Err(BadKey::Property("signatures"));
    }
    bounded(object, MAX_OBJECT_BYTES)
}

/// Reads a cross-signing key (client-server API, `CrossSigningKey`).
pub(super) fn cross_signing_key(
    json: &str,
    user_id: &UserId,
    usage: Usage,
) -> Result<CanonicalJsonObject, BadKey> {
    let object = parse(json)?;
    is_of(&object, "user_id", user_id.as_str())?;
    let uses = object.get("usage").and_then(CanonicalJsonValue::as_array);
    let uses = uses.ok_or(BadKey::Property("usage"))?;
    if !uses.iter().any(|name| name.as_str() == Some(usage_name(usage))) {
        return Err(BadKey::Usage);
    }
    public_key(&object).ok_or(BadKey::Property("keys"))?;
    if !object
        .get("signatures")
        .is_none_or(|signatures| has_signatures(Some(signatures)))
    {
        return Err(BadKey::Property("signatures"));
    }
    bounded(object, MAX_OBJECT_BYTES)
}

/// Reads a one-time or fallback key: a string, or an object with a key and signatures. Gives it as canonical JSON.
pub(super) fn one_time_key(json: &str) -> Result<Arc<str>, BadKey> {
    let key: CanonicalJsonValue = serde_json::from_str(json).map_err(|_| BadKey::NotCanonical)?;
    match &key {
        CanonicalJsonValue::String(_) => {}
        CanonicalJsonValue::Object(object) => {
            if object.get("key").and_then(CanonicalJsonValue::as_str).is_none() {
                return Err(BadKey::Property("key"));
            }
            if !has_signatures(object.get("signatures")) {
                return Err(BadKey::Property("signatures"));
            }
        }
        _ => return Err(BadKey::NotCanonical),
    }
    let json = key.to_string();
    match json.len() > MAX_KEY_BYTES {
        true => Err(BadKey::TooLarge),
        false => Ok(json.into()),
    }
}

fn bounded(object: CanonicalJsonObject, bytes: usize) -> Result<CanonicalJsonObject, BadKey> {
    let size = serde_json::to_string(&object).map_or(usize::MAX, |json| json.len());
    match size > bytes {
        true => Err(BadKey::TooLarge),
        false => Ok(object),
    }
}

fn is_of(object: &CanonicalJsonObject, property: &'static str, owner: &str) -> Result<(), BadKey> {
    match object.get(property).and_then(CanonicalJsonValue::as_str) {
        None => Err(BadKey::Property(property)),
        Some(said) if said != owner => Err(BadKey::Stranger(property)),
        Some(_) => Ok(()),
    }
}

fn has_strings(value: Option<&CanonicalJsonValue>) -> bool {
    let object = value.and_then(CanonicalJsonValue::as_object);
    object.is_some_and(|object| object.values().all(|value| value.as_str().is_some()))
}

fn has_signatures(value: Option<&CanonicalJsonValue>) -> bool {
    let object = value.and_then(CanonicalJsonValue::as_object);
    object.is_some_and(|object| object.values().all(|by| has_strings(Some(by))))
}

fn usage_name(usage: Usage) -> &'static str {
    match usage {
        Usage::Master => "master",
        Usage::SelfSigning => "self_signing",
        Usage::UserSigning => "user_signing",
    }
}

/// The one public key of a cross-signing key, and its ID: the same after `ed25519:`.
pub(super) fn public_key(object: &CanonicalJsonObject) -> Option<(&str, &str)> {
    let keys = object.get("keys")?.as_object()?;
    let (id, key) = keys.iter().next().filter(|_| keys.len() == 1)?;
    let key = key.as_str()?;
    let is_sound = id.strip_prefix(ED25519) == Some(key) && key.len() <= MAX_ID_BYTES && !key.contains('\0');
    is_sound.then_some((id, key))
}

/// The ed25519 key of a device, and its ID.
pub(super) fn device_signing_key<'a>(
    object: &'a CanonicalJsonObject,
    device_id: &str,
) -> Option<(String, &'a str)> {
    let id = format!("{ED25519}{device_id}");
    let key = object.get("keys")?.as_object()?.get(&id)?.as_str()?;
    Some((id, key))
}

/// The signatures that `signer` made of an object, by the IDs of their keys.
pub(super) fn signatures_by<'a>(
    object: &'a CanonicalJsonObject,
    signer: &UserId,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let by = object
        .get("signatures")
        .and_then(CanonicalJsonValue::as_object)
        .and_then(|signatures| signatures.get(signer.as_str()))
        .and_then(CanonicalJsonValue::as_object);
    by.into_iter()
        .flatten()
        .filter_map(|(key_id, signature)| Some((key_id.as_str(), signature.as_str()?)))
}

/// Whether a signature of an object is by this key, an ed25519 one.
pub(super) fn is_signed(object: &CanonicalJsonObject, signature: &str, public_key: &str) -> bool {
    let verified = || {
        let key = Base64::<Standard, Vec<u8>>::parse(public_key).ok()?;
        let signature = Base64::<Standard, Vec<u8>>::parse(signature).ok()?;
        let json = to_canonical_json_string_for_signing(object).ok()?;
        verify_canonical_json_bytes(
            &SigningKeyAlgorithm::Ed25519,
            key.as_bytes(),
            signature.as_bytes(),
            json.as_bytes(),
        )
        .ok()
    };
    verified().is_some()
}

/// Whether two objects are the same but for signatures and what servers add: what may be signed of the one may be of
/// the other.
pub(super) fn say_the_same(one: &CanonicalJsonObject, other: &CanonicalJsonObject) -> bool {
    let said = |object: &CanonicalJsonObject| to_canonical_json_string_for_signing(object).ok();
    said(one).is_some_and(|said_by_one| Some(said_by_one) == said(other))
}

/// Adds a signature.
pub(super) fn add_signature(
    object: &mut CanonicalJsonObject,
    signer: &UserId,
    key_id: &str,
    signature: &str,
) {
    let empty = || CanonicalJsonValue::Object(BTreeMap::new());
    let signatures = object.entry("signatures".to_owned()).or_insert_with(empty);
    let CanonicalJsonValue::Object(signatures) = signatures else {
        return;
    };
    let by = signatures.entry(signer.as_str().to_owned()).or_insert_with(empty);
    if let CanonicalJsonValue::Object(by) = by {
        by.insert(
            key_id.to_owned(),
            CanonicalJsonValue::String(signature.to_owned()),
        );
    }
}

/// Adds the name that a user gave a device, where others than its signatures may look for it.
pub(super) fn add_display_name(object: &mut CanonicalJsonObject, display_name: Option<&str>) {
    let Some(display_name) = display_name else { return };
    let name = CanonicalJsonValue::String(display_name.to_owned());
    let unsigned = BTreeMap::from([("device_display_name".to_owned(), name)]);
    object.insert("unsigned".to_owned(), CanonicalJsonValue::Object(unsigned));
}

/// Takes it out again.
pub(super) fn take_display_name(object: &mut CanonicalJsonObject) -> Option<String> {
    let unsigned = object.remove("unsigned")?;
    let name = unsigned.as_object()?.get("device_display_name")?.as_str()?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};
    use serde_json::json;

    use super::*;

    fn sound() -> serde_json::Value {
        json!({
            "user_id": "@a:b", "device_id": "D", "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { "curve25519:D": "k", "ed25519:D": "k" },
            "signatures": { "@a:b": { "ed25519:D": "s" } },
        })
    }

    fn read(change: impl FnOnce(&mut serde_json::Value)) -> Result<CanonicalJsonObject, BadKey> {
        let mut object = sound();
        change(&mut object);
        device_keys(&object.to_string(), user_id!("@a:b"), device_id!("D"))
    }

    #[test]
    fn keys_of_a_device_are_those_of_who_uploads_them() {
        assert!(read(|_| {}).is_ok());
        assert_eq!(
            read(|keys| keys["user_id"] = json!("@b:b")),
            Err(BadKey::Stranger("user_id"))
        );
        assert_eq!(
            read(|keys| keys["device_id"] = json!("E")),
            Err(BadKey::Stranger("device_id"))
        );
        assert_eq!(
            read(|keys| keys["keys"] = json!({ "a": 1 })),
            Err(BadKey::Property("keys"))
        );
        assert_eq!(
            read(|keys| keys["signatures"] = json!({ "@a:b": "s" })),
            Err(BadKey::Property("signatures"))
        );
        assert_eq!(
            read(|keys| keys["algorithms"] = json!([1])),
            Err(BadKey::Property("algorithms"))
        );
        assert_eq!(read(|keys| keys["x"] = json!(1.5)), Err(BadKey::NotCanonical));
        assert_eq!(
            read(|keys| keys["x"] = json!("x".repeat(MAX_OBJECT_BYTES))),
            Err(BadKey::TooLarge)
        );
        let with_unsigned = read(|keys| keys["unsigned"] = json!({ "device_display_name": "x" }));
        assert!(!with_unsigned.expect("it is sound").contains_key("unsigned"));
    }

    #[test]
    fn a_cross_signing_key_has_one_key_named_after_itself() {
        let read = |keys: serde_json::Value, usage: &str| {
            let object = json!({ "user_id": "@a:b", "usage": [usage], "keys": keys });
            cross_signing_key(&object.to_string(), user_id!("@a:b"), Usage::Master)
        };
        assert!(read(json!({ "ed25519:abc": "abc" }), "master").is_ok());
        assert_eq!(
            read(json!({ "ed25519:abc": "abc" }), "self_signing"),
            Err(BadKey::Usage)
        );
        for keys in [
            json!({}),
            json!({ "ed25519:abc": "abd" }),
            json!({ "rsa:abc": "abc" }),
            json!({ "ed25519:a": "a", "ed25519:b": "b" }),
            json!({ "ed25519:a\0": "a\0" }),
        ] {
            assert_eq!(read(keys, "master"), Err(BadKey::Property("keys")));
        }
    }

    #[test]
    fn objects_say_the_same_whatever_is_added_to_them() {
        let one = read(|_| {}).expect("it is sound");
        let mut other = one.clone();
        add_signature(&mut other, user_id!("@c:d"), "ed25519:x", "sig");
        add_display_name(&mut other, Some("Phone"));
        assert!(say_the_same(&one, &other));
        assert_eq!(
            signatures_by(&other, user_id!("@c:d")).collect::<Vec<_>>(),
            [("ed25519:x", "sig")]
        );
        other.insert("keys".to_owned(), CanonicalJsonValue::Null);
        assert!(!say_the_same(&one, &other));
    }
}
