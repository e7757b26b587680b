//! Progress on stderr: a bar on a terminal, a line each second elsewhere.

use crate::{Plan, verdict::Verdict};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    said: Instant,
    settled: u64,
    seconds: u32,
}

impl Progress {
    pub(crate) fn new(plan: &Plan) -> Self {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{bar:24} {pos:>3}/{len} s  {msg}";
            let style = ProgressStyle::with_template(template);
            ProgressBar::new(plan.seconds.into()).with_style(style.expect("it is a literal"))
        });
        Self {
            bar,
            begun: now,
            said: now,
            settled: 0,
            seconds: plan.seconds,
        }
    }

    pub(crate) fn show(&mut self, verdict: &Verdict) {
        let every = Duration::from_millis(if self.bar.is_some() { 250 } else { 1_000 });
        let since = self.said.elapsed();
        if since < every {
            return;
        }
        let settled = verdict.settled() - self.settled;
        let message = format!(
            "{:.0} orders/s  {} audits  {} panics and {} kills survived",
            settled as f64 / since.as_secs_f64(),
            verdict.audits(),
            verdict.restarts(),
            verdict.kills(),
        );
        (self.said, self.settled) = (Instant::now(), verdict.settled());
        let second = self.begun.elapsed().as_secs();
        match &self.bar {
            Some(bar) => {
                bar.set_position(second.min(self.seconds.into()));
                bar.set_message(message);
            }
            None => eprintln!("{second}/{} s  {message}", self.seconds),
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
