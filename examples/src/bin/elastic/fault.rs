//! A node that panics when it is told to, once or for good. The hook is not for services: the engine's own tests inject panics with it.

use mailring::{FaultHook, FaultSite, NodeId};
use std::{
    panic,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

const WORDS: &str = "this panic was ordered";
/// No node has this number.
const NOBODY: u32 = u32::MAX;

/// The order for one panic, and for a node that panics for ever.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    once: Arc<AtomicU32>,
    always: Arc<AtomicU32>,
}

impl Default for Fault {
    fn default() -> Self {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // An ordered panic stays off the terminal.
            if info.payload_as_str() != Some(WORDS) {
                usual(info);
            }
        }));
        let nobody = || Arc::new(AtomicU32::new(NOBODY));
        Self {
            once: nobody(),
            always: nobody(),
        }
    }
}

impl Fault {
    /// Has the node panic at its next message.
    pub(crate) fn order(&self, node: NodeId) {
        self.once.store(node.0.into(), Ordering::Relaxed);
    }

    /// Has the node panic at every message.
    pub(crate) fn doom(&self, node: NodeId) {
        self.always.store(node.0.into(), Ordering::Relaxed);
    }

    /// Whether the order was not carried out yet.
    pub(crate) fn is_left(&self) -> bool {
        self.once.load(Ordering::Relaxed) != NOBODY
    }

    pub(crate) fn hook(&self) -> FaultHook {
        let Self { once, always } = self.clone();
        Arc::new(move |site: &FaultSite<'_>| {
            let Some(node) = site.node.filter(|_| site.message == "Request") else {
                return;
            };
            let (node, relaxed) = (u32::from(node.0), Ordering::Relaxed);
            let is_ordered = once
                .compare_exchange(node, NOBODY, relaxed, relaxed)
                .is_ok();
            if is_ordered || always.load(relaxed) == node {
                panic!("{WORDS}");
            }
        })
    }
}
