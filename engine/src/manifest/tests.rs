//! What is written reads back, and whatever is damaged is named.

use super::{
    sections::{OPTIONAL, RING, put_section},
    *,
};
use crate::{
    directories::{ListedDirectory, Stamp, Voids},
    disk::{MemoryDisk, SimulatedDisk, Survivors},
    ids::{DirectoryNo, GroupNo, TxnId},
    journal::record::TxnTag,
    ring_state::{Change, RingRecord},
    wire::put_varint,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

fn sample() -> Manifest {
    Manifest {
        arc_bits: 3,
        nodes: vec![
            NodeSettings {
                node: NodeId(0),
                weight: 100,
            },
            NodeSettings {
                node: NodeId(4),
                weight: 300,
            },
        ],
        epoch: Epoch(9),
        arcs: Some([0, 4, 4, 4, 0, 4, 4, 4].map(NodeId).to_vec()),
        keyspaces: vec![KeyspaceName {
            id: KeyspaceId(1),
            name: "users ü".into(),
        }],
        next_keyspace: KeyspaceId(3),
        progress: vec![
            NodeProgress {
                node: NodeId(0),
                complete: Lsn(900),
                incarnation: Incarnation(2),
            },
            NodeProgress {
                node: NodeId(4),
                complete: Lsn(1 << 40),
                incarnation: Incarnation(1),
            },
        ],
        last_lsn: Lsn(1 << 41),
        openings: 12,
        longest_lease: Duration::from_secs(30),
        outcomes: SavedOutcomes {
            forgotten: TxnId::new(11, 70),
            committed: Arc::new([
                (Lsn(1 << 40), tag(71, None)),
                (Lsn(1 << 41), tag(72, Some("key"))),
            ]),
        },
        history: None,
        directories: None,
        clean_shutdown: true,
        trees: BTreeMap::from([(NodeId(0), 7), (NodeId(4), 1 << 40)]),
    }
}

/// An engine with two directories, one of which is being made.
fn several() -> Manifest {
    let listed = [("/mnt/a", true), ("/mnt/ü", false)].map(|(path, is_made)| ListedDirectory {
        path: path.to_owned(),
        is_made,
    });
    let voids = vec![(Lsn(3), Lsn(5)), (Lsn(1 << 30), Lsn(1 << 31))];
    let directories = Directories {
        engine: 0x0123_4567_89ab_cdef,
        known_opening: 300,
        listed: listed.into(),
        placement: vec![DirectoryNo(1), DirectoryNo(0)],
        voids: Voids::new(voids).expect("they are in order"),
        stamp: Stamp {
            durable: Lsn(1 << 41),
            forced: vec![GroupNo(700), GroupNo(0)],
        },
    };
    Manifest {
        directories: Some(directories),
        ..sample()
    }
}

/// Two nodes, as a directory begins.
fn settled() -> Manifest {
    let nodes = [0, 1].map(NodeId);
    Manifest {
        arc_bits: 8,
        nodes: nodes.map(|node| NodeSettings { node, weight: 1 }).into(),
        progress: nodes.map(|node| progress(node, 3)).into(),
        next_keyspace: KeyspaceId(1),
        last_lsn: Lsn(3),
        ..Manifest::default()
    }
}

fn progress(node: NodeId, complete: u64) -> NodeProgress {
    NodeProgress {
        node,
        complete: Lsn(complete),
        incarnation: Incarnation(1),
    }
}

fn catalogue(ring: RingState) -> Catalogue {
    Catalogue {
        keyspaces: Keyspaces::new(),
        incarnations: vec![Incarnation(1); ring.slots().len()],
        outcomes: SavedOutcomes::default(),
        ring,
    }
}

/// A change that brings a third node is under way: it began at LSN 5, and the first node's arcs were cut at 6.
fn in_motion() -> RingState {
    let mut state = settled().ring(&MemoryDisk::new()).expect("it fits");
    let (ring, moves) = state
        .ring()
        .with_node_added(NodeId(2), 1)
        .expect("it works");
    let change = Change {
        number: 1,
        members: ring.nodes().to_vec(),
        moves,
    };
    let cut = RingRecord::Cut {
        change: 1,
        from: NodeId(0),
    };
    let began = RingRecord::Began(change.into());
    state.apply(Lsn(5), &began).expect("it fits");
    state.apply(Lsn(6), &cut).expect("it fits");
    state
}

#[test]
fn a_ring_that_has_never_changed_leaves_no_trace_in_a_manifest() {
    let mut manifest = settled();
    let state = manifest.ring(&MemoryDisk::new()).expect("it fits");
    manifest.record_checkpoint([(NodeId(0), Lsn(3))], Lsn(3), &catalogue(state));
    assert_eq!(manifest.encode(), settled().encode());
}

#[test]
fn a_change_that_is_under_way_reads_back_with_the_nodes_that_have_joined() {
    let disk = MemoryDisk::new();
    let mut manifest = settled();
    let complete = [(NodeId(1), Lsn(9)), (NodeId(7), Lsn(9))];
    manifest.record_checkpoint(complete, Lsn(7), &catalogue(in_motion()));
    manifest.save(&disk).expect("memory takes it");
    let read = Manifest::load(&disk)
        .expect("it reads")
        .expect("it is there");
    assert_eq!(read, manifest);
    assert_eq!(read.ring(&disk), Ok(in_motion()));
    let expected = [(0, 3), (1, 9), (2, 5)].map(|(node, lsn)| progress(NodeId(node), lsn));
    assert_eq!(read.progress, expected, "who joined has nothing older");
}

#[test]
fn a_ring_that_its_nodes_or_its_history_contradict_is_corrupt() {
    let disk = MemoryDisk::new();
    let mut moving = settled();
    moving.record_checkpoint([], Lsn(7), &catalogue(in_motion()));
    let spoil = |spoil: &dyn Fn(&mut Manifest)| {
        let mut manifest = moving.clone();
        spoil(&mut manifest);
        manifest
    };
    let spoiled = [
        spoil(&|manifest| manifest.history = Some(RingHistory::default())),
        spoil(&|manifest| manifest.arcs = None),
        spoil(&|manifest| manifest.nodes.truncate(2)),
        spoil(&|manifest| manifest.epoch = Epoch(1)),
        spoil(&|manifest| manifest.epoch = Epoch(u64::MAX)),
        spoil(&|manifest| manifest.progress.truncate(2)),
        spoil(&|manifest| manifest.progress.swap(0, 1)),
        spoil(&|manifest| manifest.nodes.clear()),
        spoil(&|manifest| manifest.arc_bits = 9),
    ];
    for (number, manifest) in spoiled.iter().enumerate() {
        let ring = manifest.ring(&disk);
        let is_found = matches!(ring, Err(Error::CorruptManifest { .. }));
        assert!(is_found, "{number}: {ring:?}");
    }
}

fn tag(number: u64, key: Option<&'static str>) -> TxnTag {
    TxnTag {
        id: TxnId::new(12, number).expect("not 0"),
        idempotency: key.map(|key| Bytes::from_static(key.as_bytes())),
    }
}

fn load(bytes: &[u8]) -> Result<Option<Manifest>> {
    let disk = MemoryDisk::new();
    disk.replace(MANIFEST_FILE, bytes).expect("memory takes it");
    Manifest::load(&disk)
}

#[test]
fn a_manifest_reads_back() {
    let disk = MemoryDisk::new();
    assert_eq!(Manifest::load(&disk), Ok(None));
    for manifest in [
        sample(),
        Manifest::default(),
        Manifest {
            arcs: None,
            ..sample()
        },
        Manifest {
            history: Some(in_motion().history().clone()),
            ..sample()
        },
        several(),
    ] {
        manifest.save(&disk).expect("memory takes it");
        assert_eq!(Manifest::load(&disk), Ok(Some(manifest)));
    }
}

#[test]
fn a_manifest_with_any_bit_flipped_or_cut_anywhere_is_corrupt() {
    let bytes = several().encode();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let outcome = load(&damaged);
            assert!(
                matches!(outcome, Err(Error::CorruptManifest { .. })),
                "{outcome:?} at {at}"
            );
        }
        let outcome = load(&bytes[..at]);
        assert!(
            matches!(outcome, Err(Error::CorruptManifest { .. })),
            "{outcome:?} at {at}"
        );
    }
}

#[test]
fn damage_under_a_right_checksum_is_still_no_panic() {
    let sections = several().encode().split_off(HEADER_BYTES);
    for at in 0..sections.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut damaged = sections.clone();
            damaged[at] = byte;
            for sections in [&damaged[..], &damaged[..at]] {
                let outcome = load(&envelope(MANIFEST_VERSION, sections));
                assert!(
                    matches!(
                        outcome,
                        Ok(Some(_))
                            | Err(Error::CorruptManifest { .. } | Error::NewerFormat { .. })
                    ),
                    "{outcome:?}"
                );
            }
        }
    }
}

#[test]
fn a_counter_that_could_not_be_counted_on_is_corrupt() {
    let mut last = sample();
    last.last_lsn = Lsn(u64::MAX);
    let mut openings = sample();
    openings.openings = u64::MAX;
    let mut life = sample();
    life.progress[1].incarnation = Incarnation(u32::MAX);
    let mut stamp = several();
    let directories = stamp.directories.as_mut().expect("there are");
    directories.stamp.forced[1] = GroupNo(u64::MAX);
    for manifest in [last, openings, life, stamp] {
        let error = load(&manifest.encode()).expect_err("is wrong");
        assert!(matches!(error, Error::CorruptManifest { .. }), "{error:?}");
    }
}

#[test]
fn directories_that_can_not_be_are_corrupt() {
    let broken: [fn(&mut Directories); 6] = [
        |it| it.stamp.durable = Lsn(1 << 29),
        |it| it.listed.clear(),
        |it| it.listed[0].is_made = false,
        // Behind one that is not made.
        |it| it.listed.push(it.listed[0].clone()),
        |it| it.placement.push(DirectoryNo(2)),
        |it| it.stamp.forced.push(GroupNo(1)),
    ];
    for breaks in broken {
        let mut manifest = several();
        breaks(manifest.directories.as_mut().expect("there are"));
        let error = load(&manifest.encode()).expect_err("is wrong");
        assert!(matches!(error, Error::CorruptManifest { .. }), "{error:?}");
    }
}

#[test]
fn a_newer_version_is_named() {
    let error = load(&envelope(2, b"whatever comes")).expect_err("is newer");
    let newer = Error::NewerFormat {
        file: MANIFEST_FILE.into(),
        found: 2,
        supported: 1,
    };
    assert_eq!(error, newer);
}

/// It was read as version 1.
#[test]
fn a_version_that_there_never_was_is_corruption() {
    let bytes = sample().encode();
    let error = load(&envelope(0, &bytes[HEADER_BYTES..])).expect_err("is none");
    let never = Error::CorruptManifest {
        file: MANIFEST_FILE.into(),
        reason: "it has format version 0, which there never was".into(),
    };
    assert_eq!(error, never);
}

#[test]
fn an_unknown_section_is_skipped_only_if_it_is_optional() {
    let mut sections = sample().encode().split_off(HEADER_BYTES);
    put_section(&mut sections, OPTIONAL | 77, |out| {
        out.extend_from_slice(b"later")
    });
    assert_eq!(
        load(&envelope(MANIFEST_VERSION, &sections)),
        Ok(Some(sample()))
    );
    put_section(&mut sections, 77, |out| out.extend_from_slice(b"later"));
    let error = load(&envelope(MANIFEST_VERSION, &sections)).expect_err("is needed");
    assert!(
        matches!(error, Error::NewerFormat { found: 2, .. }),
        "{error:?}"
    );
}

#[test]
fn a_section_that_is_missing_or_comes_twice_is_corrupt() {
    let sections = sample().encode().split_off(HEADER_BYTES);
    let mut twice = sections.clone();
    put_section(&mut twice, RING, |out| put_varint(out, 1));
    for bytes in [&twice[..], &[]] {
        let error = load(&envelope(MANIFEST_VERSION, bytes)).expect_err("is wrong");
        assert!(matches!(error, Error::CorruptManifest { .. }), "{error:?}");
    }
}

#[test]
fn a_crash_in_a_save_leaves_the_old_or_the_new_manifest() {
    let (old, new) = (
        sample(),
        Manifest {
            openings: 13,
            ..sample()
        },
    );
    for seed in 0..200 {
        let disk = SimulatedDisk::new();
        old.save(&disk).expect("saves");
        disk.die_after(seed % 6);
        let outcome = new.save(&disk);
        disk.crash(Survivors::Seeded(seed));
        let found = Manifest::load(&disk).expect("is whole").expect("is there");
        assert!(
            found == new || (found == old && outcome.is_err()),
            "seed {seed}"
        );
    }
}

#[test]
fn a_full_disk_keeps_the_old_manifest() {
    let disk = SimulatedDisk::new();
    sample().save(&disk).expect("saves");
    disk.set_capacity(Some(1));
    let error = Manifest::default().save(&disk).expect_err("is full");
    assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
    assert_eq!(Manifest::load(&disk), Ok(Some(sample())));
}

/// Each section of `sections`: its kind and its contents.
fn split(mut sections: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    while let [k0, k1, l0, l1, l2, l3, rest @ ..] = sections {
        let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        found.push((u16::from_le_bytes([*k0, *k1]), rest[..len].to_vec()));
        sections = &rest[len..];
    }
    found
}

#[test]
fn each_section_has_these_bytes() {
    let manifest = Manifest {
        history: Some(RingHistory::default()),
        ..sample()
    };
    let expected: [(u16, &[u8]); 10] = [
        (1, &[3, 2, 0, 100, 4, 0xac, 2]),
        (2, &[9]),
        (3, &[0, 0, 4, 0, 4, 0, 4, 0, 0, 0, 4, 0, 4, 0, 4, 0]),
        (4, b"\x03\x01\x01\x08users \xc3\xbc"),
        (
            5,
            &[2, 0, 0x84, 7, 2, 4, 0x80, 0x80, 0x80, 0x80, 0x80, 32, 1],
        ),
        (6, &[0x80, 0x80, 0x80, 0x80, 0x80, 64, 12, 1]),
        // Nanoseconds.
        (0x8007, &[0x80, 0xd8, 0x8e, 0xe1, 0x6f]),
        (
            7,
            &[
                11, 70, 2, 0x80, 0x80, 0x80, 0x80, 0x80, 32, 12, 71, 0, 0x80, 0x80, 0x80, 0x80,
                0x80, 64, 12, 72, 1, 3, b'k', b'e', b'y',
            ],
        ),
        // Of a ring to which something has happened: see there.
        (8, &[0, 0, 0, 0]),
        (0x800a, &[2, 0, 7, 4, 0x80, 0x80, 0x80, 0x80, 0x80, 32]),
    ];
    let expected = expected.map(|(kind, contents)| (kind, contents.to_vec()));
    assert_eq!(split(&manifest.encode_sections()), expected);
    let with_directories = split(&several().encode_sections());
    let directories = with_directories.iter().find(|(kind, _)| *kind == 9);
    let expected = [
        &[0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01][..],
        &[0xac, 2],
        &[2, 1, 6],
        b"/mnt/a",
        &[0, 7],
        "/mnt/ü".as_bytes(),
        &[2, 1, 0],
        &[2, 3, 5],
        &[0x80, 0x80, 0x80, 0x80, 4, 0x80, 0x80, 0x80, 0x80, 8],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 64],
        &[2, 0xbc, 5, 0],
    ];
    assert_eq!(directories, Some(&(9, expected.concat())));
}
