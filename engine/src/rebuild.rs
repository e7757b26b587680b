//! Rebuilding a restarted node's generation from the journal.
//!
//! A tree can be behind a Cut of before the opening ([`crate::replay`]). What the node had written until then on arcs that were
//! not its own any more when the directory was opened is left out here as it was there. Since then no arc has left it and
//! come back but behind a checkpoint.

use crate::{
    error::{Error, Result},
    generation::Generation,
    ids::{Lsn, NodeId},
    journal::{JournalReader, record::RecordBody},
    ring::Ring,
};
use std::sync::Arc;

/// What a directory was found to be when it was opened.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The last LSN of its journal.
    pub last_lsn: Lsn,
    /// Its ring as of that LSN.
    pub ring: Arc<Ring>,
}

impl Opened {
    /// Installs what the journal holds for `node`, LSN `after` (excluded) to `through`, into `generation`.
    ///
    /// # Errors
    ///
    /// As [`JournalReader::replay`], and [`Error::Unknown`] if the journal ends before `through`.
    pub fn rebuild_node(
        &self,
        journal: &JournalReader,
        node: NodeId,
        after: Lsn,
        through: Lsn,
        generation: &Generation,
    ) -> Result<()> {
        let is_own = |lsn: Lsn, key: &[u8]| {
            let is_of_before = lsn <= self.last_lsn;
            !is_of_before || self.ring.owns_qualified(node, key)
        };
        rebuild(journal, node, (after, through), generation, is_own)
    }
}

fn rebuild(
    journal: &JournalReader,
    node: NodeId,
    (after, through): (Lsn, Lsn),
    generation: &Generation,
    is_own: impl Fn(Lsn, &[u8]) -> bool,
) -> Result<()> {
    let reached = journal.replay(after, through, &mut |record| {
        if let RecordBody::Commit { parts, .. } = record.body {
            for part in parts.iter().filter(|part| part.node == node) {
                let writes = part.writes.iter();
                for write in writes.filter(|write| is_own(record.lsn, &write.key)) {
                    generation.insert(record.lsn, write);
                }
            }
        }
        Ok(())
    })?;
    if reached < through {
        return Err(Error::Unknown {
            reason: format!(
                "the journal ends at LSN {reached}, node {node} needs it up to {through}"
            ),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::MemoryDisk,
        ids::{GroupNo, Incarnation, KeyspaceId},
        journal::{
            Group, Journal, JournalOptions,
            record::{CommitPart, Record, encode},
        },
        value::{Value, Write, qualify},
    };

    /// Each LSN has one commit of node 0, which writes every key.
    fn journal_of(commits: u64, keys: u32) -> Journal {
        let options = JournalOptions {
            segment_bytes: 1 << 20,
            salt: 1,
            ..JournalOptions::default()
        };
        let disk = Arc::new(MemoryDisk::new());
        let mut journal = Journal::create(disk, options, Lsn(0)).expect("memory writes");
        let mut payload = Vec::new();
        for lsn in 1..=commits {
            let write = |number: u32| Write {
                key: qualify(KeyspaceId(1), format!("key {number}").as_bytes()),
                value: Some(Value::new(lsn.to_string().into())),
            };
            let part = CommitPart {
                node: NodeId(0),
                incarnation: Incarnation(1),
                writes: (0..keys).map(write).collect(),
            };
            let body = RecordBody::Commit {
                txn: None,
                parts: vec![part],
            };
            encode(
                &Record {
                    lsn: Lsn(lsn),
                    body,
                },
                &mut payload,
            );
        }
        let written = journal.append(&Group {
            number: GroupNo(1),
            first_lsn: Lsn(1),
            last_lsn: Lsn(commits),
            payload,
        });
        written.expect("memory writes");
        journal.force().expect("memory writes");
        journal
    }

    /// The node lost arcs while it was down, so its tree is behind; the directory was opened since.
    #[test]
    fn what_was_written_before_the_opening_on_arcs_that_were_not_the_node_s_by_then_is_left_out() {
        let journal = journal_of(6, 40);
        let ring = Arc::new(Ring::new(8, &[(NodeId(0), 1), (NodeId(1), 1)]).expect("it works"));
        let opened = Opened {
            last_lsn: Lsn(4),
            ring: Arc::clone(&ring),
        };
        let generation = Generation::new();
        let rebuilt =
            opened.rebuild_node(&journal.reader(), NodeId(0), Lsn(2), Lsn(6), &generation);
        rebuilt.expect("memory reads");
        for number in 0..40 {
            let key = qualify(KeyspaceId(1), format!("key {number}").as_bytes());
            let versions = (1..=6).filter(|lsn| {
                let found = generation.newest(&key, Lsn(*lsn));
                found.is_some_and(|(found, _)| found == Lsn(*lsn))
            });
            let expected: &[u64] = match ring.owns_qualified(NodeId(0), &key) {
                true => &[3, 4, 5, 6],
                false => &[5, 6],
            };
            assert_eq!(versions.collect::<Vec<_>>(), expected, "key {number}");
        }
    }
}
