//! Durable puts: a put is answered when it can't be lost any more.

use std::time::Duration;

use super::{Bench, Figure, Goal, Verdict, judge};
use crate::Result;
use crate::contest::Contest;
use crate::driver::Stop;
use crate::operations::Job;
use crate::report::{Spread, micros, times};
use crate::standing::{Run, Standing, by_second};
use crate::subject::{Durability, Kind, Settings};
use crate::workload::{Preset, Workload};

/// Checkpoints that a sustained run must have seen.
const CHECKPOINTS: u64 = 5;

/// The write buffer of a sustained run: small enough to be filled many times.
const SUSTAINED_BUFFER_BYTES: u64 = 32 << 20;

fn job(bench: &Bench, clients: usize, seconds: f64) -> Job {
    Job {
        workload: Workload::new(Preset::Put, bench.shape(), None, 0.99, 100),
        clients,
        stop: Stop::After(Duration::from_secs_f64(bench.seconds.unwrap_or(seconds))),
        warmup: Duration::from_millis(200),
        rate: None,
        seed: bench.lab.seed,
        sample_every: 1,
        tape: 0,
        by_second: false,
    }
}

fn contest(bench: &Bench, title: &str, job: Job, peers: &[&str]) -> Contest {
    Contest {
        title: title.to_owned(),
        job,
        peers: bench.line_up(peers),
        settings: bench.lab.settings(Durability::Always, 64 << 20),
        fresh: false,
        touch_all: false,
    }
}

/// Durable puts of 64 clients.
pub(crate) fn of_64_clients(bench: &mut Bench) -> Result<Verdict> {
    let peers = [
        "rocksdb",
        "fjall",
        "fjall-group",
        "redb",
        "redb-group",
        "surrealkv",
        "sled",
        "log",
    ];
    let contest = contest(
        bench,
        "durable put, 64 clients",
        job(bench, 64, 1.0),
        &peers,
    );
    let standing = bench.lab.hold(&contest)?;
    let goals = [
        Goal {
            peer: "rocksdb",
            factor: 4.0,
        },
        Goal {
            peer: "fjall-group",
            factor: 2.0,
        },
    ];
    let (measured, reached) = judge(&standing, bench.subject, &goals);
    Ok(Verdict {
        figure: Figure::DurablePut64,
        work: "durable put, 64 clients".to_owned(),
        reference: "RocksDB's own group commit; fjall behind a group-commit thread".to_owned(),
        goal: "4 × RocksDB; 2 × fjall-group".to_owned(),
        measured,
        reached,
        standings: vec![standing],
    })
}

/// Durable puts of 1,024 clients in a burst.
pub(crate) fn of_1024_clients(bench: &mut Bench) -> Result<Verdict> {
    let job = job(bench, 1_024, 1.0);
    let peers = ["log", "rocksdb", "fjall-group"];
    let contest = contest(bench, "durable put, 1,024 clients", job, &peers);
    let standing = bench.lab.hold(&Contest {
        fresh: true,
        ..contest
    })?;
    let (measured, reached) = judge(
        &standing,
        bench.subject,
        &[Goal {
            peer: "log",
            factor: 0.5,
        }],
    );
    Ok(Verdict {
        figure: Figure::DurablePut1024,
        work: "durable put, 1,024 clients, burst".to_owned(),
        reference: "a bare preallocated log, no checksum, no store".to_owned(),
        goal: "0.5 × log".to_owned(),
        measured,
        reached,
        standings: vec![standing],
    })
}

/// Durable puts of 1,024 clients over many checkpoints, throughput and p99.9 by second.
pub(crate) fn sustained(bench: &mut Bench) -> Result<Verdict> {
    let job = Job {
        by_second: true,
        ..job(bench, 1_024, 20.0)
    };
    let contest = contest(bench, "sustained put, 1,024 clients", job, &["rocksdb"]);
    let rounds = std::mem::replace(&mut bench.lab.rounds, 1);
    let settings = Settings {
        write_buffer_bytes: SUSTAINED_BUFFER_BYTES,
        ..contest.settings.clone()
    };
    let standing = bench.lab.hold(&Contest {
        fresh: true,
        settings,
        ..contest
    });
    bench.lab.rounds = rounds;
    let standing = standing?;
    println!("{}", by_second(&standing.rounds[0].runs));
    let (mut measured, mut reached) = judge(
        &standing,
        bench.subject,
        &[Goal {
            peer: "rocksdb",
            factor: 3.0,
        }],
    );
    let run = &standing.rounds[0].runs[0];
    let slowest = slowest_second(run);
    measured += &format!("; slowest second {} of the median", times(slowest));
    match run.checkpoints {
        Some(checkpoints) => {
            measured += &format!("; {checkpoints} checkpoints");
            reached = reached.filter(|_| checkpoints >= CHECKPOINTS);
        }
        None => measured += "; checkpoints not counted",
    }
    Ok(Verdict {
        figure: Figure::Sustained,
        work: "durable put, 1,024 clients, over at least five checkpoints".to_owned(),
        reference: "RocksDB in the same run".to_owned(),
        goal: "3 × RocksDB; no second under half the median".to_owned(),
        measured,
        reached: reached.map(|so_far| so_far && slowest >= 0.5),
        standings: vec![standing],
    })
}

/// The slowest second over the median second.
fn slowest_second(run: &Run) -> f64 {
    let seconds = &run.summary.by_second;
    if seconds.is_empty() {
        return 1.0;
    }
    let spread = Spread::of(seconds.iter().map(|second| second.operations as f64));
    spread.min / spread.median
}

/// Durable puts of one client against the disk. The raw force is a subject here and not only the round's
/// calibration, so that both are measured for as long and as close together.
pub(crate) fn of_one_client(bench: &mut Bench) -> Result<Verdict> {
    let peers = [
        "raw",
        "rocksdb",
        "fjall",
        "redb",
        "surrealkv",
        "sled",
        "log",
    ];
    let contest = contest(bench, "durable put, 1 client", job(bench, 1, 0.7), &peers);
    let standing = bench.lab.hold(&contest)?;
    let p50 = |kind| {
        standing
            .spread(kind, |run| run.p50_us)
            .map_or(f64::NAN, |spread| spread.median)
    };
    let over_raw = over_raw_force(&standing, bench.subject);
    let (own, raw) = (micros(p50(bench.subject)), micros(p50(Kind::Raw)));
    Ok(Verdict {
        figure: Figure::DurablePut1,
        work: "durable put, 1 client, p50".to_owned(),
        reference: "raw fdatasync of the same bytes".to_owned(),
        goal: "1.5 × at most".to_owned(),
        measured: over_raw.map_or(own.clone(), |ratio| {
            format!("{own}; {} raw ({raw})", times(ratio.median))
        }),
        reached: over_raw.map(|ratio| ratio.median <= 1.5),
        standings: vec![standing],
    })
}

/// The p50 of a subject over that of a raw force, within each round.
pub(super) fn over_raw_force(standing: &Standing, subject: Kind) -> Option<Spread> {
    let ratios: Vec<f64> = standing
        .runs(subject)
        .zip(standing.runs(Kind::Raw))
        .map(|(run, raw)| run.summary.p50_us / raw.summary.p50_us)
        .collect();
    (!ratios.is_empty()).then(|| Spread::of(ratios))
}
