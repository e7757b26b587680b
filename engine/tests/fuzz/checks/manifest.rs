//! The manifest, as a file and behind its checksum, and the file that says which directory of an engine this is.

use super::{
    Outcome,
    disk::{Files, disk_of},
    format,
};
use mailring_engine::{
    directories::{IDENTITY_FILE, Identity},
    disk::{Disk as _, MemoryDisk},
    error::{Error, Result},
    manifest::{MANIFEST_FILE, Manifest},
};
use std::path::Path;

/// A whole file.
pub(crate) fn manifest(input: &[u8]) -> Outcome {
    check(input.to_vec())
}

/// The file of a directory beside the first.
pub(crate) fn identity(input: &[u8]) -> Outcome {
    let files = Files::from([(IDENTITY_FILE.to_owned(), input.to_vec())]);
    let disk = disk_of(&files);
    match Identity::load_with_opening(&*disk) {
        Ok(found) => {
            let (identity, opening) = found.expect("there is one");
            let copy = MemoryDisk::new();
            identity
                .save(&copy, opening)
                .expect("a disk in memory takes all");
            let file = copy.open(IDENTITY_FILE).expect("it was written");
            let mut again = vec![0; input.len()];
            file.read_at(&mut again, 0).expect("it is as long");
            assert_eq!(again, input);
            Outcome::Taken
        }
        Err(Error::CorruptManifest { file, .. } | Error::NewerFormat { file, .. }) => {
            assert_eq!(file, Path::new(IDENTITY_FILE));
            Outcome::Refused
        }
        Err(other) => panic!("not an error of this file: {other}"),
    }
}

/// Sections in an envelope that checks.
pub(crate) fn sections(input: &[u8]) -> Outcome {
    check(format::manifest(1, input))
}

fn check(contents: Vec<u8>) -> Outcome {
    let files = Files::from([(MANIFEST_FILE.to_owned(), contents)]);
    let disk = disk_of(&files);
    match load(&disk) {
        Ok(manifest) => {
            // What it says of keyspaces may contradict itself, which is found when they are asked for.
            if let Err(error) = manifest.keyspaces(&*disk) {
                names_the_file(&error);
            }
            let copy = MemoryDisk::new();
            manifest.save(&copy).expect("a disk in memory takes all");
            assert_eq!(load(&copy).as_ref(), Ok(&manifest));
            Outcome::Taken
        }
        Err(error) => {
            names_the_file(&error);
            Outcome::Refused
        }
    }
}

fn load(disk: &MemoryDisk) -> Result<Manifest> {
    Manifest::load(disk).map(|manifest| manifest.expect("there is one"))
}

fn names_the_file(error: &Error) {
    match error {
        Error::CorruptManifest { file, .. } | Error::NewerFormat { file, .. } => {
            assert_eq!(file, Path::new(MANIFEST_FILE));
        }
        other => panic!("not an error of a manifest: {other}"),
    }
}
