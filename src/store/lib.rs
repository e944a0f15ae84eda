//! The state store: revisions of keys to bytes, in memory for reading and in SQLite for keeping.
//!
//! One writer thread takes what is queued, checks preconditions against memory, assigns revisions, commits one SQLite
//! transaction, publishes the events in revision order and then answers the callers. Readers never touch SQLite and never
//! wait for the writer: they take a [`Snapshot`], which costs a clone of a tree root.
//!
//! What never lives here: any Kubernetes word. A value is opaque bytes; what a reader wants to know about it without
//! decoding it again is its `Facts`, made by the caller's [`FactsOf`] once, when the value is written or loaded.
//!
//! ```text
//! callers ── Batch ──▶ queue ──▶ writer ──▶ stage (pure) ──▶ file (WAL, synchronous=FULL)
//!                    (bounded)  (thread)                         │ on disk
//!                                                                ▼
//!     Snapshot ◀── memory (map swap) ◀───────────────────── publish ──▶ history ──▶ Watcher (may lag out)
//! ```

mod api;
mod chunks;
mod entry;
mod file;
mod history;
mod log;
mod map;
mod memory;
mod queue;
mod seal;
mod sqlite;
mod stage;
mod stamp;
mod writer;

pub use api::*;
pub use entry::Entry;
pub use history::HistoryLimits;
pub use seal::{Opened, Seal};
pub use sqlite::{Options, SqliteStore};
