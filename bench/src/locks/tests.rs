//! Each lock service of this build excludes, and one that does not is found out.

use std::time::Duration;

use super::*;
use crate::driver::Stop;
use crate::subject::Durability;

fn runtime() -> Arc<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Arc::new(builder.worker_threads(2).enable_all().build().unwrap())
}

fn job(names: Option<u64>) -> LockJob {
    LockJob {
        names,
        schedule: Schedule {
            clients: 8,
            stop: Stop::Operations(400),
            warmup: Duration::ZERO,
            rate: None,
            sample_every: 1,
            by_second: false,
        },
        seed: 1,
    }
}

fn can_run(kind: Kind) -> bool {
    match kind {
        #[cfg(feature = "redis")]
        Kind::Redis | Kind::RedisPipelined if !redis::is_installed() => {
            println!("SKIPPED: redis-server is not in the PATH");
            false
        }
        _ => true,
    }
}

#[test]
fn every_lock_service_locks_with_names_of_their_own_and_shared_ones() {
    for kind in Kind::usual_lockers()
        .into_iter()
        .filter(|kind| can_run(*kind))
    {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            dir: dir.path().to_owned(),
            durability: Durability::None,
            cache_bytes: 8 << 20,
            write_buffer_bytes: 8 << 20,
            nodes: 1,
        };
        let locks = open(kind, &settings, &runtime()).unwrap();
        for names in [None, Some(1), Some(3)] {
            let driven = locks.drive(&job(names), &Arc::default()).unwrap();
            assert_eq!(driven.outcome.operations, 400, "{kind} {names:?}");
            assert!(names.is_some() || driven.outcome.done.contention.aborts == 0);
        }
        locks.close().unwrap();
    }
}

/// Grants everything to everybody.
#[derive(Clone)]
struct Generous;

impl LockService for Generous {
    const STYLE: Style = Style::Tasks;
    type Client = Generous;

    fn connect(&self) -> Result<Generous> {
        Ok(Generous)
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

impl LockClient for Generous {
    type Held = ();

    async fn lock(&mut self, _name: &str) -> Result<Option<()>> {
        Ok(Some(()))
    }

    async fn unlock(&mut self, (): ()) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_lock_service_that_does_not_exclude_is_found_out() {
    let locks = Running {
        service: Generous,
        runtime: runtime(),
        timer: Timer::start(),
    };
    assert!(locks.drive(&job(None), &Arc::default()).is_ok());
    let fault = locks.drive(&job(Some(1)), &Arc::default()).err().unwrap();
    assert!(fault.to_string().starts_with("INVARIANT BROKEN"), "{fault}");
}
