//! Transactions under load: the same programs for mailring and for the stores that have transactions.
//!
//! ```text
//!  economy ── which program next ──▶ teller ── attempt ──▶ transactor (mailring, surrealkv)
//!                                      ▲  │                Threaded: a thread a client, one transaction each
//!                        pause, again  └──┘ refused        Grouped: one transaction for all that wait
//! ```
//!
//! [`Transactor`] is what a teller asks. A blocking store implements the smaller [`Ledger`] and becomes a transactor as
//! [`Threaded`], or, where it has a single writer and so can't conflict, as [`Grouped`](group::Grouped), behind a thread
//! that carries out all waiting programs in one transaction and so with one force. No store does the latter by itself; it
//! is what a service would build.
//!
//! Who is refused pauses with jitter and tries again, whatever the subject (`backoff`); what comes of it is counted.
//! At the end of each run the books are audited (`arena`): every balance is read, and the total must be what was opened
//! plus what was acknowledged, else the run fails.

use std::future::Future;
use std::sync::Arc;

use crate::Result;
use crate::subject::Style;

mod arena;
mod backoff;
mod economy;
mod group;
pub(crate) mod peers;
mod program;
mod teller;

pub(crate) use arena::{Bank, BankJob, Driven, OpenedBank};
pub(crate) use backoff::{Backoff, Timer};
pub(crate) use economy::{Economy, Mix, Placement};
pub(crate) use program::{Effect, Program, Refusal, Rows};

/// A store with transactions under load. Clones share it.
pub(crate) trait Transactor: Clone + Send + Sync + 'static {
    /// What its clients are.
    const STYLE: Style;

    /// Carries a program out in one transaction, with the durability it was opened with. None if it was refused since
    /// others were in the way: then nothing was written.
    fn attempt(&self, program: &Program) -> impl Future<Output = Result<Option<Effect>>> + Send;

    /// Forces since it was opened, if the subject counts them.
    fn forces(&self) -> Option<u64> {
        None
    }

    /// Closes in good order.
    fn close(self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
}

/// A store with transactions whose calls block.
pub(crate) trait Ledger: Send + Sync + 'static {
    /// Carries out programs one behind the other in one transaction; durable on return if it was opened so.
    ///
    /// # Errors
    ///
    /// [`Refusal::Contention`] if others were in the way, and nothing was written.
    fn attempt(&self, programs: &[Program]) -> std::result::Result<Vec<Effect>, Refusal>;

    /// Carries out a program that only reads, on a snapshot.
    ///
    /// # Errors
    ///
    /// What the store says.
    fn read(&self, program: &Program) -> std::result::Result<Effect, Refusal>;
}

/// A blocking store as a transactor with a thread a client.
pub(crate) struct Threaded<L>(Arc<L>);

impl<L> Threaded<L> {
    /// A store of its own.
    pub(crate) fn new(ledger: L) -> Self {
        Self(Arc::new(ledger))
    }
}

impl<L> Clone for Threaded<L> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// An attempt that was refused is no error of the run.
pub(crate) fn settle<T>(outcome: std::result::Result<T, Refusal>) -> Result<Option<T>> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(Refusal::Contention) => Ok(None),
        Err(Refusal::Fault(fault)) => Err(fault),
    }
}

impl<L: Ledger> Transactor for Threaded<L> {
    const STYLE: Style = Style::Threads;

    async fn attempt(&self, program: &Program) -> Result<Option<Effect>> {
        settle(if program.is_read_only() {
            self.0.read(program)
        } else {
            let effects = self.0.attempt(std::slice::from_ref(program));
            effects.map(|effects| effects[0])
        })
    }
}

#[cfg(test)]
mod conformance;
