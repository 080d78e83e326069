//! Registration by shared secret.

use super::*;

fn admin_registration(nonce: &str, is_admin: bool, secret: &str) -> admin_register::AdminRegistration {
    use hmac::{Hmac, KeyInit, Mac};
    let mut hmac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    let role = if is_admin { "admin" } else { "notadmin" };
    hmac.update(format!("{nonce}\0Root\0password\0{role}").as_bytes());
    admin_register::AdminRegistration {
        nonce: nonce.to_owned(),
        username: "Root".to_owned(),
        password: "password".into(),
        is_admin,
        user_type: None,
        mac: hmac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        device: DeviceRequest::default(),
        inhibit_login: false,
    }
}

#[tokio::test]
async fn whoever_knows_the_shared_secret_registers_administrators() {
    let server = server_with(|config| config.registration.open = false).await;
    let nonce = admin_register::nonce(&server.engine).await.unwrap();
    let registration = admin_registration(&nonce, true, "shared_secret");
    let root = admin_register::register(&server.engine, registration)
        .await
        .unwrap()
        .login
        .unwrap();
    assert_eq!(root.user_id, "@root:example.org");
    assert!(server.requester(&root).await.is_admin);
}

#[tokio::test]
async fn nonce_serves_once_and_for_a_minute_even_where_the_mac_is_wrong() {
    let server = server().await;
    let register = async |nonce: &str, secret| {
        admin_register::register(&server.engine, admin_registration(nonce, false, secret))
            .await
            .unwrap_err()
    };
    let nonce = admin_register::nonce(&server.engine).await.unwrap();
    assert!(matches!(
        register(&nonce, "guess").await,
        admin_register::AdminRegisterError::WrongMac
    ));
    assert!(matches!(
        register(&nonce, "shared_secret").await,
        admin_register::AdminRegisterError::InvalidNonce
    ));
    assert!(matches!(
        register("made up", "shared_secret").await,
        admin_register::AdminRegisterError::InvalidNonce
    ));
    let nonce = admin_register::nonce(&server.engine).await.unwrap();
    server.advance(61_000);
    assert!(matches!(
        register(&nonce, "shared_secret").await,
        admin_register::AdminRegisterError::InvalidNonce
    ));
}

#[tokio::test]
async fn without_a_shared_secret_there_are_no_nonces() {
    let server = server_with(|config| config.registration.shared_secret = None).await;
    let error = admin_register::nonce(&server.engine).await.unwrap_err();
    assert!(
        matches!(error, admin_register::AdminRegisterError::Off),
        "{error}"
    );
}
