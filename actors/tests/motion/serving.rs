//! Adding, removing and re-weighting under every sort of load.

use crate::{
    common::patiently,
    world::{TOTAL, beside_load, builder, check_whole, fill, members, node, total},
};
use mailring::{ChangeEnd, Error, Mailring, Result};
use std::collections::BTreeMap;

fn arcs(db: &Mailring) -> Vec<usize> {
    db.nodes().list().iter().map(|info| info.arcs).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_added_under_load_and_serves_its_share() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(2).open().await?;
    let ks = fill(&db).await?;
    let plan = db.nodes().plan_add(1)?;
    let told = beside_load(&db, &ks, async { db.nodes().add(1).await?.await }).await?;
    assert_eq!(told, ChangeEnd::Completed);
    assert_eq!(members(&db), BTreeMap::from([(0, 1), (1, 1), (2, 1)]));
    let arcs = arcs(&db);
    assert_eq!(arcs[2], plan.moves.len(), "what was planned has moved");
    assert_eq!(plan.moves.len(), plan.fewest, "and no more than must");
    assert!(arcs.iter().max().unwrap() - arcs.iter().min().unwrap() <= 1);
    assert!(plan.moves.iter().all(|one| one.to == node(2)));
    let before = db.stats().nodes[2].writes;
    for number in 0..50 {
        ks.put(format!("fresh-{number}"), "value").await?;
    }
    assert!(db.stats().nodes[2].writes > before, "it takes writes");
    db.shutdown().await?;
    let verified = Mailring::verify_directory(directory.path())?;
    assert!(verified.keys > 0);
    let db = Mailring::builder(directory.path()).nodes(3).open().await?;
    let ks = db.keyspace("ks").await?;
    check_whole(&db, &ks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_removed_under_load_and_its_folder_goes() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(3).open().await?;
    let ks = fill(&db).await?;
    let plan = db.nodes().plan_remove(node(1))?;
    assert_eq!(plan.leaving, Some(node(1)));
    assert!(plan.moves.iter().all(|one| one.from == node(1)));
    let told = beside_load(&db, &ks, async { db.nodes().remove(node(1)).await?.await }).await?;
    assert_eq!(told, ChangeEnd::Completed);
    assert_eq!(members(&db), BTreeMap::from([(0, 1), (2, 1)]));
    assert_eq!(db.stats().nodes.len(), 2);
    db.checkpoint().await?;
    db.shutdown().await?;
    let folder = directory.path().join("node-001");
    let db = Mailring::builder(directory.path()).open().await?;
    assert!(!folder.exists(), "nobody needs it any more");
    let ks = db.keyspace("ks").await?;
    check_whole(&db, &ks).await?;
    // Its number is never used again.
    let told = patiently(db.nodes().add(1).await?.wait()).await?;
    assert_eq!(told, ChangeEnd::Completed);
    assert_eq!(members(&db), BTreeMap::from([(0, 1), (2, 1), (3, 1)]));
    check_whole(&db, &ks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_re_weighted_under_load_up_and_down() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(3).open().await?;
    let ks = fill(&db).await?;
    for weight in [3, 1] {
        let plan = db.nodes().plan_set_weight(node(0), weight)?;
        let before = arcs(&db);
        let change = async { db.nodes().set_weight(node(0), weight).await?.await };
        assert_eq!(beside_load(&db, &ks, change).await?, ChangeEnd::Completed);
        let moved = arcs(&db)[0].abs_diff(before[0]);
        assert_eq!(moved, plan.moves.len());
        assert_eq!(members(&db)[&0], weight);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_one_after_another_in_memory() -> Result<()> {
    let db = crate::common::tuned(Mailring::memory())
        .nodes(2)
        .open()
        .await?;
    let ks = fill(&db).await?;
    let story = async {
        for round in 0..3_u16 {
            db.nodes().add(2).await?.await?;
            db.nodes()
                .set_weight(node(0), u32::from(round) + 2)
                .await?
                .await?;
            db.nodes().remove(node(round + 1)).await?.await?;
        }
        Ok(())
    };
    beside_load(&db, &ks, story).await?;
    assert_eq!(members(&db).keys().copied().collect::<Vec<_>>(), [0, 4]);
    assert_eq!(total(&ks).await?, TOTAL);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_change_runs_at_a_time_and_progress_is_told_to_its_end() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(2).open().await?;
    let ks = fill(&db).await?;
    let mut change = db.nodes().add(1).await?;
    let second = db.nodes().add(1).await;
    let refused = matches!(second, Err(Error::RingChangeRefused { .. }));
    assert!(refused || !change.is_under_way(), "{second:?}");
    let mut last = change.progress();
    while let Some(progress) = patiently(change.next_progress()).await {
        last = progress;
    }
    assert_eq!(patiently(change.wait()).await?, ChangeEnd::Completed);
    assert_eq!((last.arcs_done, last.failure), (last.arcs_total, None));
    assert!(last.keys > 0 && last.bytes > 0);
    if refused {
        assert!(db.nodes().change().is_none(), "it has ended");
        assert_eq!(db.stats().change, None);
    }
    check_whole(&db, &ks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_is_refused_and_changes_nothing() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(1).open().await?;
    let nodes = db.nodes();
    for plan in [
        nodes.plan_remove(node(0)),
        nodes.plan_remove(node(7)),
        nodes.plan_add(0),
        nodes.plan_set_weight(node(9), 1),
    ] {
        assert!(matches!(plan, Err(Error::InvalidOption { .. })), "{plan:?}");
    }
    let removed = nodes.remove(node(0)).await.err();
    assert!(
        matches!(removed, Some(Error::InvalidOption { .. })),
        "{removed:?}"
    );
    assert_eq!(members(&db), BTreeMap::from([(0, 1)]));
    let change = db.blocking().nodes().add(1)?;
    assert_eq!(patiently(change.wait()).await?, ChangeEnd::Completed);
    Ok(())
}
