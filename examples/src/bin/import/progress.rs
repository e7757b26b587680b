//! Progress on stderr: a bar on a terminal, plain lines elsewhere.

use crate::position::Position;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    total_bytes: Option<u64>,
    every: u64,
    reported: u64,
}

impl Progress {
    /// `every`: lines between two plain reports.
    pub(crate) fn new(total_bytes: Option<u64>, every: u64, begin: &Position) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let (bar, template) = match total_bytes {
                Some(bytes) => (
                    ProgressBar::new(bytes),
                    "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
                ),
                None => (
                    ProgressBar::new_spinner(),
                    "{spinner} {bytes} {bytes_per_sec} {msg}",
                ),
            };
            let style = ProgressStyle::with_template(template);
            let bar = bar.with_style(style.expect("the template is a literal"));
            bar.reset_eta();
            bar
        });
        Self {
            bar,
            total_bytes,
            every,
            reported: begin.lines,
        }
    }

    /// Everything before `position` is durable.
    pub(crate) fn at(&mut self, position: &Position) {
        if let Some(bar) = &self.bar {
            bar.set_position(position.offset);
            bar.set_message(format!("{} records", position.records));
        } else if position.lines / self.every > self.reported / self.every {
            let Position { lines, offset, .. } = position;
            match self.total_bytes {
                Some(total) => eprintln!("progress: {lines} lines, {offset} of {total} bytes"),
                None => eprintln!("progress: {lines} lines, {offset} bytes"),
            }
            self.reported = *lines;
        }
    }

    /// Says something without tearing the bar.
    pub(crate) fn say(&self, words: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{words}")),
            None => eprintln!("{words}"),
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
