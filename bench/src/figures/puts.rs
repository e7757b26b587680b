//! Durable puts: a put is answered when it can't be lost any more.

use std::time::Duration;

use clap::ValueEnum;

use super::{Bench, Figure, Goal, Verdict, hardest, judge};
use crate::Result;
use crate::contest::Contest;
use crate::driver::Stop;
use crate::operations::Job;
use crate::report::{Spread, count, micros, times};
use crate::standing::{Run, Standing, by_second};
use crate::subject::{Durability, Inside, Kind, Settings};
use crate::workload::{Preset, Workload};

/// The bare log under actix, in its two forms.
const LOGS: [&str; 2] = ["log-actix", "log-actix-thread"];

/// The write buffer of a burst: more than anybody fills in a second.
const BURST_BUFFER_BYTES: u64 = 256 << 20;

/// Checkpoints that a sustained run must have seen in each round.
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
        peers: bench.line_up(peers, Kind::takes_puts),
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
        "sled-group",
        "log",
        "log-actix",
        "log-actix-thread",
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
    let (mut measured, reached) = judge(&standing, bench.subject, &goals);
    let log = hardest(&standing, bench.subject, &LOGS);
    if let Some(words) = Kind::from_str(log, true)
        .ok()
        .and_then(|log| standing.ratio_words(bench.subject, log))
    {
        measured += &format!("; {words}");
    }
    Ok(Verdict {
        figure: Figure::DurablePut64,
        work: "durable put, 64 clients".to_owned(),
        reference: "RocksDB's own group commit; fjall behind a group-commit thread".to_owned(),
        goal: "4 × RocksDB; 2 × fjall-group".to_owned(),
        measured,
        reached,
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}

/// Durable puts of 1,024 clients in a burst. It must fit into the generations: the write buffer has the room, and a round
/// that would have needed a checkpoint leaves the figure unjudged.
pub(crate) fn of_1024_clients(bench: &mut Bench) -> Result<Verdict> {
    let job = job(bench, 1_024, 1.0);
    let peers = [
        "log-actix",
        "log-actix-thread",
        "log",
        "rocksdb",
        "fjall-group",
    ];
    let contest = contest(bench, "durable put, 1,024 clients", job, &peers);
    let standing = bench.lab.hold(&Contest {
        fresh: true,
        settings: with_buffer(&contest, BURST_BUFFER_BYTES),
        ..contest
    })?;
    let goal = Goal {
        peer: hardest(&standing, bench.subject, &LOGS),
        factor: 0.5,
    };
    let (mut measured, mut reached) = judge(&standing, bench.subject, &[goal]);
    let (words, fits) = fits(&standing, bench.subject);
    measured += &words;
    if fits != Some(true) {
        reached = None;
    }
    Ok(Verdict {
        figure: Figure::DurablePut1024,
        work: "durable put, 1,024 clients, a burst that fits the generations".to_owned(),
        reference: "a bare preallocated log under actix, no checksum, no store; the faster of two"
            .to_owned(),
        goal: "0.5 × the log".to_owned(),
        measured,
        reached,
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}

fn with_buffer(contest: &Contest, write_buffer_bytes: u64) -> Settings {
    Settings {
        write_buffer_bytes,
        ..contest.settings.clone()
    }
}

/// Whether no checkpoint ran within any round, nor had begun at its end, in words; none if the subject does not say.
fn fits(standing: &Standing, subject: Kind) -> (String, Option<bool>) {
    let rounds: Vec<Inside> = standing
        .runs(subject)
        .filter_map(|run| run.inside)
        .collect();
    let Some(most) = rounds.iter().map(|round| round.unwritten_bytes).max() else {
        let words = "; checkpoints not counted".to_owned();
        return (words, None);
    };
    let has_begun = |round: &&Inside| {
        let unwritten = round.unwritten_bytes;
        round.checkpoints > 0 || unwritten >= BURST_BUFFER_BYTES
    };
    let disturbed = rounds.iter().filter(has_begun).count();
    let mib = |bytes: u64| bytes >> 20;
    let words = match disturbed {
        0 => format!(
            "; no checkpoint, at most {} of {} MiB filled",
            mib(most),
            mib(BURST_BUFFER_BYTES)
        ),
        some => format!(
            "; NO BURST: a checkpoint ran in {some} of {} rounds, use fewer --seconds",
            rounds.len()
        ),
    };
    (words, Some(disturbed == 0))
}

/// Durable puts of 1,024 clients over many checkpoints, throughput and p99.9 by second.
pub(crate) fn sustained(bench: &mut Bench) -> Result<Verdict> {
    let job = Job {
        by_second: true,
        ..job(bench, 1_024, 20.0)
    };
    let contest = contest(bench, "sustained put, 1,024 clients", job, &["rocksdb"]);
    let standing = bench.lab.hold(&Contest {
        fresh: true,
        settings: with_buffer(&contest, SUSTAINED_BUFFER_BYTES),
        ..contest
    })?;
    for (number, round) in (1..).zip(&standing.rounds) {
        println!("round {number}\n{}", by_second(&round.runs));
    }
    let goal = Goal {
        peer: "rocksdb",
        factor: 3.0,
    };
    let (mut measured, mut reached) = judge(&standing, bench.subject, &[goal]);
    for kind in contest_order(&standing) {
        if let Some(slowest) = slowest_seconds(&standing, kind) {
            let words = slowest.text(times);
            measured += &format!("; slowest second of {kind} {words} of the round's median second");
        }
    }
    let slowest = slowest_seconds(&standing, bench.subject);
    let is_steady = slowest.map(|slowest| slowest.median >= 0.5);
    reached = reached.and_then(|so_far| Some(so_far && is_steady?));
    let checkpoints = Spread::over(standing.runs(bench.subject).filter_map(|run| {
        let inside = run.inside?;
        Some(inside.checkpoints as f64)
    }));
    match checkpoints {
        Some(checkpoints) => {
            measured += &format!("; {} checkpoints a round", checkpoints.text(count));
            if checkpoints.min < CHECKPOINTS as f64 {
                measured +=
                    &format!(": NOT SUSTAINED, fewer than {CHECKPOINTS}: use more --seconds");
                reached = None;
            }
        }
        None => {
            measured += "; checkpoints not counted";
            reached = None;
        }
    }
    Ok(Verdict {
        figure: Figure::Sustained,
        work: "durable put, 1,024 clients, over at least five checkpoints".to_owned(),
        reference: "RocksDB in the same run".to_owned(),
        goal: "3 × RocksDB; no second under half the median".to_owned(),
        measured,
        reached,
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}

/// Who took part, in order.
fn contest_order(standing: &Standing) -> Vec<Kind> {
    let runs = standing.rounds[0].runs.iter();
    runs.map(|run| run.subject).collect()
}

/// The slowest second of each round, over the round's median second.
fn slowest_seconds(standing: &Standing, kind: Kind) -> Option<Spread> {
    Spread::over(standing.runs(kind).filter_map(slowest_second))
}

/// The slowest second over the median second; none if there was no whole second.
fn slowest_second(run: &Run) -> Option<f64> {
    let seconds = run.summary.by_second.iter();
    let spread = Spread::over(seconds.map(|second| second.operations as f64))?;
    (spread.median > 0.0).then_some(spread.min / spread.median)
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
            format!("{own}; {} raw ({raw})", ratio.text(times))
        }),
        reached: over_raw.map(|ratio| ratio.median <= 1.5),
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}

/// The p50 of a subject over that of a raw force, within each round.
pub(super) fn over_raw_force(standing: &Standing, subject: Kind) -> Option<Spread> {
    let ratios: Vec<f64> = standing
        .runs(subject)
        .zip(standing.runs(Kind::Raw))
        .map(|(run, raw)| run.summary.p50_us / raw.summary.p50_us)
        .collect();
    Spread::over(ratios)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Calibration;
    use crate::report::{SecondSummary, Summary};
    use crate::standing::Round;

    /// A round of mailring with seconds of so many operations.
    fn round(seconds: &[u64], inside: Option<Inside>) -> Round {
        let by_second = seconds.iter().map(|operations| SecondSummary {
            operations: *operations,
            p999_us: 1.0,
        });
        let run = Run {
            subject: Kind::Mailring,
            inside,
            commits_per_force: None,
            summary: Summary {
                by_second: by_second.collect(),
                ..Summary::of_load(1, Duration::from_secs(1))
            },
        };
        let raw_force = Calibration {
            forces: 1,
            p50_us: 1.0,
            p99_us: 1.0,
        };
        Round {
            raw_force,
            runs: vec![run],
        }
    }

    fn standing(rounds: Vec<Round>) -> Standing {
        let title = "test".to_owned();
        let settings = String::new();
        Standing {
            title,
            settings,
            rounds,
        }
    }

    fn inside(checkpoints: u64, unwritten_bytes: u64) -> Option<Inside> {
        Some(Inside {
            checkpoints,
            unwritten_bytes,
            ..Inside::default()
        })
    }

    #[test]
    fn the_slowest_second_is_that_of_each_round_over_its_own_median() {
        let rounds = [[100, 90, 30], [10, 10, 8], [4, 2, 4]];
        let standing = standing(rounds.iter().map(|round_| round(round_, None)).collect());
        let slowest = slowest_seconds(&standing, Kind::Mailring).unwrap();
        assert_eq!(slowest.median, 0.5);
        assert_eq!((slowest.min, slowest.max), (30.0 / 90.0, 0.8));
        assert!(slowest_seconds(&standing, Kind::Raw).is_none());
    }

    #[test]
    fn a_checkpoint_that_ran_or_has_begun_is_no_burst() {
        let of = |rounds: [Option<Inside>; 2]| {
            let rounds = rounds.map(|inside| round(&[], inside));
            fits(&standing(rounds.into()), Kind::Mailring)
        };
        assert_eq!(of([inside(0, 1 << 20), inside(0, 0)]).1, Some(true));
        let (words, fits) = of([inside(1, 0), inside(0, BURST_BUFFER_BYTES)]);
        assert_eq!(fits, Some(false));
        assert!(words.contains("2 of 2 rounds"), "{words}");
        assert_eq!(of([None, None]).1, None);
    }
}
