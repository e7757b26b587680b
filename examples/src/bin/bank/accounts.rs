//! The bank itself: opening it, transferring, and auditing. This is the part that a service would have.

use crate::{Failure, Plan};
use mailring::{Error, Keyspace, Mailring, Once, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What each account begins with.
const DEPOSIT: i64 = 1_000;

/// Accounts that are opened by one commit.
const BATCH: usize = 10_000;

/// The keyspaces of the bank. Balances and receipts are counters.
#[derive(Debug, Clone)]
pub(crate) struct Bank {
    db: Mailring,
    accounts: Keyspace,
    receipts: Keyspace,
}

/// What a client wants.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// No other order has it.
    pub(crate) key: String,
    pub(crate) client: u32,
    pub(crate) payer: u32,
    pub(crate) payee: u32,
    pub(crate) sum: i64,
}

/// How an order was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    Made,
    /// The payer had less than the sum.
    Refused,
    /// This order was settled before, one way or the other.
    SettledBefore,
}

/// What the accounts say at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Books {
    pub(crate) accounts: u64,
    pub(crate) money: i64,
    pub(crate) overdrawn: u64,
    /// Orders settled, by client.
    pub(crate) receipts: BTreeMap<String, i64>,
}

impl Bank {
    /// Opens the bank in `db`, and founds it where there is none.
    pub(crate) async fn open(db: &Mailring, plan: &Plan) -> std::result::Result<Self, Failure> {
        let bank = Self {
            db: db.clone(),
            accounts: db.keyspace("accounts").await?,
            receipts: db.keyspace("receipts").await?,
        };
        let charter = db.keyspace("charter").await?;
        match charter.get("accounts").await? {
            Some(number) => {
                let number = counter(Some(&number))?;
                if number != i64::from(plan.accounts) {
                    let words = format!("this bank has {number} accounts; say --accounts {number}");
                    return Err(words.into());
                }
            }
            None => {
                let numbers: Vec<_> = (0..plan.accounts).collect();
                for numbers in numbers.chunks(BATCH) {
                    let pairs = numbers
                        .iter()
                        .map(|number| (account(*number), DEPOSIT.to_le_bytes()));
                    bank.accounts.put_many(pairs).await?;
                }
                // Last: a bank whose founding was interrupted is founded again, and nobody has transferred before.
                charter.add("accounts", i64::from(plan.accounts)).await?;
            }
        }
        Ok(bank)
    }

    /// Transfers the sum if the payer has it, and gives the client a receipt for the order: all or nothing, wherever
    /// these keys live. A refusal gets a receipt as well, so that every order is a commit, which its key makes once.
    ///
    /// # Errors
    ///
    /// Those of [`Mailring::transact`].
    pub(crate) async fn transfer(&self, order: &Order) -> Result<Transfer> {
        let (payer, payee) = (&account(order.payer), &account(order.payee));
        let client = &client_key(order.client);
        let transaction = self.db.transaction().idempotency_key(&order.key);
        let outcome = transaction.run(|txn| async move {
            txn.add(&self.receipts, client, 1).await?;
            let balance = txn.get(&self.accounts, payer).await?;
            if counter(balance.as_deref())? < order.sum {
                return Ok(Transfer::Refused);
            }
            txn.add(&self.accounts, payer, -order.sum).await?;
            txn.add(&self.accounts, payee, order.sum).await?;
            Ok(Transfer::Made)
        });
        Ok(match outcome.await? {
            Once::Ran(transfer) => transfer,
            Once::Before(_) => Transfer::SettledBefore,
        })
    }

    /// Reads everything at one moment. Waits for nobody, and nobody waits for it.
    ///
    /// # Errors
    ///
    /// Those of a scan.
    pub(crate) async fn audit(&self) -> Result<Books> {
        let snapshot = self.db.snapshot()?;
        let mut books = Books::default();
        let mut balances = snapshot.scan(&self.accounts, ..);
        while let Some((_, balance)) = balances.next().await? {
            let balance = counter(Some(&balance))?;
            books.accounts += 1;
            books.money += balance;
            books.overdrawn += u64::from(balance < 0);
        }
        let mut receipts = snapshot.scan(&self.receipts, ..);
        while let Some((client, number)) = receipts.next().await? {
            let client = String::from_utf8_lossy(&client).into_owned();
            books.receipts.insert(client, counter(Some(&number))?);
        }
        Ok(books)
    }
}

impl Books {
    /// What is wrong with them, if anything is.
    pub(crate) fn fault(&self, plan: &Plan) -> Option<String> {
        let (accounts, money) = (u64::from(plan.accounts), money(plan));
        if (self.accounts, self.money, self.overdrawn) == (accounts, money, 0) {
            return None;
        }
        Some(format!(
            "{} accounts hold {}, and {} are overdrawn; {accounts} must hold {money}",
            self.accounts, self.money, self.overdrawn
        ))
    }

    /// How many orders of a client are settled.
    pub(crate) fn receipts_of(&self, client: u32) -> i64 {
        let receipts = self.receipts.get(&client_key(client));
        receipts.copied().unwrap_or_default()
    }
}

/// All the money there is.
pub(crate) fn money(plan: &Plan) -> i64 {
    i64::from(plan.accounts) * DEPOSIT
}

fn account(number: u32) -> String {
    format!("account-{number:06}")
}

fn client_key(client: u32) -> String {
    format!("client-{client:06}")
}

/// The number in a counter; one that is not there is 0.
fn counter(value: Option<&[u8]>) -> Result<i64> {
    let Some(bytes) = value else {
        return Ok(0);
    };
    let number = <[u8; 8]>::try_from(bytes);
    let number = number.map_err(|_| Error::NotACounter { len: bytes.len() })?;
    Ok(i64::from_le_bytes(number))
}
