//! This server as a notary: what it knows of others' keys, under its own signature.

use std::collections::{BTreeMap, BTreeSet};

use hearth_engine::{Error, server_keys::ServerKey};
use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedServerSigningKeyId,
    api::federation::discovery::ServerSigningKeys, serde::Raw,
};

use super::{AT_A_TIME, KeyRing, own::PublishError};

/// The most servers that one request is answered about.
const MAX_SERVERS: usize = 100;

/// Keys that a notary is asked for: all of a server's where none is named.
pub(crate) type AskedFor =
    BTreeMap<OwnedServerName, BTreeMap<OwnedServerSigningKeyId, Option<MilliSecondsSinceUnixEpoch>>>;

/// Why a notary's answer can't be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotaryError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Failed(#[from] Error),
}

impl KeyRing {
    /// This server's own keys, as it publishes them.
    pub(crate) fn publish(&self) -> Result<Raw<ServerSigningKeys>, PublishError> {
        self.0.own.publish(self.0.clock.now())
    }

    /// The statements of servers about their keys. Servers are asked again when half of the time is over that theirs is
    /// good for; one that doesn't answer is spoken for by what it said last.
    pub(crate) async fn testify(
        &self,
        mut asked: AskedFor,
    ) -> Result<Vec<Raw<ServerSigningKeys>>, NotaryError> {
        let mut statements = Vec::new();
        if asked.remove(self.0.own.server_name()).is_some() {
            statements.push(self.publish()?);
        }
        let servers: Vec<_> = asked.keys().take(MAX_SERVERS).cloned().collect();
        if servers.is_empty() {
            return Ok(statements);
        }
        let now = self.0.clock.now_ms();
        let mut stored = self.0.store.of_servers(&servers).await?;
        let stale: Vec<_> = servers
            .iter()
            .filter(|server| !is_enough(&stored, server, &asked[*server], now))
            .collect();
        if !stale.is_empty() {
            use futures_util::{StreamExt as _, stream};
            stream::iter(stale)
                .for_each_concurrent(AT_A_TIME, |server| self.ask(server))
                .await;
            stored = self.0.store.of_servers(&servers).await?;
        }
        let told: BTreeSet<_> = stored
            .iter()
            .filter(|key| is_asked_for(key, &asked))
            .map(|key| key.response.as_slice())
            .collect();
        for response in told {
            statements.push(self.countersigned(response)?);
        }
        Ok(statements)
    }

    fn countersigned(&self, response: &[u8]) -> Result<Raw<ServerSigningKeys>, NotaryError> {
        let unreadable =
            |error: serde_json::Error| Error::Damaged(format!("a stored answer about keys: {error}"));
        let mut object: CanonicalJsonObject = serde_json::from_slice(response).map_err(unreadable)?;
        self.0.own.countersign(&mut object)?;
        Ok(Raw::new(&object).map_err(unreadable)?.cast_unchecked())
    }
}

fn is_asked_for(key: &ServerKey, asked: &AskedFor) -> bool {
    let asked = asked
        .iter()
        .find(|(server, _)| server.as_str() == key.server_name);
    asked.is_some_and(|(_, keys)| keys.is_empty() || keys.keys().any(|id| id.as_str() == key.key_id))
}

/// Whether what is stored of a server answers what is asked, and isn't half over.
fn is_enough(
    stored: &[ServerKey],
    server: &OwnedServerName,
    asked: &BTreeMap<OwnedServerSigningKeyId, Option<MilliSecondsSinceUnixEpoch>>,
    now: i64,
) -> bool {
    let mut of_server = stored.iter().filter(|key| key.server_name == server.as_str());
    let is_young = |key: &ServerKey| now < key.fetched_at + (key.valid_until - key.fetched_at) / 2;
    if asked.is_empty() {
        return of_server.any(is_young);
    }
    asked.iter().all(|(id, time)| {
        let time = time.map_or(now, |time| i64::from(time.0));
        let key = of_server.clone().find(|key| key.key_id == id.as_str());
        // For a time that is over, a key that was valid then will do at any age.
        key.is_some_and(|key| key.valid_until >= time && (time < now || is_young(key)))
    })
}
