//! Keys as clients make them, with signatures that hold.

use hearth_tests::{Client, PASSWORD};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};

/// A key pair whose ID is its public key, as of cross-signing, or a device.
pub struct Pair {
    pair: Ed25519KeyPair,
    /// The public key, unpadded base64.
    pub public: String,
}

fn encoded(bytes: &[u8]) -> String {
    Base64::<Standard, _>::new(bytes.to_vec()).encode()
}

impl Pair {
    /// A new one, named after itself.
    pub fn new() -> Self {
        Self::named(None)
    }

    /// A new one of a device.
    pub fn of_device(device_id: &str) -> Self {
        Self::named(Some(device_id))
    }

    fn named(id: Option<&str>) -> Self {
        let document = Ed25519KeyPair::generate();
        let pair = |id: &str| Ed25519KeyPair::from_der(&document, id.to_owned()).expect("a key pair");
        let public = encoded(&pair("").public_key());
        Self {
            pair: pair(id.unwrap_or(&public)),
            public,
        }
    }

    /// The object with a signature by `user` added.
    pub fn sign(&self, user: &str, object: &Value) -> Value {
        let mut object: CanonicalJsonObject = serde_json::from_value(object.clone()).expect("canonical JSON");
        sign_json(user, &self.pair, &mut object).expect("it can be signed");
        serde_json::to_value(CanonicalJsonValue::Object(object)).expect("JSON")
    }
}

/// The keys of a device, and the pair that signs for it.
pub fn device_keys(client: &Client) -> (Value, Pair) {
    let (user, device) = (&client.user_id, &client.device_id);
    let pair = Pair::of_device(device);
    let keys = json!({
        "user_id": user,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            format!("curve25519:{device}"): Pair::new().public,
            format!("ed25519:{device}"): pair.public,
        },
    });
    (pair.sign(user, &keys), pair)
}

/// One-time keys with the IDs of a range.
pub fn one_time_keys(client: &Client, ids: impl Iterator<Item = usize>) -> Value {
    let device = format!("ed25519:{}", client.device_id);
    let keys = ids.map(|id| {
        let key =
            json!({ "key": format!("key{id:05}"), "signatures": { &client.user_id: { &device: "sig" } } });
        (format!("signed_curve25519:AA{id:05}"), key)
    });
    Value::Object(keys.collect())
}

/// A user's cross-signing keys.
pub struct CrossSigning {
    pub master: Pair,
    pub self_signing: Pair,
    pub user_signing: Pair,
}

impl CrossSigning {
    pub fn new() -> Self {
        Self {
            master: Pair::new(),
            self_signing: Pair::new(),
            user_signing: Pair::new(),
        }
    }

    /// The key objects as `keys/device_signing/upload` takes them.
    pub fn objects(&self, user: &str) -> Value {
        let object = |pair: &Pair, usage: &str| {
            let keys = json!({ format!("ed25519:{}", pair.public): pair.public });
            json!({ "user_id": user, "usage": [usage], "keys": keys })
        };
        json!({
            "master_key": object(&self.master, "master"),
            "self_signing_key": self.master.sign(user, &object(&self.self_signing, "self_signing")),
            "user_signing_key": self.master.sign(user, &object(&self.user_signing, "user_signing")),
        })
    }
}

/// A body with a password beside what it has.
pub fn with_password(client: &Client, body: &Value) -> Value {
    let mut body = body.clone();
    let identifier = json!({ "type": "m.id.user", "user": client.user_id });
    body["auth"] = json!({ "type": "m.login.password", "identifier": identifier, "password": PASSWORD });
    body
}

impl Default for CrossSigning {
    fn default() -> Self {
        Self::new()
    }
}
