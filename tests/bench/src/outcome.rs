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
    pub failed: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_failure: Option<String>,
    pub seconds: f64,
    pub per_second: f64,
    pub latency_ms: Option<Percentiles>,
    /// Per operation.
    pub costs: Costs,
    /// Other figures, by name with unit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub further: BTreeMap<String, f64>,
}

impl Outcome {
    pub fn new(name: impl Into<String>, what: impl Into<String>, load: Load, costs: Costs) -> Self {
        let operations = load.latencies.len();
        let seconds = load.elapsed.as_secs_f64();
        Self {
            name: name.into(),
            what: what.into(),
            operations,
            failed: load.failed,
            first_failure: load.first_failure,
            seconds,
            per_second: if seconds > 0.0 { operations as f64 / seconds } else { 0.0 },
            latency_ms: load.latencies.percentiles(),
            costs,
            further: BTreeMap::new(),
        }
    }

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
    /// As it calls itself in `federation/v1/version` is not asked: the client API alone is used.
    pub server: String,
    pub outcomes: Vec<Outcome>,
    /// Scenarios that could not be run, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub broken: BTreeMap<String, String>,
}
