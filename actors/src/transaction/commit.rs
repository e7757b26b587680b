//! A commit: what was read and written, grouped by node, on its shortest way.

use super::{Committed, Shared, State, buffer::Buffer};
use crate::{
    coordinator::CommitRequest,
    engine::{Engine, weight},
    journal::OutcomeRequest,
};
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    ids::{Lsn, NodeId},
    participant::{Answer, Operation},
    transaction::{ReadSet, TxnOutcome, TxnPart},
    value::Write,
};
use std::{collections::BTreeMap, time::Instant};

/// Weight of a key that is only read, beside its bytes.
const READ_BYTES: usize = 64;

pub(super) async fn commit(shared: &Shared) -> Result<Committed> {
    let buffer = take(shared)?;
    let at = shared.pinned.at;
    if buffer.writes.is_empty() {
        return Ok(Committed {
            txn: shared.id,
            lsn: at,
            repeated: false,
        });
    }
    let started = Instant::now();
    let telemetry = &shared.engine.switchboard.telemetry;
    let result = send(shared, buffer).await;
    telemetry.transaction_ended(result.as_ref().err(), started.elapsed());
    let lsn = result?;
    let repeated = match &shared.idempotency {
        Some(_) => !is_own(shared).await?,
        None => false,
    };
    Ok(Committed {
        txn: shared.id,
        lsn,
        repeated,
    })
}

/// Ends the transaction, and takes what it is to commit.
fn take(shared: &Shared) -> Result<Buffer> {
    shared.engine.check_open()?;
    // Looked at and taken under one lock: another clone may be committing too.
    let mut state = shared.lock();
    match &*state {
        State::Open(_) if shared.engine.switchboard.clock.now() >= shared.deadline => {
            return Err(Error::DeadlineExceeded);
        }
        State::Open(_) => {}
        State::RolledBack | State::Committed => return Err(Error::TransactionEnded),
    }
    let State::Open(buffer) = std::mem::replace(&mut *state, State::Committed) else {
        unreachable!("it was looked at under the same lock");
    };
    Ok(buffer)
}

async fn send(shared: &Shared, buffer: Buffer) -> Result<Lsn> {
    let engine: &Engine = &shared.engine;
    let nodes = engine.switchboard.tables.len();
    let reads = buffer
        .reads
        .keys()
        .map(|key| key.len() + READ_BYTES)
        .sum::<usize>();
    let mut parts = group(buffer, shared.pinned.at, nodes);
    let writes: usize = parts.iter().map(|part| weight(&part.writes)).sum();
    let bytes = reads + writes;
    if let ([_], None) = (&parts[..], &shared.idempotency) {
        let part = parts.remove(0);
        let operation = Operation::Transact {
            txn: shared.id,
            reads: part.reads,
            writes: part.writes,
        };
        let answer = engine.write_until(part.node, operation, bytes, shared.deadline);
        return match answer.await? {
            Answer::Written(lsn) => Ok(lsn),
            other => unreachable!("a transaction was answered by {other:?}"),
        };
    }
    let request = CommitRequest {
        txn: shared.id,
        deadline: shared.deadline,
        parts,
        idempotency: shared.idempotency.clone(),
    };
    engine.commit(request, bytes).await
}

/// Whether it was this transaction that was committed under its idempotency key.
async fn is_own(shared: &Shared) -> Result<bool> {
    let question = OutcomeRequest::Of {
        txn: shared.id,
        deadline: shared.deadline,
    };
    match shared.engine.ask_outcome(question).await {
        Ok(outcome) => Ok(matches!(outcome, TxnOutcome::Committed(_))),
        // Something was committed under the key: no error that says "nothing was written" may be told here.
        Err(error) => Err(Error::Unknown {
            reason: format!("it was committed, or one before it with the same key was: {error}"),
        }),
    }
}

#[derive(Default)]
struct Part {
    keys: Vec<Bytes>,
    writes: Vec<Write>,
}

/// One part for each node that was read or is written. A range was read on every node.
fn group(mut buffer: Buffer, snapshot: Lsn, nodes: usize) -> Vec<TxnPart> {
    let mut parts: BTreeMap<NodeId, Part> = BTreeMap::new();
    let ranges = buffer.take_ranges();
    if !ranges.is_empty() {
        for node in 0..nodes {
            let node = NodeId(u16::try_from(node).expect("node numbers fit"));
            parts.entry(node).or_default();
        }
    }
    for (key, node) in buffer.reads {
        parts.entry(node).or_default().keys.push(key);
    }
    for (key, write) in buffer.writes {
        let value = write.value;
        let part = parts.entry(write.node).or_default();
        part.writes.push(Write { key, value });
    }
    let parts = parts.into_iter();
    parts
        .map(|(node, part)| TxnPart {
            node,
            reads: ReadSet {
                snapshot,
                keys: part.keys,
                ranges: ranges.clone(),
            },
            writes: part.writes.into(),
        })
        .collect()
}
