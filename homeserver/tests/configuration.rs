//! The configuration file and the variables over it: what is read, and what an error names.

use std::{ffi::OsString, fs, path::PathBuf};

use homeserver::config::{ConfigError, LogFormat, Origin, Service, Settings, load};
use tempfile::TempDir;

/// A configuration file with `text`, read with `variables` over it.
fn read(text: &str, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("hearth.toml");
    fs::write(&file, text).expect("a file");
    load(Some(&file), environment(variables)).map(|loaded| loaded.settings)
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn error(text: &str, variables: &[(&str, &str)]) -> ConfigError {
    read(text, variables).expect_err("this configuration is wrong")
}

/// Checks the place, the key and a part of the explanation.
#[track_caller]
fn assert_error(text: &str, line: usize, key: &str, part: &str) {
    let error = error(text, &[]);
    assert_eq!(error.origin, Some(Origin::Line(line)), "{error}");
    assert_eq!(error.key, key, "{error}");
    assert!(error.problem.contains(part), "{error}");
    let shown = error.to_string();
    assert!(
        shown.contains("hearth.toml") && shown.contains(&format!("line {line}")),
        "{shown}"
    );
}

#[test]
fn whole_contract_is_understood() {
    let settings = read(
        r#"
            server_name = "example.org"
            data_dir = "/var/lib/hearth"
            public_url = "https://chat.example.org/"

            [database]
            url = "postgres://hearth@localhost/hearth"

            [[listener]]
            address = "127.0.0.1:8008"

            [[listener]]
            address = "0.0.0.0:8448"
            tls_certificate = "/etc/hearth/cert.pem"
            tls_private_key = "/etc/hearth/key.pem"
            serves = ["client", "federation"]

            [registration]
            open = true
            guests = false
            shared_secret = "sesame"

            [rate_limits]
            enabled = false

            [rooms]
            default_version = "11"
            encrypt_new_private_rooms = true

            [federation]
            enabled = true
            allow = ["*.example.org"]
            deny = ["evil.example.org"]

            [outbound]
            denied_networks = ["127.0.0.0/8", "fd00::/8", "192.0.2.1"]
            extra_root_certificates = "/etc/hearth/ca.pem"
            name_servers = ["192.0.2.1", "[2001:db8::1]:5353"]

            [application_services]
            registration_files = ["/etc/hearth/bridge.yaml"]

            [log]
            format = "json"
            level = "info,hearth_engine=debug"
        "#,
        &[],
    )
    .expect("the contract");
    assert_eq!(settings.server_name, "example.org");
    assert_eq!(settings.data_dir, PathBuf::from("/var/lib/hearth"));
    assert_eq!(settings.public_url.as_deref(), Some("https://chat.example.org"));
    assert_eq!(
        settings.database.url.as_ref().map(|url| url.reveal()),
        Some("postgres://hearth@localhost/hearth")
    );
    assert_eq!(settings.listeners.len(), 2);
    assert!(settings.listeners[0].serves(Service::Metrics));
    assert!(!settings.listeners[1].serves(Service::Metrics));
    assert!(settings.registration.open && !settings.rate_limits.enabled);
    assert_eq!(settings.rooms.default_version.as_str(), "11");
    assert!(settings.rooms.encrypt_new_private_rooms);
    assert_eq!(settings.outbound.denied_networks.len(), 3);
    let name_servers = settings.outbound.name_servers.iter();
    let name_servers: Vec<_> = name_servers.map(|server| server.0.to_string()).collect();
    assert_eq!(name_servers, ["192.0.2.1:53", "[2001:db8::1]:5353"]);
    assert_eq!(settings.log.format, LogFormat::Json);
}

#[test]
fn without_a_file_the_defaults_of_a_local_trial_hold() {
    let settings = Settings::default();
    assert_eq!(settings.server_name, "localhost");
    assert_eq!(settings.listeners[0].address.to_string(), "127.0.0.1:8008");
    assert!(settings.database.url.is_none());
    assert!(!settings.registration.open, "an open door is nobody's default");
    // None of the built-in networks may be lost to a slip of the pen.
    assert_eq!(settings.outbound.denied_networks.len(), 26);
}

#[test]
fn named_file_that_cannot_be_read_is_an_error() {
    let missing = PathBuf::from("/nonexistent/hearth.toml");
    let error = load(Some(&missing), []).expect_err("there is no such file");
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/hearth.toml: cannot be read"),
        "{error}"
    );
    let error =
        load(None, environment(&[("HEARTH_CONFIG", "/nonexistent/other.toml")])).expect_err("nor this one");
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/other.toml: cannot be read"),
        "{error}"
    );
}

#[test]
fn command_line_wins_over_hearth_config() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("a.toml");
    fs::write(&file, "server_name = \"a.example.org\"").expect("a file");
    let variables = environment(&[("HEARTH_CONFIG", "/nonexistent/other.toml")]);
    let loaded = load(Some(&file), variables).expect("the file named on the command line");
    assert_eq!(loaded.settings.server_name, "a.example.org");
    assert_eq!(loaded.file, Some(file));
}

#[test]
fn unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    let text = "server_name = \"a.b\"\n\n[registration]\nopne = true\n";
    assert_error(text, 4, "registration.opne", "did you mean `open`?");
    assert_error(
        "server_name = \"a.b\"\n[registation]\n",
        2,
        "registation",
        "did you mean `registration`?",
    );
    let text =
        "server_name = \"a.b\"\n[[listener]]\naddress = \"[::1]:1\"\n[[listener]]\nadress = \"[::1]:2\"\n";
    assert_error(text, 5, "listener[1].adress", "did you mean `address`?");
}

#[test]
fn bad_value_is_named_with_its_line_and_what_was_expected() {
    let with = |rest: &str| format!("server_name = \"a.b\"\n{rest}\n");
    let assert_bad = |rest: &str, key: &str, part: &str| {
        assert_error(&with(rest), 1 + rest.lines().count(), key, part);
    };
    assert_bad(
        "[registration]\nopen = \"yes\"",
        "registration.open",
        "expected true or false, found a string",
    );
    assert_bad(
        "[[listener]]\naddress = \"localhost\"",
        "listener[0].address",
        "an IP address and a port",
    );
    assert_bad(
        "[[listener]]\naddress = \"[::1]:80\"\nserves = [\"clients\"]",
        "listener[0].serves[0]",
        "`client`",
    );
    assert_bad(
        "[rooms]\ndefault_version = \"13\"",
        "rooms.default_version",
        "from \"6\" to \"12\"",
    );
    assert_bad("[rooms]\nmemory = \"lots\"", "rooms.memory", "a size such as");
    assert_bad("[rooms]\nmemory = -1", "rooms.memory", "a size such as");
    assert_bad(
        "[database]\nmax_connections = 0",
        "database.max_connections",
        "from 2 to 1000",
    );
    assert_bad(
        "[websocket]\nping_interval_s = 0",
        "websocket.ping_interval_s",
        "from 1 to 3600",
    );
    assert_bad(
        "[websocket]\nmax_per_user = 0",
        "websocket.max_per_user",
        "from 1 to 1000000",
    );
    assert_bad("[database]\nurl = \"mysql://x\"", "database.url", "postgres://");
    assert_bad(
        "[outbound]\nname_servers = [\"dns.example.org\"]",
        "outbound.name_servers[0]",
        "the address of a name server",
    );
    assert_bad(
        "[outbound]\ndenied_networks = [\"10.0.0.1/8\"]",
        "outbound.denied_networks[0]",
        "a network",
    );
    assert_bad("[log]\nlevel = \"loud\"", "log.level", "error, warn, info");
    assert_bad(
        "[log]\nformat = \"xml\"",
        "log.format",
        "expected one of `text`, `json`",
    );
    assert_bad(
        "public_url = \"chat.example.org\"",
        "public_url",
        "https://chat.example.org",
    );
    assert_bad(
        "[federation]\nallow = \"x\"",
        "federation.allow",
        "expected a list, found a string",
    );
    assert_bad(
        "registration = 1",
        "registration",
        "expected a table, found a whole number",
    );
    assert_error(
        "server_name = \"http://a.b\"",
        1,
        "server_name",
        "the domain after the colon",
    );
    let far =
        "server_name = \"a.b\"\n[outbound]\ndenied_networks = [\n  \"10.0.0.0/8\",\n  \"nonsense\",\n]\n";
    assert_error(far, 5, "outbound.denied_networks[1]", "a network");
}

#[test]
fn text_that_is_not_toml_is_named_with_its_line() {
    assert_error(
        "server_name = \"a.b\"\n[database\nurl = \"postgres://u:hunter2@h/d\"\n",
        2,
        "",
        "not TOML",
    );
    assert_error(
        "server_name = \"a.b\"\nserver_name = \"c.d\"\n",
        2,
        "",
        "not TOML",
    );
}

#[test]
fn keys_that_belong_together_are_missed() {
    let text = "server_name = \"a.b\"\n[[listener]]\naddress = \"[::1]:1\"\ntls_certificate = \"c.pem\"\n";
    assert_error(text, 4, "listener[0].tls_certificate", "tls_private_key");
    let text = "server_name = \"a.b\"\n[[listener]]\nserves = [\"client\"]\n";
    assert_error(text, 2, "listener[0]", "`address` is missing");
    let text =
        "server_name = \"a.b\"\n[[listener]]\naddress = \"[::1]:1\"\n[[listener]]\naddress = \"[::1]:1\"\n";
    assert_error(text, 5, "listener[1].address", "no other listener");
    let error = error("[registration]\nopen = true\n", &[]);
    assert!(error.to_string().contains("server_name: missing"), "{error}");
}

#[test]
fn no_error_repeats_a_value() {
    for (text, variable) in [
        (
            "server_name = \"a.b\"\n[registration]\nshared_secret = [\"hunter2\"]",
            None,
        ),
        ("server_name = \"a.b\"\n[registration]\nopen = \"hunter2\"", None),
        ("server_name = \"a.b\"\n[database]\nurl = \"hunter2\"", None),
        ("server_name = \"a.b\"\n[database]\nurl = \"hunter2", None),
        ("server_name = \"a.b\"", Some(("HEARTH_DATABASE__URL", "hunter2"))),
        (
            "server_name = \"a.b\"",
            Some(("HEARTH_REGISTRATION", "{ shared_secret = \"hunter2\" ")),
        ),
        ("server_name = \"a.b\"", Some(("HEARTH_LOG__FORMAT", "hunter2"))),
    ] {
        let variables: Vec<_> = variable.into_iter().collect();
        let error = error(text, &variables);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn settings_do_not_print_their_secrets() {
    let text = "server_name = \"a.b\"\n[registration]\nshared_secret = \"hunter2\"\n\
                [database]\nurl = \"postgres://u:hunter2@h/d\"\n";
    let settings = read(text, &[]).expect("a configuration");
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert_eq!(
        settings.registration.shared_secret.as_ref().map(|s| s.reveal()),
        Some("hunter2")
    );
}

#[test]
fn variable_sets_any_key_and_wins_over_the_file() {
    let text = "server_name = \"a.b\"\n[registration]\nopen = false\n[[listener]]\naddress = \"[::1]:1\"\n";
    let settings = read(
        text,
        &[
            ("HEARTH_SERVER_NAME", "c.d:8448"),
            ("HEARTH_REGISTRATION__OPEN", "true"),
            ("HEARTH_REGISTRATION__SHARED_SECRET", "12345"),
            ("HEARTH_ROOMS__DEFAULT_VERSION", "11"),
            ("HEARTH_ROOMS__MEMORY", "1 GiB"),
            ("HEARTH_DATABASE__MAX_CONNECTIONS", "7"),
            ("HEARTH_FEDERATION__DENY", "[\"evil.example.org\"]"),
            ("HEARTH_WEBSOCKET__PING_INTERVAL_S", "45"),
            ("HEARTH_LOG__FORMAT", "json"),
            ("HEARTH_LISTENER__ADDRESS", "127.0.0.1:9000"),
            ("HEARTH_DATA_DIR", ""),
            ("HEARTH_PORT_8008_TCP", "tcp://10.0.0.1:8008"),
            ("OTHER", "x"),
        ],
    )
    .expect("a configuration");
    assert_eq!(settings.server_name, "c.d:8448");
    assert!(settings.registration.open);
    assert_eq!(
        settings.registration.shared_secret.as_ref().map(|s| s.reveal()),
        Some("12345")
    );
    assert_eq!(settings.rooms.default_version.as_str(), "11");
    assert_eq!(settings.rooms.memory.0, 1 << 30);
    assert_eq!(settings.database.max_connections, 7);
    assert_eq!(settings.websocket.ping_interval_s, 45);
    assert_eq!(settings.federation.deny.len(), 1);
    assert_eq!(settings.log.format, LogFormat::Json);
    assert_eq!(settings.listeners.len(), 1);
    assert_eq!(settings.listeners[0].address.port(), 9000);
    assert_eq!(
        settings.data_dir,
        PathBuf::from("./hearth-data"),
        "an empty variable counts as not set"
    );
}

#[test]
fn variable_takes_lists_and_tables_as_toml_or_json() {
    let text = "server_name = \"a.b\"";
    for value in [
        "[{ address = \"127.0.0.1:1\" }, { address = \"127.0.0.1:2\", serves = [\"metrics\"] }]",
        "[{\"address\": \"127.0.0.1:1\"}, {\"address\": \"127.0.0.1:2\", \"serves\": [\"metrics\"]}]",
    ] {
        let settings = read(text, &[("HEARTH_LISTENER", value)]).expect(value);
        assert_eq!(settings.listeners.len(), 2);
        assert_eq!(settings.listeners[1].serves, [Service::Metrics]);
        let with_port = [
            ("HEARTH_LISTENER", value),
            ("HEARTH_LISTENER__1__ADDRESS", "127.0.0.1:3"),
        ];
        assert_eq!(
            read(text, &with_port).expect(value).listeners[1].address.port(),
            3
        );
    }
    let settings = read(text, &[("HEARTH_LISTENER__0__ADDRESS", "127.0.0.1:4")]).expect("a first listener");
    assert_eq!(settings.listeners[0].address.port(), 4);
}

#[test]
fn wrong_variable_is_named_instead_of_a_line() {
    let text =
        "server_name = \"a.b\"\n[[listener]]\naddress = \"[::1]:1\"\n[[listener]]\naddress = \"[::1]:2\"\n";
    let named = |name: &str, value: &str, key: &str, part: &str| {
        let error = error(text, &[(name, value)]);
        assert_eq!(error.origin, Some(Origin::Variable(name.to_owned())), "{error}");
        assert_eq!(error.key, key, "{error}");
        assert!(error.problem.contains(part), "{error}");
        assert!(error.to_string().starts_with(name), "{error}");
    };
    named(
        "HEARTH_REGISTRATION__OPEN",
        "maybe",
        "registration.open",
        "true or false",
    );
    named(
        "HEARTH_REGISTRATION__OPNE",
        "true",
        "registration.opne",
        "did you mean `open`?",
    );
    named(
        "HEARTH_REGSTRATION__OPEN",
        "true",
        "regstration",
        "did you mean `registration`?",
    );
    named("HEARTH_LISTENER__ADDRESS", "[::1]:3", "", "one of the 2 items");
    named("HEARTH_LISTENER__7__ADDRESS", "[::1]:3", "", "one of the 2 items");
    named(
        "HEARTH_SERVER_NAME",
        "not a name",
        "server_name",
        "the domain after the colon",
    );
}
