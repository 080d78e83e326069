//! Sync, for `/v3/sync` and for live connections: what became true since a position of the log, for one device.
//!
//! A sync fixes the end of its range first and tells nothing beyond it. It plans which rooms it has to speak of
//! ([`plan`]), gathers their material from memory or with a fixed number of queries ([`gather`]), and composes the
//! answer from it ([`compose`]).

mod account;
mod compose;
mod gather;
mod lazy;
mod live;
mod parts;
mod plan;
mod presence;
mod response;
pub(crate) mod summary;
mod typing;

use std::{sync::Arc, time::Duration};

use hearth_storage::{Position, RoomNid};
use parking_lot::Mutex;
use ruma::{
    OwnedRoomId,
    api::client::{filter::FilterDefinition, sync::sync_events::v3::Filter},
};
use tokio::time::Instant;

use crate::{
    Engine, Error,
    accounts::{AuthenticateError, Requester, authenticate::authenticate_again},
    encryption::{
        counts::{self, KeyCounts},
        device_lists,
        to_device::told as to_device,
    },
    filters::{self, FilterError},
    log::{LogHead, position_of},
    presence::{State as SetPresence, connected},
    ticks::{RoomTold, Telling},
    tokens::{BadToken, Part, SyncToken},
    users::{self, User},
};
pub(crate) use lazy::ToldMembers;
pub use live::{Feed, FeedRequest, confirmed, wait};
use parts::Bound;
use plan::Plan;
pub use response::*;

/// No sync waits longer, whatever a client asks for.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);
/// Events of a timeline if the client's filter says nothing.
const DEFAULT_LIMIT: usize = 10;

/// What a client asks for.
#[derive(Debug, Default)]
pub struct SyncRequest {
    /// The token of the sync before.
    pub since: Option<String>,
    /// What the client wants to know of.
    pub filter: Option<Filter>,
    /// State whole, as if there had been no sync before.
    pub full_state: bool,
    /// State as of the end of the timeline instead of its start (`state_after`).
    pub use_state_after: bool,
    /// How long to wait for something to tell.
    pub timeout: Duration,
    /// What the user is while it waits, and for a while after.
    pub set_presence: SetPresence,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// `since` is none of our tokens.
    #[error("`since`: {0}")]
    BadToken(#[from] BadToken),
    /// The filter can't be used.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The device was logged out, or its token expired, while it waited.
    #[error(transparent)]
    Unauthenticated(#[from] AuthenticateError),
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// One sync, with what was resolved of its request.
pub(crate) struct Sync<'a> {
    pub engine: &'a Engine,
    pub requester: &'a Requester,
    pub filter: Arc<FilterDefinition>,
    pub user: Arc<User>,
    /// The position that the client has seen everything up to; nothing at the first sync.
    pub since: Option<Position>,
    /// What the client has seen of the ephemeral.
    pub since_token: Option<SyncToken>,
    /// Which rooms that position is of, where the client was told a part of them.
    pub part: Option<Part>,
    pub head: LogHead,
    pub full_state: bool,
    pub use_state_after: bool,
    /// The token was cut back: timelines are told as limited.
    pub cut_back: bool,
    /// Events of a timeline if the filter says nothing.
    pub default_limit: usize,
    /// How much is told at once. For live connections, which are told sequence numbers besides.
    pub bound: Option<Bound>,
}

impl Sync<'_> {
    /// The end of the range.
    pub fn upto(&self) -> Position {
        self.head.position
    }

    /// Whether members are told as they matter, so that a room can be told whose members aren't all known.
    pub fn loads_lazily(&self) -> bool {
        !self.filter.room.state.lazy_load_options.is_disabled()
    }
}

/// What a sync was resolved to.
#[derive(Debug)]
struct Asked {
    filter: Arc<FilterDefinition>,
    token: Option<SyncToken>,
    full_state: bool,
    use_state_after: bool,
    default_limit: usize,
    bound: Option<Bound>,
    deadline: Instant,
    /// What the device had for others when it was looked at last.
    keys: Mutex<Option<Arc<KeyCounts>>>,
}

impl Asked {
    fn tell_keys(&self, keys: &Arc<KeyCounts>, response: &mut Response) {
        let before = self.keys.lock().replace(Arc::clone(keys));
        response.keys_changed = before.is_some_and(|before| before != *keys);
        response.keys = KeyCounts::clone(keys);
    }
}

/// What there is to tell, and where that leads to.
struct Told {
    response: Response,
    next: SyncToken,
    /// The log lost its end, which the client must be told otherwise.
    is_cut_back: bool,
    /// It is a part of what there is to tell.
    has_more: bool,
    /// Of what others said in rooms, the parts that it tells without a hole.
    rooms: Vec<RoomTold>,
}

impl Told {
    /// Messages to the device alone: more of them wait than are told at once. What was said in rooms after them is told
    /// with the last of them, and not before.
    fn messages_only(
        messages: to_device::Told,
        token: Option<SyncToken>,
        since: Option<Position>,
        head: LogHead,
        cut_at: Position,
    ) -> Self {
        let next = SyncToken {
            generation: head.generation,
            position: since.unwrap_or_default(),
            ephemeral: token.and_then(|token| token.ephemeral),
            part: token.and_then(|token| token.part),
            to_device: Some(cut_at),
        };
        let mut response = Response {
            next_batch: next.to_string(),
            ..Response::default()
        };
        response.to_device.events = messages.events;
        Self {
            response,
            next,
            is_cut_back: false,
            has_more: true,
            rooms: Vec::new(),
        }
    }

    /// The answer, which is being sent; after the one of the token `follows`, if only after that.
    fn sent(self, engine: &Engine, requester: &Requester, follows: Option<SyncToken>) -> Response {
        let telling = Telling {
            token: self.next,
            follows,
            rooms: self.rooms,
        };
        engine.ticks.tell(requester, telling);
        self.response
    }
}

/// Answers a sync: at once if there is something to tell, or when there is, or when the time is over.
///
/// Most syncs do nothing but wait, and there are as many as clients. So what they take while they wait is kept small:
/// the rest is boxed, and gone by then. This is no `async fn`, since that would keep room for its arguments.
pub fn sync<'a>(
    engine: &'a Arc<Engine>,
    requester: &'a Requester,
    request: SyncRequest,
) -> impl Future<Output = Result<Response, SyncError>> + Send + 'a {
    let set_presence = request.set_presence;
    let asked = Box::pin(resolve(engine, requester, request));
    async move {
        let asked = asked.await?;
        let _connected = connected(engine, requester, Some(set_presence));
        let wait = engine.waiting.wait_for(requester.user_nid);
        loop {
            // Made before looking, so that what comes while looking wakes it.
            let woken = wait.woken();
            if let Some(response) = Box::pin(look(engine, requester, &asked)).await? {
                return Ok(response);
            }
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep_until(asked.deadline) => {}
                () = engine.shutdown.cancelled() => {}
            }
            // The session may have ended while it waited.
            Box::pin(authenticate_again(engine, requester)).await?;
        }
    }
}

async fn resolve(engine: &Engine, requester: &Requester, request: SyncRequest) -> Result<Asked, SyncError> {
    let deadline = Instant::now() + request.timeout.min(MAX_TIMEOUT);
    let filter = filters::resolve(engine, requester, request.filter.as_ref()).await?;
    let token = request
        .since
        .as_deref()
        .map(str::parse::<SyncToken>)
        .transpose()?;
    if let Some(token) = &token {
        confirmed(engine, requester, token);
    }
    Ok(Asked {
        filter,
        token,
        full_state: request.full_state,
        use_state_after: request.use_state_after,
        default_limit: DEFAULT_LIMIT,
        bound: None,
        deadline,
        keys: Mutex::default(),
    })
}

/// The answer as of now, unless there is nothing to tell and time to wait.
async fn look(
    engine: &Arc<Engine>,
    requester: &Requester,
    asked: &Asked,
) -> Result<Option<Response>, SyncError> {
    let told = told(engine, requester, asked).await?;
    let is_due = asked.token.is_none_or(|token| token.is_unfinished())
        || told.has_more
        || asked.full_state
        || told.is_cut_back
        || Instant::now() >= asked.deadline
        || engine.shutdown.is_cancelled();
    Ok((is_due || !told.response.is_empty()).then(|| told.sent(engine, requester, None)))
}

/// What there is to tell as of now.
async fn told(engine: &Arc<Engine>, requester: &Requester, asked: &Asked) -> Result<Told, SyncError> {
    let (head, user) = present(engine, requester).await?;
    let (since, cut_back) = match &asked.token {
        // Of a first sync, only messages to the device were told yet.
        Some(token) if token.to_device.is_some() && token.position == Position(0) => (None, false),
        Some(token) => {
            let (position, cut_back) = position_of(engine, token, head).await?;
            (Some(position), cut_back)
        }
        None => (None, false),
    };
    let mut ephemeral = typing::now(engine);
    let messages = to_device::told(engine, requester, asked.token.as_ref(), head).await?;
    let keys = counts::of_device(engine, requester.device_nid).await?;
    if let Some(cut_at) = messages.cut_at
        && !asked.full_state
        && !cut_back
    {
        let mut told = Told::messages_only(messages, asked.token, since, head, cut_at);
        asked.tell_keys(&keys, &mut told.response);
        return Ok(told);
    }
    let sync = Sync {
        engine,
        requester,
        filter: Arc::clone(&asked.filter),
        user,
        since,
        since_token: asked.token,
        part: asked.token.and_then(|token| token.part).map(|part| Part {
            since: part.since.min(since),
            ..part
        }),
        head,
        // What was lost with the end of the log, the client must be told otherwise.
        full_state: asked.full_state || cut_back,
        use_state_after: asked.use_state_after,
        cut_back,
        default_limit: asked.default_limit,
        bound: asked.bound,
    };
    let (mut response, upto_room, rooms) = answer(&sync).await?;
    response.to_device.events = messages.events;
    asked.tell_keys(&keys, &mut response);
    if let Some(since) = sync.since {
        let user = (requester.user_nid, &*sync.user);
        response.device_lists = device_lists::between(engine, user, since, sync.upto()).await?;
    }
    let presence = presence::tell(&sync).await?;
    response.presence.events = presence.events;
    ephemeral.presence = presence.upto;
    let next = SyncToken {
        generation: head.generation,
        position: head.position,
        ephemeral: Some(ephemeral),
        part: upto_room.map(|upto_room| sync.part_upto(upto_room)),
        to_device: messages.cut_at,
    };
    response.next_batch = next.to_string();
    Ok(Told {
        response,
        next,
        is_cut_back: cut_back,
        has_more: presence.is_cut || next.is_unfinished(),
        rooms,
    })
}

/// The end of the log and the user as of just there.
async fn present(engine: &Engine, requester: &Requester) -> Result<(LogHead, Arc<User>), Error> {
    let mut applied = engine.log.watch();
    loop {
        let head = *applied.borrow_and_update();
        let user = users::load(engine, requester.user_nid).await?;
        if user.newest <= head.position {
            return Ok((head, user));
        }
        // The user is being brought up to an entry that the head doesn't include yet.
        let newest = user.newest;
        let reached = applied.wait_for(|head| head.position >= newest).await.is_ok();
        if !reached {
            return Ok((head, user));
        }
    }
}

/// The answer; the last room of it, where others are still to come; and what it tells without a hole.
async fn answer(sync: &Sync<'_>) -> Result<(Response, Option<RoomNid>, Vec<RoomTold>), Error> {
    let mut response = Response::default();
    let data = account::data(sync).await?;
    let typing = typing::changed(sync).await?;
    let mut plan = Plan::make(sync, &data, typing.keys().copied()).await?;
    // After a cut the answer is whole, as if there had been no sync before.
    let bound = sync.bound.filter(|_| !sync.full_state);
    let mut upto_room = bound.and_then(|bound| plan.cut(sync, bound.rooms));
    let materials = gather::gather(sync, &plan).await?;
    let mut told = compose::compose(sync, &plan, materials, data, typing, &mut response).await?;
    let mut stretches: Vec<(OwnedRoomId, RoomTold)> = told.iter_mut().filter_map(stretches_of).collect();
    if let Some(bound) = bound {
        upto_room = parts::cut(sync, bound.bytes, told, &mut response).or(upto_room);
    }
    stretches.retain(|(room_id, _)| response.rooms.join.contains_key(room_id));
    let rooms = stretches.into_iter().map(|(_, room)| room).collect();
    Ok((response, upto_room, rooms))
}

fn stretches_of(told: &mut parts::ToldRoom) -> Option<(OwnedRoomId, RoomTold)> {
    let stretches = std::mem::take(&mut told.stretches);
    let room_nid = told.room_nid;
    (!stretches.is_empty()).then(|| (told.room_id.clone(), RoomTold { room_nid, stretches }))
}
