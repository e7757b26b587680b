//! A group-commit thread in front of a blocking store.
//!
//! Writers send their entry over a channel and wait. The thread takes everything that has come in since its last
//! round, writes it as one batch, which the store forces once, and answers all. This is what a service would put in
//! front of a store whose every write pays for a force of its own, and so the fair peer of an engine that groups by
//! itself. Reads go to the store directly.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

use super::{Entry, Store, Style, Subject, close_store};
use crate::{Fault, Result};

/// Entries that one batch takes at most.
const LARGEST_GROUP: usize = 8_192;

struct Request {
    entry: Entry,
    reply: oneshot::Sender<std::result::Result<(), String>>,
}

/// A store with a group-commit thread. The thread ends with the last clone.
pub(crate) struct Grouped<S> {
    store: Arc<S>,
    requests: Sender<Request>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl<S> Clone for Grouped<S> {
    fn clone(&self) -> Self {
        let (store, requests, writer) = (
            self.store.clone(),
            self.requests.clone(),
            self.writer.clone(),
        );
        Self {
            store,
            requests,
            writer,
        }
    }
}

impl<S: Store> Grouped<S> {
    /// Starts the thread.
    pub(crate) fn new(store: Arc<S>) -> Self {
        let (requests, inbox) = crossbeam_channel::unbounded();
        let thread = std::thread::spawn({
            let store = store.clone();
            move || commit_groups(&*store, &inbox)
        });
        Self {
            store,
            requests,
            writer: Arc::new(Mutex::new(Some(thread))),
        }
    }
}

fn commit_groups<S: Store>(store: &S, inbox: &Receiver<Request>) {
    let (mut entries, mut replies) = (Vec::new(), Vec::new());
    while let Ok(first) = inbox.recv() {
        for request in std::iter::once(first).chain(inbox.try_iter().take(LARGEST_GROUP - 1)) {
            entries.push(request.entry);
            replies.push(request.reply);
        }
        let outcome = store.put_many(&entries).map_err(|fault| fault.to_string());
        entries.clear();
        for reply in replies.drain(..) {
            // A client that ended meanwhile needs no answer.
            let _ = reply.send(outcome.clone());
        }
    }
}

impl<S: Store> Subject for Grouped<S> {
    const STYLE: Style = Style::Tasks;

    async fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        self.store.get(key)
    }

    async fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let entry = (key.to_vec(), value.to_vec());
        self.requests
            .send(Request { entry, reply })
            .map_err(|_| Fault::from("the writer is gone"))?;
        answer
            .await
            .map_err(|_| Fault::from("the writer is gone"))?
            .map_err(Fault::from)
    }

    async fn put_many(&self, entries: Vec<Entry>) -> Result<()> {
        self.store.put_many(&entries)
    }

    async fn scan(&self, from: &[u8], limit: usize) -> Result<usize> {
        self.store.scan(from, limit)
    }

    async fn sync(&self) -> Result<()> {
        self.store.sync()
    }

    async fn checkpoint(&self) -> Result<()> {
        self.store.checkpoint()
    }

    /// Ends the thread, which holds the store, and then the store; all other clones must be gone.
    async fn close(self) -> Result<()> {
        let Self {
            store,
            requests,
            writer,
        } = self;
        drop(requests);
        let thread = writer
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            return Err(Fault::from("the writer panicked"));
        }
        close_store(store);
        Ok(())
    }
}
