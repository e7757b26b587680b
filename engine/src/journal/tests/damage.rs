//! Segments that are cut, flipped, lost and swapped.

use super::{
    super::{frame::frame_bytes, verify},
    *,
};

/// A journal of one segment with six groups; its only file's name and contents, and where each group ends.
fn six_groups() -> (Arc<MemoryDisk>, String, Vec<u8>, Vec<u64>) {
    let disk = Arc::new(MemoryDisk::new());
    let mut journal = create(&disk);
    let mut ends = vec![HEADER_BYTES];
    for count in 1..=6 {
        let group = next_group(&journal, count);
        ends.push(ends[ends.len() - 1] + frame_bytes(group.payload.len() as u64));
        journal.append(&group).expect("appends");
        journal.force().expect("forces");
    }
    drop(journal);
    let name = segments(&*disk).remove(0);
    let bytes = contents(&*disk, &name);
    (disk, name, bytes, ends)
}

/// The last LSN of the first `groups` of [`six_groups`].
fn last_lsn(groups: usize) -> Lsn {
    Lsn((1..=groups as u64).sum())
}

fn replaced(name: &str, bytes: &[u8]) -> Arc<MemoryDisk> {
    let disk = Arc::new(MemoryDisk::new());
    disk.replace(name, bytes).expect("memory takes it");
    disk
}

/// Opens, goes on and opens again: the prefix must be exact, and stay.
fn check_prefix(disk: &Arc<MemoryDisk>, groups: usize) {
    let before = verify(&**disk).expect("a torn tail is no corruption");
    assert_eq!(before.last_lsn, last_lsn(groups));
    let (mut journal, recovery) = open(disk);
    assert_eq!(recovery.last_lsn, last_lsn(groups));
    assert_eq!(recovery.groups, groups as u64);
    append_forced(&mut journal, 2);
    drop(journal);
    let (_, recovery) = open(disk);
    assert_eq!(recovery.last_lsn.0, last_lsn(groups).0 + 2);
    assert_eq!(recovery.torn_bytes, 0);
}

fn check_corrupt(disk: &Arc<MemoryDisk>, name: &str, offset: u64) {
    let before = copy(&**disk);
    for error in [
        verify(&**disk).expect_err("is corrupt"),
        try_open(disk, Lsn(0)).err().expect("is corrupt"),
    ] {
        let Error::CorruptJournal {
            file, offset: at, ..
        } = &error
        else {
            panic!("{error:?} at {name} {offset}")
        };
        assert_eq!((file.to_str(), *at), (Some(name), offset), "{error}");
    }
    let names = disk.list().expect("lists");
    assert_eq!(names, before.list().expect("lists"));
    for name in names {
        assert_eq!(
            contents(&**disk, &name),
            contents(&*before, &name),
            "nothing was changed"
        );
    }
}

#[test]
fn a_journal_cut_at_every_byte_is_the_exact_prefix_of_groups() {
    let (_, name, bytes, ends) = six_groups();
    let used = usize::try_from(ends[6]).expect("is small");
    for cut in 0..=used + 9 {
        let whole = ends[1..].iter().filter(|&&end| end <= cut as u64).count();
        // The file ends there, or goes on with zeros, or with what another life has left there.
        let zeros = [&bytes[..cut], &vec![0; bytes.len() - cut]].concat();
        let stale = [&bytes[..cut], &vec![0xa5; bytes.len() - cut]].concat();
        for bytes in [&bytes[..cut], &zeros, &stale] {
            let disk = replaced(&name, bytes);
            if (cut as u64) < HEADER_BYTES {
                check_corrupt(&disk, &name, 0);
            } else {
                check_prefix(&disk, whole);
            }
        }
    }
}

#[test]
fn a_flip_is_corruption_where_a_later_frame_proves_the_group_and_else_cuts_the_last() {
    let (_, name, bytes, ends) = six_groups();
    for at in 0..usize::try_from(ends[6]).expect("is small") {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let disk = replaced(&name, &damaged);
            match ends.iter().rposition(|&end| end <= at as u64) {
                None => check_corrupt(&disk, &name, 0),
                Some(5) => check_prefix(&disk, 5),
                Some(group) => check_corrupt(&disk, &name, ends[group]),
            }
        }
    }
}

#[test]
fn after_a_clean_end_a_flip_in_any_group_is_corruption() {
    let disk = Arc::new(MemoryDisk::new());
    let mut journal = create(&disk);
    for count in 1..=3 {
        append_forced(&mut journal, count);
    }
    journal.close().expect("closes");
    let name = segments(&*disk).remove(0);
    let bytes = contents(&*disk, &name);
    let end =
        usize::try_from(verify(&*disk).expect("is whole").bytes + HEADER_BYTES).expect("small");
    for at in 0..end + 56 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        let outcome = verify(&*replaced(&name, &damaged));
        if at < end {
            assert!(
                matches!(outcome, Err(Error::CorruptJournal { .. })),
                "{outcome:?} at {at}"
            );
        } else {
            // The seal itself proves nothing that was not read already.
            assert_eq!(outcome.expect("is whole").last_lsn, Lsn(6), "at {at}");
        }
    }
}

/// A journal of several segments, the last one open.
fn several_segments() -> Arc<MemoryDisk> {
    let disk = Arc::new(MemoryDisk::new());
    let mut journal = create(&disk);
    while segments(&*disk).len() < 3 {
        append_forced(&mut journal, 8);
    }
    append_forced(&mut journal, 1);
    disk
}

#[test]
fn a_flip_anywhere_before_the_last_segment_is_never_missed() {
    let disk = several_segments();
    let whole = verify(&*disk).expect("is whole");
    let names = segments(&*disk);
    let mut found = 0;
    for name in &names[..names.len() - 1] {
        let bytes = contents(&*disk, name);
        for at in (0..bytes.len()).step_by(3) {
            let disk = copy(&*disk);
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            disk.replace(name, &damaged).expect("memory takes it");
            match verify(&*disk) {
                Ok(report) => assert_eq!(report, whole, "a byte behind the seal of {name}: {at}"),
                Err(Error::CorruptJournal { file, .. }) => {
                    assert_eq!(file.to_str(), Some(&name[..]));
                    found += 1;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    let used = whole.bytes - 8 * 60;
    assert!(
        3 * found > used / 2,
        "most bytes are in use: {found} of {used}"
    );
}

#[test]
fn a_missing_segment_is_corruption() {
    let disk = several_segments();
    let names = segments(&*disk);
    for name in &names[..names.len() - 1] {
        let disk = copy(&*disk);
        disk.remove(name).expect("removes");
        let error = try_open(&disk, Lsn(0)).err().expect("something is missing");
        assert!(matches!(error, Error::CorruptJournal { .. }), "{error:?}");
    }
    for name in &names {
        disk.remove(name).expect("removes");
    }
    let error = try_open(&disk, Lsn(0)).err().expect("all is missing");
    assert!(matches!(error, Error::CorruptJournal { .. }), "{error:?}");
}

#[test]
fn a_journal_that_ends_before_what_the_trees_hold_is_corrupt() {
    let disk = several_segments();
    let last = verify(&*disk).expect("is whole").last_lsn;
    try_open(&copy(&*disk), last).expect("reaches the end");
    let error = try_open(&disk, last.next()).err().expect("ends before");
    assert!(matches!(error, Error::CorruptJournal { .. }), "{error:?}");
}

#[test]
fn swapped_segments_are_corruption() {
    let disk = several_segments();
    let names = segments(&*disk);
    let [first, second] = [0, 1].map(|at: usize| contents(&*disk, &names[at]));
    disk.replace(&names[0], &second).expect("memory takes it");
    disk.replace(&names[1], &first).expect("memory takes it");
    check_corrupt(&disk, &names[0], 0);
}

#[test]
fn a_segment_of_a_newer_format_is_named() {
    let (disk, name, mut bytes, _) = six_groups();
    bytes[8] = 2;
    let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[..56]);
    bytes[56..64].copy_from_slice(&checksum.to_le_bytes());
    disk.replace(&name, &bytes).expect("memory takes it");
    let error = try_open(&disk, Lsn(0)).err().expect("is newer");
    let newer = Error::NewerFormat {
        file: name.into(),
        found: 2,
        supported: 1,
    };
    assert_eq!(error, newer);
}

/// It was read as version 1.
#[test]
fn a_segment_of_a_format_that_there_never_was_is_corruption() {
    let (disk, name, mut bytes, _) = six_groups();
    bytes[8] = 0;
    let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[..56]);
    bytes[56..64].copy_from_slice(&checksum.to_le_bytes());
    disk.replace(&name, &bytes).expect("memory takes it");
    check_corrupt(&disk, &name, 0);
    let error = try_open(&disk, Lsn(0)).err().expect("is none");
    assert!(
        error
            .to_string()
            .contains("format version 0, which there never was"),
        "{error}"
    );
}

#[test]
fn a_group_that_is_no_records_is_corruption_and_no_panic() {
    for (payload, newer) in [
        (&b"\xff\xff\xff\xffgarbage"[..], false),
        (&[0, 0, 0, 0], false),
        // A record of LSN 2 in the group of LSN 1; then a kind from the future.
        (&[3, 0, 0, 0, 5, 2, 1], false),
        (&[2, 0, 0, 0, 99, 1], true),
    ] {
        let disk = Arc::new(MemoryDisk::new());
        let group = Group {
            payload: payload.to_vec(),
            ..group(GroupNo(1), Lsn(1), 1)
        };
        create(&disk).append(&group).expect("appends");
        let error = try_open(&disk, Lsn(0)).err().expect("is refused");
        assert_eq!(
            matches!(error, Error::NewerFormat { .. }),
            newer,
            "{error:?}"
        );
        assert_eq!(
            matches!(error, Error::CorruptJournal { .. }),
            !newer,
            "{error:?}"
        );
    }
}

#[test]
fn frames_inside_of_values_are_no_frames() {
    // The application stores the journal's own file in the journal: the very bytes, at aligned places.
    let disk = Arc::new(MemoryDisk::new());
    let options = JournalOptions {
        segment_bytes: 1 << 20,
        salt: 1,
        ..JournalOptions::default()
    };
    let mut journal = Journal::create(disk.clone(), options, Lsn(0)).expect("creates");
    for count in 1..=3 {
        append_forced(&mut journal, count);
    }
    let name = segments(&*disk).remove(0);
    let used = usize::try_from(journal.stats().bytes + HEADER_BYTES).expect("is small");
    let own = contents(&*disk, &name);
    let mut payload = Vec::new();
    let writes = (0..8).map(|shift| Write {
        key: Bytes::from_static(b"k"),
        value: Some(Value::new([&vec![0; shift], &own[..used]].concat().into())),
    });
    let writes: Vec<_> = writes.collect();
    record::encode_commit(&mut payload, Lsn(7), NodeId(0), Incarnation(0), &writes);
    let group = Group {
        number: GroupNo(4),
        first_lsn: Lsn(7),
        last_lsn: Lsn(7),
        payload,
    };
    journal.append(&group).expect("appends");
    drop(journal);
    // Torn in its middle: the copies inside tell of no group that was not forced.
    let mut bytes = contents(&*disk, &name);
    bytes[used + 80..used + 90].fill(0xee);
    disk.replace(&name, &bytes).expect("memory takes it");
    assert_eq!(open(&disk).1.last_lsn, Lsn(6));
}
