//! Latencies, all kept: a run is bounded, and percentiles of what is kept are exact.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Measured durations, in any order.
#[derive(Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// `None` where nothing was measured.
    pub fn percentiles(mut self) -> Option<Percentiles> {
        self.0.sort_unstable();
        let last = self.0.len().checked_sub(1)?;
        // The nearest rank: a latency that was measured, never one in between.
        let at =
            |percent: usize| ms(self.0[(self.0.len() * percent).div_ceil(100).saturating_sub(1).min(last)]);
        Some(Percentiles {
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        })
    }
}

/// In milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_ranks() {
        let mut latencies = Latencies::default();
        for number in (1..=200).rev() {
            latencies.record(Duration::from_millis(number));
        }
        let percentiles = latencies.percentiles().unwrap();
        assert_eq!(
            percentiles,
            Percentiles {
                p50: 100.0,
                p90: 180.0,
                p99: 198.0,
                max: 200.0
            }
        );
    }

    #[test]
    fn one_latency_is_every_percentile_and_none_is_none() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_millis(3));
        let percentiles = latencies.percentiles().unwrap();
        assert_eq!(
            percentiles,
            Percentiles {
                p50: 3.0,
                p90: 3.0,
                p99: 3.0,
                max: 3.0
            }
        );
        assert_eq!(Latencies::default().percentiles(), None);
    }
}
