//! A disk in memory whose files are known.

use mailring_engine::disk::{Disk, MemoryDisk};
use std::{collections::BTreeMap, sync::Arc};

/// Files by name.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

pub(super) fn disk_of(files: &Files) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new();
    for (name, contents) in files {
        disk.replace(name, contents)
            .expect("a disk in memory takes all");
    }
    Arc::new(disk)
}

pub(super) fn files_of(disk: &dyn Disk) -> Files {
    let names = disk.list().expect("lists");
    let read = |name: String| {
        let file = disk.open(&name).expect("opens");
        let len = usize::try_from(file.len().expect("has a length")).expect("is small");
        let mut contents = vec![0; len];
        file.read_at(&mut contents, 0).expect("reads");
        (name, contents)
    };
    names.into_iter().map(read).collect()
}
