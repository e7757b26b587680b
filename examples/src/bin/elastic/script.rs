//! The steps, one after the other, and what is checked behind each.

use crate::{
    Failure, Plan,
    bank::Bank,
    clients::{Clients, Tally},
    fault::Fault,
    view::View,
};
use mailring::{Change, ChangeEnd, Mailring, NodeEvent, NodeId, Plan as NodePlan};
use std::time::{Duration, Instant};
use tokio::signal::ctrl_c;

/// Nodes at the beginning.
const NODES: u16 = 4;
/// A node that panics for ever is given up and taken over by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// How it has ended, if nothing was wrong.
pub(crate) enum Ending {
    /// All checks hold; what was done.
    Checked(Vec<Row>),
    /// Somebody did not want to see the rest.
    Interrupted,
}

/// A line of the closing table.
pub(crate) struct Row {
    what: String,
    arcs: usize,
    bytes: u64,
    took: Duration,
    per_second: f64,
    p99_ms: f64,
}

/// The engine, who works on it, and who shows it.
struct Stage<'a> {
    plan: &'a Plan,
    db: Mailring,
    bank: Bank,
    clients: Clients,
    view: View,
    rows: Vec<Row>,
}

/// Runs all steps, unless it is interrupted before (SIGINT). However it ends, the terminal is as it was, the engine was closed,
/// and a temporary directory is gone.
///
/// # Errors
///
/// The first check that does not hold, or what failed.
pub(crate) async fn run(plan: &Plan) -> Result<Ending, Failure> {
    let guard;
    let directory = match &plan.directory {
        Some(directory) => directory.as_path(),
        None => {
            guard = tempfile::tempdir()?;
            guard.path()
        }
    };
    let fault = Fault::default();
    let builder = Mailring::builder(directory).nodes(NODES);
    let db = builder.fault_hook(fault.hook()).open().await?;
    let ended = tokio::select! {
        played = play(plan, &db, &fault) => played.map(Ending::Checked),
        interrupted = ctrl_c() => interrupted.map(|()| Ending::Interrupted).map_err(Failure::from),
    };
    let closed = db.shutdown().await;
    let ended = ended?;
    closed?;
    Ok(ended)
}

/// The steps.
async fn play(plan: &Plan, db: &Mailring, fault: &Fault) -> Result<Vec<Row>, Failure> {
    let bank = Bank::found(db, plan).await?;
    let mut stage = Stage {
        plan,
        clients: Clients::start(&bank, plan),
        view: View::new(db),
        db: db.clone(),
        bank,
        rows: Vec::new(),
    };
    stage.rest("four nodes").await?;
    let nodes = db.nodes();
    for what in ["a node is added", "another one is added"] {
        let planned = nodes.plan_add(1)?;
        stage.follow(what, planned, nodes.add(1).await?).await?;
    }
    let planned = nodes.plan_set_weight(NodeId(0), 2)?;
    let change = nodes.set_weight(NodeId(0), 2).await?;
    stage
        .follow("node 0 weighs double", planned, change)
        .await?;
    let planned = nodes.plan_remove(NodeId(1))?;
    let change = nodes.remove(NodeId(1)).await?;
    stage.follow("node 1 is removed", planned, change).await?;
    fault.order(NodeId(2));
    stage.rest("node 2 panics").await?;
    fault.doom(NodeId(3));
    stage.lose("node 3 dies for good", NodeId(3)).await?;
    stage.end(fault).await
}

impl Stage<'_> {
    /// Lets the clients work for a while, and counts.
    async fn rest(&mut self, what: &str) -> Result<(), Failure> {
        let begun = Instant::now();
        self.clients.take_tally();
        while begun.elapsed() < self.plan.pause() {
            self.clients.work_for(self.view.interval()).await?;
            self.view.show(what, None, &self.clients);
        }
        let tally = self.clients.take_tally();
        self.row(what, 0, 0, begun.elapsed(), &tally);
        self.bank.audit(self.plan).await
    }

    /// Follows a change to its end, and checks that it was what was planned.
    async fn follow(
        &mut self,
        what: &str,
        planned: NodePlan,
        change: Change,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        self.clients.take_tally();
        while change.is_under_way() {
            self.clients.work_for(self.view.interval()).await?;
            self.view.show(what, Some(change.progress()), &self.clients);
        }
        let took = begun.elapsed();
        let progress = change.progress();
        self.view.show_end(what, progress.clone(), &self.clients);
        let tally = self.clients.take_tally();
        let end = change.wait().await?;
        if end != ChangeEnd::Completed {
            return Err(format!("{what}: it ended as {end:?}").into());
        }
        if progress.arcs_done != planned.moves.len() || planned.moves.len() != planned.fewest {
            return Err(format!(
                "{what}: {} arcs have moved, {} were planned, {} would have done",
                progress.arcs_done,
                planned.moves.len(),
                planned.fewest
            )
            .into());
        }
        self.row(what, progress.arcs_done, progress.bytes, took, &tally);
        self.check_shares(what)?;
        self.bank.audit(self.plan).await?;
        self.rest("the clients go on").await
    }

    /// Follows what becomes of a node that is lost, until the others serve all that it had.
    async fn lose(&mut self, what: &str, lost: NodeId) -> Result<(), Failure> {
        let nodes = self.db.nodes();
        let mut events = nodes.events();
        let listed = nodes.list().into_iter().find(|node| node.node == lost);
        let arcs = listed.map_or(0, |node| node.arcs);
        let begun = Instant::now();
        let mut bytes = 0;
        self.clients.take_tally();
        while nodes.list().iter().any(|node| node.node == lost) || nodes.change().is_some() {
            self.clients.work_for(self.view.interval()).await?;
            let progress = nodes.change().map(|change| change.progress());
            bytes = progress.as_ref().map_or(bytes, |progress| progress.bytes);
            self.view.show(what, progress, &self.clients);
            if begun.elapsed() > PATIENCE {
                return Err(format!("{what}: nobody has taken over in {PATIENCE:?}").into());
            }
        }
        let took = begun.elapsed();
        let tally = self.clients.take_tally();
        let taken_over = NodeEvent::TakenOver { nodes: vec![lost] };
        while events.next().await.ok_or("the engine is gone")? != taken_over {}
        self.row(what, arcs, bytes, took, &tally);
        self.check_shares(what)?;
        self.bank.audit(self.plan).await?;
        self.rest("the clients go on").await
    }

    /// Each node has its share of the arcs, within 1 %.
    fn check_shares(&self, what: &str) -> Result<(), Failure> {
        let nodes = self.db.nodes().list();
        let arcs: usize = nodes.iter().map(|node| node.arcs).sum();
        let weights: u32 = nodes.iter().map(|node| node.weight).sum();
        for node in &nodes {
            let fair = arcs as f64 * f64::from(node.weight) / f64::from(weights);
            if (node.arcs as f64 - fair).abs() > fair / 100.0 + 1.0 {
                let (node, has) = (node.node, node.arcs);
                return Err(format!("{what}: node {node} has {has} arcs, not {fair:.0}").into());
            }
        }
        Ok(())
    }

    fn row(&mut self, what: &str, arcs: usize, bytes: u64, took: Duration, tally: &Tally) {
        self.rows.push(Row {
            what: what.to_owned(),
            arcs,
            bytes,
            took,
            per_second: tally.latency.len() as f64 / took.as_secs_f64(),
            p99_ms: tally.ms(0.99),
        });
    }

    /// Ends the clients, and checks for the last time.
    async fn end(self, fault: &Fault) -> Result<Vec<Row>, Failure> {
        self.clients.close().await?;
        self.bank.audit(self.plan).await?;
        let stats = self.db.stats();
        let restarts: u64 = stats.nodes.iter().map(|node| node.restarts).sum();
        if restarts != 1 || fault.is_left() {
            return Err(
                format!("one panic was ordered, and {restarts} restarts were counted").into(),
            );
        }
        Ok(self.rows)
    }
}

/// Prints the closing table.
pub(crate) fn print(plan: &Plan, rows: &[Row]) {
    println!(
        "{:<24} {:>6} {:>10} {:>8} {:>12} {:>9}",
        "step", "arcs", "bytes", "seconds", "transfers/s", "p99"
    );
    for row in rows {
        println!(
            "{:<24} {:>6} {:>10} {:>8.2} {:>12.0} {:>6.2} ms",
            row.what,
            row.arcs,
            row.bytes,
            row.took.as_secs_f64(),
            row.per_second,
            row.p99_ms
        );
    }
    println!(
        "total: all the money of {} accounts is there",
        plan.accounts
    );
}
