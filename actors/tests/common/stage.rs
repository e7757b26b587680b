//! An engine of two nodes with traps, under a load whose every outcome is noted.

use super::{Ledger, Trap, builder, check, load, patiently, until, until_idle};
use mailring::{Builder, Error, FaultSite, Keyspace, Lsn, Mailring, Result, Transaction};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

/// Moves 1 between two of four accounts, which lie on both nodes.
async fn move_one(txn: &Transaction, ks: &Keyspace, number: usize) -> Result<()> {
    txn.add(ks, format!("account-{}", number % 4), 1).await?;
    txn.add(ks, format!("account-{}", (number + 1) % 4), -1)
        .await
        .map(drop)
}

async fn transfer(db: &Mailring, ks: &Keyspace, number: usize) -> Result<Lsn> {
    let body = async |txn: Transaction| move_one(&txn, ks, number).await;
    static ORDERS: AtomicUsize = AtomicUsize::new(0);
    let order = ORDERS.fetch_add(1, SeqCst);
    let transaction = db.transaction().deadline(Duration::from_secs(2));
    if order.is_multiple_of(2) {
        let key = format!("order-{order}");
        transaction.idempotency_key(key).run(body).await?;
    } else {
        transaction.run(body).await?;
    }
    Ok(db.stats().visible_lsn)
}

/// A transfer by whoever holds a lock, which may fail by its short times alone where they are [`FencedTimes::SHORT`].
async fn fenced_transfer(
    db: &Mailring,
    ks: &Keyspace,
    number: usize,
    times: FencedTimes,
) -> Result<()> {
    let FencedTimes { lease, patience } = times;
    let lock = db.locks().lock("till").lease(lease);
    let mut guard = lock.shared().timeout(patience).await?;
    guard.upgrade_within(patience).await?;
    guard.renew().await?;
    let body = async |txn: Transaction| {
        txn.fence(&guard)?;
        txn.get_for_update(ks, "account-0").await?;
        move_one(&txn, ks, number).await
    };
    let transaction = db.transaction().deadline(2 * patience);
    transaction.run(body).await
}

#[derive(Clone, Copy)]
struct FencedTimes {
    lease: Duration,
    patience: Duration,
}

impl FencedTimes {
    /// Of a load whose locks are lost in panics all the time: nobody is to wait long for a lease that nobody holds.
    const SHORT: Self = Self {
        lease: Duration::from_millis(200),
        patience: Duration::from_secs(1),
    };

    /// No machine is that slow.
    const AMPLE: Self = Self {
        lease: Duration::from_secs(20),
        patience: Duration::from_secs(30),
    };
}

pub struct Stage {
    pub directory: tempfile::TempDir,
    pub trap: Arc<Trap>,
    /// A second trap, for what must go wrong first.
    pub first: Arc<Trap>,
    pub second: Arc<Trap>,
    pub ledger: Arc<Mutex<Ledger>>,
    pub db: Mailring,
    pub ks: Keyspace,
}

impl Stage {
    pub async fn open() -> Result<Self> {
        Self::tuned(|builder| builder).await
    }

    pub async fn tuned(tune: impl FnOnce(Builder) -> Builder) -> Result<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (trap, first, second) = (Trap::new(), Trap::new(), Trap::new());
        let hooks = [trap.hook(), first.hook(), second.hook()];
        let hook = Arc::new(move |site: &FaultSite<'_>| hooks.iter().for_each(|hook| hook(site)));
        let db = tune(builder(directory.path()).fault_hook(hook))
            .open()
            .await?;
        let ks = db.keyspace("ks").await?;
        ks.put("first", "value").await?;
        Ok(Self {
            directory,
            trap,
            first,
            second,
            ledger: Arc::default(),
            db,
            ks,
        })
    }

    /// Writes from several tasks until all rounds are over, or the engine is read-only.
    pub async fn load(&self, name: &str, tasks: usize, rounds: usize) {
        load(&self.ks, &self.ledger, name, tasks, rounds).await;
    }

    /// Moves 1 between two accounts of different nodes.
    pub async fn transfer(&self, number: usize) -> Result<Lsn> {
        transfer(&self.db, &self.ks, number).await
    }

    /// Transfers from several tasks, half of them under idempotency keys, asking for the outcome of some. Whatever the
    /// answers are, there are some, and what is there adds up to 0.
    pub fn transfers(&self, tasks: usize, rounds: usize) -> tokio::task::JoinHandle<()> {
        let (db, ks) = (self.db.clone(), self.ks.clone());
        tokio::spawn(async move {
            let running: Vec<_> = (0..tasks)
                .map(|task| {
                    let (db, ks) = (db.clone(), ks.clone());
                    tokio::spawn(async move {
                        for round in 0..rounds {
                            let _ = transfer(&db, &ks, task + round).await;
                            if let Ok(txn) = db.begin() {
                                let _ = db.outcome(txn.id()).await;
                            }
                        }
                    })
                })
                .collect();
            for task in running {
                patiently(task).await.expect("the task ended well");
            }
        })
    }

    /// A transfer by whoever holds a lock, with more time than it can need.
    pub async fn fenced_transfer(&self, number: usize) -> Result<()> {
        fenced_transfer(&self.db, &self.ks, number, FencedTimes::AMPLE).await
    }

    /// Transfers under a fence from several tasks that take turns by a lock. Whatever the answers are, there are some.
    pub fn fenced_transfers(&self, tasks: usize, rounds: usize) -> tokio::task::JoinHandle<()> {
        let (db, ks) = (self.db.clone(), self.ks.clone());
        tokio::spawn(async move {
            let running: Vec<_> = (0..tasks)
                .map(|task| {
                    let (db, ks) = (db.clone(), ks.clone());
                    tokio::spawn(async move {
                        for round in 0..rounds {
                            let _ =
                                fenced_transfer(&db, &ks, task + round, FencedTimes::SHORT).await;
                        }
                    })
                })
                .collect();
            for task in running {
                patiently(task).await.expect("the task ended well");
            }
        })
    }

    /// Writes from several tasks, and large values beside them, so that the journal goes on to its next segment, and then
    /// makes a checkpoint, so that it lets go of the old ones. Whatever the answers are, there are some.
    pub async fn write_until_a_segment_is_full(&self, round: usize) {
        let large = {
            let ks = self.ks.clone();
            tokio::spawn(async move {
                for number in 0..8 {
                    let _ = ks.put(format!("large-{number}"), vec![0; 300 << 10]).await;
                }
            })
        };
        self.load(&format!("round-{round}"), 8, 10).await;
        patiently(large).await.expect("it has not panicked");
        let _ = patiently(self.db.checkpoint()).await;
    }

    /// Makes checkpoints beside whatever else goes on.
    pub fn checkpoints(&self, count: usize) -> tokio::task::JoinHandle<Result<()>> {
        let db = self.db.clone();
        tokio::spawn(async move {
            for _ in 0..count {
                db.checkpoint().await?;
            }
            Ok(())
        })
    }

    /// Checks what is there now against what was told.
    pub async fn check(&self) {
        check(&self.ledger, &self.ks).await;
    }

    /// The engine refuses every write and serves every read, and it stops when it is told to.
    pub async fn assert_read_only(&self) -> Result<()> {
        let (db, ks) = (&self.db, &self.ks);
        until(|| db.stats().read_only.is_some()).await;
        assert_eq!(ks.get("first").await?.as_deref(), Some(&b"value"[..]));
        assert!(ks.prefix("").count().await? > 0);
        self.assert_refuses().await;
        patiently(db.shutdown()).await
    }

    pub async fn assert_refuses(&self) {
        let (db, ks) = (&self.db, &self.ks);
        let refused = |error: Option<Error>| match error {
            Some(Error::ReadOnly { .. } | Error::NodeDown { .. }) => {}
            other => panic!("{other:?}"),
        };
        refused(patiently(ks.put("first", "x")).await.err());
        refused(patiently(ks.add("counter", 1)).await.err());
        refused(patiently(db.keyspace("new")).await.err());
        refused(patiently(db.drop_keyspace("ks")).await.err());
        refused(patiently(db.checkpoint()).await.err());
        until_idle(db).await;
    }

    /// Opens the directory again, as it was left, and checks that everything acknowledged is there and that it serves.
    pub async fn assert_reopens_whole(self) -> Result<()> {
        let ledger = std::mem::take(&mut *self.ledger.lock().unwrap());
        drop((self.ks, self.db));
        let db = builder(self.directory.path()).open().await?;
        let ks = db.keyspace("ks").await?;
        ledger.check(&ks).await;
        let mut sum = 0;
        for (_, balance) in ks.prefix("account-").collect().await? {
            sum += i64::from_le_bytes(balance[..].try_into().unwrap());
        }
        assert_eq!(sum, 0, "half a transfer is there");
        assert_eq!(ks.get("first").await?.as_deref(), Some(&b"value"[..]));
        ks.put("first", "again").await?;
        patiently(db.checkpoint()).await?;
        patiently(db.verify()).await.map(drop)
    }
}
