//! Named locks, taken and given back, against Redis over a Unix socket.

use super::transfers::schedule;
use super::{Bench, Figure, Goal, Verdict, judge};
use crate::Result;
use crate::interleave::LockTrial;
use crate::locks::LockJob;
use crate::subject::Durability;

/// Names that the contended half shares.
const SHARED_NAMES: u64 = 8;

/// Locks that nobody waits for; beside them, for the record, locks that everybody wants.
pub(crate) fn pairs(bench: &mut Bench) -> Result<Verdict> {
    let peers = bench.line_up(&["redis"]);
    let trial = |title: &str, names, seconds| LockTrial {
        title: title.to_owned(),
        job: LockJob {
            names,
            schedule: schedule(bench, 64, seconds),
            seed: bench.lab.seed,
        },
        peers: peers.clone(),
        settings: bench.lab.settings(Durability::Always, 8 << 20),
    };
    let alone = trial("lock and unlock, uncontended, 64 clients", None, 1.0);
    let crowd = trial(
        "lock and unlock, 8 names, 64 clients",
        Some(SHARED_NAMES),
        0.5,
    );
    let (alone, crowd) = (bench.lab.hold_locks(&alone)?, bench.lab.hold_locks(&crowd)?);
    let goal = Goal {
        peer: "redis",
        factor: 8.0,
    };
    let (measured, reached) = judge(&alone, bench.subject, &[goal]);
    Ok(Verdict {
        figure: Figure::Lock,
        work: "uncontended lock and unlock, 64 clients".to_owned(),
        reference: "Redis, SET NX PX and compare-and-delete, over a Unix socket".to_owned(),
        goal: "8 × Redis".to_owned(),
        measured,
        reached,
        standings: vec![alone, crowd],
        reopenings: Vec::new(),
    })
}
