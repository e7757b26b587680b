//! The bare log as an actix actor: what durable puts cost when there is a mailbox, and nothing behind it.
//!
//! ```text
//!  client ── Append { record, reply } ──▶ actor: the open group
//!                                           │ Cut, notified to itself, comes behind all that waits in the mailbox
//!                                           ├─ in place:  write, force, answer (meanwhile the mailbox fills)
//!                                           └─ a thread:  takes all groups that queue for it, one force, answers
//! ```
//!
//! A client encodes its own record, so the actor copies bytes and keeps replies. No checksum, no table, no limit: the
//! ceiling of an engine whose puts go through a mailbox. Which of the two forms is faster depends on the disk and the
//! clients, so both are measured, and a goal takes the faster.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, System};
use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

use super::log::{BareLog, encode, unreadable};
use super::{Entry, Store, Style, Subject};
use crate::{Fault, Result};

/// Who forces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forcing {
    /// The actor.
    InPlace,
    /// A thread beside it.
    OnThread,
}

/// Records that are forced together, and who waits for it.
#[derive(Default)]
struct Group {
    records: Vec<u8>,
    replies: Vec<oneshot::Sender<std::result::Result<(), String>>>,
}

impl Group {
    fn append_to(&mut self, log: &BareLog) {
        let outcome = log.append(&mut self.records);
        let outcome = outcome.map_err(|fault| fault.to_string());
        self.records.clear();
        for reply in self.replies.drain(..) {
            // A client that ended meanwhile needs no answer.
            let _ = reply.send(outcome.clone());
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Append {
    records: Vec<u8>,
    reply: oneshot::Sender<std::result::Result<(), String>>,
}

/// The open group is complete.
#[derive(Message)]
#[rtype(result = "()")]
struct Cut;

/// The actor.
struct Appender {
    log: Arc<BareLog>,
    open: Group,
    thread: Option<Sender<Group>>,
}

impl Actor for Appender {
    type Context = Context<Self>;
}

impl Handler<Append> for Appender {
    type Result = ();

    fn handle(&mut self, message: Append, context: &mut Self::Context) {
        if self.open.replies.is_empty() {
            context.notify(Cut);
        }
        self.open.records.extend_from_slice(&message.records);
        self.open.replies.push(message.reply);
    }
}

impl Handler<Cut> for Appender {
    type Result = ();

    fn handle(&mut self, _: Cut, _: &mut Self::Context) {
        match &self.thread {
            None => self.open.append_to(&self.log),
            // The thread goes only after this actor; a group that it could not take answers by being dropped.
            Some(thread) => drop(thread.send(std::mem::take(&mut self.open))),
        }
    }
}

/// Forces all groups that queue, together.
fn force_groups(log: &BareLog, inbox: &Receiver<Group>) {
    while let Ok(mut group) = inbox.recv() {
        for next in inbox.try_iter() {
            group.records.extend_from_slice(&next.records);
            group.replies.extend(next.replies);
        }
        group.append_to(log);
    }
}

/// The log and its threads, which [`Subject::close`] ends.
#[derive(Clone)]
pub(super) struct ActixLog {
    actor: Addr<Appender>,
    log: Arc<BareLog>,
    threads: Arc<Mutex<Option<Threads>>>,
}

struct Threads {
    system: System,
    actors: JoinHandle<()>,
    forcing: Option<JoinHandle<()>>,
}

impl ActixLog {
    /// Starts the actor in a system of its own.
    ///
    /// # Errors
    ///
    /// If its thread dies.
    pub(super) fn start(log: BareLog, forcing: Forcing) -> Result<Self> {
        let log = Arc::new(log);
        let (thread, forcing) = match forcing {
            Forcing::InPlace => (None, None),
            Forcing::OnThread => {
                let (groups, inbox) = crossbeam_channel::unbounded();
                let log = log.clone();
                let forcing = std::thread::spawn(move || force_groups(&log, &inbox));
                (Some(groups), Some(forcing))
            }
        };
        let (started, start) = mpsc::channel();
        let shared = log.clone();
        let actors = std::thread::spawn(move || {
            let runner = System::new();
            let actor = runner.block_on(async {
                let open = Group::default();
                let log = shared;
                Appender { log, open, thread }.start()
            });
            if started.send((System::current(), actor)).is_ok() {
                // How a system ends that was told to is of no interest; who waits for it is answered by the clients.
                let _ = runner.run();
            }
        });
        let (system, actor) = start
            .recv()
            .map_err(|_| Fault::from("the actor did not start"))?;
        let threads = Threads {
            system,
            actors,
            forcing,
        };
        Ok(Self {
            actor,
            log,
            threads: Arc::new(Mutex::new(Some(threads))),
        })
    }

    async fn append(&self, records: Vec<u8>) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.actor.do_send(Append { records, reply });
        let answer = answer.await;
        answer
            .map_err(|_| Fault::from("the actor is gone"))?
            .map_err(Fault::from)
    }
}

impl Subject for ActixLog {
    const STYLE: Style = Style::Tasks;

    async fn get(&self, _key: &[u8]) -> Result<Option<usize>> {
        unreadable()
    }

    async fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut record = Vec::new();
        encode(&mut record, key, value);
        self.append(record).await
    }

    async fn put_many(&self, entries: Vec<Entry>) -> Result<()> {
        let mut records = Vec::new();
        for (key, value) in &entries {
            encode(&mut records, key, value);
        }
        self.append(records).await
    }

    async fn scan(&self, _from: &[u8], _limit: usize) -> Result<usize> {
        unreadable()
    }

    async fn sync(&self) -> Result<()> {
        self.log.sync()
    }

    async fn close(self) -> Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(threads) = threads.take() else {
            return Ok(());
        };
        threads.system.stop();
        let ended = threads.actors.join();
        let forced = threads.forcing.map_or(Ok(()), JoinHandle::join);
        match ended.and(forced) {
            Ok(()) => Ok(()),
            Err(_) => Err(Fault::from("the log's actor or thread panicked")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::{Durability, Settings};

    #[test]
    fn whoever_is_answered_has_its_record_in_the_log_in_both_forms() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for forcing in [Forcing::InPlace, Forcing::OnThread] {
            let dir = tempfile::tempdir().unwrap();
            let settings = Settings {
                dir: dir.path().to_owned(),
                durability: Durability::Always,
                cache_bytes: 0,
                write_buffer_bytes: 0,
                nodes: 1,
            };
            let log = BareLog::open(&settings, 1 << 20).unwrap();
            let subject = ActixLog::start(log, forcing).unwrap();
            runtime.block_on(async {
                let mut writers = Vec::new();
                for client in 0..32u8 {
                    let subject = subject.clone();
                    writers.push(tokio::spawn(async move {
                        for number in 0..10u8 {
                            subject.put(&[client; 16], &[number; 100]).await.unwrap();
                        }
                    }));
                }
                for writer in writers {
                    writer.await.unwrap();
                }
                let gone = subject.clone();
                subject.close().await.unwrap();
                assert!(gone.put(b"key", b"value").await.is_err());
            });
            let log = std::fs::read(dir.path().join("log")).unwrap();
            let mut keys: Vec<u8> = log.chunks_exact(124).map(|record| record[8]).collect();
            // Client 0's records are told from what was not written by their lengths.
            let written = log.chunks_exact(124).take_while(|record| record[0] == 16);
            let written = written.count();
            keys.truncate(written);
            keys.sort_unstable();
            let expected: Vec<u8> = (0..32).flat_map(|client| [client; 10]).collect();
            assert_eq!(keys, expected, "{forcing:?}");
        }
    }
}
