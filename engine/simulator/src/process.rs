//! What a crash takes: machines, mailboxes, caches. And how an engine is opened again from what is left.

use crate::{
    keys::{MAIN, arc_bits},
    model::Model,
    network::Network,
    pin::Member,
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
    directories::Placement,
    disk::{Disk, SimulatedDisk},
    ids::{Epoch, Incarnation, KeyspaceId, Lsn, NodeId, RequestId, Time},
    journal::{Journal, JournalOptions, SpareRequest, frame_bytes, record::Record},
    keyspaces::Keyspaces,
    manifest::{KeyspaceName, Manifest, NodeProgress, NodeSettings},
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
    time::Duration,
};

const SEGMENT_BYTES: u64 = 48 << 10;

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
    /// Gone once the directory was closed in order, or the journal's thread has panicked.
    pub(crate) journal: Option<Journal>,
    pub(crate) manifest: Manifest,
    pub(crate) network: Network,
    pub(crate) cut_scheduled: bool,
    pub(crate) preparing: Option<SpareRequest>,
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
    /// Where the journal ended when it was opened: up to there everything is proven to be forced.
    pub(crate) opened_at: Lsn,
    pub(crate) proofs: Vec<Proof>,
}

/// What a handle has asked the journal.
#[derive(Debug)]
pub(crate) enum Question {
    /// What became of the transaction of this number.
    Of(u64),
    /// Whether anything was committed under this idempotency key.
    Under(Bytes),
}

/// What a group's frame says of those before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proof {
    /// Its first LSN.
    pub(crate) first: Lsn,
    /// Up to here everything was known to be forced when it was written.
    pub(crate) forced: Lsn,
}

/// What lies in the directory.
pub(crate) struct Directory {
    pub(crate) disk: SimulatedDisk,
    pub(crate) stores: Vec<Arc<SimulatedStore>>,
}

/// The keyspaces of a new directory.
pub(crate) fn base_keyspaces() -> Keyspaces {
    let mut keyspaces = Keyspaces::new();
    keyspaces.install_create(MAIN, "main").expect("fits");
    keyspaces
}

fn journal_options(salt: u64) -> JournalOptions {
    JournalOptions {
        segment_bytes: SEGMENT_BYTES,
        salt,
        ..JournalOptions::default()
    }
}

impl Directory {
    /// A new directory with `nodes` nodes.
    pub(crate) fn create(nodes: u16, stores: Vec<Arc<SimulatedStore>>) -> Self {
        let disk = SimulatedDisk::new();
        let nodes = (0..nodes).map(NodeId);
        let manifest = Manifest {
            arc_bits: arc_bits(),
            nodes: nodes
                .clone()
                .map(|node| NodeSettings { node, weight: 1 })
                .collect(),
            progress: nodes
                .map(|node| NodeProgress {
                    node,
                    complete: Lsn(0),
                    incarnation: Incarnation(0),
                })
                .collect(),
            keyspaces: vec![KeyspaceName {
                id: MAIN,
                name: "main".into(),
            }],
            next_keyspace: KeyspaceId(2),
            ..Manifest::default()
        };
        Journal::create(Arc::new(disk.clone()), journal_options(0), Lsn(0))
            .expect("nothing fails yet");
        manifest.save(&disk).expect("nothing fails yet");
        Self { disk, stores }
    }

    /// Bytes of the journal's segments.
    pub(crate) fn segment_bytes() -> u64 {
        SEGMENT_BYTES
    }
}

/// What the journal and the manifest say, before anybody runs.
struct Recovered {
    manifest: Manifest,
    replay: Replay,
    journal: Journal,
    records: Vec<Record>,
    last: Lsn,
    /// How long leases of an earlier opening may go on.
    old_leases: Duration,
}

fn recover(disk: &SimulatedDisk, scale: Scale) -> Result<Recovered> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut manifest = Manifest::load(disk)?.expect("a manifest was saved");
    let old_leases = manifest.begin_opening(scale.locks().max_lease);
    manifest.save(disk)?;
    let mut replay = Replay::new(&manifest, disk, scale.outcomes(), Arc::default())?;
    let mut records = Vec::new();
    let after = replay.after();
    let mut visit = |record: Record| {
        records.push(record.clone());
        replay.visit(record)
    };
    let options = journal_options(manifest.openings);
    let (journal, recovery) = Journal::open(shared, options, after, &mut visit)?;
    Ok(Recovered {
        manifest,
        replay,
        journal,
        records,
        last: recovery.last_lsn,
        old_leases,
    })
}

/// Opens a directory only to see what is in it: the last LSN.
///
/// Every record must be the one that the log has at its LSN.
pub(crate) fn look_into(disk: &SimulatedDisk, model: &Model, scale: Scale) -> Result<Lsn> {
    let recovered = recover(disk, scale)?;
    check_records(&recovered.records, model);
    Ok(recovered.last)
}

fn check_records(records: &[Record], model: &Model) {
    for record in records {
        let known = model.log.get(&record.lsn);
        let known = known.unwrap_or_else(|| panic!("LSN {} came from nowhere", record.lsn));
        assert_eq!(*known, record.body, "LSN {} came back changed", record.lsn);
    }
}

impl Process {
    /// Opens the directory as the shell does, and checks every record that is read back.
    pub(crate) fn open(directory: &Directory, model: &mut Model, scale: Scale) -> Result<Self> {
        let Recovered {
            manifest,
            replay,
            journal,
            records,
            last,
            old_leases,
        } = recover(&directory.disk, scale)?;
        check_records(&records, model);
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
        model.truncate(last, scale.forces);
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
                journals: vec![JournalState {
                    last_group: journal.last_group(),
                    room: journal.room(),
                }],
                placement: Placement::default(),
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
            journal: Some(journal),
            manifest,
            network,
            cut_scheduled: false,
            preparing: None,
            read_only: false,
            journal_is_dead: false,
            keyspace_requests: BTreeMap::new(),
            open_keyspaces: OpenKeyspaces::default(),
            spaces: Vec::new(),
            hidden,
            checkpoint_requests: BTreeSet::new(),
            outcome_requests: BTreeMap::new(),
            watcher: None,
            opened_at: last,
            proofs: Vec::new(),
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
