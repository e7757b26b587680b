//! What a commit over several directories costs: one force in each of them, all of them at once, and none behind another. So it
//! waits for one force, like a commit in one directory. The disks count the forces of their journals, and can hold each until
//! every disk was asked for one: forces in sequence would then wait for ever.

mod common;

use common::{disk::HookedDisk, keys_of, patiently, tuned};
use mailring::{Builder, Keyspace, Mailring, Result, Transaction};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
};

#[derive(Default)]
struct State {
    /// Forces of the journal in each directory.
    asked: [u32; 2],
    done: [u32; 2],
    /// The names under which segments were prepared, which is nothing that a commit waits for.
    segments: [BTreeSet<String>; 2],
    /// No force is let go before each directory was asked for one.
    is_holding: bool,
}

/// The two disks.
#[derive(Default)]
struct Disks {
    state: Mutex<State>,
    changed: Condvar,
}

impl Disks {
    fn become_segment(&self, directory: usize, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.segments[directory].insert(name.to_owned());
    }

    fn is_segment(&self, directory: usize, name: &str) -> bool {
        self.state.lock().unwrap().segments[directory].contains(name)
    }

    fn force(&self, directory: usize) {
        let mut state = self.state.lock().unwrap();
        state.asked[directory] += 1;
        self.changed.notify_all();
        while state.is_holding && state.asked.contains(&0) {
            state = self.changed.wait(state).unwrap();
        }
        state.done[directory] += 1;
    }

    /// Two nodes in each directory: 0 and 2 in the first, 1 and 3 in the second.
    fn builder(self: &Arc<Self>, root: &Path) -> Builder {
        let disk = |directory: usize| {
            let (path, disks) = (folder(root, directory), Arc::clone(self));
            fs::create_dir_all(&path).unwrap();
            let hook = move |operation: &'static str, name: &str| {
                match operation {
                    "rename" => disks.become_segment(directory, name),
                    "force" if disks.is_segment(directory, name) => disks.force(directory),
                    _ => {}
                }
                Ok(())
            };
            Arc::new(HookedDisk::new(&path, Arc::new(hook)))
        };
        let builder = tuned(Mailring::builder(folder(root, 0))).directory(folder(root, 1));
        builder.nodes(4).disk(disk(0)).disk_of(1, disk(1))
    }

    fn begin(&self, is_holding: bool) {
        let mut state = self.state.lock().unwrap();
        (state.asked, state.done) = ([0; 2], [0; 2]);
        state.is_holding = is_holding;
    }

    /// The forces since, all of which were over when the commit was answered.
    fn counted(&self) -> [u32; 2] {
        let mut state = self.state.lock().unwrap();
        state.is_holding = false;
        assert_eq!(state.asked, state.done, "an answer came before a force");
        state.done
    }
}

fn folder(root: &Path, directory: usize) -> PathBuf {
    root.join(format!("disk-{directory}"))
}

/// Lets all forces go when it goes out of scope, so that a failing test ends instead of hanging.
struct LetsGo(Arc<Disks>);

impl Drop for LetsGo {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.state.lock() {
            state.is_holding = false;
        }
        self.0.changed.notify_all();
    }
}

/// Writes one key of each of these nodes, in one transaction.
async fn commit(db: &Mailring, ks: &Keyspace, keys: &[&String]) -> Result<()> {
    let body = async |txn: Transaction| {
        for key in keys {
            txn.add(ks, key, 1).await?;
        }
        Ok(())
    };
    patiently(db.transact(body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_over_two_directories_waits_for_one_force_in_each_and_for_both_at_once()
-> Result<()> {
    let root = tempfile::tempdir().unwrap();
    let disks = Arc::<Disks>::default();
    let db = disks.builder(root.path()).open().await?;
    let _lets_go = LetsGo(Arc::clone(&disks));
    let ks = db.keyspace("ks").await?;
    let mut keys = Vec::new();
    for node in 0..4 {
        keys.push(keys_of(&db, &ks, node, 1).await.remove(0));
    }
    for _ in 0..10 {
        // One node, and two nodes of one directory: the local case.
        for (nodes, forces) in [(&[0][..], [1, 0]), (&[0, 2], [1, 0]), (&[1, 3], [0, 1])] {
            disks.begin(false);
            let keys: Vec<_> = nodes.iter().map(|node| &keys[*node]).collect();
            commit(&db, &ks, &keys).await?;
            assert_eq!(disks.counted(), forces, "nodes {nodes:?}");
        }
        // Over both: none in sequence beyond that.
        for nodes in [&[0, 1][..], &[2, 1], &[0, 1, 2, 3]] {
            disks.begin(true);
            let before = db.stats().journal_forces;
            let keys: Vec<_> = nodes.iter().map(|node| &keys[*node]).collect();
            commit(&db, &ks, &keys).await?;
            assert_eq!(disks.counted(), [1, 1], "nodes {nodes:?}");
            assert_eq!(db.stats().journal_forces, before + 2);
        }
    }
    Ok(())
}
