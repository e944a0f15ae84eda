//! Measures the store, and SQLite itself beside it: `cargo run --release -p kedge-store --example store_bench [folder]`. One line
//! a figure: name, min, median, max, unit. Asserts nothing about speed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use store::{Batch, Class, Expect, FactsOf, Op, Options, Revision, SqliteStore, Store, Value, Write};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Clients that write at the same time; SQLite alone gets as many rows a commit.
const WRITERS: usize = 64;
const ROUNDS: usize = 5;
const CREATES: usize = 10_000;
/// By one writer, which pays for each commit alone.
const CREATES_ALONE: usize = 200;
const VALUE_BYTES: usize = 1024;
const LISTED: usize = 5_000;
const LISTS: usize = 100;
const CHANGES: usize = 200;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn facts_of() -> FactsOf {
    Arc::new(|_, _| store::Facts::default())
}

fn value() -> Vec<u8> {
    let mut bytes = vec![b'x'; VALUE_BYTES];
    bytes[..21].copy_from_slice(b"{\"resourceVersion\":\"\"");
    bytes
}

fn put(key: String, expect: Expect, class: Class) -> Batch {
    let value = Value { bytes: value().into(), stamp_at: Some(20), facts: store::Facts::default() };
    vec![Write { key: key.into(), expect, class, op: Op::Put(value) }]
}

fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn print(name: &str, mut samples: Vec<f64>, unit: &str) {
    samples.sort_by(f64::total_cmp);
    let (min, median, max) = (samples[0], samples[samples.len() / 2], samples[samples.len() - 1]);
    println!("{name} {min:.3} {median:.3} {max:.3} {unit}");
}

/// Writes `count` keys under `folder` with `writers` tasks, each waiting for its answer before the next.
async fn create(
    store: &Arc<SqliteStore>,
    folder: &str,
    writers: usize,
    count: usize,
    class: Class,
) -> Result<Duration, Failure> {
    let start = Instant::now();
    let mut tasks: JoinSet<Result<(), store::Error>> = JoinSet::new();
    for writer in 0..writers {
        let (store, folder) = (store.clone(), folder.to_owned());
        tasks.spawn(async move {
            for n in (writer..count).step_by(writers) {
                store.write(put(format!("{folder}{n:08}"), Expect::Absent, class)).await?;
            }
            Ok(())
        });
    }
    for result in tasks.join_all().await {
        result?;
    }
    Ok(start.elapsed())
}

/// SQLite alone, the least that can be had: one thread, the store's own table and settings, `rows` rows a commit.
struct Peer(rusqlite::Connection);

impl Peer {
    fn open(path: &Path) -> rusqlite::Result<Self> {
        let conn = rusqlite::Connection::open(path)?;
        conn.execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA cache_size = -1024; PRAGMA wal_autocheckpoint = 1000;
             CREATE TABLE entry (created INTEGER PRIMARY KEY, modified INTEGER, stamp_at INTEGER, key TEXT, value BLOB) STRICT;",
        )?;
        Ok(Peer(conn))
    }

    fn create(&self, folder: &str, count: usize, rows: usize) -> rusqlite::Result<Duration> {
        let start = Instant::now();
        let value = value();
        let mut put = self.0.prepare("INSERT INTO entry (modified, stamp_at, key, value) VALUES (?1, 20, ?2, ?3)")?;
        for first in (0..count).step_by(rows) {
            self.0.execute_batch("BEGIN IMMEDIATE")?;
            for n in first..count.min(first + rows) {
                put.execute(rusqlite::params![n as i64, format!("{folder}{n:08}"), value])?;
            }
            self.0.execute_batch("COMMIT")?;
        }
        Ok(start.elapsed())
    }
}

/// The store and SQLite in turns, so that what the machine does beside it falls on both.
async fn beside_sqlite(store: &Arc<SqliteStore>, folder: &Path) -> Result<(), Failure> {
    let peer = Peer::open(&folder.join("peer.db"))?;
    let (mut ours, mut theirs, mut share) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ours_alone, mut theirs_alone, mut share_alone) = (Vec::new(), Vec::new(), Vec::new());
    let mut relaxed = Vec::new();
    for round in 0..ROUNDS {
        let key = |kind: &str| format!("core/{kind}/round-{round}/");
        let time = create(store, &key("configmaps"), WRITERS, CREATES, Class::Durable).await?;
        let peer_time = peer.create(&key("configmaps"), CREATES, WRITERS)?;
        ours.push(per_second(CREATES, time));
        theirs.push(per_second(CREATES, peer_time));
        share.push(peer_time.as_secs_f64() / time.as_secs_f64());
        let time = create(store, &key("secrets"), 1, CREATES_ALONE, Class::Durable).await?;
        let peer_time = peer.create(&key("secrets"), CREATES_ALONE, 1)?;
        ours_alone.push(per_second(CREATES_ALONE, time));
        theirs_alone.push(per_second(CREATES_ALONE, peer_time));
        share_alone.push(peer_time.as_secs_f64() / time.as_secs_f64());
        let time = create(store, &key("events"), WRITERS, CREATES, Class::Relaxed).await?;
        relaxed.push(per_second(CREATES, time));
    }
    print(&format!("store_durable_creates_{WRITERS}_writers"), ours, "1/s");
    print(&format!("sqlite_inserts_{WRITERS}_a_commit"), theirs, "1/s");
    print(&format!("store_to_sqlite_{WRITERS}_writers"), share, "times");
    print("store_durable_creates_1_writer", ours_alone, "1/s");
    print("sqlite_inserts_1_a_commit", theirs_alone, "1/s");
    print("store_to_sqlite_1_writer", share_alone, "times");
    print(&format!("store_relaxed_creates_{WRITERS}_writers"), relaxed, "1/s");
    Ok(())
}

/// From just before a write to the moment when the last, and each, of `count` watchers has it.
async fn fan_out(store: &Arc<SqliteStore>, count: usize, class: Class) -> Result<(), Failure> {
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel::<Instant>(count);
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let mut watcher = store.watch("core/pods/", store.snapshot().revision())?;
        let arrived = arrived.clone();
        tasks.spawn(async move {
            let mut events = Vec::new();
            while watcher.next(&mut events).await.is_ok() {
                for _ in events.drain(..) {
                    if arrived.send(Instant::now()).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut times = Vec::with_capacity(count * CHANGES / ROUNDS);
        for n in 0..CHANGES / ROUNDS {
            let start = Instant::now();
            store.write(put(format!("core/pods/default/{}", n % 10), Expect::Any, class)).await?;
            for _ in 0..count {
                times.push(ms(arrivals.recv().await.ok_or("a watcher ended")? - start));
            }
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        p50.push(at(0.5));
        p99.push(at(0.99));
    }
    tasks.shutdown().await;
    let class = if class == Class::Durable { "durable" } else { "relaxed" };
    print(&format!("store_watch_{count}_{class}_p50"), p50, "ms");
    print(&format!("store_watch_{count}_{class}_p99"), p99, "ms");
    Ok(())
}

async fn reads(store: &Arc<SqliteStore>) -> Result<(), Failure> {
    create(store, "apps/replicasets/default/", WRITERS, LISTED, Class::Durable).await?;
    let (mut ranges, mut rewinds, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..LISTS {
        let start = Instant::now();
        bytes += store.snapshot().range("apps/replicasets/", None).map(|entry| entry.value().len()).sum::<usize>();
        ranges.push(ms(start.elapsed()));
    }
    assert!(bytes > LISTS * LISTED * VALUE_BYTES);
    let revision = store.snapshot().revision();
    for back in 0..LISTS as u64 {
        let start = Instant::now();
        std::hint::black_box(store.snapshot_at(Revision(revision.0 - back * 10))?.revision());
        rewinds.push(ms(start.elapsed()));
    }
    print(&format!("store_range_of_{LISTED}"), ranges, "ms");
    print("store_snapshot_at", rewinds, "ms");
    Ok(())
}

async fn run(folder: &Path) -> Result<(), Failure> {
    let path = folder.join("state.db");
    let store = SqliteStore::open(&path, facts_of(), Options::default())?;
    beside_sqlite(&store, folder).await?;
    reads(&store).await?;
    for count in [1, 200, 1_000] {
        fan_out(&store, count, Class::Durable).await?;
        fan_out(&store, count, Class::Relaxed).await?;
    }
    let start = Instant::now();
    store.backup(&folder.join("backup.db")).await?;
    print("store_backup", vec![ms(start.elapsed())], "ms");
    let start = Instant::now();
    store.close().await?;
    print("store_close", vec![ms(start.elapsed())], "ms");
    drop(store);
    let mut opens = Vec::new();
    let mut keys = 0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let store = SqliteStore::open(&path, facts_of(), Options::default())?;
        opens.push(ms(start.elapsed()));
        keys = store.snapshot().count("");
        store.close().await?;
    }
    print(&format!("store_open_{keys}_keys"), opens, "ms");
    Ok(())
}

fn main() -> Result<(), Failure> {
    let folder = match std::env::args_os().nth(1) {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    tokio::runtime::Runtime::new()?.block_on(run(folder.path()))
}
