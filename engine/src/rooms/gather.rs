//! Before a decision: the numbers and events that it will need, fetched without any lock.

use std::{collections::HashMap, sync::Arc};

use hearth_storage::{EventNid, KeyNid, StateNid, TypeNid, UserNid, log::Membership};
use ruma::{
    OwnedUserId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res,
};
use serde_json::value::{RawValue, to_raw_value};

use super::{Room, StateMap, decide::DecideError, draft::Draft};
use crate::{
    Engine, Error,
    events::{Event, membership_named},
};

/// State that goes with an invite, so that the invited can see what they are invited to (client-server API, "Stripped
/// state").
pub(super) const STRIPPED_TYPES: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.encryption",
    "m.room.name",
    "m.room.topic",
];

/// What deciding on some drafts needs.
#[derive(Debug)]
pub(super) struct Gathered {
    pub names: Vec<Names>,
    /// Events of the state that the drafts are decided on, by number.
    pub events: HashMap<EventNid, Arc<Event>>,
    pub state_nids: Vec<StateNid>,
    pub create_key: KeyNid,
    pub power_levels_key: KeyNid,
    /// The events that drafts redact.
    pub redacted: HashMap<ruma::OwnedEventId, Arc<Event>>,
}

/// The numbers that one draft needs.
#[derive(Debug)]
pub(super) struct Names {
    pub event_nid: EventNid,
    pub type_nid: TypeNid,
    pub key_nid: Option<KeyNid>,
    /// The state keys that authorise it (server-server API, "Auth events selection").
    pub auth_keys: Vec<(StateEventType, String, KeyNid)>,
    /// For a member event, whose it is.
    pub target: Option<(OwnedUserId, UserNid)>,
    /// For an invite or a knock: the state that goes with it.
    pub stripped_keys: Vec<KeyNid>,
}

/// Gathers for `drafts`, to be decided on `state` of a room that exists.
pub(super) async fn gather(
    engine: &Engine,
    room: &Room,
    state: &StateMap,
    drafts: &[Draft],
) -> Result<Gathered, DecideError> {
    let mut gathered = gather_for_new(engine, &room.rules, drafts).await?;
    let wanted = gathered.names.iter().flat_map(Names::keys);
    let wanted = wanted.chain([gathered.create_key, gathered.power_levels_key]);
    let wanted: Vec<EventNid> = wanted.filter_map(|key_nid| state.get(key_nid)).collect();
    gathered.events = load(engine, room, &wanted).await?;
    gathered.redacted = load_redacted(engine, room, drafts).await?;
    Ok(gathered)
}

/// Gathers for the first `drafts` of a room.
pub(super) async fn gather_for_new(
    engine: &Engine,
    rules: &RoomVersionRules,
    drafts: &[Draft],
) -> Result<Gathered, DecideError> {
    let event_nids = engine.numbers.events(drafts.len()).await.map_err(Error::from)?;
    let state_events = drafts.iter().filter(|draft| draft.state_key.is_some()).count();
    let state_nids = engine.numbers.states(state_events).await.map_err(Error::from)?;
    let fixed = [("m.room.create", ""), ("m.room.power_levels", "")];
    let fixed_keys = engine.interner.keys(&fixed).await.map_err(Error::from)?;
    let [create_key, power_levels_key] = fixed_keys[..] else {
        return Err(Error::Damaged("state keys were not interned".to_owned()).into());
    };
    let mut names = Vec::with_capacity(drafts.len());
    for (draft, event_nid) in drafts.iter().zip(event_nids) {
        names.push(names_of(engine, rules, draft, event_nid).await?);
    }
    let (events, redacted) = (HashMap::new(), HashMap::new());
    Ok(Gathered {
        names,
        events,
        state_nids,
        create_key,
        power_levels_key,
        redacted,
    })
}

impl Gathered {
    /// Fetches what a decision found missing: the state had moved since.
    pub async fn add(&mut self, engine: &Engine, room: &Room, missing: &[EventNid]) -> Result<(), Error> {
        self.events.extend(load(engine, room, missing).await?);
        Ok(())
    }
}

impl Names {
    fn keys(&self) -> impl Iterator<Item = KeyNid> + '_ {
        let auth = self.auth_keys.iter().map(|(_, _, key_nid)| *key_nid);
        auth.chain(self.key_nid).chain(self.stripped_keys.iter().copied())
    }
}

/// What the names of an event depend on.
struct Subject<'a> {
    event_type: &'a TimelineEventType,
    sender: &'a UserId,
    state_key: Option<&'a str>,
    content: &'a RawValue,
    /// For a member event.
    membership: Option<Membership>,
}

async fn names_of(
    engine: &Engine,
    rules: &RoomVersionRules,
    draft: &Draft,
    event_nid: EventNid,
) -> Result<Names, DecideError> {
    let content = to_raw_value(&draft.content).map_err(|error| DecideError::Forbidden(error.to_string()))?;
    let subject = Subject {
        event_type: &draft.event_type,
        sender: &draft.sender,
        state_key: draft.state_key.as_deref(),
        content: &content,
        membership: draft.membership().and_then(membership_named),
    };
    let target = target_of(&subject)?;
    names_of_subject(engine, rules, &subject, target, event_nid).await
}

/// The numbers that a received event needs besides those it has.
pub(super) async fn names_of_event(
    engine: &Engine,
    rules: &RoomVersionRules,
    event: &Event,
) -> Result<Names, Error> {
    let subject = Subject {
        event_type: event.event_type(),
        sender: event.sender(),
        state_key: event.state_key(),
        content: event.content(),
        membership: event.membership(),
    };
    let target = target_of(&subject).ok().flatten();
    // Only the invited of this server need to see what they are invited to.
    let is_local = target.is_some_and(|target| target.server_name() == engine.config.server_name);
    let mut names = match names_of_subject(engine, rules, &subject, target, event.nid).await {
        Ok(names) => names,
        Err(DecideError::Failed(error)) => return Err(error),
        Err(error) => {
            return Err(Error::Damaged(format!(
                "{} has no names: {error}",
                event.event_id
            )));
        }
    };
    if !is_local {
        names.stripped_keys.clear();
    }
    Ok(names)
}

/// For a member event, whose it is.
fn target_of<'a>(subject: &Subject<'a>) -> Result<Option<&'a UserId>, DecideError> {
    let Some(state_key) = subject.state_key.filter(|_| subject.membership.is_some()) else {
        return Ok(None);
    };
    <&UserId>::try_from(state_key)
        .map(Some)
        .map_err(|_| DecideError::Forbidden("the state key of a member event is a user ID".to_owned()))
}

async fn names_of_subject(
    engine: &Engine,
    rules: &RoomVersionRules,
    subject: &Subject<'_>,
    target: Option<&UserId>,
    event_nid: EventNid,
) -> Result<Names, DecideError> {
    let event_type = subject.event_type.to_string();
    let type_nid = engine.interner.types(&[&event_type]).await.map_err(Error::from)?;
    let type_nid = type_nid
        .first()
        .copied()
        .ok_or_else(|| Error::Damaged("an event type was not interned".to_owned()))?;
    let key_nid = match subject.state_key {
        Some(state_key) => Some(
            engine
                .interner
                .key(&event_type, state_key)
                .await
                .map_err(Error::from)?,
        ),
        None => None,
    };
    let auth_types = state_res::auth_types_for_event(
        subject.event_type,
        subject.sender,
        subject.state_key,
        subject.content,
        &rules.authorization,
    )
    .map_err(DecideError::Forbidden)?;
    let auth_names: Vec<(String, &str)> = auth_types
        .iter()
        .map(|(event_type, state_key)| (event_type.to_string(), state_key.as_str()))
        .collect();
    let auth_names: Vec<(&str, &str)> = auth_names
        .iter()
        .map(|(event_type, key)| (event_type.as_str(), *key))
        .collect();
    let auth_keys = engine.interner.keys(&auth_names).await.map_err(Error::from)?;
    let auth_keys = auth_types
        .into_iter()
        .zip(auth_keys)
        .map(|((event_type, key), nid)| (event_type, key, nid))
        .collect();
    let target = match target {
        Some(user_id) => Some((
            user_id.to_owned(),
            engine.interner.user(user_id).await.map_err(Error::from)?,
        )),
        None => None,
    };
    let stripped_keys = if matches!(subject.membership, Some(Membership::Invite | Membership::Knock)) {
        let mut names: Vec<(&str, &str)> = STRIPPED_TYPES
            .iter()
            .map(|event_type| (*event_type, ""))
            .collect();
        names.push(("m.room.member", subject.sender.as_str()));
        engine.interner.keys(&names).await.map_err(Error::from)?
    } else {
        Vec::new()
    };
    Ok(Names {
        event_nid,
        type_nid,
        key_nid,
        auth_keys,
        target,
        stripped_keys,
    })
}

async fn load(
    engine: &Engine,
    room: &Room,
    wanted: &[EventNid],
) -> Result<HashMap<EventNid, Arc<Event>>, Error> {
    super::read::events(engine, room, wanted.iter().copied()).await
}

async fn load_redacted(
    engine: &Engine,
    room: &Room,
    drafts: &[Draft],
) -> Result<HashMap<ruma::OwnedEventId, Arc<Event>>, Error> {
    let mut redacted = HashMap::new();
    for event_id in drafts.iter().filter_map(|draft| draft.redacts.as_ref()) {
        let mut connection = engine.db.acquire().await?;
        if let Some(event) = engine.events.by_id(&mut connection, room, event_id).await? {
            redacted.insert(event_id.clone(), event);
        }
    }
    Ok(redacted)
}
