//! What a live connection is sent: the same answers as `/v3/sync` gives, one after the other, bounded in size, with the
//! sequence numbers by which a client proves that it missed nothing.

use std::sync::Arc;

use parking_lot::Mutex;
use ruma::api::client::sync::sync_events::v3::Filter;
use tokio::time::Instant;

use super::{Asked, Response, SyncError, parts::Bound, told};
use crate::{
    Engine, accounts::Requester, encryption::to_device::told as to_device, filters, ticks, tokens::SyncToken,
    waiting::Wait,
};

/// Events of a timeline if the filter says nothing.
const DEFAULT_LIMIT: usize = 100;

/// How much one answer tells: rooms that were not told before, and bytes.
const BOUND: Bound = Bound {
    rooms: 100,
    bytes: 1 << 20,
};

/// What a live connection asks for.
#[derive(Debug, Default)]
pub struct FeedRequest {
    /// The token of a sync, or of an answer of a feed.
    pub since: Option<String>,
    /// What the client wants to know of.
    pub filter: Option<Filter>,
    /// State as of the end of the timeline instead of its start.
    pub use_state_after: bool,
}

/// Goes on from answer to answer, as long as a connection lives.
#[derive(Debug)]
pub struct Feed {
    asked: Asked,
    /// The token of the last answer.
    last: Option<SyncToken>,
    has_more: bool,
}

impl Feed {
    /// Begins where `request` says.
    pub async fn open(
        engine: &Engine,
        requester: &Requester,
        request: FeedRequest,
    ) -> Result<Self, SyncError> {
        let token = request
            .since
            .as_deref()
            .map(str::parse::<SyncToken>)
            .transpose()?;
        let filter = filters::resolve(engine, requester, request.filter.as_ref()).await?;
        if let Some(token) = &token {
            confirmed(engine, requester, token);
        }
        Ok(Self {
            last: None,
            has_more: false,
            asked: Asked {
                filter,
                token,
                full_state: false,
                use_state_after: request.use_state_after,
                default_limit: DEFAULT_LIMIT,
                bound: Some(BOUND),
                deadline: Instant::now(),
                keys: Mutex::default(),
            },
        })
    }

    /// What became true since the answer before, if anything; never waits for it. A first one is told even if it is
    /// empty: it says that there is nothing.
    pub async fn next(
        &mut self,
        engine: &Arc<Engine>,
        requester: &Requester,
    ) -> Result<Option<Response>, SyncError> {
        let told = Box::pin(told(engine, requester, &self.asked)).await?;
        let is_first = self.asked.token.is_none() || told.is_cut_back;
        // What was nothing for this client up to here need not be looked at again.
        self.asked.token = Some(told.next);
        self.has_more = told.has_more;
        if !is_first && told.response.is_empty() {
            return Ok(None);
        }
        let follows = self.last.replace(told.next);
        Ok(Some(told.sent(engine, requester, follows)))
    }

    /// Whether there is more to tell at once: the answer before was a part.
    pub fn has_more(&self) -> bool {
        self.has_more
    }
}

/// Registers that a connection waits for news of its user. Everything that happens after a call of [`Wait::woken`] wakes
/// the future that it gave, changes of the account included.
pub fn wait<'a>(engine: &'a Engine, requester: &Requester) -> Wait<'a> {
    engine.waiting.wait_for(requester.user_nid)
}

/// The device has everything that it was told up to `token`: the seam at which to-device messages may be let go, and
/// ticks move.
pub fn confirmed(engine: &Engine, requester: &Requester, token: &SyncToken) {
    ticks::confirmed(engine, requester, token);
    to_device::confirmed(engine, requester, token);
}
