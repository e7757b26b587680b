//! Writing until it is refused, and what must be so then.

use super::{builder, is_harmless, memory_used, patiently, until, until_idle};
use mailring::{Builder, Error, Keyspace, Mailring, Result};
use std::path::Path;

pub const BUDGET: usize = 32 << 20;
pub const VALUE_BYTES: usize = 64 << 10;

pub fn small(directory: &Path) -> Builder {
    builder(directory).memory_budget(BUDGET)
}

pub fn assert_within_budget(db: &Mailring) {
    let stats = db.stats();
    let used = memory_used(&stats);
    assert!(used <= BUDGET, "{used} bytes are used, {stats:?}");
}

/// Writes until a write is refused, and gives the keys written and the refusal.
pub async fn write_until_refused(db: &Mailring, ks: &Keyspace, name: &str) -> (Vec<String>, Error) {
    let mut written = Vec::new();
    loop {
        let key = format!("{name}-{:06}", written.len());
        let put = patiently(ks.put(&key, vec![1; VALUE_BYTES])).await;
        assert_within_budget(db);
        match put {
            Ok(_) => written.push(key),
            Err(error) => return (written, error),
        }
        assert!(
            written.len() * VALUE_BYTES < 8 * BUDGET,
            "nothing is ever full"
        );
    }
}

pub async fn assert_there(ks: &Keyspace, written: &[String]) -> Result<()> {
    for key in written {
        let value = ks.get(key).await?;
        assert_eq!(value.as_deref(), Some(&[1; VALUE_BYTES][..]), "{key}");
    }
    Ok(())
}

/// Nobody helps: neither a restart nor a checkpoint that is asked for.
pub async fn until_it_clears(db: &Mailring, ks: &Keyspace) {
    patiently(async {
        while let Err(error) = ks.put("cleared", vec![2; VALUE_BYTES]).await {
            assert!(
                is_harmless(&error) || matches!(error, Error::Io { .. }),
                "{error}"
            );
            tokio::task::yield_now().await;
        }
    })
    .await;
    until(|| {
        let stats = db.stats();
        stats.checkpoint_failure.is_none() && stats.disk_full.is_none()
    })
    .await;
    until_idle(db).await;
    assert_eq!(db.stats().read_only, None);
}
