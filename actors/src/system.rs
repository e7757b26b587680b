//! The engine's own actix system, on its own threads: callers need none, and theirs, if they have one, is left alone.

use actix::{Arbiter, System, prelude::ArbiterHandle};
use mailring_engine::{Error, Result};
use std::{
    sync::mpsc,
    thread::{self, JoinHandle},
};

/// A running system and its arbiters.
#[derive(Debug)]
pub(crate) struct ActorSystem {
    system: System,
    arbiters: Arbiters,
    join: JoinHandle<()>,
}

/// The threads on which actors run.
#[derive(Debug, Clone)]
pub(crate) struct Arbiters(Vec<ArbiterHandle>);

impl Arbiters {
    /// The arbiter for the actor of this number: actors go round.
    pub(crate) fn of(&self, number: usize) -> &ArbiterHandle {
        &self.0[number % self.0.len()]
    }
}

impl ActorSystem {
    /// Starts a system whose actors run on so many threads.
    pub(crate) fn start(threads: usize) -> Result<Self> {
        let (sender, started) = mpsc::channel();
        let join = thread::Builder::new()
            .name("mailring-actors-0".into())
            .spawn(move || {
                let runner = System::new();
                let system = System::current();
                let others: Vec<Arbiter> = (1..threads).map(|_| Arbiter::new()).collect();
                let mut arbiters = vec![system.arbiter().clone()];
                arbiters.extend(others.iter().map(Arbiter::handle));
                if sender.send((system, arbiters)).is_err() {
                    return;
                }
                if let Err(error) = runner.run() {
                    tracing::error!(%error, "the actor system ended badly");
                }
                for arbiter in others {
                    arbiter.stop();
                    // An arbiter that panicked has nothing left to stop.
                    let _ = arbiter.join();
                }
            })
            .map_err(|error| Error::io("starting the actor system's thread", &error))?;
        let (system, arbiters) = started.recv().map_err(|_| Error::Closed)?;
        Ok(Self {
            system,
            arbiters: Arbiters(arbiters),
            join,
        })
    }

    pub(crate) fn arbiters(&self) -> &Arbiters {
        &self.arbiters
    }

    /// Stops all actors and waits until their threads have ended.
    pub(crate) fn stop(self) {
        self.system.stop();
        // The thread's result says only whether an actor panicked, which was reported when it happened.
        let _ = self.join.join();
    }
}
