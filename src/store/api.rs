//! The seam: what a store promises, whether one SQLite file, Raft over many of them, or etcd stands behind it.

use std::sync::Arc;

use bytes::Bytes;

use crate::Entry;

/// A point in the history of the whole store. Starts at 1, grows by one with each write, never runs backwards, not even
/// after a crash: revisions are reserved on disk in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a caller wants to read of a value without decoding it, in a form of its own: computed once, kept with the value in
/// memory, never on disk.
pub type Facts = Box<[u8]>;

/// Makes the facts of a value; called for each value at load. Must be pure. Writers may pass facts with the write.
pub type FactsOf = Arc<dyn Fn(&str, &[u8]) -> Facts + Send + Sync>;

/// Bytes to be stored, with the place where the store writes the revision that it assigns.
///
/// The decimal digits of the new revision are inserted at `stamp_at` (a byte offset of at most `bytes.len()`; `None`:
/// nothing is inserted), so that the stored bytes can be served as they are.
#[derive(Clone)]
pub struct Value {
    pub bytes: Bytes,
    pub stamp_at: Option<usize>,
    pub facts: Facts,
}

/// What must hold of a key for the write to happen. Writes of one batch see those before them in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    Present,
    /// The entry was last modified at exactly this revision.
    At(Revision),
}

/// How a write is kept. A batch with one durable write is durable as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    /// Acknowledged once it is on disk (fsync).
    #[default]
    Durable,
    /// Acknowledged from memory, flushed with the next durable write, after a long deadline and at shutdown. May be lost with
    /// the process or the machine, but never reordered: what a crash leaves is the state at some revision, whole.
    Relaxed,
}

#[derive(Clone)]
pub enum Op {
    Put(Value),
    /// A key that is absent fails the precondition, whatever [`Expect`] says: there is no last state to hand back.
    Delete,
}

#[derive(Clone)]
pub struct Write {
    pub key: Arc<str>,
    pub expect: Expect,
    pub class: Class,
    pub op: Op,
}

/// All of it or nothing; each write gets a revision of its own, in order.
pub type Batch = Vec<Write>;

/// What became of one write. For a deletion it is the last state of the entry with `modified` set to the revision of the
/// deletion and the value restamped to it, as watchers see it.
pub type Written = Entry;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("precondition of write {index} failed: key {key}")]
    Precondition {
        index: usize,
        key: Arc<str>,
        /// What is there now; `None` when the key is absent.
        current: Option<Revision>,
    },
    #[error("revision {requested} has been compacted, the oldest kept is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("revision {requested} is in the future, the store is at {current}")]
    Future { requested: Revision, current: Revision },
    #[error("the store is read-only: {reason}")]
    ReadOnly { reason: String },
    /// The store cannot take the write right now and does not queue it. The SQLite store never says this: it waits for room.
    #[error("the write queue is full")]
    Busy,
    #[error("the store has been closed")]
    Closed,
    #[error("{path} was written by a newer version (schema {found}, this one knows {known})")]
    NewerSchema { path: String, found: i64, known: i64 },
    #[error("the state database {path} is in use by another process")]
    InUse { path: String },
    #[error("the state database {path} is damaged: {detail}")]
    Damaged { path: String, detail: String },
    #[error("i/o on the state database")]
    Io(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the same request may succeed later without anything being done about it by the caller.
    pub fn retryable(&self) -> bool {
        match self {
            Error::ReadOnly { .. } | Error::Busy | Error::Future { .. } | Error::Io(_) | Error::InUse { .. } => true,
            Error::Precondition { .. }
            | Error::Compacted { .. }
            | Error::Closed
            | Error::NewerSchema { .. }
            | Error::Damaged { .. } => false,
        }
    }
}

/// What a watcher is told. `previous` is the entry that the change replaced, so that a selector can tell an object that
/// leaves its view from one that was never in it.
#[derive(Debug, Clone)]
pub enum Event {
    Put { entry: Entry, previous: Option<Entry> },
    Delete { entry: Entry, previous: Entry },
}

impl Event {
    pub fn entry(&self) -> &Entry {
        match self {
            Event::Put { entry, .. } | Event::Delete { entry, .. } => entry,
        }
    }
    /// What the change replaced.
    pub fn previous(&self) -> Option<&Entry> {
        match self {
            Event::Put { previous, .. } => previous.as_ref(),
            Event::Delete { previous, .. } => Some(previous),
        }
    }
    pub fn revision(&self) -> Revision {
        self.entry().modified()
    }
}

/// Boxed future, so that the trait can be used as `dyn Store`.
pub type Pending<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An immutable view of the whole store at one revision.
pub trait View: Send + Sync {
    fn revision(&self) -> Revision;
    fn get(&self, key: &str) -> Option<Entry>;
    /// Entries whose key begins with `prefix`, in key order, beginning at `from` (inclusive; `None`: at the beginning).
    fn range<'a>(&'a self, prefix: &str, from: Option<&str>) -> Box<dyn Iterator<Item = &'a Entry> + 'a>;
    /// How many keys begin with `prefix`.
    fn count(&self, prefix: &str) -> usize;
}

pub type Snapshot = Arc<dyn View>;

/// A feed of the events of one key prefix, in revision order, without gaps.
pub trait Watcher: Send {
    /// Waits for events and appends all that are ready to `into` (at most a bounded number a call). Returns the revision up
    /// to which the feed is now complete, which may be later than that of the last event: bookmarks are made from it.
    /// Cancel-safe. Fails with [`Error::Compacted`] when the watcher fell further behind than the history reaches, and with
    /// [`Error::Closed`] when the store closes.
    fn next<'a>(&'a mut self, into: &'a mut Vec<Event>) -> Pending<'a, Result<Revision, Error>>;
    /// The revision up to which the feed is complete right now, without waiting.
    fn progress(&self) -> Revision;
}

pub trait Store: Send + Sync + 'static {
    /// The newest state. Never waits for the writer.
    fn snapshot(&self) -> Snapshot;
    /// The state at an older revision, from the bounded history. [`Error::Compacted`] or [`Error::Future`] else.
    fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, Error>;
    /// Waits until the store has reached `revision`; the caller sets the deadline.
    fn reached(&self, revision: Revision) -> Pending<'_, Result<(), Error>>;
    /// Applies a batch atomically, waiting for room in the queue first. The answer has one entry per write, in order. When it
    /// arrives, [`snapshot`](Store::snapshot) shows the batch.
    ///
    /// Dropping the future while it waits for room means that nothing is written; after that the batch is not taken back.
    /// [`Error::ReadOnly`] leaves open whether the batch will be there after a crash, never before one.
    fn write(&self, batch: Batch) -> Pending<'_, Result<Vec<Written>, Error>>;
    /// All events of `prefix` after `after`. [`Error::Compacted`] when history no longer reaches back that far,
    /// [`Error::Future`] when the store has not reached `after`.
    ///
    /// Prefixes that end in `/` are the cheap ones: a change wakes only the watchers of the folders that hold the key.
    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watcher>, Error>;
    /// Writes a consistent copy of the database to `to` while writes go on; the file is complete or absent (an existing one is
    /// replaced). Relaxed writes are in it.
    fn backup<'a>(&'a self, to: &'a std::path::Path) -> Pending<'a, Result<(), Error>>;
    /// Takes what is queued, flushes relaxed writes and stops the writer. Later writes fail with [`Error::Closed`]; snapshots
    /// stay readable. Fails when the flush fails, in which case relaxed writes are lost. A second call only waits.
    fn close(&self) -> Pending<'_, Result<(), Error>>;
    /// Whether writes are taken; the reason when they are not (disk full). For readiness.
    fn writable(&self) -> Result<(), Error>;
}
