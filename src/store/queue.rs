//! The bounded queue between callers and the writer thread: callers wait for room without blocking a thread, the writer
//! takes all there is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{Batch, Class, Error, Op, Written};

pub(crate) type Answer = Result<Vec<Written>, Error>;

/// Room in the queue is counted in KiB, rounded up per write, so that one number bounds the bytes and the count.
const ROOM_UNIT_BYTES: usize = 1024;

pub(crate) struct Job {
    pub batch: Batch,
    pub durable: bool,
    pub answer: oneshot::Sender<Answer>,
    /// Given back when the job has been answered, so that what is being written counts too.
    room: OwnedSemaphorePermit,
}

impl Job {
    fn room_units(&self) -> usize {
        self.room.num_permits()
    }
}

pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    room: Arc<Semaphore>,
    room_units: u32,
}

struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
    /// How many jobs the writer sleeps for; 0 while it is awake and need not be told.
    wanted: usize,
}

/// What the writer finds.
pub(crate) enum Taken {
    Jobs(Vec<Job>),
    /// Nothing came within the time given.
    Nothing,
    /// Closed and drained.
    Closed,
}

/// How long the writer waits, and for what.
pub(crate) struct Patience {
    /// The longest wait for a first job; `None`: for ever.
    pub first: Option<Duration>,
    /// When there is a job: how many more it would be worth waiting `more` for.
    pub group: usize,
    pub more: Duration,
}

impl Queue {
    pub fn new(bytes_max: usize) -> Self {
        let room_units = u32::try_from(bytes_max / ROOM_UNIT_BYTES).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        Queue {
            waiting: Mutex::new(Waiting { jobs: VecDeque::new(), closed: false, wanted: 0 }),
            arrived: Condvar::new(),
            room: Arc::new(Semaphore::new(room_units as usize)),
            room_units,
        }
    }

    /// Waits for room, in the order of asking. A batch larger than the queue has it for itself.
    pub async fn push(&self, batch: Batch) -> Result<oneshot::Receiver<Answer>, Error> {
        let units: usize = batch.iter().map(|write| write_bytes(&write.op, &write.key) / ROOM_UNIT_BYTES + 1).sum();
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(self.room_units);
        let room = self.room.clone().acquire_many_owned(units).await.map_err(|_| Error::Closed)?;
        let durable = batch.iter().any(|write| write.class == Class::Durable);
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Error::Closed);
        }
        waiting.jobs.push_back(Job { batch, durable, answer, room });
        let wake = waiting.wanted != 0 && waiting.jobs.len() >= waiting.wanted;
        drop(waiting);
        if wake {
            self.arrived.notify_one();
        }
        Ok(answered)
    }

    /// Takes all that is queued, up to `jobs_max` jobs and `bytes_max` bytes (but at least one job).
    pub fn take(&self, jobs_max: usize, bytes_max: usize, patience: Patience) -> Taken {
        let mut waiting = self.waiting.lock();
        while waiting.jobs.is_empty() && !waiting.closed {
            waiting.wanted = 1;
            match patience.first {
                None => self.arrived.wait(&mut waiting),
                Some(time) => {
                    if self.arrived.wait_for(&mut waiting, time).timed_out() && waiting.jobs.is_empty() {
                        waiting.wanted = 0;
                        return if waiting.closed { Taken::Closed } else { Taken::Nothing };
                    }
                }
            }
        }
        let group = patience.group.min(jobs_max);
        if waiting.jobs.len() < group && !waiting.closed {
            waiting.wanted = group;
            self.arrived.wait_while_for(&mut waiting, |w| w.jobs.len() < group && !w.closed, patience.more);
        }
        waiting.wanted = 0;
        if waiting.jobs.is_empty() {
            return Taken::Closed;
        }
        let mut units = 0;
        let mut count = 0;
        for job in waiting.jobs.iter().take(jobs_max) {
            units += job.room_units();
            if count > 0 && units * ROOM_UNIT_BYTES > bytes_max {
                break;
            }
            count += 1;
        }
        Taken::Jobs(waiting.jobs.drain(..count).collect())
    }

    /// No more jobs; those that are queued are still taken.
    pub fn close(&self) {
        self.waiting.lock().closed = true;
        self.room.close();
        self.arrived.notify_all();
    }

    /// Drops what is queued, whose callers are told [`Error::Closed`]. For a writer that ends without having taken all.
    pub fn abandon(&self) {
        self.close();
        self.waiting.lock().jobs.clear();
    }
}

fn write_bytes(op: &Op, key: &str) -> usize {
    key.len()
        + match op {
            Op::Put(value) => value.bytes.len(),
            Op::Delete => 0,
        }
}
