//! Reading one table: a key, or a range in either direction.
//!
//! The tree's own table reads are right, but built for its way of use: a range looks its lower bound up again in each
//! block, wraps each pair in several iterators, and a table that was just ingested keeps neither index nor filter in
//! memory until the tree is opened again. Here a range finds its first block in [`Pages`] and hands its pairs out as
//! slices of it. What is the tree's stays the tree's: files, blocks, their checksums and their decoding, the cache and the
//! open files.
//!
//! Forward, a pair is decoded when it is asked for: most of what a short scan costs is memory that was not touched before,
//! and of a block it needs only a part. That is possible where each key is stored whole. Backward, and where keys share
//! prefixes, the places of a block's pairs are decoded at once.
//!
//! A table for which the allowance of [`Pins`] does not last is read by the tree's own means.

use super::{
    super::{RunEntry, runs::Direction},
    integrity::{Place, guarded},
    pages::Pages,
    pins::{Pin, Pins},
};
use crate::{error::Result, ids::NodeId};
use bytes::{BufMut, Bytes, BytesMut};
use lsm_tree::{
    CompressionType, DescriptorTable, GlobalTableId, InternalValue, SeqNo, Slice, Table, TreeId,
    table::{
        Block, BlockHandle, DataBlock, IndexBlock,
        block::{BlockType, decoder::Decodable},
        data_block::DataBlockParsedItem,
        filter::block::FilterBlock,
    },
};
use std::{
    cmp::Ordering,
    fs::File,
    io::Cursor,
    ops::{Bound, Range},
    sync::Arc,
};

const OVERLONG: &str = "a block holds a pair that reaches beyond its end";

/// A table, and what of it is held in memory.
pub(super) struct TableReader {
    node: NodeId,
    /// Keeps the file.
    pub(super) table: Table,
    id: GlobalTableId,
    descriptors: Arc<DescriptorTable>,
    held: Option<Held>,
}

struct Held {
    pages: Pages,
    filter: Option<FilterBlock>,
    /// Every key is stored whole, so that a pair can be decoded without the ones before it.
    has_whole_keys: bool,
    _pin: Pin,
}

impl TableReader {
    pub(super) fn new(
        node: NodeId,
        tree: TreeId,
        table: &Table,
        descriptors: &Arc<DescriptorTable>,
        pins: &Pins,
    ) -> Self {
        let mut reader = Self {
            node,
            table: table.clone(),
            id: (tree, table.id()).into(),
            descriptors: Arc::clone(descriptors),
            held: None,
        };
        // What can't be read now is no error yet: whoever reads the table meets it, and says so.
        reader.held = guarded(reader.place(), || reader.load(pins)).ok().flatten();
        reader
    }

    fn place(&self) -> Place<'_> {
        Place {
            node: self.node,
            file: &self.table.path,
        }
    }

    fn load(&self, pins: &Pins) -> lsm_tree::Result<Option<Held>> {
        let regions = &self.table.regions;
        let is_partitioned = regions.index.is_some() || regions.filter_tli.is_some();
        let size = u64::from(regions.tli.size()) + u64::from(self.table.filter_size());
        if is_partitioned || !pins.has_room(size) {
            return Ok(None);
        }
        let file = self.file()?;
        let compression = self.table.metadata.index_block_compression;
        let index = read_block(&file, regions.tli, BlockType::Index, compression)?;
        let pages = Pages::read(&IndexBlock::new(index));
        let Some(pages) = pages.filter(|pages| pages.len() > 0) else {
            return Ok(None);
        };
        let filter = match regions.filter {
            Some(handle) => {
                let block = read_block(&file, handle, BlockType::Filter, CompressionType::None)?;
                Some(FilterBlock::new(block))
            }
            None => None,
        };
        let has_whole_keys = self.has_whole_keys(pages.handle(0))?;
        let bytes = pages.bytes() + filter.as_ref().map_or(0, FilterBlock::size);
        Ok(pins.take(bytes).map(|pin| Held {
            pages,
            filter,
            has_whole_keys,
            _pin: pin,
        }))
    }

    /// Judges by the first block: a table is written in one way throughout, but its first key is whole in any case.
    fn has_whole_keys(&self, first: BlockHandle) -> lsm_tree::Result<bool> {
        let block = DataBlock::new(self.data_block(first)?);
        let second = block.iter().nth(1);
        Ok(second.is_some_and(|place| place.prefix.is_none()))
    }

    fn file(&self) -> lsm_tree::Result<Arc<File>> {
        if let Some(file) = self.descriptors.access_for_table(&self.id) {
            return Ok(file);
        }
        let file = Arc::new(File::open(&*self.table.path)?);
        self.descriptors
            .insert_for_table(self.id, Arc::clone(&file));
        Ok(file)
    }

    fn data_block(&self, handle: BlockHandle) -> lsm_tree::Result<Block> {
        let cache = &self.table.cache;
        if let Some(block) = cache.get_block(self.id, handle.offset()) {
            return Ok(block);
        }
        let compression = self.table.metadata.data_block_compression;
        let block = read_block(&*self.file()?, handle, BlockType::Data, compression)?;
        cache.insert_block(self.id, handle.offset(), block.clone());
        Ok(block)
    }

    /// The entry of a key, tombstones included.
    pub(super) fn get(&self, key: &[u8], hash: u64) -> Result<Option<InternalValue>> {
        guarded(self.place(), || {
            let Some(held) = &self.held else {
                return self.table.get(key, SeqNo::MAX, hash);
            };
            if let Some(filter) = &held.filter
                && !filter.maybe_contains_hash(hash)?
            {
                return Ok(None);
            }
            let page = held.pages.find(key);
            if page == held.pages.len() {
                return Ok(None);
            }
            let block = self.data_block(held.pages.handle(page))?;
            Ok(DataBlock::new(block).point_read(key, SeqNo::MAX))
        })
    }

    /// The entries in one direction, tombstones included, from `start` on.
    pub(super) fn cursor(
        self: &Arc<Self>,
        direction: Direction,
        start: Bound<Slice>,
    ) -> TableCursor {
        let Some(held) = &self.held else {
            let range = match direction {
                Direction::Forward => (start, Bound::Unbounded),
                Direction::Backward => (Bound::Unbounded, start),
            };
            return TableCursor::Foreign {
                reader: Arc::clone(self),
                direction,
                entries: Box::new(self.table.range(range)),
            };
        };
        let all = 0..held.pages.len();
        let left = match (&start, direction) {
            (Bound::Unbounded, _) => all,
            (Bound::Included(key) | Bound::Excluded(key), Direction::Forward) => {
                held.pages.find(key)..all.end
            }
            (Bound::Included(key) | Bound::Excluded(key), Direction::Backward) => {
                0..all.end.min(held.pages.find(key) + 1)
            }
        };
        if held.has_whole_keys && direction == Direction::Forward {
            return TableCursor::Forward(ForwardCursor {
                reader: Arc::clone(self),
                left,
                start,
                block: Bytes::new(),
                first: None,
                next: 0,
            });
        }
        TableCursor::Pages(PageCursor {
            reader: Arc::clone(self),
            direction,
            left,
            start,
            block: Bytes::new(),
            places: Vec::new(),
            unread: 0..0,
        })
    }
}

fn read_block(
    file: &File,
    handle: BlockHandle,
    expected: BlockType,
    compression: CompressionType,
) -> lsm_tree::Result<Block> {
    let block = Block::from_file(file, handle, compression)?;
    let found = block.header.block_type;
    if found == expected {
        Ok(block)
    } else {
        Err(lsm_tree::Error::InvalidTag(("BlockType", found.into())))
    }
}

/// Reads a table in one direction.
pub(super) enum TableCursor {
    Forward(ForwardCursor),
    Pages(PageCursor),
    /// By the tree's own means.
    Foreign {
        reader: Arc<TableReader>,
        direction: Direction,
        entries: Box<dyn DoubleEndedIterator<Item = lsm_tree::Result<InternalValue>> + Send>,
    },
}

impl TableCursor {
    /// The next entry; `None` at the end of the table.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<RunEntry>> {
        match self {
            Self::Forward(cursor) => cursor.next(),
            Self::Pages(cursor) => cursor.next(),
            Self::Foreign {
                reader,
                direction,
                entries,
            } => {
                let next = guarded(reader.place(), || match direction {
                    Direction::Forward => entries.next().transpose(),
                    Direction::Backward => entries.next_back().transpose(),
                });
                Ok(next?.map(into_entry))
            }
        }
    }
}

/// A pair of the tree as ours; the tombstone's value is `None`.
pub(super) fn into_entry(entry: InternalValue) -> RunEntry {
    let value = (!entry.is_tombstone()).then(|| entry.value.into());
    (entry.key.user_key.into(), value)
}

/// Reads forward pair by pair, where every key is stored whole.
pub(super) struct ForwardCursor {
    reader: Arc<TableReader>,
    /// Pages that are not opened yet.
    left: Range<usize>,
    /// Where to start within the first page.
    start: Bound<Slice>,
    block: Bytes,
    /// The first pair of the range, found in the block.
    first: Option<DataBlockParsedItem>,
    /// Where the next pair begins in the block.
    next: usize,
}

impl ForwardCursor {
    #[inline]
    fn next(&mut self) -> Result<Option<RunEntry>> {
        loop {
            let place = match self.first.take() {
                Some(place) => Some(place),
                None => self.decode()?,
            };
            if let Some(place) = place {
                self.next = end_of(&place);
                if self.next > self.block.len() {
                    return Err(self.reader.place().corrupt(OVERLONG));
                }
                return Ok(Some(entry_at(&self.block, &place)));
            }
            if !self.open_next()? {
                return Ok(None);
            }
        }
    }

    /// The pair that comes next in the block, `None` at the block's end.
    #[inline]
    fn decode(&self) -> Result<Option<DataBlockParsedItem>> {
        let (block, next) = (&self.block, self.next);
        if next >= block.len() {
            return Ok(None);
        }
        guarded(self.reader.place(), || {
            Ok(InternalValue::parse_full(
                &mut Cursor::new(&block[next..]),
                next,
            ))
        })
    }

    /// Opens the next page; false at the end.
    fn open_next(&mut self) -> Result<bool> {
        let (Some(page), Some(held)) = (self.left.next(), &self.reader.held) else {
            return Ok(false);
        };
        let start = std::mem::replace(&mut self.start, Bound::Unbounded);
        let reader = &self.reader;
        (self.block, self.first, self.next) = guarded(reader.place(), || {
            let block = reader.data_block(held.pages.handle(page))?;
            let (first, next) = first_place(&block, &start);
            Ok((Bytes::from(block.data), first, next))
        })?;
        Ok(true)
    }
}

/// The first pair within the bound if that had to be looked for, and where to go on if there is none.
fn first_place(block: &Block, start: &Bound<Slice>) -> (Option<DataBlockParsedItem>, usize) {
    if matches!(start, Bound::Unbounded) {
        return (None, 0);
    }
    let block = DataBlock::new(block.clone());
    let mut places = block.iter();
    match start {
        Bound::Unbounded => true,
        Bound::Included(key) => places.seek(key),
        Bound::Excluded(key) => places.seek_exclusive(key),
    };
    (places.next(), block.inner.data.len())
}

/// Reads page by page: the places of a page's pairs are decoded at once.
pub(super) struct PageCursor {
    reader: Arc<TableReader>,
    direction: Direction,
    /// Pages that are not opened yet.
    left: Range<usize>,
    /// Where to start within the first page.
    start: Bound<Slice>,
    block: Bytes,
    places: Vec<DataBlockParsedItem>,
    unread: Range<usize>,
}

impl PageCursor {
    #[inline]
    fn next(&mut self) -> Result<Option<RunEntry>> {
        loop {
            let place = match self.direction {
                Direction::Forward => self.unread.next(),
                Direction::Backward => self.unread.next_back(),
            };
            if let Some(place) = place {
                return Ok(Some(entry_at(&self.block, &self.places[place])));
            }
            if !self.open_next()? {
                return Ok(None);
            }
        }
    }

    /// Opens the next page; false at the end.
    fn open_next(&mut self) -> Result<bool> {
        let page = match self.direction {
            Direction::Forward => self.left.next(),
            Direction::Backward => self.left.next_back(),
        };
        let (Some(page), Some(held)) = (page, &self.reader.held) else {
            return Ok(false);
        };
        let (reader, places) = (&self.reader, &mut self.places);
        places.clear();
        self.block = guarded(reader.place(), || {
            let block = DataBlock::new(reader.data_block(held.pages.handle(page))?);
            places.extend(block.iter());
            Ok(Bytes::from(block.inner.data))
        })?;
        let len = self.block.len();
        if places.iter().any(|place| end_of(place) > len) {
            return Err(reader.place().corrupt(OVERLONG));
        }
        self.unread = 0..self.places.len();
        let start = std::mem::replace(&mut self.start, Bound::Unbounded);
        let before = |key: &Slice, or_equal: bool| {
            self.places.partition_point(|place| {
                let order = compare(&self.block, place, key);
                order.is_lt() || (or_equal && order.is_eq())
            })
        };
        match (start, self.direction) {
            (Bound::Unbounded, _) => {}
            (Bound::Included(key), Direction::Forward) => self.unread.start = before(&key, false),
            (Bound::Excluded(key), Direction::Forward) => self.unread.start = before(&key, true),
            (Bound::Included(key), Direction::Backward) => self.unread.end = before(&key, true),
            (Bound::Excluded(key), Direction::Backward) => self.unread.end = before(&key, false),
        }
        Ok(true)
    }
}

/// The end of what a pair takes of its block.
fn end_of(place: &DataBlockParsedItem) -> usize {
    let prefix = place.prefix.as_ref().map_or(0, |prefix| prefix.1);
    let value = place.value.as_ref().map_or(0, |value| value.1);
    prefix.max(place.key.1).max(value)
}

fn compare(block: &[u8], place: &DataBlockParsedItem, key: &[u8]) -> Ordering {
    let rest = &block[place.key.0..place.key.1];
    match &place.prefix {
        None => rest.cmp(key),
        Some(prefix) => {
            let prefix = &block[prefix.0..prefix.1];
            prefix.iter().chain(rest).cmp(key)
        }
    }
}

#[inline]
fn entry_at(block: &Bytes, place: &DataBlockParsedItem) -> RunEntry {
    let key = match &place.prefix {
        None => block.slice(place.key.0..place.key.1),
        Some(prefix) => {
            let (prefix, rest) = (&block[prefix.0..prefix.1], &block[place.key.0..place.key.1]);
            let mut key = BytesMut::with_capacity(prefix.len() + rest.len());
            key.put_slice(prefix);
            key.put_slice(rest);
            key.freeze()
        }
    };
    let value = place.value.as_ref();
    (key, value.map(|value| block.slice(value.0..value.1)))
}
