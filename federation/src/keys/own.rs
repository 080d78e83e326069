//! This server's own keys, and how it publishes them (server-server API, "Publishing Keys").

use std::{fmt, time::Duration};

use hearth_engine::SigningKey;
use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedServerSigningKeyId, ServerName,
    api::federation::discovery::{OldVerifyKey, ServerSigningKeys, VerifyKey},
    serde::{Base64, Raw},
    signatures::{self, PublicKeySet},
};

/// How long others may go by what is published. A key that was stolen is believed for as long after its retirement;
/// every server asks again as often.
const VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys of this server: one that signs, and those that others must know as well.
#[derive(Debug)]
pub struct OwnKeys {
    server_name: OwnedServerName,
    signing: SigningKey,
    further: Vec<SigningKey>,
    retired: Vec<RetiredKey>,
}

/// A key that signs no more. What it signed before is still good.
#[derive(Debug, Clone)]
pub struct RetiredKey {
    /// Its name: `ed25519:version`.
    pub id: OwnedServerSigningKeyId,
    /// Its public half.
    pub public_key: [u8; 32],
    /// Since when it signs no more.
    pub expired_ts: MilliSecondsSinceUnixEpoch,
}

/// The published keys could not be written.
#[derive(Debug, thiserror::Error)]
#[error("this server's keys can't be written: {0}")]
pub(crate) struct PublishError(String);

impl OwnKeys {
    /// `further` are keys that are in use beside the one that signs here, as by another node; `retired` are former ones.
    pub fn new(
        server_name: OwnedServerName,
        signing: SigningKey,
        further: Vec<SigningKey>,
        retired: Vec<RetiredKey>,
    ) -> Self {
        Self {
            server_name,
            signing,
            further,
            retired,
        }
    }

    /// The name they are for.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// The key that signs.
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// Those that were valid at some time.
    pub(crate) fn valid_at(&self, time: MilliSecondsSinceUnixEpoch) -> PublicKeySet {
        let retired = self.retired.iter().filter(|key| key.expired_ts >= time);
        let retired = retired.map(|key| (key.id.to_string(), base64(&key.public_key)));
        let active = self
            .active()
            .map(|key| (key.id().to_string(), base64(&key.public_key())));
        retired.chain(active).collect()
    }

    /// What `GET /_matrix/key/v2/server` answers.
    pub(crate) fn publish(
        &self,
        now: MilliSecondsSinceUnixEpoch,
    ) -> Result<Raw<ServerSigningKeys>, PublishError> {
        let failed = |error: &dyn fmt::Display| PublishError(error.to_string());
        let valid_until = now.to_system_time().and_then(|now| now.checked_add(VALIDITY));
        let valid_until = valid_until
            .and_then(MilliSecondsSinceUnixEpoch::from_system_time)
            .unwrap_or(now);
        let mut keys = ServerSigningKeys::new(self.server_name.clone(), valid_until);
        for key in self.active() {
            keys.verify_keys
                .insert(key.id(), VerifyKey::new(base64(&key.public_key())));
        }
        for key in &self.retired {
            let old = OldVerifyKey::new(key.expired_ts, base64(&key.public_key));
            keys.old_verify_keys.insert(key.id.clone(), old);
        }
        let value = serde_json::to_value(&keys).map_err(|error| failed(&error))?;
        let mut object: CanonicalJsonObject =
            serde_json::from_value(value).map_err(|error| failed(&error))?;
        for key in self.active() {
            signatures::sign_json(self.server_name.as_str(), key.pair(), &mut object)
                .map_err(|error| failed(&error))?;
        }
        Ok(Raw::new(&object)
            .map_err(|error| failed(&error))?
            .cast_unchecked())
    }

    /// Adds this server's signature to what another published.
    pub(crate) fn countersign(&self, object: &mut CanonicalJsonObject) -> Result<(), PublishError> {
        signatures::sign_json(self.server_name.as_str(), self.signing.pair(), object)
            .map_err(|error| PublishError(error.to_string()))
    }

    fn active(&self) -> impl Iterator<Item = &SigningKey> {
        std::iter::once(&self.signing).chain(&self.further)
    }
}

fn base64(key: &[u8; 32]) -> Base64 {
    Base64::new(key.to_vec())
}
