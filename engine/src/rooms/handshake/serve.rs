//! What this server does for users of others: begins and completes their joins, leaves and knocks (server-server API, the
//! sections named after these).

use std::sync::Arc;

use hearth_storage::{KeyNid, log::Membership};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedUserId, RoomId, RoomVersionId, ServerName,
    UserId,
    api::federation::membership::{
        RawStrippedState, create_join_event, create_knock_event, create_leave_event, prepare_join_event,
        prepare_knock_event, prepare_leave_event,
    },
    signatures::hash_and_sign_event,
};
use serde_json::value::{RawValue, to_raw_value};

use super::{HandshakeError, propose::propose};
use crate::{
    Engine, Error,
    events::Event,
    federation::acl,
    outgoing,
    rooms::{
        DecideError, Draft, Room, StateMap, by_id,
        membership::member_content_for,
        read::current_state_event,
        receive::{
            fetch,
            inbox::judge_now,
            judge::Judgement,
            pdu::{self, ReceivedPdu},
        },
        restricted, told,
    },
    sync::summary,
};

/// Bytes of stripped state that are kept with an invite.
const MOST_STRIPPED_BYTES: usize = 256 << 10;

/// State that goes with an invite goes with a knock too.
pub(super) use crate::rooms::gather::STRIPPED_TYPES;

/// Why another server is refused.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// This server does not know the room, or is not in it.
    #[error("this server is not in that room")]
    UnknownRoom,
    /// Not all of the room's state is here: others can answer.
    #[error("this server does not have all of the room's state yet")]
    Incomplete,
    /// There is no such event here, or none that the server may know of.
    #[error("this server knows no such event")]
    UnknownEvent,
    /// The room's server ACL, or a rule, is against it.
    #[error("{0}")]
    Forbidden(String),
    /// The other server doesn't know the room's version.
    #[error("the room is of version {0}")]
    IncompatibleVersion(RoomVersionId),
    /// Other servers may let the user in; this one can't say.
    #[error("this server can't tell whether the user may join")]
    UnableToAuthorise,
    /// Other servers may let the user in: nobody here has the power to.
    #[error("nobody on this server may let the user in")]
    UnableToGrant,
    /// What was sent is not what this is for.
    #[error("{0}")]
    Bad(String),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<DecideError> for ServeError {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Failed(error) => Self::Failed(error),
            error => Self::Forbidden(error.to_string()),
        }
    }
}

impl From<HandshakeError> for ServeError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Failed(error) => Self::Failed(error),
            error => Self::Bad(error.to_string()),
        }
    }
}

/// The room, if this server is in it and it admits `origin`.
pub(crate) async fn room_for(
    engine: &Engine,
    origin: &ServerName,
    room_id: &RoomId,
) -> Result<Arc<Room>, ServeError> {
    let room = by_id(engine, room_id).await?.ok_or(ServeError::UnknownRoom)?;
    if !room.has_server(&engine.config.server_name) {
        return Err(ServeError::UnknownRoom);
    }
    if !acl::allows(engine, &room, origin).await? {
        return Err(ServeError::Forbidden(
            "the room's server ACL denies your server".to_owned(),
        ));
    }
    Ok(room)
}

/// The same, if all of its state is here: what can't be answered rightly without is for another server to say.
pub(crate) async fn whole_room_for(
    engine: &Engine,
    origin: &ServerName,
    room_id: &RoomId,
) -> Result<Arc<Room>, ServeError> {
    let room = room_for(engine, origin, room_id).await?;
    match room.is_partial() {
        true => Err(ServeError::Incomplete),
        false => Ok(room),
    }
}

/// A member event of `user_id` about themselves, neither hashed nor signed, if the rules allow it.
async fn template(
    engine: &Arc<Engine>,
    origin: &ServerName,
    room: &Arc<Room>,
    user_id: &UserId,
    content: CanonicalJsonObject,
) -> Result<Box<RawValue>, ServeError> {
    if user_id.server_name() != origin {
        return Err(ServeError::Forbidden(format!("{user_id} is not a user of yours")));
    }
    let user_nid = engine.interner.user(user_id).await.map_err(Error::from)?;
    let draft = Draft::state(
        (user_id.to_owned(), user_nid),
        "m.room.member",
        user_id.as_str(),
        content,
    );
    let proposal = propose(engine, room, draft).await?;
    to_raw_value(&proposal.unsigned).map_err(|error| Error::Damaged(format!("a template: {error}")).into())
}

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
pub async fn make_join(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: prepare_join_event::v1::Request,
) -> Result<prepare_join_event::v1::Response, ServeError> {
    let room = whole_room_for(engine, origin, &request.room_id).await?;
    if !request.ver.contains(&room.version) {
        return Err(ServeError::IncompatibleVersion(room.version.clone()));
    }
    let mut content = member_content_for("join");
    if let Some(user_id) = vouching_user(engine, &room, &request.user_id).await? {
        let user_id = CanonicalJsonValue::String(user_id.to_string());
        content.insert("join_authorised_via_users_server".to_owned(), user_id);
    }
    let event = template(engine, origin, &room, &request.user_id, content).await?;
    let mut response = prepare_join_event::v1::Response::new(event);
    response.room_version = Some(room.version.clone());
    Ok(response)
}

/// In a room that is restricted to members of others: who of this server's users vouches for the join. Nothing where
/// nobody has to.
async fn vouching_user(
    engine: &Engine,
    room: &Room,
    user_id: &UserId,
) -> Result<Option<OwnedUserId>, ServeError> {
    let user_nid = engine.interner.user(user_id).await.map_err(Error::from)?;
    let membership = room.read(|view| view.members.get(user_nid)).flatten();
    if matches!(membership, Some(Membership::Join | Membership::Invite)) {
        return Ok(None);
    }
    match restricted::lets_in(engine, room, user_nid).await? {
        restricted::LetsIn::NotRestricted => Ok(None),
        restricted::LetsIn::Yes => {
            let user_id = restricted::authorising_member(engine, room).await?;
            user_id.map(Some).ok_or(ServeError::UnableToGrant)
        }
        restricted::LetsIn::No => Err(ServeError::Forbidden(
            "the user is in none of the rooms whose members may join".to_owned(),
        )),
        restricted::LetsIn::Unknown => Err(ServeError::UnableToAuthorise),
    }
}

/// Reads a member event that a server sends about a user of its own.
async fn own_member_event(
    engine: &Arc<Engine>,
    origin: &ServerName,
    room: &Arc<Room>,
    (event_id, json): (&OwnedEventId, &RawValue),
    membership: &str,
) -> Result<ReceivedPdu, ServeError> {
    let bad = |reason: &str| ServeError::Bad(reason.to_owned());
    let pdu = pdu::read(json.get(), &room.rules).map_err(|dropped| ServeError::Bad(dropped.to_string()))?;
    if pdu.event_id != *event_id {
        return Err(bad("the event is not the one that the path names"));
    }
    if pdu.room_id != room.id {
        return Err(bad("the event is of another room"));
    }
    if pdu.sender.server_name() != origin {
        return Err(ServeError::Forbidden(
            "the event is not by a user of yours".to_owned(),
        ));
    }
    let is_own = pdu.state_key.as_deref() == Some(pdu.sender.as_str());
    if pdu.event_type != "m.room.member" || !is_own || pdu.membership() != Some(membership) {
        return Err(ServeError::Bad(format!(
            "the event is not one by which a user gives themselves the membership {membership:?}"
        )));
    }
    // Where this server vouches for the join, the event needs its signature too.
    let pdu = vouched_for(engine, room, pdu)?;
    let verified = fetch::verify_all(engine, room, vec![pdu]).await.pop();
    verified.ok_or_else(|| ServeError::Forbidden("the event's signature is not valid".to_owned()))
}

/// Judges a member event of another server's user, and sees to it that the room's other servers get it.
async fn take(
    engine: &Arc<Engine>,
    origin: &ServerName,
    room: &Arc<Room>,
    pdu: ReceivedPdu,
) -> Result<OwnedEventId, ServeError> {
    let event_id = pdu.event_id.clone();
    outgoing::relay(engine, &event_id).await?;
    let judged = judge_now(engine, room, origin, vec![pdu]).await?;
    match judged.first() {
        Some((_, Judgement::Accepted)) => {}
        // It was sent on when it came first.
        Some((_, Judgement::Known(hearth_storage::events::EventStatus::Accepted))) => {
            outgoing::do_not_relay(engine, &event_id);
        }
        _ => {
            outgoing::do_not_relay(engine, &event_id);
            return Err(ServeError::Forbidden(
                "the room's rules do not allow it".to_owned(),
            ));
        }
    }
    Ok(event_id)
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
pub async fn send_join(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: create_join_event::v2::Request,
) -> Result<create_join_event::v2::Response, ServeError> {
    let room = whole_room_for(engine, origin, &request.room_id).await?;
    let pdu = own_member_event(engine, origin, &room, (&request.event_id, &request.pdu), "join").await?;
    let json = Arc::clone(&pdu.json);
    let servers = room.servers();
    let event_id = take(engine, origin, &room, pdu).await?;
    let mut told = create_join_event::v2::RoomState::new();
    let event = told::by_id(engine, &room, &event_id).await?;
    let event = event.ok_or_else(|| Error::Damaged(format!("{event_id} was accepted and is not there")))?;
    let mut before = told::state_before(engine, &room, &event)
        .await?
        .unwrap_or_default();
    if request.omit_members {
        before = without_members(engine, &room, before, event.sender()).await?;
        told.members_omitted = true;
    }
    let (state, auth_chain) = told::with_auth_chain(engine, &room, &before, &[event.nid]).await?;
    told.state = raw_pdus(&state)?;
    told.auth_chain = raw_pdus(&auth_chain)?;
    told.event = Some(raw(&json)?);
    told.servers_in_room = Some(servers.into_iter().map(|server| server.to_string()).collect());
    Ok(create_join_event::v2::Response::new(told))
}

/// A state without the members, but for those after whom a room without a name is called.
async fn without_members(
    engine: &Engine,
    room: &Room,
    state: StateMap,
    joiner: &UserId,
) -> Result<StateMap, Error> {
    let keys: Vec<KeyNid> = state.iter().map(|(key_nid, _)| key_nid).collect();
    let names = engine.interner.key_names(&keys).await?;
    let joiner = engine.interner.user(joiner).await?;
    let heroes: Vec<String> = match summary::has_name(engine, room).await? {
        true => Vec::new(),
        false => {
            let heroes = summary::heroes(engine, room, joiner).await?;
            heroes.iter().map(ToString::to_string).collect()
        }
    };
    let is_told = |key_nid: &KeyNid| {
        names.get(key_nid).is_none_or(|(event_type, state_key)| {
            &**event_type != "m.room.member" || heroes.iter().any(|hero| **hero == **state_key)
        })
    };
    Ok(state.iter().filter(|(key_nid, _)| is_told(key_nid)).collect())
}

/// Where a user of this server vouches for a join, this server signs it too.
fn vouched_for(engine: &Engine, room: &Room, pdu: ReceivedPdu) -> Result<ReceivedPdu, ServeError> {
    let vouches = pdu
        .content()
        .get("join_authorised_via_users_server")
        .and_then(|user_id| user_id.as_str());
    let Some(Ok(vouches)) = vouches.map(<&UserId>::try_from) else {
        return Ok(pdu);
    };
    if vouches.server_name() != engine.config.server_name {
        return Ok(pdu);
    }
    signed_here(engine, room, &pdu.json)
}

/// An event of another server with this server's signature added.
pub(super) fn signed_here(engine: &Engine, room: &Room, json: &str) -> Result<ReceivedPdu, ServeError> {
    let mut object: CanonicalJsonObject =
        serde_json::from_str(json).map_err(|error| ServeError::Bad(error.to_string()))?;
    hash_and_sign_event(
        engine.config.server_name.as_str(),
        engine.signing_key.pair(),
        &mut object,
        &room.rules.redaction,
    )
    .map_err(|error| ServeError::Bad(error.to_string()))?;
    let json = serde_json::to_string(&object).map_err(|error| ServeError::Bad(error.to_string()))?;
    pdu::read(&json, &room.rules).map_err(|dropped| ServeError::Bad(dropped.to_string()))
}

pub(super) fn raw(json: &str) -> Result<Box<RawValue>, Error> {
    RawValue::from_string(json.to_owned()).map_err(|error| Error::Damaged(format!("an event: {error}")))
}

fn raw_pdus(events: &[Arc<Event>]) -> Result<Vec<Box<RawValue>>, Error> {
    events.iter().map(|event| raw(&event.pdu)).collect()
}

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
pub async fn make_leave(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: prepare_leave_event::v1::Request,
) -> Result<prepare_leave_event::v1::Response, ServeError> {
    let room = whole_room_for(engine, origin, &request.room_id).await?;
    let event = template(
        engine,
        origin,
        &room,
        &request.user_id,
        member_content_for("leave"),
    )
    .await?;
    Ok(prepare_leave_event::v1::Response::new(
        Some(room.version.clone()),
        event,
    ))
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
pub async fn send_leave(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: create_leave_event::v2::Request,
) -> Result<create_leave_event::v2::Response, ServeError> {
    let room = whole_room_for(engine, origin, &request.room_id).await?;
    let pdu = own_member_event(engine, origin, &room, (&request.event_id, &request.pdu), "leave").await?;
    take(engine, origin, &room, pdu).await?;
    Ok(create_leave_event::v2::Response::new())
}

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
pub async fn make_knock(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: prepare_knock_event::v1::Request,
) -> Result<prepare_knock_event::v1::Response, ServeError> {
    let room = whole_room_for(engine, origin, &request.room_id).await?;
    if !request.ver.contains(&room.version) {
        return Err(ServeError::IncompatibleVersion(room.version.clone()));
    }
    let event = template(
        engine,
        origin,
        &room,
        &request.user_id,
        member_content_for("knock"),
    )
    .await?;
    Ok(prepare_knock_event::v1::Response::new(
        room.version.clone(),
        event,
    ))
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
pub async fn send_knock(
    engine: &Arc<Engine>,
    origin: &ServerName,
    request: create_knock_event::v1::Request,
) -> Result<create_knock_event::v1::Response, ServeError> {
    let room = whole_room_for(engine, origin, &request.room_id).await?;
    let pdu = own_member_event(engine, origin, &room, (&request.event_id, &request.pdu), "knock").await?;
    take(engine, origin, &room, pdu).await?;
    let mut state = Vec::new();
    for event_type in STRIPPED_TYPES {
        if let Some(event) = current_state_event(engine, &room, event_type, "").await? {
            state.push(RawStrippedState::Pdu(raw(&event.pdu)?));
        }
    }
    Ok(create_knock_event::v1::Response::new(state))
}

/// Stripped state that another server gave, with the member event it is for, as it is kept: only what stripped state
/// has, and no more of it than is reasonable.
pub(super) fn stripped_json(given: &[RawStrippedState], own: &Event) -> Result<Arc<str>, Error> {
    #[derive(serde::Deserialize, serde::Serialize)]
    struct Stripped {
        #[serde(rename = "type")]
        event_type: String,
        sender: OwnedUserId,
        state_key: String,
        content: Box<RawValue>,
    }
    let mut bytes = 0;
    let given = given.iter().filter_map(|state| {
        let json = serde_json::to_string(state).ok()?;
        let stripped: Stripped = serde_json::from_str(&json).ok()?;
        bytes += stripped.content.get().len() + stripped.event_type.len() + stripped.state_key.len();
        (bytes <= MOST_STRIPPED_BYTES)
            .then(|| to_raw_value(&stripped).ok())
            .flatten()
    });
    let mut all: Vec<Box<RawValue>> = given.collect();
    all.push(own.to_stripped());
    let json =
        serde_json::to_string(&all).map_err(|error| Error::Damaged(format!("stripped state: {error}")))?;
    Ok(json.into())
}
