//! What the stories share: an engine whose steps can be held up, its model, and its writers.

use crate::common::{self, Gate, Ledger, load, patiently};
use mailring::{Builder, FaultHook, FaultSite, Keyspace, Mailring, NodeId, Result, Transaction};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

/// Accounts that money is moved between.
pub(crate) const ACCOUNTS: u32 = 40;
const MONEY: i64 = 1_000;

/// Where the engine is held up: at one kind of message, before it is handled.
#[derive(Default)]
pub(crate) struct Stop {
    place: Mutex<Option<(String, String)>>,
    pub(crate) gate: Arc<Gate>,
}

impl Stop {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn hook(self: &Arc<Self>) -> FaultHook {
        let stop = Arc::clone(self);
        Arc::new(move |site: &FaultSite<'_>| {
            let place = stop.place.lock().unwrap().clone();
            let is_here = |(actor, message): (String, String)| {
                !site.handled && actor == site.actor && message == site.message
            };
            if place.is_some_and(is_here) {
                stop.gate.pass();
            }
        })
    }

    /// Holds up whoever comes there.
    pub(crate) fn close_at(&self, actor: &str, message: &str) {
        self.gate.close();
        *self.place.lock().unwrap() = Some((actor.to_owned(), message.to_owned()));
    }

    pub(crate) async fn until_held_up(&self) {
        common::until(|| self.gate.waiting() > 0).await;
    }

    pub(crate) fn open(&self) {
        *self.place.lock().unwrap() = None;
        self.gate.open();
    }
}

pub(crate) fn builder(directory: &Path) -> Builder {
    common::tuned(Mailring::builder(directory)).move_rate(None)
}

/// Opens accounts, and some keys of every sort besides.
pub(crate) async fn fill(db: &Mailring) -> Result<Keyspace> {
    let ks = db.keyspace("ks").await?;
    let mut batch = db.batch();
    for number in 0..ACCOUNTS {
        batch.put(&ks, account(number), MONEY.to_le_bytes());
    }
    for number in 0..400 {
        batch.put(&ks, format!("still-{number:03}"), format!("value-{number}"));
    }
    batch.commit().await?;
    Ok(ks)
}

pub(crate) fn account(number: u32) -> String {
    format!("account-{number:02}")
}

/// What [`fill`] has put and nobody changes.
pub(crate) async fn check_still(ks: &Keyspace) -> Result<()> {
    let found = ks.prefix("still-").collect().await?;
    assert_eq!(found.len(), 400, "each once");
    for (number, (key, value)) in found.iter().enumerate() {
        assert_eq!(key, format!("still-{number:03}").as_bytes());
        assert_eq!(value, format!("value-{number}").as_bytes());
        let got = ks.get(key).await?;
        assert_eq!(got.as_ref(), Some(value));
    }
    Ok(())
}

/// The sum of all accounts, as one scan sees it.
pub(crate) async fn total(ks: &Keyspace) -> Result<i64> {
    let accounts = ks.prefix("account-").collect().await?;
    assert_eq!(accounts.len(), ACCOUNTS as usize, "each account once");
    Ok(accounts.iter().map(|(_, value)| counter(value)).sum())
}

pub(crate) fn counter(value: &[u8]) -> i64 {
    i64::from_le_bytes(value.try_into().expect("a counter"))
}

pub(crate) const TOTAL: i64 = ACCOUNTS as i64 * MONEY;

pub(crate) async fn transfer(db: &Mailring, ks: &Keyspace, number: u32) -> Result<()> {
    let body = async |txn: Transaction| {
        let (from, to) = (number % ACCOUNTS, (number * 7 + 3) % ACCOUNTS);
        if from != to {
            txn.add(ks, account(from), -1).await?;
            txn.add(ks, account(to), 1).await?;
        }
        Ok(())
    };
    db.transact(body).await
}

/// Writers of every sort beside `story`, and readers that never see a wrong total. All that was told must be there in the
/// end.
pub(crate) async fn beside_load<T>(
    db: &Mailring,
    ks: &Keyspace,
    story: impl Future<Output = Result<T>>,
) -> Result<T> {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    // What an earlier load has counted is not in this one's ledger.
    for (key, _) in ks.prefix("counter-").collect().await? {
        ks.delete(key).await?;
    }
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_over =
        |over: &Arc<std::sync::atomic::AtomicBool>| over.load(std::sync::atomic::Ordering::SeqCst);
    let mut tasks = Vec::new();
    for task in 0..3_u32 {
        let (db, ks, over) = (db.clone(), ks.clone(), Arc::clone(&over));
        tasks.push(tokio::spawn(async move {
            let mut number = task * 11;
            while !is_over(&over) {
                transfer(&db, &ks, number)
                    .await
                    .expect("a transfer is retried by itself");
                number += 1;
            }
        }));
    }
    {
        let (ks, ledger, over) = (ks.clone(), Arc::clone(&ledger), Arc::clone(&over));
        tasks.push(tokio::spawn(async move {
            for round in 0.. {
                if is_over(&over) {
                    break;
                }
                load(&ks, &ledger, &format!("load-{round}"), 3, 10).await;
            }
        }));
    }
    {
        let (db, ks, over) = (db.clone(), ks.clone(), Arc::clone(&over));
        tasks.push(tokio::spawn(async move {
            while !is_over(&over) {
                assert_eq!(total(&ks).await.expect("scans work"), TOTAL);
                let snapshot = db.snapshot().expect("snapshots work");
                let mut sum = 0;
                for number in 0..ACCOUNTS {
                    let value = snapshot.get(&ks, account(number)).expect("reads work");
                    sum += counter(&value.expect("an account is never gone"));
                }
                assert_eq!(sum, TOTAL, "by name in a snapshot");
                let body = async |txn: Transaction| {
                    let mut scan = txn.prefix(&ks, "account-");
                    let mut sum = 0;
                    while let Some((_, value)) = scan.next().await? {
                        sum += counter(&value);
                    }
                    Ok(sum)
                };
                let sum = db.transaction().read_only().run(body).await;
                assert_eq!(sum.expect("a read-only transaction never waits"), TOTAL);
            }
        }));
    }
    common::until(|| ledger.lock().unwrap().acknowledged() > 0).await;
    let told = patiently(story).await;
    over.store(true, std::sync::atomic::Ordering::SeqCst);
    for task in tasks {
        patiently(task).await.expect("the task ended well");
    }
    let ledger = ledger.lock().unwrap().clone();
    assert_eq!(ledger.unknown(), 0, "nothing that moves is ever unknown");
    assert!(ledger.acknowledged() > 0, "somebody has written");
    ledger.check(ks).await;
    check_whole(db, ks).await?;
    told
}

/// All is where the ring says, once, and nothing is missing.
pub(crate) async fn check_whole(db: &Mailring, ks: &Keyspace) -> Result<()> {
    assert_eq!(total(ks).await?, TOTAL);
    check_still(ks).await?;
    let verified = db.verify().await?;
    let mut counted = 0;
    for name in db.keyspaces().await? {
        counted += db.keyspace(&name).await?.scan(..).count().await?;
    }
    assert_eq!(
        verified.keys, counted,
        "a key is at its owner, and only there"
    );
    Ok(())
}

/// The members and their weights.
pub(crate) fn members(db: &Mailring) -> BTreeMap<u16, u32> {
    let nodes = db.nodes().list().into_iter();
    nodes.map(|info| (info.node.0, info.weight)).collect()
}

pub(crate) fn node(number: u16) -> NodeId {
    NodeId(number)
}
