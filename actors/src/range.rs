//! Ranges of keys, as a scan takes them.

use std::ops::{
    Bound, Range, RangeBounds, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive,
};

/// A range of keys: `..`, `"a".."c"`, `key..`, `..=key`, or a pair of [`Bound`]s. Keys are whatever is bytes.
///
/// The trait of the standard library leaves open what `..` is a range of; this one does not, so that `scan(..)` needs no
/// type.
pub trait KeyRange {
    /// Where the range begins.
    fn low(&self) -> Bound<&[u8]>;
    /// Where it ends.
    fn high(&self) -> Bound<&[u8]>;
}

impl KeyRange for RangeFull {
    fn low(&self) -> Bound<&[u8]> {
        Bound::Unbounded
    }

    fn high(&self) -> Bound<&[u8]> {
        Bound::Unbounded
    }
}

macro_rules! key_ranges {
    ($($range:ty),+) => {$(
        impl<K: AsRef<[u8]>> KeyRange for $range {
            fn low(&self) -> Bound<&[u8]> {
                self.start_bound().map(AsRef::as_ref)
            }

            fn high(&self) -> Bound<&[u8]> {
                self.end_bound().map(AsRef::as_ref)
            }
        }
    )+};
}

key_ranges!(
    Range<K>,
    RangeFrom<K>,
    RangeInclusive<K>,
    RangeTo<K>,
    RangeToInclusive<K>,
    (Bound<K>, Bound<K>)
);
