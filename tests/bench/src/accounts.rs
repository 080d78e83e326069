//! Makes the users of a scenario. Registering is never measured: hashing passwords is meant to be slow.

use std::{
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use hmac::{Hmac, KeyInit, Mac};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::Sha1;

use crate::{
    client::{Client, ClientError, Session, accepted, read},
    connection::{Connection, Origin},
    progress::Progress,
};

/// How many register at once: enough to keep two cores hashing.
const AT_ONCE: usize = 4;
const PASSWORD: &str = "benchmark";

/// Registers users whose names no earlier run has taken.
pub struct Accounts {
    origin: Rc<Origin>,
    shared_secret: Option<String>,
    run: String,
    made: AtomicU64,
}

impl Accounts {
    /// With a shared secret accounts are made through Synapse's admin API, else through open registration.
    pub fn new(origin: Origin, shared_secret: Option<String>) -> Result<Self, getrandom::Error> {
        let mut run = [0; 5];
        getrandom::fill(&mut run)?;
        Ok(Self {
            origin: Rc::new(origin),
            shared_secret,
            run: hex(&run),
            made: AtomicU64::new(0),
        })
    }

    /// That many new users, each with a connection of its own.
    pub async fn register(&self, count: usize, progress: &Progress) -> Result<Vec<Client>, ClientError> {
        progress.begin("registering", count as u64);
        let names = (0..count).map(|_| {
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            format!("bench-{}-{number}", self.run)
        });
        stream::iter(names)
            .map(async |name| {
                let mut connection = Connection::new(self.origin.clone());
                let session = match &self.shared_secret {
                    Some(secret) => by_secret(&mut connection, &name, secret).await,
                    None => by_dummy(&mut connection, &name).await,
                }?;
                progress.step();
                Client::new(connection, session)
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    /// New devices of a user, which know nothing yet.
    pub async fn devices(&self, user_id: &str, count: usize) -> Result<Vec<Client>, ClientError> {
        let request = json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user_id},
            "password": PASSWORD,
        });
        stream::iter(0..count)
            .map(async |_| {
                let mut connection = Connection::new(self.origin.clone());
                let session = post(&mut connection, "login", "/_matrix/client/v3/login", &request).await?;
                Client::new(connection, session)
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }
}

async fn by_dummy(connection: &mut Connection, name: &str) -> Result<Session, ClientError> {
    let request = json!({
        "username": name,
        "password": PASSWORD,
        "auth": {"type": "m.login.dummy"},
    });
    post(connection, "register", "/_matrix/client/v3/register", &request).await
}

async fn by_secret(connection: &mut Connection, name: &str, secret: &str) -> Result<Session, ClientError> {
    #[derive(Deserialize)]
    struct Nonce {
        nonce: String,
    }
    let path = "/_synapse/admin/v1/register";
    let answer = connection.call(Method::GET, path, None, None).await?;
    let Nonce { nonce } = read("nonce", &accepted("nonce", answer)?)?;
    let request = json!({
        "nonce": nonce,
        "username": name,
        "password": PASSWORD,
        "admin": false,
        "mac": mac(secret, &nonce, name),
    });
    post(connection, "register", path, &request).await
}

/// Synapse's proof that whoever registers knows the secret.
fn mac(secret: &str, nonce: &str, name: &str) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("a key of any length");
    mac.update([nonce, name, PASSWORD, "notadmin"].join("\0").as_bytes());
    hex(&mac.finalize().into_bytes())
}

async fn post(
    connection: &mut Connection,
    what: &'static str,
    path: &str,
    body: &Value,
) -> Result<Session, ClientError> {
    let body = Some(body.to_string().into());
    let answer = connection.call(Method::POST, path, None, body).await?;
    read(what, &accepted(what, answer)?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_is_synapses() {
        // Of `hmac.new(b"secret", b"nonce\0alice\0benchmark\0notadmin", hashlib.sha1)` in Python.
        assert_eq!(
            mac("secret", "nonce", "alice"),
            "ac63c11dfe4ad5068d0ffc2e55bfa44b9f42bd7f"
        );
    }
}
