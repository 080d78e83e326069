//! What the children of events come to together, served in `unsigned.m.relations` of each (client-server API,
//! "Aggregations of child events").

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_storage::{
    EventNid, Position, RoomNid, UserNid,
    relations::{self, Aggregate, Reader, Thread},
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    Engine, Error,
    events::{ClientFormat, Event, InRoom, Viewer},
    users,
};

/// What a reader may see of rooms: ranges of the log, both ends included.
pub(crate) type Sights = [(RoomNid, Position, Position)];

/// What is bundled with the events of a page.
#[derive(Debug, Default)]
pub(crate) struct Bundles(HashMap<EventNid, Bundle>);

#[derive(Debug)]
struct Bundle {
    edit: Option<Arc<Event>>,
    thread: Option<(Thread, Arc<Event>)>,
    references: Vec<String>,
}

#[derive(Serialize)]
struct Served {
    #[serde(rename = "m.replace", skip_serializing_if = "Option::is_none")]
    replace: Option<Box<RawValue>>,
    #[serde(rename = "m.thread", skip_serializing_if = "Option::is_none")]
    thread: Option<ServedThread>,
    #[serde(rename = "m.reference", skip_serializing_if = "Option::is_none")]
    reference: Option<References>,
}

#[derive(Serialize)]
struct ServedThread {
    latest_event: Box<RawValue>,
    count: i64,
    current_user_participated: bool,
}

#[derive(Serialize)]
struct References {
    chunk: Vec<Reference>,
}

#[derive(Serialize)]
struct Reference {
    event_id: String,
}

impl Bundles {
    /// The events of which something may be bundled: not with state.
    pub fn parents<'a>(events: impl IntoIterator<Item = &'a Arc<Event>>) -> Vec<EventNid> {
        events
            .into_iter()
            .filter(|event| event.state_key().is_none())
            .map(|event| event.nid)
            .collect()
    }

    /// What is bundled with `parents`, which may be of many rooms, for a reader: with one query, another where there are
    /// threads, and a third where the events to bundle are not in memory.
    pub async fn load<'a>(
        engine: &Engine,
        user_nid: UserNid,
        sight: &Sights,
        parents: &[EventNid],
        room_of: impl Fn(RoomNid) -> Option<InRoom<'a>>,
    ) -> Result<Self, Error> {
        if parents.is_empty() {
            return Ok(Self::default());
        }
        let ignored = ignored_by(engine, user_nid).await?;
        let reader = Reader {
            user_nid,
            ignored: &ignored,
            sight,
        };
        let mut connection = engine.db.acquire().await?;
        let mut aggregates = relations::aggregates(&mut connection, parents, reader).await?;
        // The last event of a thread is told with what became of it.
        let latest = aggregates
            .iter()
            .filter_map(|aggregate| Some(aggregate.thread?.latest));
        let known: HashSet<EventNid> = aggregates.iter().map(|aggregate| aggregate.parent_nid).collect();
        let latest: Vec<EventNid> = latest.filter(|event_nid| !known.contains(event_nid)).collect();
        if !latest.is_empty() {
            aggregates.extend(relations::aggregates(&mut connection, &latest, reader).await?);
        }
        let wanted: Vec<EventNid> = aggregates.iter().flat_map(bundled).collect();
        let loaded = engine
            .events
            .load_of_rooms(&mut connection, wanted, room_of)
            .await?;
        let bundles = aggregates.into_iter().map(|aggregate| {
            let thread = aggregate
                .thread
                .and_then(|thread| Some((thread, Arc::clone(loaded.get(&thread.latest)?))));
            let edit = aggregate.edit.and_then(|edit| loaded.get(&edit).cloned());
            (
                aggregate.parent_nid,
                Bundle {
                    edit,
                    thread,
                    references: aggregate.references,
                },
            )
        });
        Ok(Self(bundles.collect()))
    }

    /// `m.relations` of an event, if there is anything in it.
    pub fn of(&self, event: &Event, format: ClientFormat, viewer: &Viewer) -> Option<Box<RawValue>> {
        let bundle = self.0.get(&event.nid)?;
        // Whoever redacts an event takes back its edits with it.
        let edit = bundle.edit.as_ref().filter(|_| event.redacted_because.is_none());
        let chunk: Vec<Reference> = bundle
            .references
            .iter()
            .map(|event_id| Reference {
                event_id: event_id.clone(),
            })
            .collect();
        let served = Served {
            replace: edit.map(|edit| edit.to_client(format, viewer, None, None, None)),
            thread: bundle.thread.as_ref().map(|(thread, latest)| ServedThread {
                // No thread begins in a thread: this goes one level deep.
                latest_event: latest.to_client(format, viewer, None, None, self.of(latest, format, viewer)),
                count: thread.count,
                current_user_participated: thread.participated || event.sender_nid == viewer.user_nid,
            }),
            reference: Some(References { chunk }).filter(|references| !references.chunk.is_empty()),
        };
        let is_empty = served.replace.is_none() && served.thread.is_none() && served.reference.is_none();
        to_raw_value(&served).ok().filter(|_| !is_empty)
    }
}

/// The events that an aggregate is served with.
fn bundled(aggregate: &Aggregate) -> impl Iterator<Item = EventNid> + use<> {
    aggregate
        .edit
        .into_iter()
        .chain(aggregate.thread.map(|thread| thread.latest))
}

/// The IDs of the users whose children count for nothing to a user.
pub(super) async fn ignored_by(engine: &Engine, user_nid: UserNid) -> Result<Vec<String>, Error> {
    let user = users::load(engine, user_nid).await?;
    if !user.preferences.ignores_anybody() {
        return Ok(Vec::new());
    }
    // Nobody ignores themselves, whatever their list says.
    let own = engine.interner.user_ids(&[user_nid]).await?.remove(&user_nid);
    let others = user
        .preferences
        .ignored()
        .filter(|user_id| own.as_deref() != Some(*user_id));
    Ok(others.map(ToString::to_string).collect())
}
