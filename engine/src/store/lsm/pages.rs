//! The index of a table in memory: where each data block begins, and its last key.
//!
//! All keys stand in one buffer, so a search touches two arrays and no pointer per block. It costs about 16 bytes and a
//! key for each block of 4 KiB.

use lsm_tree::table::{BlockHandle, BlockOffset, IndexBlock};

#[derive(Clone, Copy)]
struct Page {
    offset: u64,
    size: u32,
    /// Where its last key ends in `keys`; it begins where the one of the page before ends.
    key_end: u32,
}

/// The data blocks of one table, in key order.
#[derive(Default)]
pub(super) struct Pages {
    keys: Vec<u8>,
    pages: Vec<Page>,
}

impl Pages {
    /// Reads an index block; `None` if it is too large to be held this way.
    pub(super) fn read(block: &IndexBlock) -> Option<Self> {
        let bytes = block.as_slice();
        let mut read = Self::default();
        read.pages.reserve_exact(block.len());
        for entry in block.iter() {
            if let Some(prefix) = &entry.prefix {
                read.keys.extend_from_slice(&bytes[prefix.0..prefix.1]);
            }
            let rest = &entry.end_key;
            read.keys.extend_from_slice(&bytes[rest.0..rest.1]);
            read.pages.push(Page {
                offset: *entry.offset,
                size: entry.size,
                key_end: read.keys.len().try_into().ok()?,
            });
        }
        read.keys.shrink_to_fit();
        Some(read)
    }

    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.keys.len() + self.pages.len() * size_of::<Page>()
    }

    /// Where the block is in the file.
    pub(super) fn handle(&self, page: usize) -> BlockHandle {
        let page = self.pages[page];
        BlockHandle::new(BlockOffset(page.offset), page.size)
    }

    /// The first page whose last key is not before `key`: the only one that can hold it. `len()` if all end before.
    pub(super) fn find(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.pages.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.last_key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn last_key(&self, page: usize) -> &[u8] {
        let begin = match page {
            0 => 0,
            _ => self.pages[page - 1].key_end as usize,
        };
        &self.keys[begin..self.pages[page].key_end as usize]
    }
}
