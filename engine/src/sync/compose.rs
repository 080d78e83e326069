//! Composes the answer of a sync from its material.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use hearth_storage::{EventNid, KeyNid, Position, RoomNid, UserNid, events::Place, log::Membership};
use ruma::{
    OwnedRoomId,
    api::client::filter::{EventFormat, LazyLoadOptions, RoomEventFilter},
};
use serde_json::value::RawValue;

use super::{
    Sync,
    account::{self, Data},
    gather::{self, Material},
    parts::ToldRoom,
    plan::Plan,
    response::{
        Events, InvitedRoom, JoinedRoom, KnockedRoom, LeftRoom, Range, Response, State, Stripped, Timeline,
    },
    summary, typing,
};
use crate::{
    Error,
    events::{ClientFormat, Event, Fields, Viewer, excludes_room, matches, matches_in_room},
    receipts,
    rooms::{Room, aggregations::Bundles, serve},
    ticks::{self, Stretch},
    tokens::{HistoryToken, SyncToken},
    unread::{Counter, Counts},
};

type LoadedEvents = HashMap<EventNid, Arc<Event>>;

/// Fills in everything but `next_batch`. Gives the rooms that it told.
pub(super) async fn compose(
    sync: &Sync<'_>,
    plan: &Plan,
    mut materials: Vec<Material>,
    mut data: Data,
    typing: HashMap<RoomNid, Vec<UserNid>>,
    response: &mut Response,
) -> Result<Vec<ToldRoom>, Error> {
    let mut told_receipts: Vec<_> = materials
        .iter_mut()
        .map(|material| &mut material.receipts)
        .collect();
    ticks::withhold(
        sync.engine,
        sync.requester,
        &sync.user.preferences,
        &mut told_receipts,
    )
    .await?;
    let summaries = changed_summaries(sync, &materials).await?;
    let mut unread = unread_of(sync, &materials).await?;
    load_members_lazily(sync, &mut materials).await?;
    let events = load_events(sync, &materials).await?;
    let mut viewer = serve::viewer(sync.engine, sync.requester);
    viewer.tells_sequence = sync.bound.is_some();
    let bundles = bundle(sync, &materials).await?;
    let composer = Composer {
        sync,
        events,
        bundles,
        viewer,
        format: match sync.filter.event_format {
            EventFormat::Federation => ClientFormat::Federation,
            _ => ClientFormat::Sync,
        },
        fields: Fields::of(sync.filter.event_fields.as_deref()),
    };
    let mut told: Vec<ToldRoom> = Vec::with_capacity(materials.len());
    let mut note = |room_nid: RoomNid, room_id: &OwnedRoomId, weight: usize, stretches: Vec<Stretch>| {
        told.push(ToldRoom {
            room_nid,
            room_id: room_id.clone(),
            weight,
            stretches,
        });
    };
    for mut material in materials {
        let room_nid = material.room.nid;
        let room_id = material.room.id.clone();
        let account_data = data.by_room.remove(&room_nid).unwrap_or_default();
        let account_data = account::of_room(sync, &room_id, &account_data);
        if material.span.joined_at.is_some() {
            let mut room = composer
                .joined(&material, typing.get(&room_nid), summaries.contains(&room_nid))
                .await?;
            room.account_data.events = account_data;
            tell_unread(sync, &mut room, unread.remove(&room_nid).unwrap_or_default());
            // What is unread changes with them, also for who doesn't want to see receipts.
            let has_read = material
                .receipts
                .iter()
                .any(|receipt| receipt.user_nid == sync.requester.user_nid);
            // A room that comes into view is told, whatever the filter leaves of it: the user is in it.
            if material.span.whole || material.span.became_whole || has_read || !is_quiet(&room) {
                note(
                    room_nid,
                    &room_id,
                    room.weight(),
                    std::mem::take(&mut material.stretches),
                );
                response.rooms.join.insert(room_id, room);
            }
        } else {
            let room = LeftRoom {
                timeline: composer.timeline(&material),
                state: composer.state(&material),
                account_data: Events { events: account_data },
                range: composer.range(&material),
            };
            note(room_nid, &room_id, room.weight(), Vec::new());
            response.rooms.leave.insert(room_id, room);
        }
    }
    let stripped = |room_nid: &RoomNid| {
        Stripped::of(
            sync.user
                .rooms
                .get(room_nid)
                .and_then(|room| room.stripped_state.as_ref()),
        )
    };
    let named = |room_nids: &[RoomNid]| -> Vec<(RoomNid, OwnedRoomId)> {
        room_nids
            .iter()
            .filter_map(|room_nid| Some((*room_nid, plan.ids.get(room_nid)?.clone())))
            .collect()
    };
    for (room_nid, room_id) in named(&plan.invited) {
        let invite_state = stripped(&room_nid);
        note(room_nid, &room_id, invite_state.weight(), Vec::new());
        response
            .rooms
            .invite
            .insert(room_id, InvitedRoom { invite_state });
    }
    for (room_nid, room_id) in named(&plan.knocked) {
        let knock_state = stripped(&room_nid);
        note(room_nid, &room_id, knock_state.weight(), Vec::new());
        response.rooms.knock.insert(room_id, KnockedRoom { knock_state });
    }
    response.account_data.events = account::global(sync, &data.global);
    Ok(told)
}

/// What is unread of the rooms that the user is in.
async fn unread_of(sync: &Sync<'_>, materials: &[Material]) -> Result<HashMap<RoomNid, Counts>, Error> {
    let joined = materials
        .iter()
        .filter_map(|material| Some((Arc::clone(&material.room), material.span.joined_at?)));
    let counter = Counter {
        engine: sync.engine,
        requester: sync.requester,
        user: &sync.user,
        upto: sync.upto(),
    };
    counter.count(joined.collect()).await
}

/// Threads are told apart for clients that ask for that only.
fn tell_unread(sync: &Sync<'_>, room: &mut JoinedRoom, counts: Counts) {
    if sync.filter.room.timeline.unread_thread_notifications {
        (room.unread_notifications, room.unread_thread_notifications) = (counts.main, counts.threads);
    } else {
        room.unread_notifications = counts.total();
    }
}

/// Nothing to tell of a room that is known to the client. What a filter keeps back is told by its numbers, to who counts.
fn is_quiet(room: &JoinedRoom) -> bool {
    let withheld = room.range.is_some_and(|range| range.after < range.upto);
    !withheld
        && room.timeline.events.is_empty()
        && !room.timeline.limited
        && room.state.events().is_empty()
        && room.ephemeral.events.is_empty()
        && room.account_data.events.is_empty()
}

/// The rooms of which what a summary is made of may have changed: members came or went, or the room was named, or its
/// name redacted. To be asked before the members are left out that are loaded lazily.
async fn changed_summaries(sync: &Sync<'_>, materials: &[Material]) -> Result<HashSet<RoomNid>, Error> {
    let changed = materials.iter().filter(|material| !material.span.whole);
    let keys: Vec<KeyNid> = changed
        .flat_map(|material| material.state.keys().copied())
        .collect();
    let names = sync.engine.interner.key_names(&keys).await?;
    let matters = |event_type: &str| event_type == "m.room.member" || summary::NAMES.contains(&event_type);
    let has_changed = |material: &Material| {
        let mut keys = material.state.keys();
        let mut state_events = material
            .events
            .iter()
            .filter(|(_, event)| event.state_key().is_some());
        material.span.whole
            || material.span.became_whole
            || state_events.any(|(_, event)| matters(&event.event_type().to_string()))
            || keys.any(|key_nid| {
                names
                    .get(key_nid)
                    .is_some_and(|(event_type, _)| matters(event_type))
            })
    };
    let (changed, others): (Vec<&Material>, Vec<&Material>) =
        materials.iter().partition(|material| has_changed(material));
    let lost_names = lost_names(sync, &others).await?;
    Ok(changed
        .into_iter()
        .map(|material| material.room.nid)
        .chain(lost_names)
        .collect())
}

/// The rooms in whose timeline what names them was redacted; or may have been, where it doesn't tell all.
async fn lost_names(sync: &Sync<'_>, materials: &[&Material]) -> Result<Vec<RoomNid>, Error> {
    let redacted = |material: &Material, event: &Event| {
        let mut redacted = material.events.iter().filter_map(|(_, event)| event.redacts());
        redacted.any(|event_id| event_id == event.event_id)
    };
    let is_partial = |material: &Material| material.limited || gather::may_hide(sync, &material.room);
    let has_redactions =
        |material: &Material| material.events.iter().any(|(_, event)| event.redacts().is_some());
    let unsure: Vec<&Material> = materials
        .iter()
        .copied()
        .filter(|material| is_partial(material) || has_redactions(material))
        .collect();
    if unsure.is_empty() {
        return Ok(Vec::new());
    }
    let rooms: Vec<&Room> = unsure.iter().map(|material| &*material.room).collect();
    let names = summary::naming_events(sync.engine, &rooms).await?;
    let has_lost_one = |material: &&&Material| {
        let mut names = names.get(&material.room.nid).into_iter().flatten();
        match is_partial(material) {
            true => names.any(|name| name.redacted_because.is_some()),
            false => names.any(|name| redacted(material, name)),
        }
    };
    Ok(unsure
        .iter()
        .filter(has_lost_one)
        .map(|material| material.room.nid)
        .collect())
}

/// Brings the state to tell of each room down to what the client wants: with members loaded lazily, the members of
/// interest that it was not told yet, be they changed or not. Nothing else of members.
async fn load_members_lazily(sync: &Sync<'_>, materials: &mut [Material]) -> Result<(), Error> {
    let LazyLoadOptions::Enabled {
        include_redundant_members,
    } = sync.filter.room.state.lazy_load_options
    else {
        return Ok(());
    };
    let all: Vec<KeyNid> = materials
        .iter()
        .flat_map(|material| material.state.keys().copied())
        .collect();
    let names = sync.engine.interner.key_names(&all).await?;
    for material in materials {
        let mut of_interest = members_of_interest(sync, material).await?;
        let changed = std::mem::take(&mut material.state);
        let (members, mut state): (BTreeMap<_, _>, BTreeMap<_, _>) =
            changed.into_iter().partition(|(key_nid, _)| {
                names
                    .get(key_nid)
                    .is_some_and(|(event_type, _)| &**event_type == "m.room.member")
            });
        // A whole state says of every member what they were at the start of the timeline. Who is not in a delta was
        // then what the timeline says it replaced, or is still what they are now.
        let in_timeline = |key_nid| {
            material
                .events
                .iter()
                .find(|(_, event)| event.key_nid == Some(key_nid))
        };
        // Who is told the state after the timeline takes none from the timeline: not even that somebody was kicked.
        if sync.use_state_after {
            let changed = members.keys().copied();
            of_interest.extend(changed.filter(|key_nid| in_timeline(*key_nid).is_some()));
        }
        let current = of_interest
            .into_iter()
            .filter_map(|key_nid| match members.get(&key_nid) {
                Some(event_nid) => Some((key_nid, (*event_nid)?)),
                None if material.span.whole || material.span.stateless => None,
                None => match in_timeline(key_nid) {
                    Some((_, event)) => Some((key_nid, event.replaces?)),
                    None => Some((key_nid, material.current.get(key_nid)?)),
                },
            });
        let current: BTreeMap<KeyNid, EventNid> = current.collect();
        let device = (sync.requester.device_nid, material.room.nid);
        let since = sync.since_of(material.room.nid).filter(|_| !material.span.whole);
        let pairs = current.iter().map(|(key_nid, event_nid)| (*key_nid, *event_nid));
        let untold =
            sync.engine
                .told_members
                .untold(device, since, sync.upto(), pairs, include_redundant_members);
        state.extend(
            untold
                .into_iter()
                .map(|key_nid| (key_nid, current.get(&key_nid).copied())),
        );
        material.state = state;
    }
    Ok(())
}

/// The senders in the timeline, the user, and those a room that comes into view may be named after.
async fn members_of_interest(sync: &Sync<'_>, material: &Material) -> Result<Vec<KeyNid>, Error> {
    let mut members: HashSet<String> = material
        .events
        .iter()
        .map(|(_, event)| event.sender().to_string())
        .collect();
    if material.span.whole {
        members.insert(sync.requester.user_id.to_string());
        let heroes = summary::heroes(sync.engine, &material.room, sync.requester.user_nid).await?;
        members.extend(heroes.iter().map(ToString::to_string));
    }
    let keys: Vec<(&str, &str)> = members
        .iter()
        .map(|user_id| ("m.room.member", user_id.as_str()))
        .collect();
    Ok(sync.engine.interner.keys(&keys).await?)
}

/// The events of every state to tell and those that timelines replaced, with one query if any.
async fn load_events(sync: &Sync<'_>, materials: &[Material]) -> Result<LoadedEvents, Error> {
    let mut wanted = Vec::new();
    for material in materials {
        wanted.extend(material.state.values().flatten());
        wanted.extend(material.events.iter().filter_map(|(_, event)| event.replaces));
    }
    let (mut events, missing) = sync.engine.events.partition(wanted);
    if !missing.is_empty() {
        let rooms: HashMap<RoomNid, _> = materials
            .iter()
            .map(|material| (material.room.nid, Arc::clone(&material.room)))
            .collect();
        let mut connection = sync.engine.db.acquire().await?;
        let room_of = |room_nid| Some(rooms.get(&room_nid)?.in_room());
        events.extend(
            sync.engine
                .events
                .load_of_rooms(&mut connection, missing, room_of)
                .await?,
        );
    }
    Ok(events)
}

/// What is bundled with the events of limited timelines: who was told of all events before knows their children.
async fn bundle(sync: &Sync<'_>, materials: &[Material]) -> Result<Bundles, Error> {
    let mut sight: Vec<(RoomNid, Position, Position)> = Vec::new();
    let mut parents = Vec::new();
    let mut rooms: HashMap<RoomNid, Arc<Room>> = HashMap::new();
    for Material {
        room,
        span,
        events,
        sight: seen,
        ..
    } in materials.iter().filter(|material| material.limited)
    {
        // Who was in the room all the time sees what came after the first of these events.
        let ranges = seen
            .as_ref()
            .map_or_else(|| vec![(Position(0), span.upto)], |seen| seen.ranges(span.upto));
        sight.extend(ranges.into_iter().map(|(from, to)| (room.nid, from, to)));
        parents.extend(Bundles::parents(events.iter().map(|(_, event)| event)));
        rooms.insert(room.nid, Arc::clone(room));
    }
    let room_of = |room_nid| Some(rooms.get(&room_nid)?.in_room());
    Bundles::load(sync.engine, sync.requester.user_nid, &sight, &parents, room_of).await
}

struct Composer<'a> {
    sync: &'a Sync<'a>,
    events: LoadedEvents,
    bundles: Bundles,
    viewer: Viewer,
    format: ClientFormat,
    /// Those of an event that the client asks for; nothing if it wants them all.
    fields: Option<Fields>,
}

impl Composer<'_> {
    async fn joined(
        &self,
        material: &Material,
        typing: Option<&Vec<UserNid>>,
        tell_summary: bool,
    ) -> Result<JoinedRoom, Error> {
        let mut room = JoinedRoom {
            timeline: self.timeline(material),
            state: self.state(material),
            range: self.range(material),
            ..JoinedRoom::default()
        };
        if tell_summary {
            room.summary =
                summary::summary(self.sync.engine, &material.room, self.sync.requester.user_nid).await?;
        }
        let filter = &self.sync.filter.room.ephemeral;
        let wanted =
            |event_type: &str| matches_in_room(filter, &material.room.id, event_type, RawValue::NULL);
        let mut ephemeral: Vec<Box<RawValue>> = Vec::new();
        if wanted("m.receipt") {
            let viewer = self.sync.requester.user_nid;
            let preferences = &self.sync.user.preferences;
            ephemeral
                .extend(receipts::to_event(self.sync.engine, viewer, preferences, &material.receipts).await?);
        }
        if wanted("m.typing")
            && let Some(users) = typing
        {
            ephemeral.extend(typing::to_event(self.sync, users).await?);
        }
        room.ephemeral.events = ephemeral;
        Ok(room)
    }

    fn timeline(&self, material: &Material) -> Timeline {
        let mut timeline = Timeline {
            limited: material.limited,
            ..Timeline::default()
        };
        let first = material.events.first().map(|(_, event)| event.place);
        let before = match first {
            Some(place) => HistoryToken::Place(Place {
                sub: place.sub.saturating_sub(1),
                ..place
            }),
            None => HistoryToken::Sync(SyncToken {
                generation: self.sync.head.generation,
                position: material.span.upto,
                ephemeral: None,
                part: None,
                to_device: None,
            }),
        };
        timeline.prev_batch = Some(before.to_string());
        let served = material.events.iter().map(|(position, event)| {
            let membership = match &material.sight {
                Some(sight) => sight.membership_at(*position),
                None => Some(Membership::Join),
            };
            self.serve(
                event,
                membership,
                self.bundles.of(event, self.format, &self.viewer),
            )
        });
        timeline.events = served.collect();
        timeline
    }

    fn range(&self, material: &Material) -> Option<Range> {
        self.sync.bound.map(|_| material.range)
    }

    fn state(&self, material: &Material) -> State {
        let filter: &RoomEventFilter = &self.sync.filter.room.state;
        let excluded = excludes_room(filter, &material.room.id);
        let told = material.state.values().filter(|_| !excluded).flatten();
        let events = told
            .filter_map(|event_nid| self.events.get(event_nid))
            .filter(|event| matches(filter, event));
        let state = Events {
            events: events.map(|event| self.serve(event, None, None)).collect(),
        };
        if self.sync.use_state_after {
            State::After(state)
        } else {
            State::Before(state)
        }
    }

    fn serve(
        &self,
        event: &Event,
        membership: Option<Membership>,
        relations: Option<Box<RawValue>>,
    ) -> Box<RawValue> {
        let replaced = event.replaces.and_then(|event_nid| self.events.get(&event_nid));
        let (replaced, membership) = (replaced.map(|event| &**event), membership.map(serve::name_of));
        let served = event.to_client(self.format, &self.viewer, replaced, membership, relations);
        match &self.fields {
            Some(fields) => fields.of_event(&served),
            None => served,
        }
    }
}
