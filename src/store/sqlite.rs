//! A store in one SQLite file on this machine, for one process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::entry::VALUE_BYTES_MAX;
use crate::file::{self, StateFile};
use crate::history::{History, HistoryLimits};
use crate::log::{Log, Read};
use crate::memory::MemoryView;
use crate::queue::Queue;
use crate::writer::{Pace, Writer};
use crate::{Batch, Error, Event, FactsOf, Op, Pending, Revision, Seal, Snapshot, Store, Watcher, Written};

/// Events handed over by one call of [`Watcher::next`]: enough to amortise the call, little enough that nobody's buffer grows.
const EVENTS_PER_CALL: usize = 512;

/// How a store behaves. The defaults are what a server runs with.
#[derive(Debug, Clone)]
pub struct Options {
    pub history: HistoryLimits,
    /// How long a relaxed write may wait for a durable one to go to disk with. Each flush writes some pages of 4 KiB, so
    /// that half an hour keeps an idle cluster under half a megabyte a day; what a crash then loses is Lease renewals,
    /// which are void after a restart anyway, and Events that no durable write followed.
    pub relaxed_flush_after: Duration,
    /// How many revisions are reserved on disk at once. A crash skips what is left of the block; a block lasts a node that
    /// renews its Lease every ten seconds for a day.
    pub revision_block: u64,
    /// How soon after a failed commit the next write tries the disk again; until then durable writes are refused at once.
    /// Tried by writes, never by a timer, so that a full disk costs one attempt in this time and heals with the first write
    /// after space is back.
    pub retry_after: Duration,
    /// Bytes that may wait in the queue, counted in KiB, rounded up per write; callers beyond that wait for room.
    pub queue_bytes_max: usize,
    /// Added to the revision when the file is opened: who restores a backup skips the revisions that clients may have seen
    /// after it was made. Kept on disk.
    pub skip_revisions: u64,
    /// How values are kept on disk; `None`: as they are served.
    pub seal: Option<Arc<dyn Seal>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            history: HistoryLimits::default(),
            relaxed_flush_after: Duration::from_secs(30 * 60),
            revision_block: 10_000,
            retry_after: Duration::from_secs(1),
            // Two commits' worth.
            queue_bytes_max: 8 << 20,
            skip_revisions: 0,
            seal: None,
        }
    }
}

/// What readers, watchers and the writer share.
pub(crate) struct Shared {
    view: RwLock<Arc<MemoryView>>,
    history: Mutex<History>,
    /// The revision up to which the logs are complete. Never later than `view`.
    published: AtomicU64,
    /// Told when `published` grows and at close; for [`Store::reached`] only.
    grown: watch::Sender<()>,
    closed: AtomicBool,
    /// Why the disk takes nothing, if it does not.
    refusal: Mutex<Option<String>>,
}

impl Shared {
    fn published(&self) -> Revision {
        Revision(self.published.load(Ordering::Acquire))
    }

    fn view(&self) -> Arc<MemoryView> {
        self.view.read().clone()
    }

    /// Makes a state visible together with the events that led to it. The logs that are returned are to be woken.
    pub fn publish(&self, view: &Arc<MemoryView>, events: Vec<Event>, now: Instant) -> Vec<Arc<Log>> {
        // One lock around both, so that whoever joins a log finds every event up to the state that it can see.
        let mut history = self.history.lock();
        let replaced = std::mem::replace(&mut *self.view.write(), view.clone());
        let touched = history.append(events, now);
        self.published.store(view.revision.0, Ordering::Release);
        drop(history);
        // May free a great many tree nodes; outside of the lock.
        drop(replaced);
        self.grown.send_replace(());
        touched
    }

    pub fn refusal(&self) -> String {
        self.refusal.lock().clone().unwrap_or_default()
    }

    pub fn set_refusal(&self, reason: Option<String>) {
        *self.refusal.lock() = reason;
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let logs = self.history.lock().logs();
        for log in logs {
            log.wake();
        }
        self.grown.send_replace(());
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// Ends the store when the writer thread ends, in whatever way: nobody may wait for a writer that is gone.
struct End {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    ended: watch::Sender<bool>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.queue.abandon();
        self.shared.close();
        self.ended.send_replace(true);
    }
}

/// The store of a single server. Dropping it flushes and ends the writer in the background; [`Store::close`] waits for that.
pub struct SqliteStore {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    ended: watch::Receiver<bool>,
    /// How the last flush went, for the first who asks.
    outcome: Arc<Mutex<Option<Error>>>,
    seal: Option<Arc<dyn Seal>>,
    /// One backup at a time: two to the same place would write over each other.
    backup: Arc<Mutex<()>>,
}

impl SqliteStore {
    /// Opens the file at `path`, or creates it (mode 0600), loads it and starts the writer. Blocks for as long as it takes to
    /// read the file.
    ///
    /// Holds a lock on the file: [`Error::InUse`] when another store has it open. [`Error::NewerSchema`] when a newer
    /// version wrote it (it is left as it is), [`Error::Damaged`] when it is no database, not one of ours, or contradicts
    /// itself, [`Error::Io`] when it cannot be read or created.
    pub fn open(path: &Path, facts_of: FactsOf, options: Options) -> Result<Arc<SqliteStore>, Error> {
        let (mut file, loaded) = StateFile::open(path, &facts_of, options.seal.clone())?;
        file.settle(&loaded.stale).map_err(|failed| Error::ReadOnly { reason: failed.reason })?;
        let mut revision = loaded.revision;
        if options.skip_revisions > 0 {
            revision.0 += options.skip_revisions;
            file.commit(&[], Some(revision)).map_err(|failed| Error::ReadOnly { reason: failed.reason })?;
        }
        let view = Arc::new(MemoryView { revision, map: loaded.map });
        let shared = Arc::new(Shared {
            view: RwLock::new(view.clone()),
            history: Mutex::new(History::new(revision, options.history)),
            published: AtomicU64::new(revision.0),
            grown: watch::Sender::new(()),
            closed: AtomicBool::new(false),
            refusal: Mutex::new(None),
        });
        let queue = Arc::new(Queue::new(options.queue_bytes_max));
        let pace = Pace {
            relaxed_flush_after: options.relaxed_flush_after,
            // At least one, or every write would need a reservation of its own.
            revision_block: options.revision_block.max(1),
            retry_after: options.retry_after,
        };
        let writer = Writer::new(file, queue.clone(), shared.clone(), pace, view);
        let (ended, ended_receiver) = watch::channel(false);
        let end = End { queue: queue.clone(), shared: shared.clone(), ended };
        // Stands until the writer says how it ended: one that panicked has lost what was not flushed.
        let outcome = Arc::new(Mutex::new(Some(Error::Closed)));
        let writer_outcome = outcome.clone();
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let end = end;
                *writer_outcome.lock() = writer.run().err();
                drop(end);
            })
            .map_err(|error| Error::Io(Box::new(error)))?;
        let (ended, backup) = (ended_receiver, Arc::default());
        Ok(Arc::new(SqliteStore { shared, queue, ended, outcome, seal: options.seal, backup }))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Store for SqliteStore {
    fn snapshot(&self) -> Snapshot {
        self.shared.view()
    }

    fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, Error> {
        let rewind = {
            let history = self.shared.history.lock();
            let current = self.shared.view();
            if revision > current.revision {
                return Err(Error::Future { requested: revision, current: current.revision });
            }
            history.view_at(revision, &current)?
        };
        let view = rewind.view();
        self.shared.history.lock().keep(&view);
        Ok(view)
    }

    fn reached(&self, revision: Revision) -> Pending<'_, Result<(), Error>> {
        Box::pin(async move {
            let mut grown = self.shared.grown.subscribe();
            loop {
                grown.borrow_and_update();
                if self.shared.published() >= revision {
                    return Ok(());
                }
                if self.shared.is_closed() {
                    return Err(Error::Closed);
                }
                grown.changed().await.map_err(|_| Error::Closed)?;
            }
        })
    }

    fn write(&self, batch: Batch) -> Pending<'_, Result<Vec<Written>, Error>> {
        for write in &batch {
            if let Op::Put(value) = &write.op {
                // Here and not in the writer: a mistake of one caller must not end the store for all.
                let fits = value.bytes.len() <= VALUE_BYTES_MAX;
                assert!(fits, "the value of {} has {} bytes", write.key, value.bytes.len());
                let fits = value.stamp_at.is_none_or(|at| at <= value.bytes.len());
                assert!(fits, "the stamp of {} lies outside of its value", write.key);
            }
        }
        Box::pin(async move {
            let answered = self.queue.push(batch).await?;
            answered.await.unwrap_or(Err(Error::Closed))
        })
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watcher>, Error> {
        let mut history = self.shared.history.lock();
        let current = self.shared.view().revision;
        if after > current {
            return Err(Error::Future { requested: after, current });
        }
        let log = history.join(prefix, after)?;
        drop(history);
        let wake = log.subscribe();
        Ok(Box::new(LogWatcher { shared: self.shared.clone(), log, wake, position: after }))
    }

    fn backup<'a>(&'a self, to: &'a Path) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            let (view, to, one) = (self.shared.view(), to.to_owned(), self.backup.clone());
            let seal = self.seal.clone();
            let copy = tokio::task::spawn_blocking(move || {
                let _one = one.lock();
                file::write_copy(&view, &to, seal)
            });
            copy.await.map_err(|error| Error::Io(Box::new(error)))?
        })
    }

    fn close(&self) -> Pending<'_, Result<(), Error>> {
        Box::pin(async move {
            self.queue.close();
            // An error means that the sender is gone, which it is only after the end.
            let _ = self.ended.clone().wait_for(|ended| *ended).await;
            self.outcome.lock().take().map_or(Ok(()), Err)
        })
    }

    fn writable(&self) -> Result<(), Error> {
        if self.shared.is_closed() {
            return Err(Error::Closed);
        }
        self.shared.refusal.lock().clone().map_or(Ok(()), |reason| Err(Error::ReadOnly { reason }))
    }
}

struct LogWatcher {
    shared: Arc<Shared>,
    log: Arc<Log>,
    wake: watch::Receiver<()>,
    /// Everything up to this revision has been handed over.
    position: Revision,
}

impl Watcher for LogWatcher {
    fn next<'a>(&'a mut self, into: &'a mut Vec<Event>) -> Pending<'a, Result<Revision, Error>> {
        Box::pin(async move {
            loop {
                // In this order: seen, closed, published, log. Each is set after the ones to the right of it.
                self.wake.borrow_and_update();
                let closed = self.shared.is_closed();
                let published = self.shared.published();
                match self.log.read(self.position, published, EVENTS_PER_CALL, into) {
                    Read::Some(revision) => {
                        self.position = revision.max(self.position);
                        return Ok(self.position);
                    }
                    Read::Compacted(oldest) => {
                        return Err(Error::Compacted { requested: self.position, oldest });
                    }
                    Read::None if closed => return Err(Error::Closed),
                    Read::None => self.position = self.position.max(published),
                }
                self.wake.changed().await.map_err(|_| Error::Closed)?;
            }
        })
    }

    fn progress(&self) -> Revision {
        let published = self.shared.published();
        if self.log.unread(self.position) { self.position } else { self.position.max(published) }
    }
}

impl Drop for LogWatcher {
    fn drop(&mut self) {
        self.shared.history.lock().leave(&self.log);
    }
}
