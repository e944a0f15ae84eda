//! Watchers under concurrency: order, completeness, waking, the end.

use std::time::Duration;

use store::{Error, Event, HistoryLimits, Options, Revision, Store};

use crate::{delete, durable, open, relaxed, try_open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watchers_see_everything_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"));
    const WRITERS: u64 = 8;
    const WRITES: u64 = 50;
    let mut watchers = tokio::task::JoinSet::new();
    for index in 0..100u64 {
        let prefix = ["", "a/", "a/3", "b/"][index as usize % 4];
        let mut watcher = store.watch(prefix, Revision(0)).unwrap();
        let expected = match prefix {
            "" => WRITERS * WRITES + 1,
            "a/" => WRITERS * WRITES,
            "a/3" => WRITES,
            _ => 1,
        };
        watchers.spawn(async move {
            let (mut events, mut last) = (Vec::new(), Revision(0));
            while (events.len() as u64) < expected {
                let before = events.len();
                let complete = watcher.next(&mut events).await.unwrap();
                assert!(events.len() > before && complete >= events[events.len() - 1].revision() && complete > last);
                last = complete;
            }
            assert!(events.is_sorted_by(|a, b| a.revision() < b.revision()));
            events.len() as u64 == expected
        });
    }
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for n in 0..WRITES {
                let key = format!("a/{writer}");
                store.write(if n % 5 == 0 { durable(&key, n) } else { relaxed(&key, n) }).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    store.write(durable("b/1", 1)).await.unwrap();
    let done = tokio::time::timeout(Duration::from_secs(30), watchers.join_all()).await.unwrap();
    assert!(done.into_iter().all(|complete| complete));
}

#[tokio::test]
async fn a_watcher_that_waits_is_woken_by_its_prefix_only() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"));
    let mut watcher = store.watch("a/", Revision(0)).unwrap();
    let mut events = Vec::new();
    store.write(durable("b/1", 1)).await.unwrap();
    // Cancelled without loss, and the feed is complete up to the other prefix's write.
    assert!(tokio::time::timeout(Duration::from_millis(1), watcher.next(&mut events)).await.is_err());
    assert_eq!(watcher.progress(), Revision(1));
    let (complete, written) = tokio::join!(watcher.next(&mut events), store.write(durable("a/1", 1)));
    assert_eq!((complete.unwrap(), written.unwrap()[0].modified()), (Revision(2), Revision(2)));
    store.write(delete("a/1")).await.unwrap();
    assert_eq!(watcher.progress(), Revision(2), "there is something unread");
    assert_eq!(watcher.next(&mut events).await.unwrap(), Revision(3));
    let [Event::Put { previous: None, .. }, Event::Delete { entry, previous }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((entry.value(), previous.value()), (&br#"{"n":1,"rev":"3"}"#[..], &br#"{"n":1,"rev":"2"}"#[..]));
}

#[tokio::test]
async fn a_watcher_gets_the_rest_and_then_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.db"));
    let mut watcher = store.watch("a/", Revision(0)).unwrap();
    store.write(durable("a/1", 1)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let mut events = Vec::new();
    assert_eq!(watcher.next(&mut events).await.unwrap(), Revision(1));
    assert!(matches!(watcher.next(&mut events).await, Err(Error::Closed)));
}

#[tokio::test]
async fn a_watcher_that_is_too_slow_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let history = HistoryLimits { bytes_max: 5_000, ..HistoryLimits::default() };
    let store = try_open(&folder.path().join("state.db"), Options { history, ..Options::default() }).unwrap();
    let mut slow = store.watch("a/", Revision(0)).unwrap();
    let mut quiet = store.watch("b/", Revision(0)).unwrap();
    for n in 0..100 {
        store.write(relaxed("a/1", n)).await.unwrap();
    }
    let mut events = Vec::new();
    let Err(Error::Compacted { requested, oldest }) = slow.next(&mut events).await else { panic!("not compacted") };
    assert!(requested == Revision(0) && oldest > Revision(50));
    assert!(matches!(store.watch("c/", Revision(1)), Err(Error::Compacted { .. })));
    // Nothing happened under the other prefix, so nothing was missed.
    store.write(durable("b/1", 1)).await.unwrap();
    assert_eq!(quiet.next(&mut events).await.unwrap(), Revision(101));
    assert_eq!(events.len(), 1);
}
