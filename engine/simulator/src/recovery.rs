//! What the journals and the manifest say, before anybody runs: read, checked and completed as the shell does it.

use crate::{
    disks::{Disks, ENGINE, journal_options},
    model::Model,
    mutation::{Mutation, sloppy},
    scale::Scale,
};
use mailring_engine::{
    Error, Result,
    directories::{
        Directories, Identity, ListedDirectory, Stamp,
        recovery::{self, Place},
    },
    disk::Disk,
    ids::{DirectoryNo, Lsn},
    journal::{Journal, Lsns, record::Record},
    manifest::Manifest,
    replay::Replay,
};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// What was read back.
pub(crate) struct Recovered {
    pub(crate) manifest: Manifest,
    pub(crate) replay: Replay,
    /// By directory.
    pub(crate) journals: Vec<Journal>,
    pub(crate) records: Vec<Record>,
    /// Everything behind this was read; what is not behind it is in the trees and the manifest.
    pub(crate) after: Lsn,
    /// The last LSN that ever was: the next one is behind it.
    pub(crate) last: Lsn,
    /// How long leases of an earlier opening may go on.
    pub(crate) old_leases: Duration,
}

impl Recovered {
    /// The last LSN that happened: what is between here and the last one is void.
    pub(crate) fn ended_at(&self) -> Lsn {
        self.records.last().map_or(self.after, |record| record.lsn)
    }

    /// Every record must be the one that the log has at its LSN, and none of the log may be missing in between.
    pub(crate) fn check_records(&self, model: &Model) {
        for record in &self.records {
            let known = model.log.get(&record.lsn);
            let known = known.unwrap_or_else(|| panic!("LSN {} came from nowhere", record.lsn));
            assert_eq!(*known, record.body, "LSN {} came back changed", record.lsn);
        }
        let wanted = model
            .log
            .range(self.after.next()..=self.ended_at().max(self.after.next()));
        let wanted = wanted
            .map(|(lsn, _)| *lsn)
            .filter(|lsn| *lsn <= self.ended_at());
        let found = self.records.iter().map(|record| record.lsn);
        assert!(
            wanted.eq(found),
            "not everything up to LSN {} came back",
            self.ended_at()
        );
    }
}

/// Reads what there is, and makes directories that were not made yet.
pub(crate) fn recover(
    disks: &Disks,
    scale: Scale,
    mutation: Option<Mutation>,
) -> Result<Recovered> {
    let home = disks.home();
    let mut manifest = Manifest::load(home)?.expect("a manifest was saved");
    let places = find(disks, &manifest, mutation)?;
    let old_leases = manifest.begin_opening(scale.locks().max_lease);
    manifest.save(home)?;
    let mut replay = Replay::new(&manifest, home, scale.outcomes(), Arc::default())?;
    let mut records = Vec::new();
    let after = replay.after();
    let mut visit = |record: Record| {
        records.push(record.clone());
        replay.visit(record)
    };
    let (durable, opening) = (manifest.last_lsn, manifest.openings);
    let (mut journals, mut last) = if let Some(directories) = &mut manifest.directories {
        let options = |number| journal_options(opening, number, Lsns::Some);
        let saved = directories.clone();
        let opened = match mutation.filter(|mutation| mutation.is_of_recovery()) {
            Some(mutation) => {
                sloppy::open(&places, options, directories, after, mutation, &mut visit)?
            }
            None => recovery::open(&places, options, directories, durable, after, &mut visit)?,
        };
        if mutation == Some(Mutation::ForgetVoids) {
            directories.voids = saved.voids;
        }
        (opened.journals, opened.last_lsn)
    } else {
        let disk = Arc::clone(&places[0].disk);
        let options = journal_options(opening, DirectoryNo::HOME, Lsns::All);
        let (journal, recovery) = Journal::open(disk, options, after, &mut visit)?;
        (vec![journal], recovery.last_lsn)
    };
    if disks.len() > journals.len() {
        let slots = replay.nodes.len();
        let forced = journals.iter().map(Journal::last_group).collect();
        let stamp = Stamp {
            durable: last,
            forced,
        };
        list_new(disks, journals.len(), &mut manifest, slots, stamp);
        manifest.save(home)?;
        journals.extend(make(disks, journals.len(), &mut manifest, last)?);
        journals = journals.into_iter().map(Journal::one_of_several).collect();
    } else if manifest.directories.is_some() {
        // What is void must be known before its LSNs could be met again.
        manifest.save(home)?;
    }
    if manifest.directories.is_some() {
        mark_opening(disks, &mut manifest)?;
    }
    let recovered = Recovered {
        manifest,
        replay,
        journals,
        records,
        after,
        last,
        old_leases,
    };
    if mutation == Some(Mutation::ReuseVoidLsns) {
        last = recovered.ended_at();
    }
    Ok(Recovered { last, ..recovered })
}

/// The directories that were made.
fn find(disks: &Disks, manifest: &Manifest, mutation: Option<Mutation>) -> Result<Vec<Place>> {
    let made = match &manifest.directories {
        None => 1,
        Some(directories) => directories
            .listed
            .iter()
            .take_while(|one| one.is_made)
            .count(),
    };
    let mut places = Vec::new();
    for (number, disk) in disks.numbers().zip(disks.iter()).take(made) {
        let path = PathBuf::from(format!("directory {number}"));
        let identity = Identity {
            engine: ENGINE,
            number,
        };
        if let Some(directories) = &manifest.directories
            && number != DirectoryNo::HOME
        {
            let Some((found, opening)) = Identity::load_with_opening(disk)? else {
                return Err(Error::DirectoryMissing {
                    directory: number,
                    path,
                    reason: "it is not there".into(),
                });
            };
            assert_eq!(found, identity, "directories stay where they are");
            // The mutation is of all that directories know of each other.
            let looks = mutation != Some(Mutation::IgnoreStamps);
            if let Err((directory, reason)) =
                directories.check_opening(number, opening, manifest.openings)
                && looks
            {
                return Err(Error::DirectoryBehind {
                    directory,
                    path,
                    reason,
                });
            }
        }
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        places.push(Place { disk, path });
    }
    Ok(places)
}

/// Lists the directories that are to be made. All nodes stay where they are.
fn list_new(disks: &Disks, made: usize, manifest: &mut Manifest, nodes: usize, stamp: Stamp) {
    let directories = manifest.directories.get_or_insert_with(|| Directories {
        engine: ENGINE,
        listed: vec![ListedDirectory {
            path: String::new(),
            is_made: true,
        }],
        stamp,
        ..Directories::default()
    });
    let known = directories.placement().list(nodes);
    directories.listed.truncate(made);
    directories
        .listed
        .resize_with(disks.len(), ListedDirectory::default);
    directories.placement = known;
}

/// Makes the directories that are listed and not made.
fn make(disks: &Disks, made: usize, manifest: &mut Manifest, last: Lsn) -> Result<Vec<Journal>> {
    let opening = manifest.openings;
    let directories = manifest.directories.as_mut().expect("they are listed");
    let mut journals = Vec::new();
    for (number, disk) in disks.numbers().zip(disks.iter()).skip(made) {
        let found = Identity::load(disk)?;
        let options = journal_options(opening, number, Lsns::Some);
        let journal = Journal::create(Arc::new(disk.clone()), options, last)?;
        let identity = Identity {
            engine: directories.engine,
            number,
        };
        assert!(
            found.is_none_or(|found| found == identity),
            "directory {number} is another's"
        );
        identity.save(disk, opening)?;
        journals.push(journal);
    }
    for listed in &mut directories.listed {
        listed.is_made = true;
    }
    manifest.save(disks.home())?;
    Ok(journals)
}

/// Lets every directory know of this opening, and the manifest that they do: before anything is committed in it.
fn mark_opening(disks: &Disks, manifest: &mut Manifest) -> Result<()> {
    let opening = manifest.openings;
    let directories = manifest.directories.as_mut().expect("they are listed");
    let engine = directories.engine;
    for (number, disk) in disks.numbers().zip(disks.iter()).skip(1) {
        Identity { engine, number }.save(disk, opening)?;
    }
    directories.known_opening = opening;
    manifest.save(disks.home())
}

/// Opens directories only to see what is in them: the last LSN that happened.
pub(crate) fn look_into(
    disks: &Disks,
    model: &Model,
    scale: Scale,
    mutation: Option<Mutation>,
) -> Result<Lsn> {
    let recovered = recover(disks, scale, mutation)?;
    recovered.check_records(model);
    Ok(recovered.ended_at())
}
