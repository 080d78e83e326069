//! Deciding: whether drafts may be sent to a room as it stands, and what changes if they are. Pure: no I/O, no waiting.

mod accept;
mod ahead;
mod build;
mod facts;

use std::sync::Arc;

use hearth_storage::{
    EventNid, RoomNid, StateNid,
    log::{Change, ClientTransaction, Fact, MembershipChange, NewEvent, Redaction},
};
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, RoomId, events::TimelineEventType,
    room_version_rules::RoomVersionRules,
};

use super::{
    checks::{NotAuthorised, TooLarge, check_size_of_key},
    draft::Draft,
    gather::{Gathered, Names},
    head::Head,
    power::BadPower,
};
use crate::{
    Error,
    events::{Event, membership_named},
    unread::class,
};
pub(super) use accept::{AcceptError, Accepted, Candidate, Known, accept};
use ahead::{Ahead, StateAfter};
use build::{Position, unsigned_pdu};
pub(super) use build::{Signer, sign};
pub(super) use facts::may_redact;

/// Why an event is not sent.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// The rules of the room don't allow it.
    #[error("{0}")]
    Forbidden(String),
    /// It is larger than an event may be.
    #[error("{0}")]
    TooLarge(String),
    /// The user has the membership that they would be given.
    #[error("this is so already")]
    AlreadySo,
    /// The event to be redacted isn't in the room.
    #[error("the event to redact is not in this room")]
    UnknownRedacted,
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
    /// State that was not gathered is needed: gather it and decide again.
    #[error("the state of the room moved")]
    Missing(Vec<EventNid>),
}

impl From<TooLarge> for DecideError {
    fn from(error: TooLarge) -> Self {
        Self::TooLarge(error.to_string())
    }
}

impl From<NotAuthorised> for DecideError {
    fn from(error: NotAuthorised) -> Self {
        Self::Forbidden(error.to_string())
    }
}

impl From<BadPower> for DecideError {
    fn from(error: BadPower) -> Self {
        Self::Forbidden(error.to_string())
    }
}

/// The room that drafts are decided for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub room_nid: RoomNid,
    /// Nothing for a room of version 12 or later whose create event is the first of the drafts: its ID follows from
    /// that event.
    pub room_id: Option<&'a RoomId>,
    pub rules: &'a RoomVersionRules,
}

/// What was decided.
#[derive(Debug)]
pub(super) struct Decided {
    pub change: Change,
    pub events: Vec<Arc<Event>>,
    pub room_id: OwnedRoomId,
}

/// Decides on `drafts`, in order, each on what the ones before it left. Moves `head` if all are allowed, and leaves it
/// as it was if one isn't.
pub(super) fn decide(
    head: &mut Head,
    target: Target<'_>,
    signer: Signer<'_>,
    drafts: &[Draft],
    gathered: &Gathered,
) -> Result<Decided, DecideError> {
    let mut work = Work {
        target,
        signer,
        gathered,
        room_id: target.room_id.map(ToOwned::to_owned),
        ahead: Ahead::of(head, gathered),
        change: Change::default(),
        events: Vec::with_capacity(drafts.len()),
    };
    let changes_state = drafts.iter().any(|draft| draft.state_key.is_some());
    for (draft, names) in drafts.iter().zip(&gathered.names) {
        // Only for drafts that follow no state change of their own: permissions are those of the head's state.
        let permitted = !changes_state && head.permitted.contains(&(draft.sender_nid, names.type_nid));
        work.add(draft, names, permitted)?;
    }
    let Work {
        room_id,
        ahead,
        mut change,
        events,
        ..
    } = work;
    let room_id = room_id.ok_or_else(|| Error::Damaged("a room without an ID".to_owned()))?;
    change.heads.push(ahead.reach(head, target.room_nid)?);
    if changes_state {
        head.permitted.clear();
    } else {
        for (draft, names) in drafts.iter().zip(&gathered.names) {
            head.permit(draft.sender_nid, names.type_nid);
        }
    }
    Ok(Decided {
        change,
        events,
        room_id,
    })
}

/// An event that was not committed.
#[derive(Debug)]
pub(super) struct Proposal {
    /// Neither hashed nor signed.
    pub unsigned: CanonicalJsonObject,
    /// As this server signs it.
    pub event: Arc<Event>,
}

/// What the one of `drafts` would be, if the rules allow it as the room stands. Nothing moves.
pub(super) fn propose(
    head: &Head,
    target: Target<'_>,
    signer: Signer<'_>,
    drafts: &[Draft],
    gathered: &Gathered,
) -> Result<Proposal, DecideError> {
    let (Some(draft), Some(names), Some(room_id)) = (drafts.first(), gathered.names.first(), target.room_id)
    else {
        return Err(Error::Damaged("nothing to propose".to_owned()).into());
    };
    let ahead = Ahead::of(head, gathered);
    let position = Position {
        room_id: Some(room_id),
        prev_events: ahead.extremities(),
        auth_events: &ahead.auth_events(names)?,
        depth: ahead.next_depth(),
    };
    let unsigned = unsigned_pdu(draft, position, signer.now, target.rules);
    let (event_id, pdu) = sign(unsigned.clone(), signer, target.rules)?;
    let stored = NewEvent {
        event_nid: names.event_nid,
        event_id: event_id.to_string(),
        room_nid: target.room_nid,
        sequence: 0,
        type_nid: names.type_nid,
        key_nid: names.key_nid,
        sender_nid: draft.sender_nid,
        state_after: StateNid::from(0),
        origin_server_ts: signer.now.0.into(),
        replaces: None,
        pdu: pdu.into(),
        push_class: 0,
        transaction: None,
        auth_nids: Vec::new(),
        is_stored: false,
        after_gap: false,
    };
    let event = Arc::new(Event::parse(&stored, 0, room_id, target.rules).map_err(Error::from)?);
    ahead.check_auth_rules(&event, &target.rules.authorization)?;
    Ok(Proposal { unsigned, event })
}

/// Deciding, half done.
struct Work<'a> {
    target: Target<'a>,
    signer: Signer<'a>,
    gathered: &'a Gathered,
    room_id: Option<OwnedRoomId>,
    ahead: Ahead<'a>,
    change: Change,
    events: Vec<Arc<Event>>,
}

impl Work<'_> {
    /// Decides on one draft; `permitted` says that its sender is known to be allowed to send such an event.
    fn add(&mut self, draft: &Draft, names: &Names, permitted: bool) -> Result<(), DecideError> {
        check_size_of_key(&draft.event_type.to_string(), draft.state_key.as_deref())?;
        self.check_replaced(draft, names)?;
        self.check_already(draft, names)?;
        let (event_id, pdu) = self.build(draft, names)?;
        let room_id = self.room_id_given_by(draft, &event_id)?;
        let mut after = self.ahead.state_after(names)?;
        let push_class = self.push_class(draft)?;
        let stored = Arc::new(self.stored(draft, names, &event_id, pdu, &after, push_class));
        let event = Arc::new(Event::parse(&stored, 0, &room_id, self.target.rules).map_err(Error::from)?);
        if !permitted {
            self.ahead
                .check_auth_rules(&event, &self.target.rules.authorization)?;
        }
        let membership = self.membership(names, &event)?;
        let redaction = self.redaction(draft, &event)?;

        self.ahead.advance(&event, &after);
        let change = &mut self.change;
        change.states.extend(after.stored.take());
        change.relations.extend(facts::relation(&event));
        let state_changes = after.change.into_iter().collect();
        change.facts.push(Fact::Event(stored, state_changes));
        change.facts.extend(membership.map(Fact::Membership));
        change.facts.extend(redaction.map(Fact::Redaction));
        let now = self.signer.now.0.into();
        change
            .transactions
            .extend(draft.request.as_ref().map(|request| ClientTransaction {
                device_nid: request.device_nid,
                request_key: request.request_key,
                event_nid: event.nid,
                created_at: now,
                txn_id: Arc::clone(&request.txn_id),
            }));
        self.events.push(event);
        Ok(())
    }

    /// The draft goes in the place of the state event that it was made from, or nowhere.
    fn check_replaced(&self, draft: &Draft, names: &Names) -> Result<(), DecideError> {
        let current = names.key_nid.and_then(|key_nid| self.ahead.at(key_nid));
        match draft.replaces {
            Some(expected) if current != Some(expected) => Err(DecideError::Forbidden(
                "the state that this would replace has changed".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    fn check_already(&self, draft: &Draft, names: &Names) -> Result<(), DecideError> {
        let Some(key_nid) = names.key_nid.filter(|_| draft.unless_already) else {
            return Ok(());
        };
        let current = self.ahead.current(key_nid)?.and_then(|event| event.membership());
        match current.is_some() && current == draft.membership().and_then(membership_named) {
            true => Err(DecideError::AlreadySo),
            false => Ok(()),
        }
    }

    /// The PDU and its ID.
    fn build(&self, draft: &Draft, names: &Names) -> Result<(OwnedEventId, String), DecideError> {
        let position = Position {
            room_id: self.room_id.as_deref(),
            prev_events: self.ahead.extremities(),
            auth_events: &self.ahead.auth_events(names)?,
            depth: self.ahead.next_depth(),
        };
        let pdu = unsigned_pdu(draft, position, self.signer.now, self.target.rules);
        sign(pdu, self.signer, self.target.rules)
    }

    /// The room's ID, which since version 12 is that of its create event.
    fn room_id_given_by(
        &mut self,
        draft: &Draft,
        event_id: &OwnedEventId,
    ) -> Result<OwnedRoomId, DecideError> {
        if let Some(room_id) = &self.room_id {
            return Ok(room_id.clone());
        }
        if draft.event_type != TimelineEventType::RoomCreate {
            return Err(DecideError::Forbidden(
                "a room begins with its create event".to_owned(),
            ));
        }
        let room_id = OwnedRoomId::try_from(event_id.as_str().replacen('$', "!", 1))
            .map_err(|error| Error::Damaged(format!("a room ID: {error}")))?;
        self.room_id = Some(room_id.clone());
        Ok(room_id)
    }

    fn push_class(&self, draft: &Draft) -> Result<i16, DecideError> {
        let (event_type, state_key) = (draft.event_type.to_string(), draft.state_key.as_deref());
        class::class_of(&event_type, state_key, &draft.content, || {
            match self.ahead.power(&self.target.rules.authorization)? {
                Some(power) => Ok(power.may_notify_room(&draft.sender)?),
                None => Ok(false),
            }
        })
    }

    fn stored(
        &self,
        draft: &Draft,
        names: &Names,
        event_id: &OwnedEventId,
        pdu: String,
        after: &StateAfter,
        push_class: i16,
    ) -> NewEvent {
        NewEvent {
            event_nid: names.event_nid,
            event_id: event_id.to_string(),
            room_nid: self.target.room_nid,
            sequence: self.ahead.next_sequence(),
            type_nid: names.type_nid,
            key_nid: names.key_nid,
            sender_nid: draft.sender_nid,
            state_after: after.state_nid,
            origin_server_ts: self.signer.now.0.into(),
            replaces: after.change.as_ref().and_then(|change| change.old),
            pdu: pdu.into(),
            push_class,
            transaction: draft
                .request
                .as_ref()
                .map(|request| (request.device_nid, Arc::clone(&request.txn_id))),
            auth_nids: match names.key_nid {
                Some(_) => self.ahead.auth_nids(names),
                None => Vec::new(),
            },
            is_stored: false,
            after_gap: false,
        }
    }

    fn membership(&self, names: &Names, event: &Event) -> Result<Option<MembershipChange>, DecideError> {
        let Some(((_, user_nid), key_nid)) = names.target.as_ref().zip(names.key_nid) else {
            return Ok(None);
        };
        let before = self.ahead.current(key_nid)?.and_then(|old| old.membership());
        let stripped_state = self.stripped_state(names, event)?;
        Ok(facts::membership(event, *user_nid, before, stripped_state))
    }

    /// The state that goes with an invite.
    fn stripped_state(&self, names: &Names, event: &Event) -> Result<Option<Arc<str>>, DecideError> {
        if names.stripped_keys.is_empty() {
            return Ok(None);
        }
        let mut stripped = Vec::with_capacity(names.stripped_keys.len() + 1);
        for key_nid in &names.stripped_keys {
            stripped.extend(self.ahead.current(*key_nid)?.map(|event| event.to_stripped()));
        }
        stripped.push(event.to_stripped());
        let json = serde_json::to_string(&stripped)
            .map_err(|error| Error::Damaged(format!("stripped state: {error}")))?;
        Ok(Some(json.into()))
    }

    fn redaction(&self, draft: &Draft, event: &Event) -> Result<Option<Redaction>, DecideError> {
        let Some(redacts) = &draft.redacts else {
            return Ok(None);
        };
        let redacted = self
            .gathered
            .redacted
            .get(redacts)
            .ok_or(DecideError::UnknownRedacted)?;
        let power = self.ahead.power(&self.target.rules.authorization)?;
        let power = power.ok_or_else(|| Error::Damaged("a room without a create event".to_owned()))?;
        if !may_redact(event, redacted, &power)? {
            return Err(DecideError::Forbidden(
                "you don't have the power to redact another user's event".to_owned(),
            ));
        }
        Ok(Some(facts::redaction(event, redacted)))
    }
}
