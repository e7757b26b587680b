//! What a crash takes: machines, mailboxes, caches. And how an engine is opened again from what is left.

use crate::{
    disks::{Directory, SEGMENT_BYTES},
    groups::Groups,
    model::Model,
    mutation::Mutation,
    network::Network,
    pin::Member,
    recovery::{Recovered, recover},
    scale::Scale,
    shell::{CoordinatorShell, LockShell, MoverShell, NodeShell, RouterShell},
    store::SimulatedStore,
    watch::Watcher,
    workload::SpaceRequest,
};
use bytes::Bytes;
use mailring_engine::{
    Result,
    cache::RowCache,
    checkpoint::Checkpoint,
    directories::{Placement, Voids},
    ids::{DirectoryNo, Epoch, KeyspaceId, Lsn, NodeId, RequestId, Time},
    journal::{Journal, SpareRequest, frame_bytes},
    manifest::Manifest,
    motion::Motion,
    open_keyspaces::{OpenKeyspace, OpenKeyspaces},
    participant::{Participant, TreeSource},
    rebuild::Opened,
    replay::Replay,
    restart::Restarts,
    ring_state::FIRST_LIFE,
    routes::Routes,
    sequencer::{JournalState, Sequencer, SequencerOptions, SequencerState},
    store::Store,
    view::{NodeTable, Visible},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A running engine.
pub(crate) struct Process {
    pub(crate) visible: Arc<Visible>,
    pub(crate) cache: Arc<RowCache>,
    /// By node number, those that have left included; so are the nodes and their restarts.
    pub(crate) tables: Vec<Arc<NodeTable>>,
    pub(crate) routes: Arc<Routes<Member>>,
    /// What the directory was found to be.
    pub(crate) opened: Opened,
    /// Up to where the thread that writes runs has written a node's tree, where it has.
    pub(crate) written: BTreeMap<NodeId, Lsn>,
    pub(crate) router: RouterShell,
    pub(crate) mover: MoverShell,
    pub(crate) nodes: Vec<NodeShell>,
    pub(crate) restarts: Vec<Restarts>,
    pub(crate) sequencer: Sequencer,
    pub(crate) coordinator: CoordinatorShell,
    pub(crate) locks: LockShell,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) checkpoint_restarts: Restarts,
    pub(crate) checkpointer_is_dead: bool,
    /// By directory; gone once they were closed in order.
    pub(crate) journals: Vec<Journal>,
    /// In which directory each node lives, and the LSNs that never happened.
    pub(crate) placement: Placement,
    pub(crate) voids: Arc<Voids>,
    pub(crate) manifest: Manifest,
    pub(crate) network: Network,
    pub(crate) cut_scheduled: bool,
    pub(crate) preparing: BTreeMap<DirectoryNo, SpareRequest>,
    pub(crate) read_only: bool,
    /// The journal's actor has panicked: it does nothing any more.
    pub(crate) journal_is_dead: bool,
    pub(crate) keyspace_requests: BTreeMap<RequestId, SpaceRequest>,
    pub(crate) open_keyspaces: OpenKeyspaces,
    /// Handles that clients have, also of what was dropped since.
    pub(crate) spaces: Vec<Arc<OpenKeyspace>>,
    /// Keyspaces whose keys no tree shows any more.
    pub(crate) hidden: BTreeSet<KeyspaceId>,
    pub(crate) checkpoint_requests: BTreeSet<RequestId>,
    pub(crate) outcome_requests: BTreeMap<RequestId, Question>,
    pub(crate) watcher: Option<Watcher>,
    /// The last LSN that had happened when it was opened: up to there everything is proven to be forced.
    pub(crate) opened_at: Lsn,
    /// Before the first LSN of which the last crash has taken what was given it; the last of all if it has taken nothing.
    pub(crate) kept: Lsn,
    pub(crate) groups: Groups,
}

/// What a handle has asked the journal.
#[derive(Debug)]
pub(crate) enum Question {
    /// What became of the transaction of this number.
    Of(u64),
    /// Whether anything was committed under this idempotency key.
    Under(Bytes),
}

fn journal_state(journal: &Journal) -> JournalState {
    JournalState {
        last_group: journal.last_group(),
        room: journal.room(),
    }
}

impl Process {
    /// Opens the directory as the shell does, and checks every record that is read back.
    pub(crate) fn open(
        directory: &Directory,
        model: &mut Model,
        scale: Scale,
        mutation: Option<Mutation>,
    ) -> Result<Self> {
        let recovered = recover(&directory.disks, scale, mutation)?;
        recovered.check_records(model);
        let ended_at = recovered.ended_at();
        let Recovered {
            manifest,
            replay,
            journals,
            last,
            old_leases,
            ..
        } = recovered;
        let listed = manifest.directories.clone().unwrap_or_default();
        let placement = match manifest.directories {
            Some(_) => listed.placement(),
            None => Placement::default(),
        };
        // One more may be left over from a beginning that was cut short.
        let stores = &directory.stores[..replay.nodes.len()];
        for (number, store) in (0..).zip(stores) {
            if !replay.ring.is_live(NodeId(number)) {
                // It has left, and nobody reads it any more.
                store.clear();
            }
        }
        replay.hide_dropped(stores.iter().map(|store| &**store as &dyn Store))?;
        let hidden = replay.dropped().collect();
        let Replay {
            keyspaces,
            outcomes,
            ring,
            nodes,
            ..
        } = replay;
        let kept = model.truncate(ended_at, last, scale.forces);
        let complete: Vec<_> = nodes.iter().map(|node| node.complete).collect();
        let incarnations: Vec<_> = nodes.iter().map(|node| node.incarnation).collect();
        let visible = Arc::new(Visible::new(last));
        let cache = Arc::new(RowCache::new(4_000, 7));
        let tables = (0..).map(NodeId).zip(nodes).zip(stores);
        let tables: Vec<Arc<NodeTable>> = tables
            .map(|((number, node), store)| Arc::new(node.table(number, store.view(), last)))
            .collect();
        let nodes = tables.iter().zip(&incarnations).zip(stores);
        let nodes = nodes.map(|((table, incarnation), store)| {
            let store = Arc::clone(store);
            NodeShell::new(Participant::new(
                *incarnation,
                ring.owned_since(table.node()),
                Arc::clone(table),
                Arc::clone(&cache),
                TreeSource(Box::new(move || store.view())),
                last,
                scale.participant(),
            ))
        });
        let nodes: Vec<_> = nodes.collect();
        let members = tables.iter().filter(|table| ring.is_live(table.node()));
        let members = members.map(|table| Member::new(Arc::clone(table)));
        let routes = Routes::new(Arc::new(ring.clone()), members.collect());
        let opened = Opened {
            last_lsn: last,
            ring: Arc::clone(routes.ring()),
        };
        let owners = model.ownership.at(last);
        assert_eq!(
            ring.ring().owners(),
            &owners[..],
            "the ring came back changed"
        );
        let mut network = Network::default();
        if scale.hurries_motion {
            network.hurry_motion();
        }
        let trees = (0..).map(NodeId).zip(complete.iter().copied());
        let motion = Motion::new(scale.motion(), ring.clone(), Time(1)).with_complete(trees);
        let policy = scale.restarts();
        let restarts = || Restarts::new(policy).expect("these settings work");
        let sequencer = Sequencer::new(
            SequencerOptions {
                force: scale.forces,
                max_group_bytes: 20_000,
                segment_bytes: SEGMENT_BYTES - frame_bytes(0) - 4096,
            },
            SequencerState {
                last_lsn: last,
                journals: journals.iter().map(journal_state).collect(),
                placement: placement.clone(),
                incarnations,
                keyspaces,
                outcomes,
                ring,
            },
        );
        Ok(Self {
            visible,
            cache,
            tables,
            routes: Arc::new(routes),
            opened,
            written: BTreeMap::new(),
            router: RouterShell::new(motion),
            mover: MoverShell::default(),
            restarts: nodes.iter().map(|_| restarts()).collect(),
            nodes,
            sequencer,
            locks: LockShell::new(
                scale,
                manifest.openings,
                Time(1).after(old_leases),
                restarts(),
            ),
            coordinator: CoordinatorShell::new(scale.coordinator(), restarts()),
            checkpoint: Checkpoint::new(3_000, complete),
            checkpoint_restarts: restarts(),
            checkpointer_is_dead: false,
            groups: Groups::new(journals.len()),
            journals,
            placement,
            voids: Arc::new(listed.voids),
            manifest,
            network,
            cut_scheduled: false,
            preparing: BTreeMap::new(),
            read_only: false,
            journal_is_dead: false,
            keyspace_requests: BTreeMap::new(),
            open_keyspaces: OpenKeyspaces::default(),
            spaces: Vec::new(),
            hidden,
            checkpoint_requests: BTreeSet::new(),
            outcome_requests: BTreeMap::new(),
            watcher: None,
            opened_at: ended_at,
            kept: kept.unwrap_or(Lsn(u64::MAX)),
        })
    }

    /// A node joins, with an empty store.
    pub(crate) fn join(
        &mut self,
        table: Arc<NodeTable>,
        store: Arc<SimulatedStore>,
        owned_since: Epoch,
        last: Lsn,
        scale: Scale,
    ) {
        let number = usize::from(table.node().0);
        assert!(number <= self.nodes.len(), "nodes join in order");
        // One that the journal has never known may have been there.
        self.tables.truncate(number);
        self.nodes.truncate(number);
        self.restarts.truncate(number);
        self.nodes.push(NodeShell::new(Participant::new(
            FIRST_LIFE,
            owned_since,
            Arc::clone(&table),
            Arc::clone(&self.cache),
            TreeSource(Box::new(move || store.view())),
            last,
            scale.participant(),
        )));
        self.tables.push(table);
        let restarts = Restarts::new(scale.restarts());
        self.restarts.push(restarts.expect("these settings work"));
    }

    /// Whether a node was given up that takes part.
    pub(crate) fn is_any_down(&self) -> bool {
        let mut members = self.routes.nodes().iter();
        members.any(|member| member.table.is_down())
    }

    /// The numbers of the directories.
    pub(crate) fn directories(&self) -> impl Iterator<Item = DirectoryNo> + use<> {
        (0..self.placement.directories() as u8).map(DirectoryNo)
    }

    /// Everything up to here is forced, wherever it is.
    pub(crate) fn forced(&self, model: &Model) -> Lsn {
        let journals = self.journals.iter();
        self.groups
            .forced(journals.map(Journal::forced_group), model.reached())
    }

    /// The numbers of the nodes that are open.
    pub(crate) fn open_nodes(&self) -> impl Iterator<Item = u16> {
        let members = self.routes.nodes().iter();
        members.map(|member| member.table.node().0)
    }

    /// Whether the routes name a node.
    pub(crate) fn is_open(&self, node: NodeId) -> bool {
        self.routes.member(node).is_some()
    }
}
