//! The sorted run that a checkpoint feeds to a tree: the newest version of every key in the frozen generations.

use crate::{
    generation::Generation,
    ids::{KeyspaceId, Lsn},
    keyspaces::Keyspaces,
    store::RunEntry,
    value::{Value, split_qualified},
    view::NodeView,
};
use bytes::Bytes;
use std::{iter::Peekable, sync::Arc};

type Versions<'a> = Box<dyn Iterator<Item = (Bytes, Lsn, Option<Value>)> + 'a>;

/// Merges the generations of `view` that were frozen at or before `through`. Keys of keyspaces that are gone are left
/// out: nobody can name them any more. `None` if the view has no border there: the node has restarted since the mark.
#[must_use]
pub fn frozen_run<'a>(
    view: &'a NodeView,
    through: Lsn,
    keyspaces: &'a Keyspaces,
) -> Option<FrozenRun<'a>> {
    if !view.is_frozen_at(through) {
        return None;
    }
    let sources = view
        .frozen
        .iter()
        .filter(|frozen| frozen.through <= through)
        .map(|frozen| versions(&frozen.generation).peekable())
        .collect();
    Some(FrozenRun {
        sources,
        keyspaces,
        present: None,
        bytes: 0,
    })
}

fn versions(generation: &Arc<Generation>) -> Versions<'_> {
    Box::new(generation.newest_versions())
}

/// The run; reports how many bytes of keys and values have gone through it.
pub struct FrozenRun<'a> {
    /// Newest generation first.
    sources: Vec<Peekable<Versions<'a>>>,
    keyspaces: &'a Keyspaces,
    /// The keyspace of the last key, and whether it exists: keys of a keyspace stand together.
    present: Option<(KeyspaceId, bool)>,
    bytes: u64,
}

impl std::fmt::Debug for FrozenRun<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrozenRun")
            .field("sources", &self.sources.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl FrozenRun<'_> {
    /// Bytes of keys and values that have gone through.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_present(&mut self, keyspace: KeyspaceId) -> bool {
        match self.present {
            Some((last, present)) if last == keyspace => present,
            _ => {
                let present = self.keyspaces.contains(keyspace);
                self.present = Some((keyspace, present));
                present
            }
        }
    }

    fn next_version(&mut self) -> Option<(Bytes, Option<Value>)> {
        let lowest = self
            .sources
            .iter_mut()
            .filter_map(|source| source.peek().map(|(key, ..)| key.clone()))
            .min()?;
        let mut newest: Option<(Lsn, Option<Value>)> = None;
        for source in &mut self.sources {
            if source.peek().is_some_and(|(key, ..)| *key == lowest) {
                let (_, lsn, value) = source.next().expect("it was peeked");
                if newest.as_ref().is_none_or(|(found, _)| *found < lsn) {
                    newest = Some((lsn, value));
                }
            }
        }
        newest.map(|(_, value)| (lowest, value))
    }
}

impl Iterator for FrozenRun<'_> {
    type Item = RunEntry;

    fn next(&mut self) -> Option<RunEntry> {
        loop {
            let (key, value) = self.next_version()?;
            if self.is_present(split_qualified(&key).0) {
                let stored = value.as_ref().map(Value::encode);
                self.bytes += (key.len() + stored.as_ref().map_or(0, Bytes::len)) as u64;
                return Some((key, stored));
            }
        }
    }
}
