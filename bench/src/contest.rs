//! The same work for several subjects, in one process and one run.
//!
//! Rounds are interleaved (A B C, A B C, …), so that a disk or a neighbour that changes its mind hits all alike, and
//! a ratio is taken within each round before its median is. Each round begins with a raw force of the same bytes
//! (see `calibration`). A subject that only reads is loaded once and serves all rounds; one that writes goes on in
//! its directory, or gets a new one each round (`fresh`).

use std::collections::HashSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::Result;
use crate::calibration::{Calibration, raw_force};
use crate::driver::{Job, Progress, Stop};
use crate::report::{Spread, Summary, count, micros, table, times};
use crate::subject::{Durability, Kind, Opened, Settings, blame, open};
use crate::workload::Shape;

/// How long each round calibrates.
const CALIBRATION: Duration = Duration::from_millis(100);

/// Where and how everything is measured.
pub(crate) struct Lab {
    /// Holds all directories.
    pub(crate) dir: PathBuf,
    /// The runtime of async subjects.
    pub(crate) runtime: Arc<Runtime>,
    /// Rounds of a comparison.
    pub(crate) rounds: usize,
    /// Seed of all choices.
    pub(crate) seed: u64,
    /// Storage nodes of a subject that has such.
    pub(crate) nodes: u32,
    loaded: HashSet<PathBuf>,
}

/// One comparison.
pub(crate) struct Contest {
    /// What it is called.
    pub(crate) title: String,
    /// The work.
    pub(crate) job: Job,
    /// Whom it is given to; ratios are those of the first to each other.
    pub(crate) peers: Vec<Kind>,
    /// How they are opened; the directory is set for each.
    pub(crate) settings: Settings,
    /// A new directory for each round.
    pub(crate) fresh: bool,
    /// Read every record once before the first round, so that a cache is full.
    pub(crate) touch_all: bool,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Standing {
    /// See [`Contest::title`].
    pub(crate) title: String,
    /// The rounds in order.
    pub(crate) rounds: Vec<Round>,
}

/// One round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    /// The disk at its beginning.
    pub(crate) raw_force: Calibration,
    /// Each subject in turn.
    pub(crate) runs: Vec<Run>,
}

/// One subject in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// Who.
    pub(crate) subject: Kind,
    /// Checkpoints that it has counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoints: Option<u64>,
    /// Its figures.
    #[serde(flatten)]
    pub(crate) summary: Summary,
}

impl Lab {
    /// A lab in a directory.
    pub(crate) fn new(
        dir: &Path,
        runtime: Arc<Runtime>,
        rounds: usize,
        seed: u64,
        nodes: u32,
    ) -> Self {
        Self {
            dir: dir.to_owned(),
            runtime,
            rounds,
            seed,
            nodes,
            loaded: HashSet::new(),
        }
    }

    /// Settings with the usual sizes; the directory is to be filled in.
    pub(crate) fn settings(&self, durability: Durability, cache_bytes: u64) -> Settings {
        let dir = PathBuf::new();
        Settings {
            dir,
            durability,
            cache_bytes,
            write_buffer_bytes: 64 << 20,
            nodes: self.nodes,
        }
    }

    /// Opens a subject in a directory of the lab.
    pub(crate) fn open(
        &self,
        kind: Kind,
        settings: &Settings,
        name: &str,
    ) -> Result<Box<dyn Opened>> {
        let settings = Settings {
            dir: self.path(kind, name),
            ..settings.clone()
        };
        open(kind, &settings, &self.runtime)
    }

    /// The directory of a subject for a purpose.
    pub(crate) fn path(&self, kind: Kind, name: &str) -> PathBuf {
        self.dir.join(format!("{}-{name}", kind.name()))
    }

    /// Removes the directory of a subject for a purpose.
    pub(crate) fn remove(&self, kind: Kind, name: &str) -> Result<()> {
        let path = self.path(kind, name);
        if path.exists() {
            Ok(std::fs::remove_dir_all(path)?)
        } else {
            Ok(())
        }
    }

    /// Loads the records of a shape once and keeps them for every figure that only reads; returns their name.
    pub(crate) fn dataset(&mut self, kind: Kind, shape: Shape) -> Result<String> {
        let name = format!(
            "data-{}-{}-{}",
            shape.records, shape.key_bytes, shape.value_bytes
        );
        if self.loaded.insert(self.path(kind, &name)) {
            self.remove(kind, &name)?;
            let subject = self.open(
                kind,
                &self.settings(kind.load_durability(), 64 << 20),
                &name,
            )?;
            eprintln!(
                "loading {} records into {}",
                count(shape.records as f64),
                kind.name()
            );
            subject.load(shape, self.seed, kind.loaders())?;
            subject.checkpoint()?;
            subject.close()?;
        }
        Ok(name)
    }

    /// Runs a job with a progress bar, if somebody watches.
    pub(crate) fn drive(&self, subject: &dyn Opened, job: &Job, label: &str) -> Result<Summary> {
        let progress = Arc::new(Progress::default());
        let (finish, finished) = channel::<()>();
        let bar = std::io::stderr().is_terminal().then(|| {
            let (progress, job, label) = (progress.clone(), job.clone(), label.to_owned());
            std::thread::spawn(move || {
                let bar = bar_of(&job, label);
                while finished.recv_timeout(Duration::from_millis(100))
                    == Err(RecvTimeoutError::Timeout)
                {
                    match job.stop {
                        Stop::Operations(_) => bar.set_position(progress.done()),
                        Stop::After(_) => bar.set_position(bar.elapsed().as_millis() as u64),
                    }
                    let per_second = progress.done() as f64 / bar.elapsed().as_secs_f64();
                    bar.set_message(format!("{}/s", count(per_second)));
                }
                bar.finish_and_clear();
            })
        });
        let outcome = subject.drive(job, &progress);
        drop(finish);
        if let Some(bar) = bar {
            // A bar that could not be drawn is no reason to lose a measurement.
            let _ = bar.join();
        }
        Ok(Summary::of(&outcome?))
    }

    fn prepare(&mut self, contest: &Contest, kind: Kind) -> Result<Box<dyn Opened>> {
        let workload = &contest.job.workload;
        let shape = workload.shape();
        let subject = if workload.needs_records() && workload.reads_only() && kind.stores() {
            let name = self.dataset(kind, shape)?;
            self.open(kind, &contest.settings, &name)?
        } else {
            self.remove(kind, "work")?;
            if workload.needs_records() && kind.stores() {
                let subject = self.open(
                    kind,
                    &self.settings(kind.load_durability(), 64 << 20),
                    "work",
                )?;
                subject.load(shape, self.seed, kind.loaders())?;
                subject.checkpoint()?;
                subject.close()?;
            }
            let subject = self.open(kind, &contest.settings, "work")?;
            if workload.needs_records() && !kind.stores() {
                subject.load(shape, self.seed, 1)?;
            }
            subject
        };
        if contest.touch_all {
            subject.touch_all(shape)?;
        }
        Ok(subject)
    }

    /// Holds a comparison.
    ///
    /// # Errors
    ///
    /// What the first failing subject says.
    pub(crate) fn hold(&mut self, contest: &Contest) -> Result<Standing> {
        let record_bytes = contest.job.workload.shape();
        let record_bytes = record_bytes.key_bytes + record_bytes.value_bytes;
        let mut open_subjects = Vec::new();
        if !contest.fresh {
            for kind in &contest.peers {
                open_subjects.push(self.prepare(contest, *kind).map_err(blame(*kind))?);
            }
        }
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            let raw_force = raw_force(&self.dir, record_bytes, CALIBRATION)?;
            let job = Job {
                seed: self.seed + round as u64,
                ..contest.job.clone()
            };
            let mut runs = Vec::new();
            for (index, kind) in contest.peers.iter().enumerate() {
                let label = format!(
                    "{} {}/{} {}",
                    contest.title,
                    round + 1,
                    self.rounds,
                    kind.name()
                );
                let fresh = if contest.fresh {
                    Some(self.prepare(contest, *kind)?)
                } else {
                    None
                };
                let subject = fresh.as_deref().unwrap_or_else(|| &*open_subjects[index]);
                let summary = self.drive(subject, &job, &label).map_err(blame(*kind))?;
                runs.push(Run {
                    subject: *kind,
                    checkpoints: subject.checkpoints(),
                    summary,
                });
                if let Some(subject) = fresh {
                    subject.close()?;
                    self.remove(*kind, "work")?;
                }
            }
            rounds.push(Round { raw_force, runs });
        }
        for subject in open_subjects {
            subject.close()?;
        }
        for kind in &contest.peers {
            self.remove(*kind, "work")?;
        }
        Ok(Standing {
            title: contest.title.clone(),
            rounds,
        })
    }
}

fn bar_of(job: &Job, label: String) -> ProgressBar {
    let length = match job.stop {
        Stop::Operations(operations) => operations,
        Stop::After(time) => (time + job.warmup).as_millis() as u64,
    };
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}");
    let bar = ProgressBar::new(length).with_prefix(label);
    bar.set_style(
        style
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    );
    bar
}

impl Standing {
    /// The runs of one subject; none if it did not take part.
    pub(crate) fn runs(&self, kind: Kind) -> impl Iterator<Item = &Run> {
        self.rounds
            .iter()
            .flat_map(|round| &round.runs)
            .filter(move |run| run.subject == kind)
    }

    /// A figure of a subject over the rounds.
    pub(crate) fn spread(&self, kind: Kind, figure: fn(&Summary) -> f64) -> Option<Spread> {
        let values: Vec<f64> = self.runs(kind).map(|run| figure(&run.summary)).collect();
        (!values.is_empty()).then(|| Spread::of(values))
    }

    /// The throughput of one subject over that of another, within each round.
    pub(crate) fn ratio(&self, subject: Kind, peer: Kind) -> Option<Spread> {
        let ratios: Vec<f64> = self
            .runs(subject)
            .zip(self.runs(peer))
            .map(|(subject, peer)| subject.summary.per_second / peer.summary.per_second)
            .collect();
        (!ratios.is_empty()).then(|| Spread::of(ratios))
    }

    /// The raw force over the rounds.
    pub(crate) fn raw_force_us(&self) -> Spread {
        Spread::of(self.rounds.iter().map(|round| round.raw_force.p50_us))
    }

    /// Reads that found nothing, which a loaded store must not have.
    pub(crate) fn missed(&self) -> u64 {
        self.rounds
            .iter()
            .flat_map(|round| &round.runs)
            .map(|run| run.summary.missed)
            .sum()
    }

    /// The table, with the ratio of the first subject to each.
    pub(crate) fn table(&self) -> String {
        let kinds: Vec<Kind> = self.rounds[0].runs.iter().map(|run| run.subject).collect();
        let base = kinds[0];
        let first = format!("{} is", base.name());
        let header = [
            &self.title,
            "ops/s (min–max)",
            "p50",
            "p99",
            "p99.9",
            "max",
            &first,
        ];
        let row = |kind: &Kind| {
            let median = |figure| {
                self.spread(*kind, figure)
                    .map_or(f64::NAN, |spread| spread.median)
            };
            vec![
                kind.name(),
                self.spread(*kind, |run| run.per_second)
                    .map_or_else(String::new, |all| all.text(count)),
                micros(median(|run| run.p50_us)),
                micros(median(|run| run.p99_us)),
                micros(median(|run| run.p999_us)),
                micros(
                    self.spread(*kind, |run| run.max_us)
                        .map_or(f64::NAN, |spread| spread.max),
                ),
                self.ratio(base, *kind)
                    .map_or_else(String::new, |ratio| times(ratio.median)),
            ]
        };
        let rows: Vec<Vec<String>> = kinds.iter().map(row).collect();
        let calibration = self.raw_force_us().text(micros);
        let rounds = self.rounds.len();
        format!(
            "{}raw fdatasync, p50: {calibration}; {rounds} rounds\n",
            table(&header, &rows)
        )
    }
}

/// A table with a line for each second and two columns for each run.
pub(crate) fn by_second(runs: &[Run]) -> String {
    let mut header = vec!["second".to_owned()];
    for run in runs {
        header.extend([format!("{} ops/s", run.subject.name()), "p99.9".to_owned()]);
    }
    let seconds = runs
        .iter()
        .map(|run| run.summary.by_second.len())
        .min()
        .unwrap_or(0);
    let row = |second: usize| {
        let mut row = vec![(second + 1).to_string()];
        for run in runs {
            let second = run.summary.by_second[second];
            row.extend([count(second.operations as f64), micros(second.p999_us)]);
        }
        row
    };
    table(&header, &(0..seconds).map(row).collect::<Vec<_>>())
}
