//! A sample of what was put, to be read back at the end.

use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// Keys remembered.
const SIZE: usize = 256;

/// The keys with the lowest hashes, each with the hash of its newest value. Whether a key belongs to the sample depends
/// on the key alone, so a later line of the same key finds it there and replaces the value.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    by_hash: BTreeMap<u64, (Vec<u8>, u64)>,
}

impl Sample {
    pub(crate) fn offer(&mut self, key: &[u8], value: &[u8]) {
        let hash = xxh3_64(key);
        let is_full = self.by_hash.len() >= SIZE;
        if is_full
            && self
                .by_hash
                .last_key_value()
                .is_some_and(|(last, _)| hash > *last)
        {
            return;
        }
        self.by_hash.insert(hash, (key.to_vec(), xxh3_64(value)));
        if self.by_hash.len() > SIZE {
            self.by_hash.pop_last();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// The first key whose value, as `read` finds it, is not the one that was offered last.
    pub(crate) fn first_wrong<E>(
        &self,
        read: impl Fn(&[u8]) -> Result<Option<u64>, E>,
    ) -> Result<Option<&[u8]>, E> {
        for (key, value) in self.by_hash.values() {
            if read(key)? != Some(*value) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}

/// What [`Sample`] compares of a value.
pub(crate) fn value_hash(value: &[u8]) -> u64 {
    xxh3_64(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_sample_holds_the_last_value_of_each_of_its_keys() {
        let mut sample = Sample::default();
        let mut truth = HashMap::new();
        for number in 0..20_000u32 {
            let (key, value) = (format!("{}", number * 7919 % 3000), number.to_le_bytes());
            sample.offer(key.as_bytes(), &value);
            truth.insert(key.into_bytes(), value_hash(&value));
        }
        assert_eq!(sample.len(), SIZE);
        let read = |key: &[u8]| Ok::<_, ()>(truth.get(key).copied());
        assert_eq!(sample.first_wrong(read), Ok(None));
        let lost = sample.by_hash.values().next().unwrap().0.clone();
        let lossy = |key: &[u8]| Ok::<_, ()>(truth.get(key).copied().filter(|_| key != lost));
        assert_eq!(sample.first_wrong(lossy), Ok(Some(&lost[..])));
    }
}
