//! A thread that carries out all waiting programs in one transaction of a store with a single writer.
//!
//! Clients send their program over a channel and wait. The thread takes everything that has come in since its last
//! round, one transaction carries it out in order, one force makes it durable, and all are answered. With one writer
//! nothing conflicts. Programs that only read go to the store directly, on a snapshot.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

use super::{Effect, Ledger, Program, Refusal, Transactor, settle};
use crate::subject::Style;
use crate::{Fault, Result};

/// Programs that one transaction takes at most.
const LARGEST_GROUP: usize = 8_192;

struct Request {
    program: Program,
    reply: oneshot::Sender<std::result::Result<Effect, String>>,
}

/// A store with such a thread. The thread ends with the last clone.
pub(crate) struct Grouped<L> {
    ledger: Arc<L>,
    requests: Sender<Request>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl<L> Clone for Grouped<L> {
    fn clone(&self) -> Self {
        Self {
            ledger: self.ledger.clone(),
            requests: self.requests.clone(),
            writer: self.writer.clone(),
        }
    }
}

impl<L: Ledger> Grouped<L> {
    /// Starts the thread.
    pub(crate) fn new(ledger: L) -> Self {
        let (requests, inbox) = crossbeam_channel::unbounded();
        let ledger = Arc::new(ledger);
        let thread = std::thread::spawn({
            let ledger = ledger.clone();
            move || commit_groups(&*ledger, &inbox)
        });
        Self {
            ledger,
            requests,
            writer: Arc::new(Mutex::new(Some(thread))),
        }
    }
}

fn commit_groups<L: Ledger>(ledger: &L, inbox: &Receiver<Request>) {
    let (mut programs, mut replies) = (Vec::new(), Vec::new());
    while let Ok(first) = inbox.recv() {
        for request in std::iter::once(first).chain(inbox.try_iter().take(LARGEST_GROUP - 1)) {
            programs.push(request.program);
            replies.push(request.reply);
        }
        let outcome = ledger.attempt(&programs).map_err(|refusal| match refusal {
            Refusal::Contention => "a single writer was refused".to_owned(),
            Refusal::Fault(fault) => fault.to_string(),
        });
        programs.clear();
        for (place, reply) in replies.drain(..).enumerate() {
            let answer = outcome
                .as_ref()
                .map(|effects| effects[place])
                .map_err(String::clone);
            // A client that ended meanwhile needs no answer.
            let _ = reply.send(answer);
        }
    }
}

impl<L: Ledger> Transactor for Grouped<L> {
    const STYLE: Style = Style::Tasks;

    async fn attempt(&self, program: &Program) -> Result<Option<Effect>> {
        if program.is_read_only() {
            return settle(self.ledger.read(program));
        }
        let gone = || Fault::from("the writer is gone");
        let (reply, answer) = oneshot::channel();
        let program = program.clone();
        self.requests
            .send(Request { program, reply })
            .map_err(|_| gone())?;
        let effect = answer.await.map_err(|_| gone())?;
        effect.map(Some).map_err(Fault::from)
    }

    /// Ends the thread, which holds the store; all other clones must be gone.
    async fn close(self) -> Result<()> {
        let Self {
            requests, writer, ..
        } = self;
        drop(requests);
        let thread = writer
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take();
        match thread.map(JoinHandle::join) {
            Some(Err(_)) => Err(Fault::from("the writer panicked")),
            _ => Ok(()),
        }
    }
}
