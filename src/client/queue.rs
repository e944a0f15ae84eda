//! The work queue of a controller: which keys want attention, and when. Data and decisions; the waiting is the runner's.
//!
//! A key is in it once, however often it is added; while it is worked on, an addition makes it come again afterwards, never
//! twice at the same time. What bounds its size is the number of keys that exist.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::meters::Load;
use crate::object::Key;

/// First and longest wait after a key's failures, doubling between. Source: client-go `DefaultTypedControllerRateLimiter`.
pub const BACKOFF_MIN: Duration = Duration::from_millis(5);
pub const BACKOFF_MAX: Duration = Duration::from_secs(1000);

#[derive(Default)]
struct Inner {
    ready: VecDeque<Key>,
    /// Members of `ready`, and running keys that were added again; since when.
    dirty: HashMap<Key, Instant>,
    /// Since when.
    running: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
    due: BTreeSet<(Instant, Key)>,
    due_of: HashMap<Key, Instant>,
    load: Load,
}

/// Shared between those who mark keys dirty and the runner.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    notify: Notify,
}

/// What the runner gets when it asks for work.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Work on this, then call `done`.
    Key(Key),
    /// Nothing until then, unless something is added.
    At(Option<Instant>),
}

impl Queue {
    pub fn new() -> Self {
        Self::default()
    }

    /// The key wants attention now. A deadline that it had stays.
    pub fn add(&self, key: Key) {
        if self.inner.lock().add(key, Instant::now()) {
            self.notify.notify_one();
        }
    }

    /// The key wants attention at a time; the earliest of several counts.
    pub fn add_at(&self, key: Key, at: Instant) {
        let mut inner = self.inner.lock();
        match inner.due_of.get(&key) {
            Some(known) if *known <= at => return,
            Some(known) => {
                let known = *known;
                inner.due.remove(&(known, key.clone()));
            }
            None => {}
        }
        inner.due_of.insert(key.clone(), at);
        inner.due.insert((at, key));
        drop(inner);
        self.notify.notify_one();
    }

    /// The next key to work on as of `now`.
    pub fn next(&self, now: Instant) -> Next {
        let mut inner = self.inner.lock();
        while inner.due.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((at, key)) = inner.due.pop_first() {
                inner.due_of.remove(&key);
                inner.add(key, at);
            }
        }
        match inner.ready.pop_front() {
            Some(key) => {
                if let Some(since) = inner.dirty.remove(&key) {
                    inner.load.waited.observe(now.saturating_duration_since(since));
                }
                inner.running.insert(key.clone(), now);
                Next::Key(key)
            }
            None => Next::At(inner.due.first().map(|(at, _)| *at)),
        }
    }

    /// Work on the key is over; `ok` forgets its failures, otherwise it comes again after a growing wait, which is returned.
    pub fn done(&self, key: &Key, ok: bool, now: Instant) -> Option<Duration> {
        let wait = {
            let mut inner = self.inner.lock();
            if let Some(since) = inner.running.remove(key) {
                inner.load.worked.observe(now.saturating_duration_since(since));
            }
            if inner.dirty.contains_key(key) {
                inner.ready.push_back(key.clone());
            }
            if ok {
                inner.failures.remove(key);
                None
            } else {
                let failures = inner.failures.entry(key.clone()).or_insert(0);
                let wait = BACKOFF_MIN.saturating_mul(1 << (*failures).min(20)).min(BACKOFF_MAX);
                *failures += 1;
                inner.load.retries += 1;
                Some(wait)
            }
        };
        if let Some(wait) = wait {
            self.add_at(key.clone(), now + wait);
        }
        self.notify.notify_one();
        wait
    }

    /// Resolves after something was added, at once if it was since the last call.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }

    /// Keys that are ready, running or due.
    pub fn len(&self) -> usize {
        let inner = self.inner.lock();
        inner.ready.len() + inner.running.len() + inner.due.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it has had to do until `now`.
    pub fn load(&self, now: Instant) -> Load {
        let inner = self.inner.lock();
        let since = |since: &Instant| now.saturating_duration_since(*since);
        Load {
            depth: inner.ready.len(),
            unfinished: inner.running.values().map(since).sum(),
            longest: inner.running.values().map(since).max().unwrap_or_default(),
            ..inner.load.clone()
        }
    }
}

impl Inner {
    fn add(&mut self, key: Key, now: Instant) -> bool {
        if self.dirty.contains_key(&key) {
            return false;
        }
        self.dirty.insert(key.clone(), now);
        self.load.adds += 1;
        if !self.running.contains_key(&key) {
            self.ready.push_back(key);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::cluster(name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_once_at_a_time() {
        let (q, now) = (Queue::new(), Instant::now());
        assert_eq!(q.next(now), Next::At(None));
        q.add(key("a"));
        q.add(key("b"));
        q.add(key("a"));
        assert_eq!(q.next(now), Next::Key(key("a")));
        q.add(key("a"));
        assert_eq!(q.next(now), Next::Key(key("b")));
        assert_eq!(q.next(now), Next::At(None), "a is being worked on");
        q.done(&key("a"), true, now);
        assert_eq!(q.next(now), Next::Key(key("a")));
        q.done(&key("a"), true, now);
        q.done(&key("b"), true, now);
        assert!(q.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time() {
        let (q, mut now) = (Queue::new(), Instant::now());
        q.add(key("a"));
        let mut waits = Vec::new();
        for _ in 0..25 {
            assert_eq!(q.next(now), Next::Key(key("a")));
            let wait = q.done(&key("a"), false, now).unwrap();
            assert_eq!(q.next(now), Next::At(Some(now + wait)));
            now += wait;
            waits.push(wait);
        }
        assert_eq!((waits[0], waits[1], waits[24]), (BACKOFF_MIN, BACKOFF_MIN * 2, BACKOFF_MAX));
        assert_eq!(q.next(now), Next::Key(key("a")));
        q.done(&key("a"), true, now);
        assert_eq!(q.next(now), Next::At(None));
        q.add(key("a"));
        q.next(now);
        assert_eq!(q.done(&key("a"), false, now), Some(BACKOFF_MIN), "success forgets");
    }

    #[tokio::test(start_paused = true)]
    async fn it_knows_what_it_has_had_to_do() {
        let (q, start) = (Queue::new(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        q.add(key("a"));
        q.add(key("a"));
        q.add_at(key("b"), at(2));
        assert_eq!((q.load(at(1)).depth, q.load(at(1)).adds), (1, 1));
        q.next(at(4));
        q.next(at(5));
        let load = q.load(at(9));
        assert_eq!((load.depth, load.adds, load.unfinished, load.longest.as_secs()), (0, 2, Duration::from_secs(9), 5));
        assert_eq!((load.waited.count(), load.waited.seconds()), (2, 4.0 + 3.0));
        q.done(&key("a"), false, at(10));
        q.done(&key("b"), true, at(10));
        let load = q.load(at(11));
        assert_eq!((load.retries, load.worked.count(), load.worked.seconds()), (1, 2, 6.0 + 5.0));
        assert_eq!((load.unfinished, load.longest), (Duration::ZERO, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_deadline_counts() {
        let (q, now) = (Queue::new(), Instant::now());
        let at = |s| now + Duration::from_secs(s);
        q.add_at(key("a"), at(9));
        q.add_at(key("a"), at(3));
        q.add_at(key("a"), at(5));
        assert_eq!(q.next(now), Next::At(Some(at(3))));
        assert_eq!(q.next(at(3)), Next::Key(key("a")));
        q.done(&key("a"), true, at(3));
        assert_eq!(q.next(at(10)), Next::At(None));
    }
}
