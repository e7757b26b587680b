//! The table of contents at the end of every file of the tree, checked before the tree reads it.
//!
//! The tree believes the number of entries before it has seen the checksum, and reserves memory for so many: one flipped bit
//! would ask for a hundred GiB and end the process, by a failure that can't be caught. So of every table that the
//! manifest names, the contents are compared with their checksum first. It costs two reads a table at an opening.
//!
//! | bytes from the end | field |
//! |---|---|
//! | 38 | magic `SFA!` |
//! | 34 | version 1, kind of checksum 0 |
//! | 32 | xxh3-128 of the contents |
//! | 16 | where they begin (u64) |
//! | 8 | their bytes (u64); they end where this trailer begins |
//!
//! The contents are `TOC!`, the number of entries (u32), and for each where it begins (u64), its bytes (u64), and its name
//! behind a length (u16). All numbers are little endian.

use crate::wire::Reader;
use std::{fs::File, io, os::unix::fs::FileExt};
use xxhash_rust::xxh3::xxh3_128;

const TRAILER_BYTES: usize = 38;
const MAGIC: &[u8] = b"SFA!\x01\x00";
const CONTENTS_MAGIC: &[u8] = b"TOC!";

struct Trailer {
    checksum: u128,
    begin: u64,
    bytes: u64,
}

impl Trailer {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.take(MAGIC.len())? != MAGIC {
            return None;
        }
        let checksum = reader.take(16)?.try_into().expect("sixteen bytes");
        Some(Self {
            checksum: u128::from_le_bytes(checksum),
            begin: reader.u64()?,
            bytes: reader.u64()?,
        })
    }
}

/// Whether a file's contents are what was written.
pub(super) fn are_right(file: &File) -> io::Result<bool> {
    let len = file.metadata()?.len();
    let Some(end) = len.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(false);
    };
    let mut trailer = [0; TRAILER_BYTES];
    file.read_exact_at(&mut trailer, end)?;
    let Some(trailer) = Trailer::read(&trailer) else {
        return Ok(false);
    };
    if trailer.begin.checked_add(trailer.bytes) != Some(end) {
        return Ok(false);
    }
    let Ok(bytes) = usize::try_from(trailer.bytes) else {
        return Ok(false);
    };
    let mut contents = vec![0; bytes];
    file.read_exact_at(&mut contents, trailer.begin)?;
    Ok(xxh3_128(&contents) == trailer.checksum)
}

/// The numbers of the tables that a manifest names; `None` if it can't be read.
pub(super) fn tables_of(manifest: &[u8]) -> Option<Vec<u64>> {
    let mut tables = Vec::new();
    let mut reader = Reader::new(section(manifest, b"tables")?);
    for _ in 0..reader.byte()? {
        for _ in 0..reader.byte()? {
            for _ in 0..reader.u32()? {
                tables.push(reader.u64()?);
                // Kind of checksum, checksum, sequence number.
                reader.take(1 + 16 + 8)?;
            }
        }
    }
    Some(tables)
}

fn section<'a>(file: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let trailer = Trailer::read(file.get(file.len().checked_sub(TRAILER_BYTES)?..)?)?;
    let mut contents = Reader::new(slice(file, trailer.begin, trailer.bytes)?);
    if contents.take(CONTENTS_MAGIC.len())? != CONTENTS_MAGIC {
        return None;
    }
    for _ in 0..contents.u32()? {
        let (begin, bytes) = (contents.u64()?, contents.u64()?);
        let len = contents.u16()?.into();
        if contents.take(len)? == wanted {
            return slice(file, begin, bytes);
        }
    }
    None
}

fn slice(file: &[u8], begin: u64, bytes: u64) -> Option<&[u8]> {
    let begin = usize::try_from(begin).ok()?;
    let end = begin.checked_add(usize::try_from(bytes).ok()?)?;
    file.get(begin..end)
}
