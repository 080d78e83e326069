//! Spaces whose rooms are at other servers, which may be slow of understanding, forgetful, or lying.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
};

use futures_util::{FutureExt as _, future::ready};
use hearth_engine::{
    Clock,
    remote::{Asked, RemoteError, RemoteServers},
    rooms::{
        hierarchy::{HierarchyPage, HierarchyRequest, hierarchy},
        summary::{SummaryError, summary},
    },
};
use parking_lot::Mutex;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, ServerName, UInt,
    api::{client::space::SpaceHierarchyRoomsChunk, federation::space::get_hierarchy::v1 as get_hierarchy},
    owned_server_name, room_id, server_name,
};

use super::*;

/// A clock that stands still until it is moved.
#[derive(Debug)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::try_from(self.0.load(SeqCst)).unwrap())
    }
}

/// Other servers that answer what a test has them answer: what each tells of each room, as JSON.
#[derive(Debug, Default)]
struct Storytellers {
    answers: Mutex<BTreeMap<(OwnedServerName, OwnedRoomId), Value>>,
    asked: AtomicUsize,
}

impl Storytellers {
    fn tell(&self, server: &ServerName, room_id: &RoomId, answer: Value) {
        self.answers
            .lock()
            .insert((server.to_owned(), room_id.to_owned()), answer);
    }

    fn times_asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

impl RemoteServers for Storytellers {
    fn hierarchy<'a>(
        &'a self,
        server: &'a ServerName,
        request: get_hierarchy::Request,
    ) -> Asked<'a, get_hierarchy::Response> {
        self.asked.fetch_add(1, SeqCst);
        let answer = self
            .answers
            .lock()
            .get(&(server.to_owned(), request.room_id))
            .cloned();
        let answer = match answer {
            Some(answer) => read(&answer).map_err(|error| RemoteError::Malformed(error.to_string())),
            None => Err(RemoteError::Refused {
                status: 404,
                errcode: "M_NOT_FOUND".to_owned(),
                error: "there is no such room".to_owned(),
                body: None,
            }),
        };
        ready(answer).boxed()
    }
}

/// An answer as it is read off the wire.
fn read(answer: &Value) -> serde_json::Result<get_hierarchy::Response> {
    let field = |name: &str| answer.get(name).cloned().unwrap_or_default();
    let mut response = get_hierarchy::Response::new(serde_json::from_value(field("room"))?);
    response.children = serde_json::from_value(field("children"))?;
    response.inaccessible_children = serde_json::from_value(field("inaccessible_children"))?;
    Ok(response)
}

struct Scene {
    server: Server,
    clock: Arc<TestClock>,
    others: Arc<Storytellers>,
    alice: Requester,
}

impl Scene {
    async fn set() -> Self {
        let database = TestDatabase::new().await;
        let db = database.connect().await;
        let clock = Arc::new(TestClock(AtomicI64::new(1_700_000_000_000)));
        let others = Arc::new(Storytellers::default());
        let outside = Outside {
            clock: clock.clone(),
            remote: others.clone(),
            ..Outside::default()
        };
        let engine = engine_on(&db, 64 << 20, outside).await;
        let server = Server {
            engine,
            db,
            database,
            room_memory_bytes: 64 << 20,
        };
        Self {
            alice: server.user("alice").await,
            server,
            clock,
            others,
        }
    }

    /// A space with these children, each with the servers through which it is found.
    async fn space(&self, children: &[(&RoomId, &[&str])]) -> OwnedRoomId {
        let initial: Vec<Value> = children
            .iter()
            .map(|(room_id, via)| {
                json!({ "type": "m.space.child", "state_key": room_id, "content": { "via": via } })
            })
            .collect();
        let mut request = CreateRequest::new();
        request.initial_state = serde_json::from_value(json!(initial)).unwrap();
        request.creation_content = Some(serde_json::from_value(json!({ "type": "m.space" })).unwrap());
        create_room(&self.server.engine, &self.alice, request)
            .await
            .unwrap()
    }

    async fn walk(&self, space: &RoomId) -> HierarchyPage {
        hierarchy(
            &self.server.engine,
            &self.alice,
            space,
            HierarchyRequest::default(),
        )
        .await
        .unwrap()
    }

    /// The names of the rooms of a space, without its own.
    async fn names(&self, space: &RoomId) -> Vec<String> {
        let rooms = self.walk(space).await.rooms.into_iter().skip(1);
        rooms.map(|room| room.summary.name.unwrap_or_default()).collect()
    }

    async fn end(self) {
        self.server.end().await;
    }
}

/// What a server tells of a room.
fn told(room_id: &RoomId, name: &str, more: Value) -> Value {
    let mut room = json!({
        "room_id": room_id, "name": name, "num_joined_members": 1, "world_readable": false, "guest_can_join": false,
        "join_rule": "public", "children_state": [],
    });
    for (key, value) in more.as_object().unwrap() {
        room[key] = value.clone();
    }
    json!({ "room": room, "children": [], "inaccessible_children": [] })
}

fn child(room_id: &RoomId) -> Value {
    json!({
        "type": "m.space.child", "state_key": room_id, "sender": "@mallory:evil.example", "origin_server_ts": 1,
        "content": { "via": ["evil.example"] },
    })
}

#[tokio::test]
async fn a_servers_word_about_a_room_is_kept_as_its_own_and_not_for_ever() {
    let scene = Scene::set().await;
    let room = room_id!("!room:honest.example");
    let (honest, evil) = (server_name!("honest.example"), server_name!("evil.example"));
    scene
        .others
        .tell(honest, room, told(room, "the truth", json!({})));
    scene.others.tell(evil, room, told(room, "a lie", json!({})));
    let lied_to = scene.space(&[(room, &["evil.example"])]).await;
    let informed = scene.space(&[(room, &["honest.example"])]).await;
    assert_eq!(scene.names(&lied_to).await, ["a lie"]);
    assert_eq!(scene.names(&informed).await, ["the truth"]);
    scene
        .others
        .tell(honest, room, told(room, "the new truth", json!({})));
    let asked = scene.others.times_asked();
    assert_eq!(scene.names(&informed).await, ["the truth"]);
    assert_eq!(scene.others.times_asked(), asked);
    scene.clock.0.fetch_add(5 * 60 * 1000, SeqCst);
    assert_eq!(scene.names(&informed).await, ["the new truth"]);
    scene.end().await;
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_tells_nothing_of_use() {
    let scene = Scene::set().await;
    let room = room_id!("!room:honest.example");
    let (honest, evil) = (owned_server_name!("honest.example"), server_name!("evil.example"));
    let other = room_id!("!other:evil.example");
    scene
        .others
        .tell(&honest, room, told(room, "the truth", json!({})));
    for useless in [
        told(other, "another room", json!({})),
        json!({}),
        json!({ "room": { "room_id": room } }),
    ] {
        scene.others.tell(evil, room, useless);
        // Its own example.org among them, which has nobody to ask.
        let space = scene
            .space(&[(room, &["example.org", "evil.example", "honest.example"])])
            .await;
        assert_eq!(scene.names(&space).await, ["the truth"]);
        scene.clock.0.fetch_add(60 * 60 * 1000, SeqCst);
    }
    // No more than a few are asked: nobody has a server knock at a hundred doors.
    let vias: Vec<String> = (0..100).map(|n| format!("s{n}.example")).collect();
    let vias: Vec<&str> = vias.iter().map(String::as_str).collect();
    let space = scene.space(&[(other, &vias)]).await;
    let asked = scene.others.times_asked();
    assert!(scene.names(&space).await.is_empty());
    assert!(scene.others.times_asked() <= asked + 3);
    scene.end().await;
}

#[tokio::test]
async fn whatever_is_told_can_be_told_on() {
    let scene = Scene::set().await;
    let room = room_id!("!room:evil.example");
    let evil = server_name!("evil.example");
    let strange = [
        json!({ "join_rule": "org.example.coin_toss", "world_readable": true }),
        json!({ "join_rule": "restricted", "world_readable": true }),
        json!({ "name": "x".repeat(1 << 20), "topic": "y".repeat(1 << 20) }),
        json!({ "room_type": "m.space", "children_state": [{}, 5, "x", child(room), child(room)] }),
        json!({ "children_state": [child(room_id!("!in_no_space:evil.example"))] }),
    ];
    for more in strange {
        scene.others.tell(evil, room, told(room, "strange", more));
        let space = scene.space(&[(room, &["evil.example"])]).await;
        let page = scene.walk(&space).await;
        assert_eq!(page.rooms.len(), 2);
        for room in page.rooms {
            let told_on = SpaceHierarchyRoomsChunk::new(room.summary, room.children_state);
            serde_json::to_value(told_on).expect("it can be written");
        }
        scene.clock.0.fetch_add(60 * 60 * 1000, SeqCst);
    }
    scene.end().await;
}

#[tokio::test]
async fn a_space_without_end_has_one() {
    let scene = Scene::set().await;
    let evil = server_name!("evil.example");
    let deep = |n: usize| OwnedRoomId::try_from(format!("!deep{n}:evil.example")).unwrap();
    for n in 0..100 {
        let more = json!({ "room_type": "m.space", "children_state": [child(&deep(n + 1))] });
        scene
            .others
            .tell(evil, &deep(n), told(&deep(n), &format!("{n}"), more));
    }
    let space = scene.space(&[(&deep(0), &["evil.example"])]).await;
    assert_eq!(scene.names(&space).await.len(), 20);

    let wide = room_id!("!wide:evil.example");
    let children: Vec<Value> = (0..5_000).map(|n| child(&deep(1_000 + n))).collect();
    let mut answer = told(
        wide,
        "wide",
        json!({ "room_type": "m.space", "children_state": children }),
    );
    let children = (0..5_000).map(|n| {
        json!({
            "room_id": deep(1_000 + n), "num_joined_members": 1, "world_readable": true, "guest_can_join": false,
        })
    });
    answer["children"] = children.collect();
    scene.others.tell(evil, wide, answer);
    let space = scene.space(&[(wide, &["evil.example"])]).await;
    let (mut seen, mut from) = (0, None::<String>);
    loop {
        let request = HierarchyRequest {
            from: from.as_deref(),
            ..HierarchyRequest::default()
        };
        let page = hierarchy(&scene.server.engine, &scene.alice, &space, request)
            .await
            .unwrap();
        assert!(page.rooms.len() <= 50);
        seen += page.rooms.len();
        from = page.next_batch;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(seen, 2 + 1_000);
    scene.end().await;
}

#[tokio::test]
async fn nobody_is_told_of_a_private_room_by_another_server_s_slip() {
    let scene = Scene::set().await;
    let room = room_id!("!room:evil.example");
    let evil = server_name!("evil.example");
    scene.others.tell(
        evil,
        room,
        told(room, "private", json!({ "join_rule": "invite" })),
    );
    let found = summary(
        &scene.server.engine,
        Some(&scene.alice),
        room.into(),
        &[evil.to_owned()],
    )
    .await;
    assert!(matches!(found, Err(SummaryError::NotFound)), "{found:?}");
    let space = scene.space(&[(room, &["evil.example"])]).await;
    assert!(scene.names(&space).await.is_empty());
    scene.end().await;
}
