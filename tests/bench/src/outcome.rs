//! What a scenario measured, as it goes into the JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::{Costs, Load, Percentiles};

/// One line of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Which line it is, equal for equal work: `send-many-rooms`.
    pub name: String,
    /// In words, with the sizes.
    pub what: String,
    pub operations: u64,
    /// Operations of which no answer, or none in time, came.
    pub failed: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_failure: Option<String>,
    pub seconds: f64,
    /// `None` where nothing was done over and over.
    pub per_second: Option<f64>,
    pub latency_ms: Option<Percentiles>,
    /// Per operation.
    pub costs: Costs,
    /// Other figures, by name with unit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub further: BTreeMap<String, f64>,
}

impl Outcome {
    /// Of operations done in a loop, each with its latency.
    pub fn of_load(name: impl Into<String>, what: impl Into<String>, load: Load, costs: Costs) -> Self {
        let operations = load.latencies.len();
        let seconds = load.elapsed.as_secs_f64();
        Self {
            operations,
            failed: load.failed,
            first_failure: load.first_failure,
            seconds,
            per_second: (seconds > 0.0).then(|| operations as f64 / seconds),
            latency_ms: load.latencies.percentiles(),
            costs,
            ..Self::bare(name, what)
        }
    }

    /// Without any figure yet.
    pub fn bare(name: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            what: what.into(),
            operations: 0,
            failed: 0,
            first_failure: None,
            seconds: 0.0,
            per_second: None,
            latency_ms: None,
            costs: Costs::default(),
            further: BTreeMap::new(),
        }
    }

    /// With another figure, where it is known.
    pub fn with(mut self, name: &str, figure: Option<f64>) -> Self {
        if let Some(figure) = figure {
            self.further.insert(name.to_owned(), figure);
        }
        self
    }
}

/// A whole run against one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// As it was called on the command line.
    pub server: String,
    pub outcomes: Vec<Outcome>,
    /// Scenarios that could not be run, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub broken: BTreeMap<String, String>,
}
