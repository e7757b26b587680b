//! An engine with one key that no error may cost.

use super::builder;
use mailring::{Builder, Error, Keyspace, Mailring, Result};

pub async fn fresh() -> Result<(tempfile::TempDir, Mailring, Keyspace)> {
    let directory = tempfile::tempdir().unwrap();
    let db = builder(directory.path()).open().await?;
    let ks = db.keyspace("ks").await?;
    ks.put("kept", "value").await?;
    Ok((directory, db, ks))
}

pub async fn assert_kept(ks: &Keyspace) -> Result<()> {
    assert_eq!(ks.get("kept").await?.as_deref(), Some(&b"value"[..]));
    ks.put("still writable", "yes").await.map(drop)
}

/// Why a directory does not open.
pub async fn refusal(builder: Builder) -> Error {
    builder.open().await.expect_err("this does not open")
}
