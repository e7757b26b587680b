//! One life of the process that holds the engine, until the drill ends it or kills it.

use crate::{
    Failure, Plan,
    accounts::Bank,
    clients::Branch,
    faults::{self, Faults},
    report::{Engine, Message},
};
use mailring::{Mailring, RestartPolicy};
use rand::Rng;
use std::{
    io::{self, BufRead, Write},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// What the drill writes to stdin to have a node panic. The end of stdin is the end of the life.
pub(crate) const PANIC: &str = "panic";

const REPORT_EVERY: Duration = Duration::from_millis(100);

pub(crate) fn run(plan: &Plan) -> Result<(), Failure> {
    faults::say_nothing_of_orders();
    let outcome = live(plan);
    if let Err(failure) = &outcome {
        say(&Message::Failed(failure.to_string()))?;
    }
    outcome
}

fn live(plan: &Plan) -> Result<(), Failure> {
    let begun = Instant::now();
    let directory = plan.directory.as_ref().expect("clap requires it");
    let faults = Faults::default();
    let runtime = Runtime::new()?;
    let db = Mailring::builder(directory)
        .fault_hook(faults.hook())
        .restart_policy(RestartPolicy {
            // Each panic is ordered, and by default a node that panics five times a minute is given up.
            intensity: 1_000,
            longest_back_off: Duration::from_millis(40),
            ..RestartPolicy::default()
        })
        .open_blocking()?;
    let recovery_ms = u64::try_from(begun.elapsed().as_millis())?;
    let bank = runtime.block_on(Bank::open(&db, plan))?;
    let books = runtime.block_on(bank.audit())?;
    say(&Message::Opened { recovery_ms, books })?;

    let branch = Arc::new(Branch::new(bank, plan));
    let mut tasks: Vec<_> = (0..plan.clients)
        .map(|client| {
            let branch = Arc::clone(&branch);
            runtime.spawn(async move { branch.serve(client).await })
        })
        .collect();
    let auditor = Arc::clone(&branch);
    tasks.push(runtime.spawn(async move { auditor.audit().await }));

    let orders = orders();
    let mut reported = Instant::now();
    loop {
        match orders.recv_timeout(REPORT_EVERY.saturating_sub(reported.elapsed())) {
            Ok(()) => faults.order(rand::rng().random_range(0..200)),
            Err(RecvTimeoutError::Timeout) => {
                report(&branch, &db)?;
                reported = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    branch.close();
    for task in tasks {
        runtime.block_on(task)?;
    }
    report(&branch, &db)?;
    runtime.block_on(db.shutdown())?;
    say(&Message::Ended)
}

/// One item for each line of stdin; it disconnects when stdin ends, also because the drill has died.
fn orders() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if line.is_ok_and(|line| line != PANIC) || sender.send(()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn report(branch: &Branch, db: &Mailring) -> Result<(), Failure> {
    let mut report = branch.take_report()?;
    let stats = db.stats();
    report.engine = Engine {
        aborts: stats.aborts,
        retries: stats.retries,
        restarts: stats.nodes.iter().map(|node| node.restarts).sum(),
    };
    say(&Message::Report(report))
}

fn say(message: &Message) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    io::stdout().lock().write_all(&line)?;
    Ok(())
}
