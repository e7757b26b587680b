//! The spans that the engine opens, as a subscriber of `tracing` sees them, and that the figures agree with them.
//!
//! The subscriber is that of the process, since forces happen on the engine's own threads: so this is one test.

mod common;

use common::{patiently, tuned, until};
use mailring::{Durability, Mailring, Result};
use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tracing::{Event, Metadata, Subscriber, span};

/// How often each span was opened.
#[derive(Clone, Default)]
struct Spans {
    opened: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    last: Arc<AtomicU64>,
}

impl Spans {
    fn count(&self, name: &str) -> u64 {
        let opened = self.opened.lock().unwrap();
        opened.get(name).copied().unwrap_or_default()
    }

    fn take(&self) -> BTreeMap<&'static str, u64> {
        mem::take(&mut *self.opened.lock().unwrap())
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("mailring")
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let name = attributes.metadata().name();
        *self.opened.lock().unwrap().entry(name).or_default() += 1;
        span::Id::from_u64(self.last.fetch_add(1, SeqCst) + 1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn each_call_and_each_force_is_a_span_and_each_force_is_counted() -> Result<()> {
    let spans = Spans::default();
    tracing::subscriber::set_global_default(spans.clone()).expect("nobody else has set one");

    // Each write is forced.
    let directory = tempfile::tempdir().unwrap();
    let db = tuned(Mailring::builder(directory.path())).open().await?;
    let ks = db.keyspace("ks").await?;
    for number in 0..5 {
        ks.put("key", number.to_string()).await?;
    }
    let opened = spans.take();
    assert_eq!((opened["keyspace"], opened["write"]), (1, 5), "{opened:?}");
    assert!(!opened.contains_key("append"), "{opened:?}");
    assert_eq!(opened["force"], db.stats().journal_forces);
    assert_eq!(
        db.stats().journal_groups,
        6,
        "each waited for the one before"
    );

    // Calls that write nothing.
    ks.get("key").await?;
    ks.contains("key").await?;
    ks.get_many(["key"]).await?;
    ks.scan(..).count().await?;
    let snapshot = db.snapshot()?;
    snapshot.get(&ks, "key")?;
    let _watch = ks.watch("").await?;
    let body = async |txn: mailring::Transaction| txn.get(&ks, "key").await;
    let txn = db.transaction().run(body);
    txn.await?;
    let opened = spans.take();
    let expected = [
        ("get", 5),
        ("get_many", 1),
        ("scan", 1),
        ("snapshot", 1),
        ("transact", 1),
        ("watch", 1),
    ];
    assert_eq!(opened, expected.into());
    drop((snapshot, ks, db));

    // Forced by nobody but a checkpoint.
    let directory = tempfile::tempdir().unwrap();
    let builder = tuned(Mailring::builder(directory.path()));
    let db = builder.durability(Durability::None).open().await?;
    let ks = db.keyspace("ks").await?;
    spans.take();
    ks.put("key", "value").await?;
    assert_eq!(spans.count("append"), 1);
    assert_eq!((spans.count("force"), db.stats().journal_forces), (0, 0));
    patiently(db.checkpoint()).await?;
    assert_eq!((spans.count("force"), db.stats().journal_forces), (1, 1));
    drop((ks, db));

    // Forced by the clock.
    let directory = tempfile::tempdir().unwrap();
    let builder = tuned(Mailring::builder(directory.path()));
    let interval = Durability::Interval(Duration::from_millis(10));
    let db = builder.durability(interval).open().await?;
    let ks = db.keyspace("ks").await?;
    until(|| db.stats().durable_lsn == db.stats().visible_lsn).await;
    spans.take();
    let before = db.stats().journal_forces;
    ks.put("key", "value").await?;
    until(|| db.stats().durable_lsn == db.stats().visible_lsn).await;
    until(|| db.stats().journal_forces == before + 1).await;
    assert_eq!(spans.count("force"), 1);
    assert_eq!(spans.count("append"), 1);
    Ok(())
}
