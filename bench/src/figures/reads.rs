//! Point reads and scans of a loaded store.
//!
//! Keys are drawn ahead and one read of sixteen is timed, so that a read of a hundred nanoseconds is not buried under
//! the harness; `nothing` shows what is left of it. A read that finds nothing fails the figure.

use std::time::Duration;

use super::{Bench, Figure, Goal, Verdict, judge};
use crate::contest::Contest;
use crate::distribution::Distribution;
use crate::driver::Stop;
use crate::operations::Job;
use crate::standing::Standing;
use crate::subject::{Durability, Kind};
use crate::workload::{Preset, Workload};
use crate::{Fault, Result};

/// Records that each client draws ahead.
const TAPE: usize = 1 << 20;

/// One read of so many is timed.
const SAMPLE_EVERY: u32 = 16;

fn contest(
    bench: &Bench,
    title: &str,
    workload: Workload,
    clients: usize,
    cache: u64,
    peers: &[&str],
) -> Contest {
    let scans = workload.scans();
    let job = Job {
        workload,
        clients,
        stop: Stop::After(Duration::from_secs_f64(bench.seconds.unwrap_or(0.8))),
        warmup: Duration::from_millis(200),
        rate: None,
        seed: bench.lab.seed,
        sample_every: if scans { 1 } else { SAMPLE_EVERY },
        tape: TAPE.min(usize::try_from(4 * bench.records).unwrap_or(TAPE)),
        by_second: false,
    };
    let peers = bench
        .line_up(peers, Kind::keeps_records)
        .into_iter()
        .filter(|kind| !scans || kind.scans())
        .collect();
    let settings = bench.lab.settings(Durability::Always, cache);
    Contest {
        title: title.to_owned(),
        job,
        peers,
        settings,
        fresh: false,
        touch_all: true,
    }
}

fn hold(bench: &mut Bench, contest: &Contest) -> Result<Standing> {
    let standing = bench.lab.hold(contest)?;
    match standing.missed() {
        0 => Ok(standing),
        missed => Err(Fault::from(format!(
            "{}: {missed} reads found nothing",
            contest.title
        ))),
    }
}

fn gets(bench: &Bench, distribution: Distribution) -> Workload {
    Workload::new(Preset::Get, bench.shape(), Some(distribution), 0.99, 100)
}

/// A cache that holds all records with room for what a cache adds to each.
fn ample_cache(bench: &Bench) -> u64 {
    (4 * bench.shape().raw_bytes()).max(64 << 20)
}

/// Uniform point reads, all in the cache.
pub(crate) fn cached(bench: &mut Bench) -> Result<Verdict> {
    let peers = [
        "lmdb",
        "redb",
        "rocksdb",
        "fjall",
        "surrealkv",
        "sled",
        "nothing",
    ];
    let workload = gets(bench, Distribution::Uniform);
    let contest = contest(
        bench,
        "get, cached, 1 thread",
        workload,
        1,
        ample_cache(bench),
        &peers,
    );
    let standing = hold(bench, &contest)?;
    let (measured, reached) = judge(
        &standing,
        bench.subject,
        &[Goal {
            peer: "lmdb",
            factor: 1.0,
        }],
    );
    Ok(Verdict {
        figure: Figure::GetCached,
        work: format!(
            "get, {} keys, uniform, all cached, 1 thread",
            crate::report::count(bench.records as f64)
        ),
        reference: "LMDB".to_owned(),
        goal: "better than LMDB".to_owned(),
        measured,
        reached,
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}

/// Uniform point reads with a cache of a tenth of the data.
pub(crate) fn tenth_cached(bench: &mut Bench) -> Result<Verdict> {
    let cache = bench.shape().raw_bytes() / 10;
    let workload = gets(bench, Distribution::Uniform);
    let contest = contest(
        bench,
        "get, a tenth cached, 1 thread",
        workload,
        1,
        cache,
        &["fjall", "rocksdb", "redb"],
    );
    let standing = hold(bench, &contest)?;
    let (measured, reached) = judge(
        &standing,
        bench.subject,
        &[Goal {
            peer: "fjall",
            factor: 1.0,
        }],
    );
    Ok(Verdict {
        figure: Figure::GetTenth,
        work: "get, the same, a cache of a tenth of the data".to_owned(),
        reference: "fjall".to_owned(),
        goal: "at least equal".to_owned(),
        measured,
        reached,
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}

/// Zipfian point reads of two threads.
pub(crate) fn zipfian(bench: &mut Bench) -> Result<Verdict> {
    let workload = gets(bench, Distribution::Zipfian);
    let peers = ["dashmap", "lmdb", "redb", "fjall", "nothing"];
    let contest = contest(
        bench,
        "get, zipfian, 2 threads",
        workload,
        2,
        ample_cache(bench),
        &peers,
    );
    let standing = hold(bench, &contest)?;
    let (measured, reached) = judge(
        &standing,
        bench.subject,
        &[Goal {
            peer: "dashmap",
            factor: 0.5,
        }],
    );
    Ok(Verdict {
        figure: Figure::GetZipf2Threads,
        work: "get, zipfian 0.99, 2 threads".to_owned(),
        reference: "bare dashmap".to_owned(),
        goal: "0.5 × dashmap".to_owned(),
        measured,
        reached,
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}

/// Scans of 100 records from a random key.
pub(crate) fn scans(bench: &mut Bench) -> Result<Verdict> {
    let workload = Workload::new(Preset::Scan, bench.shape(), None, 0.99, 100);
    let peers = ["fjall", "redb", "rocksdb", "lmdb", "surrealkv", "sled"];
    let contest = contest(
        bench,
        "scan of 100, 1 thread",
        workload,
        1,
        ample_cache(bench),
        &peers,
    );
    let standing = hold(bench, &contest)?;
    let (measured, reached) = judge(
        &standing,
        bench.subject,
        &[Goal {
            peer: "fjall",
            factor: 1.0,
        }],
    );
    Ok(Verdict {
        figure: Figure::Scan100,
        work: format!(
            "scan of 100 from a random key, {} nodes, 1 thread",
            bench.lab.nodes
        ),
        reference: "fjall on one tree".to_owned(),
        goal: "better than fjall".to_owned(),
        measured,
        reached,
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}
