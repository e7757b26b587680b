//! What it costs to change the ring while clients go on: a node is added, one is given double its weight, one is removed.
//!
//! ```text
//!  load ─▶ rest ─▶ add ─▶ rest ─▶ re-weight ─▶ rest ─▶ remove ─▶ rest ─▶ audit
//!          └ before ┘     └ after, and before the next
//! ```
//!
//! The clients never stop. What they have measured is counted to a change by when it ran: *during* is all that was under way
//! in a moment of the change, its clean-up included; *before* and *after* are the rests on both sides. Each round does
//! it twice, each time in a directory that has just been loaded: with a limit on the rate of the move, and without. Ratios are
//! taken within a round, since the machine may be another one in the next.
//!
//! The optimum is the share of the arcs that no sharing-out by these weights can do without, computed from the weights alone:
//! the sum of what each node's share grows by.

mod foreground;
mod report;

use std::sync::Arc;
use std::time::Duration;

use mailring::{Change, ChangeEnd, NodeId, NodeInfo, Nodes, Plan};
use serde::Serialize;

use crate::cli::WorkArgs;
use crate::contest::{Lab, watched};
use crate::driver::{Schedule, Stop, drive};
use crate::subject::{Settings, Style, mailring_with};
use crate::workload::Records;
use crate::{Fault, Result};
use foreground::Foreground;
use report::{Course, Run};
pub(crate) use report::{Measured, Moment, Resizing};

/// Records, unless told otherwise.
const RECORDS: u64 = 200_000;

/// Seconds of rest between changes, unless told otherwise.
const REST_SECONDS: f64 = 3.0;

/// Records that a load writes in a second, for the estimate.
const LOADED_A_SECOND: f64 = 100_000.0;

/// How often somebody looks whether the new node serves.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A change of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// A node of weight 1 joins.
    Add,
    /// The first node's weight is doubled.
    Reweigh,
    /// The second node leaves.
    Remove,
}

impl Step {
    pub(crate) const ALL: [Self; 3] = [Self::Add, Self::Reweigh, Self::Remove];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "add a node",
            Self::Reweigh => "double a weight",
            Self::Remove => "remove a node",
        }
    }

    async fn begin(self, nodes: &Nodes) -> Result<(Plan, Change)> {
        let (first, second) = (NodeId(0), NodeId(1));
        Ok(match self {
            Self::Add => (nodes.plan_add(1)?, nodes.add(1).await?),
            Self::Reweigh => (
                nodes.plan_set_weight(first, 2)?,
                nodes.set_weight(first, 2).await?,
            ),
            Self::Remove => (nodes.plan_remove(second)?, nodes.remove(second).await?),
        })
    }
}

/// Measures rounds of changes.
///
/// # Errors
///
/// What mailring or a client says, or if anything is missing afterwards.
pub(crate) fn resize(args: &WorkArgs, lab: &Lab, limit_mib: u64) -> Result<Resizing> {
    let (mut runs, rounds) = (Vec::new(), lab.rounds);
    let records = args.shape(RECORDS).records;
    let rest = args.seconds.unwrap_or(REST_SECONDS);
    // Two loads and, by each of the three changes, a fifth of the data at the limited rate, or so.
    let raw_mib = args.shape(RECORDS).raw_bytes() as f64 / f64::from(1 << 20);
    let moves = 0.6 * raw_mib / limit_mib as f64;
    let rests = (Step::ALL.len() + 1) as f64 * rest + args.warmup;
    let seconds = rounds as f64 * (2.0 * (rests + records as f64 / LOADED_A_SECOND) + moves);
    eprintln!(
        "resize: {rounds} rounds, each with and without a limit; about {:.1} min, {:.0} MiB on disk, kept samples apart",
        seconds / 60.0,
        2.0 * raw_mib,
    );
    println!("{}", settings(args, lab).words());
    for round in 0..rounds {
        for limit_mib in [Some(limit_mib), None] {
            let limit = limit_mib.map_or("no limit".to_owned(), |limit| format!("{limit} MiB/s"));
            let label = format!("resize {}/{rounds}, {limit}", round + 1);
            eprintln!("{label}");
            runs.push(one_run(args, lab, limit_mib, round, &label)?);
        }
    }
    Ok(Resizing { runs })
}

fn settings(args: &WorkArgs, lab: &Lab) -> Settings {
    Settings {
        dir: lab.dir.join("resize"),
        ..lab.settings(args.durability, args.cache_mib << 20)
    }
}

fn one_run(
    args: &WorkArgs,
    lab: &Lab,
    limit_mib: Option<u64>,
    round: usize,
    label: &str,
) -> Result<Run> {
    if lab.nodes < 2 {
        return Err(Fault::from(
            "resize removes a node: it needs at least 2 --nodes",
        ));
    }
    let settings = settings(args, lab);
    let dir = settings.dir.clone();
    let builder = mailring_with(&settings)?.move_rate(limit_mib.map(|limit| limit << 20));
    let seed = lab.seed + round as u64;
    let opening = Foreground::open(builder, args.shape(RECORDS), seed);
    let foreground = Arc::new(lab.runtime.block_on(opening)?);
    let schedule = Schedule {
        clients: args.clients,
        stop: Stop::Told,
        warmup: Duration::ZERO,
        rate: args.rate,
        sample_every: 1,
        by_second: false,
    };
    let clients = Arc::clone(&foreground);
    let (courses, served) = std::thread::scope(|scope| {
        let conductor = scope.spawn(|| {
            let conducted = lab.runtime.block_on(conduct(args, &foreground));
            foreground.end();
            conducted
        });
        let served = watched(schedule, label, |progress| {
            drive(
                Style::Tasks,
                &lab.runtime,
                &schedule,
                progress,
                move |number| clients.client(number),
            )
        });
        let panicked = |_| Err(Fault::from("whoever changes the ring has panicked"));
        (conductor.join().unwrap_or_else(panicked), served)
    });
    served?;
    let courses = courses?;
    lab.runtime.block_on(async {
        foreground.audit().await?;
        foreground.db().clone().shutdown().await?;
        Result::Ok(())
    })?;
    std::fs::remove_dir_all(dir)?;
    Ok(Run::of(
        round,
        limit_mib,
        courses,
        foreground.take_samples(),
    ))
}

/// Changes the ring, with rests in between.
async fn conduct(args: &WorkArgs, foreground: &Foreground) -> Result<Vec<Course>> {
    let rest = Duration::from_secs_f64(args.seconds.unwrap_or(REST_SECONDS));
    tokio::time::sleep(Duration::from_secs_f64(args.warmup)).await;
    let mut courses = Vec::new();
    for step in Step::ALL {
        let rested_us = foreground.now_us();
        tokio::time::sleep(rest).await;
        courses.push(follow(args, foreground, step, rested_us).await?);
    }
    tokio::time::sleep(rest).await;
    let end = foreground.now_us();
    let begins: Vec<u32> = courses.iter().map(|course| course.rested_us).collect();
    let next = begins.into_iter().skip(1).chain([end]);
    let mut next: Vec<u32> = next.collect();
    if let (Some(last), Some(course)) = (next.last_mut(), courses.last()) {
        *last = (*last).max(course.ended_us);
    }
    for (course, rest_ends) in courses.iter_mut().zip(next) {
        course.rested_until_us = rest_ends.max(course.ended_us + rest.as_micros() as u32);
    }
    Ok(courses)
}

/// Carries out one change.
async fn follow(
    args: &WorkArgs,
    foreground: &Foreground,
    step: Step,
    rested_us: u32,
) -> Result<Course> {
    let nodes = foreground.db().nodes();
    let before = nodes.list();
    let begun_us = foreground.now_us();
    let (plan, mut change) = step.begin(&nodes).await?;
    let is_over = change.clone();
    let first_key = async {
        let node = plan.joining?;
        first_key_us(args, foreground, node, &is_over).await
    };
    let progress = async {
        let (mut moments, mut moved_us) = (Vec::<Moment>::new(), None);
        while let Some(progress) = change.next_progress().await {
            let at_us = foreground.now_us();
            let step = format!("{:?}", progress.step);
            if moments.last().is_none_or(|last| last.step != step) {
                moments.push(Moment { at_us, step });
            }
            if progress.arcs_done == progress.arcs_total && progress.arcs_total > 0 {
                moved_us.get_or_insert(at_us);
            }
        }
        (moments, moved_us)
    };
    let ((moments, moved_us), first_key_us) = tokio::join!(progress, first_key);
    let end = change.wait().await?;
    let ended_us = foreground.now_us();
    if end != ChangeEnd::Completed {
        return Err(format!("{}: it ended as {end:?}", step.name()).into());
    }
    let progress = change.progress();
    let after = nodes.list();
    let arcs: usize = before.iter().map(|node| node.arcs).sum();
    Ok(Course {
        step,
        rested_us,
        begun_us,
        moved_us: moved_us.unwrap_or(ended_us),
        ended_us,
        rested_until_us: ended_us,
        first_key_us: first_key_us.map(|at| at - begun_us),
        arcs,
        arcs_moved: progress.arcs_done,
        arcs_optimum: optimum(&before, &after) * arcs as f64,
        bytes: progress.bytes,
        moments,
    })
}

/// When the first key was put on a node that joins; none if the change ends before.
async fn first_key_us(
    args: &WorkArgs,
    foreground: &Foreground,
    joining: NodeId,
    change: &Change,
) -> Option<u32> {
    let shape = args.shape(RECORDS);
    let mut entries = Records::new(shape, 0, 0);
    loop {
        let is_under_way = change.is_under_way();
        // With these shares a handful of records would do; looking at some costs nothing.
        for record in 0..shape.records.min(64) {
            let (key, value) = entries.entry(record);
            if foreground.records().node_of(key) == joining {
                foreground.records().put(key, value).await.ok()?;
                return Some(foreground.now_us());
            }
        }
        if !is_under_way {
            return None;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The share of the ring that must move.
fn optimum(before: &[NodeInfo], after: &[NodeInfo]) -> f64 {
    let weights = |nodes: &[NodeInfo]| {
        let weights = nodes.iter().map(|node| (node.node, node.weight));
        weights.collect::<Vec<_>>()
    };
    growth(&weights(before), &weights(after))
}

/// The sum of what each node's share grows by.
fn growth(before: &[(NodeId, u32)], after: &[(NodeId, u32)]) -> f64 {
    let total = |all: &[(NodeId, u32)]| {
        all.iter()
            .map(|(_, weight)| f64::from(*weight))
            .sum::<f64>()
    };
    let (total_before, total_after) = (total(before), total(after));
    let grown = after.iter().map(|(node, weight)| {
        let had = before.iter().find(|(other, _)| other == node);
        let had = had.map_or(0.0, |(_, weight)| f64::from(*weight) / total_before);
        (f64::from(*weight) / total_after - had).max(0.0)
    });
    grown.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_optimum_is_what_shares_grow_by() {
        let equal = |nodes: u16| (0..nodes).map(|node| (NodeId(node), 1)).collect::<Vec<_>>();
        assert!((growth(&equal(4), &equal(5)) - 0.2).abs() < 1e-12);
        assert!((growth(&equal(5), &equal(4)) - 0.2).abs() < 1e-12);
        let doubled = [(NodeId(0), 2), (NodeId(1), 1)];
        let grown = growth(&equal(2), &doubled);
        assert!((grown - (2.0 / 3.0 - 0.5)).abs() < 1e-12);
        assert_eq!(growth(&equal(3), &equal(3)), 0.0);
    }
}
