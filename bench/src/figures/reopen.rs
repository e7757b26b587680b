//! Opening a loaded directory: after a clean close, and after the process that wrote to it was killed.
//!
//! A child process loads the records, says so, and then either closes in good order or goes on with durable puts of
//! 64 clients until SIGKILL ends it. The time is that from the call to the first answered read. A SIGKILL keeps the
//! page cache, so this measures recovery, not what survives a loss of power.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Bench, Figure, Verdict};
use crate::driver::{Progress, Stop};
use crate::operations::Job;
use crate::report::{Spread, micros};
use crate::subject::{Durability, Kind, Settings, open};
use crate::workload::{Preset, Records, Shape, Workload};
use crate::{Fault, Result};

/// What the child says when the records are loaded.
const LOADED: &str = "loaded";

/// How long the child writes before it is killed.
const WRITES: Duration = Duration::from_millis(700);

/// Longer than any parent waits; a child whose parent is gone ends by itself.
const CHILD_LIMIT: Duration = Duration::from_secs(60);

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
    let (durability, cache_bytes, write_buffer_bytes) = (Durability::Always, 64 << 20, 64 << 20);
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
        subject.load(shape, 1, args.subject.loaders())?;
        subject.checkpoint()?;
        subject.close()?;
    }
    let subject = open(args.subject, &settings, runtime)?;
    println!("{LOADED}");
    std::io::stdout().flush()?;
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
        subject.drive(&job, &Arc::new(Progress::default()))?;
    }
    subject.close()
}

/// Starts a child and waits until it has loaded.
fn start_child(kind: Kind, dir: &Path, records: u64, nodes: u32, write: bool) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([
        "child",
        "--subject",
        &kind.name(),
        "--records",
        &records.to_string(),
    ]);
    command
        .args(["--nodes", &nodes.to_string()])
        .arg("--dir")
        .arg(dir);
    if write {
        command.arg("--write");
    }
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| Fault::from("the child has no output"))?;
    let said = BufReader::new(stdout).lines().next().transpose()?;
    if said.as_deref() == Some(LOADED) {
        return Ok(child);
    }
    child.wait()?;
    Err(Fault::from(format!(
        "the child for {} ended before it had loaded",
        kind.name()
    )))
}

/// From the call to the first answered read.
fn time_open(bench: &Bench, kind: Kind, dir: &Path) -> Result<f64> {
    let mut records = Records::new(shape(bench.records), 1, 0);
    let began = Instant::now();
    let subject = open(kind, &settings(dir, bench.lab.nodes), &bench.lab.runtime)?;
    let found = subject.contains(records.key(0))?;
    let time = began.elapsed().as_nanos() as f64 / 1e3;
    subject.close()?;
    if found {
        Ok(time)
    } else {
        Err(Fault::from(format!("{} lost a record", kind.name())))
    }
}

/// Reopening times of a subject, after a clean end and after SIGKILL.
fn measure(bench: &Bench, kind: Kind) -> Result<(Spread, Spread)> {
    let dir = bench.lab.path(kind, "reopen");
    bench.lab.remove(kind, "reopen")?;
    let (mut clean, mut killed) = (Vec::new(), Vec::new());
    for _ in 0..bench.lab.rounds {
        let status = start_child(kind, &dir, bench.records, bench.lab.nodes, false)?.wait()?;
        if !status.success() {
            return Err(Fault::from(format!("the child for {} failed", kind.name())));
        }
        clean.push(time_open(bench, kind, &dir)?);
        let mut child = start_child(kind, &dir, bench.records, bench.lab.nodes, true)?;
        std::thread::sleep(WRITES);
        child.kill()?;
        child.wait()?;
        killed.push(time_open(bench, kind, &dir)?);
    }
    bench.lab.remove(kind, "reopen")?;
    Ok((Spread::of(clean), Spread::of(killed)))
}

/// The figure.
pub(crate) fn reopen(bench: &mut Bench) -> Result<Verdict> {
    let peers = bench.line_up(&["fjall", "rocksdb"]);
    let mut words = Vec::new();
    let mut reached = None;
    for kind in peers.into_iter().filter(|kind| kind.stores()) {
        let (clean, killed) = measure(bench, kind)?;
        let (name, clean_text, killed_text) =
            (kind.name(), clean.text(micros), killed.text(micros));
        words.push(format!("{name} {clean_text}, after a kill {killed_text}"));
        if kind == bench.subject {
            reached = Some(clean.median < 100_000.0);
        }
    }
    Ok(Verdict {
        figure: Figure::Reopen,
        work: "reopen after that load, clean and after SIGKILL".to_owned(),
        reference: "fjall, RocksDB".to_owned(),
        goal: "under 100 ms clean; after a kill bounded by the checkpoint threshold".to_owned(),
        measured: words.join("; "),
        reached,
        standings: Vec::new(),
    })
}
