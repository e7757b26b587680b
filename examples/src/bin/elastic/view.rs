//! The ring, live: on a terminal a line for each node and one for the change, elsewhere a line each second.

use crate::clients::Clients;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mailring::{ChangeProgress, Mailring, NodeId};
use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

/// A share of the ring as a bar is so many steps long at most.
const STEPS: u64 = 1_000;

pub(crate) struct View {
    db: Mailring,
    lines: Option<Lines>,
    begun: Instant,
    said: Instant,
    /// Writes of each node when they were last shown.
    writes: BTreeMap<NodeId, u64>,
}

struct Lines {
    all: MultiProgress,
    head: ProgressBar,
    nodes: BTreeMap<NodeId, ProgressBar>,
}

impl View {
    pub(crate) fn new(db: &Mailring) -> Self {
        let lines = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let style = ProgressStyle::with_template("{bar:32} {msg}").expect("it is a literal");
            let head = all.add(ProgressBar::new(STEPS).with_style(style));
            let nodes = BTreeMap::new();
            Lines { all, head, nodes }
        });
        Self {
            db: db.clone(),
            lines,
            begun: Instant::now(),
            said: Instant::now(),
            writes: BTreeMap::new(),
        }
    }

    /// How often [`View::show`] has something to show.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Shows what is going on.
    pub(crate) fn show(&mut self, what: &str, change: Option<ChangeProgress>, clients: &Clients) {
        let every = Duration::from_millis(if self.lines.is_some() { 250 } else { 1_000 });
        let since = self.said.elapsed();
        if since < every {
            return;
        }
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
        let Some(lines) = &mut self.lines else {
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
        lines.head.set_position((part * STEPS as f64) as u64);
        lines.head.set_message(head);
        lines.show(&nodes);
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

    pub(crate) fn end(&self) {
        if let Some(lines) = &self.lines {
            // A view that can't be cleared is no reason to fail.
            let _ = lines.all.clear();
        }
    }
}

impl Lines {
    fn show(&mut self, nodes: &[(NodeId, f64, f64)]) {
        self.nodes.retain(|node, line| {
            let stays = nodes.iter().any(|(other, ..)| other == node);
            if !stays {
                line.finish_and_clear();
            }
            stays
        });
        for (node, share, load) in nodes {
            let line = self.nodes.entry(*node).or_insert_with(|| {
                let template = "  {prefix:>8} {bar:24} {msg}";
                let style = ProgressStyle::with_template(template).expect("it is a literal");
                let line = ProgressBar::new(STEPS).with_style(style);
                self.all.add(line.with_prefix(format!("node {node}")))
            });
            line.set_position((share / 100.0 * STEPS as f64) as u64);
            line.set_message(format!("{share:.1} % of the arcs, {load:.0} writes/s"));
        }
    }
}
