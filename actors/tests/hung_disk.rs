//! A disk that hangs, and a node that is slow to come back: callers are answered by their deadline all the same.

mod common;

use common::{Gate, OpensAtTheEnd, Trap, builder, disk::HookedDisk, patiently, until_idle};
use mailring::{Error, Result};
use std::{sync::Arc, time::Duration};

/// Longer than what a slow disk takes when it does not hang.
const SOON: Duration = Duration::from_secs(1);

/// Whether the write was written can't be told, neither where the journal's actor itself hangs in a force in place (with
/// every node on its thread) nor where its thread does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_disk_that_hangs_is_answered_unknown_and_reads_go_on() -> Result<()> {
    for writers in [1, 8] {
        let directory = tempfile::tempdir().unwrap();
        let gate = Gate::new();
        let _open = OpensAtTheEnd(Arc::clone(&gate));
        let stop = Arc::clone(&gate);
        let hook = move |operation: &'static str, _: &str| {
            if operation == "force" {
                stop.pass();
            }
            Ok(())
        };
        let db = builder(directory.path())
            .deadline(SOON)
            .arbiters(1)
            .disk(Arc::new(HookedDisk::new(directory.path(), Arc::new(hook))))
            .open()
            .await?;
        let ks = db.keyspace("ks").await?;
        ks.put("kept", "value").await?;
        gate.close();
        let waiting: Vec<_> = (0..writers)
            .map(|number| {
                let ks = ks.clone();
                tokio::spawn(async move { ks.put(format!("key-{number}"), "v").await })
            })
            .collect();
        let mut unknown = 0;
        for write in waiting {
            match patiently(write).await.unwrap() {
                Err(Error::Unknown { .. }) => unknown += 1,
                // It came to the journal when its deadline had passed.
                Err(Error::DeadlineExceeded) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(unknown > 0);
        let created = patiently(db.keyspace("new")).await.err();
        assert!(
            matches!(created, Some(Error::Unknown { .. })),
            "{created:?}"
        );
        assert_eq!(ks.get("kept").await?.as_deref(), Some(&b"value"[..]));
        assert_eq!(ks.get("key-0").await?, None, "it is not durable");
        assert_eq!(db.stats().read_only, None);

        gate.open();
        until_idle(&db).await;
        // What was accepted in time is there now, and the engine serves as before.
        assert!(ks.prefix("key-").count().await? <= unknown);
        patiently(ks.put("kept", "again")).await?;
        patiently(db.shutdown()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_request_in_the_line_of_a_restarting_node_is_refused_at_its_deadline() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let slow = mailring::RestartPolicy {
        intensity: 2,
        window: Duration::from_secs(100_000),
        first_back_off: Duration::from_secs(3600),
        longest_back_off: Duration::from_secs(3600),
    };
    let db = builder(directory.path())
        .nodes(1)
        .deadline(SOON)
        .restart_policy(slow)
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    ks.put("kept", "value").await?;
    trap.set("node", None, "Request", false, 0, 1);
    let error = patiently(ks.put("key", "v")).await.unwrap_err();
    assert!(matches!(error, Error::NodeRestarted { .. }), "{error}");
    for _ in 0..3 {
        let error = patiently(ks.put("key", "v")).await;
        assert_eq!(error, Err(Error::DeadlineExceeded), "nothing was written");
    }
    assert_eq!(ks.get("kept").await?.as_deref(), Some(&b"value"[..]));
    until_idle(&db).await;
    Ok(())
}
