//! Runs seeds of the simulator and says what they met; replays one seed with its trace.
//!
//! ```text
//! simulate --seed 17 --trace                 one seed, with its messages
//! simulate --seeds 10000 --minutes 5         the fixed seeds, those that ever failed, then fresh ones
//! simulate --hours 8                         fresh ones, with a line every 5,000 seeds
//! ```

use clap::Parser;
use mailring_simulator::{Mutation, Options, Report, faults::Fault, run, run_traced};
use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Seeds that failed once: they are run first, for ever.
const KEPT: &str = include_str!("../../seeds.txt");

/// What a run of the command is told.
#[derive(Debug, Parser)]
#[command(
    about = "Simulates mailring from seeds, breaks everything around it, and checks what comes of it."
)]
struct Arguments {
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Run so many seeds at least: those from 0 up, then fresh ones.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// How many of the seeds are the same each time, from 0 up.
    #[arg(long, default_value_t = 2_000)]
    fixed: u64,
    /// Fail if the seeds are not done by then.
    #[arg(long)]
    minutes: Option<f64>,
    /// Go on with fresh seeds for so long.
    #[arg(long)]
    hours: Option<f64>,
    /// Threads, each with its own seeds.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The first fresh seed, instead of one that the clock gives.
    #[arg(long)]
    fresh: Option<u64>,
    /// So many steps before the faults stop, instead of as many as the seed says.
    #[arg(long)]
    steps: Option<u64>,
    /// Leave a kind of fault out.
    #[arg(long, value_parser = fault)]
    without: Vec<Fault>,
    /// Do something wrong on purpose.
    #[arg(long, value_parser = mutation)]
    mutation: Option<Mutation>,
    /// Print the messages of the seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Fail unless the medians of a seed are what a real run has: 500 messages, 20 commits, a restart or crash.
    #[arg(long)]
    demand_medians: bool,
}

fn fault(name: &str) -> Result<Fault, String> {
    Options::fault(name).ok_or_else(|| format!("no kind of fault is called {name}"))
}

fn mutation(name: &str) -> Result<Mutation, String> {
    Mutation::named(name).ok_or_else(|| format!("no mutation is called {name}"))
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            steps: self.steps,
            without: self.without.clone(),
            mutation: self.mutation,
            trace: self.trace,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => replay(seed, &arguments.options()),
        None => many(&arguments),
    }
}

fn replay(seed: u64, options: &Options) -> ExitCode {
    let (outcome, text) = run_traced(seed, options);
    print!("{text}");
    match outcome {
        Ok(summary) => {
            let mut report = Report::default();
            report.add(&summary);
            println!("{report}trace {:016x}", summary.trace);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn kept() -> Vec<u64> {
    let lines = KEPT
        .lines()
        .map(|line| line.split('#').next().unwrap_or("").trim());
    let seeds = lines.filter(|line| !line.is_empty());
    seeds
        .map(|line| line.parse().expect("a seed a line"))
        .collect()
}

/// Which seeds are run: the fixed ones and those that were kept, then fresh ones.
struct Seeds {
    first: Vec<u64>,
    fresh: u64,
    next: AtomicU64,
}

impl Seeds {
    fn new(arguments: &Arguments) -> Self {
        let mut first = kept();
        let seen: BTreeSet<_> = first.iter().copied().collect();
        first.extend((0..arguments.fixed.min(arguments.seeds)).filter(|seed| !seen.contains(seed)));
        Self {
            first,
            fresh: arguments.fresh.unwrap_or_else(of_this_moment),
            next: AtomicU64::new(0),
        }
    }

    /// The next seed, and how many came before it.
    fn next(&self) -> (u64, u64) {
        let count = self.next.fetch_add(1, Relaxed);
        let kept = self.first.len() as u64;
        let seed = match self.first.get(count as usize) {
            Some(seed) => *seed,
            None => self.fresh.wrapping_add(count - kept),
        };
        (seed, count)
    }
}

/// Nobody has run these seeds before.
#[expect(
    clippy::disallowed_methods,
    reason = "fresh seeds come from outside of what is simulated, and are printed"
)]
fn of_this_moment() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64 & 0xffff_ffff_ffff)
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long the command runs is not part of what is simulated"
)]
fn instant() -> Instant {
    Instant::now()
}

fn many(arguments: &Arguments) -> ExitCode {
    let options = arguments.options();
    let seeds = Seeds::new(arguments);
    let started = instant();
    let hours = arguments
        .hours
        .map(|hours| Duration::from_secs_f64(hours * 3_600.0));
    let wanted = arguments.seeds.max(seeds.first.len() as u64);
    println!("fresh seeds from {}", seeds.fresh);
    let has_failed = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                let mut own = Report::default();
                loop {
                    let (seed, count) = seeds.next();
                    let is_over = match hours {
                        Some(hours) => started.elapsed() >= hours,
                        None => count >= wanted,
                    };
                    if is_over || has_failed.load(Relaxed) {
                        break;
                    }
                    match run(seed, &options) {
                        Ok(summary) => own.add(&summary),
                        Err(failure) => {
                            has_failed.store(true, Relaxed);
                            println!("{failure}");
                        }
                    }
                    if count % 5_000 == 4_999 {
                        println!("{} seeds after {:.0?}", count + 1, started.elapsed());
                    }
                }
                let mut all = report.lock().unwrap_or_else(PoisonError::into_inner);
                all.merge(own);
            });
        }
    });
    let report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    let took = started.elapsed();
    print!("{report}");
    println!("{} seeds in {:.1} s", report.runs(), took.as_secs_f64());
    verdict(arguments, &report, took, has_failed.into_inner())
}

fn verdict(arguments: &Arguments, report: &Report, took: Duration, has_failed: bool) -> ExitCode {
    let mut is_fine = !has_failed;
    let mut complain = |words: String| {
        println!("{words}");
        is_fine = false;
    };
    if has_failed {
        complain("an invariant was broken".into());
    }
    if let Some(minutes) = arguments.minutes
        && took.as_secs_f64() > minutes * 60.0
    {
        complain(format!("that took longer than {minutes} minutes"));
    }
    if arguments.demand_medians {
        let [messages, commits, restarts] = report.medians();
        if messages < 500 || commits < 20 || restarts < 1 {
            complain("the medians of a seed are below 500 messages, 20 commits, 1 restart".into());
        }
        let never = report.never_met();
        if !never.is_empty() {
            complain(format!("no seed has met: {}", never.join(", ")));
        }
    }
    match is_fine {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
