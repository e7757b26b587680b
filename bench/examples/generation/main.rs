//! The engine's generation, a B-tree under a short lock, beside a lock-free skip list of the same versions.
//!
//! ```text
//! cargo run --release -p mailring-bench --example generation -- --versions 300000 --rounds 5
//! ```
//!
//! Both hold (key, LSN) → value with 24 bytes of the key as integers beside it. They take turns within a round, so that the
//! machine is the same for both, and a ratio is taken within its round:
//!
//! | work | is |
//! |---|---|
//! | insert | one writer, keys in no order, each new |
//! | overwrite | the same number of newer versions, of keys drawn by zipf |
//! | get beside a writer | one thread reads keys drawn by zipf, another overwrites |
//! | scan | the newest versions of 100 keys from a random one on |
//! | bytes | of memory for each version, by what a process of its own has resident |
//!
//! Before anything is measured, both must give the same answers.

mod skip_list;
mod table;

use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use mailring_engine::generation::Generation;
use mailring_engine::ids::Lsn;
use skip_list::SkipList;
use table::{Keys, Table};

/// Keys of a scan.
const SCANNED: usize = 100;

/// Measures two structures for the versions that a node has in memory.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// Versions that are inserted, and then once more overwritten.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    versions: u64,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,
    /// Seconds of the reads and of the scans.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Fills one of them, and prints what a version weighs.
    #[arg(long, hide = true)]
    weigh: Option<String>,
}

/// What was measured of one structure in one round: nanoseconds an operation, and the bytes of a version.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    insert: f64,
    overwrite: f64,
    get: f64,
    beside: f64,
    scan: f64,
    bytes: f64,
}

/// A line of the table, and what stands in it.
type Line = (&'static str, fn(&Figures) -> f64);

const LINES: [Line; 6] = [
    ("insert, ns", |figures| figures.insert),
    ("overwrite, zipf, ns", |figures| figures.overwrite),
    ("get beside a writer, ns", |figures| figures.get),
    ("overwrite beside a reader, ns", |figures| figures.beside),
    ("scan of 100, ns", |figures| figures.scan),
    ("bytes a version", |figures| figures.bytes),
];

fn nanos(time: Duration, operations: u64) -> f64 {
    time.as_nanos() as f64 / operations.max(1) as f64
}

fn fill<T: Table>(table: &T, keys: &Keys) {
    for number in 0..keys.count() {
        table.insert(Lsn(number + 1), &keys.write(number));
    }
}

fn measure<T: Table>(args: &Args, round: u64) -> Result<Figures, String> {
    let keys = &Keys::new(args.versions, args.value_bytes, round);
    let table = &T::default();
    let begun = Instant::now();
    fill(table, keys);
    let insert = nanos(begun.elapsed(), args.versions);

    let mut zipf = keys.zipf(1);
    let begun = Instant::now();
    for number in 0..args.versions {
        let lsn = Lsn(args.versions + number + 1);
        table.insert(lsn, &keys.write(zipf.draw()));
    }
    let overwrite = nanos(begun.elapsed(), args.versions);

    let time = Duration::from_secs_f64(args.seconds);
    let is_over = &AtomicBool::new(false);
    let (get, beside) = thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let (mut zipf, begun, mut written) = (keys.zipf(2), Instant::now(), 0);
            while !is_over.load(Ordering::Relaxed) {
                let lsn = Lsn(2 * args.versions + written + 1);
                table.insert(lsn, &keys.write(zipf.draw()));
                written += 1;
            }
            nanos(begun.elapsed(), written)
        });
        let (mut zipf, begun, mut read) = (keys.zipf(3), Instant::now(), 0);
        while begun.elapsed() < time {
            for _ in 0..64 {
                let key = keys.key(zipf.draw());
                black_box(table.newest(key, Lsn(u64::MAX)));
            }
            read += 64;
        }
        let get = nanos(begun.elapsed(), read);
        is_over.store(true, Ordering::Relaxed);
        let no_panic = "the writer does nothing that panics";
        (get, writer.join().expect(no_panic))
    });

    let (mut uniform, begun, mut scans) = (keys.uniform(4), Instant::now(), 0);
    while begun.elapsed() < time {
        let from = keys.key(uniform.draw());
        black_box(table.scan(from, SCANNED));
        scans += 1;
    }
    let scan = nanos(begun.elapsed(), scans);
    Ok(Figures {
        insert,
        overwrite,
        get,
        beside,
        scan,
        bytes: weighed::<T>(args)?,
    })
}

/// What a version weighs, by a process that does nothing else.
fn weighed<T: Table>(args: &Args) -> Result<f64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let child = Command::new(own)
        .args(["--weigh", T::NAME])
        .args(["--versions", &args.versions.to_string()])
        .args(["--value-bytes", &args.value_bytes.to_string()])
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&child.stdout);
    let bytes = said.trim().parse();
    bytes.map_err(|error| format!("the scales said {said:?}: {error}"))
}

/// Bytes of this process that are in memory, as Linux has it.
fn resident_bytes() -> Result<f64, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0)
        .ok_or_else(|| "the system does not say what is resident".to_owned())
}

fn weigh<T: Table>(args: &Args) -> Result<(), String> {
    let keys = Keys::new(args.versions, args.value_bytes, 0);
    let before = resident_bytes()?;
    let table = T::default();
    fill(&table, &keys);
    println!("{}", (resident_bytes()? - before) / args.versions as f64);
    Ok(())
}

/// Both must say the same of the same versions.
fn check(args: &Args) -> Result<(), String> {
    let keys = Keys::new(args.versions.min(20_000), args.value_bytes, 0);
    let (tree, list) = (Generation::default(), SkipList::default());
    let mut zipf = keys.zipf(0);
    for number in 0..2 * keys.count() {
        let write = keys.write(zipf.draw());
        tree.insert(Lsn(number + 1), &write);
        Table::insert(&list, Lsn(number + 1), &write);
    }
    for number in 0..keys.count() {
        let key = keys.key(number);
        for at in [Lsn(1), Lsn(keys.count()), Lsn(u64::MAX)] {
            if Table::newest(&tree, key, at) != list.newest(key, at) {
                return Err(format!("they disagree on {key:?} at {at:?}"));
            }
        }
        if number % 100 == 0 && tree.scan(key, SCANNED) != list.scan(key, SCANNED) {
            return Err(format!("they disagree on what follows {key:?}"));
        }
    }
    Ok(())
}

/// The middle value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(args: &Args) -> Result<(), String> {
    check(args)?;
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        eprintln!("round {}/{}", round + 1, args.rounds);
        let tree = measure::<Generation>(args, round)?;
        rounds.push((tree, measure::<SkipList>(args, round)?));
    }
    println!(
        "| {:<30} | {:>8} | {:>9} | skip list over B-tree |",
        "", "B-tree", "skip list"
    );
    println!("|{:-<32}|{:->10}|{:->11}|{:->23}|", "", ":", ":", ":");
    for (name, figure) in LINES {
        let tree = median(rounds.iter().map(|(tree, _)| figure(tree)).collect());
        let list = median(rounds.iter().map(|(_, list)| figure(list)).collect());
        let ratios = rounds
            .iter()
            .map(|(tree, list)| figure(list) / figure(tree));
        let ratios: Vec<f64> = ratios.collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let ratio = format!("{:.2} × ({least:.2}–{most:.2})", median(ratios));
        println!("| {name:<30} | {tree:>8.0} | {list:>9.0} | {ratio:>21} |");
    }
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.weigh.as_deref() {
        None => compare(&args),
        Some(<Generation as Table>::NAME) => weigh::<Generation>(&args),
        Some(_) => weigh::<SkipList>(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("generation: {reason}");
            ExitCode::FAILURE
        }
    }
}
