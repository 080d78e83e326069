//! A device through matrix-sdk, as its users write it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hearth_tests::{PASSWORD, PATIENCE, within};
use matrix_sdk::{
    Client, Room, RoomMemberships, RoomState,
    config::{RequestConfig, SyncSettings},
    deserialized_responses::TimelineEvent,
    room::{
        IncludeRelations, ListThreadsOptions, MessagesOptions, Receipts, RelationsOptions,
        edit::EditedContent,
        reply::{EnforceThread, Reply},
    },
    ruma::{
        OwnedEventId, OwnedRoomId, RoomId, RoomOrAliasId, UserId,
        api::client::{
            account::register,
            filter::FilterDefinition,
            receipt::create_receipt::v3::ReceiptType as SentReceiptType,
            room::create_room::{self, v3::RoomPreset},
            uiaa::{AuthData, Dummy},
        },
        events::{
            AnySyncEphemeralRoomEvent, Mentions,
            reaction::ReactionEventContent,
            receipt::{ReceiptThread, ReceiptType},
            relation::Annotation,
            room::message::{
                AddMentions, ReplyWithinThread, RoomMessageEventContent,
                RoomMessageEventContentWithoutRelation,
            },
        },
        profile::ProfileFieldValue,
        uint,
    },
    sync::SyncResponse,
};

use crate::{
    device::{Device, Receipt, View},
    line::line,
};

/// How long one sync waits.
const POLL: Duration = Duration::from_secs(5);

/// A device that was logged in by matrix-sdk, and what came by sync.
#[derive(Debug)]
pub struct Sdk {
    /// For what [`Device`] has no name for.
    pub client: Client,
    user_id: String,
    came: Mutex<Came>,
}

#[derive(Debug, Default)]
struct Came {
    events: BTreeMap<OwnedRoomId, Vec<OwnedEventId>>,
    typing: BTreeMap<OwnedRoomId, BTreeSet<String>>,
}

impl Sdk {
    /// Registers a user.
    pub async fn register(url: &str, username: &str) -> Self {
        let client = client(url).await;
        let mut request = register::v3::Request::new();
        request.username = Some(username.to_owned());
        request.password = Some(PASSWORD.to_owned());
        request.auth = Some(AuthData::Dummy(Dummy::new()));
        let registered = client.matrix_auth().register(request).await;
        registered.expect("the server lets anyone register");
        Self::of(client)
    }

    /// Logs another device of that user's in.
    pub async fn login(url: &str, user_id: &str) -> Self {
        let client = client(url).await;
        let login = client.matrix_auth().login_username(user_id, PASSWORD);
        login.send().await.expect("the password is right");
        Self::of(client)
    }

    fn of(client: Client) -> Self {
        Self {
            user_id: client.user_id().expect("it is logged in").to_string(),
            client,
            came: Mutex::default(),
        }
    }

    /// Has the library remember the events of rooms, and count by itself what is unread. To be said before any sync.
    /// (Version 0.18 fails where a room is forgotten and joined again.)
    pub fn remember_events(&self) {
        let remembered = self.client.event_cache().subscribe();
        remembered.expect("there is a client");
    }

    /// A room that syncs have told of.
    #[track_caller]
    pub fn room(&self, room_id: &str) -> Room {
        let room = self.client.get_room(&id(room_id));
        room.unwrap_or_else(|| panic!("{} has not heard of {room_id}", self.user_id))
    }

    fn came(&self) -> MutexGuard<'_, Came> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs once, by a filter as full clients have it.
    pub async fn sync(&self, wait: Duration) -> SyncResponse {
        let mut filter = FilterDefinition::with_lazy_loading();
        filter.room.timeline.limit = Some(uint!(100));
        let settings = SyncSettings::new().filter(filter.into()).timeout(wait);
        let response = self.client.sync_once(settings).await.expect("syncing works");
        let mut came = self.came();
        for (room_id, room) in &response.rooms.joined {
            let events = came.events.entry(room_id.clone()).or_default();
            events.extend(room.timeline.events.iter().filter_map(TimelineEvent::event_id));
            for event in &room.ephemeral {
                let event = event.deserialize().expect("an ephemeral event is well-formed");
                if let AnySyncEphemeralRoomEvent::Typing(typing) = event {
                    let users = typing.content.user_ids.iter().map(ToString::to_string);
                    came.typing.insert(room_id.clone(), users.collect());
                }
            }
        }
        drop(came);
        response
    }

    async fn sync_until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let syncing = async {
            while !wanted(self) {
                self.sync(POLL).await;
            }
        };
        within(PATIENCE, &format!("{} learns that {what}", self.user_id), syncing).await;
    }

    async fn send(&self, room_id: &str, content: RoomMessageEventContent) -> String {
        let sent = self.room(room_id).send(content).await.expect("it may be sent");
        sent.response.event_id.to_string()
    }

    async fn reply(
        &self,
        room_id: &str,
        event_id: &str,
        body: &str,
        enforce_thread: EnforceThread,
    ) -> String {
        let reply = Reply {
            event_id: event(event_id),
            enforce_thread,
            // matrix-nio doesn't either.
            add_mentions: AddMentions::No,
        };
        let content = RoomMessageEventContentWithoutRelation::text_plain(body);
        let content = self.room(room_id).make_reply_event(content, reply).await;
        self.send(room_id, content.expect("there is a message to reply to"))
            .await
    }

    /// All receipts that the library keeps: it has to be asked for each.
    async fn receipts(&self, room: &Room, roots: &[OwnedEventId]) -> BTreeMap<String, String> {
        let members = room.members(RoomMemberships::empty()).await;
        let threads = [ReceiptThread::Unthreaded, ReceiptThread::Main].into_iter();
        let threads = threads.chain(roots.iter().cloned().map(ReceiptThread::Thread));
        let threads: Vec<_> = threads.collect();
        let mut receipts = BTreeMap::new();
        for member in members.expect("members can be asked for") {
            for receipt_type in [ReceiptType::Read, ReceiptType::ReadPrivate] {
                for thread in &threads {
                    let user_id = member.user_id();
                    let found = room.load_user_receipt(receipt_type.clone(), thread.clone(), user_id);
                    if let Some((event_id, _)) = found.await.expect("the library's store works") {
                        let thread = thread.as_str().unwrap_or("everywhere");
                        receipts.insert(format!("{user_id} {receipt_type} {thread}"), event_id.to_string());
                    }
                }
            }
        }
        receipts
    }

    async fn members(&self, room: &Room, wanted: RoomMemberships) -> BTreeMap<String, Option<String>> {
        let members = room.members(wanted).await.expect("members can be asked for");
        let named = members.iter().map(|member| {
            (
                member.user_id().to_string(),
                member.display_name().map(ToOwned::to_owned),
            )
        });
        named.collect()
    }

    async fn page_back(&self, room: &Room) -> Vec<TimelineEvent> {
        let (mut events, mut from) = (Vec::new(), None);
        loop {
            let mut options = MessagesOptions::backward().from(from.as_deref());
            options.limit = uint!(7);
            let page = room.messages(options).await.expect("there is a page");
            events.extend(page.chunk);
            from = page.end;
            if from.is_none() {
                events.reverse();
                return events;
            }
        }
    }

    async fn threads(&self, room: &Room) -> Vec<TimelineEvent> {
        let (mut roots, mut from) = (Vec::new(), None);
        loop {
            let options = ListThreadsOptions {
                from,
                limit: Some(uint!(2)),
                ..Default::default()
            };
            let page = room.list_threads(options).await.expect("threads are listed");
            roots.extend(page.chunk);
            from = page.prev_batch_token;
            if from.is_none() {
                return roots;
            }
        }
    }
}

/// A client that tries nothing twice, and keeps in memory what it learns.
async fn client(url: &str) -> Client {
    let client = Client::builder()
        .homeserver_url(url)
        .request_config(RequestConfig::new().disable_retry())
        .build();
    client.await.expect("there is a server")
}

fn id(room_id: &str) -> OwnedRoomId {
    RoomId::parse(room_id).expect("a room ID")
}

fn event(event_id: &str) -> OwnedEventId {
    event_id.try_into().expect("an event ID")
}

fn user(user_id: &str) -> &UserId {
    user_id.try_into().expect("a user ID")
}

impl Device for Sdk {
    fn user_id(&self) -> &str {
        &self.user_id
    }

    async fn catch_up(&self) {
        self.sync(Duration::ZERO).await;
    }

    async fn meet(&self, room_id: &str, event_id: &str) {
        let (room_id, event_id) = (id(room_id), event(event_id));
        let heard = |device: &Self| {
            let came = device.came();
            came.events
                .get(&room_id)
                .is_some_and(|events| events.contains(&event_id))
        };
        self.sync_until("an event comes", heard).await;
    }

    async fn await_typing(&self, room_id: &str, user_id: &str, on: bool) {
        let room_id = id(room_id);
        let as_wanted = |device: &Self| {
            let came = device.came();
            let types = came
                .typing
                .get(&room_id)
                .is_some_and(|users| users.contains(user_id));
            types == on
        };
        self.sync_until("somebody types, or stops", as_wanted).await;
    }

    async fn create_direct_room(&self, invite: &str) -> String {
        // Not `create_dm`, which encrypts.
        let mut request = create_room::v3::Request::new();
        request.preset = Some(RoomPreset::TrustedPrivateChat);
        request.is_direct = true;
        request.invite = vec![user(invite).to_owned()];
        let room = self.client.create_room(request).await;
        room.expect("a room can be made").room_id().to_string()
    }

    async fn create_public_room(&self, alias: &str, name: &str, topic: &str) -> String {
        let mut request = create_room::v3::Request::new();
        request.preset = Some(RoomPreset::PublicChat);
        request.room_alias_name = Some(alias.to_owned());
        request.name = Some(name.to_owned());
        request.topic = Some(topic.to_owned());
        let room = self.client.create_room(request).await;
        room.expect("a room can be made").room_id().to_string()
    }

    async fn join(&self, room: &str) -> String {
        let room: &RoomOrAliasId = room.try_into().expect("an ID or an alias");
        let joined = self.client.join_room_by_id_or_alias(room, &[]).await;
        joined.expect("the room may be joined").room_id().to_string()
    }

    async fn accept(&self, room_id: &str) {
        let is = |device: &Self, state| {
            let room = device.client.get_room(&id(room_id));
            room.is_some_and(|room| room.state() == state)
        };
        self.sync_until("the invite comes", |device| is(device, RoomState::Invited))
            .await;
        self.room(room_id).join().await.expect("who is invited may join");
        self.sync_until("the join comes", |device| {
            let came = device.came();
            came.events.contains_key(&id(room_id))
        })
        .await;
    }

    async fn invite(&self, room_id: &str, user_id: &str) {
        let invited = self.room(room_id).invite_user_by_id(user(user_id)).await;
        invited.expect("the user may be invited");
    }

    async fn kick(&self, room_id: &str, user_id: &str, reason: &str) {
        let kicked = self.room(room_id).kick_user(user(user_id), Some(reason)).await;
        kicked.expect("the user may be kicked");
    }

    async fn leave(&self, room_id: &str) {
        self.room(room_id).leave().await.expect("anybody may leave");
    }

    async fn forget(&self, room_id: &str) {
        let forgotten = self.room(room_id).forget().await;
        forgotten.expect("who has left may forget");
    }

    async fn say_to(&self, room_id: &str, body: &str, mentions: &[&str]) -> String {
        let mut content = RoomMessageEventContent::text_plain(body);
        if !mentions.is_empty() {
            let users = mentions.iter().map(|user_id| user(user_id).to_owned());
            content = content.add_mentions(Mentions::with_user_ids(users));
        }
        self.send(room_id, content).await
    }

    async fn answer(&self, room_id: &str, event_id: &str, body: &str) -> String {
        self.reply(room_id, event_id, body, EnforceThread::Unthreaded)
            .await
    }

    async fn say_in_thread(&self, room_id: &str, root: &str, body: &str) -> String {
        let thread = EnforceThread::Threaded(ReplyWithinThread::No);
        self.reply(room_id, root, body, thread).await
    }

    async fn edit(&self, room_id: &str, event_id: &str, body: &str) -> String {
        let content = RoomMessageEventContentWithoutRelation::text_plain(body);
        let (room, event_id) = (self.room(room_id), event(event_id));
        let edit = room.make_edit_event(&event_id, EditedContent::RoomMessage(content));
        let edit = edit.await.expect("a message of one's own can be edited");
        let sent = room.send(edit).await.expect("it may be sent");
        sent.response.event_id.to_string()
    }

    async fn react(&self, room_id: &str, event_id: &str, key: &str) -> String {
        let annotation = Annotation::new(event(event_id), key.to_owned());
        let sent = self
            .room(room_id)
            .send(ReactionEventContent::new(annotation))
            .await;
        sent.expect("one may react").response.event_id.to_string()
    }

    async fn redact(&self, room_id: &str, event_id: &str, reason: &str) -> String {
        let redacted = self
            .room(room_id)
            .redact(&event(event_id), Some(reason), None)
            .await;
        redacted.expect("it may be redacted").event_id.to_string()
    }

    async fn set_topic(&self, room_id: &str, topic: &str) -> String {
        let set = self.room(room_id).set_room_topic(topic).await;
        set.expect("the topic may be set").event_id.to_string()
    }

    async fn set_typing(&self, room_id: &str, on: bool) {
        self.room(room_id)
            .typing_notice(on)
            .await
            .expect("a member may type");
    }

    async fn read(&self, room_id: &str, event_id: &str, thread: &str, receipt: Receipt) {
        let receipt_type = match receipt {
            Receipt::Public => SentReceiptType::Read,
            Receipt::Private => SentReceiptType::ReadPrivate,
        };
        let thread = ReceiptThread::try_from(Some(thread)).expect("a thread");
        let room = self.room(room_id);
        let sent = room.send_single_receipt(receipt_type, thread, event(event_id));
        sent.await.expect("a member may read");
    }

    async fn mark(&self, room_id: &str, event_id: &str, receipt: Receipt) {
        let receipts = Receipts::new().fully_read_marker(event(event_id));
        let receipts = match receipt {
            Receipt::Public => receipts.public_read_receipt(event(event_id)),
            Receipt::Private => receipts.private_read_receipt(event(event_id)),
        };
        let sent = self.room(room_id).send_multiple_receipts(receipts).await;
        sent.expect("a member may read");
    }

    async fn set_displayname(&self, name: &str) {
        let set = self.client.account().set_display_name(Some(name)).await;
        set.expect("one may be called anything");
    }

    async fn displayname_of(&self, user_id: &str) -> String {
        let account = self.client.account();
        let profile = account.fetch_user_profile_of(user(user_id)).await;
        let profile = profile.expect("profiles are everybody's");
        let name = profile.iter().find_map(|(key, value)| {
            let field = ProfileFieldValue::new(key, value.clone()).expect("a field is well-formed");
            match field {
                ProfileFieldValue::DisplayName(name) => Some(name),
                _ => None,
            }
        });
        name.expect("there is a display name")
    }

    async fn refusal_to_say(&self, room_id: &str, body: &str) -> String {
        let content = RoomMessageEventContent::text_plain(body);
        let refused = self.room(room_id).send(content).await;
        let error = refused.expect_err("the message is refused");
        let kind = error.client_api_error_kind();
        kind.unwrap_or_else(|| panic!("not the server's refusal: {error:?}"))
            .errcode()
            .to_string()
    }

    async fn membership(&self, room_id: &str) -> String {
        let state = match self.client.get_room(&id(room_id)).map(|room| room.state()) {
            Some(RoomState::Joined) => "join",
            Some(RoomState::Invited) => "invite",
            _ => "leave",
        };
        state.to_owned()
    }

    async fn relations(&self, room_id: &str, event_id: &str, rel_type: &str) -> Vec<String> {
        let (room, mut lines, mut from) = (self.room(room_id), Vec::new(), None);
        loop {
            let options = RelationsOptions {
                from,
                limit: Some(uint!(3)),
                include_relations: IncludeRelations::RelationsOfType(rel_type.into()),
                ..Default::default()
            };
            let page = room.relations(event(event_id), options).await;
            let page = page.expect("relations are told");
            lines.extend(page.chunk.iter().map(line));
            from = page.next_batch_token;
            if from.is_none() {
                return lines;
            }
        }
    }

    async fn view(&self, room_id: &str) -> View {
        let room = self.room(room_id);
        let unread = room.unread_notification_counts();
        let roots = self.threads(&room).await;
        let root_ids: Vec<_> = roots.iter().filter_map(TimelineEvent::event_id).collect();
        let receipts = self.receipts(&room, &root_ids).await;
        let invited = self.members(&room, RoomMemberships::INVITE).await;
        let (heard, typing) = {
            let came = self.came();
            let heard = came.events.get(room.room_id()).cloned().unwrap_or_default();
            (
                heard,
                came.typing.get(room.room_id()).cloned().unwrap_or_default(),
            )
        };
        View {
            name: room.name(),
            topic: room.topic(),
            members: self.members(&room, RoomMemberships::JOIN).await,
            invited: invited.into_keys().collect(),
            history: self.page_back(&room).await.iter().map(line).collect(),
            heard: heard.iter().map(ToString::to_string).collect(),
            threads: roots.iter().map(line).collect(),
            typing: typing.into_iter().collect(),
            receipts,
            fully_read: room.fully_read_event_id().map(|event_id| event_id.to_string()),
            notifications: unread.notification_count,
            highlights: unread.highlight_count,
        }
    }
}
