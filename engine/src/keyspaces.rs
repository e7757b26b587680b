//! The catalogue of keyspaces: which names exist, and under which number their keys are stored.
//!
//! Every stored key begins with the number of its keyspace. Numbers only rise and are never used twice: when a keyspace
//! is dropped its keys can't be named any more from that moment, and the stores may remove them at leisure; a keyspace
//! created later under the same name starts empty.
//!
//! The catalogue is plain data. It changes only by [`RecordBody::CreateKeyspace`] and [`RecordBody::DropKeyspace`]
//! records in the journal, and a checkpoint writes it down whole, with [`Keyspaces::next_id`].
//!
//! # Invariants
//!
//! - A name is 1 to 255 bytes of UTF-8 without control characters, and stands for at most one keyspace.
//! - There are at most [`MAX_KEYSPACES`].
//! - `next_id` is above every number ever given.
//! - Installing a record twice is installing it once.
//!
//! [`RecordBody::CreateKeyspace`]: crate::journal::record::RecordBody::CreateKeyspace
//! [`RecordBody::DropKeyspace`]: crate::journal::record::RecordBody::DropKeyspace

use crate::{
    error::{Error, Result},
    ids::KeyspaceId,
    store::Span,
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Most keyspaces at one time.
pub const MAX_KEYSPACES: usize = 4_096;

const FULL: &str =
    "there are 4,096 keyspaces already; drop some, or tell data apart by a prefix of the key";

/// The keyspaces that exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyspaces {
    by_name: BTreeMap<Arc<str>, KeyspaceId>,
    /// The same the other way round: whoever reads all keys of a tree asks it about each.
    by_id: BTreeMap<KeyspaceId, Arc<str>>,
    next_id: KeyspaceId,
}

impl Keyspaces {
    /// No keyspaces; the first will have number 1.
    #[must_use]
    pub fn new() -> Self {
        Self {
            by_name: BTreeMap::new(),
            by_id: BTreeMap::new(),
            next_id: KeyspaceId(1),
        }
    }

    /// The number under which a new keyspace of this name may be created. Nothing changes until
    /// [`Keyspaces::install_create`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKeyspaceName`] if the name breaks the rules or is taken, or if there are [`MAX_KEYSPACES`]
    /// already.
    pub fn plan_create(&self, name: &str) -> Result<KeyspaceId> {
        check_name(name)?;
        if self.by_name.contains_key(name) {
            return Err(invalid(name, "a keyspace has this name already"));
        }
        if self.by_name.len() >= MAX_KEYSPACES || self.next_id == KeyspaceId(u32::MAX) {
            return Err(invalid(name, FULL));
        }
        Ok(self.next_id)
    }

    /// Puts a created keyspace in: a record of the journal, or an entry of a checkpoint.
    ///
    /// # Errors
    ///
    /// What [`Keyspaces::plan_create`] would have refused, and a number that stands for another name, or that was given
    /// before: such a record was not written by this engine.
    pub fn install_create(&mut self, id: KeyspaceId, name: &str) -> Result<()> {
        if self.by_name.get(name) == Some(&id) {
            return Ok(());
        }
        self.plan_create(name)?;
        if id < self.next_id || id == KeyspaceId(u32::MAX) {
            return Err(invalid(name, "its number was given before"));
        }
        self.next_id = id.next();
        let name = Arc::<str>::from(name);
        self.by_name.insert(Arc::clone(&name), id);
        self.by_id.insert(id, name);
        Ok(())
    }

    /// Takes a dropped keyspace out; its name, or `None` if it is not there (any more).
    pub fn install_drop(&mut self, id: KeyspaceId) -> Option<String> {
        let name = self.by_id.remove(&id)?;
        self.by_name.remove(&name);
        Some(name.as_ref().to_owned())
    }

    /// Keeps numbers below `next_id` from being given: what a checkpoint says, since the last ones may be dropped.
    pub fn reserve_below(&mut self, next_id: KeyspaceId) {
        self.next_id = self.next_id.max(next_id);
    }

    /// The number that the next keyspace will have.
    #[must_use]
    pub fn next_id(&self) -> KeyspaceId {
        self.next_id
    }

    /// The number of the keyspace with this name.
    ///
    /// # Errors
    ///
    /// [`Error::KeyspaceNotFound`] if there is none.
    pub fn lookup(&self, name: &str) -> Result<KeyspaceId> {
        self.by_name
            .get(name)
            .copied()
            .ok_or_else(|| Error::KeyspaceNotFound {
                name: name.to_owned(),
            })
    }

    /// The name of a keyspace.
    #[must_use]
    pub fn name(&self, id: KeyspaceId) -> Option<&str> {
        self.by_id.get(&id).map(|name| &**name)
    }

    /// Whether a keyspace has this number.
    #[must_use]
    pub fn contains(&self, id: KeyspaceId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// All keyspaces by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, KeyspaceId)> {
        self.by_name.iter().map(|(name, id)| (&**name, *id))
    }

    /// The keys of all keyspaces that were dropped, whenever that was: what lies between those that are there. So there are
    /// at most one more spans than those, and what they cost does not depend on the numbers.
    #[must_use]
    pub fn dropped_spans(&self) -> Vec<Span> {
        let kept = self.by_id.keys().chain([&self.next_id]).map(|id| id.0);
        let mut spans = Vec::new();
        let mut from = 1;
        for id in kept {
            if from < id {
                let [low, end] = [from, id].map(|id| Bytes::copy_from_slice(&id.to_be_bytes()));
                spans.push(Span::new(low, Some(end)));
            }
            from = id.saturating_add(1);
        }
        spans
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

impl Default for Keyspaces {
    fn default() -> Self {
        Self::new()
    }
}

/// Checks a name against the rules.
///
/// # Errors
///
/// [`Error::InvalidKeyspaceName`] with the rule that it breaks.
pub fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(invalid(name, "a name has at least one byte"));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(invalid(name, "a name has at most 255 bytes"));
    }
    if name.chars().any(char::is_control) {
        return Err(invalid(name, "a name has no control characters"));
    }
    Ok(())
}

fn invalid(name: &str, reason: &'static str) -> Error {
    Error::InvalidKeyspaceName {
        name: name.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn create(keyspaces: &mut Keyspaces, name: &str) -> Result<KeyspaceId> {
        let id = keyspaces.plan_create(name)?;
        keyspaces.install_create(id, name)?;
        Ok(id)
    }

    #[test]
    fn what_was_dropped_is_as_many_spans_as_there_are_gaps_whatever_the_numbers() {
        let mut keyspaces = Keyspaces::new();
        assert_eq!(keyspaces.dropped_spans(), []);
        for (id, name) in [(3, "a"), (4, "b"), (9, "c")] {
            let created = keyspaces.install_create(KeyspaceId(id), name);
            created.expect("a new number");
        }
        let span = |from: u32, to: u32| {
            let [low, end] = [from, to].map(|id| Bytes::copy_from_slice(&id.to_be_bytes()));
            Span::new(low, Some(end))
        };
        assert_eq!(keyspaces.dropped_spans(), [span(1, 3), span(5, 9)]);
        keyspaces.reserve_below(KeyspaceId(u32::MAX));
        let spans = [span(1, 3), span(5, 9), span(10, u32::MAX)];
        assert_eq!(keyspaces.dropped_spans(), spans);
    }

    #[test]
    fn names_that_break_a_rule_are_refused_with_the_rule() {
        let long = "n".repeat(256);
        let refused = [
            ("", "a name has at least one byte"),
            (&long[..], "a name has at most 255 bytes"),
            ("a\nb", "a name has no control characters"),
            ("a\u{85}b", "a name has no control characters"),
        ];
        for (name, reason) in refused {
            let error = Keyspaces::new().plan_create(name);
            assert_eq!(error, Err(invalid(name, reason)));
        }
        for name in ["n", &long[1..], "Bücher 書", "../a b/c"] {
            assert_eq!(Keyspaces::new().plan_create(name), Ok(KeyspaceId(1)));
        }
    }

    #[test]
    fn a_taken_name_is_refused_and_planning_changes_nothing() {
        let mut keyspaces = Keyspaces::new();
        let id = create(&mut keyspaces, "users").unwrap();
        let before = keyspaces.clone();
        let reason = "a keyspace has this name already";
        assert_eq!(
            keyspaces.plan_create("users"),
            Err(invalid("users", reason))
        );
        assert_eq!(keyspaces.plan_create("posts"), Ok(id.next()));
        assert_eq!(keyspaces, before);
    }

    #[test]
    fn a_dropped_name_comes_back_with_another_number() {
        let mut keyspaces = Keyspaces::new();
        let first = create(&mut keyspaces, "users").unwrap();
        assert_eq!(keyspaces.install_drop(first), Some("users".into()));
        assert_eq!(keyspaces.install_drop(first), None);
        let name = "users".into();
        assert_eq!(
            keyspaces.lookup("users"),
            Err(Error::KeyspaceNotFound { name })
        );
        let second = create(&mut keyspaces, "users").unwrap();
        assert!(second > first);
        assert!(!keyspaces.contains(first) && keyspaces.contains(second));
    }

    #[test]
    fn the_number_of_keyspaces_is_capped_and_a_drop_makes_room() {
        let mut keyspaces = Keyspaces::new();
        for number in 0..MAX_KEYSPACES {
            create(&mut keyspaces, &number.to_string()).unwrap();
        }
        let refused = keyspaces.plan_create("one more");
        assert_eq!(refused, Err(invalid("one more", FULL)));
        keyspaces.install_drop(KeyspaceId(7));
        assert_eq!(create(&mut keyspaces, "one more"), Ok(KeyspaceId(4_097)));
    }

    #[test]
    fn records_that_contradict_the_catalogue_are_errors() {
        let mut keyspaces = Keyspaces::new();
        keyspaces.install_create(KeyspaceId(5), "users").unwrap();
        keyspaces.install_create(KeyspaceId(5), "users").unwrap();
        for (id, name) in [
            (5, "posts"),
            (4, "posts"),
            (6, "users"),
            (u32::MAX, "posts"),
        ] {
            assert!(keyspaces.install_create(KeyspaceId(id), name).is_err());
        }
        assert_eq!(Vec::from_iter(keyspaces.iter()), [("users", KeyspaceId(5))]);
        assert_eq!(keyspaces.next_id(), KeyspaceId(6));
    }

    proptest! {
        #[test]
        fn a_number_is_never_given_twice_even_through_a_checkpoint(
            steps in prop::collection::vec((0_u8..6, any::<bool>(), any::<bool>()), 0..40),
        ) {
            let mut keyspaces = Keyspaces::new();
            let mut given = Vec::new();
            for (name, drop, checkpoint) in steps {
                let name = name.to_string();
                if drop {
                    if let Ok(id) = keyspaces.lookup(&name) {
                        keyspaces.install_drop(id);
                    }
                } else if let Ok(id) = create(&mut keyspaces, &name) {
                    prop_assert!(given.iter().all(|earlier| *earlier < id));
                    prop_assert_eq!(keyspaces.name(id), Some(&name[..]));
                    given.push(id);
                }
                if checkpoint {
                    let mut read = Keyspaces::new();
                    let mut entries = Vec::from_iter(keyspaces.iter());
                    entries.sort_by_key(|(_, id)| *id);
                    for (name, id) in entries {
                        read.install_create(id, name).unwrap();
                    }
                    read.reserve_below(keyspaces.next_id());
                    prop_assert_eq!(&read, &keyspaces);
                    keyspaces = read;
                }
            }
        }
    }
}
