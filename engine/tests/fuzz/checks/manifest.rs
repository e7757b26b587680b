//! The manifest, as a file and behind its checksum.

use super::{
    Outcome,
    disk::{Files, disk_of},
    format,
};
use mailring_engine::{
    disk::MemoryDisk,
    error::{Error, Result},
    manifest::{MANIFEST_FILE, Manifest},
};
use std::path::Path;

/// A whole file.
pub(crate) fn manifest(input: &[u8]) -> Outcome {
    check(input.to_vec())
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
