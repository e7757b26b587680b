//! Several directories: disks that fail or are full, crashes, and what is there afterwards; backups, and restoring from them.

mod common;

use common::{
    Ledger, check, load, patiently,
    several::{Disks, a_key_of_each, balance, has_tree, transfer},
    until, until_idle,
};
use mailring::{Builder, Durability, Error, Mailring, NodeId, RestoreLoss, Result, TxnOutcome};
use mailring_engine::disk::{SimulatedDisk, Survivors};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

/// The journal of the second directory is on a disk that fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_makes_the_engine_read_only_and_takes_nothing_that_was_told() -> Result<()>
{
    for survivors in [
        Survivors::Nothing,
        Survivors::Everything,
        Survivors::Seeded(3),
    ] {
        let disks = Disks::new();
        let simulated = SimulatedDisk::new();
        let on = |builder: Builder| builder.disk_of(1, Arc::new(simulated.clone()));
        let db = on(disks.create()).open().await?;
        let ks = db.keyspace("ks").await?;
        let keys = a_key_of_each(&db, &ks).await;
        let ledger = Arc::<Mutex<Ledger>>::default();
        load(&ks, &ledger, "before", 4, 5).await;
        let mut told = 0;
        for round in 0.. {
            simulated.fail_next_force();
            load(&ks, &ledger, &format!("during-{round}"), 4, 5).await;
            told += i64::from(transfer(&db, &ks, &keys).await.is_ok());
            if db.stats().read_only.is_some() {
                break;
            }
        }
        until_idle(&db).await;
        check(&ledger, &ks).await;
        let txn = db.begin()?;
        let id = txn.id();
        txn.put(&ks, &keys[0], "v").await?;
        let refused = txn.commit().await;
        assert!(
            matches!(refused, Err(Error::ReadOnly { .. })),
            "{refused:?}"
        );
        assert!(ks.scan(..).count().await? > 0, "reads go on");
        patiently(db.shutdown()).await?;
        drop((ks, db));
        simulated.crash(survivors);
        let db = on(disks.known()).open().await?;
        let ks = db.keyspace("ks").await?;
        check(&ledger, &ks).await;
        assert!(!matches!(db.outcome(id).await?, TxnOutcome::Committed(_)));
        let moved = balance(&ks, &keys[1]).await?;
        assert!(moved >= told);
        assert_eq!(balance(&ks, &keys[0]).await?, -moved, "not half of one");
        load(&ks, &ledger, "after", 4, 5).await;
        check(&ledger, &ks).await;
    }
    Ok(())
}

/// A full disk refuses what is written there, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_concerns_it_until_there_is_room() -> Result<()> {
    let disks = Disks::new();
    let simulated = SimulatedDisk::new();
    let on = |builder: Builder| builder.disk_of(1, Arc::new(simulated.clone()));
    let db = on(disks.create()).open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = a_key_of_each(&db, &ks).await;
    simulated.set_capacity(Some(0));
    let large = vec![7; 200_000];
    let full = loop {
        match ks.put(&keys[1], large.clone()).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::DiskFull { .. }), "{full:?}");
    for _ in 0..3 {
        ks.put(&keys[0], large.clone()).await?;
    }
    assert!(db.stats().disk_full.is_some());
    simulated.set_capacity(None);
    until(|| db.stats().disk_full.is_none()).await;
    ks.put(&keys[1], "fits").await?;
    Ok(())
}

/// A crash may leave the second directory at any point of its making, and takes with it what was not forced; also where the
/// first has data already.
#[tokio::test]
async fn a_creation_that_is_cut_short_anywhere_begins_again() -> Result<()> {
    for has_data in [false, true] {
        let mut deaths = 0;
        for death in 0.. {
            let disks = Disks::new();
            let (home, second) = (SimulatedDisk::new(), SimulatedDisk::new());
            let known = || disks.known().disk(Arc::new(home.clone()));
            let both = || {
                let builder = known().directory(disks.second());
                builder.disk_of(1, Arc::new(second.clone()))
            };
            if has_data {
                let ks = known().nodes(2).open().await?.keyspace("ks").await?;
                ks.put("before", "v").await?;
            }
            let which = if death % 2 == 0 { &home } else { &second };
            which.die_after(death / 2);
            let died = both().nodes(2).open().await.is_err();
            home.crash(Survivors::Seeded(death));
            second.crash(Survivors::Seeded(death + 1));
            let db = both().nodes(2).open().await?;
            let ks = db.keyspace("ks").await?;
            let keys = a_key_of_each(&db, &ks).await;
            transfer(&db, &ks, &keys).await?;
            drop((ks, db));
            let db = both().open().await?;
            let ks = db.keyspace("ks").await?;
            assert_eq!(balance(&ks, &keys[1]).await?, 1);
            assert_eq!(ks.get("before").await?.is_some(), has_data);
            let in_second = has_tree(&disks.second(), 1);
            assert_eq!(in_second, !has_data, "nodes stay where they are");
            deaths += u32::from(died);
            if !died && death > 20 {
                break;
            }
        }
        assert!(deaths > 10, "{deaths} were cut short");
    }
    Ok(())
}

#[tokio::test]
async fn without_forces_each_journal_is_forced_by_the_clock_and_at_the_end() -> Result<()> {
    let disks = Disks::new();
    let unforced = |builder: Builder| builder.durability(Durability::None);
    let db = unforced(disks.create()).open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = a_key_of_each(&db, &ks).await;
    for _ in 0..50 {
        transfer(&db, &ks, &keys).await?;
    }
    let stats = db.stats();
    assert!(stats.durable_lsn < stats.visible_lsn, "nothing was forced");
    db.checkpoint().await?;
    let stats = db.stats();
    assert_eq!(
        stats.durable_lsn, stats.visible_lsn,
        "a checkpoint forces all"
    );
    transfer(&db, &ks, &keys).await?;
    drop((ks, db));
    let db = unforced(disks.known()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(balance(&ks, &keys[1]).await?, 51);
    Ok(())
}

#[tokio::test]
async fn a_backup_is_one_directory() -> Result<()> {
    let disks = Disks::new();
    let db = disks.create().open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = a_key_of_each(&db, &ks).await;
    transfer(&db, &ks, &keys).await?;
    db.backup(disks.third()).await?;
    assert!(has_tree(&disks.third(), 0) && has_tree(&disks.third(), 1));
    // The original is not needed.
    drop((ks, db));
    fs::remove_dir_all(disks.second()).unwrap();
    Mailring::verify_directory(disks.third())?;
    let copy = Mailring::builder(disks.third())
        .create(false)
        .open()
        .await?;
    let ks = copy.keyspace("ks").await?;
    assert_eq!(balance(&ks, &keys[1]).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_node_is_restored_alone_where_it_lives() -> Result<()> {
    let disks = Disks::new();
    let db = disks.create().open().await?;
    let ks = db.keyspace("ks").await?;
    let keys = a_key_of_each(&db, &ks).await;
    transfer(&db, &ks, &keys).await?;
    db.checkpoint().await?;
    let old = disks.at("old");
    db.backup(&old).await?;
    let between = format!("{{{}}}-between", keys[1]);
    ks.put(&between, "v").await?;
    transfer(&db, &ks, &keys).await?;
    db.checkpoint().await?;
    db.backup(disks.third()).await?;
    transfer(&db, &ks, &keys).await?;
    drop((ks, db));
    fs::remove_dir_all(disks.second().join("node-001")).unwrap();
    let db = disks.known().open().await?;
    let ks = db.keyspace("ks").await?;
    assert!(matches!(
        ks.get(&keys[1]).await,
        Err(Error::CorruptTree { .. })
    ));
    assert_eq!(balance(&ks, &keys[0]).await?, -3, "the other node serves");
    drop((ks, db));
    let restore = |backup: &Path| {
        Mailring::restore_node(disks.home(), NodeId(1), backup, RestoreLoss::Refuse)
    };
    let refused = restore(&old);
    let why = "it is older than the node's last checkpoint, and of several directories the journals are not read from before";
    assert!(
        matches!(&refused, Err(Error::InvalidOption { option: "backup", value, reason })
            if value.starts_with(&old.display().to_string()) && reason.starts_with(why)
                && reason.contains("RestoreLoss::Accept")),
        "{refused:?}"
    );

    let restored = restore(&disks.third())?;
    assert!(
        restored
            .damaged
            .starts_with(fs::canonicalize(disks.second()).unwrap())
    );
    let db = disks.known().open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(balance(&ks, &keys[1]).await?, 3);
    db.verify().await?;
    assert!(ks.get(&between).await?.is_some());
    drop((ks, db));
    // It says that this can be done too: what the node has committed in between is lost, and nothing of others.
    Mailring::restore_node(disks.home(), NodeId(1), &old, RestoreLoss::Accept)?;
    let db = disks.known().open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(balance(&ks, &keys[0]).await?, -3);
    assert_eq!(balance(&ks, &keys[1]).await?, 3, "written again since");
    assert_eq!(ks.get(&between).await?, None);
    Ok(())
}
