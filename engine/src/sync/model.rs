//! The primitives of loom, and two that it lacks, made of them.
//!
//! The map is one shard under one lock: what meets in two shards of the real one meets here too, only later. The swap is
//! a pointer under a lock, which orders a little more than the real one does (a reader before the next writer); miri
//! runs the real one.

pub(crate) use loom::sync::{
    Mutex, MutexGuard, RwLock, RwLockReadGuard,
    atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize},
};

use bytes::Bytes;
use loom::sync::RwLockWriteGuard;
use std::{
    collections::BTreeMap,
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// As `arc_swap::ArcSwap`.
pub(crate) struct ArcSwap<T>(RwLock<Arc<T>>);

/// What a load gives.
pub(crate) struct Loaded<T>(Arc<T>);

impl<T> ArcSwap<T> {
    pub(crate) fn from_pointee(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    pub(crate) fn load(&self) -> Loaded<T> {
        Loaded(self.load_full())
    }

    pub(crate) fn load_full(&self) -> Arc<T> {
        self.0.read().expect("nobody panics under it").clone()
    }

    pub(crate) fn store(&self, value: Arc<T>) {
        let mut place = self.0.write().expect("nobody panics under it");
        // The old one is dropped behind the lock.
        let old = std::mem::replace(&mut *place, value);
        drop(place);
        drop(old);
    }
}

impl<T> Deref for Loaded<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}

impl<T> fmt::Debug for ArcSwap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArcSwap")
    }
}

/// As `dashmap::DashMap`, with the methods that the row cache uses.
pub(crate) struct DashMap<K, V, S> {
    rows: RwLock<BTreeMap<K, V>>,
    hasher: S,
}

type Rows<V> = BTreeMap<Bytes, V>;

impl<V, S> DashMap<Bytes, V, S> {
    pub(crate) fn with_hasher_and_shard_amount(hasher: S, _shards: usize) -> Self {
        Self {
            rows: RwLock::default(),
            hasher,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Rows<V>> {
        self.rows.read().expect("nobody panics under it")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows<V>> {
        self.rows.write().expect("nobody panics under it")
    }

    pub(crate) fn hasher(&self) -> &S {
        &self.hasher
    }

    pub(crate) fn len(&self) -> usize {
        self.read().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Ref<'_, V>> {
        let rows = self.read();
        let key = Bytes::copy_from_slice(key);
        rows.contains_key(&key).then_some(Ref { rows, key })
    }

    pub(crate) fn get_mut(&self, key: &[u8]) -> Option<RefMut<'_, V>> {
        let rows = self.write();
        let key = Bytes::copy_from_slice(key);
        rows.contains_key(&key).then_some(RefMut { rows, key })
    }

    pub(crate) fn entry(&self, key: Bytes) -> Entry<'_, V> {
        let rows = self.write();
        let place = RefMut { rows, key };
        match place.rows.contains_key(&place.key) {
            true => Entry::Occupied(Occupied(place)),
            false => Entry::Vacant(Vacant(place)),
        }
    }

    pub(crate) fn remove(&self, key: &[u8]) -> Option<(Bytes, V)> {
        self.write().remove_entry(key)
    }

    pub(crate) fn retain(&self, keeps: impl FnMut(&Bytes, &mut V) -> bool) {
        self.write().retain(keeps);
    }
}

/// A row under the lock that readers share.
pub(crate) struct Ref<'a, V> {
    rows: RwLockReadGuard<'a, Rows<V>>,
    key: Bytes,
}

impl<V> Deref for Ref<'_, V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.rows[&self.key]
    }
}

/// A row, or the place of one, under the lock.
pub(crate) struct RefMut<'a, V> {
    rows: RwLockWriteGuard<'a, Rows<V>>,
    key: Bytes,
}

impl<V> Deref for RefMut<'_, V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.rows[&self.key]
    }
}

impl<V> DerefMut for RefMut<'_, V> {
    fn deref_mut(&mut self) -> &mut V {
        self.rows.get_mut(&self.key).expect("the row is there")
    }
}

pub(crate) enum Entry<'a, V> {
    Occupied(Occupied<'a, V>),
    Vacant(Vacant<'a, V>),
}

pub(crate) struct Occupied<'a, V>(RefMut<'a, V>);

impl<V> Occupied<'_, V> {
    pub(crate) fn get(&self) -> &V {
        &self.0
    }

    pub(crate) fn get_mut(&mut self) -> &mut V {
        &mut self.0
    }
}

pub(crate) struct Vacant<'a, V>(RefMut<'a, V>);

impl<V> Vacant<'_, V> {
    pub(crate) fn insert(self, value: V) {
        let mut place = self.0;
        let key = place.key.clone();
        place.rows.insert(key, value);
    }
}
