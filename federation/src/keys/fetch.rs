//! Asking for keys: a server for its own, and notaries for those of servers that don't answer.

use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, ServerName,
    api::federation::discovery::{
        get_remote_server_keys_batch::v2 as query, get_server_keys::v2 as get_server_keys,
    },
    signatures::PublicKeySet,
};
use serde_json::value::RawValue;
use tokio::time::Instant;

use hearth_engine::remote::KeysWanted;

use super::{AFTER_FAILURE, AFTER_SUCCESS, KeyRing, LONGEST, verify};
use crate::client::Allowance;

/// Servers in one question to a notary.
const AT_ONCE: usize = 100;
/// How long notaries are not asked again about a server whose keys they did not have, doubling up to 64 times that.
const AFTER_NOTARY: std::time::Duration = std::time::Duration::from_secs(60);

impl KeyRing {
    /// Asks a server for its keys, unless that was done just now.
    pub(super) async fn ask(&self, server: &ServerName) {
        if self
            .known(server)
            .lock()
            .next_ask
            .is_some_and(|next| Instant::now() < next)
        {
            return;
        }
        let (ring, owned) = (self.clone(), server.to_owned());
        self.0
            .asking
            .run(server.to_owned(), || async move { ring.ask_now(&owned).await })
            .await;
    }

    async fn ask_now(&self, server: &ServerName) {
        let Ok(_place) = self.0.places.acquire().await else {
            return;
        };
        let said = self
            .0
            .client
            .ask(server, get_server_keys::Request::new(), Allowance::KEYS)
            .await;
        let statement = match said {
            Ok(response) => verify::verify(response.server_key.json(), self.0.clock.now_ms()),
            Err(error) => Err(error.to_string()),
        };
        let statement = statement.and_then(|statement| {
            if statement.server == *server {
                Ok(statement)
            } else {
                Err(format!("it told the keys of {}", statement.server))
            }
        });
        let outcome = if statement.is_ok() { "fetched" } else { "failed" };
        metrics::counter!("hearth_federation_keys_asked_total", "outcome" => outcome).increment(1);
        let failure = match statement {
            Ok(statement) => {
                self.keep(statement, true).await;
                None
            }
            Err(error) => Some(error),
        };
        let known = self.known(server);
        let mut known = known.lock();
        let wait = match &failure {
            None => {
                known.failures = 0;
                AFTER_SUCCESS
            }
            Some(error) => {
                tracing::debug!(%server, error, "its keys can't be had");
                known.failures = known.failures.saturating_add(1);
                AFTER_FAILURE
                    .saturating_mul(1 << (known.failures - 1).min(6))
                    .min(LONGEST)
            }
        };
        known.next_ask = Some(Instant::now() + wait);
    }

    /// Asks a notary about what is missing, but for what was asked just now.
    pub(super) async fn ask_notary(&self, notary: &ServerName, missing: &KeysWanted) {
        let now = Instant::now();
        let mut question = missing.clone();
        question.retain(|server, _| {
            let known = self.known(server);
            let mut known = known.lock();
            let is_due = known.next_notary.is_none_or(|next| next <= now);
            if is_due {
                let wait = AFTER_NOTARY.saturating_mul(1 << known.failures.min(6));
                known.next_notary = Some(now + wait);
            }
            is_due && *server != *notary
        });
        if question.is_empty() {
            return;
        }
        self.recall(std::iter::once(&notary.to_owned())).await;
        if self.valid_now(notary).is_empty() {
            self.ask(notary).await;
        }
        let notary_keys = self.valid_now(notary);
        if notary_keys.is_empty() {
            return;
        }
        let mut question = question.into_iter().peekable();
        while question.peek().is_some() {
            let part: KeysWanted = question.by_ref().take(AT_ONCE).collect();
            self.ask_notary_for(notary, &notary_keys, part).await;
        }
    }

    async fn ask_notary_for(&self, notary: &ServerName, notary_keys: &PublicKeySet, wanted: KeysWanted) {
        let criteria = |time: MilliSecondsSinceUnixEpoch| {
            let mut criteria = query::QueryCriteria::new();
            criteria.minimum_valid_until_ts = Some(time);
            criteria
        };
        let question = wanted.iter().map(|(server, keys)| {
            let keys = keys.iter().map(|(id, time)| (id.clone(), criteria(*time)));
            (server.clone(), keys.collect())
        });
        let request = query::Request::new(question.collect());
        let response = match self.0.client.ask(notary, request, Allowance::PAGE).await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%notary, %error, "a notary did not answer");
                return;
            }
        };
        for keys in response.server_keys {
            let statement = verify::verify(keys.json(), self.0.clock.now_ms())
                .and_then(|statement| signed(keys.json(), notary, notary_keys).map(|()| statement));
            match statement {
                Ok(statement) if wanted.contains_key(&statement.server) => self.keep(statement, false).await,
                Ok(_) => {}
                Err(error) => tracing::debug!(%notary, error, "a notary told what can't be believed"),
            }
        }
    }

    /// The keys of a server that are in memory and valid at present.
    fn valid_now(&self, server: &ServerName) -> PublicKeySet {
        let now = self.0.clock.now_ms();
        let known = self.known(server);
        let known = known.lock();
        let valid = known.keys.iter().filter(|(_, key)| key.valid_until >= now);
        valid
            .map(|(id, key)| (id.to_string(), key.public_key.clone()))
            .collect()
    }
}

fn signed(json: &RawValue, notary: &ServerName, keys: &PublicKeySet) -> Result<(), String> {
    let object: CanonicalJsonObject = serde_json::from_str(json.get()).map_err(|error| error.to_string())?;
    verify::signed_by(object, notary, keys.clone())
}
