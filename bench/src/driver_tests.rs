//! Tests of the driver with a clock and a service that the test moves.

use super::*;
use crate::operations::{Job, Operations};
use crate::subject::Subject;
use crate::workload::{Population, Preset, Shape, Workload};

const MILLISECOND: u64 = 1_000_000;

/// A clock that only the service and the pace move.
#[derive(Clone, Default)]
struct FakeClock(Arc<AtomicU64>);

impl FakeClock {
    fn advance(&self, nanoseconds: u64) {
        self.0.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Operations due at fixed moments; a client that is early waits, one that is late does not.
struct FakeArrivals {
    clock: FakeClock,
    interval_ns: u64,
    next: u64,
}

impl Pace for FakeArrivals {
    async fn next(&mut self, now: u64) -> Option<u64> {
        let due = self.next;
        self.next += self.interval_ns;
        self.clock.advance(due.saturating_sub(now));
        Some(due)
    }
}

/// Answers in a tenth of a millisecond, but the operation number 100 takes a second.
#[derive(Clone, Default)]
struct Stalling {
    clock: FakeClock,
    answered: Arc<AtomicU64>,
}

impl Subject for Stalling {
    const STYLE: Style = Style::Threads;

    async fn get(&self, _key: &[u8]) -> Result<Option<usize>> {
        let stalls = self.answered.fetch_add(1, Ordering::Relaxed) == 100;
        self.clock.advance(if stalls {
            1_000 * MILLISECOND
        } else {
            MILLISECOND / 10
        });
        Ok(Some(0))
    }

    async fn put(&self, _key: &[u8], _value: &[u8]) -> Result<()> {
        Ok(())
    }

    async fn put_many(&self, _entries: Vec<crate::subject::Entry>) -> Result<()> {
        Ok(())
    }

    async fn scan(&self, _from: &[u8], _limit: usize) -> Result<usize> {
        Ok(0)
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }
}

fn run_stalling(open: bool) -> Outcome {
    let subject = Stalling::default();
    let clock = subject.clock.clone();
    let population = Arc::new(Population::new(1_000));
    let bounds = Bounds {
        measure_from: 0,
        until: 3_000 * MILLISECOND,
        operations: u64::MAX,
        sample_every: 1,
        turn: false,
    };
    let client = Client {
        work: Operations::new(subject, &job(Preset::Get, 0, 1), &population, 0),
        clock: &clock,
        bounds,
        tally: Tally::new(true, 3),
        progress: &Progress::default(),
    };
    let arrivals = FakeArrivals {
        clock: clock.clone(),
        interval_ns: MILLISECOND,
        next: 0,
    };
    let tally = if open {
        block_on(client.operate(arrivals))
    } else {
        block_on(client.operate(Closed))
    };
    Outcome::collect(vec![tally], 0).unwrap()
}

#[test]
fn an_open_loop_counts_every_operation_that_a_stall_delays() {
    let outcome = run_stalling(true);
    // Due each millisecond for three seconds. The one that stalls and those due meanwhile waited; the backlog of
    // a thousand drains at ten a millisecond while one more comes each, so some 1,100 operations are late.
    assert_eq!(outcome.operations, 3_000);
    let late = outcome.latency.count_between(MILLISECOND, u64::MAX);
    assert!((1_100..1_125).contains(&late), "{late} late operations");
    let median_of_late = outcome
        .latency
        .value_at_quantile(1.0 - late as f64 / 2.0 / 3_000.0);
    assert!(median_of_late.abs_diff(500 * MILLISECOND) < 10 * MILLISECOND);
}

#[test]
fn a_closed_loop_counts_a_stall_once() {
    let outcome = run_stalling(false);
    assert_eq!(outcome.latency.count_between(MILLISECOND, u64::MAX), 1);
    assert_eq!(outcome.latency.max() / MILLISECOND, 1_000);
    assert_eq!(outcome.operations, 20_001);
}

#[test]
fn seconds_add_up_and_show_the_stall() {
    let outcome = run_stalling(false);
    let by_second: Vec<u64> = outcome
        .by_second
        .iter()
        .map(|second| second.operations)
        .collect();
    assert_eq!(by_second.iter().sum::<u64>(), outcome.operations);
    assert_eq!(
        by_second.len(),
        4,
        "the last answer comes at the end of the third second"
    );
    assert!(
        by_second[0] < 110 && by_second[2] == 10_000,
        "{by_second:?}"
    );
}

/// Counts what it is asked.
#[derive(Clone, Default)]
struct Counting<const TASKS: bool>(Arc<AtomicU64>);

impl<const TASKS: bool> Subject for Counting<TASKS> {
    const STYLE: Style = if TASKS { Style::Tasks } else { Style::Threads };

    async fn get(&self, _key: &[u8]) -> Result<Option<usize>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Some(1))
    }

    async fn put(&self, _key: &[u8], _value: &[u8]) -> Result<()> {
        Err(Fault::from("refused"))
    }

    async fn put_many(&self, _entries: Vec<crate::subject::Entry>) -> Result<()> {
        Ok(())
    }

    async fn scan(&self, _from: &[u8], _limit: usize) -> Result<usize> {
        Ok(0)
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }
}

fn job(preset: Preset, operations: u64, clients: usize) -> Job {
    let shape = Shape {
        records: 1_000,
        key_bytes: 16,
        value_bytes: 10,
    };
    Job {
        workload: Workload::new(preset, shape, None, 0.99, 100),
        clients,
        stop: Stop::Operations(operations),
        warmup: Duration::ZERO,
        rate: None,
        seed: 1,
        sample_every: 1,
        tape: 0,
        by_second: false,
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn drive_job<S: Subject>(subject: &S, job: &Job, progress: &Arc<Progress>) -> Result<Outcome> {
    let population = Arc::new(Population::new(job.workload.shape().records));
    let (subject, work) = (subject.clone(), job.clone());
    drive(
        S::STYLE,
        &runtime(),
        &job.schedule(),
        progress,
        move |number| Operations::new(subject.clone(), &work, &population, number),
    )
}

fn exactly<S: Subject>(subject: S, count: &AtomicU64, job: &Job) {
    let progress = Arc::new(Progress::default());
    let outcome = drive_job(&subject, job, &progress).unwrap();
    let Stop::Operations(asked) = job.stop else {
        panic!("a count was asked for")
    };
    assert_eq!(outcome.operations, asked);
    assert_eq!(count.load(Ordering::Relaxed), asked);
    assert_eq!(progress.done(), asked);
    assert_eq!(outcome.done.found, asked);
}

#[test]
fn a_count_of_operations_is_kept_exactly_by_tasks_and_threads() {
    for clients in [1, 3, 64] {
        for sample_every in [1, 16] {
            let job = Job {
                sample_every,
                ..job(Preset::Get, 1_001, clients)
            };
            let tasks = Counting::<true>::default();
            exactly(tasks.clone(), &tasks.0, &job);
            let threads = Counting::<false>::default();
            exactly(threads.clone(), &threads.0, &job);
        }
    }
}

#[test]
fn an_open_loop_sends_what_is_due_and_ends() {
    for clients in [1, 8] {
        let job = Job {
            rate: Some(20_000.0),
            ..job(Preset::Get, 1_000, clients)
        };
        let tasks = Counting::<true>::default();
        exactly(tasks.clone(), &tasks.0, &job);
        let threads = Counting::<false>::default();
        exactly(threads.clone(), &threads.0, &job);
    }
}

#[test]
fn an_error_of_the_subject_is_the_error_of_the_run() {
    let job = job(Preset::Put, 10, 2);
    let progress = Arc::new(Progress::default());
    let error = drive_job(&Counting::<true>::default(), &job, &progress).unwrap_err();
    assert_eq!(error.to_string(), "refused");
}
