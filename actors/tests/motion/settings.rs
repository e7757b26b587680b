//! What a builder asks for, and what the directory has by now.

use crate::{
    common::patiently,
    world::{builder, fill, node},
};
use mailring::{Error, Mailring, Result};

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_whose_nodes_have_changed_says_what_it_has() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).nodes(3).open().await?;
    fill(&db).await?;
    patiently(db.nodes().remove(node(1)).await?.wait()).await?;
    patiently(db.nodes().set_weight(node(2), 2).await?.wait()).await?;
    drop(db);
    let other = builder(directory.path()).nodes(5).open().await;
    match other {
        Err(Error::SettingsMismatch {
            directory,
            requested,
            ..
        }) => {
            assert_eq!(directory, "node 0: 1, node 2: 2");
            assert_eq!(requested, "[1, 1, 1, 1, 1]");
        }
        other => panic!("{other:?}"),
    }
    let same = Mailring::builder(directory.path())
        .weights([1, 2])
        .open()
        .await;
    assert!(same.is_ok(), "{same:?}");
    drop(same);
    // The program that has made it may run on as it is.
    let first = builder(directory.path()).nodes(3).open().await;
    assert!(first.is_ok(), "{first:?}");
    drop(first);
    let any = Mailring::builder(directory.path()).open().await?;
    assert_eq!(any.nodes().list().len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_rate_at_which_nothing_would_move_is_refused() {
    let error = Mailring::memory().move_rate(0).open().await.err();
    assert!(
        matches!(
            error,
            Some(Error::InvalidOption {
                option: "move_rate",
                ..
            })
        ),
        "{error:?}"
    );
}
