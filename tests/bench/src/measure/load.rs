//! The closed loop: each worker begins its next operation when its last one has ended.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::Latencies;
use crate::{client::ClientError, progress::Progress};

/// A server that answers nothing but errors is given up after so many.
const FAILURES: u64 = 50;

/// Where a loop ends, whichever comes first.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub operations: u64,
    pub time: Duration,
}

/// What a loop has done.
#[derive(Debug, Default)]
pub struct Load {
    pub latencies: Latencies,
    pub failed: u64,
    pub first_failure: Option<String>,
    pub elapsed: Duration,
}

/// Runs all workers at once until the limit. `work` gets a worker and the operation's number.
pub async fn closed_loop<W>(
    workers: &mut [W],
    limit: Limit,
    progress: &Progress,
    work: impl AsyncFn(&mut W, u64) -> Result<(), ClientError>,
) -> Load {
    progress.begin("measuring", limit.operations);
    let started = Instant::now();
    let next = Cell::new(0);
    let load = RefCell::new(Load::default());
    let work = &work;
    let loops = workers.iter_mut().map(async |worker| {
        while started.elapsed() < limit.time && next.get() < limit.operations && !hopeless(&load.borrow()) {
            let number = next.get();
            next.set(number + 1);
            let begun = Instant::now();
            let done = work(worker, number).await;
            progress.step();
            let mut load = load.borrow_mut();
            match done {
                Ok(()) => load.latencies.record(begun.elapsed()),
                Err(error) => {
                    load.failed += 1;
                    load.first_failure.get_or_insert_with(|| error.to_string());
                }
            }
        }
    });
    join_all(loops).await;
    Load {
        elapsed: started.elapsed(),
        ..load.into_inner()
    }
}

fn hopeless(load: &Load) -> bool {
    load.failed >= FAILURES && load.failed > load.latencies.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn run(limit: Limit, work: impl AsyncFn(&mut u64, u64) -> Result<(), ClientError>) -> Load {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(closed_loop(&mut [0, 0, 0], limit, &Progress::new(), work))
    }

    #[test]
    fn a_loop_ends_at_its_count_and_numbers_each_operation_once() {
        let seen = RefCell::new(Vec::new());
        let limit = Limit {
            operations: 10,
            time: HOUR,
        };
        let load = run(limit, async |_, number| {
            tokio::task::yield_now().await;
            seen.borrow_mut().push(number);
            Ok(())
        });
        assert_eq!(load.latencies.len(), 10);
        let mut seen = seen.into_inner();
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_loop_ends_in_time() {
        let limit = Limit {
            operations: u64::MAX,
            time: Duration::from_millis(20),
        };
        let load = run(limit, async |_, _| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(())
        });
        assert!(load.latencies.len() > 0 && load.elapsed >= limit.time);
    }

    #[test]
    fn a_server_that_only_fails_is_given_up() {
        let limit = Limit {
            operations: u64::MAX,
            time: HOUR,
        };
        let load = run(limit, async |_, _| Err(ClientError::Token));
        assert!(load.failed < FAILURES + 3 && load.first_failure.is_some());
    }
}
