//! `hearth serve` and `hearth user …` with the private PostgreSQL, as an operator has them.

mod support;

use support::{Place, login, request, stderr, stdout};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

#[test]
fn users_are_looked_after_while_the_server_runs_and_while_it_does_not() {
    let place = Place::new();

    let output = place.hearth_with(
        &["user", "add", "alice", "--admin", "--password-stdin"],
        "wonderland\n",
    );
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "Made @alice:localhost.\n");

    let server = place.serve();
    let output = place.hearth_with(&["user", "add", "bob", "--password-stdin"], "builder\n");
    assert!(output.status.success(), "{}", stderr(&output));
    let output = place.hearth(&["user", "list"]);
    assert_eq!(stdout(&output), "@alice:localhost (admin)\n@bob:localhost\n");

    let (status, alice) = login(server.address, "alice", "wonderland");
    assert_eq!(status, 200, "{alice}");
    let alice = alice["access_token"].as_str().expect("a token");
    let (status, bob) = login(server.address, "bob", "builder");
    assert_eq!(status, 200, "{bob}");
    let bob = bob["access_token"].as_str().expect("a token");
    assert_eq!(request(server.address, "GET", WHOAMI, alice, "").0, 200);
    assert_eq!(request(server.address, "GET", WHOAMI, bob, "").0, 200);

    // What the server remembers of these tokens must not outlive the commands.
    let output = place.hearth_with(
        &["user", "set-password", "alice", "--password-stdin"],
        "looking-glass\n",
    );
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(request(server.address, "GET", WHOAMI, alice, "").0, 401);
    assert_eq!(login(server.address, "alice", "wonderland").0, 403);
    assert_eq!(login(server.address, "alice", "looking-glass").0, 200);
    let output = place.hearth(&["user", "deactivate", "@bob:localhost"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(request(server.address, "GET", WHOAMI, bob, "").0, 401);
    assert_eq!(login(server.address, "bob", "builder").0, 403);

    assert!(server.terminate().0.success());
    let output = place.hearth(&["user", "list"]);
    assert_eq!(
        stdout(&output),
        "@alice:localhost (admin)\n@bob:localhost (deactivated)\n",
        "{}",
        stderr(&output)
    );
}

#[test]
fn wishes_that_cannot_be_done_are_refused_with_a_reason() {
    let place = Place::new();
    let refused = |arguments: &[&str], input: &str, reason: &str| {
        let output = place.hearth_with(arguments, input);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    };
    refused(&["user", "add", "alice"], "", "give --password-stdin");
    refused(
        &["user", "add", "alice", "--password-stdin"],
        "\n",
        "the password is empty",
    );
    assert!(
        !place.path().join("hearth-data").exists(),
        "nothing is started for a wish that makes no sense"
    );

    let add = ["user", "add", "alice", "--password-stdin"];
    assert!(place.hearth_with(&add, "x").status.success());
    refused(&add, "x", "the user name is taken");
    refused(
        &["user", "add", "al ice", "--password-stdin"],
        "x",
        "a user name may contain only",
    );
    refused(&["user", "deactivate", "bob"], "", "there is no such user");
    refused(
        &["user", "set-password", "bob", "--password-stdin"],
        "x",
        "there is no such user",
    );
}

#[test]
fn second_server_with_the_same_data_directory_is_refused() {
    let place = Place::new();
    let server = place.serve();
    let mut second = place.command(&["serve"]);
    let output = second
        .env("HEARTH_LISTENER__ADDRESS", "127.0.0.1:0")
        .output()
        .expect("hearth runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("hearth-data"), "{}", stderr(&output));
    assert_eq!(
        request(server.address, "GET", "/health", "", "").0,
        200,
        "the first one is not disturbed"
    );
    assert!(server.terminate().0.success());
}

#[test]
fn second_listener_at_the_same_address_is_refused_before_anything_is_started() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut command = place.command(&["serve"]);
    let output = command
        .env("HEARTH_LISTENER__ADDRESS", &address)
        .output()
        .expect("hearth runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains(&format!("cannot listen on {address}")),
        "{}",
        stderr(&output)
    );
    assert!(!place.path().join("hearth-data/postgres").exists());
}

#[test]
fn log_has_no_password_no_token_and_no_message_at_any_level() {
    let place = Place::new();
    assert!(
        place
            .hearth_with(&["user", "add", "alice", "--password-stdin"], "open-sesame")
            .status
            .success()
    );
    for format in ["text", "json"] {
        let server = place.serve_with(&[("HEARTH_LOG__LEVEL", "trace"), ("HEARTH_LOG__FORMAT", format)]);
        let (status, login) = login(server.address, "alice", "open-sesame");
        assert_eq!(status, 200, "{login}");
        let token = login["access_token"].as_str().expect("a token");
        let post = |method: &str, path: &str, body: &str| {
            let (status, body) = request(server.address, method, path, token, body);
            assert_eq!(status, 200, "{body}");
            serde_json::from_str::<serde_json::Value>(&body).expect("JSON")
        };
        let room = post("POST", "/_matrix/client/v3/createRoom", "{}");
        let room = room["room_id"].as_str().expect("a room").replace('!', "%21");
        let message = r#"{"msgtype":"m.text","body":"the cave is behind the waterfall"}"#;
        post(
            "PUT",
            &format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1"),
            message,
        );
        post("GET", "/_matrix/client/v3/sync", "");

        let (status, log) = server.terminate();
        assert!(status.success());
        assert!(
            log.contains("/_matrix/client/v3/sync"),
            "requests are logged: {log}"
        );
        for secret in ["open-sesame", token, "behind the waterfall"] {
            assert!(!log.contains(secret), "{secret} is in the log");
        }
    }
}
