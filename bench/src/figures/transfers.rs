//! Transactions: durable and unforced transfers, and a hot counter.
//!
//! Accounts are 10,000 unless told otherwise, and every transfer is between two nodes. The best peer is the best store
//! as it is: stores behind a thread of this bench that puts all waiting transfers into one transaction, and the serial
//! thread on a bare log, are shown beside it, since no store does as much by itself.

use std::sync::Arc;
use std::time::Duration;

use super::{Bench, Figure, Goal, Verdict, judge, puts};
use crate::Result;
use crate::distribution::Distribution;
use crate::driver::{Schedule, Stop};
use crate::interleave::BankTrial;
use crate::report::{count, micros, percent, times};
use crate::standing::Standing;
use crate::subject::{Durability, Kind};
use crate::transactions::{BankJob, Economy, Mix, Placement};

/// Accounts of the figures.
const ACCOUNTS: u64 = 10_000;

/// The skew of the zipfian figure.
const THETA: f64 = 0.9;

/// Bytes of a value: the balance, and what else an account has.
const VALUE_BYTES: usize = 100;

/// Commits of a hot counter that a force must have.
const COUNTS_PER_FORCE: f64 = 20.0;

/// Everybody with transactions; a figure takes those of this build.
const BANKS: [&str; 11] = [
    "rocksdb-transaction",
    "rocksdb-optimistic",
    "fjall-optimistic",
    "fjall-single-writer",
    "redb",
    "lmdb",
    "surrealkv",
    "fjall-single-writer-group",
    "redb-group",
    "lmdb-group",
    "serial",
];

/// The peer that the goals of durable transfers name.
const LOCKING: &str = "rocksdb-transaction";

pub(super) fn schedule(bench: &Bench, clients: usize, seconds: f64) -> Schedule {
    Schedule {
        clients,
        stop: Stop::After(Duration::from_secs_f64(bench.seconds.unwrap_or(seconds))),
        warmup: Duration::from_millis(200),
        rate: None,
        sample_every: 1,
        by_second: false,
    }
}

/// The accounts, all of whose transfers cross nodes.
pub(super) fn accounts(bench: &Bench, distribution: Distribution) -> Result<Economy> {
    let (accounts, lab) = (ACCOUNTS, &bench.lab);
    let economy = Economy::new(
        Mix::Transfer,
        accounts,
        Some(distribution),
        THETA,
        VALUE_BYTES,
    )?;
    let placement = Placement::of(accounts, lab.nodes, &lab.runtime)?;
    Ok(economy.crossing(100, placement))
}

fn trial(
    bench: &Bench,
    title: &str,
    economy: Economy,
    schedule: Schedule,
    durability: Durability,
    peers: &[&str],
) -> BankTrial {
    BankTrial {
        title: title.to_owned(),
        job: BankJob {
            economy: Arc::new(economy),
            schedule,
            seed: bench.lab.seed,
            on_threads: false,
        },
        peers: bench.line_up(peers, Kind::has_transactions),
        settings: bench.lab.settings(durability, 64 << 20),
    }
}

/// The ratio to the best store as it is.
fn over_best(standing: &Standing, subject: Kind) -> Option<(Kind, f64)> {
    let peers = standing.rounds[0].runs.iter().map(|run| run.subject);
    let is_store = |peer: &Kind| *peer != subject && !peer.is_contrived() && !peer.is_mailring();
    let peers = peers.filter(is_store);
    let ratios = peers.filter_map(|peer| Some((peer, standing.ratio(subject, peer)?.median)));
    ratios.min_by(|left, right| left.1.total_cmp(&right.1))
}

/// Durable transfers of 64 clients, judged by the store that locks and the best of all.
fn durable(bench: &Bench, distribution: Distribution, goals: [f64; 2]) -> Result<Verdict> {
    let economy = accounts(bench, distribution)?;
    let cap = economy.cap_per_force(bench.lab.seed);
    let is_skewed = distribution == Distribution::Zipfian;
    let title = match is_skewed {
        true => "durable transfer, zipf 0.9, 64 clients",
        false => "durable transfer, 64 clients",
    };
    let schedule = schedule(bench, 64, 1.0);
    let mut banks = BANKS.to_vec();
    if is_skewed {
        banks.insert(0, "mailring-locking");
    }
    let trial = trial(bench, title, economy, schedule, Durability::Always, &banks);
    let standing = bench.lab.hold_banks(&trial)?;
    let [over_locking, over_all] = goals;
    let goal = Goal {
        peer: LOCKING,
        factor: over_locking,
    };
    let (mut measured, mut reached) = judge(&standing, bench.subject, &[goal]);
    let subject = bench.subject;
    match over_best(&standing, subject) {
        Some((best, ratio)) => {
            let words = standing.ratio_words(subject, best).unwrap_or_default();
            measured += &format!("; the best store: {words}");
            reached = reached.map(|so_far| so_far && ratio >= over_all);
        }
        None => reached = None,
    }
    if let Some(words) = standing.ratio_words(subject, Kind::Serial) {
        measured += &format!("; a serial thread on a bare log: {words}");
    }
    if let Some(aborts) = standing.spread(bench.subject, crate::report::Summary::abort_share) {
        measured += &format!("; {} of the attempts aborted", percent(aborts.median));
    }
    if let Some(commits) = standing.commits_per_force(bench.subject) {
        measured += &format!("; {} commits a force", commits.text(count));
        if is_skewed {
            let share = percent(commits.median / cap);
            measured += &format!(
                ", {share} of the {} that the hottest account allows",
                count(cap)
            );
        }
    }
    let locking = Kind::MailringLocking;
    if let Some(ratio) = standing.ratio(locking, bench.subject) {
        measured += &format!("; with locks {} as many", ratio.text(times));
        if let Some(aborts) = standing.spread(locking, crate::report::Summary::abort_share) {
            measured += &format!(", {} aborted", percent(aborts.median));
        }
    }
    let figure = match is_skewed {
        true => Figure::TransferZipf,
        false => Figure::Transfer,
    };
    Ok(Verdict {
        figure,
        work: format!("{title}, all between two nodes, 10,000 accounts"),
        reference: "RocksDB TransactionDB; the best store with transactions in the same run"
            .to_owned(),
        goal: format!("{over_locking} × TransactionDB; {over_all} × the best"),
        measured,
        reached,
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}

/// Durable transfers, uniform.
pub(crate) fn uniform(bench: &mut Bench) -> Result<Verdict> {
    durable(bench, Distribution::Uniform, [10.0, 5.0])
}

/// Durable transfers, zipfian: the hottest account can commit once a force.
pub(crate) fn zipfian(bench: &mut Bench) -> Result<Verdict> {
    durable(bench, Distribution::Zipfian, [5.0, 3.0])
}

/// Durable transfers of one client against the disk.
pub(crate) fn of_one_client(bench: &mut Bench) -> Result<Verdict> {
    let title = "durable transfer, 1 client";
    let peers = [
        "raw",
        "rocksdb-transaction",
        "fjall-single-writer",
        "redb",
        "serial",
    ];
    let economy = accounts(bench, Distribution::Uniform)?;
    let schedule = schedule(bench, 1, 0.7);
    let trial = trial(bench, title, economy, schedule, Durability::Always, &peers);
    let standing = bench.lab.hold_banks(&trial)?;
    let p50 = |kind| {
        let spread = standing.spread(kind, |run| run.p50_us);
        micros(spread.map_or(f64::NAN, |spread| spread.median))
    };
    let over_raw = puts::over_raw_force(&standing, bench.subject);
    let (own, raw) = (p50(bench.subject), p50(Kind::Raw));
    Ok(Verdict {
        figure: Figure::TransferOne,
        work: format!("{title}, p50"),
        reference: "raw fdatasync of the same bytes".to_owned(),
        goal: "2 × at most".to_owned(),
        measured: over_raw.map_or(own.clone(), |ratio| {
            format!("{own}; {} raw ({raw})", ratio.text(times))
        }),
        reached: over_raw.map(|ratio| ratio.median <= 2.0),
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}

/// Transfers that nobody forces.
pub(crate) fn unforced(bench: &mut Bench) -> Result<Verdict> {
    let title = "transfer without forcing, 64 clients";
    let economy = accounts(bench, Distribution::Uniform)?;
    let schedule = schedule(bench, 64, 1.0);
    let trial = trial(bench, title, economy, schedule, Durability::None, &BANKS);
    let standing = bench.lab.hold_banks(&trial)?;
    let goal = Goal {
        peer: "fjall-single-writer",
        factor: 1.0,
    };
    let (measured, reached) = judge(&standing, bench.subject, &[goal]);
    Ok(Verdict {
        figure: Figure::TransferUnforced,
        work: title.to_owned(),
        reference: "fjall with a single writer".to_owned(),
        goal: "better".to_owned(),
        measured,
        reached,
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}

/// One counter that everybody adds to.
pub(crate) fn hot_counter(bench: &mut Bench) -> Result<Verdict> {
    let title = "add to one counter, durable, 64 clients";
    let peers = ["rocksdb-transaction", "fjall-single-writer", "serial"];
    let economy = Economy::new(Mix::Counter, ACCOUNTS, None, THETA, VALUE_BYTES)?;
    let schedule = schedule(bench, 64, 1.0);
    let trial = trial(bench, title, economy, schedule, Durability::Always, &peers);
    let standing = bench.lab.hold_banks(&trial)?;
    let (mut measured, _) = judge(&standing, bench.subject, &[]);
    let commits = standing.commits_per_force(bench.subject);
    if let Some(commits) = commits {
        measured += &format!("; {} commits a force", commits.text(count));
    }
    Ok(Verdict {
        figure: Figure::HotCounter,
        work: title.to_owned(),
        reference: "one force for each commit".to_owned(),
        goal: format!("more than {COUNTS_PER_FORCE} commits a force"),
        measured,
        reached: commits.map(|commits| commits.median > COUNTS_PER_FORCE),
        standings: vec![standing],
        reopenings: Vec::new(),
    })
}
