//! A client of a workload of records: draws an operation, asks the subject, says what came of it.

use std::sync::Arc;
use std::time::Duration;

use crate::Result;
use crate::driver::{Schedule, Stop, Work};
use crate::subject::Subject;
use crate::tally::Done;
use crate::workload::{Generator, Operation, Population, Records, Workload};

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The operations.
    pub(crate) workload: Workload,
    /// Concurrent clients.
    pub(crate) clients: usize,
    /// When it ends, counted from the end of the warm-up.
    pub(crate) stop: Stop,
    /// Time at the start that is not measured.
    pub(crate) warmup: Duration,
    /// Operations a second in an open loop; none is a closed loop.
    pub(crate) rate: Option<f64>,
    /// The seed of choices and values.
    pub(crate) seed: u64,
    /// One of so many operations is timed (closed loop only).
    pub(crate) sample_every: u32,
    /// Records drawn ahead by each client; 0 draws as it goes.
    pub(crate) tape: usize,
    /// Keep a histogram for each second.
    pub(crate) by_second: bool,
}

impl Job {
    /// What the driver needs to know of it.
    pub(crate) fn schedule(&self) -> Schedule {
        Schedule {
            clients: self.clients,
            stop: self.stop,
            warmup: self.warmup,
            rate: self.rate,
            sample_every: self.sample_every,
            by_second: self.by_second,
        }
    }
}

/// The operations of one client on a subject.
pub(crate) struct Operations<S> {
    subject: S,
    generator: Generator,
    records: Records,
    population: Arc<Population>,
}

impl<S: Subject> Operations<S> {
    /// Those of client `number`.
    pub(crate) fn new(subject: S, job: &Job, population: &Arc<Population>, number: u64) -> Self {
        Self {
            subject,
            generator: Generator::new(&job.workload, population, job.seed, number, job.tape),
            records: Records::new(job.workload.shape(), job.seed, number),
            population: population.clone(),
        }
    }

    /// Executes one operation; returns records found and missed.
    async fn execute(&mut self, operation: Operation) -> Result<(u64, u64)> {
        let Self {
            subject,
            records,
            population,
            ..
        } = self;
        match operation {
            Operation::Read(record) => {
                let found = subject.get(records.key(record)).await?.is_some();
                Ok((u64::from(found), u64::from(!found)))
            }
            Operation::Update(record) => {
                let (key, value) = records.entry(record);
                subject.put(key, value).await?;
                Ok((1, 0))
            }
            Operation::Insert(record) => {
                let (key, value) = records.entry(record);
                subject.put(key, value).await?;
                population.acknowledge(record);
                Ok((1, 0))
            }
            Operation::Scan(record, length) => {
                Ok((subject.scan(records.key(record), length).await? as u64, 0))
            }
            Operation::ReadModifyWrite(record) => {
                let (key, value) = records.entry(record);
                let found = subject.read_modify_write(key, value).await?;
                Ok((u64::from(found), u64::from(!found)))
            }
        }
    }
}

impl<S: Subject> Work for Operations<S> {
    async fn step(&mut self) -> Result<Done> {
        let operation = self.generator.operation();
        let (found, missed) = self.execute(operation).await?;
        Ok(Done {
            found,
            missed,
            ..Done::default()
        })
    }
}
