//! Damaged trees: whatever a byte on disk becomes, a read gives the right data or says which file is corrupt.

use crate::{NODE, READINGS, Reading, entry, folder, open_reading};
use bytes::Bytes;
use mailring_engine::{
    error::{Error, Result},
    store::StoreView,
};
use std::{
    fs,
    ops::Bound::Unbounded,
    path::{Path, PathBuf},
};

/// Two runs that overlap, one of them compacted, in blocks of a few keys.
fn build(reading: Reading, folder: &Path) -> Vec<(Bytes, Bytes)> {
    let store = open_reading(reading, folder).unwrap();
    let keys = |from: u8| (from..40).step_by(2).map(|n| [b'k', n]);
    let first: Vec<_> = keys(0)
        .map(|key| entry(&key, Some(&[key[1]; 20])))
        .collect();
    let second: Vec<_> = keys(1).map(|key| entry(&key, Some(&[key[1]; 9]))).collect();
    store.ingest(&mut first.into_iter()).unwrap();
    store.ingest(&mut second.into_iter()).unwrap();
    store.maintain().unwrap();
    store.maintain().unwrap();
    let third = keys(0).map(|key| entry(&key, (key[1] % 3 == 0).then_some(b"new")));
    store
        .ingest(&mut third.collect::<Vec<_>>().into_iter())
        .unwrap();
    assert_eq!(store.stats().runs, 2);
    read(store.view().as_ref()).unwrap()
}

fn read(view: &dyn StoreView) -> Result<Vec<(Bytes, Bytes)>> {
    view.range(Unbounded, Unbounded).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to.join(file.file_name()));
        } else {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn assert_names(error: &Error, file: &Path, what: &str) {
    match error {
        Error::CorruptTree {
            node, file: named, ..
        } => {
            assert_eq!(*node, NODE, "{what}");
            assert_eq!(named.file_name(), file.file_name(), "{what}: {error}");
        }
        other => panic!("{what}: {other}"),
    }
}

/// Opens and reads a damaged tree in every way there is. Returns whether anything noticed.
fn read_damaged(
    reading: Reading,
    folder: &Path,
    expected: &[(Bytes, Bytes)],
    file: &Path,
    what: &str,
) -> bool {
    let store = match open_reading(reading, folder) {
        Ok(store) => store,
        Err(error) => {
            assert_names(&error, file, what);
            return true;
        }
    };
    let view = store.view();
    let mut noticed = false;
    let mut note = |result: Result<bool>| match result {
        Ok(right) => assert!(right, "{what}: wrong data"),
        Err(error) => {
            assert_names(&error, file, what);
            noticed = true;
        }
    };
    for number in 0..40_u8 {
        let key = [b'k', number];
        let value = expected
            .iter()
            .find(|(k, _)| **k == key)
            .map(|(_, value)| value);
        note(view.get(&key).map(|found| found.as_ref() == value));
    }
    note(read(view.as_ref()).map(|found| found == expected));
    let backward: Result<Vec<_>> = view.range(Unbounded, Unbounded).rev().collect();
    note(backward.map(|found| found.iter().rev().eq(expected)));
    let verified = store.verify();
    assert!(verified.is_err(), "{what}: verify must find it");
    note(verified.map(|_| true));
    note(store.maintain().map(|()| true));
    noticed
}

#[test]
fn a_flipped_byte_is_reported_with_its_file_or_harmless_but_never_wrong_data() {
    for reading in READINGS {
        flip_bytes(reading);
    }
}

fn flip_bytes(reading: Reading) {
    let folder = folder();
    let original = folder.path().join("original");
    let expected = build(reading, &original);
    let damaged = folder.path().join("damaged");
    for file in files(&original) {
        let contents = fs::read(&file).unwrap();
        let relative = file.strip_prefix(&original).unwrap();
        // Every seventh byte, and each near the end, where the file's own directory is.
        let near_end = contents.len().saturating_sub(64);
        let offsets = (0..contents.len()).filter(|at| at % 7 == 0 || *at > near_end);
        for offset in offsets {
            if damaged.exists() {
                fs::remove_dir_all(&damaged).unwrap();
            }
            copy(&original, &damaged);
            let path = damaged.join(relative);
            let mut flipped = contents.clone();
            flipped[offset] ^= 1 << (offset % 8);
            fs::write(&path, flipped).unwrap();
            let what = format!("{} byte {offset}", relative.display());
            if relative == Path::new("current") {
                // The pointer has no checksum: the manifest it points to is named where that is what fails.
                let error = open_reading(reading, &damaged)
                    .err()
                    .unwrap_or_else(|| panic!("{what}: opened"));
                assert!(
                    matches!(error, Error::CorruptTree { node: NODE, .. }),
                    "{what}: {error}"
                );
            } else {
                assert!(
                    read_damaged(reading, &damaged, &expected, &path, &what),
                    "{what}: unnoticed"
                );
            }
        }
    }
}

#[test]
fn a_cut_or_missing_file_is_reported_by_name() {
    for reading in READINGS {
        cut_files(reading);
    }
}

fn cut_files(reading: Reading) {
    let folder = folder();
    let original = folder.path().join("original");
    build(reading, &original);
    for (round, file) in files(&original).into_iter().enumerate() {
        let relative = file.strip_prefix(&original).unwrap();
        let contents = fs::read(&file).unwrap();
        for len in [0, contents.len() / 2, contents.len() - 1] {
            let damaged = folder.path().join(format!("cut {round} {len}"));
            copy(&original, &damaged);
            fs::write(damaged.join(relative), &contents[..len]).unwrap();
            let what = format!("{} cut to {len}", relative.display());
            let error = open_reading(reading, &damaged)
                .err()
                .unwrap_or_else(|| panic!("{what}: opened"));
            assert_names(&error, relative, &what);
        }
        let damaged = folder.path().join(format!("without {round}"));
        copy(&original, &damaged);
        fs::remove_file(damaged.join(relative)).unwrap();
        let what = format!("without {}", relative.display());
        let error = open_reading(reading, &damaged)
            .err()
            .unwrap_or_else(|| panic!("{what}: opened"));
        assert!(
            matches!(error, Error::CorruptTree { node: NODE, .. }),
            "{what}: {error}"
        );
        assert!(
            damaged.join("tables").read_dir().unwrap().count() > 0,
            "{what}: nothing is removed"
        );
    }
}

/// The tree reserves memory for as many entries as a table's contents claim, before it looks at their checksum: one
/// flipped bit asked for 91 GB, which ended the process.
#[test]
fn a_table_that_claims_two_billion_entries_is_reported_and_not_believed() {
    let folder = folder();
    build(Reading::Held, folder.path());
    for file in files(folder.path()) {
        let mut contents = fs::read(&file).unwrap();
        let is_table = file.parent().unwrap().ends_with("tables");
        let Some(begin) = contents.windows(4).rposition(|bytes| bytes == b"TOC!") else {
            assert!(!is_table, "a table has contents");
            continue;
        };
        let whole = contents.clone();
        contents[begin + 7] ^= 0x80;
        fs::write(&file, &contents).unwrap();
        let error = open_reading(Reading::Held, folder.path()).err().unwrap();
        assert_names(&error, &file, "its number of entries");
        fs::write(&file, &whole).unwrap();
    }
    open_reading(Reading::Held, folder.path()).unwrap();
}
