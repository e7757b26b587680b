//! Opening the tree that was left in a folder, and no other: one that is missing would come back empty, an older copy
//! without what the journal has let go of since, and another node's with keys that nobody looks for there.
//!
//! The manifest says which version each tree had at least. Versions rise with whatever is written, so an older copy has a
//! lower one. Another node's tree is known by its keys: all of them belong elsewhere. A tree that is being moved, or was
//! taken from a node that owns nothing any more, may hold such keys, and is not asked.

use super::{Store, StoreFactory};
use crate::{
    error::{Error, Result},
    ids::NodeId,
    keyspaces::Keyspaces,
    manifest::Manifest,
    ring_state::RingState,
    value::split_qualified,
};
use std::{ops::Bound, path::Path, sync::Arc};

/// Keys that are looked at.
const KEYS: usize = 16;

/// Opens the store of `node` in `folder`; creates it where there was none.
///
/// # Errors
///
/// [`Error::CorruptTree`] if another one was left there, else as [`StoreFactory::open`].
pub fn open_left(
    factory: &dyn StoreFactory,
    manifest: &Manifest,
    ring: &RingState,
    keyspaces: &Keyspaces,
    node: NodeId,
    folder: &Path,
) -> Result<Arc<dyn Store>> {
    // Before an empty one is made in its place.
    if factory.version(folder) == 0 {
        manifest.check_tree(node, folder, 0)?;
    }
    let store = factory.open(node, folder)?;
    manifest.check_tree(node, folder, store.version())?;
    check_keys(&*store, ring, keyspaces, node, folder)?;
    Ok(store)
}

fn check_keys(
    store: &dyn Store,
    ring: &RingState,
    keyspaces: &Keyspaces,
    node: NodeId,
    folder: &Path,
) -> Result<()> {
    let moves = ring.running().map(|running| &running.change.moves);
    let is_mixed = moves
        .into_iter()
        .flatten()
        .any(|one| one.from == node || one.to == node);
    if is_mixed || !ring.ring().owners().contains(&node) {
        return Ok(());
    }
    let mut stranger = None;
    let view = store.view();
    for pair in view.range(Bound::Unbounded, Bound::Unbounded).take(KEYS) {
        let (key, _) = pair?;
        let (keyspace, key) = split_qualified(&key);
        let owner = ring.ring().owner(key);
        if owner == node {
            return Ok(());
        }
        // What was left of a keyspace that was dropped did not move with the arcs.
        if keyspaces.contains(keyspace) {
            stranger = Some(owner);
        }
    }
    let Some(owner) = stranger else {
        return Ok(());
    };
    Err(Error::CorruptTree {
        node,
        file: folder.to_owned(),
        reason: format!("it is another node's tree: its keys belong to node {owner}"),
    })
}
