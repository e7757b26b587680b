//! The load generator of mailring.
//!
//! `run` puts one subject under a workload; `compare` gives the same work to several in interleaved rounds, or
//! measures one of the figures that mailring promises:
//!
//! ```text
//! cargo run --release -p mailring-bench -- run --workload a --records 100000 --clients 64
//! cargo run --release -p mailring-bench -- run --workload put --rate 20000 --seconds 10
//! cargo run --release -p mailring-bench -- compare --workload b --clients 2
//! cargo run --release -p mailring-bench --features rocksdb,lmdb -- compare --figure all
//! ```
//!
//! `rocksdb` needs a C++ compiler and libclang to build, `lmdb` a C compiler; a plain build needs neither. The map of
//! the house: `workload` and `distribution` say what is done, `driver` does it, `tally` and `report` count and
//! print, `contest` is a comparison, `subject` holds the stores, `figures` the promises.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use contest::{Contest, Lab};
use distribution::Distribution;
use driver::{Job, Stop};
use figures::reopen::ChildArgs;
use figures::{Bench, Figure};
use subject::{Durability, Kind};
use workload::{Preset, SHORTEST_KEY_BYTES, Shape, Workload};

mod calibration;
mod contest;
mod distribution;
mod driver;
mod figures;
mod report;
mod subject;
mod tally;
mod workload;

/// What went wrong; subjects bring errors of many types.
pub(crate) type Fault = Box<dyn Error + Send + Sync>;

/// The result of anything here.
pub(crate) type Result<T> = std::result::Result<T, Fault>;

/// Measures mailring and other embedded stores.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts one subject under a workload.
    Run(RunArgs),
    /// Gives the same work to several subjects, or measures a figure.
    Compare(CompareArgs),
    /// Loads a directory for the figure that kills it.
    #[command(hide = true)]
    Child(ChildArgs),
}

/// The work.
#[derive(Clone, Debug, Args)]
struct WorkArgs {
    /// The workload.
    #[arg(long, default_value = "a")]
    workload: Preset,
    /// Records loaded first.
    #[arg(long)]
    records: Option<u64>,
    /// Ends after so many operations; else after `--seconds`.
    #[arg(long, conflicts_with = "seconds")]
    operations: Option<u64>,
    /// Ends after so much time.
    #[arg(long)]
    seconds: Option<f64>,
    /// Seconds at the start that are not measured.
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// Concurrent clients: tasks where the subject is async, else threads.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Operations a second in an open loop, latency counted from when each is due; a closed loop if absent.
    #[arg(long)]
    rate: Option<f64>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Bytes of a key, at least 8.
    #[arg(long, default_value_t = 16)]
    key_bytes: usize,
    /// The choice of records, in place of the workload's own.
    #[arg(long)]
    distribution: Option<Distribution>,
    /// Skew of zipfian and latest, between 0 and 1.
    #[arg(long, default_value_t = 0.99)]
    theta: f64,
    /// Records of a scan.
    #[arg(long, default_value_t = 100)]
    scan_length: u64,
    /// When a write is answered.
    #[arg(long, default_value = "always")]
    durability: Durability,
    /// Memory for cached reads, the same for every subject.
    #[arg(long, default_value_t = 256)]
    cache_mib: u64,
    /// Prints each second, too.
    #[arg(long)]
    by_second: bool,
}

/// Where it runs.
#[derive(Clone, Debug, Args)]
struct PlaceArgs {
    /// Worker threads of the runtime that async subjects and their clients share.
    #[arg(long)]
    threads: Option<usize>,
    /// Storage nodes of mailring.
    #[arg(long, default_value_t = 4)]
    nodes: u32,
    /// The seed of all choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where directories are made; a temporary directory if absent. They are removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes the report as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Whom to measure.
    #[arg(long, default_value_t = Kind::under_test())]
    subject: Kind,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// Measures this figure; `--workload` is ignored then.
    #[arg(long)]
    figure: Option<Figure>,
    /// Whom to judge.
    #[arg(long, default_value_t = Kind::under_test())]
    subject: Kind,
    /// Peers, in place of the usual ones.
    #[arg(long, value_delimiter = ',')]
    peers: Option<Vec<Kind>>,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

impl WorkArgs {
    fn shape(&self, usual_records: u64) -> Shape {
        let records = self.records.unwrap_or(usual_records);
        Shape {
            records,
            key_bytes: self.key_bytes,
            value_bytes: self.value_bytes,
        }
    }

    fn check(&self) -> Result<()> {
        let complaint = match self {
            Self { theta, .. } if !(*theta > 0.0 && *theta < 1.0) => {
                "--theta must lie between 0 and 1"
            }
            Self { clients: 0, .. } => "--clients must not be 0",
            Self {
                records: Some(0), ..
            } => "--records must not be 0",
            Self { scan_length: 0, .. } => "--scan-length must not be 0",
            Self { key_bytes, .. } if *key_bytes < SHORTEST_KEY_BYTES => {
                "--key-bytes must be at least 8"
            }
            Self {
                rate: Some(rate), ..
            } if !(*rate > 0.0 && *rate <= 1e9) => "--rate must be above 0",
            Self {
                seconds: Some(time),
                ..
            } if !(*time > 0.0 && *time < 1e6) => "--seconds must be above 0",
            Self { warmup, .. } if !(0.0..1e6).contains(warmup) => "--warmup must not be negative",
            _ => return Ok(()),
        };
        Err(Fault::from(complaint))
    }

    fn job(&self, shape: Shape, seed: u64) -> Job {
        let time = Duration::from_secs_f64(self.seconds.unwrap_or(5.0));
        Job {
            workload: Workload::new(
                self.workload,
                shape,
                self.distribution,
                self.theta,
                self.scan_length,
            ),
            clients: self.clients,
            stop: self.operations.map_or(Stop::After(time), Stop::Operations),
            warmup: Duration::from_secs_f64(self.warmup),
            rate: self.rate,
            seed,
            sample_every: 1,
            tape: 0,
            by_second: self.by_second,
        }
    }
}

fn runtime(threads: Option<usize>) -> Result<Arc<tokio::runtime::Runtime>> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.max(1));
    }
    Ok(Arc::new(builder.enable_all().build()?))
}

/// A lab in the user's directory or in one that vanishes with the guard.
fn lab(place: &PlaceArgs, rounds: usize) -> Result<(Lab, tempfile::TempDir)> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("mailring-bench-");
    let guard = match &place.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            builder.tempdir_in(dir)?
        }
        None => builder.tempdir()?,
    };
    let lab = Lab::new(
        guard.path(),
        runtime(place.threads)?,
        rounds.max(1),
        place.seed,
        place.nodes,
    );
    Ok((lab, guard))
}

fn contest(args: &WorkArgs, lab: &Lab, peers: Vec<Kind>) -> Contest {
    let settings = lab.settings(args.durability, args.cache_mib << 20);
    let job = args.job(args.shape(100_000), lab.seed);
    let title = format!("{:?}", args.workload).to_lowercase();
    Contest {
        title,
        job,
        peers,
        settings,
        fresh: false,
        touch_all: false,
    }
}

fn run(args: &RunArgs) -> Result<()> {
    let (mut lab, _guard) = lab(&args.place, 1)?;
    let standing = if args.work.workload == Preset::Load {
        let mut bench = Bench {
            lab,
            subject: args.subject,
            peers: Some(Vec::new()),
            records: args.work.shape(figures::RECORDS).records,
            seconds: None,
        };
        bench.measure(Figure::Load1m)?.remove(0).standings.remove(0)
    } else {
        let contest = contest(&args.work, &lab, vec![args.subject]);
        lab.hold(&contest)?
    };
    let run = &standing.rounds[0].runs[0];
    println!(
        "{}",
        report::table(
            &report::Summary::HEADER,
            &[run.summary.row(&standing.title)]
        )
    );
    println!(
        "raw fdatasync, p50: {}",
        report::micros(standing.rounds[0].raw_force.p50_us)
    );
    if run.summary.unserved > 0 {
        println!(
            "due and not sent by the end: {}",
            report::count(run.summary.unserved as f64)
        );
    }
    if run.summary.missed > 0 {
        println!(
            "reads that found nothing: {}",
            report::count(run.summary.missed as f64)
        );
    }
    if args.work.by_second {
        println!("\n{}", contest::by_second(&standing.rounds[0].runs));
    }
    args.place
        .json
        .as_deref()
        .map_or(Ok(()), |path| report::write_json(path, &standing))
}

fn compare(args: &CompareArgs) -> Result<()> {
    let (mut lab, _guard) = lab(&args.place, args.rounds)?;
    let Some(figure) = args.figure else {
        let peers = args.peers.clone().unwrap_or_else(Kind::usual_peers);
        let scans = args.work.job(args.work.shape(1), 1).workload.scans();
        let peers = peers
            .into_iter()
            .filter(|kind| *kind != args.subject && (!scans || kind.scans()));
        let peers = std::iter::once(args.subject).chain(peers).collect();
        let contest = contest(&args.work, &lab, peers);
        let standing = lab.hold(&contest)?;
        println!("{}", standing.table());
        return args
            .place
            .json
            .as_deref()
            .map_or(Ok(()), |path| report::write_json(path, &standing));
    };
    let mut bench = Bench {
        lab,
        subject: args.subject,
        peers: args.peers.clone(),
        records: args.work.shape(figures::RECORDS).records,
        seconds: args.work.seconds,
    };
    let verdicts = bench.measure(figure)?;
    for standing in verdicts.iter().flat_map(|verdict| &verdict.standings) {
        println!("{}", standing.table());
    }
    println!("{}", figures::markdown(&verdicts));
    args.place
        .json
        .as_deref()
        .map_or(Ok(()), |path| report::write_json(path, &verdicts))
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => args.work.check().and_then(|()| run(&args)),
        Command::Compare(args) => args.work.check().and_then(|()| compare(&args)),
        Command::Child(args) => {
            runtime(None).and_then(|runtime| figures::reopen::child(&args, &runtime))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("mailring-bench: {fault}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        let check = |flags: &[&str]| {
            let line = ["mailring-bench", "run"].iter().chain(flags);
            let Command::Run(args) = Cli::parse_from(line).command else {
                panic!("a run was asked for")
            };
            args.work.check()
        };
        assert!(check(&[]).is_ok());
        for flags in [
            ["--theta", "1"],
            ["--clients", "0"],
            ["--key-bytes", "7"],
            ["--rate", "-5"],
        ] {
            assert!(check(&[flags.join("=").as_str()]).is_err(), "{flags:?}");
        }
    }
}
