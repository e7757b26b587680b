//! The keyspaces that handles have opened, by name, for as long as they exist.
//!
//! ```text
//!  handle ── Create ──▶ journal: visible ── opened ──▶ the state that all handles of the keyspace share
//!  handle ── Drop ────▶ journal: visible ── dropped ─▶ it says so from now on, whether anybody waits for the answer
//! ```
//!
//! A key is stored under the number of its keyspace and nodes do not know which numbers exist: what keeps a write out of
//! a dropped keyspace is this state, which every handle looks at. So it is changed by who knows the order of creations
//! and drops, the shell of the journal, and never by the caller of a drop: he may have walked away, and his answer may
//! come late.
//!
//! # Invariants
//!
//! - Who begins an operation after a drop has become visible is refused, also one who has opened the keyspace before, or
//!   whose creation was answered while it was being dropped.
//! - A name stands for the newest keyspace of that name.
//!
//! # Left out
//!
//! An operation that is under way when the drop becomes visible may still be carried out. It counts as one before the
//! drop: nobody can see what it wrote.

use crate::{
    error::{Error, Result},
    ids::KeyspaceId,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// A keyspace that some handle has opened.
#[derive(Debug)]
pub struct OpenKeyspace {
    id: KeyspaceId,
    name: String,
    is_dropped: AtomicBool,
}

impl OpenKeyspace {
    fn new(id: KeyspaceId, name: String) -> Arc<Self> {
        Arc::new(Self {
            id,
            name,
            is_dropped: AtomicBool::new(false),
        })
    }

    /// One that was dropped, for whoever asked for that.
    #[must_use]
    pub fn gone(id: KeyspaceId, name: String) -> Arc<Self> {
        let gone = Self::new(id, name);
        gone.is_dropped.store(true, Ordering::Release);
        gone
    }

    /// Its number.
    #[inline]
    #[must_use]
    pub fn id(&self) -> KeyspaceId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Fails once it was dropped.
    ///
    /// # Errors
    ///
    /// [`Error::KeyspaceNotFound`].
    #[inline]
    pub fn check(&self) -> Result<()> {
        if self.is_dropped.load(Ordering::Acquire) {
            return Err(Error::KeyspaceNotFound {
                name: self.name.clone(),
            });
        }
        Ok(())
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct OpenKeyspaces(Mutex<BTreeMap<String, Arc<OpenKeyspace>>>);

impl OpenKeyspaces {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<OpenKeyspace>>> {
        // Nothing under this lock panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keyspace of this name, if some handle has opened it and it was not dropped.
    #[must_use]
    pub fn known(&self, name: &str) -> Option<Arc<OpenKeyspace>> {
        self.lock().get(name).cloned()
    }

    /// A creation is answered: the keyspace of this name has this number. To be called in the order of the answers and
    /// drops.
    pub fn opened(&self, id: KeyspaceId, name: &str) -> Arc<OpenKeyspace> {
        let mut known = self.lock();
        match known.get(name) {
            Some(state) if state.id == id => Arc::clone(state),
            older => {
                assert!(
                    older.is_none_or(|older| older.id < id),
                    "keyspace {name:?} got number {id} behind a higher one"
                );
                let state = OpenKeyspace::new(id, name.to_owned());
                known.insert(name.to_owned(), Arc::clone(&state));
                state
            }
        }
    }

    /// A drop is visible: nothing begins in the keyspace any more.
    pub fn dropped(&self, id: KeyspaceId) {
        let mut known = self.lock();
        let gone = known.extract_if(.., |_, state| state.id == id);
        for (_, state) in gone {
            state.is_dropped.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_opened_it_before_is_refused_behind_the_drop() {
        let open = OpenKeyspaces::default();
        let one = open.opened(KeyspaceId(5), "users");
        let other = open.known("users").expect("it is open");
        assert_eq!((other.id(), other.name()), (KeyspaceId(5), "users"));
        assert_eq!(other.check(), Ok(()));
        open.dropped(KeyspaceId(5));
        let name = "users".into();
        assert_eq!(one.check(), Err(Error::KeyspaceNotFound { name }));
        assert!(other.check().is_err() && open.known("users").is_none());
    }

    #[test]
    fn a_name_stands_for_the_newest_keyspace_and_a_late_drop_of_an_older_one_leaves_it() {
        let open = OpenKeyspaces::default();
        let older = open.opened(KeyspaceId(5), "users");
        open.dropped(KeyspaceId(5));
        let newer = open.opened(KeyspaceId(6), "users");
        open.dropped(KeyspaceId(5));
        assert!(older.check().is_err());
        assert_eq!(newer.check(), Ok(()));
        assert_eq!(open.known("users").map(|it| it.id()), Some(KeyspaceId(6)));
    }

    #[test]
    fn what_is_opened_again_is_one_keyspace() {
        let open = OpenKeyspaces::default();
        let one = open.opened(KeyspaceId(5), "users");
        assert!(Arc::ptr_eq(&one, &open.opened(KeyspaceId(5), "users")));
    }
}
