//! What the operator sees of other servers: by the commands of the real binary, and in its metrics.

use std::process::Output;

use hearth_tests::{Authority, HearthProcess, Server, public_chat, timeline_has, until};

/// What a command printed, and that it did well.
#[track_caller]
fn printed(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until what is printed of a server is as `wanted`: the line.
async fn line_about(process: &HearthProcess, server: &str, wanted: impl Fn(&str) -> bool) -> String {
    until("the status is as wanted", || async {
        let all = printed(&process.run(&["federation", "status"]));
        let line = all.lines().find(|line| line.starts_with(server))?;
        wanted(line).then(|| line.to_owned())
    })
    .await
}

#[tokio::test]
async fn the_operator_sees_who_is_down_and_has_them_tried_again() {
    let authority = Authority::new();
    let mut a = HearthProcess::start_federated(&authority).await;
    let mut b = Server::start_federated(&authority).await;
    assert!(
        printed(&a.run(&["federation", "status"])).contains("No other server"),
        "nobody was sent to yet"
    );
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join_via(&room, a.name()).await;
    let first = alice.send_text(&room, "hello").await.event_id();
    bob.sync_until(timeline_has(&room, &first)).await;
    let line = line_about(&a, b.name(), |line| line.contains("nothing waits")).await;
    assert!(line.contains(": answers; nothing waits; last success "), "{line}");

    b.stop().await;
    let second = alice.send_text(&room, "are you there?").await.event_id();
    let line = line_about(&a, b.name(), |line| line.contains("fails for")).await;
    assert!(
        line.contains("next try in ") && line.contains("last error: "),
        "{line}"
    );
    assert!(
        line.contains("1 wait") || line.contains("behind since position"),
        "{line}"
    );
    let one = printed(&a.run(&["federation", "status", b.name()]));
    assert!(
        one.contains("fails for") && one.contains("rooms shared: 1"),
        "{one}"
    );
    let other = printed(&a.run(&["federation", "status", "unknown.example"]));
    assert!(
        other.contains("Nothing was sent to it") && other.contains("rooms shared: 0"),
        "{other}"
    );

    b.restart().await;
    let retried = printed(&a.run(&["federation", "retry", b.name()]));
    assert!(
        retried.contains(&format!("{} is tried again now.", b.name())),
        "{retried}"
    );
    bob.set_since(None);
    bob.sync_until(timeline_has(&room, &second)).await;
    line_about(&a, b.name(), |line| line.contains(": answers; nothing waits")).await;

    // What is no server name is said to be none.
    let refused = a.run(&["federation", "status", "not a name"]);
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("not a name"),
        "{refused:?}"
    );

    a.stop().await;
    let refused = a.run(&["federation", "retry", b.name()]);
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("no server runs here"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn metrics_count_what_goes_to_other_servers_and_comes_from_them() {
    let authority = Authority::new();
    let a = HearthProcess::start_federated(&authority).await;
    let b = Server::start_federated(&authority).await;
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(public_chat()).await.room_id();
    bob.join_via(&room, a.name()).await;
    let sent = alice.send_text(&room, "hello").await.event_id();
    bob.sync_until(timeline_has(&room, &sent)).await;
    let answer = bob.send_text(&room, "and to you").await.event_id();
    alice.sync_until(timeline_has(&room, &answer)).await;

    let request = a.anonymous().request(reqwest::Method::GET, "/metrics");
    let text = request
        .send()
        .await
        .expect("an answer")
        .text()
        .await
        .expect("text");
    let value = |series: &str| {
        let line = text.lines().find(|line| {
            line.strip_prefix(series)
                .is_some_and(|rest| rest.starts_with(' '))
        });
        let line = line.unwrap_or_else(|| panic!("there is no {series} in\n{text}"));
        let number = line
            .rsplit(' ')
            .next()
            .and_then(|number| number.parse::<f64>().ok());
        number.unwrap_or_else(|| panic!("no number: {line}"))
    };
    for series in [
        "hearth_federation_transactions_sent_total{outcome=\"taken\"}",
        "hearth_federation_transactions_received_total",
        "hearth_federation_pdus_sent_total",
        "hearth_federation_pdus_received_total",
        "hearth_federation_events_judged_total{outcome=\"accepted\"}",
        "hearth_federation_keys_asked_total{outcome=\"fetched\"}",
    ] {
        assert!(value(series) >= 1.0, "{series} is {}", value(series));
    }
    for series in [
        "hearth_federation_transactions_sent_total{outcome=\"failed\"}",
        "hearth_federation_pdus_refused_total",
        "hearth_federation_events_judged_total{outcome=\"rejected\"}",
        "hearth_federation_events_judged_total{outcome=\"soft_failed\"}",
        "hearth_federation_missing_events_asked_total",
        "hearth_federation_destinations_failing",
        "hearth_federation_outgoing_waiting",
    ] {
        // There from the start: an alert on the first needs the time before it.
        assert!(value(series) >= 0.0, "{series} is {}", value(series));
    }
}
