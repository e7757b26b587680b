//! Every variant of the error: what provokes it, and that nothing is lost by it.

mod common;

use common::{
    Gate, OpensAtTheEnd, Trap, builder,
    kept::{assert_kept, fresh},
    patiently, quick_restarts, until, until_idle,
};
use mailring::{
    Builder, Error, FaultSite, Keyspace, MAX_BATCH_BYTES, MAX_BATCH_KEYS, MAX_KEY_BYTES,
    MAX_VALUE_BYTES, Mailring, NodeId, Result,
};
use std::{sync::Arc, time::Duration};

#[tokio::test]
async fn keys_and_values_beyond_the_limits_are_refused_and_at_the_limits_kept() -> Result<()> {
    let (directory, db, ks) = fresh().await?;
    assert_eq!(ks.put("", "v").await, Err(Error::EmptyKey));
    assert_eq!(ks.get("").await, Err(Error::EmptyKey));
    let (longest, limit) = (vec![b'k'; MAX_KEY_BYTES], MAX_KEY_BYTES);
    let key_error = Error::KeyTooLarge {
        len: limit + 1,
        limit,
    };
    let too_long = vec![b'k'; limit + 1];
    assert_eq!(ks.put(&too_long, "v").await, Err(key_error.clone()));
    assert_eq!(ks.get(&too_long).await, Err(key_error.clone()));
    assert_eq!(ks.add(&too_long, 1).await, Err(key_error.clone()));
    assert_eq!(ks.delete(&too_long).await, Err(key_error));
    let (largest, limit) = (vec![b'v'; MAX_VALUE_BYTES], MAX_VALUE_BYTES);
    let too_large = vec![b'v'; limit + 1];
    let value_error = Error::ValueTooLarge {
        len: limit + 1,
        limit,
    };
    assert_eq!(ks.put("big", &too_large).await, Err(value_error.clone()));
    let swap = ks.compare_and_set("big", None, Some(&too_large)).await;
    assert_eq!(swap, Err(value_error.clone()));
    assert_eq!(ks.put_many([("big", &too_large)]).await, Err(value_error));

    patiently(ks.put(&longest, &largest)).await?;
    patiently(ks.put("empty value", "")).await?;
    for reopened in [false, true] {
        if reopened {
            db.checkpoint().await?;
        }
        assert_eq!(ks.get(&longest).await?.as_deref(), Some(&largest[..]));
        assert_eq!(ks.get("empty value").await?.as_deref(), Some(&b""[..]));
        assert_eq!(ks.get("big").await?, None);
    }
    drop((ks, db));
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.get(&longest).await?.as_deref(), Some(&largest[..]));
    assert_kept(&ks).await
}

/// Behind a few bytes that are far from the checkpoint threshold, the generations' part of a small budget has no room
/// for the largest value: a checkpoint makes it.
#[tokio::test]
async fn the_largest_value_fits_under_the_smallest_budget() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path())
        .memory_budget(32 << 20)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    let largest = vec![1; MAX_VALUE_BYTES];
    for round in 0..3 {
        patiently(ks.put("small", "value")).await?;
        patiently(ks.put(format!("large-{round}"), &largest)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_beyond_the_limits_is_refused_as_a_whole() -> Result<()> {
    let (_directory, db, ks) = fresh().await?;
    let mut keys = db.batch();
    for number in 0..=MAX_BATCH_KEYS {
        keys.put(&ks, format!("key-{number}"), "");
    }
    let (len, limit) = (MAX_BATCH_KEYS + 1, MAX_BATCH_KEYS);
    let refused = Err(Error::BatchTooLarge {
        len,
        limit,
        unit: "keys",
    });
    assert_eq!(keys.commit().await, refused);
    let mut bytes = db.batch();
    bytes.put(&ks, "key-0", vec![0; MAX_BATCH_BYTES / 2 - 5]);
    bytes.put(&ks, "key-1", vec![0; MAX_BATCH_BYTES / 2 - 5]);
    bytes.put(&ks, "x", "");
    let (len, limit) = (MAX_BATCH_BYTES + 1, MAX_BATCH_BYTES);
    let refused = Err(Error::BatchTooLarge {
        len,
        limit,
        unit: "bytes",
    });
    assert_eq!(bytes.commit().await, refused);
    let mut bad_key = db.batch();
    bad_key
        .put(&ks, "key-0", "v")
        .put(&ks, "", "v")
        .put(&ks, "key-1", "v");
    assert_eq!(bad_key.commit().await, Err(Error::EmptyKey));
    assert_eq!(ks.prefix("key-").count().await?, 0);
    db.batch().commit().await?;
    assert_kept(&ks).await
}

/// At its limits a batch is written as a whole, over all nodes; and what is written again counts once.
#[tokio::test]
async fn a_batch_at_its_very_limits_is_written() -> Result<()> {
    let (directory, db, ks) = fresh().await?;
    let mut keys = db.batch();
    for number in 0..MAX_BATCH_KEYS {
        keys.put(&ks, format!("key-{number:05}"), "");
    }
    keys.put(&ks, "key-00000", "again");
    keys.delete(&ks, format!("key-{:05}", MAX_BATCH_KEYS - 1));
    assert_eq!(keys.len(), MAX_BATCH_KEYS);
    patiently(keys.commit()).await?;
    let mut bytes = db.batch();
    bytes.put(&ks, "large-0", vec![9; MAX_BATCH_BYTES / 2 - 7]);
    bytes.put(&ks, "large-1", vec![1; MAX_BATCH_BYTES / 2 - 7]);
    bytes.put(&ks, "large-0", vec![0; MAX_BATCH_BYTES / 2 - 7]);
    patiently(bytes.commit()).await?;
    for checkpointed in [false, true] {
        let written = ks.prefix("key-").collect().await?;
        assert_eq!(written.len(), MAX_BATCH_KEYS - 1, "{checkpointed}");
        assert_eq!(written[0].1, "again");
        for (key, value) in [("large-0", 0), ("large-1", 1)] {
            let found = ks.get(key).await?;
            assert!(found.is_some_and(|found| found == vec![value; MAX_BATCH_BYTES / 2 - 7]));
        }
        if !checkpointed {
            patiently(db.checkpoint()).await?;
        }
    }
    drop((ks, db));
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.prefix("key-").count().await?, 99_999);
    assert_kept(&ks).await
}

#[tokio::test]
async fn bad_and_dropped_names_of_keyspaces_are_refused() -> Result<()> {
    let (_directory, db, ks) = fresh().await?;
    for name in ["", "a\nb", &"x".repeat(256)] {
        let error = db.keyspace(name).await.err().unwrap();
        assert!(
            matches!(error, Error::InvalidKeyspaceName { .. }),
            "{error}"
        );
    }
    let missing = |name: &str| Error::KeyspaceNotFound { name: name.into() };
    assert_eq!(db.drop_keyspace("none").await, Err(missing("none")));
    let gone = db.keyspace("gone").await?;
    gone.put("key", "v").await?;
    db.drop_keyspace("gone").await?;
    assert_eq!(gone.get("key").await, Err(missing("gone")));
    assert_eq!(gone.put("key", "v").await, Err(missing("gone")));
    assert_eq!(gone.add("key", 1).await, Err(missing("gone")));
    assert_eq!(gone.scan(..).count().await, Err(missing("gone")));
    assert_eq!(gone.watch("").await.err(), Some(missing("gone")));
    let mut batch = db.batch();
    batch.put(&ks, "x", "v").put(&gone, "key", "v");
    assert_eq!(batch.commit().await, Err(missing("gone")));
    assert_eq!(ks.get("x").await?, None);
    assert_kept(&ks).await
}

#[tokio::test]
async fn a_counter_keeps_its_value_when_an_addition_is_refused() -> Result<()> {
    let (_directory, _db, ks) = fresh().await?;
    assert_eq!(ks.add("kept", 1).await, Err(Error::NotACounter { len: 5 }));
    ks.add("edge", i64::MAX).await?;
    let refused = Err(Error::CounterOverflow {
        current: i64::MAX,
        delta: 1,
    });
    assert_eq!(ks.add("edge", 1).await, refused);
    ks.add("low", i64::MIN).await?;
    let refused = Err(Error::CounterOverflow {
        current: i64::MIN,
        delta: -1,
    });
    assert_eq!(ks.add("low", -1).await, refused);
    assert_eq!(ks.add("edge", 0).await?, i64::MAX);
    assert_eq!(ks.add("low", 0).await?, i64::MIN);
    assert_kept(&ks).await
}

/// An engine whose nodes stop before each request while the gate is closed.
async fn gated(builder: Builder) -> Result<(Arc<Gate>, OpensAtTheEnd, Mailring, Keyspace)> {
    let gate = Gate::new();
    let stop = Arc::clone(&gate);
    let hook = Arc::new(move |site: &FaultSite<'_>| {
        if (site.actor, site.message, site.handled) == ("node", "Request", false) {
            stop.pass();
        }
    });
    let db = builder.fault_hook(hook).open().await?;
    let ks = db.keyspace("ks").await?;
    ks.put("kept", "value").await?;
    Ok((Arc::clone(&gate), OpensAtTheEnd(gate), db, ks))
}

#[tokio::test]
async fn a_full_mailbox_answers_overloaded_and_forgets_nothing_that_it_took() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let small = builder(directory.path()).nodes(1).mailbox_capacity(3);
    let (gate, _open, db, ks) = gated(small).await?;
    gate.close();
    let mut taken = Vec::new();
    for number in 0..3 {
        let ks = ks.clone();
        taken.push(tokio::spawn(async move {
            ks.put(format!("taken-{number}"), "v").await
        }));
        until(|| db.stats().nodes[0].queue_depth == number + 1).await;
    }
    let error = ks.put("refused", "v").await.unwrap_err();
    assert!(matches!(error, Error::Overloaded { .. }), "{error}");
    assert_eq!(
        ks.get("kept").await?.as_deref(),
        Some(&b"value"[..]),
        "reads pass"
    );
    gate.open();
    for (number, put) in taken.into_iter().enumerate() {
        patiently(put).await.unwrap()?;
        assert!(ks.contains(format!("taken-{number}")).await?);
    }
    assert_eq!(ks.get("refused").await?, None);
    until_idle(&db).await;
    assert_kept(&ks).await
}

#[tokio::test]
async fn a_memory_budget_that_is_not_freed_answers_overloaded_at_the_deadline() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let _open = OpensAtTheEnd(Arc::clone(&gate));
    let db = builder(directory.path())
        .memory_budget(32 << 20)
        .deadline(Duration::from_secs(1))
        .disk(Arc::new(common::disk::HookedDisk::gated(
            directory.path(),
            Arc::clone(&gate),
        )))
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    ks.put("kept", "value").await?;
    // The manifest of the first checkpoint is held up, so that there is no second.
    let value = vec![7; 1 << 20];
    gate.close();
    let mut written = Vec::new();
    let error = loop {
        let key = format!("big-{}", written.len());
        match patiently(ks.put(&key, &value)).await {
            Ok(_) => written.push(key),
            // A slow machine may have found room too late.
            Err(Error::DeadlineExceeded) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Overloaded { .. }), "{error}");
    assert!(ks.contains("kept").await?);
    gate.open();
    patiently(async {
        while let Err(error) = ks.put("cleared", "v").await {
            assert!(error.is_retryable(), "{error}");
        }
    })
    .await;
    for key in &written {
        assert_eq!(ks.get(key).await?.as_deref(), Some(&value[..]), "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_refuses_the_write() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path())
        .deadline(Duration::ZERO)
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    for _ in 0..3 {
        assert_eq!(
            patiently(ks.put("late", "v")).await,
            Err(Error::DeadlineExceeded)
        );
        assert_eq!(
            patiently(ks.add("late", 1)).await,
            Err(Error::DeadlineExceeded)
        );
    }
    assert_eq!(ks.get("late").await?, None);
    db.shutdown().await?;
    drop((ks, db));
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.get("late").await?, None);
    assert_eq!(ks.add("late", 1).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_node_that_restarts_says_so_and_one_that_is_down_too() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let db = builder(directory.path())
        .nodes(1)
        .restart_policy(quick_restarts(1))
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    ks.put("kept", "value").await?;
    let node = NodeId(0);
    trap.set("node", None, "Request", true, 0, 1);
    assert_eq!(
        patiently(ks.put("a", "v")).await,
        Err(Error::NodeRestarted { node })
    );
    patiently(ks.put("queued", "v")).await?;
    trap.set("node", None, "Request", true, 0, 1);
    // The node goes down before the journal has told it what had arrived.
    let error = patiently(ks.put("a", "v")).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    until(|| db.stats().nodes[0].state == mailring::NodeState::Down).await;
    assert_eq!(
        patiently(ks.put("a", "v")).await,
        Err(Error::NodeDown { node })
    );
    patiently(db.shutdown()).await?;
    let db = builder(directory.path()).nodes(1).open().await?;
    let ks = db.keyspace("ks").await?;
    assert_eq!(ks.get("a").await?, None);
    assert!(ks.contains("queued").await?);
    assert_kept(&ks).await
}

/// The answer was under way when the node panicked: the write is there, and the caller is told that this can't be told.
#[tokio::test]
async fn an_answer_lost_with_its_node_is_unknown_and_the_write_is_there() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let trap = Trap::new();
    let db = builder(directory.path())
        .fault_hook(trap.hook())
        .open()
        .await?;
    let ks = db.keyspace("ks").await?;
    ks.put("kept", "value").await?;
    trap.set("node", None, "Visible", true, 0, 1);
    let error = patiently(ks.put("key", "v")).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert!(ks.contains("key").await?);
    assert_kept(&ks).await
}

#[tokio::test]
async fn an_engine_that_is_shut_down_answers_closed() -> Result<()> {
    let (directory, db, ks) = fresh().await?;
    let snapshot = db.snapshot()?;
    let mut watch = ks.watch("").await?;
    db.shutdown().await?;
    db.shutdown().await?;
    assert_eq!(ks.get("kept").await, Err(Error::Closed));
    assert_eq!(ks.put("kept", "v").await, Err(Error::Closed));
    assert_eq!(ks.scan(..).count().await, Err(Error::Closed));
    assert_eq!(snapshot.get(&ks, "kept"), Err(Error::Closed));
    assert_eq!(db.keyspace("new").await.err(), Some(Error::Closed));
    assert_eq!(db.checkpoint().await, Err(Error::Closed));
    assert_eq!(db.verify().await, Err(Error::Closed));
    assert_eq!(db.snapshot().err(), Some(Error::Closed));
    let copy = directory.path().join("backup");
    assert_eq!(db.backup(copy).await, Err(Error::Closed));
    assert_eq!(watch.next().await, None);
    let db = builder(directory.path()).open().await?;
    assert_kept(&db.keyspace("ks").await?).await
}
