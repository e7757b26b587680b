//! The load generator of mailring.
//!
//! `run` puts one subject under a workload; `compare` gives the same work to several in interleaved rounds, or
//! measures one of the figures that mailring promises:
//!
//! ```text
//! cargo run --release -p mailring-bench -- run --workload a --records 100000 --clients 64
//! cargo run --release -p mailring-bench -- run --workload put --rate 20000 --seconds 10
//! cargo run --release -p mailring-bench -- run --workload transfer --cross-node 100
//! cargo run --release -p mailring-bench -- run --workload lock --names 8
//! cargo run --release -p mailring-bench -- run --workload grow --records 10000000 --svg growth.svg
//! cargo run --release -p mailring-bench -- run --workload resize --records 1000000 --svg resize.svg
//! cargo run --release -p mailring-bench -- compare --workload b --clients 2
//! cargo run --release -p mailring-bench -- compare --workload smallbank --distribution zipfian --theta 0.9
//! cargo run --release -p mailring-bench -- compare --figure durable-put-64,lock --rounds 5
//! cargo run --release -p mailring-bench --features rocksdb,lmdb,redis,surrealkv,sled -- \
//!     compare --figure all --json all.json --markdown all.md
//! ```
//!
//! `rocksdb` needs a C++ compiler and libclang to build, `lmdb` a C compiler, `redis` a `redis-server` in the `PATH` when
//! it runs; a plain build needs none of them. The map of the house: `cli` has the flags; `workload`, `operations` and
//! `subject` are about records, `transactions` about accounts, `locks` about locks, each with the stores that can do
//! it; `distribution` chooses, `driver` runs the clients, `tally`, `report` and `standing` count and print; `contest` and
//! `interleave` are comparisons, `figures` the promises, `ring` changes the nodes, `about` says what was measured with.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use about::{About, Report};
use cli::{Choice, CompareArgs, PlaceArgs, RunArgs, WorkArgs};
use contest::{Contest, Lab};
use figures::record::Record;
use figures::reopen::ChildArgs;
use figures::{Bench, Figure};
use interleave::{BankTrial, LockTrial};
use standing::Standing;
use subject::Kind;
use workload::Preset;

mod about;
mod calibration;
mod cli;
mod contest;
mod distribution;
mod driver;
mod figures;
mod interleave;
mod locks;
mod operations;
mod report;
mod ring;
mod standing;
mod subject;
mod tally;
mod transactions;
mod workload;

/// Of every store in this process.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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

/// Compares by the flags, whatever the workload is.
fn hold(args: &WorkArgs, lab: &mut Lab, peers: Vec<Kind>) -> Result<Standing> {
    let settings = lab.settings(args.durability, args.cache_mib << 20);
    let title = args.workload.name();
    match args.workload {
        Choice::Records(preset) => lab.hold(&Contest {
            title,
            job: args.job(preset, args.shape(100_000), lab.seed),
            peers,
            settings,
            fresh: false,
            touch_all: false,
        }),
        Choice::Bank(mix) => lab.hold_banks(&BankTrial {
            title,
            job: args.bank_job(mix, lab)?,
            peers,
            settings,
        }),
        Choice::Lock => lab.hold_locks(&LockTrial {
            title,
            job: args.lock_job(lab),
            peers,
            settings,
        }),
        Choice::Grow | Choice::Resize => {
            let name = args.workload.name();
            Err(Fault::from(format!(
                "{name} measures one subject: use `run`"
            )))
        }
    }
}

fn run_grow(args: &RunArgs, about: &About, lab: &mut Lab) -> Result<()> {
    let growth = ring::grow(&args.work, lab, args.subject)?;
    println!("{}", growth.table());
    if let Some(path) = &args.svg {
        ring::write_svg(path, &growth)?;
    }
    keep(args.place.json.as_deref(), about, &growth)
}

fn run_resize(args: &RunArgs, about: &About, lab: &Lab) -> Result<()> {
    let resizing = ring::resize(&args.work, lab, args.move_rate)?;
    println!("{}", resizing.text());
    if let Some(path) = &args.svg {
        ring::write_resize_svg(path, &resizing)?;
    }
    keep(args.place.json.as_deref(), about, &resizing)
}

fn run(args: &RunArgs) -> Result<()> {
    let workload = args.work.workload;
    let has_rounds = matches!(workload, Choice::Grow | Choice::Resize);
    let rounds = if has_rounds { args.rounds as usize } else { 1 };
    let (mut lab, _guard) = lab(&args.place, rounds)?;
    let about = About::of(&lab);
    println!("{}\n", about.line());
    match workload {
        Choice::Grow => return run_grow(args, &about, &mut lab),
        Choice::Resize => return run_resize(args, &about, &lab),
        Choice::Records(_) | Choice::Bank(_) | Choice::Lock => {}
    }
    let standing = if args.work.workload == Choice::Records(Preset::Load) {
        let mut bench = Bench {
            lab,
            subject: args.subject,
            peers: Some(Vec::new()),
            records: args.work.shape(figures::RECORDS).records,
            seconds: None,
        };
        bench.measure(Figure::Load1m)?.standings.remove(0)
    } else {
        hold(&args.work, &mut lab, vec![args.subject])?
    };
    let run = &standing.rounds[0].runs[0];
    let row = run.summary.row(&standing.title);
    println!("{}", report::table(&report::Summary::HEADER, &[row]));
    println!(
        "raw fdatasync, p50: {}",
        report::micros(standing.rounds[0].raw_force.p50_us)
    );
    if let Some(line) = run.summary.contention_line() {
        println!("{line}");
    }
    if let Some(commits) = run.commits_per_force {
        println!("commits for each force: {}", report::count(commits));
    }
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
        println!("\n{}", standing::by_second(&standing.rounds[0].runs));
    }
    println!("{}", standing.settings);
    keep(args.place.json.as_deref(), &about, &standing)
}

fn compare(args: &CompareArgs) -> Result<()> {
    let (mut lab, _guard) = lab(&args.place, args.rounds)?;
    let about = About::of(&lab);
    println!("{}\n", about.line());
    let json = args.place.json.as_deref();
    if args.figure.is_empty() {
        let usual = match args.work.workload {
            Choice::Records(preset) => Kind::usual_peers()
                .into_iter()
                .filter(|kind| !preset.scans() || kind.scans())
                .collect(),
            Choice::Bank(_) => Kind::usual_banks(),
            Choice::Lock => Kind::usual_lockers(),
            Choice::Grow | Choice::Resize => Vec::new(),
        };
        let peers = args.peers.clone().unwrap_or(usual);
        let others = peers.into_iter().filter(|kind| *kind != args.subject);
        let peers = std::iter::once(args.subject).chain(others).collect();
        let standing = hold(&args.work, &mut lab, peers)?;
        println!("{}", standing.table());
        if let Some(path) = &args.markdown {
            let text = format!("{}\n\n{}", about.line(), standing.table());
            std::fs::write(path, text)?;
        }
        return keep(json, &about, &standing);
    }
    let mut bench = Bench {
        lab,
        subject: args.subject,
        peers: args.peers.clone(),
        records: args.work.shape(figures::RECORDS).records,
        seconds: args.work.seconds,
    };
    let mut record = Record::default();
    let figures = figures::each(&args.figure);
    for (place, figure) in (1..).zip(&figures) {
        eprintln!("{place}/{}: {figure:?}", figures.len());
        let measured = bench.measure(*figure);
        match &measured {
            Ok(verdict) => {
                for standing in &verdict.standings {
                    println!("{}", standing.table());
                }
            }
            Err(fault) => eprintln!("{figure:?}: {fault}"),
        }
        record.add(*figure, measured);
        record.write(&about, json, args.markdown.as_deref())?;
    }
    println!("{}", record.table());
    record.end()
}

/// Keeps a report as JSON, if a file was named.
fn keep(path: Option<&Path>, about: &About, result: &impl serde::Serialize) -> Result<()> {
    path.map_or(Ok(()), |path| {
        report::write_json(path, &Report { about, result })
    })
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => args.check().and_then(|()| run(&args)),
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
}
