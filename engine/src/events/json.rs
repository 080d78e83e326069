//! The JSON of events as the specification has it for hashes and signatures (appendices, "Canonical JSON"), with its
//! numbers as they were written.
//!
//! Rooms of version 6 and later have integers only, which `ruma::CanonicalJsonValue` can hold. Older ones hold events
//! with fractions and with integers of any size, whose hashes cover the digits that their sender wrote. So numbers are
//! text here, for all versions alike. What this knows of Matrix is the redaction algorithm, and that from ruma.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    canonical_json::{CanonicalJsonFieldError, redact_in_place},
    room_version_rules::{RedactionRules, RoomVersionRules},
};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// The most levels of arrays and objects in an event, its own object included: one more than the body of a request
/// may have (`MAX_DEPTH` in the crate `endpoint`), so that whatever a client can send can be received.
const MAX_DEPTH: usize = 101;
/// The largest integer of canonical JSON, and with a minus the smallest.
const MAX_INTEGER: i64 = (1 << 53) - 1;
/// The levels at which redaction looks at keys: the event, its content, and `third_party_invite` in that.
const REDACTED_LEVELS: usize = 3;

/// An object, whose keys are in the order of their code points.
pub(crate) type JsonObject = BTreeMap<String, Json>;

/// A JSON value. Serialised, it is canonical but for its numbers.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    /// As it was written.
    Number(Box<RawValue>),
    String(String),
    Array(Vec<Json>),
    Object(JsonObject),
}

/// Which numbers may be in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Those of canonical JSON: integers of 53 bits, since room version 6.
    Canonical,
    /// Any.
    Any,
}

/// Why something is not the JSON of an event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("it is no JSON object: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("it is written longer than anybody has to")]
    TooLong,
    #[error("it nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("{0} is no number of canonical JSON")]
    Number(String),
    #[error("it can't be redacted: {0}")]
    Unredactable(#[from] CanonicalJsonFieldError),
}

impl Numbers {
    pub fn of(rules: &RoomVersionRules) -> Self {
        match rules.authorization.strict_canonical_json {
            true => Self::Canonical,
            false => Self::Any,
        }
    }
}

impl Json {
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Json]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&JsonObject> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The value of an integer of 64 bits.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Number(number) => number.get().parse().ok(),
            _ => None,
        }
    }

    /// Reads a value that is inside `depth` others. Well-formed it is, for it was found by parsing what is around it.
    fn read(json: &RawValue, numbers: Numbers, depth: usize) -> Result<Self, JsonError> {
        let text = json.get();
        let is_nested = text.starts_with(['{', '[']);
        if is_nested && depth >= MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        Ok(match text.as_bytes().first() {
            Some(b'{') => Self::Object(read_fields(serde_json::from_str(text)?, numbers, depth)?),
            Some(b'[') => {
                let values: Vec<&RawValue> = serde_json::from_str(text)?;
                let values = values
                    .into_iter()
                    .map(|value| Self::read(value, numbers, depth + 1));
                Self::Array(values.collect::<Result<_, _>>()?)
            }
            Some(b'"') => Self::String(serde_json::from_str(text)?),
            Some(b't' | b'f') => Self::Bool(text == "true"),
            Some(b'n') => Self::Null,
            _ => Self::Number(read_number(json, numbers)?),
        })
    }
}

type RawFields<'a> = BTreeMap<String, &'a RawValue>;

/// Reads an object, but for those of its fields that are `ignored`: the rest may be written in about `max_bytes`. Of a
/// key that is there twice the last is taken.
pub(crate) fn read_object(
    json: &str,
    ignored: &[&str],
    max_bytes: usize,
    numbers: Numbers,
) -> Result<JsonObject, JsonError> {
    let mut fields: RawFields<'_> = serde_json::from_str(json)?;
    fields.retain(|key, _| !ignored.contains(&key.as_str()));
    // Each level is looked at anew, which is what makes long and deep JSON together dear.
    if fields
        .iter()
        .map(|(key, value)| key.len() + value.get().len())
        .sum::<usize>()
        > max_bytes
    {
        return Err(JsonError::TooLong);
    }
    read_fields(fields, numbers, 0)
}

/// An object for who looks into it with ruma: numbers that canonical JSON can't hold are null in it.
pub(crate) fn readable(json: &str) -> CanonicalJsonObject {
    fn readable(value: Json) -> CanonicalJsonValue {
        match value {
            Json::Null => CanonicalJsonValue::Null,
            Json::Bool(value) => CanonicalJsonValue::Bool(value),
            Json::Number(number) => serde_json::from_str(number.get()).unwrap_or_default(),
            Json::String(text) => CanonicalJsonValue::String(text),
            Json::Array(values) => CanonicalJsonValue::Array(values.into_iter().map(readable).collect()),
            Json::Object(object) => CanonicalJsonValue::Object(readable_fields(object)),
        }
    }
    fn readable_fields(object: JsonObject) -> CanonicalJsonObject {
        object
            .into_iter()
            .map(|(key, value)| (key, readable(value)))
            .collect()
    }
    serde_json::from_str(json).unwrap_or_else(|_| {
        let object = read_object(json, &[], usize::MAX, Numbers::Any);
        object.map(readable_fields).unwrap_or_default()
    })
}

/// The canonical JSON of an object without some of its fields.
pub(crate) fn canonical(object: &JsonObject, left_out: &[&str]) -> Result<String, JsonError> {
    let fields = object.iter().filter(|(key, _)| !left_out.contains(&key.as_str()));
    Ok(serde_json::to_string(&fields.collect::<BTreeMap<_, _>>())?)
}

/// Redacts an event (the room version's "Redactions"). One whose `type` is no string is refused.
pub(crate) fn redact(object: &mut JsonObject, rules: &RedactionRules) -> Result<(), JsonError> {
    // ruma's rules say which keys stay, on an outline of the event: its values play no part, but for the type.
    let mut outline = outline_of(object, REDACTED_LEVELS);
    if let Some(event_type) = object.get("type").and_then(Json::as_str) {
        outline.insert(
            "type".to_owned(),
            CanonicalJsonValue::String(event_type.to_owned()),
        );
    }
    redact_in_place(&mut outline, rules, None)?;
    keep_only(object, &outline);
    Ok(())
}

/// What the signatures of an event cover, and what the reference hash is of: the redacted event (server-server API,
/// "Signing Events" and "Calculating the reference hash for an event").
pub(crate) fn essential(object: &JsonObject, rules: &RedactionRules) -> Result<String, JsonError> {
    let mut redacted = object.clone();
    redact(&mut redacted, rules)?;
    canonical(&redacted, &["signatures", "unsigned"])
}

/// The hash of JSON: of [`essential`] JSON the reference hash, of all but hashes and signatures the content hash.
pub(crate) fn sha256(json: &str) -> [u8; 32] {
    Sha256::digest(json.as_bytes()).into()
}

fn read_fields(fields: RawFields<'_>, numbers: Numbers, depth: usize) -> Result<JsonObject, JsonError> {
    let fields = fields.into_iter();
    fields
        .map(|(key, value)| Ok((key, Json::read(value, numbers, depth + 1)?)))
        .collect()
}

fn read_number(number: &RawValue, numbers: Numbers) -> Result<Box<RawValue>, JsonError> {
    let text = number.get();
    if numbers == Numbers::Canonical {
        let integer = text.parse().ok().filter(|integer: &i64| {
            (-MAX_INTEGER..=MAX_INTEGER).contains(integer) && integer.to_string() == text
        });
        if integer.is_none() {
            return Err(JsonError::Number(text.chars().take(40).collect()));
        }
    }
    // Servers that don't keep the text of a number know no zero but this one among the integers.
    let text = if text == "-0" { "0" } else { text };
    Ok(RawValue::from_string(text.to_owned())?)
}

fn outline_of(object: &JsonObject, levels: usize) -> CanonicalJsonObject {
    let outline_of_value = |value: &Json| match value {
        Json::Object(object) if levels > 1 => CanonicalJsonValue::Object(outline_of(object, levels - 1)),
        _ => CanonicalJsonValue::Null,
    };
    object
        .iter()
        .map(|(key, value)| (key.clone(), outline_of_value(value)))
        .collect()
}

fn keep_only(object: &mut JsonObject, outline: &CanonicalJsonObject) {
    object.retain(|key, value| {
        let kept = outline.get(key);
        if let (Json::Object(object), Some(CanonicalJsonValue::Object(outline))) = (value, kept) {
            keep_only(object, outline);
        }
        kept.is_some()
    });
}

#[cfg(test)]
mod tests {
    use ruma::CanonicalJsonObject;
    use serde_json::json;

    use super::readable;

    #[test]
    fn what_ruma_cannot_hold_is_null_where_content_is_only_read() {
        let content = readable(
            r#"{"a":[1.5,-2,1e400,12345678901234567890],"b":{"msgtype":"m.text","c":false,"d":null}}"#,
        );
        let expected: CanonicalJsonObject = serde_json::from_value(json!({
            "a": [null, -2, null, null], "b": { "msgtype": "m.text", "c": false, "d": null },
        }))
        .unwrap();
        assert_eq!(content, expected);
        assert_eq!(readable("5"), CanonicalJsonObject::new());
    }
}
