//! Servers that find each other by nothing but their names: a name server, `.well-known` on port 443, port 8448, and
//! certificates that are checked (server-server API, "Resolving server names").

use std::net::SocketAddr;

use hearth_tests::{
    Authority, Client, NameServer, Server, Told, may_listen_on, own_address, public_chat, text, timeline_has,
};
use homeserver::config::{self, Settings};
use serde_json::json;

/// A server of a domain.
async fn server(
    authority: &Authority,
    names: &NameServer,
    (name, hosts): (&str, &[&str]),
    address: SocketAddr,
    change: impl FnOnce(&mut Settings),
) -> Server {
    Server::start_in_domain(authority, hosts, address, |settings| {
        settings.server_name = name.try_into().expect("a server name");
        settings.outbound.name_servers = vec![config::NameServer(names.address)];
        change(settings);
    })
    .await
}

/// Both hear each other in a room of the first, which the second joins: so each finds the other.
async fn assert_they_talk(one: (&Server, &Client), other: (&Server, &Client)) {
    let room = one.1.create_room(public_chat()).await.room_id();
    other.1.join_via(&room, one.0.name()).await;
    for ((_, from), (_, to)) in [(other, one), (one, other)] {
        let said = from
            .send(&room, "m.room.message", text("found you"))
            .await
            .event_id();
        to.sync_until(timeline_has(&room, &said)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_found_by_srv_and_on_port_8448_under_their_names() {
    let authority = Authority::new();
    let (plain, announced) = (own_address(), own_address());
    let port = 18_448;
    let names = NameServer::start([
        ("plain.test", Told::Address(plain)),
        (
            "_matrix-fed._tcp.announced.test",
            Told::Service("host.announced.test", port),
        ),
        ("host.announced.test", Told::Address(announced)),
    ])
    .await;
    let plain = server(
        &authority,
        &names,
        ("plain.test", &["plain.test"]),
        (plain, 8448).into(),
        |_| {},
    )
    .await;
    // Its certificate is for the name of the server, not of the host that the service is on.
    let announced = server(
        &authority,
        &names,
        ("announced.test", &["announced.test"]),
        (announced, port).into(),
        |_| {},
    )
    .await;
    let (alice, bob) = (plain.register("alice").await, announced.register("bob").await);
    assert_they_talk((&plain, &alice), (&announced, &bob)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "for whoever reads why it saw nothing")]
async fn a_server_is_found_where_its_domain_delegates_to() {
    let (plain, delegating) = (own_address(), own_address());
    if !may_listen_on(delegating.into(), 443).await {
        eprintln!("not seen: this user may not listen on port 443");
        return;
    }
    let authority = Authority::new();
    let names = NameServer::start([
        ("plain.test", Told::Address(plain)),
        ("delegating.test", Told::Address(delegating)),
        ("chat.delegating.test", Told::Address(delegating)),
        // Delegation goes before.
        (
            "_matrix-fed._tcp.delegating.test",
            Told::Service("nowhere.test", 1),
        ),
    ])
    .await;
    let plain = server(
        &authority,
        &names,
        ("plain.test", &["plain.test"]),
        (plain, 8448).into(),
        |_| {},
    )
    .await;
    let delegating = server(
        &authority,
        &names,
        ("delegating.test", &["delegating.test", "chat.delegating.test"]),
        (delegating, 443).into(),
        |settings| settings.public_url = Some("https://chat.delegating.test".to_owned()),
    )
    .await;
    let (alice, bob) = (plain.register("alice").await, delegating.register("bob").await);
    assert_they_talk((&plain, &alice), (&delegating, &bob)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_the_certificate_of_another_or_without_answer_from_dns_is_not_reached() {
    let authority = Authority::new();
    let (impostor, failing, asking) = (own_address(), own_address(), own_address());
    let names = NameServer::start([
        ("asking.test", Told::Address(asking)),
        ("honest.test", Told::Address(impostor)),
        ("failing.test", Told::Address(failing)),
        ("_matrix-fed._tcp.failing.test", Told::Failure),
    ])
    .await;
    let asking = server(
        &authority,
        &names,
        ("asking.test", &["asking.test"]),
        (asking, 8448).into(),
        |_| {},
    )
    .await;
    // Both would answer on port 8448.
    let impostor = server(
        &authority,
        &names,
        ("honest.test", &["impostor.test"]),
        (impostor, 8448).into(),
        |_| {},
    )
    .await;
    let failing = server(
        &authority,
        &names,
        ("failing.test", &["failing.test"]),
        (failing, 8448).into(),
        |_| {},
    )
    .await;
    let alice = asking.register("alice").await;
    for (server, why) in [(&impostor, "certificate"), (&failing, "DNS")] {
        let bob = server.register("bob").await;
        let room = bob.create_room(public_chat()).await.room_id();
        let path = format!("/v3/join/{room}?via={}", server.name());
        let refused = alice.post(&path, json!({})).await.refused(502, "M_UNKNOWN");
        let said = refused["error"].as_str().unwrap_or_default();
        assert!(said.contains(why), "{}: {said}", server.name());
    }
}
