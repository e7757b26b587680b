//! Who can be reached, and what everybody shares: the addresses of the actors and the published state.

use crate::{
    alarm::Alarms,
    budget::Budget,
    cache_share::CacheShare,
    checkpointer::Checkpointer,
    clock::{Clock, DueTick, TickSlot, wall_clock_ms},
    coordinator::CoordinatorActor,
    journal::JournalActor,
    journal_io::Forced,
    locks::{LockDesk, LockManager},
    member::Member,
    message::{Deliver, Tick},
    nodes::{Events, Showing},
    placement::Placements,
    queue::Queue,
    router::Router,
    routes::Routes,
    supervisor::Supervisor,
    telemetry::Telemetry,
};
use actix::Addr;
use arc_swap::ArcSwap;
use mailring_engine::{
    Error,
    cache::RowCache,
    checkpoint::CheckpointMessage,
    coordinator::CoordinatorMessage,
    ids::{DirectoryNo, Lsn, NodeId},
    locks::LockMessage,
    motion::MotionMessage,
    open_keyspaces::OpenKeyspaces,
    participant::NodeMessage,
    rebuild::Opened,
    sequencer::JournalMessage,
    view::Visible,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::sync::Notify;

/// Where a panic can be injected: before or after a message of some kind is handled.
pub type FaultHook = Arc<dyn Fn(&FaultSite<'_>) + Send + Sync>;

/// A place at which the fault hook is called. Only tests set one.
#[derive(Debug, Clone, Copy)]
pub struct FaultSite<'a> {
    /// The actor (`"node"`, `"coordinator"`, `"journal"`, `"checkpointer"`, `"router"`, `"supervisor"` or `"locks"`), or the
    /// thread that works for one (`"io"`, `"segments"`, `"runs"`, `"compaction"`, `"rebuild"` or `"mover"`).
    pub actor: &'a str,
    /// The node's number, for a node.
    pub node: Option<NodeId>,
    /// The kind of message.
    pub message: &'a str,
    /// Whether the message has been handled and its effects are about to leave.
    pub handled: bool,
}

/// The addresses of all actors but the nodes, whose stand in the routes. Each is cloned from one sender: actix grants every
/// sender a slot of its own.
pub(crate) struct Addresses {
    pub(crate) coordinator: Addr<CoordinatorActor>,
    pub(crate) journal: Addr<JournalActor>,
    pub(crate) checkpointer: Addr<Checkpointer>,
    pub(crate) supervisor: Addr<Supervisor>,
    pub(crate) router: Addr<Router>,
    pub(crate) lock_manager: Addr<LockManager>,
}

/// What every actor and every handle shares.
pub(crate) struct Switchboard {
    pub(crate) clock: Clock,
    pub(crate) visible: Visible,
    pub(crate) cache: Arc<RowCache>,
    pub(crate) cache_share: CacheShare,
    pub(crate) budget: Arc<Budget>,
    pub(crate) routes: ArcSwap<Routes>,
    /// Wakes who waits for newer routes.
    pub(crate) rerouted: Notify,
    /// What handles see of the change of the ring.
    pub(crate) showing: Showing,
    pub(crate) motion_due: DueTick,
    /// What happens to the nodes, for whoever watches.
    pub(crate) events: Events,
    /// What the directory was found to be.
    pub(crate) opened: Opened,
    /// In which directory each node lives.
    pub(crate) placements: Arc<Placements>,
    /// Set when the engine stops: long work ends.
    pub(crate) stopping: AtomicBool,
    pub(crate) telemetry: Telemetry,
    pub(crate) fault_hook: Option<FaultHook>,
    pub(crate) read_only: OnceLock<Error>,
    /// Opened and dropped by the journal's actor, looked at by all handles.
    pub(crate) keyspaces: OpenKeyspaces,
    /// By directory.
    pub(crate) space_errors: Mutex<BTreeMap<DirectoryNo, Error>>,
    pub(crate) forced: Forced,
    pub(crate) addresses: OnceLock<Addresses>,
    /// Milliseconds since the Unix epoch, kept current for the stores, which have no clock.
    pub(crate) now_ms: Arc<AtomicU64>,
    pub(crate) journal_tick: TickSlot,
    pub(crate) checkpoint_tick: TickSlot,
    pub(crate) coordinator_tick: TickSlot,
    /// Transactions that the coordinator carries to their end now.
    pub(crate) coordinator_running: AtomicUsize,
    /// Why the coordinator was given up.
    pub(crate) coordinator_down: OnceLock<String>,
    /// Commits that the coordinator has not answered.
    pub(crate) coordinator_queue: Arc<Queue>,
    pub(crate) alarms: Alarms,
    /// Wakes who waits for the journal, to look at his deadline.
    pub(crate) journal_overdue: Notify,
    pub(crate) lock_tick: TickSlot,
    pub(crate) locks: LockDesk,
    /// Why the lock manager was given up.
    pub(crate) locks_down: OnceLock<String>,
}

impl std::fmt::Debug for Switchboard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switchboard")
            .field("nodes", &self.routes.load().nodes().len())
            .field("visible", &self.visible)
            .finish_non_exhaustive()
    }
}

impl Switchboard {
    fn addresses(&self) -> &Addresses {
        self.addresses
            .get()
            .expect("actors send only after all of them have started")
    }

    /// A node that is open.
    pub(crate) fn member(&self, node: NodeId) -> Option<Arc<Member>> {
        self.routes.load().member(node).map(Arc::clone)
    }

    pub(crate) fn to_node(&self, node: NodeId, message: NodeMessage) {
        match self.routes.load().member(node) {
            Some(member) => member.tell(message),
            // What is said behind the back of one that has left is of no use to anybody.
            None => tracing::debug!(%node, ?message, "a message for a node that has left"),
        }
    }

    pub(crate) fn to_all_nodes(&self, message: impl Fn() -> NodeMessage) {
        for member in self.routes.load().nodes() {
            member.tell(message());
        }
    }

    pub(crate) fn to_coordinator(&self, message: CoordinatorMessage) {
        self.addresses().coordinator.do_send(Deliver(message));
    }

    pub(crate) fn to_journal(&self, message: JournalMessage) {
        self.addresses().journal.do_send(Deliver(message));
    }

    pub(crate) fn to_locks(&self, message: LockMessage) {
        // Where the desk is closed nobody is there any more to be told, and nothing is decided.
        let _ = self.locks.tell(self.lock_manager(), message);
    }

    pub(crate) fn to_router(&self, message: MotionMessage) {
        self.addresses().router.do_send(Deliver(message));
    }

    pub(crate) fn to_checkpointer(&self, message: CheckpointMessage) {
        self.addresses().checkpointer.do_send(Deliver(message));
    }

    pub(crate) fn coordinator(&self) -> &Addr<CoordinatorActor> {
        &self.addresses().coordinator
    }

    pub(crate) fn journal(&self) -> &Addr<JournalActor> {
        &self.addresses().journal
    }

    pub(crate) fn checkpointer(&self) -> &Addr<Checkpointer> {
        &self.addresses().checkpointer
    }

    pub(crate) fn supervisor(&self) -> &Addr<Supervisor> {
        &self.addresses().supervisor
    }

    pub(crate) fn router(&self) -> &Addr<Router> {
        &self.addresses().router
    }

    pub(crate) fn lock_manager(&self) -> &Addr<LockManager> {
        &self.addresses().lock_manager
    }

    pub(crate) fn set_space_error(&self, directory: DirectoryNo, error: Option<Error>) {
        let mut errors = self.space_errors();
        match error {
            Some(error) => errors.insert(directory, error),
            None => errors.remove(&directory),
        };
    }

    /// Why a directory has no room for its journal, if one has none.
    pub(crate) fn space_error(&self) -> Option<Error> {
        self.space_errors().values().next().cloned()
    }

    fn space_errors(&self) -> MutexGuard<'_, BTreeMap<DirectoryNo, Error>> {
        self.space_errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything up to here is forced.
    pub(crate) fn durable(&self) -> Lsn {
        // What is visible is written everywhere. Whatever is forced is looked at behind that.
        let visible = self.visible.load();
        self.forced.durable(visible)
    }

    /// Calls the fault hook, which may panic.
    pub(crate) fn fault(&self, site: FaultSite<'_>) {
        if let Some(hook) = &self.fault_hook {
            hook(&site);
        }
    }

    /// Runs `handler` between two calls of the fault hook. For actors and threads of which there is one.
    pub(crate) fn between_faults<T>(
        &self,
        actor: &str,
        message: &str,
        handler: impl FnOnce() -> T,
    ) -> T {
        let site = |handled| FaultSite {
            actor,
            node: None,
            message,
            handled,
        };
        self.fault(site(false));
        let outcome = handler();
        self.fault(site(true));
        outcome
    }

    /// Wakes whoever waits for time or for memory.
    pub(crate) fn tick(&self) {
        self.now_ms.store(wall_clock_ms(), Ordering::Relaxed);
        let Some(addresses) = self.addresses.get() else {
            return;
        };
        if self.journal_tick.claim() {
            addresses.journal.do_send(Tick);
        }
        if self.checkpoint_tick.claim() {
            addresses.checkpointer.do_send(Tick);
        }
        if self.locks.is_due(self.clock.now()) && self.lock_tick.claim() {
            addresses.lock_manager.do_send(Tick);
        }
        if self.motion_due.claim(self.clock.now()) {
            addresses.router.do_send(Tick);
        }
        if self.coordinator_running.load(Ordering::Relaxed) > 0 && self.coordinator_tick.claim() {
            addresses.coordinator.do_send(Tick);
        }
        for member in self.routes.load().nodes() {
            let ticks = &member.ticks;
            if ticks.is_wanted.load(Ordering::Relaxed) && ticks.slot.claim() {
                member.address().do_send(Tick);
            }
        }
        self.budget.tick();
    }

    /// Wakes whoever waits for an answer, so that he can look at his deadline. Whoever should answer may be held up by a
    /// disk that hangs, so this is no business of his.
    pub(crate) fn wake_overdue(&self) {
        for member in self.routes.load().nodes() {
            member.queue.wake_overdue();
        }
        self.coordinator_queue.wake_overdue();
        self.journal_overdue.notify_waiters();
    }

    /// Parts of transactions that the nodes have prepared now.
    pub(crate) fn prepared(&self) -> usize {
        self.sum(|member| member.ticks.prepared.load(Ordering::Relaxed))
    }

    /// Requests that wait behind transactions.
    pub(crate) fn parked(&self) -> usize {
        self.sum(|member| member.ticks.parked.load(Ordering::Relaxed))
    }

    /// Weight of the generations that take writes.
    pub(crate) fn active_bytes(&self) -> u64 {
        self.sum(|member| member.table.view().active.bytes() as u64)
    }

    /// The sum of a figure over all nodes.
    fn sum<T: std::iter::Sum>(&self, figure: impl FnMut(&Arc<Member>) -> T) -> T {
        self.routes.load().nodes().iter().map(figure).sum()
    }

    pub(crate) fn publish_gauges(&self) {
        self.telemetry.publish_gauges(self);
    }
}
