//! Joining a room with a part of its state: what works before the rest is here, what waits for it, and what it changes.

mod network;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hearth_engine::{
    Engine,
    accounts::{
        Requester, authenticate,
        register::{self, Registration},
    },
    rooms::{
        create::create_room,
        membership::{self, MembershipError},
        read::{self, MembersRequest},
        send,
    },
    sync::{SyncRequest, sync},
};
use hearth_storage::{
    events::{self, EventStatus},
    partial_rooms::{self, Completeness},
    rooms, states,
};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    api::client::{
        filter::FilterDefinition,
        room::create_room::v3::{Request as CreateRequest, RoomPreset},
        sync::sync_events::v3::Filter,
        uiaa::{AuthData, Dummy},
    },
    events::{StateEventType, TimelineEventType},
};
use serde_json::{Value, json, value::RawValue};

use crate::network::{Servers, name};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const PATIENCE: Duration = Duration::from_secs(30);
/// Members of the room besides those who have a part in a test.
const CROWD: usize = 12;

/// A room on A, with a crowd of A's in it and Carol of C, which Bob of B is about to join.
struct Scene {
    servers: Servers,
    alice: Requester,
    bob: Requester,
    carol: Requester,
    crowd: Vec<Requester>,
    room_id: OwnedRoomId,
}

async fn register(engine: &Arc<Engine>, username: &str) -> Requester {
    let registration = Registration {
        username: Some(username.to_owned()),
        password: Some("password".into()),
        ..Registration::default()
    };
    let registered = register::register(engine, registration, Some(&AuthData::Dummy(Dummy::new()))).await;
    let token = registered.unwrap().login.unwrap().access_token;
    authenticate(engine, &token).await.unwrap()
}

impl Scene {
    async fn new() -> Self {
        let servers = Servers::start().await;
        let (a, b, c) = (servers.engine(A), servers.engine(B), servers.engine(C));
        let (alice, bob, carol) = (
            register(&a, "alice").await,
            register(&b, "bob").await,
            register(&c, "carol").await,
        );
        let mut request = CreateRequest::new();
        request.preset = Some(RoomPreset::PublicChat);
        request.name = Some("A crowd".to_owned());
        request.room_version = Some(RoomVersionId::V11);
        let room_id = create_room(&a, &alice, request).await.unwrap();
        let mut crowd = Vec::new();
        for number in 0..CROWD {
            let one = register(&a, &format!("crowd{number}")).await;
            membership::join(&a, &one, &room_id, &[], None).await.unwrap();
            crowd.push(one);
        }
        let scene = Self {
            servers,
            alice,
            bob,
            carol,
            crowd,
            room_id,
        };
        scene.join(C, &scene.carol).await;
        // Whoever comes next finds Carol's server whole.
        scene.until_whole(C).await;
        scene
    }

    async fn join(&self, server: usize, who: &Requester) {
        let engine = self.servers.engine(server);
        membership::join(&engine, who, &self.room_id, &[name(A)], None)
            .await
            .unwrap();
    }

    /// Bob joins, and nobody tells the rest of the state.
    async fn bob_joins_partially(&self) {
        self.servers.silence(&[A, C]);
        self.join(B, &self.bob).await;
        assert!(self.is_partial(B).await);
    }

    async fn completeness(&self, server: usize) -> Option<Completeness> {
        let mut connection = self.servers.databases[server].acquire().await.unwrap();
        let room = rooms::by_id(&mut connection, self.room_id.as_str())
            .await
            .unwrap()?;
        partial_rooms::of_room(&mut connection, room.room_nid)
            .await
            .unwrap()
    }

    async fn is_partial(&self, server: usize) -> bool {
        matches!(self.completeness(server).await, Some(Completeness::Partial(_)))
    }

    async fn until_whole(&self, server: usize) {
        until("the state is whole", async || !self.is_partial(server).await).await;
    }

    async fn text(&self, server: usize, who: &Requester, body: &str) -> OwnedEventId {
        let engine = self.servers.engine(server);
        let txn_id = engine.entropy.alphanumeric(12);
        let content = json!({ "msgtype": "m.text", "body": body }).to_string();
        let kind = TimelineEventType::RoomMessage;
        send::send_message(&engine, who, &self.room_id, kind, &txn_id, &content)
            .await
            .unwrap()
    }

    /// The members that a server tells.
    async fn members(&self, server: usize, who: &Requester) -> BTreeSet<OwnedUserId> {
        let engine = self.servers.engine(server);
        let members = read::members(&engine, who, &self.room_id, MembersRequest::default()).await;
        joined_of(&members.unwrap())
    }

    async fn state(&self, server: usize, who: &Requester) -> BTreeSet<String> {
        let engine = self.servers.engine(server);
        let state = read::state(&engine, who, &self.room_id).await.unwrap();
        state.iter().map(|event| field(event, "event_id")).collect()
    }

    async fn status(&self, server: usize, event_id: &OwnedEventId) -> Option<EventStatus> {
        let mut connection = self.servers.databases[server].acquire().await.unwrap();
        let known = events::known(&mut connection, &[event_id.as_str()])
            .await
            .unwrap();
        known.first().map(|known| known.status)
    }

    async fn everybody(&self) -> BTreeSet<OwnedUserId> {
        let others = [&self.alice, &self.bob, &self.carol];
        let all = self.crowd.iter().chain(others);
        all.map(|one| one.user_id.clone()).collect()
    }
}

fn field(event: &RawValue, name: &str) -> String {
    let event: Value = serde_json::from_str(event.get()).unwrap();
    event[name].as_str().unwrap_or_default().to_owned()
}

fn joined_of(events: &[Box<RawValue>]) -> BTreeSet<OwnedUserId> {
    let events = events
        .iter()
        .map(|event| serde_json::from_str::<Value>(event.get()).unwrap());
    events
        .filter(|event| event["content"]["membership"] == "join")
        .filter_map(|event| UserId::parse(event["state_key"].as_str()?).ok())
        .collect()
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = tokio::time::Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A client that goes from sync to sync.
struct Client {
    requester: Requester,
    is_lazy: bool,
    since: Option<String>,
}

impl Client {
    fn new(requester: &Requester, is_lazy: bool) -> Self {
        Self {
            requester: requester.clone(),
            is_lazy,
            since: None,
        }
    }

    /// What is new of a room.
    async fn sync(&mut self, engine: &Arc<Engine>, room_id: &RoomId) -> Option<Value> {
        let filter = json!({ "room": { "state": { "lazy_load_members": self.is_lazy } } });
        let filter: FilterDefinition = serde_json::from_value(filter).unwrap();
        let request = SyncRequest {
            since: self.since.clone(),
            filter: Some(Filter::FilterDefinition(filter)),
            ..SyncRequest::default()
        };
        let response = sync(engine, &self.requester, request).await.unwrap();
        self.since = Some(response.next_batch.clone());
        let response = serde_json::to_value(&response).unwrap();
        response["rooms"]["join"].get(room_id.as_str()).cloned()
    }
}

fn has_event(room: &Value, event_id: &OwnedEventId) -> bool {
    let events = room["timeline"]["events"].as_array();
    events.is_some_and(|events| events.iter().any(|event| event["event_id"] == event_id.as_str()))
}

fn members_in(room: &Value) -> BTreeSet<OwnedUserId> {
    let sections = ["state", "timeline"].map(|section| room[section]["events"].as_array().cloned());
    let events = sections.into_iter().flatten().flatten();
    events
        .filter(|event| event["type"] == "m.room.member" && event["content"]["membership"] == "join")
        .filter_map(|event| UserId::parse(event["state_key"].as_str()?).ok())
        .collect()
}

#[tokio::test]
async fn a_joiner_sends_and_reads_while_the_state_is_held_back() {
    let scene = Scene::new().await;
    scene.bob_joins_partially().await;
    let b = scene.servers.engine(B);
    let mut lazy = Client::new(&scene.bob, true);
    let mut eager = Client::new(&scene.bob, false);
    let room = lazy
        .sync(&b, &scene.room_id)
        .await
        .expect("the room is told at once");
    assert_eq!(
        room["summary"]["m.joined_member_count"],
        json!(1),
        "as far as is known"
    );
    assert_eq!(
        eager.sync(&b, &scene.room_id).await,
        None,
        "not before its members are"
    );

    let mine = scene.text(B, &scene.bob, "can you hear me?").await;
    for server in [A, C] {
        until("the others have it", async || {
            scene.status(server, &mine).await == Some(EventStatus::Accepted)
        })
        .await;
    }
    let theirs = [
        scene.text(A, &scene.crowd[3], "we can").await,
        scene.text(C, &scene.carol, "so can I").await,
    ];
    let told = tokio::sync::Mutex::new((BTreeSet::new(), BTreeSet::new(), lazy));
    until("what they say is told, and who they are", async || {
        let mut told = told.lock().await;
        let (events, members, lazy) = &mut *told;
        if let Some(room) = lazy.sync(&b, &scene.room_id).await {
            events.extend(
                theirs
                    .iter()
                    .filter(|event_id| has_event(&room, event_id))
                    .cloned(),
            );
            members.extend(members_in(&room));
        }
        events.len() == 2
            && members.contains(&scene.carol.user_id)
            && members.contains(&scene.crowd[3].user_id)
    })
    .await;
    let (_, _, mut lazy) = told.into_inner();
    assert_eq!(eager.sync(&b, &scene.room_id).await, None, "still not");
    assert!(scene.is_partial(B).await);

    let asking = {
        let (b, bob, room_id) = (Arc::clone(&b), scene.bob.clone(), scene.room_id.clone());
        tokio::spawn(async move {
            read::members(&b, &bob, &room_id, MembersRequest::default())
                .await
                .unwrap()
        })
    };
    let last = scene.text(B, &scene.bob, "who is here?").await;
    until("the others have it", async || {
        scene.status(A, &last).await == Some(EventStatus::Accepted)
    })
    .await;
    assert!(!asking.is_finished(), "it waits for all of them");
    scene.servers.silence(&[]);
    let members = tokio::time::timeout(PATIENCE, asking).await.unwrap().unwrap();
    assert_eq!(joined_of(&members), scene.everybody().await);
    let joined = read::joined_members(&b, &scene.bob, &scene.room_id)
        .await
        .unwrap();
    assert_eq!(
        joined.into_keys().collect::<BTreeSet<_>>(),
        scene.everybody().await
    );
    assert_eq!(
        scene.state(B, &scene.bob).await,
        scene.state(A, &scene.alice).await
    );

    let room = eager.sync(&b, &scene.room_id).await.expect("all of it is here");
    assert_eq!(members_in(&room), scene.everybody().await);
    assert!(has_event(&room, &last), "{room}");
    let room = lazy
        .sync(&b, &scene.room_id)
        .await
        .expect("its summary is another");
    assert_eq!(
        room["summary"]["m.joined_member_count"],
        json!(scene.everybody().await.len())
    );
    scene.servers.end().await;
}

#[tokio::test]
async fn a_server_that_has_a_part_of_the_state_answers_nothing_that_needs_all_of_it() {
    let scene = Scene::new().await;
    scene.bob_joins_partially().await;
    let b = scene.servers.engine(B);
    let dave = register(&scene.servers.engine(C), "dave").await;
    let via = [name(B)];
    let refused = membership::join(&scene.servers.engine(C), &dave, &scene.room_id, &via, None).await;
    // C is in the room: it lets its own user in. A fourth server would have to ask another.
    refused.unwrap();
    use hearth_engine::federation::{self, ServeError};
    use ruma::api::federation::membership::prepare_join_event;
    let mut request = prepare_join_event::v1::Request::new(scene.room_id.clone(), dave.user_id.clone());
    request.ver = vec![RoomVersionId::V11];
    let answer = federation::make_join(&b, &name(C), request).await;
    assert!(matches!(answer, Err(ServeError::Incomplete)), "{answer:?}");
    scene.servers.end().await;
}

#[tokio::test]
async fn the_rest_is_asked_for_again_after_a_restart() {
    let scene = Scene::new().await;
    scene.bob_joins_partially().await;
    let before = scene.text(B, &scene.bob, "before").await;
    scene.servers.restart(B).await;
    assert!(scene.is_partial(B).await);
    let b = scene.servers.engine(B);
    let mut eager = Client::new(&scene.bob, false);
    assert_eq!(eager.sync(&b, &scene.room_id).await, None);
    let after = scene.text(B, &scene.bob, "after").await;
    until("the others have both", async || {
        let status = [scene.status(C, &before).await, scene.status(C, &after).await];
        status == [Some(EventStatus::Accepted); 2]
    })
    .await;
    scene.servers.silence(&[]);
    assert_eq!(scene.members(B, &scene.bob).await, scene.everybody().await);
    let room = eager.sync(&b, &scene.room_id).await.expect("all of it is here");
    assert!(has_event(&room, &before) && has_event(&room, &after), "{room}");
    scene.servers.end().await;
}

#[tokio::test]
async fn another_server_tells_the_rest_when_the_one_joined_through_is_gone() {
    let scene = Scene::new().await;
    scene.bob_joins_partially().await;
    scene.servers.set_down(A, true);
    scene.servers.silence(&[]);
    scene.until_whole(B).await;
    assert_eq!(scene.members(B, &scene.bob).await, scene.everybody().await);
    let asked = scene.servers.network.asked.lock().clone();
    assert!(asked.contains(&name(C)), "{asked:?}");
    let said = scene.text(B, &scene.bob, "without A").await;
    until("C has it", async || {
        scene.status(C, &said).await == Some(EventStatus::Accepted)
    })
    .await;
    scene.servers.end().await;
}

#[tokio::test]
async fn whoever_comes_next_is_decided_on_when_it_is_known_what_they_are() {
    let scene = Scene::new().await;
    let (a, b) = (scene.servers.engine(A), scene.servers.engine(B));
    let brian = register(&b, "brian").await;
    membership::ban(&a, &scene.alice, &scene.room_id, &brian.user_id, None)
        .await
        .unwrap();
    scene.bob_joins_partially().await;
    let trying = {
        let (b, brian, room_id) = (Arc::clone(&b), brian.clone(), scene.room_id.clone());
        tokio::spawn(async move { membership::join(&b, &brian, &room_id, &[name(A)], None).await })
    };
    scene.text(B, &scene.bob, "is Brian allowed here?").await;
    assert!(
        !trying.is_finished(),
        "it is not known yet what he is to the room"
    );
    scene.servers.silence(&[]);
    let refused = tokio::time::timeout(PATIENCE, trying).await.unwrap().unwrap();
    assert!(
        matches!(refused, Err(MembershipError::Forbidden(_))),
        "{refused:?}"
    );
    scene.servers.end().await;
}

#[tokio::test]
async fn who_left_meanwhile_joins_again() {
    let scene = Scene::new().await;
    scene.bob_joins_partially().await;
    let b = scene.servers.engine(B);
    membership::leave(&b, &scene.bob, &scene.room_id, None)
        .await
        .unwrap();
    until("A knows", async || {
        !scene.members(A, &scene.alice).await.contains(&scene.bob.user_id)
    })
    .await;
    assert!(scene.is_partial(B).await);
    scene.join(B, &scene.bob).await;
    scene.servers.silence(&[]);
    assert_eq!(scene.members(B, &scene.bob).await, scene.everybody().await);
    assert_eq!(
        scene.state(B, &scene.bob).await,
        scene.state(A, &scene.alice).await
    );
    scene.servers.end().await;
}

#[tokio::test]
async fn two_who_join_at_once_are_both_in() {
    let scene = Scene::new().await;
    let b = scene.servers.engine(B);
    let brian = register(&b, "brian").await;
    scene.servers.silence(&[A, C]);
    let joining = {
        let (b, brian, room_id) = (Arc::clone(&b), brian.clone(), scene.room_id.clone());
        tokio::spawn(async move {
            membership::join(&b, &brian, &room_id, &[name(A)], None)
                .await
                .unwrap()
        })
    };
    let via = [name(A)];
    let bob = membership::join(&b, &scene.bob, &scene.room_id, &via, None);
    let release = async {
        until("one of them is in", async || scene.is_partial(B).await).await;
        scene.servers.silence(&[]);
    };
    let (joined, ()) = tokio::join!(bob, release);
    joined.unwrap();
    tokio::time::timeout(PATIENCE, joining).await.unwrap().unwrap();
    let mut everybody = scene.everybody().await;
    everybody.insert(brian.user_id.clone());
    assert_eq!(scene.members(B, &scene.bob).await, everybody);
    until("A has both", async || {
        scene.members(A, &scene.alice).await == everybody
    })
    .await;
    scene.servers.end().await;
}

#[tokio::test]
async fn what_the_whole_state_does_not_allow_counts_no_more() {
    let scene = Scene::new().await;
    let (a, b) = (scene.servers.engine(A), scene.servers.engine(B));
    // Carol may set the topic, is banned, and her server goes on as if she weren't.
    let levels = read::state_event(&a, &scene.alice, &scene.room_id, "m.room.power_levels", "").await;
    let mut levels: Value = serde_json::from_str(levels.unwrap().content.get()).unwrap();
    levels["users"][scene.carol.user_id.as_str()] = json!(50);
    let levels = levels.to_string();
    send::send_state(
        &a,
        &scene.alice,
        &scene.room_id,
        StateEventType::RoomPowerLevels,
        "",
        &levels,
    )
    .await
    .unwrap();
    let member = read::state_event(
        &a,
        &scene.alice,
        &scene.room_id,
        "m.room.member",
        scene.carol.user_id.as_str(),
    );
    let member = field(&member.await.unwrap().event, "event_id");
    membership::ban(&a, &scene.alice, &scene.room_id, &scene.carol.user_id, None)
        .await
        .unwrap();
    scene.bob_joins_partially().await;
    let state_id = async |event_type: &str, key: &str| {
        let event = read::state_event(&b, &scene.bob, &scene.room_id, event_type, key).await;
        field(&event.unwrap().event, "event_id")
    };
    let pdu = json!({
        "type": "m.room.topic",
        "state_key": "",
        "room_id": scene.room_id,
        "sender": scene.carol.user_id,
        "content": { "topic": "nobody bans me" },
        "origin_server_ts": 1,
        "depth": 1000,
        "prev_events": [state_id("m.room.member", scene.bob.user_id.as_str()).await],
        "auth_events": [
            state_id("m.room.create", "").await,
            state_id("m.room.power_levels", "").await,
            member,
        ],
    });
    let pdu: CanonicalJsonObject = serde_json::from_value(pdu).unwrap();
    let rules = RoomVersionId::V11.rules().unwrap();
    let pdu = scene.servers.signed(C, pdu, &rules.redaction);
    scene.servers.hand(C, B, pdu).await;
    let topic = async || {
        let event = read::state_event(&b, &scene.bob, &scene.room_id, "m.room.topic", "").await;
        event.ok().map(|event| field(&event.event, "event_id"))
    };
    until("it counts, as far as is known", async || topic().await.is_some()).await;
    let said: OwnedEventId = topic().await.unwrap().try_into().unwrap();
    let mine = scene.text(B, &scene.bob, "what a topic").await;

    scene.servers.silence(&[]);
    scene.until_whole(B).await;
    until("it does not count", async || topic().await.is_none()).await;
    assert_eq!(scene.status(B, &said).await, Some(EventStatus::Rejected));
    assert_eq!(scene.status(B, &mine).await, Some(EventStatus::Accepted));
    let mut lazy = Client::new(&scene.bob, true);
    let room = lazy.sync(&b, &scene.room_id).await.unwrap();
    assert!(
        has_event(&room, &said),
        "what was shown is not taken away: {room}"
    );
    let everybody: BTreeSet<_> = scene
        .everybody()
        .await
        .into_iter()
        .filter(|user_id| *user_id != scene.carol.user_id)
        .collect();
    assert_eq!(scene.members(B, &scene.bob).await, everybody);
    scene.servers.end().await;
}

/// An event of Carol's, as her server would send it, with these predecessors.
async fn said_by_carol(
    scene: &Scene,
    prev_events: &[String],
    depth: i64,
    body: &str,
) -> (OwnedEventId, Box<RawValue>) {
    let a = scene.servers.engine(A);
    let state_id = async |event_type: &str, key: &str| {
        let event = read::state_event(&a, &scene.alice, &scene.room_id, event_type, key).await;
        field(&event.unwrap().event, "event_id")
    };
    let pdu = json!({
        "type": "m.room.message",
        "room_id": scene.room_id,
        "sender": scene.carol.user_id,
        "content": { "msgtype": "m.text", "body": body },
        "origin_server_ts": 1,
        "depth": depth,
        "prev_events": prev_events,
        "auth_events": [
            state_id("m.room.create", "").await,
            state_id("m.room.power_levels", "").await,
            state_id("m.room.member", scene.carol.user_id.as_str()).await,
        ],
    });
    let pdu: CanonicalJsonObject = serde_json::from_value(pdu).unwrap();
    let rules = RoomVersionId::V11.rules().unwrap();
    let pdu = scene.servers.signed(C, pdu, &rules.redaction);
    let object: CanonicalJsonObject = serde_json::from_str(pdu.get()).unwrap();
    let hash = ruma::signatures::reference_hash(&object, &rules).unwrap();
    (OwnedEventId::try_from(format!("${hash}")).unwrap(), pdu)
}

/// The predecessors and the depth of an event that a server has.
async fn prevs_of(scene: &Scene, server: usize, event_id: &str) -> (Vec<String>, i64) {
    let mut connection = scene.servers.databases[server].acquire().await.unwrap();
    let stored = events::by_ids(&mut connection, &[event_id]).await.unwrap();
    let pdu: Value = serde_json::from_str(&stored.first().unwrap().event.pdu).unwrap();
    let prevs = serde_json::from_value(pdu["prev_events"].clone()).unwrap();
    (prevs, pdu["depth"].as_i64().unwrap())
}

#[tokio::test]
async fn what_is_written_at_the_same_time_is_shown_and_what_comes_elsewhere_waits() {
    let scene = Scene::new().await;
    let b = scene.servers.engine(B);
    let earlier = scene.text(A, &scene.alice, "long before").await;
    scene.text(A, &scene.alice, "just before").await;
    scene.bob_joins_partially().await;
    let join = read::state_event(
        &b,
        &scene.bob,
        &scene.room_id,
        "m.room.member",
        scene.bob.user_id.as_str(),
    );
    let join = field(&join.await.unwrap().event, "event_id");
    let (before_join, depth) = prevs_of(&scene, B, &join).await;

    let (elsewhere, pdu) = said_by_carol(&scene, &[earlier.to_string()], depth, "elsewhere").await;
    scene.servers.hand(C, B, pdu).await;
    let (beside, pdu) = said_by_carol(&scene, &before_join, depth, "at the same time").await;
    scene.servers.hand(C, B, pdu).await;
    until("it is shown", async || {
        scene.status(B, &beside).await == Some(EventStatus::Accepted)
    })
    .await;
    let answer = scene.text(B, &scene.bob, "I see you").await;
    let (prevs, _) = prevs_of(&scene, B, answer.as_str()).await;
    assert!(prevs.contains(&beside.to_string()), "{prevs:?}");
    assert!(scene.is_partial(B).await);
    assert_ne!(scene.status(B, &elsewhere).await, Some(EventStatus::Accepted));

    scene.servers.silence(&[]);
    scene.until_whole(B).await;
    until("it has its place", async || {
        scene.status(B, &elsewhere).await == Some(EventStatus::Accepted)
    })
    .await;
    assert_eq!(scene.members(B, &scene.bob).await, scene.everybody().await);
    scene.servers.end().await;
}

#[tokio::test]
async fn all_that_happens_meanwhile_is_in_the_state_in_the_end() {
    let scene = Scene::new().await;
    let (a, b, c) = (
        scene.servers.engine(A),
        scene.servers.engine(B),
        scene.servers.engine(C),
    );
    scene.bob_joins_partially().await;
    let b_sends = {
        let (b, bob, room_id) = (Arc::clone(&b), scene.bob.clone(), scene.room_id.clone());
        tokio::spawn(async move {
            let mut sent = Vec::new();
            // Before, during and after the state becomes whole.
            for number in 0..150 {
                let content = json!({ "msgtype": "m.text", "body": number.to_string() }).to_string();
                let txn_id = b.entropy.alphanumeric(12);
                let kind = TimelineEventType::RoomMessage;
                let said = send::send_message(&b, &bob, &room_id, kind, &txn_id, &content).await;
                sent.push(said.unwrap());
            }
            sent
        })
    };
    membership::kick(&a, &scene.alice, &scene.room_id, &scene.crowd[0].user_id, None)
        .await
        .unwrap();
    membership::leave(&a, &scene.crowd[1], &scene.room_id, None)
        .await
        .unwrap();
    let renamed = json!({ "membership": "join", "displayname": "Two" }).to_string();
    let two = &scene.crowd[2];
    let member = StateEventType::RoomMember;
    send::send_state(&a, two, &scene.room_id, member, two.user_id.as_str(), &renamed)
        .await
        .unwrap();
    let dave = register(&c, "dave").await;
    membership::join(&c, &dave, &scene.room_id, &[name(A)], None)
        .await
        .unwrap();
    let topic = json!({ "topic": "all at once" }).to_string();
    let own = send::send_state(
        &a,
        &scene.alice,
        &scene.room_id,
        StateEventType::RoomTopic,
        "",
        &topic,
    );
    let topic = own.await.unwrap();
    until("B has it", async || {
        scene.status(B, &topic).await == Some(EventStatus::Accepted)
    })
    .await;
    assert!(scene.is_partial(B).await);
    scene.servers.silence(&[]);
    scene.until_whole(B).await;

    let sent = b_sends.await.unwrap();
    let last = sent.last().unwrap();
    until("A has all of them", async || {
        scene.status(A, last).await == Some(EventStatus::Accepted)
    })
    .await;
    for event_id in &sent {
        assert_eq!(scene.status(B, event_id).await, Some(EventStatus::Accepted));
        assert_eq!(scene.status(A, event_id).await, Some(EventStatus::Accepted));
    }
    until("the state is one", async || {
        scene.state(B, &scene.bob).await == scene.state(A, &scene.alice).await
    })
    .await;
    let mut expected = scene.everybody().await;
    expected.insert(dave.user_id.clone());
    expected.remove(&scene.crowd[0].user_id);
    expected.remove(&scene.crowd[1].user_id);
    assert_eq!(scene.members(B, &scene.bob).await, expected);
    let mut eager = Client::new(&scene.bob, false);
    let room = eager.sync(&b, &scene.room_id).await.unwrap();
    assert_eq!(members_in(&room), expected);
    let mut connection = scene.servers.databases[B].acquire().await.unwrap();
    let stored = rooms::by_id(&mut connection, scene.room_id.as_str())
        .await
        .unwrap()
        .unwrap();
    let upto = hearth_storage::Position(i64::MAX);
    let (end, start) = (events::Place::END, events::Place::START);
    let page = events::page_backwards(&mut connection, stored.room_nid, end, start, upto, 1000);
    let page = page.await.unwrap();
    let sequences: Vec<i64> = page.iter().rev().map(|stored| stored.event.sequence).collect();
    assert!(
        sequences.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{sequences:?}"
    );
    // The state after every event since the join is whole.
    let mut after: Vec<_> = page.iter().map(|stored| stored.event.state_after).collect();
    after.sort_unstable();
    after.dedup();
    let loaded = states::load(&mut connection, &after).await.unwrap();
    assert_eq!(loaded.len(), after.len());
    let least = loaded.iter().map(|state| state.map.len()).min().unwrap();
    assert!(least > CROWD + 5, "{least}");
    drop(connection);
    scene.servers.end().await;
}
