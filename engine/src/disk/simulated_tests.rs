//! The simulated disk, fault by fault.

use super::*;

const FILE: &str = "file";

fn disk_with_file(len: u64) -> (SimulatedDisk, Box<dyn DiskFile>) {
    let disk = SimulatedDisk::new();
    let file = disk.create(FILE, len).expect("creates");
    (disk, file)
}

fn contents(disk: &SimulatedDisk) -> Vec<u8> {
    let file = disk.open(FILE).expect("opens");
    let mut bytes = vec![0; index(file.len().expect("has a length"))];
    file.read_at(&mut bytes, 0).expect("reads");
    bytes
}

#[test]
fn the_simulation_keeps_what_the_trait_promises() {
    crate::disk::conformance::check(&SimulatedDisk::new());
}

#[test]
fn a_crash_takes_what_was_not_forced() {
    let (disk, file) = disk_with_file(4);
    file.write_at(b"ab", 0).expect("writes");
    file.force().expect("forces");
    file.write_at(b"cd", 2).expect("writes");
    assert_eq!(contents(&disk), b"abcd");
    disk.crash(Survivors::Nothing);
    assert_eq!(contents(&disk), b"ab\0\0");
    assert!(file.force().is_err(), "the old handle is gone");
}

#[test]
fn sectors_survive_independently_and_whole() {
    let (disk, file) = disk_with_file(4 * SECTOR_BYTES);
    file.write_at(&[1; 1024], 256).expect("writes");
    file.write_at(&[2; 512], 256).expect("writes over it");
    let mut asked = Vec::new();
    disk.crash_keeping(&mut |change| {
        let Unforced::Sector { sector, write, .. } = change else {
            panic!("no entry has changed")
        };
        asked.push((write, sector));
        // Sector 0: first write only. Sector 1: nothing. Sector 2: its only write.
        sector == 2 || (write, sector) == (0, 0)
    });
    // Sector 1 is settled when its first write is lost.
    assert_eq!(asked, [(0, 0), (0, 1), (0, 2), (1, 0)]);
    let found = contents(&disk);
    assert_eq!(found[255..258], [0, 1, 1]);
    assert!(found[512..1024].iter().all(|&byte| byte == 0));
    assert_eq!(found[1024..1281], [&[1; 256][..], &[0]].concat());
}

#[test]
fn forces_that_fail_for_good_do_so_until_the_crash() {
    let (disk, file) = disk_with_file(4);
    disk.fail_forces();
    for round in 0..2 {
        file.write_at(b"ab", 0).expect("writes");
        file.force().expect_err("fails on command");
        assert_eq!(contents(&disk), b"ab\0\0", "round {round}");
    }
    disk.crash(Survivors::Everything);
    let file = disk.open(FILE).expect("opens");
    file.write_at(b"c", 2).expect("writes");
    file.force().expect("all is well again");
    disk.crash(Survivors::Nothing);
    assert_eq!(contents(&disk), b"\0\0c\0");
}

#[test]
fn what_a_failed_force_lost_no_later_force_brings_back() {
    let (disk, file) = disk_with_file(4);
    file.write_at(b"ab", 0).expect("writes");
    disk.fail_next_force();
    file.force().expect_err("fails on command");
    file.write_at(b"cd", 2).expect("writes");
    file.force().expect("pretends that all is well");
    assert_eq!(
        contents(&disk),
        b"abcd",
        "the cache shows what is not there"
    );
    disk.crash(Survivors::Everything);
    assert_eq!(contents(&disk), b"\0\0cd");
}

#[test]
fn a_machine_that_dies_in_a_replace_leaves_the_old_or_the_new() {
    for survivors in [
        Survivors::Nothing,
        Survivors::Everything,
        Survivors::Seeded(3),
    ] {
        for steps in 0.. {
            let disk = SimulatedDisk::new();
            disk.replace(FILE, b"old").expect("replaces");
            disk.die_after(steps);
            let outcome = disk.replace(FILE, b"new");
            disk.crash(survivors);
            let found = contents(&disk);
            assert!(
                found == b"old" || found == b"new",
                "{found:?} after {steps} steps"
            );
            if outcome.is_ok() {
                assert_eq!((found, steps), (b"new".to_vec(), 5));
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_takes_files_again_when_there_is_room() {
    let (disk, _file) = disk_with_file(600);
    disk.set_capacity(Some(1000));
    let error = disk.create("other", 401).err().expect("is full");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.list().expect("lists"), [FILE]);
    disk.remove(FILE).expect("removes");
    disk.create("other", 401).map(drop).expect("has room");
}

#[test]
fn a_copy_goes_its_own_way_and_a_flipped_bit_stays() {
    let (disk, file) = disk_with_file(2);
    file.write_at(b"ab", 0).expect("writes");
    let copy = disk.copy();
    copy.flip_bit(FILE, 9);
    assert_eq!(contents(&copy), b"a`");
    copy.crash(Survivors::Nothing);
    assert_eq!(
        contents(&copy),
        b"\0\x02",
        "what was not forced is lost there too"
    );
    assert_eq!(contents(&disk), b"ab");
}

#[test]
fn a_disk_that_lies_about_forces_loses_what_they_covered() {
    let (disk, file) = disk_with_file(2);
    disk.pretend_to_force(true);
    file.write_at(b"a", 0).expect("writes");
    file.force().expect("pretends");
    disk.pretend_to_force(false);
    disk.crash(Survivors::Nothing);
    assert_eq!(contents(&disk), b"\0\0");
    let file = disk.open(FILE).expect("opens");
    disk.swallow_failed_forces();
    file.write_at(b"b", 1).expect("writes");
    disk.fail_next_force();
    file.force().expect("swallows the failure");
    disk.crash(Survivors::Everything);
    assert_eq!(contents(&disk), b"\0\0");
}

#[test]
fn a_directory_that_is_not_forced_forgets_its_files() {
    let disk = SimulatedDisk::new();
    disk.forget_to_force_directories();
    disk.create(FILE, 2).map(drop).expect("creates");
    disk.crash(Survivors::Nothing);
    assert_eq!(disk.list().expect("lists"), [""; 0]);
}

#[test]
fn failures_that_were_taken_back_do_not_come() {
    let (disk, file) = disk_with_file(2);
    disk.fail_next_force();
    disk.fail_next_write();
    disk.die_after(0);
    disk.recover();
    file.write_at(b"ab", 0).expect("writes");
    file.force().expect("forces");
    assert!(!disk.is_dead());
}

#[test]
fn a_failed_write_may_leave_some_of_its_bytes() {
    let (disk, file) = disk_with_file(4);
    disk.fail_next_write();
    file.write_at(b"abcd", 0).expect_err("fails on command");
    assert_eq!(contents(&disk), b"ab\0\0");
    file.write_at(b"abcd", 0).expect("fails once");
}
