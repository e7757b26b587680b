//! Drives a subject with clients, closed loop or open loop, and measures.
//!
//! **Closed loop**: each client sends its next operation when the last has been answered. Throughput is what the
//! subject can do; latency is kind to it, because a stalled subject is asked less.
//!
//! **Open loop** (`rate`): operations are due at fixed moments, whoever is busy. Latency counts from the moment at
//! which the operation was due, not from when a client was free to send it. Without that a stall of one second
//! would show as one slow operation instead of a thousand ("coordinated omission", Gil Tene). What was due and
//! could not be sent before the end counts with the time that it had waited by then, and is reported apart.
//!
//! Whatever the subject, the same loop runs: an async subject's clients are tasks of one runtime, a blocking
//! subject's clients are threads that poll the same futures, which are always ready.
//!
//! A clock read costs as much as a third of a read from memory. So `sample_every` measures one operation of so many
//! and runs the others in between; throughput counts all. What the harness itself costs is measured with a subject
//! that does nothing.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{Barrier, Semaphore};

use crate::subject::Style;
use crate::tally::{Done, Outcome, Tally};
use crate::{Fault, Result};

/// Operations after which a client that is a task lets the others run, should the subject never make it wait.
const TURN: u64 = 64;

/// How late the pacing thread may hand out a due operation.
const PACE: Duration = Duration::from_micros(50);

/// A client adds to the progress after so many nanoseconds.
const PROGRESS_NS: u64 = 100_000_000;

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// After so much time.
    After(Duration),
    /// After so many operations.
    Operations(u64),
    /// When the clients' work says that it is over.
    Told,
}

/// How many clients, for how long, and how they are timed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Concurrent clients.
    pub(crate) clients: usize,
    /// When it ends, counted from the end of the warm-up.
    pub(crate) stop: Stop,
    /// Time at the start that is not measured.
    pub(crate) warmup: Duration,
    /// Operations a second in an open loop; none is a closed loop.
    pub(crate) rate: Option<f64>,
    /// One of so many operations is timed (closed loop only).
    pub(crate) sample_every: u32,
    /// Keep a histogram for each second.
    pub(crate) by_second: bool,
}

/// What one client does.
pub(crate) trait Work: Send + 'static {
    /// Does one operation to its end.
    fn step(&mut self) -> impl Future<Output = Result<Done>> + Send;

    /// Is told how long the step took that has just ended, from when it was due, if it was timed.
    fn timed(&mut self, _latency_ns: u64) {}

    /// Whether no more steps are wanted. Asked before each.
    fn is_over(&self) -> bool {
        false
    }
}

/// What the progress bar looks at.
#[derive(Debug, Default)]
pub(crate) struct Progress(AtomicU64);

impl Progress {
    /// So many more are done.
    pub(crate) fn add(&self, operations: u64) {
        self.0.fetch_add(operations, Ordering::Relaxed);
    }

    /// Operations done so far.
    pub(crate) fn done(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The time in nanoseconds from some start. A test brings its own.
pub(crate) trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> u64;
}

impl Clock for Instant {
    fn now(&self) -> u64 {
        self.elapsed().as_nanos() as u64
    }
}

/// Says when the next operation of a client starts.
pub(crate) trait Pace: Send {
    /// The moment from which its latency counts, once it may be sent. None ends the client.
    fn next(&mut self, now: u64) -> impl Future<Output = Option<u64>> + Send;
}

/// At once.
struct Closed;

impl Pace for Closed {
    async fn next(&mut self, now: u64) -> Option<u64> {
        Some(now)
    }
}

/// Due moments, which idle clients take in order.
struct Arrivals {
    due: Semaphore,
    taken: AtomicU64,
    total: u64,
    interval_ns: f64,
    ended: AtomicBool,
}

impl Arrivals {
    fn moment(&self, arrival: u64) -> u64 {
        (arrival as f64 * self.interval_ns) as u64
    }

    /// Hands out what is due until all is handed out or the clients have ended.
    fn pace(&self, clock: Instant, clients: usize) {
        let mut released = 0;
        while released < self.total && !self.ended.load(Ordering::Relaxed) {
            let now = clock.now();
            let due = ((now as f64 / self.interval_ns) as u64 + 1).min(self.total);
            self.due.add_permits((due - released) as usize);
            released = due;
            thread::sleep(Duration::from_nanos(self.moment(due).saturating_sub(now)).max(PACE));
        }
        // One more for each client, so that whoever waits wakes, finds nothing left and ends.
        self.due.add_permits(clients);
    }
}

impl Pace for Arc<Arrivals> {
    async fn next(&mut self, _now: u64) -> Option<u64> {
        self.due.acquire().await.ok()?.forget();
        let arrival = self.taken.fetch_add(1, Ordering::Relaxed);
        (arrival < self.total).then(|| self.moment(arrival))
    }
}

/// What bounds a client.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    measure_from: u64,
    until: u64,
    operations: u64,
    sample_every: u32,
    turn: bool,
}

/// One client: what it does, when, and what it counts.
struct Client<'a, W, C> {
    work: W,
    clock: &'a C,
    bounds: Bounds,
    tally: Tally,
    progress: &'a Progress,
}

impl<W: Work, C: Clock> Client<'_, W, C> {
    /// Operates until the end of the run.
    async fn operate(mut self, mut pace: impl Pace) -> Result<Tally> {
        let bounds = self.bounds;
        let mut left = bounds.operations;
        let mut now = self.clock.now();
        let (mut reported_at, mut unreported, mut turn) = (now, 0, 0);
        while now < bounds.until && left > 0 && !self.work.is_over() {
            let Some(start) = pace.next(now).await.filter(|due| *due < bounds.until) else {
                break;
            };
            let measured = start >= bounds.measure_from;
            let (mut burst, mut done) = (0, Done::default());
            let mut end = now;
            while burst < u64::from(bounds.sample_every) && burst < left {
                done += self.work.step().await?;
                burst += 1;
                if burst == 1 {
                    end = self.clock.now();
                }
            }
            now = if burst > 1 { self.clock.now() } else { end };
            if measured {
                left -= burst;
                self.work.timed(end.saturating_sub(start));
                let at = now - bounds.measure_from.min(now);
                self.tally
                    .record(end.saturating_sub(start), at, burst, done);
            }
            (unreported, turn) = (unreported + burst, turn + burst);
            if now - reported_at > PROGRESS_NS {
                self.progress.add(unreported);
                (reported_at, unreported) = (now, 0);
            }
            if bounds.turn && turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        self.progress.add(unreported);
        self.tally.finished_at = now;
        Ok(self.tally)
    }
}

/// Runs clients of this style; `work` makes what each of them does, by its number, on the client itself.
///
/// # Errors
///
/// The first error of a client's work ends that client, and is returned.
pub(crate) fn drive<W: Work>(
    style: Style,
    runtime: &Runtime,
    job: &Schedule,
    progress: &Arc<Progress>,
    work: impl Fn(u64) -> W + Send + Sync + 'static,
) -> Result<Outcome> {
    let (job, make) = (*job, Arc::new(work));
    let warmup_ns = job.warmup.as_nanos() as u64;
    let (until, operations) = match job.stop {
        Stop::After(time) => (warmup_ns + time.as_nanos() as u64, u64::MAX),
        Stop::Operations(operations) => (u64::MAX, operations),
        Stop::Told => (u64::MAX, u64::MAX),
    };
    let arrivals = job.rate.map(|rate| {
        let total = match job.stop {
            Stop::After(_) => (until as f64 / 1e9 * rate) as u64,
            Stop::Operations(operations) => operations + (warmup_ns as f64 / 1e9 * rate) as u64,
            Stop::Told => u64::MAX,
        };
        Arc::new(Arrivals {
            due: Semaphore::new(0),
            taken: AtomicU64::new(0),
            total,
            interval_ns: 1e9 / rate,
            ended: AtomicBool::new(false),
        })
    });
    let start = Arc::new(Start::new(job.clients));
    let clients = job.clients as u64;
    let work = |number: u64| {
        let (make, progress) = (make.clone(), progress.clone());
        let (arrivals, start) = (arrivals.clone(), start.clone());
        let share = operations / clients + u64::from(number < operations % clients);
        async move {
            let open = arrivals.is_some();
            let bounds = Bounds {
                measure_from: warmup_ns,
                until,
                operations: if operations == u64::MAX || open {
                    u64::MAX
                } else {
                    share
                },
                sample_every: if open { 1 } else { job.sample_every.max(1) },
                turn: style == Style::Tasks,
            };
            let work = make(number);
            let tally = Tally::new(job.by_second, if job.clients > 64 { 2 } else { 3 });
            let clock = &start.together().await;
            let client = Client {
                work,
                clock,
                bounds,
                tally,
                progress: &progress,
            };
            match arrivals {
                Some(pace) => client.operate(pace).await,
                None => client.operate(Closed).await,
            }
        }
    };

    let tallies: Vec<Result<Tally>> = thread::scope(|scope| {
        let pacer = arrivals.clone().map(|arrivals| {
            let (start, clients) = (start.clone(), job.clients);
            scope.spawn(move || arrivals.pace(block_on(start.watched()), clients))
        });
        let tallies = match style {
            Style::Tasks => {
                let tasks: Vec<_> = (0..clients)
                    .map(|number| runtime.spawn(work(number)))
                    .collect();
                start.open(pacer.is_some());
                tasks
                    .into_iter()
                    .map(|task| flatten(runtime.block_on(task).ok()))
                    .collect()
            }
            Style::Threads => {
                let threads: Vec<_> = (0..clients)
                    .map(|number| {
                        let work = work(number);
                        scope.spawn(move || block_on(work))
                    })
                    .collect();
                start.open(pacer.is_some());
                threads
                    .into_iter()
                    .map(|thread| flatten(thread.join().ok()))
                    .collect()
            }
        };
        if let Some(arrivals) = &arrivals {
            arrivals.ended.store(true, Ordering::Relaxed);
        }
        tallies
    });
    let mut outcome = Outcome::collect(tallies, warmup_ns)?;
    if let (Some(arrivals), true) = (&arrivals, until < u64::MAX) {
        for arrival in arrivals.taken.load(Ordering::Relaxed)..arrivals.total {
            outcome.unserved(until.saturating_sub(arrivals.moment(arrival)));
        }
    }
    Ok(outcome)
}

fn flatten(joined: Option<Result<Tally>>) -> Result<Tally> {
    joined.unwrap_or_else(|| Err(Fault::from("a client panicked")))
}

/// Lets all clients begin at one moment, once each has prepared itself.
struct Start {
    prepared: Barrier,
    begin: Barrier,
    clock: std::sync::OnceLock<Instant>,
    watched: Semaphore,
}

impl Start {
    fn new(clients: usize) -> Self {
        Self {
            prepared: Barrier::new(clients + 1),
            begin: Barrier::new(clients + 1),
            clock: std::sync::OnceLock::new(),
            watched: Semaphore::new(0),
        }
    }

    async fn together(&self) -> Instant {
        self.prepared.wait().await;
        self.begin.wait().await;
        *self
            .clock
            .get()
            .expect("the clock is set before the second barrier opens")
    }

    /// For the pacing thread.
    async fn watched(&self) -> Instant {
        let _permit = self.watched.acquire().await;
        *self
            .clock
            .get()
            .expect("the clock is set before anybody may watch")
    }

    fn open(&self, watch: bool) {
        block_on(self.prepared.wait());
        self.clock.get_or_init(Instant::now);
        if watch {
            self.watched.add_permits(1);
        }
        block_on(self.begin.wait());
    }
}

/// Runs a future on this thread; the thread sleeps while it waits.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
