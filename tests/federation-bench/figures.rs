//! What was measured, as a table.

use std::fmt;

/// Figures of several runs, each under what it is of; in the order of their coming.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<(String, &'static str, Vec<f64>)>);

impl Table {
    /// Notes a figure; said at once, too, for who waits.
    #[expect(clippy::print_stderr, reason = "a measurement takes minutes: somebody waits")]
    pub(crate) fn note(&mut self, what: String, unit: &'static str, value: f64) {
        eprintln!("{what}: {} {unit}", shown(value));
        match self.0.iter_mut().find(|(known, _, _)| *known == what) {
            Some((_, _, values)) => values.push(value),
            None => self.0.push((what, unit, vec![value])),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, unit, values) in &self.0 {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let median = sorted[sorted.len() / 2];
            match sorted[..] {
                [only] => writeln!(f, "| {what} | **{}** {unit} |", shown(only))?,
                [least, .., most] => writeln!(
                    f,
                    "| {what} | {} – **{}** – {} {unit} |",
                    shown(least),
                    shown(median),
                    shown(most)
                )?,
                [] => {}
            }
        }
        Ok(())
    }
}

/// Three digits that count.
fn shown(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
