//! The calls that most services need. Give a directory as the argument, or it uses a temporary one.

use mailring::{Mailring, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let temporary = tempfile::tempdir().expect("a temporary directory can be made");
    let argument = std::env::args_os().nth(1).map(std::path::PathBuf::from);
    let directory = argument.unwrap_or_else(|| temporary.path().to_owned());

    let db = Mailring::builder(&directory).open().await?;
    let users = db.keyspace("users").await?;

    // A batch is one atomic commit. Keys with the same {tag} live on one node, which makes it cheaper.
    let mut batch = db.batch();
    batch.put(&users, "{ada}:name", "Ada Lovelace");
    batch.put(&users, "{ada}:city", "London");
    batch.commit().await?;

    let before = db.snapshot()?;
    users.put("{ada}:city", "Turin").await?;
    let visits = users.add("{ada}:visits", 1).await?;
    assert_eq!(before.get(&users, "{ada}:city")?.unwrap(), "London");
    drop(before);
    db.shutdown().await?;

    // What was answered is on the disk: open the directory again and look.
    let db = Mailring::builder(&directory).open().await?;
    let users = db.keyspace("users").await?;
    assert_eq!(users.get("{ada}:city").await?.unwrap(), "Turin");
    assert_eq!(users.add("{ada}:visits", 0).await?, visits);
    let pairs = users.prefix("{ada}:").collect().await?;
    let keys: Vec<_> = pairs.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["{ada}:city", "{ada}:name", "{ada}:visits"]);
    db.shutdown().await?;
    println!("checked batch, put, add, get, prefix, snapshot, and all of it again after reopening");
    Ok(())
}
