//! The drill: starts lives, orders panics, kills, and in the end looks for itself.

use crate::{
    Failure, Plan,
    accounts::{Bank, Books},
    life::PANIC,
    progress::Progress,
    report::Message,
    verdict::Verdict,
};
use mailring::Mailring;
use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// How long a life may take for what is due at once: to open, to restart a node, to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the drill and prints the verdict; whether all checks hold.
pub(crate) fn run(plan: &Plan) -> Result<bool, Failure> {
    let temporary = match &plan.directory {
        None => Some(tempfile::tempdir()?),
        Some(_) => None,
    };
    let directory = match (&temporary, &plan.directory) {
        (Some(temporary), _) => temporary.path().join("bank"),
        (None, directory) => directory.clone().unwrap_or_default(),
    };
    let begun = Instant::now();
    let mut verdict = Verdict::new(plan);
    let mut progress = Progress::new(plan);
    let outcome = live(plan, &directory, &mut verdict, &mut progress);
    progress.end();
    if verdict.settled() == 0 {
        outcome?;
    } else if let Err(failure) = outcome {
        // At once, should the directory not be readable either.
        eprintln!("bank: {failure}");
        verdict.failed(failure.to_string());
    }
    let took = begun.elapsed();
    verdict.closed(took, read(plan, &directory)?);
    println!("{verdict}");
    Ok(verdict.holds())
}

/// One life after the other; all but the last are killed.
fn live(
    plan: &Plan,
    directory: &Path,
    verdict: &mut Verdict,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let lives = plan.kills + 1;
    let length = Duration::from_secs(u64::from(plan.seconds)) / lives;
    for number in 0..lives {
        let panics = plan.panics / lives + u32::from(number < plan.panics % lives);
        let mut life = Life::begin(plan, directory)?;
        life.open(verdict)?;
        life.work(length, panics, verdict, progress)?;
        if number + 1 < lives {
            life.kill(verdict)?;
        } else {
            life.end(verdict)?;
        }
    }
    Ok(())
}

/// Opens what the lives have left in the directory, and reads all of it.
fn read(plan: &Plan, directory: &Path) -> Result<Books, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let db = Mailring::builder(directory).create(false).open().await?;
        let books = Bank::open(&db, plan).await?.audit().await?;
        db.verify().await?;
        db.shutdown().await?;
        Ok(books)
    })
}

/// A process that runs `life::run`.
struct Life {
    process: Child,
    /// Closing it ends the life in peace.
    stdin: Option<ChildStdin>,
    messages: Receiver<Message>,
}

impl Life {
    fn begin(plan: &Plan, directory: &Path) -> Result<Self, Failure> {
        let mut process = Command::new(env::current_exe()?)
            .arg("--life")
            .arg("--directory")
            .arg(directory)
            .args(["--accounts", &plan.accounts.to_string()])
            .args(["--clients", &plan.clients.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // A kill may cut the last line short; what it said was not heard.
                let Ok(message) = serde_json::from_str(&line) else {
                    return;
                };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            process,
            stdin,
            messages,
        })
    }

    /// The next message, or none until then.
    fn hear(&self, until: Instant) -> Result<Option<Message>, Failure> {
        let patience = until.saturating_duration_since(Instant::now());
        match self.messages.recv_timeout(patience) {
            Ok(Message::Failed(words)) => Err(words.into()),
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("the process died unasked".into()),
        }
    }

    fn open(&self, verdict: &mut Verdict) -> Result<(), Failure> {
        match self.hear(Instant::now() + PATIENCE)? {
            Some(Message::Opened { recovery_ms, books }) => {
                verdict.opened(recovery_ms, books);
                Ok(())
            }
            other => Err(format!("the process does not open the bank: {other:?}").into()),
        }
    }

    /// Lets it work for `length`, with panics at even distances. It must have come over each of them and have settled
    /// orders before this ends.
    fn work(
        &mut self,
        length: Duration,
        panics: u32,
        verdict: &mut Verdict,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        let end = begun + length;
        let (mut ordered, mut survived, mut settled) = (0, 0, 0);
        loop {
            let now = Instant::now();
            let is_over_all = survived >= u64::from(panics) && settled > 0;
            if now >= end && is_over_all {
                return Ok(());
            }
            if now >= end + PATIENCE {
                let words =
                    format!("{survived} restarts after {panics} panics, {settled} orders settled");
                return Err(words.into());
            }
            // An order before the last one is carried out would replace it.
            let due = begun + length * (ordered + 1) / (panics + 1);
            if ordered < panics && now >= due && survived >= u64::from(ordered) {
                ordered += 1;
                let stdin = self.stdin.as_mut().expect("it is open until the end");
                writeln!(stdin, "{PANIC}")?;
            }
            let until = now + Duration::from_millis(20);
            if let Some(Message::Report(report)) = self.hear(until)? {
                survived = report.engine.restarts;
                settled += report.settled.iter().sum::<u64>();
                verdict.report(report);
                progress.show(verdict);
            }
        }
    }

    /// SIGKILL, wherever it is.
    fn kill(mut self, verdict: &mut Verdict) -> Result<(), Failure> {
        self.process.kill()?;
        self.process.wait()?;
        // What was still in the pipe had been acknowledged.
        for message in &self.messages {
            match message {
                Message::Report(report) => verdict.report(report),
                Message::Failed(words) => return Err(words.into()),
                Message::Opened { .. } | Message::Ended => {}
            }
        }
        verdict.killed();
        Ok(())
    }

    /// Lets it end by itself.
    fn end(mut self, verdict: &mut Verdict) -> Result<(), Failure> {
        drop(self.stdin.take());
        let until = Instant::now() + PATIENCE;
        loop {
            match self.hear(until)? {
                Some(Message::Report(report)) => verdict.report(report),
                Some(Message::Ended) => break,
                other => return Err(format!("the process does not end: {other:?}").into()),
            }
        }
        let status = self.process.wait()?;
        if !status.success() {
            return Err(format!("the process ended with {status}").into());
        }
        Ok(())
    }
}

impl Drop for Life {
    /// No process outlives the drill, however it ends.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
