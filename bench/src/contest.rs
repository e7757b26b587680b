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
use tokio::runtime::Runtime;

use crate::Result;
use crate::calibration::raw_force;
use crate::driver::{Progress, Schedule, Stop};
use crate::operations::Job;
use crate::report::{Summary, count};
use crate::standing::{Round, Run, Standing};
use crate::subject::{Durability, Inside, Kind, Opened, Settings, blame, open};
use crate::workload::Shape;

/// How long each round calibrates.
pub(crate) const CALIBRATION: Duration = Duration::from_millis(100);

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
        let name = self.dataset_name(shape);
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
            self.fill(kind, &*subject, shape, self.seed)?;
            subject.checkpoint()?;
            subject.close()?;
        }
        Ok(name)
    }

    /// Loads a subject with a progress bar, if somebody watches; returns the time.
    pub(crate) fn fill(
        &self,
        kind: Kind,
        subject: &dyn Opened,
        shape: Shape,
        seed: u64,
    ) -> Result<Duration> {
        let loaders = kind.loaders();
        let schedule = Schedule {
            clients: loaders as usize,
            stop: Stop::Operations(shape.records),
            warmup: Duration::ZERO,
            rate: None,
            sample_every: 1,
            by_second: false,
        };
        watched(schedule, &format!("loading {kind}"), |progress| {
            subject.load(shape, seed, loaders, progress)
        })
    }

    fn dataset_name(&self, shape: Shape) -> String {
        format!(
            "data-{}-{}-{}-{}",
            self.nodes, shape.records, shape.key_bytes, shape.value_bytes
        )
    }

    /// Removes what [`Lab::dataset`] has loaded, if it has.
    pub(crate) fn forget_dataset(&mut self, kind: Kind, shape: Shape) -> Result<()> {
        let name = self.dataset_name(shape);
        self.loaded.remove(&self.path(kind, &name));
        self.remove(kind, &name)
    }

    /// Runs a job with a progress bar, if somebody watches.
    pub(crate) fn drive(&self, subject: &dyn Opened, job: &Job, label: &str) -> Result<Summary> {
        let outcome = watched(job.schedule(), label, |progress| {
            subject.drive(job, progress)
        })?;
        Ok(Summary::of(&outcome))
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
                self.fill(kind, &*subject, shape, self.seed)?;
                subject.checkpoint()?;
                subject.close()?;
            }
            let subject = self.open(kind, &contest.settings, "work")?;
            if workload.needs_records() && !kind.stores() {
                self.fill(kind, &*subject, shape, self.seed)?;
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
                let before = subject.inside().unwrap_or_default();
                let summary = self.drive(subject, &job, &label).map_err(blame(*kind))?;
                let inside = subject.inside().map(|after| Inside {
                    checkpoints: after.checkpoints - before.checkpoints,
                    ..after
                });
                runs.push(Run {
                    subject: *kind,
                    inside,
                    commits_per_force: None,
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
            settings: contest.settings.words(),
            rounds,
        })
    }
}

/// Drives with a progress bar, if somebody watches.
pub(crate) fn watched<T>(
    job: Schedule,
    label: &str,
    drive: impl FnOnce(&Arc<Progress>) -> Result<T>,
) -> Result<T> {
    let progress = Arc::new(Progress::default());
    let (finish, finished) = channel::<()>();
    let bar = std::io::stderr().is_terminal().then(|| {
        let (progress, label) = (progress.clone(), label.to_owned());
        std::thread::spawn(move || {
            let bar = bar_of(&job, label);
            while finished.recv_timeout(Duration::from_millis(100))
                == Err(RecvTimeoutError::Timeout)
            {
                match job.stop {
                    Stop::Operations(_) => bar.set_position(progress.done()),
                    Stop::Told => bar.tick(),
                    Stop::After(_) => bar.set_position(bar.elapsed().as_millis() as u64),
                }
                let per_second = progress.done() as f64 / bar.elapsed().as_secs_f64();
                bar.set_message(format!("{}/s", count(per_second)));
            }
            bar.finish_and_clear();
        })
    });
    let outcome = drive(&progress);
    drop(finish);
    if let Some(bar) = bar {
        // A bar that could not be drawn is no reason to lose a measurement.
        let _ = bar.join();
    }
    outcome
}

fn bar_of(job: &Schedule, label: String) -> ProgressBar {
    let length = match job.stop {
        Stop::Operations(operations) => operations,
        Stop::After(time) => (time + job.warmup).as_millis() as u64,
        Stop::Told => 0,
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
