//! A transaction before its commit, as its handle carries it: what it has read must still be there when its snapshot
//! moves on, and what it has read and written is sent in one part a node.

use crate::{
    error::{Error, Result},
    ids::{Lsn, NodeId},
    transaction::{KeyRange, ReadSet, TxnPart},
    value::Write,
    view::{NodeTable, NodeView},
};
use bytes::Bytes;
use std::sync::Arc;

/// A node, and the view of it that was loaded behind the LSN at which it is looked at.
pub type Shown<'a> = (&'a NodeTable, &'a NodeView);

/// Fails if something that was read at `since` is another by now. Each key comes with its owner; `owners` are all of them.
///
/// A node that is down may have committed what it does not show. Whoever is up now was up when the view was loaded.
///
/// # Errors
///
/// [`Error::Conflict`] with what has changed; [`Error::NodeDown`], or why its tree can't be read, if that can't be known.
pub fn check_unchanged<'a>(
    since: Lsn,
    keys: impl IntoIterator<Item = (&'a Bytes, Shown<'a>)>,
    ranges: &[KeyRange],
    owners: impl Iterator<Item = Shown<'a>> + Clone,
) -> Result<()> {
    for (key, (table, view)) in keys {
        table.check_up()?;
        if let Some(with) = view.key_changed(key, since) {
            let key = key.clone();
            return Err(Error::Conflict { key, with });
        }
    }
    for range in ranges {
        let mut owners = owners.clone();
        owners.clone().try_for_each(|(table, _)| table.check_up())?;
        let changed = owners.find_map(|(_, view)| view.range_changed(range, since));
        if let Some((key, with)) = changed {
            return Err(Error::Conflict { key, with });
        }
    }
    Ok(())
}

struct Part {
    node: NodeId,
    keys: Vec<Bytes>,
    writes: Vec<Write>,
}

/// The part of a node, in a list of few in the order of their nodes.
fn part_of(parts: &mut Vec<Part>, node: NodeId) -> &mut Part {
    let at = parts.binary_search_by_key(&node, |part| part.node);
    let at = at.unwrap_or_else(|at| {
        let (keys, writes) = (Vec::new(), Vec::new());
        parts.insert(at, Part { node, keys, writes });
        at
    });
    &mut parts[at]
}

/// One part for each node that was read or is written. A range was read on every node that owns something.
pub fn parts(
    owners: impl IntoIterator<Item = NodeId>,
    snapshot: Lsn,
    keys: impl IntoIterator<Item = (Bytes, NodeId)>,
    ranges: &[KeyRange],
    writes: impl IntoIterator<Item = (NodeId, Write)>,
) -> Vec<TxnPart> {
    let mut parts = Vec::new();
    if !ranges.is_empty() {
        for node in owners {
            part_of(&mut parts, node);
        }
    }
    for (key, node) in keys {
        part_of(&mut parts, node).keys.push(key);
    }
    for (node, write) in writes {
        part_of(&mut parts, node).writes.push(write);
    }
    let parts = parts.into_iter();
    let parts = parts.map(|part| TxnPart {
        node: part.node,
        reads: Arc::new(ReadSet {
            snapshot,
            keys: part.keys,
            ranges: ranges.to_vec(),
        }),
        writes: part.writes.into(),
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Bound;

    const A: NodeId = NodeId(0);
    const C: NodeId = NodeId(2);

    fn write(key: &'static str) -> Write {
        Write {
            key: Bytes::from_static(key.as_bytes()),
            value: None,
        }
    }

    fn nodes(ranges: &[KeyRange]) -> Vec<(u16, usize, usize, usize)> {
        let keys = [(Bytes::from_static(b"read"), A)];
        let writes = [(C, write("written")), (A, write("too"))];
        let parts = parts([A, NodeId(1), C], Lsn(7), keys, ranges, writes);
        let part = |part: &TxnPart| {
            let reads = &part.reads;
            assert_eq!(reads.snapshot, Lsn(7));
            let (keys, ranges) = (reads.keys.len(), reads.ranges.len());
            (part.node.0, keys, ranges, part.writes.len())
        };
        parts.iter().map(part).collect()
    }

    #[test]
    fn only_nodes_that_were_touched_have_a_part() {
        assert_eq!(nodes(&[]), [(0, 1, 0, 1), (2, 0, 0, 1)]);
    }

    #[test]
    fn a_range_was_read_on_every_node() {
        let all = KeyRange {
            low: Bound::Unbounded,
            high: Bound::Unbounded,
        };
        let expected = [(0, 1, 1, 1), (1, 0, 1, 0), (2, 0, 1, 1)];
        assert_eq!(nodes(&[all]), expected);
    }
}
