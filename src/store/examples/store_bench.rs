//! Measures the store: `cargo run --release -p kedge-store --example store_bench [folder]`. One line per figure: name, value, unit.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use store::{Batch, Class, Expect, FactsOf, Op, Options, Revision, SqliteStore, Store, Value, Write};
use tokio::task::JoinSet;
use tokio::time::Instant;

const WRITERS: usize = 64;
const CREATES: usize = 50_000;
const VALUE_BYTES: usize = 1024;
const LISTED: usize = 5_000;
const CHANGES: usize = 300;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn facts_of() -> FactsOf {
    Arc::new(|_, _| Arc::new(()))
}

fn put(key: String, expect: Expect, class: Class) -> Batch {
    let mut bytes = vec![b'x'; VALUE_BYTES];
    bytes[..21].copy_from_slice(b"{\"resourceVersion\":\"\"");
    let value = Value { bytes: bytes.into(), stamp_at: Some(20), facts: Arc::new(()) };
    vec![Write { key: key.into(), expect, class, op: Op::Put(value) }]
}

fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
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
    let mut times = Vec::with_capacity(count * CHANGES);
    for n in 0..CHANGES {
        let start = Instant::now();
        store.write(put(format!("core/pods/default/{}", n % 10), Expect::Any, class)).await?;
        for _ in 0..count {
            times.push(arrivals.recv().await.ok_or("a watcher ended")? - start);
        }
    }
    tasks.shutdown().await;
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("watch_{count}_{class:?}_p50 {:.3} ms", at(0.5));
    println!("watch_{count}_{class:?}_p99 {:.3} ms", at(0.99));
    Ok(())
}

async fn run(folder: &Path) -> Result<(), Failure> {
    let path = folder.join("state.db");
    let store = SqliteStore::open(&path, facts_of(), Options::default())?;
    let time = create(&store, "core/configmaps/default/", WRITERS, CREATES, Class::Durable).await?;
    println!("durable_creates_{WRITERS}_writers {:.0} per_second", per_second(CREATES, time));
    let time = create(&store, "core/secrets/default/", 1, 500, Class::Durable).await?;
    println!("durable_creates_1_writer {:.0} per_second", per_second(500, time));
    let time = create(&store, "core/events/default/", WRITERS, CREATES, Class::Relaxed).await?;
    println!("relaxed_creates_{WRITERS}_writers {:.0} per_second", per_second(CREATES, time));

    create(&store, "apps/replicasets/default/", WRITERS, LISTED, Class::Durable).await?;
    let start = Instant::now();
    let mut bytes = 0;
    for _ in 0..100 {
        bytes += store.snapshot().range("apps/replicasets/", None).map(|entry| entry.value.len()).sum::<usize>();
    }
    println!("range_of_{LISTED} {:.3} ms", start.elapsed().as_secs_f64() * 10.0);
    assert!(bytes > 100 * LISTED * VALUE_BYTES);
    let revision = store.snapshot().revision();
    let start = Instant::now();
    for back in 0..100 {
        std::hint::black_box(store.snapshot_at(Revision(revision.0 - back * 10))?.revision());
    }
    println!("snapshot_at {:.3} ms", start.elapsed().as_secs_f64() * 10.0);

    for count in [1, 200, 1_000] {
        fan_out(&store, count, Class::Durable).await?;
        fan_out(&store, count, Class::Relaxed).await?;
    }

    let start = Instant::now();
    store.backup(&folder.join("backup.db")).await?;
    println!("backup {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    store.close().await?;
    println!("close {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    drop(store);
    let start = Instant::now();
    let store = SqliteStore::open(&path, facts_of(), Options::default())?;
    println!("open_{}_keys {:.0} ms", store.snapshot().count(""), start.elapsed().as_secs_f64() * 1e3);
    store.close().await?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let folder = match std::env::args_os().nth(1) {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    tokio::runtime::Runtime::new()?.block_on(run(folder.path()))
}
