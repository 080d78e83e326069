//! `hearth check-config`: reads everything that `serve` would read before it opens anything.

use hearth_endpoint::outgoing::Outgoing;

use super::Failure;
use crate::{config::Loaded, key_file, tls::Certificate};

pub(super) fn run(loaded: &Loaded) -> Result<(), Failure> {
    let settings = &loaded.settings;
    for (index, listener) in settings.listeners.iter().enumerate() {
        if let (Some(certificate), Some(key)) = (&listener.tls_certificate, &listener.tls_private_key) {
            Certificate::read(certificate, key).map_err(|error| format!("listener[{index}]: {error}"))?;
        }
    }
    Outgoing::new(&settings.outgoing())?;
    let keys = key_file::read(&settings.data_dir)?;

    match &loaded.file {
        Some(file) => println!("{} is fine.", file.display()),
        None => println!("There is no configuration file; the defaults of a local trial hold."),
    }
    println!("Server name: {}", settings.server_name);
    match &keys {
        Some(keys) => println!("Signing key: ed25519:{}", keys.signing.version),
        None => println!("Signing key: none yet; the first `hearth serve` makes one"),
    }
    match &settings.database.url {
        Some(_) => println!("Database: the PostgreSQL of [database] url"),
        None => println!(
            "Database: a private PostgreSQL in {}",
            settings.data_dir.display()
        ),
    }
    for listener in &settings.listeners {
        let protocol = if listener.tls_certificate.is_some() {
            "https"
        } else {
            "http"
        };
        let served: Vec<_> = listener
            .serves
            .iter()
            .map(|service| format!("{service:?}").to_lowercase())
            .collect();
        println!(
            "Listener: {protocol}://{} serves {}",
            listener.address,
            served.join(", ")
        );
    }
    Ok(())
}
