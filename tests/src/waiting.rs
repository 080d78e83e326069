//! Waiting with an end: a test that would wait for ever fails instead, and says for what.

use std::{panic::Location, time::Duration};

use tokio::time::{Instant, sleep, timeout};

/// How long any single thing is waited for. Generous: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// What `future` gives.
///
/// # Panics
///
/// When that takes longer than `limit`.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    let what = what.to_owned();
    async move {
        let result = timeout(limit, future).await;
        result.unwrap_or_else(|_| panic!("{caller}: waited {limit:?} in vain until {what}"))
    }
}

/// Asks `question` again and again until it has an answer. For what no sync tells: prefer `sync_until`.
///
/// # Panics
///
/// When there is none within [`PATIENCE`].
#[track_caller]
pub fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut question: impl FnMut() -> F,
) -> impl Future<Output = T> {
    let what = what.to_owned();
    until_ok(move || {
        let asked = question();
        let what = what.clone();
        async move { asked.await.ok_or(what) }
    })
}

/// Asks `question` again and again until it has an answer; until then it says what is waited for.
///
/// # Panics
///
/// When there is none within [`PATIENCE`], with what was said last.
#[track_caller]
pub fn until_ok<T, F: Future<Output = Result<T, String>>>(
    mut question: impl FnMut() -> F,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match question().await {
                Ok(answer) => return answer,
                Err(what) if Instant::now() >= deadline => {
                    panic!("{caller}: waited {PATIENCE:?} in vain until {what}")
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }
}
