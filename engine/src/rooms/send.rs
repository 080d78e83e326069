//! Sending: messages, state, redactions.

use std::sync::Arc;

use hearth_storage::log::Membership;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedRoomAliasId, OwnedUserId, RoomId,
    UserId,
    events::{StateEventType, TimelineEventType},
};

use super::{
    Room, SendError,
    annotations::Annotation,
    by_id,
    commit::commit_one,
    decide::DecideError,
    draft::{BadContent, ClientRequest, Draft, content_from_json},
    handshake::{HandshakeError, InviteError, invite_remote},
};
use crate::{
    Engine, Error,
    accounts::Requester,
    aliases, presence,
    transactions::{self, Begun},
    typing,
};

/// Why nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum SendMessageError {
    /// There is no such room here. To who isn't in a room, that is the same as not being allowed.
    #[error("you are not in this room")]
    UnknownRoom,
    /// The content can't be that of an event.
    #[error(transparent)]
    BadContent(#[from] BadContent),
    /// A redaction that doesn't say what to redact.
    #[error("a redaction names the event to redact, in the `redacts` of its content")]
    RedactsNothing,
    /// The server of a user who was invited did not take the invite.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// An alias that doesn't point to the room.
    #[error("the alias {0} does not point to this room")]
    BadAlias(String),
    /// What should be an alias is none.
    #[error("{0:?} is not a room alias")]
    NoAlias(String),
    /// The sender annotated the event just so before, and did not take it back.
    #[error("you have said this of this event already")]
    DuplicateAnnotation,
    /// It was decided against, or could not be committed.
    #[error(transparent)]
    Send(#[from] SendError),
}

impl From<InviteError> for SendMessageError {
    fn from(error: InviteError) -> Self {
        match error {
            InviteError::Decided(error) => SendError::Decided(error).into(),
            InviteError::Handshake(error) => error.into(),
        }
    }
}

impl From<Error> for SendMessageError {
    fn from(error: Error) -> Self {
        Self::Send(error.into())
    }
}

/// Sends a message event (`PUT …/send/{eventType}/{txnId}`). `content` is JSON. A redaction is one too, in all room
/// versions (client-server API, "Redactions").
pub async fn send_message(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    event_type: TimelineEventType,
    txn_id: &str,
    content: &str,
) -> Result<OwnedEventId, SendMessageError> {
    let mut content = content_from_json(content)?;
    let redacts = if event_type == TimelineEventType::RoomRedaction {
        let Some(CanonicalJsonValue::String(redacts)) = content.remove("redacts") else {
            return Err(SendMessageError::RedactsNothing);
        };
        Some(OwnedEventId::try_from(redacts).map_err(|_| SendError::from(DecideError::UnknownRedacted))?)
    } else {
        None
    };
    let endpoint = ["send", room_id.as_str(), &event_type.to_string(), txn_id].map(ToOwned::to_owned);
    let draft = Draft {
        event_type,
        redacts,
        content,
        ..message_of(requester)
    };
    once(engine, requester, room_id, endpoint, txn_id, draft).await
}

/// Redacts an event (`PUT …/redact/{eventId}/{txnId}`).
pub async fn redact(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    event_id: &EventId,
    txn_id: &str,
    reason: Option<&str>,
) -> Result<OwnedEventId, SendMessageError> {
    let reason = reason.map(|reason| ("reason".to_owned(), CanonicalJsonValue::String(reason.to_owned())));
    let endpoint = ["redact", room_id.as_str(), event_id.as_str(), txn_id].map(ToOwned::to_owned);
    let draft = Draft {
        event_type: TimelineEventType::RoomRedaction,
        redacts: Some(event_id.to_owned()),
        content: reason.into_iter().collect(),
        ..message_of(requester)
    };
    once(engine, requester, room_id, endpoint, txn_id, draft).await
}

/// The room, for one who is in it: nobody else makes the server remember names of types and keys.
async fn joined_room(
    engine: &Engine,
    requester: &Requester,
    room_id: &RoomId,
) -> Result<Arc<Room>, SendMessageError> {
    let room = by_id(engine, room_id)
        .await?
        .ok_or(SendMessageError::UnknownRoom)?;
    match room.read(|view| view.members.get(requester.user_nid)).flatten() {
        Some(Membership::Join) => Ok(room),
        _ => Err(SendMessageError::UnknownRoom),
    }
}

fn message_of(requester: &Requester) -> Draft {
    Draft {
        sender: requester.user_id.clone(),
        sender_nid: requester.user_nid,
        event_type: TimelineEventType::RoomMessage,
        state_key: None,
        content: Default::default(),
        redacts: None,
        replaces: None,
        unless_already: false,
        request: None,
    }
}

/// Sends a draft, or answers as the first time.
async fn once(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    path: [String; 4],
    txn_id: &str,
    mut draft: Draft,
) -> Result<OwnedEventId, SendMessageError> {
    let key = transactions::request_key(&path.each_ref().map(String::as_str));
    let doing = match transactions::begin(engine, requester.device_nid, key).await? {
        Begun::Repeated(event_id) => return Ok(event_id),
        Begun::New(doing) => doing,
    };
    let room = joined_room(engine, requester, room_id).await?;
    draft.request = Some(ClientRequest {
        device_nid: requester.device_nid,
        request_key: key,
        txn_id: txn_id.into(),
    });
    // A task of its own: a caller that goes away must not leave it open whether the request was done.
    let is_message = matches!(
        draft.event_type,
        TimelineEventType::RoomMessage | TimelineEventType::RoomEncrypted
    );
    let (device_nid, sender_nid) = (requester.device_nid, requester.user_nid);
    let for_task = Arc::clone(engine);
    let task = tokio::spawn(async move {
        let engine = for_task;
        let mut _turn = None;
        if let Some(annotation) = Annotation::of(&draft) {
            // Until it is committed, no other of this user is looked for.
            _turn = Some(engine.receipt_turns.of(sender_nid).await);
            if annotation.is_said_already(&engine, &room, &draft).await? {
                return Err(SendMessageError::DuplicateAnnotation);
            }
        }
        let event_id = match commit_one(&engine, &room, draft).await {
            Ok(event) => event.event_id.clone(),
            // Done before, on another node or a moment ago.
            Err(SendError::Constraint(name)) if name == "client_transactions_pkey" => {
                transactions::find(&engine, device_nid, &key)
                    .await?
                    .ok_or(SendError::Constraint(name))?
            }
            Err(error) => return Err(error.into()),
        };
        doing.done(event_id.clone());
        if is_message {
            typing::stop(&engine, room.nid, sender_nid);
        }
        Ok(event_id)
    });
    let sent = task
        .await
        .map_err(|error| Error::Damaged(format!("a send panicked: {error}")))?;
    if sent.is_ok() {
        presence::acted(engine, requester);
    }
    sent
}

/// Why a state event was not sent.
pub type SendStateError = SendMessageError;

/// Sends a state event (`PUT …/state/{eventType}/{stateKey}`). The same state sent again by the same user is no new
/// event: the answer is the one that stands.
pub async fn send_state(
    engine: &Arc<Engine>,
    requester: &Requester,
    room_id: &RoomId,
    event_type: StateEventType,
    state_key: &str,
    content: &str,
) -> Result<OwnedEventId, SendStateError> {
    let content = content_from_json(content)?;
    let sender = (requester.user_id.clone(), requester.user_nid);
    let draft = Draft::state(sender, event_type.to_string(), state_key, content);
    let room = match draft.membership().is_some() && state_key == requester.user_id {
        // Who joins this way is not in it yet: the rules of the room decide.
        true => by_id(engine, room_id)
            .await?
            .ok_or(SendMessageError::UnknownRoom)?,
        false => joined_room(engine, requester, room_id).await?,
    };
    if let Some(user_id) = invited_elsewhere(engine, &draft) {
        return Ok(invite_remote(engine, &room, requester, &user_id, draft.content).await?);
    }
    check_aliases(engine, &room, &draft).await?;
    if let Some(event_id) = stands_already(engine, &room, &draft).await? {
        return Ok(event_id);
    }
    let event_id = commit_one(engine, &room, draft).await?.event_id.clone();
    presence::acted(engine, requester);
    Ok(event_id)
}

/// The current state event that says just what `draft` would, by the same user.
async fn stands_already(engine: &Engine, room: &Room, draft: &Draft) -> Result<Option<OwnedEventId>, Error> {
    let Some(state_key) = &draft.state_key else {
        return Ok(None);
    };
    let Some(current) =
        super::read::current_state_event(engine, room, &draft.event_type.to_string(), state_key).await?
    else {
        return Ok(None);
    };
    let same = current.sender() == draft.sender
        && content_from_json(current.content().get()).is_ok_and(|content| content == draft.content);
    Ok(same.then(|| current.event_id.clone()))
}

/// An invite sent as state is one all the same: the server of a user of another is told by it.
fn invited_elsewhere(engine: &Engine, draft: &Draft) -> Option<OwnedUserId> {
    let invited = draft
        .state_key
        .as_deref()
        .filter(|_| draft.membership() == Some("invite"))?;
    let user_id = <&UserId>::try_from(invited).ok()?;
    (user_id.server_name() != engine.config.server_name).then(|| user_id.to_owned())
}

/// The aliases that a canonical alias event adds must point to the room (client-server API, `PUT …/state`).
async fn check_aliases(engine: &Engine, room: &Room, draft: &Draft) -> Result<(), SendMessageError> {
    if draft.event_type != TimelineEventType::RoomCanonicalAlias {
        return Ok(());
    }
    let current = super::read::current_state_event(engine, room, "m.room.canonical_alias", "").await?;
    let current = current
        .and_then(|event| content_from_json(event.content().get()).ok())
        .unwrap_or_default();
    let known = named_aliases(&current)?;
    for alias in named_aliases(&draft.content)?
        .into_iter()
        .filter(|alias| !known.contains(alias))
    {
        if aliases::resolve(engine, &alias)
            .await?
            .is_none_or(|room_id| room_id != room.id)
        {
            return Err(SendMessageError::BadAlias(alias.to_string()));
        }
    }
    Ok(())
}

/// `alias` and `alt_aliases` of the content of a canonical alias event.
fn named_aliases(content: &CanonicalJsonObject) -> Result<Vec<OwnedRoomAliasId>, SendMessageError> {
    let alternatives = match content.get("alt_aliases") {
        Some(CanonicalJsonValue::Array(aliases)) => aliases.as_slice(),
        _ => &[],
    };
    let named = content.get("alias").into_iter().chain(alternatives);
    let named = named.filter(|alias| **alias != CanonicalJsonValue::Null && alias.as_str() != Some(""));
    named
        .map(|alias| {
            let text = alias.as_str().unwrap_or_default();
            OwnedRoomAliasId::try_from(text).map_err(|_| SendMessageError::NoAlias(text.to_owned()))
        })
        .collect()
}
