//! How much of this server one other may have at a time.

use std::{net::IpAddr, sync::Arc};

use hearth_endpoint::bulk::{Crowded, Place, Places};
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests of one server that are worked on at a time.
const AT_A_TIME: usize = 16;
/// Requests of one server that wait for their turn; more are refused.
const WAITING: usize = 64;
/// Servers that are told apart. Whoever is forgotten starts anew.
const SERVERS: usize = 10_000;

/// Large bodies that are in memory at a time: each has up to 12 MiB.
const BODIES: usize = 64;
const BODIES_OF_ONE: usize = 8;
/// Large answers that are in memory at a time: the states of the largest rooms have hundreds of MiB.
const ANSWERS: usize = 8;
const ANSWERS_FOR_ONE: usize = 2;

/// What all servers share.
#[derive(Debug)]
pub(crate) struct Turns {
    servers: Cache<OwnedServerName, Arc<Line>>,
    bodies: Places<Option<IpAddr>>,
    answers: Places<OwnedServerName>,
}

/// The requests of one server.
#[derive(Debug)]
struct Line {
    /// Those that are worked on, and those that wait.
    here: Arc<Semaphore>,
    at_work: Arc<Semaphore>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _here: OwnedSemaphorePermit,
    _at_work: OwnedSemaphorePermit,
    _answer: Option<Place>,
}

impl Turns {
    /// Waits until a request of `origin` may be worked on, whose answer may be large.
    pub(crate) async fn wait(&self, origin: &ServerName, is_large: bool) -> Result<Turn, Crowded> {
        let line = self.servers.get_or_insert_with(origin, || {
            Ok::<_, Crowded>(Arc::new(Line {
                here: Arc::new(Semaphore::new(AT_A_TIME + WAITING)),
                at_work: Arc::new(Semaphore::new(AT_A_TIME)),
            }))
        })?;
        let here = Arc::clone(&line.here).try_acquire_owned().map_err(|_| Crowded)?;
        let at_work = Arc::clone(&line.at_work).acquire_owned().await;
        let at_work = at_work.map_err(|_| Crowded)?;
        // Last, since all servers share them: nobody has one who can't go on at once.
        let answer = match is_large {
            true => Some(self.answers.take(&origin.to_owned()).await?),
            false => None,
        };
        Ok(Turn {
            _here: here,
            _at_work: at_work,
            _answer: answer,
        })
    }

    /// A place for a large body from somewhere. Who sends it isn't known before it was read.
    pub(crate) async fn body(&self, from: Option<IpAddr>) -> Result<Place, Crowded> {
        self.bodies.take(&from).await
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            servers: Cache::new(SERVERS),
            bodies: Places::new(BODIES, BODIES_OF_ONE),
            answers: Places::new(ANSWERS, ANSWERS_FOR_ONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all};
    use ruma::server_name;

    use super::*;

    #[tokio::test]
    async fn a_flood_is_refused_and_holds_up_nobody_else() {
        let (turns, flood) = (Turns::default(), server_name!("flood.example"));
        let at_work = join_all((0..AT_A_TIME).map(|_| turns.wait(flood, false))).await;
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(turns.wait(flood, false))).collect();
        for wait in &mut waiting {
            assert!(wait.now_or_never().is_none(), "{AT_A_TIME} are worked on already");
        }
        let refused = turns.wait(flood, false).now_or_never().expect("no waiting");
        assert!(refused.is_err());
        let other = turns.wait(server_name!("other.example"), true).now_or_never();
        assert!(matches!(other, Some(Ok(_))), "{other:?}");
        drop(at_work);
        assert!(
            waiting
                .iter_mut()
                .all(|wait| wait.now_or_never().is_some_and(|turn| turn.is_ok()))
        );
        drop(waiting);
        assert!(
            turns
                .wait(flood, false)
                .now_or_never()
                .is_some_and(|turn| turn.is_ok())
        );
    }

    #[tokio::test]
    async fn large_answers_to_one_server_wait_for_each_other() {
        let (turns, one) = (Turns::default(), server_name!("one.example"));
        let mut first = join_all((0..ANSWERS_FOR_ONE).map(|_| turns.wait(one, true))).await;
        let mut next = Box::pin(turns.wait(one, true));
        assert!(next.as_mut().now_or_never().is_none());
        let small = turns.wait(one, false).now_or_never();
        assert!(matches!(small, Some(Ok(_))), "{small:?}");
        first.pop();
        assert!(next.as_mut().now_or_never().is_some_and(|turn| turn.is_ok()));
    }
}
