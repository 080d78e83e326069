//! What is pushed: at most eight answers that the client has not confirmed; then it is waited for, and all that came
//! meanwhile is one answer.

use std::{collections::VecDeque, future::pending, sync::Arc};

use futures_util::FutureExt as _;
use hearth_engine::{
    Engine,
    sync::{Feed, Response, SyncError},
};
use metrics::counter;
use tokio_util::task::AbortOnDropHandle;

use super::{end::End, frames, session::Session};

/// Pushes that may be unconfirmed.
const WINDOW: usize = 8;

/// The pushes of a connection.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    /// Nothing before the client asks for it, and while it is looked whether there is something.
    feed: Option<Feed>,
    looking: Option<AbortOnDropHandle<Looked>>,
    looked: Option<Looked>,
    /// There may be something new.
    is_due: bool,
    /// The tokens of pushes that the client has not confirmed.
    unconfirmed: VecDeque<String>,
}

#[derive(Debug)]
struct Looked {
    feed: Feed,
    found: Result<Option<Response>, SyncError>,
}

impl Pushes {
    /// Begins, or begins anew.
    pub fn start(&mut self, feed: Feed) {
        *self = Self {
            feed: Some(feed),
            is_due: true,
            ..Self::default()
        };
    }

    /// There may be something new.
    pub fn note_news(&mut self) {
        self.is_due = true;
    }

    /// Looks for something new, if that makes sense now.
    ///
    /// On a task of its own if it takes time: a client that is slow to read what is being written must not hold up a
    /// database connection.
    pub fn begin(&mut self, engine: &Arc<Engine>, session: &Session) {
        if !self.is_due || session.is_expired() || self.unconfirmed.len() >= WINDOW || self.looked.is_some() {
            return;
        }
        let Some(mut feed) = self.feed.take() else { return };
        self.is_due = false;
        let (engine, requester) = (Arc::clone(engine), session.requester.clone());
        let mut look = Box::pin(async move {
            let found = feed.next(&engine, &requester).await;
            Looked { feed, found }
        });
        match look.as_mut().now_or_never() {
            Some(looked) => self.looked = Some(looked),
            None => self.looking = Some(AbortOnDropHandle::new(tokio::spawn(look))),
        }
    }

    /// The next push; nothing if there was nothing to push. Never while none is on its way.
    pub async fn ready(&mut self) -> Result<Option<String>, End> {
        let looked = match (self.looked.take(), &mut self.looking) {
            (Some(looked), _) => looked,
            (None, Some(looking)) => looking.await.map_err(|_| End::Failed)?,
            (None, None) => pending().await,
        };
        self.looking = None;
        let Looked { feed, found } = looked;
        self.is_due |= feed.has_more();
        self.feed = Some(feed);
        let failed = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, "could not find out what to push");
            End::Failed
        };
        let Some(response) = found.map_err(|error| failed(&error))? else {
            return Ok(None);
        };
        let frame = frames::push(&response).map_err(|error| failed(&error))?;
        counter!("hearth_socket_pushes_total").increment(1);
        self.unconfirmed.push_back(response.next_batch);
        Ok(Some(frame))
    }

    /// The client has everything up to this push. Says whether that is news.
    pub fn confirm(&mut self, pos: &str) -> bool {
        let Some(index) = self.unconfirmed.iter().position(|sent| sent == pos) else {
            return false;
        };
        self.unconfirmed.drain(..=index);
        true
    }
}
