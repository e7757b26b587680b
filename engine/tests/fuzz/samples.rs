//! Valid encodings to begin with, as the engine writes them.

use crate::checks::{Frame, Tree, segment_header};
use bytes::Bytes;
use mailring_engine::{
    directories::{
        Directories, DirectorySet, IDENTITY_FILE, Identity, ListedDirectory, Stamp, Voids,
    },
    disk::{Disk, MemoryDisk},
    ids::{DirectoryNo, Epoch, GroupNo, Incarnation, KeyspaceId, Lsn, NodeId, TxnId},
    journal::record::{self, CommitPart, Record, RecordBody, Spread, TxnTag},
    manifest::{KeyspaceName, MANIFEST_FILE, Manifest, NodeProgress, NodeSettings},
    outcomes::SavedOutcomes,
    ring::ArcMove,
    ring_state::{Change, RingRecord},
    store::{
        StoreFactory,
        lsm::{Layout, LsmFactory, LsmOptions},
    },
    value::{Value, Write},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{sync::Arc, time::Duration};

fn write(key: &[u8], value: Option<(&[u8], u64)>) -> Write {
    Write::new(KeyspaceId(7), key, value)
}

fn part(node: u16, writes: &[Write]) -> CommitPart {
    CommitPart {
        node: NodeId(node),
        incarnation: Incarnation(300),
        writes: writes.to_vec(),
    }
}

fn bodies() -> Vec<RecordBody> {
    let writes = [
        write(b"removed", None),
        write(b"kept", Some((b"a value", 0))),
        write(b"expiring", Some((&[7; 300], 1_700_000_000_000))),
    ];
    let txn = |idempotency| TxnTag {
        id: TxnId::new(3, 500).expect("not 0"),
        idempotency,
    };
    let parts = vec![part(0, &writes), part(2, &writes[..1])];
    vec![
        RecordBody::Commit {
            txn: None,
            parts: vec![part(1, &writes)],
        },
        RecordBody::Commit {
            txn: None,
            parts: parts.clone(),
        },
        RecordBody::Commit {
            txn: Some(txn(None)),
            parts: parts.clone(),
        },
        RecordBody::Commit {
            txn: Some(txn(Some(Bytes::from_static(b"key")))),
            parts,
        },
        RecordBody::CreateKeyspace {
            id: KeyspaceId(9),
            name: "users ü".into(),
        },
        RecordBody::DropKeyspace { id: KeyspaceId(9) },
        RecordBody::Fence {
            node: NodeId(2),
            incarnation: Incarnation(5),
        },
    ]
}

/// What the journal says of the ring.
fn ring_bodies() -> Vec<RecordBody> {
    let members = vec![(NodeId(0), 1), (NodeId(3), 200)];
    let moves = [2, 3, 900].map(|arc| ArcMove {
        arc,
        from: NodeId(0),
        to: NodeId(3),
    });
    let began = Change {
        number: 4,
        members: members.clone(),
        moves: moves.to_vec(),
    };
    let (change, from) = (4, NodeId(0));
    let records = [
        RingRecord::Began(began.into()),
        RingRecord::Cut { change, from },
        RingRecord::Cleaned { change, from },
        RingRecord::Ended { change, members },
    ];
    records.map(RecordBody::Ring).into()
}

/// Parts of records that are in several directories.
fn spread_bodies() -> Vec<RecordBody> {
    let stamp = Stamp {
        durable: Lsn(2),
        forced: vec![GroupNo(300), GroupNo(2)],
    };
    let spread = |body: RecordBody| RecordBody::Spread {
        spread: Spread {
            directories: DirectorySet::from_bits(6).expect("not empty"),
            stamp: Some(stamp.clone()),
        },
        body: Box::new(body),
    };
    bodies().into_iter().map(spread).collect()
}

/// Each kind of record alone, and all of them in one group.
pub(crate) fn records() -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    let mut all = Vec::new();
    let bodies = bodies().into_iter().chain(ring_bodies());
    let bodies = bodies.chain(spread_bodies());
    for (lsn, body) in (1..).zip(bodies) {
        let record = Record {
            lsn: Lsn(lsn),
            body,
        };
        let mut one = Vec::new();
        record::encode(&record, &mut one);
        all.extend(&one);
        samples.push(one);
    }
    samples.push(all);
    samples
}

pub(crate) fn values() -> Vec<Vec<u8>> {
    let bytes = Bytes::from_static(b"some bytes of a value");
    [0, 1, 1 << 40, u64::MAX]
        .map(|expires_at_ms| {
            let bytes = bytes.clone();
            Value {
                bytes,
                expires_at_ms,
            }
            .encode()
            .to_vec()
        })
        .to_vec()
}

fn manifest() -> Manifest {
    let nodes = [0, 1, 2].map(|node| NodeSettings {
        node: NodeId(node),
        weight: 100 + u32::from(node),
    });
    let progress = [0, 1, 2].map(|node| NodeProgress {
        node: NodeId(node),
        complete: Lsn(1 << (10 * node)),
        incarnation: Incarnation(4),
    });
    let committed = |lsn, key: Option<&'static [u8]>| {
        let id = TxnId::new(5, lsn).expect("not 0");
        let idempotency = key.map(Bytes::from_static);
        (Lsn(lsn), TxnTag { id, idempotency })
    };
    Manifest {
        arc_bits: 4,
        nodes: nodes.to_vec(),
        epoch: Epoch(2),
        arcs: Some((0..16).map(|arc| NodeId(arc % 3)).collect()),
        keyspaces: vec![
            KeyspaceName {
                id: KeyspaceId(1),
                name: "users".into(),
            },
            KeyspaceName {
                id: KeyspaceId(4),
                name: "Bücher".into(),
            },
        ],
        next_keyspace: KeyspaceId(6),
        progress: progress.to_vec(),
        last_lsn: Lsn(1 << 33),
        openings: 6,
        longest_lease: Duration::from_secs(30),
        outcomes: SavedOutcomes {
            forgotten: TxnId::new(4, 9),
            committed: [committed(70, None), committed(1 << 30, Some(b"once"))].into(),
        },
        history: None,
        trees: [(NodeId(0), 9), (NodeId(2), 1)].into(),
        directories: None,
        clean_shutdown: true,
    }
}

fn directories() -> Directories {
    let listed = ["", "/mnt/second"].map(|path| ListedDirectory {
        path: path.to_owned(),
        is_made: true,
    });
    let voids = vec![(Lsn(3), Lsn(5)), (Lsn(300), Lsn(1 << 30))];
    Directories {
        known_opening: 2,
        engine: 77,
        listed: listed.into(),
        placement: vec![DirectoryNo(1), DirectoryNo(0)],
        voids: Voids::new(voids).expect("in order"),
        stamp: Stamp {
            durable: Lsn(1 << 20),
            forced: vec![GroupNo(9), GroupNo(1 << 20)],
        },
    }
}

fn saved(manifest: &Manifest) -> Vec<u8> {
    let disk = MemoryDisk::new();
    manifest.save(&disk).expect("saves");
    let file = disk.open(MANIFEST_FILE).expect("opens");
    let mut bytes = vec![0; usize::try_from(file.len().expect("has a length")).expect("small")];
    file.read_at(&mut bytes, 0).expect("reads");
    bytes
}

/// Without a valid checksum few mutations are taken: here the one that changes nothing that is read.
pub(crate) fn manifests() -> Vec<Vec<u8>> {
    let fresh = Manifest {
        arcs: None,
        outcomes: SavedOutcomes::default(),
        ..manifest()
    };
    let several = Manifest {
        directories: Some(directories()),
        ..manifest()
    };
    vec![saved(&manifest()), saved(&fresh), saved(&several)]
}

pub(crate) fn identities() -> Vec<Vec<u8>> {
    let disk = MemoryDisk::new();
    let identity = Identity {
        engine: 7 << 60,
        number: DirectoryNo(5),
    };
    identity.save(&disk, 300).expect("saves");
    let file = disk.open(IDENTITY_FILE).expect("opens");
    let mut bytes = vec![0; usize::try_from(file.len().expect("has a length")).expect("small")];
    file.read_at(&mut bytes, 0).expect("reads");
    vec![bytes]
}

pub(crate) fn sections() -> Vec<Vec<u8>> {
    let mut samples = manifests();
    for sample in &mut samples {
        sample.drain(..24);
    }
    samples
}

/// A segment with three groups, torn behind the last, and one that is sealed.
pub(crate) fn segments() -> Vec<Vec<u8>> {
    let mut open = segment_header(1, 5, 0, 0);
    for number in 1..=3 {
        let mut payload = Vec::new();
        for (index, body) in (0..).zip(bodies()) {
            let lsn = Lsn((number - 1) * 7 + 1 + index);
            record::encode(&Record { lsn, body }, &mut payload);
        }
        let frame = Frame {
            number,
            first_lsn: (number - 1) * 7 + 1,
            last_lsn: number * 7,
            forced_through: number - 1,
            payload,
        };
        open.extend(frame.encode(5, frame.payload.len() as u32));
    }
    let seal = Frame {
        number: 4,
        first_lsn: 22,
        last_lsn: 21,
        forced_through: 3,
        payload: Vec::new(),
    };
    let mut sealed = open.clone();
    sealed.extend(seal.encode(5, 0));
    sealed.resize(sealed.len().next_multiple_of(4096), 0);
    open.extend([0x55; 100]);
    vec![open, sealed]
}

/// Scripts of journals: see [`crate::checks::journal`]. Whole ones, and some whose end is cut.
pub(crate) fn journals() -> Vec<Vec<u8>> {
    vec![
        vec![0, 3, 6, 1],
        vec![2, 7, 1, 7, 0, 5],
        vec![6, 6, 7, 7, 4],
        vec![1, 4, 7, 2, 10, 3, 0],
        vec![1, 4, 7, 2, 11, 9],
        vec![3, 3, 12, 40, 15],
    ]
}

/// A tree in each layout and way of reading: two runs that overlap, one of them compacted, in blocks of a few keys.
pub(crate) fn trees() -> Vec<Tree> {
    [(1, 1 << 20), (3, 1 << 20), (3, 0)]
        .map(|(restart_interval, allowance)| {
            let layout = Layout {
                block_bytes: 256,
                restart_interval,
                ..Layout::default()
            };
            let options = LsmOptions::new(0, 16)
                .layout(layout)
                .hold_indexes(allowance, Arc::default());
            let folder = tempfile::tempdir().expect("creates");
            let mut rng = StdRng::seed_from_u64(1);
            {
                let store = LsmFactory::new(options.clone());
                let store = store.open(NodeId(3), folder.path()).expect("opens");
                for round in 0..3 {
                    let mut run = (0..60_u8).filter(|key| key % 3 != round).map(|key| {
                        let value: [u8; 20] = rng.random();
                        let value = Value::new(Bytes::copy_from_slice(&value)).encode();
                        let is_removed = round == 2 && key % 5 == 0;
                        let key = Bytes::copy_from_slice(&[0, 0, 0, 1, b'k', key]);
                        (key, (!is_removed).then_some(value))
                    });
                    store.ingest(&mut run).expect("ingests");
                    if round == 1 {
                        store.maintain().expect("maintains");
                        store.maintain().expect("maintains");
                    }
                }
            }
            Tree::read(options, folder.path())
        })
        .into()
}
