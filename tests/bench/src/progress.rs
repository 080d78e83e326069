//! Shows on a terminal how far a run has come; elsewhere a line for each scenario.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// The one bar, at the bottom of standard error.
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
}

impl Progress {
    pub fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        let bar = if terminal {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let style =
            ProgressStyle::with_template("{prefix:>22} {msg:22} {bar:30} {human_pos}/{human_len} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, terminal }
    }

    /// The scenario that begins.
    pub fn scenario(&self, name: &str) {
        self.bar.set_prefix(name.to_owned());
        self.line(&format!("{name} …"));
    }

    /// A stretch of work of so many steps.
    pub fn begin(&self, what: &'static str, steps: u64) {
        self.bar.reset();
        self.bar.set_length(steps);
        self.bar.set_message(what);
    }

    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// A line that stays where there is no bar.
    fn line(&self, text: &str) {
        if !self.terminal {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
