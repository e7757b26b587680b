//! Records read back as they were written, and bytes that nobody wrote are refused.

use super::*;
use crate::{ring::ArcMove, ring_state::Change};
use proptest::prelude::*;

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    let value =
        (bytes(), prop_oneof![Just(0), any::<u64>()]).prop_map(|(bytes, expires_at_ms)| Value {
            bytes,
            expires_at_ms,
        });
    let key = proptest::collection::vec(any::<u8>(), KEYSPACE_PREFIX_BYTES..200);
    let write = (key, proptest::option::of(value)).prop_map(|(key, value)| Write {
        key: key.into(),
        value,
    });
    proptest::collection::vec(write, 0..4)
}

fn body() -> impl Strategy<Value = RecordBody> {
    let part = (any::<u16>(), 0..=LARGEST_INCARNATION, writes()).prop_map(
        |(node, incarnation, writes)| CommitPart {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            writes,
        },
    );
    let key = proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let txn = (1..u64::MAX, any::<u64>(), proptest::option::of(key)).prop_map(
        |(opening, number, idempotency)| TxnTag {
            id: TxnId::new(opening, number).expect("not 0"),
            idempotency,
        },
    );
    prop_oneof![
        (
            proptest::option::of(txn),
            proptest::collection::vec(part, 0..4)
        )
            .prop_map(|(txn, mut parts)| {
                if txn.is_some() {
                    parts.retain(|part| !part.writes.is_empty());
                }
                RecordBody::Commit { txn, parts }
            }),
        (any::<u32>(), ".{0,20}").prop_map(|(id, name)| RecordBody::CreateKeyspace {
            id: KeyspaceId(id),
            name
        }),
        any::<u32>().prop_map(|id| RecordBody::DropKeyspace { id: KeyspaceId(id) }),
        (any::<u16>(), 0..=LARGEST_INCARNATION).prop_map(|(node, incarnation)| {
            RecordBody::Fence {
                node: NodeId(node),
                incarnation: Incarnation(incarnation),
            }
        }),
        ring_state::any_record().prop_map(RecordBody::Ring),
    ]
}

fn spread() -> impl Strategy<Value = Spread> {
    let counter = || 0..=LARGEST_COUNTER;
    let forced = proptest::collection::vec(counter().prop_map(GroupNo), 1..5);
    let stamp = (counter(), forced).prop_map(|(durable, forced)| Stamp {
        durable: Lsn(durable),
        forced,
    });
    (1..u64::MAX, proptest::option::of(stamp)).prop_map(|(bits, stamp)| Spread {
        directories: DirectorySet::from_bits(bits).expect("not empty"),
        stamp,
    })
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let body =
        (body(), proptest::option::weighted(0.3, spread())).prop_map(
            |(body, spread)| match spread {
                None => body,
                Some(spread) => RecordBody::Spread {
                    spread,
                    body: Box::new(body),
                },
            },
        );
    let record = (any::<u64>(), body).prop_map(|(lsn, body)| Record {
        lsn: Lsn(lsn),
        body,
    });
    proptest::collection::vec(record, 0..12)
}

fn payload(records: &[Record]) -> Bytes {
    let mut out = Vec::new();
    for record in records {
        encode(record, &mut out);
    }
    out.into()
}

proptest! {
    #[test]
    fn records_read_back(records in records()) {
        let decoded: Result<Vec<_>, _> = decode_all(&payload(&records)).collect();
        prop_assert_eq!(decoded, Ok(records));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut errors = 0;
        for record in decode_all(&bytes.into()) {
            prop_assert_eq!(errors, 0, "nothing follows an error");
            errors += usize::from(record.is_err());
        }
    }

    #[test]
    fn damaged_records_never_panic(records in records(), at in any::<usize>(), byte in any::<u8>()) {
        let mut bytes = payload(&records).to_vec();
        if !bytes.is_empty() {
            let at = at % bytes.len();
            bytes[at] = byte;
            let count = decode_all(&bytes.clone().into()).count();
            prop_assert!(count <= bytes.len());
            bytes.truncate(at);
            prop_assert!(decode_all(&bytes.into()).count() <= records.len());
        }
    }
}

#[test]
fn a_change_of_the_ring_has_these_bytes() {
    let moves = [(2, 0, 1), (3, 0, 300), (200, 1, 0)];
    let moves = moves.map(|(arc, from, to)| ArcMove {
        arc,
        from: NodeId(from),
        to: NodeId(to),
    });
    let change = Change {
        number: 7,
        members: vec![(NodeId(0), 1), (NodeId(300), 200)],
        moves: moves.into(),
    };
    let cut = RingRecord::Cut {
        change: 7,
        from: NodeId(1),
    };
    let cleaned = RingRecord::Cleaned {
        change: 7,
        from: NodeId(1),
    };
    let ended = RingRecord::Ended {
        change: 7,
        members: vec![(NodeId(0), 1)],
    };
    let expected: [(RingRecord, &[u8]); 4] = [
        (
            RingRecord::Began(change.into()),
            &[
                23, 0, 0, 0, 8, 5, 1, 7, 2, 0, 1, 0xac, 2, 0xc8, 1, 3, 2, 0, 1, 0, 0, 0xac, 2,
                0xc4, 1, 1, 0,
            ],
        ),
        (cut, &[5, 0, 0, 0, 8, 5, 2, 7, 1]),
        (cleaned, &[5, 0, 0, 0, 8, 5, 3, 7, 1]),
        (ended, &[7, 0, 0, 0, 8, 5, 4, 7, 1, 0, 1]),
    ];
    for (ring, bytes) in expected {
        let bound = ring_state::bytes_bound(&ring);
        let record = Record {
            lsn: Lsn(5),
            body: RecordBody::Ring(ring),
        };
        assert_eq!(payload(&[record]), bytes);
        assert!(bytes.len() <= bound);
    }
}

#[test]
fn a_commit_of_one_node_has_these_bytes() {
    let mut out = Vec::new();
    let write = Write {
        key: Bytes::from_static(b"key"),
        value: Some(Value::new(Bytes::from_static(b"v"))),
    };
    let removal = Write {
        key: Bytes::from_static(b"k"),
        value: None,
    };
    encode_commit(
        &mut out,
        Lsn(300),
        NodeId(2),
        Incarnation(1),
        &[write, removal],
    );
    let body = [
        1,
        0xac,
        2,
        2,
        1,
        2,
        3 << 2 | 1,
        b'k',
        b'e',
        b'y',
        1,
        b'v',
        1 << 2,
        b'k',
    ];
    assert_eq!(out, [&[14, 0, 0, 0][..], &body].concat());
}

#[test]
fn a_spread_record_has_these_bytes_and_stays_within_its_bound() {
    let fence = RecordBody::Fence {
        node: NodeId(1),
        incarnation: Incarnation(4),
    };
    let spread = |stamp| RecordBody::Spread {
        spread: Spread {
            directories: DirectorySet::from_bits(5).expect("not empty"),
            stamp,
        },
        body: Box::new(fence.clone()),
    };
    let stamp = Stamp {
        durable: Lsn(299),
        forced: vec![GroupNo(7), GroupNo(200)],
    };
    let expected: [(RecordBody, &[u8]); 3] = [
        (fence.clone(), &[5, 0, 0, 0, 6, 0xac, 2, 1, 4]),
        (spread(None), &[8, 0, 0, 0, 9, 0xac, 2, 5, 0, 6, 1, 4]),
        (
            spread(Some(stamp)),
            &[13, 0, 0, 0, 9, 0xac, 2, 5, 2, 0xab, 2, 7, 0xc8, 1, 6, 1, 4],
        ),
    ];
    let plain = expected[0].1.len();
    for (body, bytes) in expected {
        let lsn = Lsn(300);
        assert_eq!(payload(&[Record { lsn, body }]), bytes);
        assert!(bytes.len() <= plain + spread_bytes_bound(2));
    }
}

#[test]
fn a_record_that_is_spread_twice_or_nowhere_is_malformed() {
    let reason = "a record's fields do not fit its length";
    let malformed = [Err(DecodeError::Malformed { offset: 0, reason })];
    let twice: &[u8] = &[10, 0, 0, 0, 9, 1, 5, 0, 9, 5, 0, 6, 1, 4];
    let nowhere: &[u8] = &[7, 0, 0, 0, 9, 1, 0, 0, 6, 1, 4];
    for bytes in [twice, nowhere] {
        let found: Vec<_> = decode_all(&Bytes::from_static(bytes)).collect();
        assert_eq!(found, malformed);
    }
}

#[test]
fn a_kind_of_a_later_format_is_named() {
    let found: Vec<_> = decode_all(&Bytes::from_static(&[2, 0, 0, 0, 10, 1])).collect();
    assert_eq!(
        found,
        [Err(DecodeError::UnknownKind {
            offset: 0,
            kind: 10
        })]
    );
}

#[test]
fn a_count_of_billions_is_an_error_and_no_allocation() {
    let mut body = vec![COMMIT_OF_SEVERAL_NODES, 1];
    put_varint(&mut body, u64::MAX);
    let mut out = Vec::new();
    out.extend_from_slice(&u32::try_from(body.len()).expect("small").to_le_bytes());
    out.extend_from_slice(&body);
    let reason = "a record's fields do not fit its length";
    let found: Vec<_> = decode_all(&out.into()).collect();
    assert_eq!(found, [Err(DecodeError::Malformed { offset: 0, reason })]);
}

/// A checkpoint would have panicked at such a key, and the next life of a node at such a number.
#[test]
fn what_no_engine_writes_is_refused_before_it_does_harm() {
    let fence = |incarnation| RecordBody::Fence {
        node: NodeId(1),
        incarnation: Incarnation(incarnation),
    };
    let commit = |key_bytes| RecordBody::Commit {
        txn: None,
        parts: vec![CommitPart {
            node: NodeId(0),
            incarnation: Incarnation(0),
            writes: vec![Write {
                key: vec![b'k'; key_bytes].into(),
                value: None,
            }],
        }],
    };
    for (body, is_right) in [
        (fence(LARGEST_INCARNATION), true),
        (fence(u32::MAX), false),
        (commit(KEYSPACE_PREFIX_BYTES), true),
        (commit(MAX_STORED_KEY_BYTES), true),
        (commit(KEYSPACE_PREFIX_BYTES - 1), false),
        (commit(MAX_STORED_KEY_BYTES + 1), false),
    ] {
        let record = Record { lsn: Lsn(1), body };
        let found = decode_all(&payload(std::slice::from_ref(&record))).next();
        assert_eq!(found.expect("there is one").is_ok(), is_right);
    }
}

#[test]
fn a_small_record_does_not_hold_its_group_in_memory() {
    let commit = |size| Record {
        lsn: Lsn(1),
        body: RecordBody::Commit {
            txn: None,
            parts: vec![CommitPart {
                node: NodeId(0),
                incarnation: Incarnation(0),
                writes: vec![Write {
                    key: Bytes::from_static(b"a key"),
                    value: Some(Value::new(vec![7; size].into())),
                }],
            }],
        },
    };
    let payload = payload(&[commit(10), commit(10_000)]);
    let inside = payload.as_ptr_range();
    let shared: Vec<bool> = decode_all(&payload)
        .map(|record| {
            let RecordBody::Commit { parts, .. } = record.expect("decodes").body else {
                panic!("a commit was encoded")
            };
            inside.contains(&parts[0].writes[0].key.as_ptr())
        })
        .collect();
    assert_eq!(shared, [false, true]);
}
