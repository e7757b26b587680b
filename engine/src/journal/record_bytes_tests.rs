//! Every kind of record, byte for byte: what a directory holds must be read by every later build. The ring's are among the
//! tests of [`super`].

use super::*;

fn writes() -> [Write; 3] {
    let write = |key: &'static str, value| Write {
        key: Bytes::from_static(key.as_bytes()),
        value,
    };
    let expiring = Value {
        bytes: Bytes::from_static(b"w"),
        expires_at_ms: 300,
    };
    let value = Value::new(Bytes::from_static(b"vv"));
    [
        write("0001k", Some(value)),
        write("0001l", None),
        write("0001m", Some(expiring)),
    ]
}

fn parts() -> Vec<CommitPart> {
    let [value, removal, expiring] = writes();
    vec![
        CommitPart {
            node: NodeId(2),
            incarnation: Incarnation(1),
            writes: vec![value],
        },
        CommitPart {
            node: NodeId(300),
            incarnation: Incarnation(4),
            writes: vec![removal, expiring],
        },
    ]
}

/// Node, incarnation, number of writes; a write's length of the key and tag, key, and what the tag wants.
const FIRST_PART: &[u8] = b"\x02\x01\x01\x150001k\x02vv";
const SECOND_PART: &[u8] = b"\xac\x02\x04\x02\x140001l\x160001m\xac\x02\x01w";

fn commit(idempotency: Option<Option<&'static [u8]>>) -> RecordBody {
    RecordBody::Commit {
        txn: idempotency.map(|key| TxnTag {
            id: TxnId::new(9, 300).expect("not 0"),
            idempotency: key.map(Bytes::from_static),
        }),
        parts: parts(),
    }
}

/// Demands these bytes behind length, kind and LSN, and that they read back.
fn demand(body: RecordBody, kind: u8, fields: &[&[u8]]) {
    let body_bytes = [&[kind, 0xac, 2], &fields.concat()[..]].concat();
    let len = u32::try_from(body_bytes.len()).expect("small");
    let bytes = [&len.to_le_bytes()[..], &body_bytes].concat();
    let record = Record {
        lsn: Lsn(300),
        body,
    };
    let mut out = Vec::new();
    encode(&record, &mut out);
    assert_eq!(out, bytes, "kind {kind}");
    let decoded: Vec<_> = decode_all(&bytes.into()).collect();
    assert_eq!(decoded, [Ok(record)]);
}

#[test]
fn a_commit_of_one_node_has_these_bytes_with_each_kind_of_write() {
    let body = RecordBody::Commit {
        txn: None,
        parts: vec![CommitPart {
            node: NodeId(2),
            incarnation: Incarnation(1),
            writes: writes().into(),
        }],
    };
    let fields = b"\x02\x01\x03\x150001k\x02vv\x140001l\x160001m\xac\x02\x01w";
    demand(body, 1, &[fields]);
}

#[test]
fn a_commit_of_several_nodes_has_these_bytes() {
    demand(commit(None), 2, &[&[2], FIRST_PART, SECOND_PART]);
}

#[test]
fn a_transaction_has_these_bytes() {
    let txn = [9, 0xac, 2];
    demand(
        commit(Some(None)),
        3,
        &[&txn, &[2], FIRST_PART, SECOND_PART],
    );
}

#[test]
fn a_transaction_with_an_idempotency_key_has_these_bytes() {
    let fields = [&[9, 0xac, 2][..], b"\x03key", &[2], FIRST_PART, SECOND_PART];
    demand(commit(Some(Some(b"key"))), 7, &fields);
}

#[test]
fn keyspaces_that_come_and_go_have_these_bytes() {
    let id = KeyspaceId(300);
    let name = "users".to_owned();
    let created = RecordBody::CreateKeyspace { id, name };
    demand(created, 4, &[&[0xac, 2], b"\x05users"]);
    demand(RecordBody::DropKeyspace { id }, 5, &[&[0xac, 2]]);
}

#[test]
fn a_fence_has_these_bytes() {
    let fence = RecordBody::Fence {
        node: NodeId(300),
        incarnation: Incarnation(3),
    };
    demand(fence, 6, &[&[0xac, 2, 3]]);
}
