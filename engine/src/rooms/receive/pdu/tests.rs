use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, RoomVersionId,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{PublicKeyMap, hash_and_sign_event, reference_hash, verify_event},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest as _, Sha256};

use super::{Dropped, ReceivedPdu, Verified, read, verify};
use crate::{SigningKey, events::json::JsonError};

/// Events of every room version, made, signed and redacted by Synapse 1.163 for this test, with the key of the
/// specification's test vectors.
const EVENTS_OF_SYNAPSE: &str = include_str!("events_of_synapse.jsonl");

#[derive(Deserialize)]
struct Made<'a> {
    room_version: RoomVersionId,
    event_id: String,
    redacted_sha256: String,
    #[serde(borrow)]
    pdu: &'a RawValue,
}

fn rules(version: &str) -> RoomVersionRules {
    RoomVersionId::try_from(version).unwrap().rules().unwrap()
}

fn all_rules() -> impl Iterator<Item = (u8, RoomVersionRules)> {
    (1..=12).map(|version| (version, rules(&version.to_string())))
}

/// The key of the specification's test vectors.
fn key() -> SigningKey {
    // The last symbol has bits to spare.
    let seed: Base64 = Base64::parse("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
    SigningKey::from_seed("1", seed.as_bytes().try_into().unwrap()).unwrap()
}

fn keys_of(servers: &[(&str, &SigningKey)]) -> PublicKeyMap {
    let of_server = |key: &SigningKey| {
        let key_id = format!("ed25519:{}", key.pair().version());
        BTreeMap::from([(key_id, Base64::new(key.pair().public_key().to_vec()))])
    };
    let servers = servers.iter();
    servers
        .map(|(server, key)| ((*server).to_owned(), of_server(key)))
        .collect()
}

/// An event that has what it must have in a version, unsigned, with `fields` put in.
fn event(rules: &RoomVersionRules, fields: Value) -> CanonicalJsonObject {
    let mut event = json!({
        "type": "m.room.message", "sender": "@a:domain", "room_id": "!r:domain", "content": { "body": "hi" },
        "origin_server_ts": 5, "depth": 3, "prev_events": [], "auth_events": [], "hashes": {}, "signatures": {},
    });
    if rules.event_format.require_event_id {
        event["event_id"] = json!("$e:domain");
    }
    serde_json::from_value(with(event, fields)).unwrap()
}

/// `event` with `fields` put in, and those that are null taken out.
fn with(mut event: Value, fields: Value) -> Value {
    let object = event.as_object_mut().unwrap();
    for (key, value) in fields.as_object().unwrap() {
        match value.is_null() {
            true => drop(object.remove(key)),
            false => drop(object.insert(key.clone(), value.clone())),
        }
    }
    event
}

fn signed(mut event: CanonicalJsonObject, rules: &RoomVersionRules) -> String {
    hash_and_sign_event("domain", key().pair(), &mut event, &rules.redaction).unwrap();
    serde_json::to_string(&event).unwrap()
}

fn read_with(rules: &RoomVersionRules, fields: Value) -> Result<ReceivedPdu, Dropped> {
    read(&signed(event(rules, fields), rules), rules)
}

fn is_whole(verified: &Verified) -> bool {
    matches!(verified, Verified::Whole(_))
}

#[test]
fn events_that_synapse_made_are_read_and_verified_in_every_version() {
    let keys = keys_of(&[("domain", &key())]);
    let mut versions = BTreeMap::<String, usize>::new();
    for line in EVENTS_OF_SYNAPSE.lines() {
        let made: Made<'_> = serde_json::from_str(line).unwrap();
        let rules = made.room_version.rules().unwrap();
        let pdu = read(made.pdu.get(), &rules).unwrap();
        assert_eq!(pdu.event_id, made.event_id, "{line}");
        assert_eq!(&*pdu.json, made.pdu.get());
        assert!(is_whole(&verify(pdu, &keys, &rules).unwrap()), "{line}");

        // With other content only the redacted form is left, and it is the one that Synapse makes. The content of later
        // create events stays whole, so that their signatures cover it.
        let tampered = made
            .pdu
            .get()
            .replacen(r#""content":{"#, r#""content":{"0":0,"#, 1);
        match verify(read(&tampered, &rules).unwrap(), &keys, &rules) {
            Ok(Verified::Redacted(redacted)) => {
                let hash = Sha256::digest(redacted.json.as_bytes());
                let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(hash, made.redacted_sha256, "{}", redacted.json);
                assert_eq!(redacted.event_id, made.event_id);
            }
            Err(Dropped::BadSignature { .. }) => {
                assert!(rules.redaction.keep_room_create_content && tampered.contains("m.room.create"));
            }
            other => panic!("{tampered}: {other:?}"),
        }
        *versions.entry(made.room_version.to_string()).or_default() += 1;
    }
    assert_eq!(versions.len(), 12);
    assert!(versions.values().all(|events| *events == 8), "{versions:?}");
}

#[test]
fn ruma_and_this_agree_on_ids_hashes_and_signatures() {
    let keys = keys_of(&[("domain", &key())]);
    for (version, rules) in all_rules() {
        let json = signed(
            event(
                &rules,
                json!({ "content": { "é": [1, { "b": "\u{1}", "a": null }] } }),
            ),
            &rules,
        );
        let object: CanonicalJsonObject = serde_json::from_str(&json).unwrap();
        let pdu = read(&json, &rules).unwrap();
        if version > 2 {
            assert_eq!(
                pdu.event_id,
                format!("${}", reference_hash(&object, &rules).unwrap())
            );
        }
        assert_eq!(*pdu.json, json);
        assert_eq!(
            verify_event(&keys, &object, &rules).unwrap(),
            ruma::signatures::Verified::All
        );
        assert!(is_whole(&verify(pdu, &keys, &rules).unwrap()));
    }
}

/// Appendices, "Cryptographic Test Vectors".
#[test]
fn the_test_vector_of_the_specification_is_verified() {
    let json = r#"{
        "auth_events": [], "content": {}, "depth": 3, "origin": "domain", "origin_server_ts": 1000000,
        "prev_events": [], "room_id": "!x:domain", "sender": "@a:domain", "type": "X",
        "hashes": { "sha256": "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos" },
        "signatures": { "domain": {
            "ed25519:1": "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"
        } },
        "unsigned": { "age_ts": 1000000 }
    }"#;
    let rules = rules("3");
    let keys = keys_of(&[("domain", &key())]);
    let pdu = read(json, &rules).unwrap();
    assert!(!pdu.json.contains("unsigned"));
    assert!(is_whole(&verify(pdu, &keys, &rules).unwrap()));
}

#[test]
fn each_version_has_its_form_of_ids_and_references() {
    for (version, rules) in all_rules() {
        let references = match version {
            1 | 2 => json!([["$p:domain", { "sha256": "x" }], ["$p:domain", {}]]),
            _ => json!(["$p", "$p"]),
        };
        let fields = json!({ "prev_events": references, "auth_events": references });
        let pdu = read_with(&rules, fields).unwrap();
        assert_eq!(pdu.prev_events.len(), 1, "each predecessor counts once");
        assert_eq!(
            pdu.auth_events.len(),
            2,
            "what is there twice is for the authorisation rules"
        );
        match version {
            1 | 2 => assert_eq!(pdu.event_id, "$e:domain"),
            3 => assert!(!pdu.event_id.as_str().contains(['-', '_'])),
            _ => assert!(!pdu.event_id.as_str().contains(['+', '/'])),
        }
        let other = match version {
            1 | 2 => json!(["$p:domain"]),
            _ => json!([["$p", {}]]),
        };
        for field in ["prev_events", "auth_events"] {
            assert!(
                matches!(read_with(&rules, json!({ field: other })), Err(Dropped::Field(_))),
                "{version}"
            );
        }
    }
}

#[test]
fn an_event_without_the_fields_of_its_version_is_dropped() {
    for (version, rules) in all_rules() {
        let mut bad = vec![
            json!({ "type": 5 }),
            json!({ "type": "t".repeat(256) }),
            json!({ "state_key": [] }),
            json!({ "state_key": "é".repeat(128) }),
            json!({ "sender": null }),
            json!({ "sender": "a" }),
            json!({ "sender": "@a\u{0}:domain" }),
            json!({ "sender": format!("@{}:domain", "a".repeat(250)) }),
            json!({ "room_id": null }),
            json!({ "room_id": "r:domain" }),
            json!({ "room_id": "!\u{0}:domain" }),
            json!({ "content": null }),
            json!({ "content": [] }),
            json!({ "depth": null }),
            json!({ "depth": "3" }),
            json!({ "depth": -1 }),
            json!({ "origin_server_ts": null }),
            json!({ "origin_server_ts": true }),
            json!({ "prev_events": null }),
            json!({ "prev_events": {} }),
            json!({ "auth_events": null }),
            json!({ "auth_events": ["p"] }),
        ];
        bad.extend(match version {
            1 | 2 => vec![
                json!({ "event_id": null }),
                json!({ "event_id": "$nowhere" }),
                json!({ "event_id": "e:domain" }),
                json!({ "prev_events": [["$e:domain", {}]] }),
                json!({ "auth_events": [["$e:domain", {}]] }),
                json!({ "prev_events": vec![json!(["$p:domain", {}]); 21] }),
                json!({ "auth_events": vec![json!(["$p:domain", {}]); 11] }),
            ],
            _ => vec![
                json!({ "event_id": "$e:domain" }),
                json!({ "prev_events": vec!["$p"; 21] }),
                json!({ "auth_events": vec!["$p"; 11] }),
                json!({ "prev_events": [format!("${}", "p".repeat(255))] }),
            ],
        });
        bad.extend([
            json!({ "hashes": {} }),
            json!({ "hashes": [] }),
            json!({ "signatures": [] }),
        ]);
        let good = signed(event(&rules, json!({})), &rules);
        assert!(read(&good, &rules).is_ok());
        for fields in bad {
            let event = with(serde_json::from_str(&good).unwrap(), fields.clone());
            assert!(
                read(&event.to_string(), &rules).is_err(),
                "{fields} in version {version}"
            );
        }
    }
}

#[test]
fn the_create_event_of_a_version_12_room_is_its_room() {
    let rules = rules("12");
    let create = json!({ "type": "m.room.create", "state_key": "", "room_id": null });
    let pdu = read_with(&rules, create).unwrap();
    assert_eq!(
        pdu.room_id.strip_sigil(),
        pdu.event_id.as_str().trim_start_matches('$')
    );
    let with_room = json!({ "type": "m.room.create", "state_key": "" });
    assert!(matches!(
        read_with(&rules, with_room),
        Err(Dropped::Field("room_id"))
    ));
    let fields = json!({ "room_id": pdu.room_id, "auth_events": [pdu.event_id] });
    assert!(matches!(
        read_with(&rules, fields),
        Err(Dropped::Field("auth_events"))
    ));
}

#[test]
fn an_event_is_at_most_64_kib_and_101_levels() {
    let rules = rules("10");
    let padded = |length: usize| {
        let json = signed(event(&rules, json!({ "content": { "body": "" } })), &rules);
        let padding = "x".repeat(length - json.len());
        read(
            &json.replacen(r#""body":"""#, &format!(r#""body":"{padding}""#), 1),
            &rules,
        )
    };
    assert!(padded(65_536).is_ok());
    assert!(matches!(padded(65_537), Err(Dropped::TooLarge(_))));
    assert!(matches!(padded(500_000), Err(Dropped::Json(JsonError::TooLong))));

    // The event and its content are two.
    let nested = |levels: usize| {
        let json = signed(event(&rules, json!({ "content": { "body": "" } })), &rules);
        let nest = format!(r#""body":{}{}"#, "[".repeat(levels - 2), "]".repeat(levels - 2));
        read(&json.replacen(r#""body":"""#, &nest, 1), &rules)
    };
    assert!(nested(101).is_ok());
    assert!(matches!(nested(102), Err(Dropped::Json(JsonError::TooDeep))));
    assert!(matches!(nested(30_000), Err(Dropped::Json(JsonError::TooDeep))));

    // What is not kept may be as it likes.
    let json = signed(event(&rules, json!({})), &rules);
    let unsigned = format!(r#"{{"unsigned":{}{},"#, "[".repeat(30_000), "]".repeat(30_000));
    assert_eq!(
        *read(&json.replacen('{', &unsigned, 1), &rules).unwrap().json,
        json
    );
}

#[test]
fn numbers_are_canonical_since_version_6_and_kept_as_written_before() {
    for (version, rules) in all_rules() {
        let json = signed(event(&rules, json!({})), &rules);
        for number in [
            "1.5",
            "1.0",
            "1e3",
            "-0.0",
            "9007199254740992",
            "-9007199254740992",
            "1e-07",
            "12345678901234567890123",
        ] {
            let json = json.replacen(r#""content":{"#, &format!(r#""content":{{"a":{number},"#), 1);
            match read(&json, &rules) {
                Ok(pdu) => assert!(version < 6 && pdu.json.contains(&format!(r#""a":{number},"#))),
                Err(error) => assert!(version >= 6 && matches!(error, Dropped::Json(JsonError::Number(_)))),
            }
        }
        let zero = json.replacen(r#""content":{"#, r#""content":{"a":-0,"#, 1);
        match read(&zero, &rules) {
            Ok(pdu) => assert!(version < 6 && pdu.json.contains(r#""a":0,"#)),
            Err(_) => assert!(version >= 6),
        }
        let largest = json.replacen(r#""depth":3"#, r#""depth":9223372036854775807"#, 1);
        assert_eq!(read(&largest, &rules).is_ok(), version < 6);
        let largest = json.replacen(r#""depth":3"#, r#""depth":9007199254740991"#, 1);
        assert!(read(&largest, &rules).is_ok());
    }
}

#[test]
fn json_is_written_anew_in_canonical_form() {
    let rules = rules("11");
    let json = signed(
        event(&rules, json!({ "content": { "é": "\u{7f}\u{1}/", "a": 1 } })),
        &rules,
    );
    let object: Value = serde_json::from_str(&json).unwrap();
    let pretty = serde_json::to_string_pretty(&object).unwrap();
    let escaped = pretty.replacen('é', "\\u00e9", 1).replacen('/', "\\/", 1);
    // Of two values of a key the last counts.
    let doubled = escaped.replacen(r#""depth": 3"#, r#""depth": 4, "depth": 3"#, 1);
    assert_ne!(doubled, pretty);
    assert_eq!(*read(&doubled, &rules).unwrap().json, json);
    for bad in [
        "",
        "[]",
        "null",
        "5",
        r#"{"a":1"#,
        r#"{"type":"\ud800"}"#,
        r#"{"a":NaN}"#,
    ] {
        assert!(
            matches!(read(bad, &rules), Err(Dropped::Json(JsonError::Malformed(_)))),
            "{bad}"
        );
    }
}

#[test]
fn an_event_is_signed_by_its_senders_server_with_a_key_that_is_known() {
    let rules = rules("10");
    let pdu = read_with(&rules, json!({})).unwrap();
    let other = SigningKey::from_seed("1", &[7; 32]).unwrap();
    for (keys, is_right) in [
        (keys_of(&[("domain", &key())]), None),
        (keys_of(&[]), Some("KeysUnknown")),
        (
            keys_of(&[("domain", &SigningKey::from_seed("2", &[7; 32]).unwrap())]),
            Some("KeysUnknown"),
        ),
        (keys_of(&[("other", &key())]), Some("KeysUnknown")),
        (keys_of(&[("domain", &other)]), Some("BadSignature")),
    ] {
        let verified = verify(pdu.clone(), &keys, &rules);
        let error = verified.err().map(|error| format!("{error:?}"));
        match is_right {
            None => assert_eq!(error, None),
            Some(cause) => assert!(error.unwrap().starts_with(cause)),
        }
    }
    let mut unsigned: Value = serde_json::from_str(&pdu.json).unwrap();
    unsigned["signatures"] =
        json!({ "other": {}, "domain": { "rsa:1": "x", "ed25519:1": 5, "ed25519": "x" } });
    let pdu = read(&unsigned.to_string(), &rules).unwrap();
    let keys = keys_of(&[("domain", &key())]);
    assert!(matches!(verify(pdu, &keys, &rules), Err(Dropped::NotSigned(_))));
}

#[test]
fn every_signature_of_a_known_key_must_be_right() {
    let rules = rules("10");
    let mut object: Value = serde_json::from_str(&signed(event(&rules, json!({})), &rules)).unwrap();
    object["signatures"]["domain"]["ed25519:2"] = object["signatures"]["domain"]["ed25519:1"].clone();
    let pdu = read(&object.to_string(), &rules).unwrap();
    let mut keys = keys_of(&[("domain", &key())]);
    assert!(is_whole(&verify(pdu.clone(), &keys, &rules).unwrap()));
    let second = SigningKey::from_seed("2", &[7; 32]).unwrap();
    let second = keys_of(&[("domain", &second)]).remove("domain").unwrap();
    keys.get_mut("domain").unwrap().extend(second);
    assert!(matches!(
        verify(pdu, &keys, &rules),
        Err(Dropped::BadSignature { .. })
    ));
}

#[test]
fn what_signatures_cover_cannot_be_changed() {
    let keys = keys_of(&[("domain", &key())]);
    for (version, rules) in all_rules() {
        let member = json!({
            "type": "m.room.member", "state_key": "@a:domain", "content": { "membership": "join", "displayname": "A" },
        });
        let json = signed(event(&rules, member), &rules);
        for (from, to) in [
            (r#""membership":"join""#, r#""membership":"ban""#),
            (r#""depth":3"#, r#""depth":4"#),
            (r#""state_key":"@a:domain""#, r#""state_key":"@b:domain""#),
            (r#""room_id":"!r:domain""#, r#""room_id":"!s:domain""#),
        ] {
            let pdu = read(&json.replacen(from, to, 1), &rules).unwrap();
            assert!(
                matches!(verify(pdu, &keys, &rules), Err(Dropped::BadSignature { .. })),
                "{version} {to}"
            );
        }
        let pdu = read(
            &json.replacen(r#""displayname":"A""#, r#""displayname":"B""#, 1),
            &rules,
        )
        .unwrap();
        let Verified::Redacted(redacted) = verify(pdu, &keys, &rules).unwrap() else {
            panic!("the display name is part of the content");
        };
        assert!(!redacted.json.contains("displayname"));
        assert_eq!(redacted.membership(), Some("join"));
    }
}

#[test]
fn keys_must_be_valid_at_the_time_of_an_event_since_version_5() {
    for (version, rules) in all_rules() {
        for (origin_server_ts, expected) in [(1_700_000_000_000_i64, 1_700_000_000_000_u64), (-1, 0)] {
            let pdu = read_with(&rules, json!({ "origin_server_ts": origin_server_ts })).unwrap();
            assert_eq!(pdu.origin_server_ts, origin_server_ts);
            let wanted = pdu.signers(&rules);
            let valid_at = wanted.values().flat_map(BTreeMap::values).next().unwrap();
            assert_eq!(u64::from(valid_at.0), if version < 5 { 0 } else { expected });
        }
    }
}

#[test]
fn servers_besides_the_senders_sign_what_they_answer_for() {
    for (version, rules) in all_rules() {
        let signers = |fields: Value| -> Vec<String> {
            let pdu = read_with(&rules, fields).unwrap();
            pdu.signers(&rules).keys().map(ToString::to_string).collect()
        };
        if version < 3 {
            assert_eq!(signers(json!({ "event_id": "$e:other" })), ["domain", "other"]);
        }
        let authorised = json!({ "membership": "join", "join_authorised_via_users_server": "@b:other" });
        let join = json!({ "type": "m.room.member", "state_key": "@a:domain", "content": authorised });
        match version {
            ..8 => assert_eq!(signers(join), ["domain"]),
            _ => assert_eq!(signers(join), ["domain", "other"]),
        }
        // It means something in memberships only.
        assert_eq!(signers(json!({ "content": authorised })), ["domain"]);

        let invite = json!({ "membership": "invite", "third_party_invite": { "signed": {} } });
        let invite = json!({ "type": "m.room.member", "state_key": "@b:other", "content": invite });
        assert_eq!(
            signers(invite),
            if version < 3 {
                vec!["domain"]
            } else {
                Vec::<&str>::new()
            }
        );
    }
}

#[test]
fn a_third_party_invite_that_was_tampered_with_is_an_invite_like_any_other() {
    for (version, rules) in all_rules().filter(|(version, _)| *version > 2) {
        let invite = json!({ "membership": "invite", "third_party_invite": { "signed": { "token": "t" } } });
        let fields = json!({ "type": "m.room.member", "state_key": "@b:other", "content": invite, "sender": "@a:victim" });
        let json = signed(event(&rules, fields), &rules);
        let keys = keys_of(&[("domain", &key())]);
        assert!(is_whole(
            &verify(read(&json, &rules).unwrap(), &keys, &rules).unwrap()
        ));
        let tampered = read(
            &json.replacen(r#""content":{"#, r#""content":{"a":1,"#, 1),
            &rules,
        )
        .unwrap();
        let verified = verify(tampered, &keys, &rules);
        match version {
            // The token stays, by which the authorisation rules know it.
            11.. => assert!(matches!(verified, Ok(Verified::Redacted(_)))),
            _ => assert!(matches!(verified, Err(Dropped::NotSigned(_)))),
        }
    }
}

#[test]
fn a_redaction_says_what_it_redacts_in_the_way_of_its_version() {
    for (version, rules) in all_rules() {
        let outside = json!({ "type": "m.room.redaction", "redacts": "$p:domain" });
        let inside = json!({ "type": "m.room.redaction", "content": { "redacts": "$p:domain" } });
        let redacts = |fields: &Value| read_with(&rules, fields.clone()).unwrap().redacts;
        let (right, wrong) = if version < 11 {
            (&outside, &inside)
        } else {
            (&inside, &outside)
        };
        assert_eq!(redacts(right).unwrap(), "$p:domain");
        assert_eq!(redacts(wrong), None);
        assert_eq!(
            redacts(&json!({ "type": "m.room.redaction", "redacts": 5, "content": { "redacts": [] } })),
            None
        );
        assert_eq!(
            redacts(&json!({ "redacts": "$p:domain", "content": { "redacts": "$p:domain" } })),
            None
        );
    }
}
