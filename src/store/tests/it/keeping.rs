//! What goes to disk, when, and what comes back.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use store::{Class, Error, Expect, Options, Revision, Store, Value, Write};

use crate::{Op, contents, durable, listed, number, open, put, relaxed, revision_of, try_open};

/// What a power cut right now would leave: opened from a copy of the files.
async fn after_a_crash(path: &Path) -> (u64, Vec<(String, u64, u64, u64)>) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(path.with_file_name(name), folder.path().join(name)).unwrap();
    }
    let store = open(&folder.path().join("state.db"));
    let found = (store.snapshot().revision().0, contents(&*store));
    store.close().await.unwrap();
    found
}

fn log_len(path: &Path) -> u64 {
    std::fs::metadata(path.with_file_name("state.db-wal")).unwrap().len()
}

#[tokio::test]
async fn relaxed_writes_cost_no_disk_until_a_durable_one_takes_them_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = open(&path);
    store.write(durable("first", 1)).await.unwrap();
    let before = log_len(&path);
    for n in 0..1_000 {
        store.write(relaxed("lease/node", n)).await.unwrap();
    }
    assert_eq!(log_len(&path), before, "something was written at idle");
    let (revision, left) = after_a_crash(&path).await;
    assert_eq!(left.len(), 1);
    assert!(revision >= store.snapshot().revision().0, "revisions that were seen would come again: {revision}");

    store.write(durable("second", 1)).await.unwrap();
    // One page for the rows; the lease's thousand states cost one.
    assert!(log_len(&path) - before <= 3 * 4_200, "{}", log_len(&path) - before);
    assert_eq!(after_a_crash(&path).await.1, contents(&*store));
    store.close().await.unwrap();
}

/// At every moment, also when only relaxed writes come and a block of revisions ends with one of them.
#[tokio::test]
async fn a_crash_never_makes_a_revision_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = try_open(&path, Options { revision_block: 5, ..Options::default() }).unwrap();
    for n in 0..40 {
        let seen = store.write(relaxed("lease/node", n)).await.unwrap()[0].modified();
        let (revision, _) = after_a_crash(&path).await;
        assert!(revision >= seen.0, "{seen} was seen, and {} would be used again", revision + 1);
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn relaxed_writes_are_flushed_after_their_deadline_and_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store =
        try_open(&path, Options { relaxed_flush_after: Duration::from_millis(20), ..Options::default() }).unwrap();
    store.write(durable("first", 1)).await.unwrap();
    store.write(relaxed("lease/node", 1)).await.unwrap();
    let flushed = async {
        while after_a_crash(&path).await.1 != contents(&*store) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), flushed).await.unwrap();
    store.close().await.unwrap();

    // Close, and a drop without one.
    let store = open(&path);
    store.write(relaxed("lease/node", 2)).await.unwrap();
    store.close().await.unwrap();
    let store = open(&path);
    assert_eq!(number(&store.snapshot().get("lease/node").unwrap()), 2);
    store.write(relaxed("lease/node", 3)).await.unwrap();
    drop(store);
    let store = loop {
        match try_open(&path, Options::default()) {
            Err(Error::InUse { .. }) => tokio::task::yield_now().await,
            other => break other.unwrap(),
        }
    };
    assert_eq!(number(&store.snapshot().get("lease/node").unwrap()), 3);
}

#[tokio::test]
async fn facts_are_made_at_load_and_passed_with_a_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = open(&path);
    let value = Value { bytes: "twelve bytes".into(), stamp_at: None, facts: (*b"mine").into() };
    let write = Write { key: "k".into(), expect: Expect::Absent, class: Class::Durable, op: Op::Put(value) };
    let written = store.write(vec![write]).await.unwrap();
    assert_eq!(written[0].facts(), b"mine");
    store.close().await.unwrap();
    let entry = open(&path).snapshot().get("k").unwrap();
    assert_eq!((entry.facts(), entry.stamp_at()), (&b"12"[..], None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_one_revision_while_writes_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"));
    for n in 0..300 {
        store.write(relaxed(&format!("a/{n}"), n)).await.unwrap();
    }
    store.write(crate::delete("a/7")).await.unwrap();
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..200 {
                store.write(durable(&format!("b/{}", n % 10), n)).await.unwrap();
            }
        }
    });
    let to = folder.path().join("backup.db");
    std::fs::write(&to, "what was there before").unwrap();
    store.backup(&to).await.unwrap();
    writing.await.unwrap();
    assert_eq!(std::fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!folder.path().join("backup.db.partial").exists());

    let restored = try_open(&to, Options { skip_revisions: 1_000, ..Options::default() }).unwrap();
    let at = Revision(restored.snapshot().revision().0 - 1_000);
    assert_eq!(contents(&*restored), listed(&*store.snapshot_at(at).unwrap()));
    let revision = revision_of(&restored.write(durable("c", 1)).await.unwrap());
    assert!(revision.0 > at.0 + 1_000);

    let nowhere = folder.path().join("no/such/folder/backup.db");
    assert!(matches!(store.backup(&nowhere).await, Err(Error::Io(_))));
}

#[tokio::test]
async fn after_close_nothing_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"));
    store.write(durable("a", 1)).await.unwrap();
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.write(durable("a", 2)).await, Err(Error::Closed)));
    assert!(matches!(store.writable(), Err(Error::Closed)));
    assert!(matches!(store.reached(Revision(99)).await, Err(Error::Closed)));
    assert_eq!(number(&store.snapshot().get("a").unwrap()), 1);
}

/// The queue holds far less than what is written; a batch larger than all of it goes through as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_wait_for_room() {
    let folder = tempfile::tempdir().unwrap();
    let store =
        try_open(&folder.path().join("state.db"), Options { queue_bytes_max: 4096, ..Options::default() }).unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..50 {
        let store = store.clone();
        writers.spawn(async move {
            let batch = (0..10).map(|n| put(&format!("{writer}/{n}"), n, Expect::Absent, Class::Durable)).collect();
            store.write(batch).await.unwrap()
        });
    }
    let mut revisions: Vec<u64> =
        writers.join_all().await.into_iter().flatten().map(|entry| entry.modified().0).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=500).collect::<Vec<_>>());
    tokio::time::timeout(Duration::from_secs(5), store.reached(Revision(500))).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stamp_outside_of_its_value_hurts_only_its_writer() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"));
    let wrong = tokio::spawn({
        let store = store.clone();
        async move {
            let value = Value { bytes: "short".into(), stamp_at: Some(6), facts: store::Facts::default() };
            store
                .write(vec![Write { key: "k".into(), expect: Expect::Any, class: Class::Durable, op: Op::Put(value) }])
                .await
        }
    });
    assert!(wrong.await.unwrap_err().is_panic());
    store.write(durable("a", 1)).await.unwrap();
}
