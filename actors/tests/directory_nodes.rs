//! Several directories: in which of them a node lives that is added.

mod common;

use common::{
    Gate, OpensAtTheEnd, Trap, patiently,
    several::{Disks, write, written},
    until,
};
use mailring::{ChangeEnd, DirectoryNo, Error, FaultHook, Mailring, NodeId, Result};
use std::sync::Arc;

fn directory_of(db: &Mailring, node: u16) -> DirectoryNo {
    let nodes = db.nodes().list().into_iter();
    let mut found = nodes.filter(|info| info.node == NodeId(node));
    found.next().unwrap().directory
}

/// Placing and adding were two steps, and somebody else's could come in between.
#[tokio::test]
async fn of_two_who_add_a_node_one_gets_it_where_he_wants_it() -> Result<()> {
    let disks = Disks::new();
    let db = disks.create().open().await?;
    let nodes = db.nodes();
    for node in [2, 3] {
        // Not where it would be in its turn.
        let (first, second) = (DirectoryNo(1 - node % 2), DirectoryNo(node % 2));
        let (won, lost) = tokio::join!(nodes.add_in(first, 1), nodes.add_in(second, 1));
        assert!(
            matches!(lost, Err(Error::RingChangeRefused { .. })),
            "{lost:?}"
        );
        assert_eq!(patiently(won?.wait()).await?, ChangeEnd::Completed);
        assert_eq!(directory_of(&db, node.into()), first);
    }
    Ok(())
}

/// The choice outlived its addition, and could not be changed before the next opening.
#[tokio::test]
async fn an_addition_that_came_to_nothing_places_nobody() -> Result<()> {
    let disks = Disks::new();
    let trap = Trap::new();
    let db = disks.create().fault_hook(trap.hook()).open().await?;
    let nodes = db.nodes();
    let (home, second) = (DirectoryNo(0), DirectoryNo(1));
    let fail = async |directory| {
        // Behind the making of the store.
        trap.set("mover", None, "Open", true, 0, 1);
        let failed = patiently(nodes.add_in(directory, 1).await?.wait()).await;
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        Ok::<_, Error>(())
    };
    fail(second).await?;
    patiently(nodes.add(1).await?.wait()).await?;
    assert_eq!(directory_of(&db, 2), home, "it was its turn");
    fail(home).await?;
    patiently(nodes.add_in(second, 1).await?.wait()).await?;
    assert_eq!(directory_of(&db, 3), second);
    fail(second).await?;
    patiently(nodes.add_in(home, 1).await?.wait()).await?;
    assert_eq!(directory_of(&db, 4), home);
    write(&db, "all").await?;
    drop((nodes, db));
    let db = disks.known().open().await?;
    for (node, directory) in [(2, home), (3, second), (4, home)] {
        assert_eq!(directory_of(&db, node), directory);
    }
    assert_eq!(written(&db, "all").await?, 2);
    db.verify().await?;
    Ok(())
}

/// Its store stayed open, and the next node that was added got it, wherever that was to live.
#[tokio::test]
async fn an_addition_that_is_cancelled_while_its_node_is_opened_places_nobody() -> Result<()> {
    let disks = Disks::new();
    let gate = Gate::new();
    let _ends = OpensAtTheEnd(Arc::clone(&gate));
    let opens = Arc::clone(&gate);
    // The store is made, and nobody hears of it before the router has heard that nobody wants it.
    let hook: FaultHook = Arc::new(move |site| match (site.actor, site.message, site.handled) {
        ("mover", "Open", true) => opens.pass(),
        ("router", "Cancel", true) => opens.open(),
        _ => {}
    });
    let db = disks.create().fault_hook(hook).open().await?;
    let (nodes, [home, second]) = (db.nodes(), [DirectoryNo(0), DirectoryNo(1)]);
    let cancel = async |directory| {
        gate.close();
        let change = nodes.add_in(directory, 1).await?;
        until(|| gate.waiting() == 1).await;
        assert_eq!(patiently(change.cancel()).await?, ChangeEnd::Cancelled);
        assert_eq!(nodes.list().len(), db.stats().nodes.len(), "none is left");
        Ok::<_, Error>(())
    };
    let added = [(2, second, home), (3, home, second), (4, second, home)];
    for (node, unwanted, wanted) in added {
        cancel(unwanted).await?;
        let change = match node {
            // It is its turn.
            4 => nodes.add(1).await?,
            _ => nodes.add_in(wanted, 1).await?,
        };
        assert_eq!(patiently(change.wait()).await?, ChangeEnd::Completed);
        assert_eq!(directory_of(&db, node), wanted);
    }
    write(&db, "all").await?;
    cancel(second).await?;
    drop((nodes, db));
    let db = disks.known().open().await?;
    for (node, _, wanted) in added {
        assert_eq!(directory_of(&db, node), wanted);
        let found = ["home", "second"].map(|name| {
            let folder = format!("{name}/node-{node:03}");
            disks.at(&folder).exists()
        });
        assert_eq!(found, [wanted == home, wanted == second], "node {node}");
    }
    assert_eq!(written(&db, "all").await?, 2);
    db.verify().await?;
    Ok(())
}
