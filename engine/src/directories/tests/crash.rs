//! Whatever a crash leaves, what was visible is there, what is there is whole, and what is not never comes back.

use super::*;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// Recovers one of the crashes that a run may suffer now, and checks what was found. The last LSN that happened.
fn check(run: &Run, groups: &[usize]) -> (Lsn, Directories, Opened) {
    let places = run.image(groups);
    let (found, directories, opened) = recover(&places, &run.directories).expect("recovers");
    let last = found.last().map_or(Lsn(0), |(lsn, _)| *lsn);
    let until: Vec<_> = run.model.range(..=last).collect();
    let found: Vec<_> = found.iter().map(|(lsn, parts)| (lsn, parts)).collect();
    assert_eq!(found, until, "a prefix of what was given an LSN, and whole");
    // What was visible may end with what was void before.
    let next = run.model.range(last.next()..).next();
    assert!(
        next.is_none_or(|(lsn, _)| *lsn > run.promised),
        "promised up to {}, recovered up to {last} of {groups:?}",
        run.promised
    );
    (last, directories, opened)
}

/// A crash before the manifest is saved changes nothing, nor does one between the repairs of two journals.
fn check_again(run: &Run, groups: &[usize]) {
    let places = run.image(groups);
    let (found, directories, opened) = recover(&places, &run.directories).expect("recovers");
    drop(opened);
    for first in 0..places.len() {
        let (again, same, _) = recover(&places, &run.directories).expect("recovers again");
        assert_eq!((&again, &same), (&found, &directories), "of {groups:?}");
        let (again, same, _) = recover(&places, &directories).expect("recovers behind it");
        assert_eq!((&again, &same), (&found, &directories), "of {groups:?}");
        let places = run.image(groups);
        let one = Arc::clone(&places[first].disk);
        drop(Journal::open(one, some(2), Lsn(0), &mut |_| Ok(())).expect("opens"));
        let (again, same, _) = recover(&places, &run.directories).expect("recovers");
        assert_eq!((&again, &same), (&found, &directories), "of {groups:?}");
    }
}

fn step(run: &mut Run, dice: &mut StdRng) {
    let count = run.journals.len();
    let one = dice.random_range(0..count);
    let node = u16::try_from(one).expect("few");
    match dice.random_range(0..10) {
        0..3 => run.append(node),
        3..5 => {
            let others = (0..).take(count).filter(|_| dice.random_bool(0.6));
            let nodes: Vec<u16> = others.collect();
            run.decide(if nodes.is_empty() { &[0] } else { &nodes });
        }
        5..7 => run.cut(),
        _ => run.force(one, dice.random_range(1..=2)),
    }
}

#[test]
fn every_crash_of_random_histories_leaves_a_whole_prefix() {
    let (mut crashes, mut cut_off, mut spread) = (0, 0, 0);
    for seed in 0..150 {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut run = Run::with_force(2 + usize::from(seed % 3 == 0), seed % 5 < 3);
        for _opening in 0..4 {
            for _ in 0..14 {
                step(&mut run, &mut dice);
            }
            let all = run.crashes();
            for groups in &all {
                let (last, directories, _) = check(&run, groups);
                crashes += 1;
                cut_off += usize::from(directories.voids != run.directories.voids);
                let lost = run.model.range(last.next()..).next();
                spread += usize::from(lost.is_some_and(|(_, parts)| parts.len() > 1));
            }
            let groups = all.choose(&mut dice).expect("there is one");
            check_again(&run, groups);
            let (last, directories, opened) = check(&run, groups);
            run.reopen(groups, directories, &opened, last);
        }
    }
    // Else nothing was tested.
    assert!(crashes > 2_000, "{crashes} crashes");
    assert!(cut_off > 500, "something was void in {cut_off}");
    assert!(spread > 300, "something spread was cut in {spread}");
}

#[test]
fn a_commit_over_directories_is_there_only_if_all_its_parts_are_and_all_before_it() {
    let mut run = Run::new(2);
    run.append(1);
    run.decide(&[0, 1]);
    run.append(0);
    run.cut();
    let found = |groups: &[usize]| {
        let (found, directories, opened) =
            recover(&run.image(groups), &run.directories).expect("is right");
        let voids = directories.voids.ranges().to_vec();
        (found.len(), voids, opened.last_lsn.0)
    };
    assert_eq!(found(&[0, 0]), (0, vec![], 0));
    assert_eq!(found(&[1, 0]), (0, vec![(Lsn(0), Lsn(3))], 3));
    assert_eq!(found(&[0, 1]), (1, vec![(Lsn(1), Lsn(2))], 2));
    assert_eq!(found(&[1, 1]), (3, vec![], 3));
}

#[test]
fn what_was_void_stays_void_and_its_lsns_are_not_used_again() {
    let mut run = Run::new(2);
    run.append(0);
    run.append(1);
    run.append(0);
    run.cut();
    // The second directory has lost its group.
    let (last, directories, opened) = check(&run, &[1, 0]);
    assert_eq!((last, opened.last_lsn), (Lsn(1), Lsn(3)));
    run.reopen(&[1, 0], directories, &opened, last);
    run.append(1);
    run.decide(&[0, 1]);
    run.cut();
    run.force(0, 1);
    run.force(1, 1);
    assert_eq!(run.visible, Lsn(5));
    let (found, directories, _) = recover(&run.image(&[2, 1]), &run.directories).expect("is right");
    let lsns: Vec<_> = found.iter().map(|(lsn, _)| lsn.0).collect();
    assert_eq!(lsns, [1, 4, 5]);
    assert_eq!(directories.voids.ranges(), [(Lsn(1), Lsn(3))]);
    let reader = |places: &[Place]| {
        let disk = Arc::clone(&places[0].disk);
        let (journal, _) = Journal::open(disk, some(3), Lsn(0), &mut |_| Ok(())).expect("opens");
        journal.reader().without(directories.voids.clone().into())
    };
    let mut replayed = Vec::new();
    let reached = reader(&run.image(&[2, 1])).replay(Lsn(0), Lsn(5), &mut |record| {
        replayed.push(record.lsn.0);
        Ok(())
    });
    assert_eq!((reached, replayed), (Ok(Lsn(5)), vec![1, 5]));
}
