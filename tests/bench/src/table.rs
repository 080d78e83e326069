//! The figures of one run as a table for people, in Markdown.

use std::fmt::Write as _;

use crate::outcome::{Outcome, Run};

const HEAD: [&str; 14] = [
    "scenario",
    "per s",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "max ms",
    "server CPU ms",
    "PG CPU ms",
    "generator CPU ms",
    "statements",
    "writes",
    "WAL B",
    "disk B",
    "failed",
];

/// Costs are per operation.
pub fn render(run: &Run) -> String {
    let mut rows: Vec<Vec<String>> = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(run.outcomes.iter().map(row));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut table = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(table, "| {cell:width$} ")
            } else {
                write!(table, "| {cell:>width$} ")
            };
        }
        table.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ = write!(
                    table,
                    "|{}{}",
                    "-".repeat(width + 1),
                    if column == 0 { "-" } else { ":" }
                );
            }
            table.push_str("|\n");
        }
    }
    for outcome in &run.outcomes {
        for (name, figure) in &outcome.further {
            let _ = writeln!(table, "{}: {name} {}", outcome.name, number(*figure));
        }
        if let Some(failure) = &outcome.first_failure {
            let _ = writeln!(
                table,
                "{}: {} failed, the first with: {failure}",
                outcome.name, outcome.failed
            );
        }
    }
    for (scenario, error) in &run.broken {
        let _ = writeln!(table, "{scenario}: could not be run: {error}");
    }
    table
}

fn row(outcome: &Outcome) -> Vec<String> {
    let latency = outcome.latency_ms;
    let costs = &outcome.costs;
    let optional = |figure: Option<f64>| figure.map_or_else(|| "–".to_owned(), number);
    vec![
        format!("{} ({})", outcome.name, outcome.what),
        optional(outcome.per_second),
        optional(latency.map(|latency| latency.p50)),
        optional(latency.map(|latency| latency.p90)),
        optional(latency.map(|latency| latency.p99)),
        optional(latency.map(|latency| latency.max)),
        optional(costs.server_cpu_ms),
        optional(costs.postgres_cpu_ms),
        optional(costs.generator_cpu_ms),
        optional(costs.statements),
        optional(costs.writes),
        optional(costs.wal_bytes),
        optional(costs.disk_bytes),
        outcome.failed.to_string(),
    ]
}

/// With three digits that tell something.
pub fn number(figure: f64) -> String {
    let decimals = match figure.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{figure:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_tell() {
        let shown: Vec<String> = [4321.5, 43.21, 4.321, 0.4321, 0.0]
            .into_iter()
            .map(number)
            .collect();
        assert_eq!(shown, ["4322", "43.2", "4.32", "0.432", "0.000"]);
    }
}
