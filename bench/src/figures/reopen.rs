//! Opening a loaded directory: after a clean close, and after the process that wrote to it was killed.
//!
//! A child process loads the records, says so, and then either closes in good order or goes on with durable puts of
//! 64 clients until SIGKILL ends it. The time is that from the call to the first answered read. A SIGKILL keeps the
//! page cache, so this measures recovery, not what survives a loss of power.
//!
//! "Bounded by the checkpoint threshold" is only seen if the child would have written more without a bound. So a first
//! child tells how long the subject writes until its first checkpoint is complete, T; the child of round r of n is killed after
//! T × (1 + (r + ½) / n), anywhere between one checkpoint and the next, and a peer's child after the same time. Beside the time
//! stand the journal's bytes since the last checkpoint and how fast they were read back. What is read back may weigh
//! [`BOUND`] times the threshold: a generation that fills, and one that is frozen and on its way to the trees.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Bench, Figure, Verdict};
use crate::driver::{Progress, Stop};
use crate::operations::Job;
use crate::report::{Spread, count, micros, table, times};
use crate::subject::{Durability, Inside, Kind, Opened, Settings, open};
use crate::workload::{Preset, Records, Shape, Workload};
use crate::{Fault, Result};

/// What the child says when the records are loaded.
const LOADED: &str = "loaded";

/// What the child says once a checkpoint is complete that began while it wrote.
const CHECKPOINTED: &str = "checkpointed";

/// What the child says of its journal now and then: bytes and records since it was opened.
const JOURNAL: &str = "journal";

/// How often.
const TELLS_EVERY: Duration = Duration::from_millis(20);

/// How long the child writes before it is killed, where no checkpoint says.
const WRITES: Duration = Duration::from_millis(700);

/// How long a first checkpoint may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(60);

/// Longer than any parent waits; a child whose parent is gone ends by itself.
const CHILD_LIMIT: Duration = Duration::from_secs(200);

/// The threshold of a checkpoint, and every peer's write buffer.
const THRESHOLD_BYTES: u64 = 64 << 20;

/// What is read back after a kill may weigh so many thresholds.
const BOUND: f64 = 2.0;

/// What a child process is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChildArgs {
    /// Whose directory.
    #[arg(long)]
    subject: Kind,
    /// Which directory.
    #[arg(long)]
    dir: PathBuf,
    /// Records to load if the directory is empty.
    #[arg(long)]
    records: u64,
    /// Storage nodes.
    #[arg(long)]
    nodes: u32,
    /// Keep writing until killed.
    #[arg(long)]
    write: bool,
}

fn shape(records: u64) -> Shape {
    Shape {
        records,
        key_bytes: 16,
        value_bytes: 100,
    }
}

fn settings(dir: &Path, nodes: u32) -> Settings {
    let dir = dir.to_owned();
    let (durability, cache_bytes, write_buffer_bytes) =
        (Durability::Always, 64 << 20, THRESHOLD_BYTES);
    Settings {
        dir,
        durability,
        cache_bytes,
        write_buffer_bytes,
        nodes,
    }
}

/// The child's whole life.
///
/// # Errors
///
/// What the subject says.
pub(crate) fn child(args: &ChildArgs, runtime: &Arc<tokio::runtime::Runtime>) -> Result<()> {
    let settings = settings(&args.dir, args.nodes);
    let shape = shape(args.records);
    if !args.dir.exists() {
        let loading = Settings {
            durability: args.subject.load_durability(),
            ..settings.clone()
        };
        let subject = open(args.subject, &loading, runtime)?;
        subject.load(shape, 1, args.subject.loaders(), &Arc::default())?;
        subject.checkpoint()?;
        subject.close()?;
    }
    let subject = open(args.subject, &settings, runtime)?;
    println!("{LOADED}");
    io::stdout().flush()?;
    if args.write {
        let job = Job {
            workload: Workload::new(Preset::Put, shape, None, 0.99, 100),
            clients: 64,
            stop: Stop::After(CHILD_LIMIT),
            warmup: Duration::ZERO,
            rate: None,
            seed: 1,
            sample_every: 1,
            tape: 0,
            by_second: false,
        };
        let (subject, is_over) = (&*subject, &AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(move || tell(subject, is_over));
            let driven = subject.drive(&job, &Arc::new(Progress::default()));
            is_over.store(true, Ordering::Relaxed);
            driven
        })?;
    }
    subject.close()
}

/// Tells the parent of the subject's inside, until the child is over.
fn tell(subject: &dyn Opened, is_over: &AtomicBool) {
    let mut has_checkpointed = false;
    while !is_over.load(Ordering::Relaxed) {
        std::thread::sleep(TELLS_EVERY);
        let Some(inside) = subject.inside() else {
            return;
        };
        println!(
            "{JOURNAL} {} {}",
            inside.journal_bytes, inside.journal_records
        );
        if inside.checkpoints > 0 && !has_checkpointed {
            has_checkpointed = true;
            println!("{CHECKPOINTED}");
        }
    }
}

/// A child that has loaded, and what it says.
struct Running {
    process: Child,
    lines: Receiver<String>,
}

impl Running {
    /// Starts a child and waits until it has loaded.
    fn start(kind: Kind, dir: &Path, bench: &Bench, write: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["child", "--subject", &kind.name()]);
        command.args(["--records", &bench.records.to_string()]);
        command.args(["--nodes", &bench.lab.nodes.to_string()]);
        command.arg("--dir").arg(dir);
        if write {
            command.arg("--write");
        }
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take();
        let stdout = stdout.ok_or_else(|| Fault::from("the child has no output"))?;
        let (sender, lines) = channel();
        // It reads until the child is gone, so that the child never waits to be read.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(io::Result::ok) {
                // Whoever listened may be satisfied.
                let _ = sender.send(line);
            }
        });
        if lines.recv().is_ok_and(|line| line == LOADED) {
            return Ok(Self { process, lines });
        }
        process.wait()?;
        Err(Fault::from(format!(
            "the child for {kind} ended before it had loaded"
        )))
    }

    /// Waits until it has ended in good order.
    fn end(mut self, kind: Kind) -> Result<()> {
        match self.process.wait()?.success() {
            true => Ok(()),
            false => Err(Fault::from(format!("the child for {kind} failed"))),
        }
    }

    /// Kills it; returns the bytes of a record in its journal, if it has told.
    fn kill(mut self) -> Result<Option<f64>> {
        self.process.kill()?;
        self.process.wait()?;
        let told = self.lines.iter().filter_map(|line| bytes_a_record(&line));
        Ok(told.last())
    }

    /// How long it takes until it has checkpointed; none if it doesn't say.
    fn time_of_checkpoint(&self) -> Option<Duration> {
        let began = Instant::now();
        loop {
            let left = CHECKPOINT_LIMIT.checked_sub(began.elapsed())?;
            if self.lines.recv_timeout(left).ok()? == CHECKPOINTED {
                return Some(began.elapsed());
            }
        }
    }
}

/// What a child has told of its journal.
fn bytes_a_record(line: &str) -> Option<f64> {
    let (bytes, records) = line.strip_prefix(JOURNAL)?.trim().split_once(' ')?;
    let (bytes, records) = (bytes.parse::<f64>().ok()?, records.parse::<f64>().ok()?);
    (records > 0.0).then_some(bytes / records)
}

/// Bytes of the journals below a directory, without the zeros at their ends.
fn journal_bytes(kind: Kind, dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            bytes += journal_bytes(kind, &path)?;
        } else if kind.is_journal(&path) {
            let content = std::fs::read(&path)?;
            let end = content.iter().rposition(|byte| *byte != 0);
            bytes += end.map_or(0, |end| end as u64 + 1);
        }
    }
    Ok(bytes)
}

/// One opening.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Reopening {
    /// From the call to the first answered read.
    micros: f64,
    /// Bytes of the journal that it had to read back.
    journal_bytes: f64,
    /// What of it weighs in memory afterwards, and the commits since the last checkpoint, where the subject says.
    #[serde(flatten)]
    inside: Option<Inside>,
}

impl Reopening {
    /// Opens and times. The journal's bytes are those of the commits since the last checkpoint where the subject
    /// tells, else those of the files.
    fn of(bench: &Bench, kind: Kind, dir: &Path, bytes_a_record: Option<f64>) -> Result<Self> {
        let mut records = Records::new(shape(bench.records), 1, 0);
        let in_files = journal_bytes(kind, dir)? as f64;
        let began = Instant::now();
        let subject = open(kind, &settings(dir, bench.lab.nodes), &bench.lab.runtime)?;
        let found = subject.contains(records.key(0))?;
        let micros = began.elapsed().as_nanos() as f64 / 1e3;
        let inside = subject.inside();
        subject.close()?;
        if !found {
            return Err(Fault::from(format!("{kind} lost a record")));
        }
        let told = inside.map(|inside| {
            let bytes = bytes_a_record.unwrap_or(0.0);
            inside.unwritten_commits as f64 * bytes
        });
        Ok(Self {
            micros,
            journal_bytes: told.unwrap_or(in_files),
            inside,
        })
    }
}

/// The openings of a subject.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reopenings {
    subject: Kind,
    /// After a clean end.
    clean: Vec<Reopening>,
    /// After SIGKILL.
    killed: Vec<Reopening>,
}

impl Reopenings {
    fn spread(of: &[Reopening], figure: impl Fn(&Reopening) -> f64) -> Option<Spread> {
        Spread::over(of.iter().map(figure))
    }

    /// The most that was read back, over the threshold; none if the subject does not say.
    fn over_threshold(&self) -> Option<f64> {
        let weights = self.killed.iter().filter_map(|one| one.inside);
        let most = weights.map(|inside| inside.unwritten_bytes).max()?;
        Some(most as f64 / THRESHOLD_BYTES as f64)
    }

    fn row(&self) -> Vec<String> {
        let mib = |bytes: f64| format!("{:.1}", bytes / f64::from(1 << 20));
        let text = |of: &[Reopening], figure: fn(&Reopening) -> f64, write: fn(f64) -> String| {
            Self::spread(of, figure).map_or_else(String::new, |spread| spread.text(write))
        };
        let weighs = |one: &Reopening| {
            one.inside
                .map_or(f64::NAN, |inside| inside.unwritten_bytes as f64)
        };
        let commits = |one: &Reopening| {
            one.inside
                .map_or(f64::NAN, |inside| inside.unwritten_commits as f64)
        };
        let told = |words: String| match self.over_threshold() {
            Some(_) => words,
            None => String::new(),
        };
        vec![
            self.subject.name(),
            text(&self.clean, |one| one.micros, micros),
            text(&self.killed, |one| one.micros, micros),
            text(&self.killed, |one| one.journal_bytes, mib),
            text(
                &self.killed,
                |one| one.journal_bytes / (one.micros / 1e6),
                mib,
            ),
            told(text(&self.killed, commits, count)),
            told(text(&self.killed, weighs, mib)),
        ]
    }
}

/// The table of all openings.
pub(super) fn reopenings_table(all: &[Reopenings]) -> String {
    let header = [
        "reopen",
        "clean",
        "after a kill",
        "journal to read, MiB",
        "MiB/s",
        "commits read back",
        "in memory then, MiB",
    ];
    let rows: Vec<Vec<String>> = all.iter().map(Reopenings::row).collect();
    table(&header, &rows)
}

/// The figure.
pub(crate) fn reopen(bench: &mut Bench) -> Result<Verdict> {
    let peers = bench
        .line_up(&["fjall", "rocksdb"], Kind::stores)
        .into_iter();
    let mut all: Vec<Reopenings> = peers
        .filter(|kind| kind.stores())
        .map(|subject| Reopenings {
            subject,
            clean: Vec::new(),
            killed: Vec::new(),
        })
        .collect();
    let mut writes = WRITES;
    for (place, one) in all.iter().enumerate() {
        let (kind, dir) = (one.subject, bench.lab.path(one.subject, "reopen"));
        bench.lab.remove(kind, "reopen")?;
        let child = Running::start(kind, &dir, bench, true)?;
        if place == 0 {
            writes = child.time_of_checkpoint().unwrap_or(WRITES);
            eprintln!(
                "reopen: {kind} writes for {:.1} s until its first checkpoint",
                writes.as_secs_f64()
            );
        }
        child.kill()?;
    }
    let rounds = bench.lab.rounds;
    for round in 0..rounds {
        let time = writes.mul_f64(1.0 + (round as f64 + 0.5) / rounds as f64);
        for one in &mut all {
            let (kind, dir) = (one.subject, bench.lab.path(one.subject, "reopen"));
            Running::start(kind, &dir, bench, false)?.end(kind)?;
            one.clean.push(Reopening::of(bench, kind, &dir, None)?);
            let child = Running::start(kind, &dir, bench, true)?;
            std::thread::sleep(time);
            let bytes_a_record = child.kill()?;
            one.killed
                .push(Reopening::of(bench, kind, &dir, bytes_a_record)?);
        }
    }
    for one in &all {
        bench.lab.remove(one.subject, "reopen")?;
    }
    println!("{}", reopenings_table(&all));
    let (mut words, mut reached) = (Vec::new(), None);
    for one in &all {
        let time = |of| {
            Reopenings::spread(of, |one| one.micros)
                .map_or_else(String::new, |all| all.text(micros))
        };
        let mut line = format!(
            "{} {}, after a kill {}",
            one.subject,
            time(&one.clean),
            time(&one.killed)
        );
        if let Some(journal) =
            Reopenings::spread(&one.killed, |one| one.journal_bytes / f64::from(1 << 20))
        {
            line += &format!(" with {} MiB of journal", journal.text(count));
        }
        if one.subject == bench.subject {
            let over = one.over_threshold();
            if let Some(over) = over {
                line += &format!(
                    "; at most {} the threshold of {} MiB was read back ({BOUND} are allowed)",
                    times(over),
                    THRESHOLD_BYTES >> 20,
                );
            }
            let clean = Reopenings::spread(&one.clean, |one| one.micros);
            let is_quick = clean.map(|clean| clean.median < 100_000.0);
            reached = is_quick.and_then(|quick| Some(quick && over? <= BOUND));
        }
        words.push(line);
    }
    Ok(Verdict {
        figure: Figure::Reopen,
        work: "reopen after that load, clean and after SIGKILL".to_owned(),
        reference: "fjall, RocksDB".to_owned(),
        goal: "under 100 ms clean; after a kill bounded by the checkpoint threshold".to_owned(),
        measured: words.join("; "),
        reached,
        standings: Vec::new(),
        reopenings: all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_tells_of_its_journal_is_understood_and_the_rest_is_not() {
        assert_eq!(bytes_a_record(&format!("{JOURNAL} 1500 10")), Some(150.0));
        for line in [
            LOADED,
            CHECKPOINTED,
            JOURNAL,
            "journal 5",
            "journal 5 0",
            "journal x 1",
        ] {
            assert_eq!(bytes_a_record(line), None, "{line}");
        }
    }

    #[test]
    fn the_zeros_behind_a_journal_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| std::fs::write(dir.path().join(name), content);
        file("1.seg", &[1, 0, 2, 0, 0]).unwrap();
        file("2.seg", &[0; 100]).unwrap();
        file("table", &[3; 100]).unwrap();
        assert_eq!(journal_bytes(Kind::Mailring, dir.path()).unwrap(), 3);
    }

    #[test]
    fn the_bound_is_judged_by_the_worst_kill() {
        let weighing = |thresholds: u64| Reopening {
            micros: 1.0,
            journal_bytes: 1.0,
            inside: Some(Inside {
                unwritten_bytes: thresholds * THRESHOLD_BYTES,
                ..Inside::default()
            }),
        };
        let mut one = Reopenings {
            subject: Kind::Mailring,
            clean: Vec::new(),
            killed: vec![weighing(1), weighing(3), weighing(0)],
        };
        assert_eq!(one.over_threshold(), Some(3.0));
        one.killed.iter_mut().for_each(|kill| kill.inside = None);
        assert_eq!(one.over_threshold(), None);
    }
}
