//! The WebSocket on an engine whose clock the test owns: what becomes of a token that nobody renews. All else about it is
//! tested on whole servers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use hearth_client_api::{SocketSettings, routes, with_socket};
use hearth_engine::{
    Clock, Engine, Outside, SigningKey,
    accounts::{logins::DeviceRequest, register},
    test_engine::{self, TestDatabase},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::uiaa::{AuthData, Dummy},
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

/// A clock that goes on when it is told to.
#[derive(Debug)]
struct OwnClock(AtomicI64);

impl Clock for OwnClock {
    fn now(&self) -> MilliSecondsSinceUnixEpoch {
        let now = self.0.load(Ordering::SeqCst);
        MilliSecondsSinceUnixEpoch(UInt::try_from(now).expect("it is after 1970"))
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn say(socket: &mut Socket, frame: Value) {
    let sent = socket.send(Message::text(frame.to_string())).await;
    sent.expect("it can be sent");
}

/// The next frame, or the close code.
async fn hear(socket: &mut Socket) -> Result<Value, u16> {
    let heard = async {
        loop {
            match socket.next().await.expect("it has not ended").expect("a frame") {
                Message::Text(text) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Message::Close(close) => return Err(close.expect("a reason").code.into()),
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), heard)
        .await
        .expect("something is said")
}

#[tokio::test]
async fn a_connection_without_a_fresh_token_ends_a_while_after_its_token() {
    let clock = Arc::new(OwnClock(AtomicI64::new(1_700_000_000_000)));
    let database = TestDatabase::new().await;
    let outside = Outside {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        ..Outside::default()
    };
    let key = SigningKey::from_seed("1", &[1; 32]).expect("any 32 bytes are a seed");
    let engine = Engine::start(test_engine::open_config(), database.connect().await, key, outside)
        .await
        .expect("the engine starts");
    let alice = register::Registration {
        username: Some("alice".to_owned()),
        password: Some("correct horse".into()),
        device: DeviceRequest {
            refreshes: true,
            ..DeviceRequest::default()
        },
        ..register::Registration::default()
    };
    let registered = register::register(&engine, alice, Some(&AuthData::Dummy(Dummy::new()))).await;
    let login = registered.expect("it is open").login.expect("a device");
    let lifetime_ms = login.expires_in_ms.expect("it expires");

    let settings = SocketSettings {
        grace: Duration::from_millis(200),
        ..SocketSettings::default()
    };
    let router = hearth_endpoint::serve(routes(), Arc::clone(&engine));
    let router = with_socket(router, &engine, settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move { axum::serve(listener, router).await });

    let url = format!("ws://{address}/_matrix/client/unstable/chat.hearth.socket");
    let mut request = url.into_client_request().expect("a URL");
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", "chat.hearth.v1".parse().expect("ASCII"));
    let stream = TcpStream::connect(address).await.expect("somebody listens");
    let (mut socket, _) = client_async(request, stream).await.expect("it is upgraded");
    say(
        &mut socket,
        json!({ "op": "auth", "access_token": login.access_token }),
    )
    .await;
    say(&mut socket, json!({ "op": "ping", "id": 1 })).await;
    assert_eq!(hear(&mut socket).await, Ok(json!({ "op": "pong", "id": 1 })));

    clock.0.fetch_add(lifetime_ms - 20_000, Ordering::SeqCst);
    say(&mut socket, json!({ "op": "ping", "id": 2 })).await;
    assert_eq!(hear(&mut socket).await, Ok(json!({ "op": "pong", "id": 2 })));
    assert_eq!(hear(&mut socket).await, Ok(json!({ "op": "auth_needed" })));

    clock.0.fetch_add(30_000, Ordering::SeqCst);
    say(&mut socket, json!({ "op": "ping", "id": 3 })).await;
    assert_eq!(hear(&mut socket).await, Ok(json!({ "op": "pong", "id": 3 })));
    let error = hear(&mut socket).await.expect("an error comes before the end");
    assert_eq!(error["errcode"], "M_UNKNOWN_TOKEN");
    assert_eq!(error["soft_logout"], true);
    assert_eq!(hear(&mut socket).await, Err(4002));
}
