//! Transactions that take turns: all who change these counters lock them ahead.
//!
//! Locks of keys promise nothing, but they are good for something: whoever has locked a key conflicts with nobody who
//! did so too. His snapshot is younger than the grant, and the grant comes behind the visible commit of the one before.
//! Excused are a panic of the lock manager, which loses the locks, and transactions that let go of their locks before
//! their fate was known, because they were refused or their client walked away.

use super::{Draft, Job};
use crate::{
    dice::Dice,
    keys::{Keys, Kind, shown},
    model::counter,
    report::Seen,
    world::World,
};
use bytes::Bytes;
use mailring_engine::{
    Error, Rival,
    ids::{Lsn, TxnId},
    journal::record::RecordBody,
    locks::SessionId,
    value::Value,
};
use std::collections::{BTreeMap, BTreeSet};

/// The counters that a transaction raises, in the order in which it locks them.
#[derive(Debug, Clone)]
pub(crate) struct TurnJob {
    pub(super) keys: Vec<Bytes>,
}

impl TurnJob {
    pub(super) fn draw(dice: &mut Dice, keys: &Keys) -> Self {
        let all = keys.of(Kind::Turn).len();
        let mut drawn = Vec::new();
        for _ in 0..dice.within(1..4) {
            let key = &keys.at(Kind::Turn, dice.below(all)).bytes;
            if !drawn.contains(key) {
                drawn.push(key.clone());
            }
        }
        Self { keys: drawn }
    }

    pub(super) fn writes(&self, draft: &Draft) -> BTreeMap<Bytes, Option<Value>> {
        let raise = |key: &Bytes| {
            let before = draft.value(key);
            let before = before.map_or(0, |value| counter(&value.bytes).expect("a counter"));
            let after = Value::new(Bytes::copy_from_slice(&(before + 1).to_le_bytes()));
            (key.clone(), Some(after))
        };
        self.keys.iter().map(raise).collect()
    }
}

/// What has become of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It holds its locks.
    Taken,
    /// It was committed, visibly, before it let go.
    Over,
    /// It has let go, and may still be committed.
    Loose,
}

/// Who has taken turns since the engine was opened.
#[derive(Debug, Default)]
pub(crate) struct Turns(BTreeMap<u64, Entry>);

#[derive(Debug)]
struct Entry {
    turn: Turn,
    session: SessionId,
    keys: BTreeSet<Bytes>,
    /// The life of the lock manager in which it was granted its first key.
    life: u64,
}

impl World {
    /// A transaction has been granted a key.
    pub(super) fn takes_turn(&mut self, draft: &Draft, key: &Bytes) {
        if !matches!(draft.attempt.job, Job::Turn(_)) {
            return;
        }
        let life = self.locks.generation;
        let entry = self.clients.turns.0.entry(draft.number);
        let entry = entry.or_insert_with(|| Entry {
            turn: Turn::Taken,
            session: draft.session.id,
            keys: BTreeSet::new(),
            life,
        });
        entry.keys.insert(key.clone());
    }

    /// A transaction gives up before anybody has heard of its commit.
    pub(super) fn leaves_turn(&mut self, number: u64) {
        self.clients.turns.0.remove(&number);
    }

    /// A transaction that has taken a turn has ended, and will let go now.
    pub(super) fn ends_turn(&mut self, number: u64, is_committed: bool) {
        // Whoever has walked away has let go before the answer.
        if let Some(entry) = self.clients.turns.0.get_mut(&number)
            && entry.turn == Turn::Taken
        {
            entry.turn = match is_committed {
                true => Turn::Over,
                false => Turn::Loose,
            };
            self.count(Seen::Turn, u64::from(is_committed));
        }
    }

    /// Who takes turns conflicts with nobody.
    pub(super) fn check_turn(&self, number: u64, error: &Error) {
        let turns = &self.clients.turns.0;
        let (Error::Conflict { key, with }, Some(own)) = (error, turns.get(&number)) else {
            return;
        };
        if own.life != self.locks.generation || own.turn != Turn::Taken {
            return;
        }
        let rival = match with {
            Rival::Version(lsn) => match self.writer_at(*lsn, key) {
                Some(writer) => writer.number(),
                None => return,
            },
            Rival::Transaction(txn) => txn.number(),
            Rival::Write => {
                let mut others = turns.values().filter(|other| other.keys.contains(key));
                if others.any(|other| other.turn == Turn::Loose || other.session == own.session) {
                    return;
                }
                panic!(
                    "txn {number} has locked {}, and somebody writes it",
                    shown(key)
                );
            }
            Rival::Floor(_) => return,
            other => unreachable!("{other:?} is no rival"),
        };
        let excused = turns.get(&rival).is_some_and(|rival| {
            rival.turn == Turn::Loose || rival.session == own.session || rival.life != own.life
        });
        assert!(
            excused,
            "txn {number} has locked {}, and conflicts with txn {rival}, whose turn is {:?}",
            shown(key),
            turns.get(&rival).map(|rival| rival.turn)
        );
    }

    /// Who wrote the key at an LSN. A node knows of a key that is only in its tree no more than how new it may be.
    fn writer_at(&self, lsn: Lsn, key: &Bytes) -> Option<TxnId> {
        let Some(RecordBody::Commit { txn, parts }) = self.model.log.get(&lsn) else {
            return None;
        };
        let mut writes = parts.iter().flat_map(|part| &part.writes);
        writes.any(|write| write.key == *key).then(|| {
            let tag = txn.as_ref();
            tag.unwrap_or_else(|| panic!("LSN {lsn} has taken no turn"))
                .id
        })
    }
}
