//! The writer thread: the only one that writes, commits and publishes.
//!
//! Each turn takes all batches that are queued, applies them to a copy of the state, commits once if anything asks for it,
//! publishes and answers. It waits for batches only; at idle it sleeps, with a single deadline if relaxed writes wait to be
//! flushed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::file::{CommitFailed, Rows, StateFile};
use crate::memory::MemoryView;
use crate::queue::{Answer, Job, Patience, Queue, Taken};
use crate::sqlite::Shared;
use crate::stage::Stage;
use crate::{Error, Event, Revision};

/// Batches in one commit. A commit of this many small rows takes some milliseconds, which bounds how long one waits for
/// those before it.
const GROUP_BATCHES_MAX: usize = 1024;
/// Bytes in one commit (a single larger batch is taken alone). 4 MiB is one checkpoint interval of the WAL.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Relaxed bytes that wait for a flush before one is made. Bounds what a burst of events can pile up.
const PENDING_BYTES_FLUSH: usize = 1 << 20;
/// Relaxed bytes that may wait while the disk takes nothing. After that relaxed writes are refused as well.
const PENDING_BYTES_MAX: usize = 8 << 20;
/// The longest wait for more batches to share a commit, and only if the commit before was shared. A fraction of what the
/// fastest disks take to sync.
const GATHER_MAX: Duration = Duration::from_micros(100);

/// What a row costs while it waits, beside its value.
const ROW_OVERHEAD_BYTES: usize = 128;

/// Relaxed writes that are not on disk yet: the newest state of each row, however often it changed.
#[derive(Default)]
struct Pending {
    rows: Rows,
    bytes: usize,
    /// When the oldest of them was written.
    since: Option<Instant>,
}

impl Pending {
    fn merge(&mut self, rows: Rows, now: Instant) {
        let cost =
            |row: &Option<_>| ROW_OVERHEAD_BYTES + row.as_ref().map_or(0, |entry: &crate::Entry| entry.value().len());
        self.since.get_or_insert(now);
        for (created, row) in rows {
            self.bytes += cost(&row);
            if let Some(replaced) = self.rows.insert(created, row) {
                self.bytes -= cost(&replaced);
            }
        }
    }
}

/// The newest state of each row that `events` touch.
fn rows_of(events: &[Event]) -> Rows {
    let mut rows = Rows::new();
    for event in events {
        let row = match event {
            Event::Put { entry, .. } => Some(entry.clone()),
            Event::Delete { .. } => None,
        };
        rows.insert(event.entry().created(), row);
    }
    rows
}

/// Times and sizes the writer goes by.
pub(crate) struct Pace {
    pub relaxed_flush_after: Duration,
    pub revision_block: u64,
    pub retry_after: Duration,
}

pub(crate) struct Writer {
    file: StateFile,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    pace: Pace,
    view: Arc<MemoryView>,
    /// The last revision that was used, by writes that failed on disk too.
    revision: Revision,
    /// Revisions up to this one are taken on disk.
    reserved: Revision,
    pending: Pending,
    /// Since when the disk takes nothing: no attempt before this.
    retry_at: Option<Instant>,
    /// How many batches shared the last commit: as many are likely to come again.
    last_group: usize,
}

/// What came of a group before it is published.
type Answers = Vec<(oneshot::Sender<Answer>, Answer)>;

impl Writer {
    pub fn new(file: StateFile, queue: Arc<Queue>, shared: Arc<Shared>, pace: Pace, view: Arc<MemoryView>) -> Self {
        let revision = view.revision;
        let pending = Pending::default();
        Writer { file, queue, shared, pace, view, revision, reserved: revision, pending, retry_at: None, last_group: 1 }
    }

    /// Runs until the queue is closed and drained, then flushes.
    pub fn run(mut self) -> Result<(), Error> {
        loop {
            let patience =
                Patience { first: self.until_flush(Instant::now()), group: self.last_group, more: GATHER_MAX };
            match self.queue.take(GROUP_BATCHES_MAX, GROUP_BYTES_MAX, patience) {
                Taken::Jobs(jobs) => {
                    self.last_group = jobs.len();
                    self.group(jobs, Instant::now());
                }
                Taken::Nothing => {
                    let now = Instant::now();
                    if self.until_flush(now) == Some(Duration::ZERO)
                        && let Err(failed) = self.commit(&Rows::new(), None)
                    {
                        self.refused(failed, now);
                    }
                }
                Taken::Closed => break,
            }
        }
        // The exact revision, so that the next start goes on where this one ends instead of after the reserved block.
        self.commit(&Rows::new(), Some(self.revision)).map_err(|failed| Error::ReadOnly { reason: failed.reason })
    }

    /// How long relaxed writes may still wait; `None` when there are none.
    fn until_flush(&self, now: Instant) -> Option<Duration> {
        let due = self.pending.since? + self.pace.relaxed_flush_after;
        // A disk that takes nothing is not asked at full speed: after as long again.
        let due = self.retry_at.map_or(due, |retry_at| due.max(retry_at + self.pace.relaxed_flush_after));
        Some(due.saturating_duration_since(now))
    }

    fn group(&mut self, jobs: Vec<Job>, now: Instant) {
        let mut jobs = jobs;
        if self.retry_at.is_none_or(|at| now >= at) {
            match self.attempt(jobs, now) {
                Ok(()) => return,
                Err(back) => jobs = back,
            }
        }
        self.without_disk(jobs, now);
    }

    /// The normal way. Gives the jobs back if the disk refused.
    fn attempt(&mut self, jobs: Vec<Job>, now: Instant) -> Result<(), Vec<Job>> {
        let mut stage = Stage::new(self.view.map.clone(), self.revision);
        let mut durable = false;
        let mut results = Vec::with_capacity(jobs.len());
        for job in &jobs {
            let result = stage.apply(&job.batch);
            durable |= job.durable && result.as_ref().is_ok_and(|written| !written.is_empty());
            results.push(result);
        }
        let rows = rows_of(&stage.events);
        let block = (stage.revision > self.reserved).then(|| Revision(stage.revision.0 + self.pace.revision_block));
        let flush = self.pending.bytes > PENDING_BYTES_FLUSH || self.until_flush(now) == Some(Duration::ZERO);
        // While the disk is refusing, a relaxed write is as good a reason to try it as any.
        let recover = self.retry_at.is_some() && !rows.is_empty();
        if durable || block.is_some() || flush || recover {
            if let Err(failed) = self.commit(&rows, block) {
                if failed.in_doubt {
                    self.revision = stage.revision;
                }
                self.refused(failed, now);
                return Err(jobs);
            }
        } else if !rows.is_empty() {
            self.pending.merge(rows, now);
        }
        let answers = jobs.into_iter().map(|job| job.answer).zip(results).collect();
        self.publish(stage, answers, now);
        Ok(())
    }

    /// While the disk takes nothing: relaxed writes go on in memory as long as there is room, durable ones are refused.
    fn without_disk(&mut self, jobs: Vec<Job>, now: Instant) {
        let refusal = || Error::ReadOnly { reason: self.shared.refusal() };
        let (durable, relaxed): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.durable);
        let mut stage = Stage::new(self.view.map.clone(), self.revision);
        let mut answers: Answers = durable.into_iter().map(|job| (job.answer, Err(refusal()))).collect();
        for job in relaxed {
            let room =
                self.pending.bytes <= PENDING_BYTES_MAX && stage.revision.0 + job.batch.len() as u64 <= self.reserved.0;
            let result = if room { stage.apply(&job.batch) } else { Err(refusal()) };
            answers.push((job.answer, result));
        }
        let rows = rows_of(&stage.events);
        if !rows.is_empty() {
            self.pending.merge(rows, now);
        }
        self.publish(stage, answers, now);
    }

    /// Writes what is pending and `rows`, the newer of both where both have a row.
    fn commit(&mut self, rows: &Rows, revision: Option<Revision>) -> Result<(), CommitFailed> {
        self.file.commit(&[&self.pending.rows, rows], revision)?;
        self.pending = Pending::default();
        if let Some(revision) = revision {
            self.reserved = revision;
        }
        if self.retry_at.take().is_some() {
            self.shared.set_refusal(None);
            tracing::info!("the state database takes writes again");
        }
        Ok(())
    }

    fn refused(&mut self, failed: CommitFailed, now: Instant) {
        if self.retry_at.is_none() {
            tracing::error!(reason = failed.reason, "the state database takes no writes, the store is read-only");
        }
        self.retry_at = Some(now + self.pace.retry_after);
        self.shared.set_refusal(Some(failed.reason));
    }

    fn publish(&mut self, stage: Stage, answers: Answers, now: Instant) {
        let mut touched = Vec::new();
        if !stage.events.is_empty() {
            self.revision = stage.revision;
            self.view = Arc::new(MemoryView { revision: stage.revision, map: stage.map });
            touched = self.shared.publish(&self.view, stage.events, now);
        }
        for (caller, answer) in answers {
            // A caller that is gone does not want to know.
            let _ = caller.send(answer);
        }
        for log in touched {
            log.wake();
        }
    }
}
