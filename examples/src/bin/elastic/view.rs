//! The ring, live: on a terminal a line for the step and the change and one for each node, elsewhere a line each second.
//!
//! A frame is drawn over the one before it, by one write, and the cursor rests at the beginning of the line below: so whatever
//! the terminal echoes meanwhile (of a ctrl-c, say) stands there, and goes with the next frame. Lines that are too long are cut off
//! by the terminal. When the view is dropped the last frame is gone, and the terminal is as it was.

use crate::clients::Clients;
use mailring::{ChangeProgress, Mailring, NodeId};
use std::{
    collections::BTreeMap,
    env,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

pub(crate) struct View {
    db: Mailring,
    /// None elsewhere than on a terminal.
    frame: Option<Frame>,
    begun: Instant,
    said: Instant,
    /// Writes of each node when they were last shown.
    writes: BTreeMap<NodeId, u64>,
}

impl View {
    pub(crate) fn new(db: &Mailring) -> Self {
        // One that calls itself dumb knows no cursor.
        let is_dumb = env::var_os("TERM").is_some_and(|name| name == "dumb");
        let frame = (io::stderr().is_terminal() && !is_dumb).then(Frame::default);
        Self {
            db: db.clone(),
            frame,
            begun: Instant::now(),
            said: Instant::now(),
            writes: BTreeMap::new(),
        }
    }

    /// How often [`View::show`] has something to show.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Shows what is going on, if that was not just done.
    pub(crate) fn show(&mut self, what: &str, change: Option<ChangeProgress>, clients: &Clients) {
        let every = Duration::from_millis(if self.frame.is_some() { 250 } else { 1_000 });
        if self.said.elapsed() >= every {
            self.show_now(what, change, clients);
        }
    }

    /// Shows how a change has ended, which a short one would do unseen.
    pub(crate) fn show_end(&mut self, what: &str, change: ChangeProgress, clients: &Clients) {
        if self.frame.is_some() {
            self.show_now(what, Some(change), clients);
        }
    }

    fn show_now(&mut self, what: &str, change: Option<ChangeProgress>, clients: &Clients) {
        let since = self.said.elapsed();
        self.said = Instant::now();
        let seen = clients.look();
        let moved = change.as_ref().map_or(String::new(), |change| {
            format!(
                "  {:?} {}/{} arcs, {} bytes, {}/s",
                change.step,
                change.arcs_done,
                change.arcs_total,
                change.bytes,
                change.bytes_per_second
            )
        });
        let head = format!(
            "{what}  {:.0} transfers/s, p99 {:.1} ms{moved}",
            seen.per_second, seen.p99_ms
        );
        let nodes = self.nodes(since);
        let Some(frame) = &mut self.frame else {
            let shares: Vec<_> = nodes
                .iter()
                .map(|(node, share, load)| format!("{node}: {share:.1} % {load:.0}/s"))
                .collect();
            let second = self.begun.elapsed().as_secs();
            return eprintln!("{second} s  {head}  [{}]", shares.join(", "));
        };
        let part = change.map_or(0.0, |change| {
            change.arcs_done as f64 / change.arcs_total.max(1) as f64
        });
        let mut lines = vec![format!("{} {head}", bar(part, 32))];
        lines.extend(nodes.iter().map(|(node, share, load)| {
            let bar = bar(share / 100.0, 24);
            let node = format!("node {node}");
            format!("  {node:>8} {bar} {share:.1} % of the arcs, {load:.0} writes/s")
        }));
        frame.draw(&lines);
    }

    /// Each node, its share of the arcs in percent, and its writes a second.
    fn nodes(&mut self, since: Duration) -> Vec<(NodeId, f64, f64)> {
        let writes = self.db.stats().nodes;
        let writes: BTreeMap<_, _> = writes.iter().map(|node| (node.node, node.writes)).collect();
        let list = self.db.nodes().list();
        let arcs: usize = list.iter().map(|node| node.arcs).sum();
        let shown = list.iter().map(|node| {
            let count = |all: &BTreeMap<_, _>| all.get(&node.node).copied().unwrap_or(0);
            let load = count(&writes).saturating_sub(count(&self.writes));
            let share = 100.0 * node.arcs as f64 / arcs.max(1) as f64;
            (node.node, share, load as f64 / since.as_secs_f64())
        });
        let shown = shown.collect();
        self.writes = writes;
        shown
    }
}

/// Some lines on a terminal.
#[derive(Default)]
struct Frame {
    drawn: usize,
}

impl Frame {
    fn draw(&mut self, lines: &[String]) {
        // Up to where the last one began, and clear from there; without wrapping, so that a line is a line.
        let mut written = match self.drawn {
            0 => "\r\x1b[?7l".to_owned(),
            drawn => format!("\x1b[{drawn}A\r\x1b[0J\x1b[?7l"),
        };
        for line in lines {
            written.push_str(line);
            written.push('\n');
        }
        written.push_str("\x1b[?7h");
        self.drawn = lines.len();
        // A terminal that can't be written to is no reason to fail.
        let _ = io::stderr().write_all(written.as_bytes());
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.draw(&[]);
    }
}

/// A part of a whole, so many letters long.
fn bar(part: f64, letters: usize) -> String {
    let full = (part * letters as f64).round() as usize;
    let full = full.min(letters);
    "█".repeat(full) + &"░".repeat(letters - full)
}
