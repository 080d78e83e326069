//! Which figures the page shows, and how several runs become one cell.

use super::Server;
use crate::{outcome::Outcome, table::number};

/// One table of the page.
pub struct Figure {
    pub key: Key,
    pub title: &'static str,
    /// The head of the column that compares two servers.
    pub compared: &'static str,
    pub more_is_better: bool,
    pub read: fn(&Outcome) -> Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    PerSecond,
    Median,
    Slow,
    Cpu,
    Statements,
    Disk,
    Memory,
    EachClient,
    AnswerSize,
}

pub const FIGURES: &[Figure] = &[
    Figure {
        key: Key::PerSecond,
        title: "Operations a second",
        compared: "times as many",
        more_is_better: true,
        read: |outcome| outcome.per_second,
    },
    Figure {
        key: Key::Median,
        title: "Median latency, ms",
        compared: "times as fast",
        more_is_better: false,
        read: |outcome| outcome.latency_ms.map(|latency| latency.p50),
    },
    Figure {
        key: Key::Slow,
        title: "99th percentile of the latency, ms",
        compared: "times as fast",
        more_is_better: false,
        read: |outcome| outcome.latency_ms.map(|latency| latency.p99),
    },
    Figure {
        key: Key::Cpu,
        title: "CPU time of server and PostgreSQL, ms an operation",
        compared: "times as little",
        more_is_better: false,
        read: |outcome| {
            outcome
                .costs
                .server_cpu_ms
                .zip(outcome.costs.postgres_cpu_ms)
                .map(|(a, b)| a + b)
        },
    },
    Figure {
        key: Key::Statements,
        title: "SQL statements an operation",
        compared: "times as few",
        more_is_better: false,
        read: |outcome| outcome.costs.statements,
    },
    Figure {
        key: Key::Disk,
        title: "Growth of the database, bytes an operation",
        compared: "times as few",
        more_is_better: false,
        // Where little was written, whole pages and free space hide what an operation takes.
        read: |outcome| {
            let writes = outcome.name.starts_with("send-") || outcome.name.starts_with("state-changes");
            outcome.costs.disk_bytes.filter(|_| writes)
        },
    },
    Figure {
        key: Key::Memory,
        title: "Memory of the server once started, MiB",
        compared: "times as little",
        more_is_better: false,
        read: |outcome| outcome.further.get("MiB").copied(),
    },
    Figure {
        key: Key::EachClient,
        title: "Memory of the server for a waiting client, KiB",
        compared: "times as little",
        more_is_better: false,
        read: |outcome| outcome.further.get("KiB a client").copied(),
    },
    Figure {
        key: Key::AnswerSize,
        title: "Size of the answer, KiB",
        compared: "times as small",
        more_is_better: false,
        read: |outcome| outcome.further.get("KiB an answer").copied(),
    },
];

impl Figure {
    /// Of all runs of a server that have it.
    pub fn spread(&self, name: &str, server: &Server<'_>) -> Option<Spread> {
        let outcomes = server.runs.iter().flat_map(|run| &run.outcomes);
        Spread::of(
            outcomes
                .filter(|outcome| outcome.name == name)
                .filter_map(self.read),
        )
    }

    /// How many times better `own` is; `None` where one of them is nothing.
    pub fn ratio(&self, own: f64, other: f64) -> Option<f64> {
        let (better, worse) = if self.more_is_better {
            (own, other)
        } else {
            (other, own)
        };
        (better > 0.0 && worse > 0.0).then(|| better / worse)
    }
}

/// Several runs in one cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(figures: impl Iterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let (below, above) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
        Some(Self {
            min,
            median: f64::midpoint(below, above),
            max,
        })
    }

    pub fn cell(self) -> String {
        if self.min == self.max {
            format!("**{}**", number(self.median))
        } else {
            format!(
                "{} – **{}** – {}",
                number(self.min),
                number(self.median),
                number(self.max)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0].into_iter()).unwrap();
        assert_eq!(
            spread,
            Spread {
                min: 1.0,
                median: 2.5,
                max: 4.0
            }
        );
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn a_ratio_says_how_many_times_better() {
        let by_key = |key| FIGURES.iter().find(|figure| figure.key == key).unwrap();
        assert_eq!(by_key(Key::PerSecond).ratio(200.0, 50.0), Some(4.0));
        assert_eq!(by_key(Key::Median).ratio(2.0, 50.0), Some(25.0));
        assert_eq!(by_key(Key::Statements).ratio(0.0, 50.0), None);
    }
}
