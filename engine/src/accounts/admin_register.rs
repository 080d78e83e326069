//! Registration by shared secret, as Synapse's [administration API] has it: a nonce, and an HMAC-SHA1 over it and
//! what is registered.
//!
//! [administration API]: https://element-hq.github.io/synapse/latest/admin_api/register_api.html

use hearth_storage::registration_nonces;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::{
    Password,
    logins::DeviceRequest,
    register::{self, NewUser, RegisterError, Registered},
    secrets,
};
use crate::{Engine, Error};

/// How long a nonce lasts.
const NONCE_LIFETIME_MS: i64 = 60 * 1000;

/// Why nobody was registered.
#[derive(Debug, thiserror::Error)]
pub enum AdminRegisterError {
    /// The operator set no shared secret.
    #[error("registration by shared secret is off")]
    Off,
    /// The nonce was not given out, was used before, or is too old.
    #[error("the nonce is not valid")]
    InvalidNonce,
    /// The user name or the password has a U+0000, which the HMAC uses to tell them apart.
    #[error("neither user name nor password may have a NUL")]
    Nul,
    /// Whoever asks does not know the shared secret.
    #[error("the HMAC is wrong")]
    WrongMac,
    /// The account could not be made.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

fails_with_storage!(AdminRegisterError);

/// What is registered, and the proof that it may be.
#[derive(Debug, Clone)]
pub struct AdminRegistration {
    /// From [`nonce`].
    pub nonce: String,
    /// The name.
    pub username: String,
    /// The password.
    pub password: Password,
    /// May use the administration API.
    pub is_admin: bool,
    /// Synapse's kind of user (`bot`, `support`). Covered by the HMAC, and of no consequence here.
    pub user_type: Option<String>,
    /// The HMAC-SHA1, in hexadecimal.
    pub mac: String,
    /// The device to log in.
    pub device: DeviceRequest,
    /// Log no device in.
    pub inhibit_login: bool,
}

/// A nonce for one registration within a minute.
pub async fn nonce(engine: &Engine) -> Result<String, AdminRegisterError> {
    secret(engine)?;
    let nonce = engine.entropy.alphanumeric(64);
    let now = engine.clock.now_ms();
    let mut connection = engine.db.acquire().await?;
    registration_nonces::insert(
        &mut connection,
        &secrets::hash(&nonce),
        now,
        now + NONCE_LIFETIME_MS,
    )
    .await?;
    Ok(nonce)
}

/// Registers a user on the word of somebody who knows the shared secret.
pub async fn register(
    engine: &Engine,
    registration: AdminRegistration,
) -> Result<Registered, AdminRegisterError> {
    let secret = secret(engine)?;
    if registration.username.contains('\0') || registration.password.as_bytes().contains(&0) {
        return Err(AdminRegisterError::Nul);
    }
    // It is used up even by a wrong HMAC: nobody gets to try several on one.
    let nonce_hash = secrets::hash(&registration.nonce);
    let now = engine.clock.now_ms();
    if !registration_nonces::take(&mut *engine.db.acquire().await?, &nonce_hash, now).await? {
        return Err(AdminRegisterError::InvalidNonce);
    }
    if !is_authentic(secret, &registration) {
        return Err(AdminRegisterError::WrongMac);
    }
    let new = NewUser {
        username: Some(registration.username),
        password: Some(registration.password),
        is_admin: registration.is_admin,
        is_guest: false,
        device: (!registration.inhibit_login).then_some(registration.device),
    };
    Ok(register::create(engine, new, None).await?)
}

fn secret(engine: &Engine) -> Result<&str, AdminRegisterError> {
    engine
        .config
        .registration
        .shared_secret
        .as_deref()
        .ok_or(AdminRegisterError::Off)
}

fn is_authentic(secret: &str, registration: &AdminRegistration) -> bool {
    let Ok(mac) = decode_hex(&registration.mac) else {
        return false;
    };
    let Ok(mut hmac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else {
        return false;
    };
    hmac.update(registration.nonce.as_bytes());
    hmac.update(b"\0");
    hmac.update(registration.username.as_bytes());
    hmac.update(b"\0");
    hmac.update(registration.password.as_bytes());
    hmac.update(b"\0");
    hmac.update(if registration.is_admin {
        b"admin"
    } else {
        b"notadmin"
    });
    if let Some(user_type) = &registration.user_type {
        hmac.update(b"\0");
        hmac.update(user_type.as_bytes());
    }
    hmac.verify_slice(&mac).is_ok()
}

/// The 20 bytes of a SHA-1 in hexadecimal.
fn decode_hex(hex: &str) -> Result<[u8; 20], ()> {
    let digits = hex.as_bytes();
    if digits.len() != 40 {
        return Err(());
    }
    let mut bytes = [0; 20];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| {
            char::from(digit)
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
                .ok_or(())
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(mac: &str) -> AdminRegistration {
        AdminRegistration {
            nonce: "thisisanonce".to_owned(),
            username: "pepper_roni".to_owned(),
            password: "pizza".into(),
            is_admin: true,
            user_type: None,
            mac: mac.to_owned(),
            device: DeviceRequest::default(),
            inhibit_login: false,
        }
    }

    /// By Python's `hmac.new(b"shared_secret", b"thisisanonce\0pepper_roni\0pizza\0admin", "sha1")`.
    const MAC: &str = "48715842ad67d5dc9a9ee938a3bda4fcfae8d7c7";

    #[test]
    fn mac_is_the_one_that_synapse_documents() {
        assert!(is_authentic("shared_secret", &registration(MAC)));
        assert!(is_authentic("shared_secret", &registration(&MAC.to_uppercase())));
    }

    #[test]
    fn mac_covers_every_part() {
        assert!(!is_authentic("another_secret", &registration(MAC)));
        let with = |change: fn(&mut AdminRegistration)| {
            let mut registration = registration(MAC);
            change(&mut registration);
            is_authentic("shared_secret", &registration)
        };
        assert!(!with(|r| r.nonce.push('x')));
        assert!(!with(|r| r.username.push('x')));
        assert!(!with(|r| r.password = "pasta".into()));
        assert!(!with(|r| r.is_admin = false));
        assert!(!with(|r| r.user_type = Some("bot".to_owned())));
        assert!(!with(|r| r.mac = "zz".repeat(20)));
        assert!(!with(|r| r.mac.truncate(38)));
    }
}
