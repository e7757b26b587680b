//! Named locks, taken and given back, against Redis over a Unix socket.
//!
//! mailring has no unlock that could be awaited (a guard that is dropped sends a message), Redis's is an answer from the
//! server. The goal is that over Redis as its documentation says; the line of clients that do not wait for it either stands
//! beside it.

use clap::ValueEnum;

use super::transfers::schedule;
use super::{Bench, Figure, Goal, Verdict, judge};
use crate::Result;
use crate::interleave::LockTrial;
use crate::locks::LockJob;
use crate::subject::{Durability, Kind};

/// Names that the contended half shares.
const SHARED_NAMES: u64 = 8;

/// Locks that nobody waits for; beside them, for the record, locks that everybody wants.
pub(crate) fn pairs(bench: &mut Bench) -> Result<Verdict> {
    let peers = bench.line_up(&["redis", "redis-pipelined"], Kind::has_locks);
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
    let (mut measured, reached) = judge(&alone, bench.subject, &[goal]);
    let pipelined = Kind::from_str("redis-pipelined", true).ok();
    let words = pipelined.and_then(|peer| alone.ratio_words(bench.subject, peer));
    if let Some(words) = words {
        measured += &format!("; {words}");
    }
    Ok(Verdict {
        figure: Figure::Lock,
        work: "uncontended lock and unlock, 64 clients; mailring's unlock is sent and not awaited"
            .to_owned(),
        reference: "Redis, SET NX PX and compare-and-delete, over a Unix socket, both awaited; \
                    `redis-pipelined` does not await the unlock"
            .to_owned(),
        goal: "8 × Redis".to_owned(),
        measured,
        reached,
        standings: vec![alone, crowd],
        reopenings: Vec::new(),
    })
}
