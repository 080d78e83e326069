//! The material of a sync: for each room its timeline, the state around it and receipts, from memory where it reaches
//! back far enough, else with a fixed number of queries for all other rooms together.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use hearth_storage::{
    Connection, EventNid, KeyNid, Position, RoomNid, events as stored_events,
    log::{Receipt, StateChange},
    receipts, state_changes,
};

use super::{
    Sync,
    plan::{Plan, Span},
    response::Range,
};
use crate::{
    Error,
    events::{Event, excludes_room, lets_all_through, lets_nothing_through, matches},
    rooms::{
        self, Room, RoomEntryKind, StateMap, View,
        visibility::{self, Sight},
    },
    ticks::{self, Message, Stretch},
};

/// Events of a timeline, at most.
const MAX_LIMIT: usize = 1000;

/// What there is to tell of a room.
#[derive(Debug)]
pub(super) struct Material {
    pub room: Arc<Room>,
    pub span: Span,
    /// The timeline, oldest first, each with its position.
    pub events: Vec<(Position, Arc<Event>)>,
    /// There are more events before these that are not told.
    pub limited: bool,
    /// The state to tell: whole, or what changed; as of the start of the timeline, or of its end if that was asked for.
    pub state: BTreeMap<KeyNid, Option<EventNid>>,
    pub receipts: Vec<Receipt>,
    /// The whole state at the end of the span.
    pub current: StateMap,
    /// What the user may see of it; nothing where they were in it for all of the timeline.
    pub sight: Option<Sight>,
    /// The sequence numbers of the span, from the timeline's start on if it is limited.
    pub range: Range,
    /// Of what others said since the user came, the parts that this tells without a hole.
    pub stretches: Vec<Stretch>,
}

/// What is taken of a room at the moment it is looked at.
struct Draft {
    room: Arc<Room>,
    span: Span,
    /// The state as of `state_upto`.
    state: StateMap,
    state_upto: Position,
    /// The sequence number of the last live event at the end of the span, if none is within it.
    sequence: i64,
    sight: Option<Sight>,
    recent: Option<Recent>,
    /// The span came from the tables: its changes of state are not in `recent`, unless it is whole.
    is_from_tables: bool,
}

/// A room's span, as far as it was taken.
#[derive(Default)]
struct Recent {
    events: Vec<(Position, Arc<Event>)>,
    /// There are more before them.
    limited: bool,
    /// The sequence numbers of the first and the last event that was looked at, be it told or not.
    sequences: Option<(i64, i64)>,
    /// The sequence numbers of what others said that is not told, in order.
    withheld: Vec<i64>,
    /// The sequence number of the last event that was looked at from before the user came.
    before: Option<i64>,
    /// Changes of state up to `state_upto`: all that memory has, or from the tables, those that the state may have to
    /// be taken back by.
    changes: Vec<(Position, StateChange)>,
    receipts: Vec<Receipt>,
}

impl Recent {
    /// Looks at an event. They come in order.
    fn see(&mut self, sync: &Sync<'_>, span: &Span, position: Position, event: &Arc<Event>) {
        let sequence = event.place.sequence;
        let (first, last) = self.sequences.unwrap_or((sequence, sequence));
        self.sequences = Some((first.min(sequence), last.max(sequence)));
        if span.joined_at.is_none_or(|joined_at| position <= joined_at) {
            self.before = Some(sequence);
        }
        if is_told(sync, event) {
            self.events.push((position, Arc::clone(event)));
        } else if is_of_others(sync, event) {
            self.withheld.push(sequence);
        }
    }

    /// A receipt takes the place of the one before it, which a client could otherwise take for the newer.
    fn set_receipt(&mut self, receipt: &Receipt) {
        let key = |receipt: &Receipt| {
            (
                receipt.user_nid,
                Arc::clone(&receipt.receipt_type),
                Arc::clone(&receipt.thread),
            )
        };
        match self.receipts.iter_mut().find(|known| key(known) == key(receipt)) {
            Some(known) => *known = receipt.clone(),
            None => self.receipts.push(receipt.clone()),
        }
    }
}

/// Gathers for every joined and left room of the plan.
pub(super) async fn gather(sync: &Sync<'_>, plan: &Plan) -> Result<Vec<Material>, Error> {
    let room_nids: Vec<RoomNid> = plan
        .joined
        .iter()
        .chain(&plan.left)
        .map(|span| span.room_nid)
        .collect();
    let loaded = rooms::load_views(sync.engine, &room_nids).await?;
    let rooms: HashMap<RoomNid, Arc<Room>> = loaded.into_iter().map(|room| (room.nid, room)).collect();
    let left: Vec<&Room> = plan
        .left
        .iter()
        .filter_map(|span| rooms.get(&span.room_nid))
        .map(|room| &**room)
        .collect();
    let mut sights = HashMap::new();
    if !left.is_empty() {
        let mut connection = sync.engine.db.acquire().await?;
        sights = visibility::load(
            sync.engine,
            &mut connection,
            &left,
            &sync.requester.user_id,
            sync.upto(),
        )
        .await?;
    }
    let left = plan
        .left
        .iter()
        .filter_map(|span| span.of_left(sights.get(&span.room_nid)?));
    let limit = limit_of(sync);
    let mut drafts: Vec<Draft> = Vec::with_capacity(room_nids.len());
    for span in plan.joined.iter().copied().chain(left) {
        let Some(room) = rooms.get(&span.room_nid) else {
            continue;
        };
        let draft = room.read(|view| Draft {
            room: Arc::clone(room),
            span,
            state: view.state.clone(),
            state_upto: view.upto,
            sequence: sequence_at(view, span.upto),
            sight: sights.get(&room.nid).cloned(),
            recent: from_memory(sync, view, &span, limit),
            is_from_tables: false,
        });
        drafts.extend(draft);
    }
    let needs_receipts_of: Vec<Span> = drafts
        .iter()
        .filter(|draft| draft.span.since == Position(0) || draft.recent.is_none())
        .map(|draft| draft.span)
        .collect();
    let needs_query = drafts
        .iter()
        .any(|draft| draft.recent.is_none() || needs_sight(draft))
        || !needs_receipts_of.is_empty();
    let (mut deltas, mut within) = (Changed::new(), Changed::new());
    if needs_query {
        // Taken after the views were looked at: it reaches at least as far as they do.
        let mut transaction = sync.engine.db.begin_read().await?;
        from_tables(sync, &mut transaction, &mut drafts, limit).await?;
        look_around(sync, &mut transaction, &mut drafts).await?;
        drafts.iter_mut().for_each(|draft| draft.cut(sync, limit));
        (deltas, within) = changes_of(sync, &mut transaction, &drafts).await?;
        let mut receipts = receipts_of(sync, &mut transaction, &needs_receipts_of).await?;
        for draft in &mut drafts {
            if let Some((recent, receipts)) = draft.recent.as_mut().zip(receipts.remove(&draft.room.nid)) {
                recent.receipts = receipts;
            }
        }
    } else {
        drafts.iter_mut().for_each(|draft| draft.cut(sync, limit));
    }
    let finished = drafts.into_iter().map(|draft| {
        let of_room = |changed: &mut Changed| changed.remove(&draft.room.nid).unwrap_or_default();
        let (delta, within) = (of_room(&mut deltas), of_room(&mut within));
        draft.finish(sync, &delta, &within)
    });
    Ok(finished.collect())
}

/// Finds out what the user may see, where that is not all.
async fn look_around(
    sync: &Sync<'_>,
    connection: &mut Connection,
    drafts: &mut [Draft],
) -> Result<(), Error> {
    let unsure: Vec<Arc<Room>> = drafts
        .iter()
        .filter(|draft| needs_sight(draft))
        .map(|draft| Arc::clone(&draft.room))
        .collect();
    if unsure.is_empty() {
        return Ok(());
    }
    let rooms: Vec<&Room> = unsure.iter().map(|room| &**room).collect();
    let mut sights = visibility::load(
        sync.engine,
        connection,
        &rooms,
        &sync.requester.user_id,
        sync.upto(),
    )
    .await?;
    for draft in drafts.iter_mut() {
        if let Some(sight) = sights.remove(&draft.room.nid) {
            draft.sight = Some(sight);
        }
    }
    Ok(())
}

fn limit_of(sync: &Sync<'_>) -> usize {
    let limit = sync.filter.room.timeline.limit.map(u64::from);
    limit.map_or(sync.default_limit, |limit| {
        usize::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT)
    })
}

/// Whether some event of the draft's timeline is from before the user's time in the room.
fn needs_sight(draft: &Draft) -> bool {
    let Some(joined_at) = draft.span.joined_at else {
        return false;
    };
    let first = draft.recent.as_ref().and_then(|recent| recent.events.first());
    first.is_some_and(|(position, _)| *position < joined_at)
}

/// The sequence number of the last live event up to a position that is recent.
fn sequence_at(view: &View, position: Position) -> i64 {
    let after = view.recent.iter().find_map(|entry| match &entry.kind {
        RoomEntryKind::Event(event, _) if entry.position > position => Some(event.place.sequence - 1),
        _ => None,
    });
    after.unwrap_or(view.sequence)
}

/// The span from the room's latest entries in memory, if they reach back far enough.
fn from_memory(sync: &Sync<'_>, view: &View, span: &Span, limit: usize) -> Option<Recent> {
    let reaches_since = view.recent_since <= span.since;
    let mut recent = Recent::default();
    for entry in &view.recent {
        recent.changes.extend(
            entry
                .state_changes()
                .iter()
                .map(|change| (entry.position, *change)),
        );
        if entry.position > span.upto || entry.position <= span.since {
            continue;
        }
        match &entry.kind {
            RoomEntryKind::Event(event, _) => {
                recent.see(sync, span, entry.position, event);
            }
            RoomEntryKind::Receipt(receipt) => recent.set_receipt(receipt),
            RoomEntryKind::State(_) => {}
        }
    }
    let first_of_room = view.recent.iter().find_map(|entry| match &entry.kind {
        RoomEntryKind::Event(event, _) => Some(event.place.sequence == 1),
        _ => None,
    });
    let reaches_start = view.sequence == 0 || first_of_room == Some(true);
    let enough = recent.events.len() > limit;
    // A whole span needs the changes from its timeline's start on, which is there if enough events are.
    if !(reaches_since || reaches_start || (span.whole && enough)) {
        return None;
    }
    recent.limited = enough;
    Some(recent)
}

/// Fills in the spans that memory didn't have.
async fn from_tables(
    sync: &Sync<'_>,
    connection: &mut Connection,
    drafts: &mut [Draft],
    limit: usize,
) -> Result<(), Error> {
    let wanted: Vec<(RoomNid, Position, Position)> = drafts
        .iter()
        .filter(|draft| draft.recent.is_none())
        .map(|draft| (draft.room.nid, draft.span.since, draft.span.upto))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let filter = &sync.filter.room.timeline;
    // A filter may drop most rows; one more than wanted tells whether there are more.
    let tells_all = lets_all_through(filter) && !sync.user.preferences.ignores_anybody();
    let rows_wanted = if tells_all {
        limit + 1
    } else {
        (limit + 1).max(100)
    };
    let rows_wanted = i64::try_from(rows_wanted).unwrap_or(i64::MAX);
    let rows = stored_events::newest_of_rooms(connection, &wanted, rows_wanted).await?;
    let positions: HashMap<EventNid, Position> = rows
        .iter()
        .map(|row| (row.event.event_nid, row.position))
        .collect();
    let mut counts: HashMap<RoomNid, i64> = HashMap::new();
    for row in &rows {
        *counts.entry(row.event.room_nid).or_default() += 1;
    }
    let by_nid: HashMap<RoomNid, Arc<Room>> = drafts
        .iter()
        .map(|draft| (draft.room.nid, Arc::clone(&draft.room)))
        .collect();
    let events = sync
        .engine
        .events
        .admit(connection, rows, |room_nid| {
            Some(by_nid.get(&room_nid)?.in_room())
        })
        .await?;
    let spans: HashMap<RoomNid, Span> = drafts.iter().map(|draft| (draft.room.nid, draft.span)).collect();
    let mut by_room: HashMap<RoomNid, Recent> = HashMap::new();
    for event in events {
        let position = positions.get(&event.nid).copied().unwrap_or_default();
        if let Some(span) = spans.get(&event.room_nid) {
            let recent = by_room.entry(event.room_nid).or_default();
            recent.see(sync, span, position, &event);
        }
    }
    // What the states in memory have to be taken back by: to the start of whole spans, to the end of others.
    let starts: Vec<(RoomNid, Position)> = drafts
        .iter()
        .filter(|draft| draft.recent.is_none())
        .map(|draft| {
            let events = by_room
                .get(&draft.room.nid)
                .map_or(&[][..], |recent| &recent.events);
            let start = start_of(events, limit, draft.span.upto);
            (
                draft.room.nid,
                if draft.span.whole {
                    start
                } else {
                    Position(draft.span.upto.0 + 1)
                },
            )
        })
        .collect();
    for (room_nid, position, change) in state_changes::onwards(connection, &starts).await? {
        by_room
            .entry(room_nid)
            .or_default()
            .changes
            .push((position, change));
    }
    for draft in drafts.iter_mut().filter(|draft| draft.recent.is_none()) {
        let mut recent = by_room.remove(&draft.room.nid).unwrap_or_default();
        // There may be more among the rows that were not read, unless nothing of the room is wanted.
        let is_cut_off = counts
            .get(&draft.room.nid)
            .is_some_and(|count| *count == rows_wanted);
        recent.limited =
            (is_cut_off && !lets_nothing_through(filter, &draft.room.id)) || recent.events.len() > limit;
        draft.recent = Some(recent);
        draft.is_from_tables = true;
    }
    Ok(())
}

/// Whether an event of a room is for this client.
fn is_told(sync: &Sync<'_>, event: &Event) -> bool {
    let filter = &sync.filter.room.timeline;
    matches(filter, event)
        && !excludes_room(filter, &event.room_id)
        && !sync.user.preferences.withholds(event, sync.requester.user_nid)
}

/// Whether an event is something that somebody else said.
fn is_of_others(sync: &Sync<'_>, event: &Event) -> bool {
    event.key_nid.is_none() && event.sender_nid != sync.requester.user_nid
}

/// Whether the filter for a room's timeline may keep events back.
pub(super) fn may_hide(sync: &Sync<'_>, room: &Room) -> bool {
    let filter = &sync.filter.room.timeline;
    !lets_all_through(filter) || excludes_room(filter, &room.id)
}

/// Whether a part of the room's state came after the rest.
fn is_pieced_together(sync: &Sync<'_>, room: &Room) -> bool {
    sync.engine.partial.whole_since(room.nid) != Some(Position(0))
}

/// The position of the first event of the timeline that `events` makes; the one after the span if it is empty.
fn start_of(events: &[(Position, Arc<Event>)], limit: usize, upto: Position) -> Position {
    let skipped = events.len().saturating_sub(limit);
    events
        .get(skipped)
        .map_or(Position(upto.0 + 1), |(position, _)| *position)
}

/// The last change of each key in a part of a span.
type Changed = HashMap<RoomNid, Vec<StateChange>>;

/// What changed between the start of each span and its timeline, or its end, for spans that memory didn't have and that
/// aren't whole; and what changed from there on, for those whose timeline may hide it.
async fn changes_of(
    sync: &Sync<'_>,
    connection: &mut Connection,
    drafts: &[Draft],
) -> Result<(Changed, Changed), Error> {
    let unread: Vec<&Draft> = drafts
        .iter()
        .filter(|draft| draft.is_from_tables && !draft.span.whole && !draft.span.stateless)
        .collect();
    let end = |draft: &Draft| Position(draft.end_of_state(sync).0 - 1);
    let before: Vec<_> = unread
        .iter()
        .map(|draft| (draft.room.nid, draft.span.since, end(draft)))
        .collect();
    let within: Vec<_> = unread
        .iter()
        .filter(|draft| may_hide(sync, &draft.room) || is_pieced_together(sync, &draft.room))
        .map(|draft| (draft.room.nid, end(draft), draft.span.upto))
        .collect();
    Ok((
        last_changes(connection, &before).await?,
        last_changes(connection, &within).await?,
    ))
}

async fn last_changes(
    connection: &mut Connection,
    spans: &[(RoomNid, Position, Position)],
) -> Result<Changed, Error> {
    let mut changes = Changed::new();
    if !spans.is_empty() {
        for (room_nid, change) in state_changes::between(connection, spans).await? {
            changes.entry(room_nid).or_default().push(change);
        }
    }
    Ok(changes)
}

async fn receipts_of(
    sync: &Sync<'_>,
    connection: &mut Connection,
    spans: &[Span],
) -> Result<HashMap<RoomNid, Vec<Receipt>>, Error> {
    let mut by_room: HashMap<RoomNid, Vec<Receipt>> = HashMap::new();
    let (whole, since): (Vec<&Span>, Vec<&Span>) = spans.iter().partition(|span| span.since == Position(0));
    let earliest = sync.earliest().or(sync.since).unwrap_or_default();
    for (spans, from) in [(whole, None), (since, Some(earliest))] {
        let room_nids: Vec<RoomNid> = spans.iter().map(|span| span.room_nid).collect();
        if room_nids.is_empty() {
            continue;
        }
        let found = receipts::of_rooms(connection, &room_nids, from.unwrap_or_default(), sync.upto()).await?;
        for (position, receipt) in found {
            let told = from.and_then(|_| sync.since_of(receipt.room_nid));
            if told.is_none_or(|told| position > told) {
                by_room.entry(receipt.room_nid).or_default().push(receipt);
            }
        }
    }
    Ok(by_room)
}

impl Draft {
    /// Cuts the timeline to what is told.
    fn cut(&mut self, sync: &Sync<'_>, limit: usize) {
        let Some(recent) = &mut self.recent else { return };
        recent.limited |= sync.cut_back || self.span.stateless;
        // A refused invite is told though it may not be seen by the rules.
        if let Some(sight) = self.sight.as_ref().filter(|_| !self.span.stateless) {
            let hidden = recent
                .events
                .iter()
                .rposition(|(position, _)| !sight.sees(*position));
            if let Some(hidden) = hidden {
                // Without a gap in it: what comes before something that is hidden is paged to.
                recent.events.drain(..=hidden);
                recent.limited = true;
            }
            // To one who came back, events are told that they may know from before: that is a new beginning.
            let first = recent.events.first().map(|(position, _)| *position);
            recent.limited |= sync
                .since_of(self.room.nid)
                .is_some_and(|since| first.is_some_and(|first| first <= since) && sight.was_in_by(since));
        }
        // Where history is missing here a timeline begins: what is missing is paged to.
        let begins = self.room.read(|view| {
            let after_gap = |event: &Event| view.gaps.contains(&event.place.sequence);
            recent.events.iter().rposition(|(_, event)| after_gap(event))
        });
        if let Some(begins) = begins.flatten() {
            recent.events.drain(..begins);
            recent.limited = true;
        }
        let skipped = recent.events.len().saturating_sub(limit);
        recent.limited |= skipped > 0;
        recent.events.drain(..skipped);
    }

    /// The position of the first change that the state to tell doesn't include.
    fn end_of_state(&self, sync: &Sync<'_>) -> Position {
        let first = self.recent.as_ref().and_then(|recent| recent.events.first());
        match first.filter(|_| !sync.use_state_after) {
            Some((position, _)) => *position,
            None => Position(self.span.upto.0 + 1),
        }
    }

    /// Takes the state back to where it belongs. `delta` and `within` are what [`changes_of`] found, for a span from the
    /// tables that isn't whole.
    fn finish(self, sync: &Sync<'_>, delta: &[StateChange], within: &[StateChange]) -> Material {
        let end = self.end_of_state(sync);
        let Self {
            room,
            span,
            mut state,
            state_upto,
            sequence,
            sight,
            recent,
            is_from_tables,
        } = self;
        let Recent {
            events,
            limited,
            sequences,
            withheld,
            before: before_joining,
            changes,
            receipts,
        } = recent.unwrap_or_default();
        let mut take_back_to = |position: Position| {
            let undone = changes
                .iter()
                .rev()
                .filter(|(changed, _)| *changed > position && *changed <= state_upto);
            for (_, change) in undone {
                state.set(change.key_nid, change.old);
            }
            state.clone()
        };
        let news = |change: &StateChange| (change.key_nid, change.new);
        let changed = |after: Position, upto: Position| {
            let changed = changes
                .iter()
                .filter(move |(position, _)| *position > after && *position <= upto);
            changed.map(move |(_, change)| news(change))
        };
        let (current, before) = (take_back_to(span.upto), Position(end.0 - 1));
        let read_apart = is_from_tables && !span.whole;
        let mut told: BTreeMap<KeyNid, Option<EventNid>> = if span.stateless {
            BTreeMap::new()
        } else if span.whole {
            let state = take_back_to(before);
            state
                .iter()
                .map(|(key_nid, event_nid)| (key_nid, Some(event_nid)))
                .collect()
        } else if read_apart {
            delta.iter().map(news).collect()
        } else {
            changed(span.since, before).collect()
        };
        if !span.stateless && (!read_apart || may_hide(sync, &room) || is_pieced_together(sync, &room)) {
            // State that the filter keeps out of the timeline would come nowhere else, nor would what an event brought
            // that is of another key: who is in a room of which a part of the state is here, or what forks came to.
            let shown: HashSet<KeyNid> = events.iter().filter_map(|(_, event)| event.key_nid).collect();
            let within: BTreeMap<_, _> = if read_apart {
                within.iter().map(news).collect()
            } else {
                changed(before, span.upto).collect()
            };
            told.extend(within.into_iter().filter(|(key_nid, _)| !shown.contains(key_nid)));
        }
        let (first, upto) = sequences.unwrap_or((sequence + 1, sequence));
        // What a limited timeline leaves out is not accounted for.
        let first = match events.first() {
            Some((_, event)) if limited => event.place.sequence,
            None if limited => upto + 1,
            _ => first,
        };
        let after = first - 1;
        let stretches = match span.joined_at {
            Some(_) if ticks::may_count(sync.engine, &sync.user.preferences, &room) => {
                let others = events.iter().filter(|(_, event)| is_of_others(sync, event));
                let messages = others.map(|(_, event)| Message {
                    sequence: event.place.sequence,
                    event_nid: event.nid,
                });
                let after = before_joining.map_or(after, |before| before.max(after));
                ticks::stretches((after, upto), messages, withheld)
            }
            _ => Vec::new(),
        };
        Material {
            range: Range { after, upto },
            stretches,
            room,
            span,
            events,
            limited,
            state: told,
            receipts,
            current,
            sight,
        }
    }
}
