//! A commit: what was read and written, grouped by node, on its shortest way.

use super::{Committed, Shared, State, buffer::Buffer};
use crate::{
    budget::OpenBytes,
    coordinator::{CommitRequest, Decision},
    engine::{Engine, weight},
    pin::Pinned,
};
use bytes::Bytes;
use mailring_engine::{
    Error, Result, draft,
    participant::{Answer, Operation},
    transaction::TxnPart,
    value::{Write, split_qualified},
};
use std::{sync::Arc, time::Instant};

/// Weight of a key that is only read, beside its bytes.
const READ_BYTES: usize = 64;

pub(super) async fn commit(shared: &Shared) -> Result<Committed> {
    let mut buffer = take(shared)?;
    // Released behind the answer, when the commit is visible.
    let _locks = buffer.locks.take();
    let at = buffer.pinned.at;
    if buffer.writes.is_empty() && buffer.fences.is_empty() {
        return Ok(Committed {
            txn: shared.id,
            lsn: at,
            repeated: false,
        });
    }
    buffer.check_keyspaces()?;
    let started = Instant::now();
    let telemetry = &shared.engine.switchboard.telemetry;
    let result = send(shared, buffer).await;
    telemetry.transaction_ended(result.as_ref().err(), started.elapsed());
    let Decision { lsn, is_repeated } = result?;
    Ok(Committed {
        txn: shared.id,
        lsn,
        repeated: is_repeated,
    })
}

/// Ends the transaction, and takes what it is to commit.
fn take(shared: &Shared) -> Result<Buffer> {
    shared.engine.check_open()?;
    // Looked at and taken under one lock: another clone may be committing too.
    let mut state = shared.lock();
    if !matches!(*state, State::Open(_)) {
        return Err(Error::TransactionEnded);
    }
    let State::Open(buffer) = std::mem::replace(&mut *state, State::Committed) else {
        unreachable!("it was looked at under the same lock");
    };
    if shared.engine.switchboard.clock.now() >= shared.deadline {
        return Err(Error::DeadlineExceeded);
    }
    Ok(buffer)
}

async fn send(shared: &Shared, mut buffer: Buffer) -> Result<Decision> {
    let engine: &Engine = &shared.engine;
    let routes = Arc::clone(&buffer.pinned.routes);
    let reads = buffer
        .reads
        .iter()
        .map(|key| key.len() + READ_BYTES)
        .sum::<usize>();
    let fences = std::mem::take(&mut buffer.fences);
    // Until the answer: what the nodes and the journal hold meanwhile is the request's.
    let (mut parts, _memory) = group(buffer);
    let writes: usize = parts.iter().map(|part| weight(&part.writes)).sum();
    let bytes = reads + writes;
    if let ([_], [], None) = (&parts[..], &fences[..], &shared.idempotency) {
        let part = parts.remove(0);
        let operation = Operation::Transact {
            txn: shared.id,
            reads: part.reads,
            writes: part.writes,
        };
        // By the routes that it has read by: what it validates must be there.
        let by_pin = |_: &_| (routes.known(part.node), routes.epoch());
        let answer = engine.write_until(operation, bytes, shared.deadline, by_pin);
        return match answer.await? {
            Answer::Written(lsn) => Ok(Decision {
                lsn,
                is_repeated: false,
            }),
            other => unreachable!("a transaction was answered by {other:?}"),
        };
    }
    let request = CommitRequest {
        txn: shared.id,
        deadline: shared.deadline,
        parts: parts.into(),
        fences,
        idempotency: shared.idempotency.clone(),
        epoch: routes.epoch(),
    };
    engine.commit(request, bytes).await
}

/// The parts of the nodes that it concerns, and the memory that they take.
fn group(buffer: Buffer) -> (Vec<TxnPart>, OpenBytes) {
    let Pinned { at, routes, .. } = &*buffer.pinned;
    let owner = |key: &Bytes| routes.owner(split_qualified(key).1).node();
    let ranges = buffer.read_ranges();
    let owners = routes.owners().map(|member| member.node());
    let reads = buffer.reads.into_iter().map(|key| {
        let node = owner(&key);
        (key, node)
    });
    let writes = buffer.writes.into_iter().map(|(key, write)| {
        let value = write.value;
        (owner(&key), Write { key, value })
    });
    let parts = draft::parts(owners, *at, reads, &ranges, writes);
    (parts, buffer.memory)
}
