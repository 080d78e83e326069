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
    let caller = Location::caller();
    let what = what.to_owned();
    async move {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            assert!(
                Instant::now() < deadline,
                "{caller}: waited {PATIENCE:?} in vain until {what}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}
