//! Creating a room: its first events, in one change (client-server API, `POST /createRoom`).

use std::sync::Arc;

use hearth_storage::{
    aliases,
    log::{Alias, CommitError},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId,
    RoomVersionId,
    api::client::room::{
        Visibility,
        create_room::v3::{Request, RoomPreset},
    },
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    SendError,
    begin::{Begun, admit, begin},
    commit::commit_first,
    decide::DecideError,
    draft::{BadContent, Draft, content_from_json, content_of},
    handshake::invite_remote,
    membership::{member_content, member_content_for},
};
use crate::{Engine, Error, accounts::Requester};

/// Users that may be invited at once, and events of the initial state.
const MAX_INVITES: usize = 100;
const MAX_INITIAL_STATE: usize = 200;
/// How messages are encrypted in a room that is by default.
const MEGOLM: &str = "m.megolm.v1.aes-sha2";
/// How often a room is made anew that turned out to be another's.
const ATTEMPTS: usize = 5;
/// The room versions in which rooms can be created and joined.
pub const SUPPORTED_VERSIONS: [RoomVersionId; 12] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// Why no room was created.
#[derive(Debug, thiserror::Error)]
pub enum CreateRoomError {
    /// The version is not one of [`SUPPORTED_VERSIONS`].
    #[error("room version {0} is not supported")]
    UnsupportedVersion(RoomVersionId),
    /// The name can't be that of an alias.
    #[error("{0:?} can't be the name of an alias: {1}")]
    BadAlias(String, String),
    /// The alias points to a room already.
    #[error("the alias {0} is taken")]
    AliasInUse(OwnedRoomAliasId),
    /// A part of the request can't be what it is meant for.
    #[error("{0}")]
    BadJson(String),
    /// There is no server here that could invite by e-mail or telephone number.
    #[error("inviting by e-mail address or telephone number is not possible here")]
    NoThirdPartyInvites,
    /// An event of the request isn't allowed in the room it would make.
    #[error("{0}")]
    InvalidState(String),
    /// An event of the request is too large.
    #[error("{0}")]
    TooLarge(String),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<BadContent> for CreateRoomError {
    fn from(error: BadContent) -> Self {
        Self::BadJson(error.to_string())
    }
}

impl From<DecideError> for CreateRoomError {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Forbidden(reason) => Self::InvalidState(reason),
            DecideError::TooLarge(reason) => Self::TooLarge(reason),
            DecideError::Failed(error) => Self::Failed(error),
            error @ (DecideError::AlreadySo | DecideError::UnknownRedacted | DecideError::Missing(_)) => {
                Self::InvalidState(error.to_string())
            }
        }
    }
}

/// Creates a room. The creator is in it, the invited are invited, and the alias points to it when this returns.
pub async fn create_room(
    engine: &Arc<Engine>,
    requester: &Requester,
    request: Request,
) -> Result<OwnedRoomId, CreateRoomError> {
    let version = request
        .room_version
        .clone()
        .unwrap_or_else(|| engine.config.default_room_version.clone());
    let rules = version.rules().filter(|_| SUPPORTED_VERSIONS.contains(&version));
    let rules = rules.ok_or_else(|| CreateRoomError::UnsupportedVersion(version.clone()))?;
    check(&request)?;
    let alias = request
        .room_alias_name
        .as_deref()
        .map(|name| alias_named(engine, name))
        .transpose()?;

    let plan = Plan {
        engine,
        requester,
        request: &request,
        version: &version,
        rules: &rules,
    };
    let drafts = plan.drafts(alias.as_deref()).await?;
    if let Some(alias) = &alias {
        let mut connection = engine.db.acquire().await.map_err(Error::from)?;
        if aliases::find(&mut connection, alias.as_str())
            .await
            .map_err(Error::from)?
            .is_some()
        {
            return Err(CreateRoomError::AliasInUse(alias.clone()));
        }
    }
    for _ in 0..ATTEMPTS {
        let begun = plan.begin(&drafts, alias.as_deref()).await?;
        match commit_new(engine, begun).await {
            Ok(room_id) => {
                plan.invite_elsewhere(engine, &room_id).await?;
                return Ok(room_id);
            }
            Err(SendError::Constraint(name)) if name == "aliases_pkey" && alias.is_some() => {
                return Err(alias.map_or(CreateRoomError::BadJson(name), CreateRoomError::AliasInUse));
            }
            // Another node made the same room at the same time: a moment later it is another one.
            Err(SendError::Constraint(name)) if name == "rooms_room_id_key" => {}
            Err(SendError::Constraint(name)) => {
                return Err(Error::Damaged(format!("a new room hurts the constraint {name}")).into());
            }
            Err(SendError::Decided(error)) => return Err(error.into()),
        }
    }
    Err(Error::from(CommitError::Unavailable).into())
}

/// Commits the first change of a room. It is in memory before.
async fn commit_new(engine: &Arc<Engine>, begun: Begun) -> Result<OwnedRoomId, SendError> {
    let Begun { room, head, change } = begun;
    let room = admit(engine, room, head);
    let engine = Arc::clone(engine);
    // A task of its own: a caller that goes away must not leave a room in memory that was not committed.
    let task = tokio::spawn(async move {
        let committed = commit_first(&engine, change).await;
        if committed.is_err() {
            engine.rooms.withdraw(&room);
        }
        committed.map(|()| room.id.clone())
    });
    task.await
        .map_err(|error| Error::Damaged(format!("creating a room panicked: {error}")))?
}

fn check(request: &Request) -> Result<(), CreateRoomError> {
    if !request.invite_3pid.is_empty() {
        return Err(CreateRoomError::NoThirdPartyInvites);
    }
    if request.invite.len() > MAX_INVITES {
        return Err(CreateRoomError::BadJson(format!(
            "`invite` has at most {MAX_INVITES} users"
        )));
    }
    if request.initial_state.len() > MAX_INITIAL_STATE {
        return Err(CreateRoomError::BadJson(format!(
            "`initial_state` has at most {MAX_INITIAL_STATE} events"
        )));
    }
    Ok(())
}

fn alias_named(engine: &Engine, name: &str) -> Result<OwnedRoomAliasId, CreateRoomError> {
    let bad = |why: &str| CreateRoomError::BadAlias(name.to_owned(), why.to_owned());
    if name.is_empty() {
        return Err(bad("it is empty"));
    }
    if name.contains([':', '\0']) || name.chars().any(char::is_whitespace) {
        return Err(bad("it has a colon or white space in it"));
    }
    let alias = format!("#{name}:{}", engine.config.server_name);
    <&RoomAliasId>::try_from(alias.as_str())
        .map(ToOwned::to_owned)
        .map_err(|error| bad(&error.to_string()))
}

/// A state event of the request.
#[derive(Deserialize)]
struct InitialState {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default)]
    state_key: String,
    content: Box<RawValue>,
}

/// The parts of the request that the first events are made of.
struct Plan<'a> {
    engine: &'a Engine,
    requester: &'a Requester,
    request: &'a Request,
    version: &'a RoomVersionId,
    rules: &'a RoomVersionRules,
}

impl Plan<'_> {
    fn preset(&self) -> RoomPreset {
        let by_visibility = match self.request.visibility {
            Visibility::Public => RoomPreset::PublicChat,
            _ => RoomPreset::PrivateChat,
        };
        self.request.preset.clone().unwrap_or(by_visibility)
    }

    fn is_trusted(&self) -> bool {
        self.preset() == RoomPreset::TrustedPrivateChat
    }

    fn state(&self, event_type: &str, content: CanonicalJsonObject) -> Draft {
        let sender = (self.requester.user_id.clone(), self.requester.user_nid);
        Draft::state(sender, event_type, "", content)
    }

    /// The room, and the change that makes it.
    async fn begin(&self, drafts: &[Draft], alias: Option<&RoomAliasId>) -> Result<Begun, CreateRoomError> {
        let published = self.request.visibility == Visibility::Public;
        let mut begun = begin(self.engine, self.version, self.rules, drafts, published).await?;
        begun.change.aliases.extend(alias.map(|alias| Alias {
            alias: alias.to_string(),
            room_nid: begun.room.nid,
            creator_nid: self.requester.user_nid,
            created_at: self.engine.clock.now_ms(),
        }));
        Ok(begun)
    }

    /// The events in the order that the specification gives.
    async fn drafts(&self, alias: Option<&RoomAliasId>) -> Result<Vec<Draft>, CreateRoomError> {
        let mut drafts = vec![self.state("m.room.create", self.create_content()?)];
        let join = member_content(self.engine, self.requester.user_nid, "join").await?;
        drafts.push(self.member(&self.requester.user_id, join));
        drafts.push(self.state("m.room.power_levels", self.power_levels()?));
        if let Some(alias) = alias {
            drafts.push(self.state("m.room.canonical_alias", content_of(&json!({ "alias": alias }))?));
        }
        let preset = self.preset_state()?;
        let initial = self.initial_state()?;
        let overridden = |draft: &Draft, by: &[Draft]| {
            by.iter()
                .any(|other| other.event_type == draft.event_type && other.state_key == draft.state_key)
        };
        drafts.extend(preset.into_iter().filter(|draft| !overridden(draft, &initial)));
        let named = self.name_and_topic()?;
        drafts.extend(initial.into_iter().filter(|draft| !overridden(draft, &named)));
        drafts.extend(named);
        let own = &self.engine.config.server_name;
        for user_id in self.request.invite.iter().filter(|id| id.server_name() == own) {
            let content = self.direct(self.invited_content(user_id).await?);
            drafts.push(self.member(user_id, content));
        }
        Ok(drafts)
    }

    /// Invites the users of other servers, once there is a room to invite them to. One whose server can't be asked, or
    /// does not take the invite, isn't invited: the room is there all the same.
    async fn invite_elsewhere(&self, engine: &Arc<Engine>, room_id: &RoomId) -> Result<(), Error> {
        let own = &self.engine.config.server_name;
        // Collected: a borrow by a closure may not be held over what is awaited below.
        let elsewhere: Vec<&OwnedUserId> = self
            .request
            .invite
            .iter()
            .filter(|id| id.server_name() != own)
            .collect();
        if elsewhere.is_empty() {
            return Ok(());
        }
        let Some(room) = super::by_id(engine, room_id).await? else {
            return Ok(());
        };
        for user_id in elsewhere {
            let content = self.direct(member_content_for("invite"));
            if let Err(error) = invite_remote(engine, &room, self.requester, user_id, content).await {
                tracing::warn!(%error, %user_id, %room_id, "a user of another server was not invited to a new room");
            }
        }
        Ok(())
    }

    fn direct(&self, mut content: CanonicalJsonObject) -> CanonicalJsonObject {
        if self.request.is_direct {
            content.insert("is_direct".to_owned(), CanonicalJsonValue::Bool(true));
        }
        content
    }

    fn member(&self, user_id: &OwnedUserId, content: CanonicalJsonObject) -> Draft {
        Draft {
            state_key: Some(user_id.to_string()),
            ..self.state("m.room.member", content)
        }
    }

    async fn invited_content(&self, user_id: &OwnedUserId) -> Result<CanonicalJsonObject, CreateRoomError> {
        let user_nid = self.engine.interner.user(user_id).await.map_err(Error::from)?;
        Ok(member_content(self.engine, user_nid, "invite").await?)
    }

    fn create_content(&self) -> Result<CanonicalJsonObject, CreateRoomError> {
        let given = self
            .request
            .creation_content
            .as_ref()
            .map(|content| content_from_json(content.json().get()));
        let mut content = given.transpose()?.unwrap_or_default();
        content.insert(
            "room_version".to_owned(),
            CanonicalJsonValue::String(self.version.to_string()),
        );
        content.remove("creator");
        if !self.rules.authorization.use_room_create_sender {
            let creator = CanonicalJsonValue::String(self.requester.user_id.to_string());
            content.insert("creator".to_owned(), creator);
        }
        if self.is_trusted()
            && self.rules.authorization.additional_room_creators
            && !self.request.invite.is_empty()
        {
            let creators = content
                .entry("additional_creators".to_owned())
                .or_insert_with(|| CanonicalJsonValue::Array(Vec::new()));
            let CanonicalJsonValue::Array(creators) = creators else {
                return Err(CreateRoomError::BadJson(
                    "`additional_creators` is an array of user IDs".to_owned(),
                ));
            };
            for user_id in &self.request.invite {
                let user_id = CanonicalJsonValue::String(user_id.to_string());
                if !creators.contains(&user_id) {
                    creators.push(user_id);
                }
            }
        }
        Ok(content)
    }

    fn power_levels(&self) -> Result<CanonicalJsonObject, CreateRoomError> {
        let privileged_creators = self.rules.authorization.explicitly_privilege_room_creators;
        let mut users = serde_json::Map::new();
        if !privileged_creators {
            users.insert(self.requester.user_id.to_string(), 100.into());
            if self.is_trusted() {
                users.extend(
                    self.request
                        .invite
                        .iter()
                        .map(|user_id| (user_id.to_string(), 100.into())),
                );
            }
        }
        let may_invite = match self.preset() {
            RoomPreset::PublicChat => 50,
            _ => 0,
        };
        let mut content = content_of(&json!({
            "ban": 50,
            "events": {
                "m.room.avatar": 50,
                "m.room.canonical_alias": 50,
                "m.room.encryption": 100,
                "m.room.history_visibility": 100,
                "m.room.name": 50,
                "m.room.power_levels": 100,
                "m.room.server_acl": 100,
                "m.room.tombstone": if privileged_creators { 150 } else { 100 },
            },
            "events_default": 0,
            "invite": may_invite,
            "kick": 50,
            "redact": 50,
            "state_default": 50,
            "users": users,
            "users_default": 0,
        }))?;
        if let Some(given) = &self.request.power_level_content_override {
            content.extend(content_from_json(given.json().get())?);
        }
        Ok(content)
    }

    fn preset_state(&self) -> Result<Vec<Draft>, CreateRoomError> {
        let (join_rule, guest_access) = match self.preset() {
            RoomPreset::PublicChat => ("public", "forbidden"),
            _ => ("invite", "can_join"),
        };
        let mut drafts = vec![
            self.state(
                "m.room.join_rules",
                content_of(&json!({ "join_rule": join_rule }))?,
            ),
            self.state(
                "m.room.history_visibility",
                content_of(&json!({ "history_visibility": "shared" }))?,
            ),
            self.state(
                "m.room.guest_access",
                content_of(&json!({ "guest_access": guest_access }))?,
            ),
        ];
        if self.engine.config.encrypt_new_private_rooms
            && self.preset() != RoomPreset::PublicChat
            && !self.is_space()
        {
            let content = content_of(&json!({ "algorithm": MEGOLM }))?;
            drafts.push(self.state("m.room.encryption", content));
        }
        Ok(drafts)
    }

    /// Nothing is said in a space that could be encrypted.
    fn is_space(&self) -> bool {
        let given = self.request.creation_content.as_ref();
        let room_type = given.and_then(|content| content.get_field::<String>("type").ok().flatten());
        room_type.as_deref() == Some("m.space")
    }

    fn initial_state(&self) -> Result<Vec<Draft>, CreateRoomError> {
        let mut drafts = Vec::with_capacity(self.request.initial_state.len());
        for raw in &self.request.initial_state {
            let event: InitialState = serde_json::from_str(raw.json().get())
                .map_err(|error| CreateRoomError::BadJson(format!("`initial_state`: {error}")))?;
            let draft = self.state(&event.event_type, content_from_json(event.content.get())?);
            drafts.push(Draft {
                state_key: Some(event.state_key),
                ..draft
            });
        }
        Ok(drafts)
    }

    fn name_and_topic(&self) -> Result<Vec<Draft>, CreateRoomError> {
        let mut drafts = Vec::new();
        if let Some(name) = &self.request.name {
            drafts.push(self.state("m.room.name", content_of(&json!({ "name": name }))?));
        }
        if let Some(topic) = &self.request.topic {
            let content = json!({ "topic": topic, "m.topic": { "m.text": [{ "mimetype": "text/plain", "body": topic }] } });
            drafts.push(self.state("m.room.topic", content_of(&content)?));
        }
        Ok(drafts)
    }
}
