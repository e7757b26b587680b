//! The retry rule, variant by variant.

use super::*;
use crate::locks::{Mode, SessionId};

/// The names of all variants, and that of an error: a new variant does not compile before it is listed here, and is missed
/// below before it has a row.
macro_rules! variants {
    ($($name:ident),* $(,)?) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        fn name_of(error: &Error) -> &'static str {
            match error {
                $(Error::$name { .. } => stringify!($name),)*
            }
        }
    };
}

variants!(
    EmptyKey,
    KeyTooLarge,
    ValueTooLarge,
    BatchTooLarge,
    InvalidKeyspaceName,
    KeyspaceNotFound,
    NotACounter,
    CounterOverflow,
    Overloaded,
    DeadlineExceeded,
    Unknown,
    NodeRestarted,
    NodeDown,
    Moved,
    RingChangeRefused,
    CoordinatorDown,
    ReadOnly,
    DiskFull,
    CorruptJournal,
    CorruptTree,
    CorruptManifest,
    DirectoryInUse,
    ForeignDirectory,
    DirectoryMissing,
    DirectoryBehind,
    NoEngine,
    NewerFormat,
    SettingsMismatch,
    InvalidOption,
    InvalidLockName,
    LockBusy,
    LockTimeout,
    Deadlock,
    LockLost,
    StaleFence,
    LockManagerRestarted,
    LockManagerDown,
    Conflict,
    TransactionTooLarge,
    Aborted,
    TransactionEnded,
    Io,
    Closed,
);

fn lock() -> Resource {
    Resource::Lock("lock".into())
}

fn deadlock(resources: impl IntoIterator<Item = Resource>) -> Error {
    let step = |resource| WaitsFor {
        session: SessionId::Application(1),
        resource,
        mode: Mode::Exclusive,
    };
    Error::Deadlock {
        cycle: resources.into_iter().map(step).collect(),
    }
}

/// What the same call would only meet again, or what may have been carried out.
fn not_to_be_repeated() -> Vec<Error> {
    let (text, path, node) = (String::new, PathBuf::new, NodeId(0));
    vec![
        Error::EmptyKey,
        Error::KeyTooLarge { len: 1, limit: 0 },
        Error::ValueTooLarge { len: 1, limit: 0 },
        Error::BatchTooLarge {
            len: 1,
            limit: 0,
            unit: "keys",
        },
        Error::TransactionTooLarge {
            len: 1,
            limit: 0,
            unit: "keys",
        },
        Error::TransactionEnded,
        Error::InvalidKeyspaceName {
            name: text(),
            reason: "",
        },
        Error::InvalidLockName {
            name: text(),
            reason: "",
        },
        Error::KeyspaceNotFound { name: text() },
        Error::NotACounter { len: 1 },
        Error::CounterOverflow {
            current: 1,
            delta: 1,
        },
        Error::Unknown { reason: text() },
        Error::NodeDown { node },
        Error::CoordinatorDown,
        Error::LockManagerDown,
        Error::LockLost,
        Error::StaleFence {
            lock: text(),
            token: FencingToken(1),
        },
        Error::RingChangeRefused { reason: "" },
        Error::ReadOnly { reason: text() },
        Error::CorruptJournal {
            file: path(),
            offset: 0,
            reason: text(),
        },
        Error::CorruptTree {
            node,
            file: path(),
            reason: text(),
        },
        Error::CorruptManifest {
            file: path(),
            reason: text(),
        },
        Error::DirectoryInUse { path: path() },
        Error::NoEngine { path: path() },
        Error::ForeignDirectory {
            path: path(),
            entry: text(),
        },
        Error::DirectoryMissing {
            directory: DirectoryNo(1),
            path: path(),
            reason: text(),
        },
        Error::DirectoryBehind {
            directory: DirectoryNo(1),
            path: path(),
            reason: String::new(),
        },
        Error::NewerFormat {
            file: path(),
            found: 2,
            supported: 1,
        },
        Error::SettingsMismatch {
            setting: "",
            directory: text(),
            requested: text(),
        },
        Error::InvalidOption {
            option: "",
            value: text(),
            reason: "",
        },
        Error::io("", &io::Error::other("")),
        Error::Closed,
    ]
}

/// Nothing was written, and the caller may try again; but another attempt at once is of no use, or has no time left.
fn for_the_caller_to_repeat() -> Vec<Error> {
    vec![
        Error::DeadlineExceeded,
        Error::io("", &io::ErrorKind::StorageFull.into()),
        Error::io("", &io::ErrorKind::QuotaExceeded.into()),
        Error::LockBusy { resource: lock() },
        Error::LockTimeout { resource: lock() },
        // Its holder must give the named lock up first.
        deadlock([lock()]),
        deadlock([Resource::Key(Bytes::new()), lock()]),
    ]
}

/// Nothing was written, and a transaction is run again by itself.
fn repeated_by_itself() -> Vec<Error> {
    let node = NodeId(0);
    vec![
        Error::Overloaded { what: "" },
        Error::NodeRestarted { node },
        Error::Moved { node },
        Error::LockManagerRestarted,
        Error::Conflict {
            key: Bytes::new(),
            with: Rival::Write,
        },
        Error::Aborted { reason: "" },
        deadlock([Resource::Key(Bytes::new())]),
    ]
}

#[test]
fn only_what_was_certainly_not_applied_and_can_succeed_later_is_retryable() {
    for error in not_to_be_repeated() {
        assert!(!error.is_retryable(), "{error:?}");
    }
    for error in for_the_caller_to_repeat() {
        assert!(error.is_retryable(), "{error:?}");
    }
    for error in repeated_by_itself() {
        assert!(error.is_retryable(), "{error:?}");
    }
}

#[test]
fn a_transaction_is_run_again_only_where_an_attempt_may_soon_succeed() {
    let others = [not_to_be_repeated(), for_the_caller_to_repeat()];
    for error in others.concat() {
        assert!(!error.is_worth_another_attempt(), "{error:?}");
    }
    for error in repeated_by_itself() {
        assert!(error.is_worth_another_attempt(), "{error:?}");
    }
}

#[test]
fn each_variant_has_its_row() {
    let rows = [
        not_to_be_repeated(),
        for_the_caller_to_repeat(),
        repeated_by_itself(),
    ]
    .concat();
    for name in NAMES {
        let has_row = rows.iter().any(|error| name_of(error) == *name);
        assert!(has_row, "{name} has no row");
    }
}

#[test]
fn what_made_the_engine_read_only_is_named_once() {
    let first = Error::DirectoryInUse { path: "db".into() };
    let once = first.as_read_only();
    let reason = first.to_string();
    assert_eq!(once, Error::ReadOnly { reason });
    assert_eq!(once.as_read_only(), once);
}
