//! Which directories something is in, and in which one a node lives.

use crate::ids::{DirectoryNo, NodeId};

/// So many directories an engine can have.
pub const MAX_DIRECTORIES: usize = 64;

/// Some directories; never none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectorySet(u64);

impl DirectorySet {
    /// One directory.
    ///
    /// # Panics
    ///
    /// Panics if its number is not below [`MAX_DIRECTORIES`].
    #[must_use]
    pub fn of(directory: DirectoryNo) -> Self {
        assert!(
            usize::from(directory.0) < MAX_DIRECTORIES,
            "there is no directory {directory}"
        );
        Self(1 << directory.0)
    }

    /// The set that has these bits; `None` if there is none.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }

    /// A bit for each directory.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The directories of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether a directory is in it.
    #[must_use]
    pub fn contains(self, directory: DirectoryNo) -> bool {
        self.meets(Self::of(directory).0)
    }

    /// Whether one of the directories with these bits is in it.
    #[must_use]
    pub fn meets(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// Whether there is more than one.
    #[must_use]
    pub fn is_several(self) -> bool {
        self.0.count_ones() > 1
    }

    /// The directories, in order.
    pub fn iter(self) -> impl Iterator<Item = DirectoryNo> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let number = left.trailing_zeros();
            // Without the lowest; of nothing there is nothing to be taken.
            left &= left.wrapping_sub(1);
            (number < u64::BITS).then(|| DirectoryNo(u8::try_from(number).expect("below 64")))
        })
    }
}

/// In which directory each node lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    directories: u8,
    listed: Vec<DirectoryNo>,
}

impl Placement {
    /// The nodes of `listed`, by number, live there; those that come later one after the other in each of `directories`.
    ///
    /// # Panics
    ///
    /// Panics if there are no directories, too many, or fewer than are listed.
    #[must_use]
    pub fn new(directories: usize, listed: Vec<DirectoryNo>) -> Self {
        assert!(
            (1..=MAX_DIRECTORIES).contains(&directories)
                && listed.iter().all(|one| usize::from(one.0) < directories),
            "{directories} directories, and nodes in {listed:?}"
        );
        Self {
            directories: u8::try_from(directories).expect("64 at most"),
            listed,
        }
    }

    /// How many directories there are.
    #[must_use]
    pub fn directories(&self) -> usize {
        self.directories.into()
    }

    /// Where a node lives.
    #[must_use]
    pub fn of(&self, node: NodeId) -> DirectoryNo {
        self.listed
            .get(usize::from(node.0))
            .copied()
            .unwrap_or_else(|| self.in_turn(node))
    }

    /// Where a node lives of which nobody says where: one after the other in each directory.
    #[must_use]
    pub fn in_turn(&self, node: NodeId) -> DirectoryNo {
        let number = node.0 % u16::from(self.directories);
        DirectoryNo(u8::try_from(number).expect("64 at most"))
    }

    /// Where the first so many nodes live.
    #[must_use]
    pub fn list(&self, nodes: usize) -> Vec<DirectoryNo> {
        let listed = (0..).map(NodeId).map(|node| self.of(node));
        listed.take(nodes.max(self.listed.len())).collect()
    }
}

impl Default for Placement {
    /// Everything is at home.
    fn default() -> Self {
        Self::new(1, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_tells_its_directories_in_order() {
        let set = DirectorySet::of(DirectoryNo(63)).and(DirectorySet::of(DirectoryNo(2)));
        let found: Vec<_> = set.iter().collect();
        assert_eq!(found, [DirectoryNo(2), DirectoryNo(63)]);
        assert!(set.contains(DirectoryNo(63)) && !set.contains(DirectoryNo(0)));
        assert!(set.is_several() && !DirectorySet::of(DirectoryNo(63)).is_several());
        assert_eq!(DirectorySet::from_bits(set.bits()), Some(set));
        assert_eq!(DirectorySet::from_bits(0), None);
    }

    #[test]
    fn a_node_that_is_listed_stays_when_directories_come() {
        let two = Placement::new(2, vec![DirectoryNo(1)]);
        let places =
            |placement: &Placement| placement.list(6).iter().map(|d| d.0).collect::<Vec<_>>();
        assert_eq!(places(&two), [1, 1, 0, 1, 0, 1]);
        let three = Placement::new(3, two.list(4));
        assert_eq!(places(&three), [1, 1, 0, 1, 1, 2]);
        assert_eq!(places(&Placement::default()), [0; 6]);
    }
}
