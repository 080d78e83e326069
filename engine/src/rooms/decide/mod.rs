//! Deciding: whether drafts may be sent to a room as it stands, and what changes if they are. Pure: no I/O, no waiting.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_storage::{
    EventNid, KeyNid, RoomNid, StateNid,
    log::{
        Change, ClientTransaction, Fact, HeadMove, Membership, MembershipChange, NewEvent, NewState,
        Redaction, Relation, StateChange,
    },
    states,
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId,
    OwnedUserId, RoomId, ServerName, UserId,
    events::{StateEventType, TimelineEventType, room::power_levels::UserPowerLevel},
    room_version_rules::{AuthorizationRules, RoomVersionRules},
    signatures::{JsonError, hash_and_sign_event, reference_hash},
    state_res::{
        check_state_dependent_auth_rules, check_state_independent_auth_rules,
        events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
    },
};

use super::{
    StateMap,
    draft::Draft,
    gather::{Gathered, Names},
    head::{Extremity, Head},
};
use crate::{Error, SigningKey, events::Event, unread::class};

/// `type` and `state_key` may be this long, in bytes (client-server API, "Size limits").
const MAX_KEY_BYTES: usize = 255;
/// A whole event may be this long, as canonical JSON.
const MAX_PDU_BYTES: usize = 65_536;
/// Depths are canonical JSON integers.
const MAX_DEPTH: i64 = (1 << 53) - 1;

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

/// Who signs, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signer<'a> {
    pub server_name: &'a ServerName,
    pub key: &'a SigningKey,
    pub now: MilliSecondsSinceUnixEpoch,
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
        sequence: head.sequence,
        extremities: head.extremities.clone(),
        state: head.state.clone(),
        stored_state: head.stored_state,
        state_nids: gathered.state_nids.iter().copied(),
        made: HashMap::new(),
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
        sequence,
        extremities,
        state,
        stored_state,
        mut change,
        events,
        ..
    } = work;
    let room_id = room_id.ok_or_else(|| Error::Damaged("a room without an ID".to_owned()))?;
    let (state_nid, _) = stored_state.ok_or_else(|| Error::Damaged("a room without state".to_owned()))?;
    change.heads.push(HeadMove {
        room_nid: target.room_nid,
        sequence_before: head.sequence,
        sequence,
        forward_extremities: extremities.iter().map(|extremity| extremity.nid).collect(),
        state_nid,
    });
    (head.sequence, head.extremities, head.state, head.stored_state) =
        (sequence, extremities, state, stored_state);
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

/// Deciding, half done.
struct Work<'a> {
    target: Target<'a>,
    signer: Signer<'a>,
    gathered: &'a Gathered,
    room_id: Option<OwnedRoomId>,
    sequence: i64,
    extremities: Vec<Extremity>,
    state: StateMap,
    stored_state: Option<(StateNid, i16)>,
    state_nids: std::iter::Copied<std::slice::Iter<'a, StateNid>>,
    /// The events made so far.
    made: HashMap<EventNid, Arc<Event>>,
    change: Change,
    events: Vec<Arc<Event>>,
}

impl Work<'_> {
    fn add(&mut self, draft: &Draft, names: &Names, permitted: bool) -> Result<(), DecideError> {
        check_size(draft)?;
        self.check_replaced(draft, names)?;
        self.check_already(draft, names)?;
        let auth = self.auth_events(names)?;
        let depth = self
            .extremities
            .iter()
            .map(|extremity| extremity.depth)
            .max()
            .unwrap_or(0);
        let depth = depth.saturating_add(1).min(MAX_DEPTH);
        let (event_id, pdu) = self.build(draft, &auth, depth)?;
        let room_id = self.room_id_given_by(draft, &event_id)?;

        let (state_after, state_changes) = self.next_state(names)?;
        let may_notify_room = || self.may_notify_room(&draft.sender);
        let (event_type, state_key) = (draft.event_type.to_string(), draft.state_key.as_deref());
        let push_class = class::class_of(&event_type, state_key, &draft.content, may_notify_room)?;
        let stored = Arc::new(NewEvent {
            event_nid: names.event_nid,
            event_id: event_id.to_string(),
            room_nid: self.target.room_nid,
            sequence: self.sequence + 1,
            type_nid: names.type_nid,
            key_nid: names.key_nid,
            sender_nid: draft.sender_nid,
            state_after,
            origin_server_ts: self.signer.now.0.into(),
            replaces: state_changes.first().and_then(|change| change.old),
            pdu: pdu.into(),
            push_class,
            transaction: draft
                .request
                .as_ref()
                .map(|request| (request.device_nid, Arc::clone(&request.txn_id))),
        });
        let event = Arc::new(Event::parse(&stored, 0, &room_id, self.target.rules).map_err(Error::from)?);
        if !permitted {
            self.check(&event)?;
        }
        let membership = self.membership(draft, names, &event)?;
        let redaction = self.redaction(draft, &event)?;

        for change in &state_changes {
            self.state.set(change.key_nid, change.new);
        }
        self.sequence += 1;
        self.extremities = vec![Extremity {
            nid: event.nid,
            event_id,
            depth,
        }];
        self.change
            .relations
            .extend(event.relation().map(|relation| Relation {
                event_nid: event.nid,
                rel_type: relation.rel_type.into(),
                parent_id: relation.parent_id.as_str().into(),
                is_edit: relation.is_edit,
            }));
        self.change.facts.push(Fact::Event(stored, state_changes));
        self.change.facts.extend(membership.map(Fact::Membership));
        self.change.facts.extend(redaction.map(Fact::Redaction));
        self.change
            .transactions
            .extend(draft.request.as_ref().map(|request| ClientTransaction {
                device_nid: request.device_nid,
                request_key: request.request_key,
                event_nid: event.nid,
                created_at: self.signer.now.0.into(),
                txn_id: Arc::clone(&request.txn_id),
            }));
        self.made.insert(event.nid, Arc::clone(&event));
        self.events.push(event);
        Ok(())
    }

    fn check_already(&self, draft: &Draft, names: &Names) -> Result<(), DecideError> {
        let Some(key_nid) = names.key_nid.filter(|_| draft.unless_already) else {
            return Ok(());
        };
        let current = self.current(key_nid)?.and_then(|event| membership_in(&event));
        match current.is_some() && current == draft.membership().and_then(membership_named) {
            true => Err(DecideError::AlreadySo),
            false => Ok(()),
        }
    }

    fn check_replaced(&self, draft: &Draft, names: &Names) -> Result<(), DecideError> {
        let current = names.key_nid.and_then(|key_nid| self.state.get(key_nid));
        match draft.replaces {
            Some(expected) if current != Some(expected) => Err(DecideError::Forbidden(
                "the state that this would replace has changed".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// The event at a key of the current state.
    fn current(&self, key_nid: KeyNid) -> Result<Option<Arc<Event>>, DecideError> {
        let Some(event_nid) = self.state.get(key_nid) else {
            return Ok(None);
        };
        let event = self
            .made
            .get(&event_nid)
            .or_else(|| self.gathered.events.get(&event_nid));
        event
            .map(|event| Some(Arc::clone(event)))
            .ok_or_else(|| DecideError::Missing(vec![event_nid]))
    }

    fn auth_events(&self, names: &Names) -> Result<Vec<Arc<Event>>, DecideError> {
        let mut auth = Vec::with_capacity(names.auth_keys.len());
        let mut missing = Vec::new();
        for (_, _, key_nid) in &names.auth_keys {
            match self.current(*key_nid) {
                Ok(event) => auth.extend(event),
                Err(DecideError::Missing(event_nids)) => missing.extend(event_nids),
                Err(error) => return Err(error),
            }
        }
        if missing.is_empty() {
            Ok(auth)
        } else {
            Err(DecideError::Missing(missing))
        }
    }

    /// The PDU, hashed and signed, and its ID (server-server API, "PDUs" and "Signing Events").
    fn build(
        &self,
        draft: &Draft,
        auth: &[Arc<Event>],
        depth: i64,
    ) -> Result<(OwnedEventId, String), DecideError> {
        let string = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let mut pdu = CanonicalJsonObject::new();
        let mut put = |key: &str, value: CanonicalJsonValue| pdu.insert(key.to_owned(), value);
        put("type", string(&draft.event_type.to_string()));
        put("sender", string(draft.sender.as_str()));
        put("content", CanonicalJsonValue::Object(draft.content.clone()));
        put(
            "depth",
            CanonicalJsonValue::Integer(depth.try_into().unwrap_or_default()),
        );
        put(
            "origin_server_ts",
            CanonicalJsonValue::Integer(self.signer.now.0.into()),
        );
        let prev_events = self
            .extremities
            .iter()
            .map(|extremity| string(extremity.event_id.as_str()));
        put("prev_events", CanonicalJsonValue::Array(prev_events.collect()));
        let auth_events = auth.iter().map(|event| string(event.event_id.as_str()));
        put("auth_events", CanonicalJsonValue::Array(auth_events.collect()));
        if let Some(state_key) = &draft.state_key {
            put("state_key", string(state_key));
        }
        if let Some(room_id) = &self.room_id {
            put("room_id", string(room_id.as_str()));
        }
        if let Some(redacts) = &draft.redacts {
            if self.target.rules.redaction.content_field_redacts {
                let mut content = draft.content.clone();
                content.insert("redacts".to_owned(), string(redacts.as_str()));
                put("content", CanonicalJsonValue::Object(content));
            } else {
                put("redacts", string(redacts.as_str()));
            }
        }
        let rules = self.target.rules;
        hash_and_sign_event(
            self.signer.server_name.as_str(),
            self.signer.key.pair(),
            &mut pdu,
            &rules.redaction,
        )
        .map_err(unbuildable)?;
        let event_id = format!("${}", reference_hash(&pdu, rules).map_err(unbuildable)?);
        let event_id = OwnedEventId::try_from(event_id)
            .map_err(|error| Error::Damaged(format!("an event ID: {error}")))?;
        let json =
            serde_json::to_string(&pdu).map_err(|error| Error::Damaged(format!("an event: {error}")))?;
        if json.len() > MAX_PDU_BYTES {
            return Err(DecideError::TooLarge(format!(
                "an event is at most {MAX_PDU_BYTES} bytes long"
            )));
        }
        Ok((event_id, json))
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

    /// The state after the event, stored as a change of the one before.
    fn next_state(&mut self, names: &Names) -> Result<(StateNid, Vec<StateChange>), DecideError> {
        let Some(key_nid) = names.key_nid else {
            let (state_nid, _) = self
                .stored_state
                .ok_or_else(|| DecideError::Forbidden("a room begins with its create event".to_owned()))?;
            return Ok((state_nid, Vec::new()));
        };
        let state_nid = self
            .state_nids
            .next()
            .ok_or_else(|| Error::Damaged("too few state numbers were gathered".to_owned()))?;
        let mut after = self.state.clone();
        let old = after.set(key_nid, Some(names.event_nid));
        let delta = [(key_nid, Some(names.event_nid))];
        let stored: NewState = states::pack(state_nid, self.stored_state, &delta, || {
            after.iter().collect::<Vec<_>>()
        })
        .map_err(Error::from)?;
        self.stored_state = Some((state_nid, stored.depth));
        self.change.states.push(stored);
        Ok((
            state_nid,
            vec![StateChange {
                key_nid,
                old,
                new: Some(names.event_nid),
            }],
        ))
    }

    /// The authorisation rules of the room's version, against the state before the event.
    fn check(&self, event: &Arc<Event>) -> Result<(), DecideError> {
        let rules = &self.target.rules.authorization;
        if *event.event_type() == TimelineEventType::RoomCreate {
            return check_state_independent_auth_rules(rules, event, |_| None::<Arc<Event>>)
                .map_err(DecideError::Forbidden);
        }
        let missing = std::cell::RefCell::new(Vec::new());
        let fetch = |event_type: &StateEventType, state_key: &str| {
            let key_nid = self.key_of(event_type, state_key)?;
            match self.current(key_nid) {
                Ok(event) => event,
                Err(DecideError::Missing(event_nids)) => {
                    missing.borrow_mut().extend(event_nids);
                    None
                }
                Err(_) => None,
            }
        };
        let checked = check_state_dependent_auth_rules(rules, event, fetch);
        let missing = missing.into_inner();
        if !missing.is_empty() {
            return Err(DecideError::Missing(missing));
        }
        checked.map_err(DecideError::Forbidden)
    }

    /// The number of a state key among those that authorise the drafts.
    fn key_of(&self, event_type: &StateEventType, state_key: &str) -> Option<KeyNid> {
        if *event_type == StateEventType::RoomCreate && state_key.is_empty() {
            return Some(self.gathered.create_key);
        }
        let auth_keys = self.gathered.names.iter().flat_map(|names| &names.auth_keys);
        auth_keys
            .filter(|(other_type, other_key, _)| other_type == event_type && other_key == state_key)
            .map(|(_, _, key_nid)| *key_nid)
            .next()
    }

    fn membership(
        &self,
        draft: &Draft,
        names: &Names,
        event: &Event,
    ) -> Result<Option<MembershipChange>, DecideError> {
        let Some(((_, user_nid), key_nid)) = names.target.as_ref().zip(names.key_nid) else {
            return Ok(None);
        };
        let Some(membership) = draft.membership().and_then(membership_named) else {
            return Ok(None);
        };
        let was_joined = self
            .current(key_nid)?
            .is_some_and(|old| membership_in(&old) == Some(Membership::Join));
        Ok(Some(MembershipChange {
            room_nid: self.target.room_nid,
            user_nid: *user_nid,
            event_nid: event.nid,
            membership,
            continues: was_joined && membership == Membership::Join,
            joined_at: None,
            forgotten: false,
            stripped_state: match membership {
                Membership::Invite => Some(self.stripped_state(names, event)?),
                _ => None,
            },
        }))
    }

    fn stripped_state(&self, names: &Names, invite: &Event) -> Result<Arc<str>, DecideError> {
        let mut stripped = Vec::with_capacity(names.stripped_keys.len() + 1);
        for key_nid in &names.stripped_keys {
            stripped.extend(self.current(*key_nid)?.map(|event| event.to_stripped()));
        }
        stripped.push(invite.to_stripped());
        let json = serde_json::to_string(&stripped)
            .map_err(|error| Error::Damaged(format!("stripped state: {error}")))?;
        Ok(json.into())
    }

    /// Whether a user has the power to notify the whole room (client-server API, `sender_notification_permission`).
    fn may_notify_room(&self, sender: &UserId) -> Result<bool, DecideError> {
        let Some(create) = self.current(self.gathered.create_key)? else {
            return Ok(false);
        };
        let levels = self.current(self.gathered.power_levels_key)?;
        let needed = class::level_to_notify_room(levels.as_ref().map_or("{}", |event| event.content().get()));
        let rules = &self.target.rules.authorization;
        let creators = RoomCreateEvent::new(create)
            .creators(rules)
            .map_err(DecideError::Forbidden)?;
        let levels = levels.map(RoomPowerLevelsEvent::new);
        let level = user_level(levels.as_ref(), sender, &creators, rules)?;
        Ok(level >= UserPowerLevel::Int(needed.try_into().unwrap_or(ruma::Int::MAX)))
    }

    /// Whether the event redacts what it names. Room versions since 3 let such an event pass by their rules; who may
    /// send one is said by the client-server API, "Redactions": the sender of the redacted event, or who has the power.
    fn redaction(&self, draft: &Draft, event: &Event) -> Result<Option<Redaction>, DecideError> {
        let Some(redacts) = &draft.redacts else {
            return Ok(None);
        };
        let redacted = self
            .gathered
            .redacted
            .get(redacts)
            .ok_or(DecideError::UnknownRedacted)?;
        if redacted.sender() != event.sender() {
            let rules = &self.target.rules.authorization;
            let create = self.current(self.gathered.create_key)?;
            let create = create.ok_or_else(|| Error::Damaged("a room without a create event".to_owned()))?;
            let creators = RoomCreateEvent::new(create)
                .creators(rules)
                .map_err(DecideError::Forbidden)?;
            let levels = self
                .current(self.gathered.power_levels_key)?
                .map(RoomPowerLevelsEvent::new);
            let level = user_level(levels.as_ref(), event.sender(), &creators, rules)?;
            if level < level_of(levels.as_ref(), RoomPowerLevelsIntField::Redact, rules)? {
                return Err(DecideError::Forbidden(
                    "you don't have the power to redact another user's event".to_owned(),
                ));
            }
        }
        Ok(Some(Redaction {
            room_nid: self.target.room_nid,
            event_nid: redacted.nid,
            redaction_nid: event.nid,
        }))
    }
}

fn check_size(draft: &Draft) -> Result<(), DecideError> {
    let too_long = |name| {
        DecideError::TooLarge(format!(
            "the {name} of an event is at most {MAX_KEY_BYTES} bytes long"
        ))
    };
    if draft.event_type.to_string().len() > MAX_KEY_BYTES {
        return Err(too_long("type"));
    }
    if draft
        .state_key
        .as_ref()
        .is_some_and(|state_key| state_key.len() > MAX_KEY_BYTES)
    {
        return Err(too_long("state_key"));
    }
    Ok(())
}

fn unbuildable(error: JsonError) -> DecideError {
    match error {
        JsonError::PduTooLarge => {
            DecideError::TooLarge(format!("an event is at most {MAX_PDU_BYTES} bytes long"))
        }
        error => DecideError::Forbidden(format!("this can't be made an event: {error}")),
    }
}

/// The membership of that name.
pub(crate) fn membership_named(name: &str) -> Option<Membership> {
    Some(match name {
        "join" => Membership::Join,
        "invite" => Membership::Invite,
        "leave" => Membership::Leave,
        "ban" => Membership::Ban,
        "knock" => Membership::Knock,
        _ => return None,
    })
}

/// The membership that a member event gives.
pub(crate) fn membership_in(event: &Event) -> Option<Membership> {
    #[derive(serde::Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        membership: std::borrow::Cow<'a, str>,
    }
    let content: Content<'_> = serde_json::from_str(event.content().get()).ok()?;
    membership_named(&content.membership)
}

type Levels = RoomPowerLevelsEvent<Arc<Event>>;

/// The power of a user.
pub(super) fn user_level(
    levels: Option<&Levels>,
    user_id: &UserId,
    creators: &HashSet<OwnedUserId>,
    rules: &AuthorizationRules,
) -> Result<UserPowerLevel, DecideError> {
    let is_creator = creators.contains(user_id);
    if rules.explicitly_privilege_room_creators && is_creator {
        return Ok(UserPowerLevel::Infinite);
    }
    match levels {
        Some(levels) => levels
            .user_power_level(user_id, rules)
            .map(Into::into)
            .map_err(DecideError::Forbidden),
        // Without power levels a room's creator has 100, everyone else 0 (client-server API, "m.room.power_levels").
        None => Ok(UserPowerLevel::Int(if is_creator {
            100.into()
        } else {
            0.into()
        })),
    }
}

/// The power that something takes.
pub(super) fn level_of(
    levels: Option<&Levels>,
    field: RoomPowerLevelsIntField,
    rules: &AuthorizationRules,
) -> Result<UserPowerLevel, DecideError> {
    let level = match levels {
        Some(levels) => levels
            .get_as_int_or_default(field, rules)
            .map_err(DecideError::Forbidden)?,
        None => field.default_value(),
    };
    Ok(UserPowerLevel::Int(level))
}
