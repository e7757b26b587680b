//! The accounts: opening them, transferring between them, and adding them up.

use crate::{Failure, Plan};
use mailring::{Error, Keyspace, Mailring, Result};

/// What each account begins with.
const DEPOSIT: i64 = 1_000;

/// Accounts that are opened by one commit.
const BATCH: usize = 10_000;

#[derive(Debug, Clone)]
pub(crate) struct Bank {
    db: Mailring,
    accounts: Keyspace,
}

impl Bank {
    /// Opens all accounts.
    pub(crate) async fn found(db: &Mailring, plan: &Plan) -> Result<Self> {
        let accounts = db.keyspace("accounts").await?;
        let numbers: Vec<_> = (0..plan.accounts).collect();
        for numbers in numbers.chunks(BATCH) {
            let pairs = numbers.iter();
            let pairs = pairs.map(|number| (account(*number), DEPOSIT.to_le_bytes()));
            accounts.put_many(pairs).await?;
        }
        Ok(Self {
            db: db.clone(),
            accounts,
        })
    }

    /// Transfers the sum if the payer has it. A change of the ring is nothing that a caller has to know of.
    ///
    /// # Errors
    ///
    /// Those of [`Mailring::transact`].
    pub(crate) async fn transfer(&self, payer: u32, payee: u32, sum: i64) -> Result<()> {
        let (payer, payee) = (&account(payer), &account(payee));
        self.db
            .transact(|txn| async move {
                let balance = txn.get(&self.accounts, payer).await?;
                if counter(balance.as_deref())? >= sum {
                    txn.add(&self.accounts, payer, -sum).await?;
                    txn.add(&self.accounts, payee, sum).await?;
                }
                Ok(())
            })
            .await
    }

    /// Adds all accounts up at one moment.
    ///
    /// # Errors
    ///
    /// If the money is not all there, each account once; and those of a scan.
    pub(crate) async fn audit(&self, plan: &Plan) -> std::result::Result<(), Failure> {
        let snapshot = self.db.snapshot()?;
        let (mut accounts, mut money) = (0_u32, 0);
        let mut balances = snapshot.scan(&self.accounts, ..);
        while let Some((key, balance)) = balances.next().await? {
            if key != account(accounts) {
                return Err(format!("account {accounts} is missing or there twice").into());
            }
            accounts += 1;
            money += counter(Some(&balance))?;
        }
        let all = i64::from(plan.accounts) * DEPOSIT;
        if (accounts, money) == (plan.accounts, all) {
            return Ok(());
        }
        Err(format!(
            "{accounts} accounts hold {money}; {} must hold {all}",
            plan.accounts
        )
        .into())
    }
}

fn account(number: u32) -> String {
    format!("account-{number:07}")
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
