//! `hearth init` and `check-config`.

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _};

use homeserver::{config, key_file};
use support::{Place, stderr, stdout};

#[test]
fn init_writes_a_file_and_a_key_that_can_be_used() {
    let place = Place::new();
    let output = place.hearth(&["init", "--server-name", "example.org"]);
    assert!(output.status.success(), "{}", stderr(&output));

    let file = place.path().join("hearth.toml");
    let loaded = config::load(Some(&file), []).expect("what init writes is a configuration");
    assert_eq!(loaded.settings.server_name, "example.org");
    let keys = key_file::read(&place.path().join("hearth-data"))
        .expect("a key file")
        .expect("is there");
    assert!(keys.further.is_empty() && keys.retired.is_empty());

    let key = place.path().join("hearth-data/signing.key");
    let mode = fs::metadata(&key).expect("a key").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "the key is its owner's alone");

    let output = place.hearth(&["check-config"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(shown.contains("Server name: example.org"), "{shown}");
    assert!(
        shown.contains(&format!("ed25519:{}", keys.signing.version)),
        "{shown}"
    );
}

/// Every commented key of the file that init writes is a key, with a value of the right kind.
#[test]
fn what_init_writes_as_a_comment_is_understood_too() {
    let place = Place::new();
    assert!(
        place
            .hearth(&["init", "--server-name", "example.org"])
            .status
            .success()
    );
    let text = fs::read_to_string(place.path().join("hearth.toml")).expect("a file");
    let is_toml = |line: &&str| {
        let line = line.trim_start_matches("# ");
        line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    let uncommented: Vec<_> = text
        .lines()
        .filter(is_toml)
        .map(|line| line.trim_start_matches("# "))
        .collect();
    // The one value that stands for a secret.
    let uncommented = uncommented
        .join("\n")
        .replace("shared_secret = \"\"", "shared_secret = \"x\"");
    let file = place.path().join("all.toml");
    fs::write(&file, &uncommented).expect("a file");
    let loaded = config::load(Some(&file), []).expect("every comment is a setting");
    assert_eq!(loaded.settings.listeners.len(), 2);
    assert!(loaded.settings.registration.shared_secret.is_some() && loaded.settings.public_url.is_some());
    assert_eq!(loaded.settings.support.contacts.len(), 1);
}

#[test]
fn init_overwrites_nothing() {
    let place = Place::new();
    assert!(
        place
            .hearth(&["init", "--server-name", "example.org"])
            .status
            .success()
    );
    let files = ["hearth.toml", "hearth-data/signing.key"].map(|name| place.path().join(name));
    let before = files
        .clone()
        .map(|file| fs::read_to_string(file).expect("a file"));

    let output = place.hearth(&["init", "--server-name", "other.org"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("hearth.toml exists already; nothing was written"),
        "{}",
        stderr(&output)
    );

    // A key without a file, as when only the file was removed: the key is the harder to replace.
    fs::remove_file(&files[0]).expect("removed");
    let output = place.hearth(&["init", "--server-name", "other.org"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!files[0].exists());
    assert_eq!(fs::read_to_string(&files[1]).expect("a key"), before[1]);
}

#[test]
fn init_wants_a_server_name() {
    let place = Place::new();
    assert_eq!(place.hearth(&["init"]).status.code(), Some(2));
    assert_eq!(
        place
            .hearth(&["init", "--server-name", "http://example.org"])
            .status
            .code(),
        Some(2)
    );
    assert_eq!(fs::read_dir(place.path()).expect("a directory").count(), 0);
}

#[test]
fn every_command_refuses_a_wrong_configuration() {
    let place = Place::new();
    place.write(
        "hearth.toml",
        "server_name = \"example.org\"\n\n[registration]\nopne = true\n",
    );
    for command in [&["check-config"][..], &["serve"], &[], &["user", "list"]] {
        let output = place.hearth(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let error = stderr(&output);
        assert!(
            error.contains("hearth.toml, line 4: registration.opne: unknown key"),
            "{error}"
        );
        assert!(error.contains("did you mean `open`?"), "{error}");
    }
}

#[test]
fn check_config_reads_the_certificates() {
    let place = Place::new();
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
                    tls_certificate = \"cert.pem\"\ntls_private_key = \"key.pem\"\n";
    place.write(
        "hearth.toml",
        &format!("server_name = \"example.org\"\n{listener}"),
    );
    let fails_with = |part: &str| {
        let output = place.hearth(&["check-config"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    };
    fails_with("listener[0]: `tls_certificate` cert.pem: cannot be read");
    place.write("cert.pem", "nonsense");
    fails_with("listener[0]: `tls_certificate` cert.pem: expected a PEM file");

    let one = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    place.write("cert.pem", &one.cert.pem());
    fails_with("listener[0]: `tls_private_key` key.pem: cannot be read");
    place.write("key.pem", &other.signing_key.serialize_pem());
    fails_with("don't serve together");
    place.write("key.pem", &one.signing_key.serialize_pem());
    let output = place.hearth(&["check-config"]);
    assert!(output.status.success(), "{}", stderr(&output));
}
