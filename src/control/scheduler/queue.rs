//! Pods that wait for a node: ready by priority and age, the unplaceable until something changes. Pure but for its memory.
//!
//! Source: `pkg/scheduler/backend/queue` (back-off 1 s doubling to 10 s; unschedulable pods come back by events).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use client::Key;
use tokio::time::Instant;

const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Highest priority first, then the oldest, then by name.
type Order = (Reverse<i32>, i64, Key);

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Ready,
    /// Ready again at that time.
    BackingOff(Instant),
    /// Until the cluster changes.
    Parked,
}

struct Waiting {
    order: Order,
    state: State,
    tries: u32,
    /// The cluster changed while this pod was being looked at: try again after the back-off instead of parking.
    moved: u64,
}

#[derive(Default)]
pub struct Queue {
    pods: HashMap<Key, Waiting>,
    ready: BTreeSet<Order>,
    timers: BTreeMap<(Instant, Key), ()>,
    changes: u64,
}

impl Queue {
    /// A pod wants a node. Known ones keep their state unless `changed`, which makes a parked pod ready.
    pub fn add(&mut self, key: Key, priority: i32, created_second: i64, changed: bool) {
        if let Some(known) = self.pods.get(&key) {
            if !(changed && known.state == State::Parked) {
                return;
            }
            self.remove(&key);
        }
        let order = (Reverse(priority), created_second, key.clone());
        self.ready.insert(order.clone());
        self.pods.insert(key, Waiting { order, state: State::Ready, tries: 0, moved: self.changes });
    }

    pub fn remove(&mut self, key: &Key) {
        if let Some(waiting) = self.pods.remove(key) {
            self.ready.remove(&waiting.order);
            if let State::BackingOff(at) = waiting.state {
                self.timers.remove(&(at, key.clone()));
            }
        }
    }

    /// The next pod to place, which stays known until it is removed or failed.
    pub fn next(&mut self, now: Instant) -> Option<Key> {
        self.wake(now);
        let (_, _, key) = self.ready.pop_first()?;
        if let Some(waiting) = self.pods.get_mut(&key) {
            waiting.moved = self.changes;
        }
        Some(key)
    }

    /// When [`Queue::next`] will have something although nothing changes.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), ())| *at)
    }

    /// No node fits: park it until the cluster changes; if it has changed meanwhile, or `retry` asks for it, back off.
    pub fn failed(&mut self, key: &Key, now: Instant, retry: bool) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        waiting.tries = waiting.tries.saturating_add(1);
        if retry || waiting.moved != self.changes {
            let at = now + backoff(waiting.tries);
            waiting.state = State::BackingOff(at);
            self.timers.insert((at, key.clone()), ());
        } else {
            waiting.state = State::Parked;
        }
    }

    /// The cluster changed so that a parked pod might fit now.
    pub fn changed(&mut self, now: Instant) {
        self.changes += 1;
        for (key, waiting) in &mut self.pods {
            if waiting.state == State::Parked {
                let at = now + backoff(waiting.tries);
                waiting.state = State::BackingOff(at);
                self.timers.insert((at, key.clone()), ());
            }
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some(((at, _), ())) = self.timers.first_key_value() {
            if *at > now {
                break;
            }
            let Some(((_, key), ())) = self.timers.pop_first() else { break };
            if let Some(waiting) = self.pods.get_mut(&key) {
                waiting.state = State::Ready;
                self.ready.insert(waiting.order.clone());
            }
        }
    }
}

fn backoff(tries: u32) -> Duration {
    (BACKOFF * 2u32.saturating_pow(tries.saturating_sub(1).min(4))).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("d", name)
    }

    #[tokio::test(start_paused = true)]
    async fn order_parking_and_backoff() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add(key("young"), 0, 20, false);
        queue.add(key("old"), 0, 10, false);
        queue.add(key("vip"), 5, 30, false);
        assert_eq!(queue.next(start), Some(key("vip")));
        assert_eq!(queue.next(start), Some(key("old")));
        // nothing changed: parked for good
        queue.failed(&key("old"), start, false);
        assert_eq!(queue.next(start), Some(key("young")));
        queue.remove(&key("young"));
        assert_eq!((queue.next(start), queue.deadline()), (None, None));
        // a change brings it back after its back-off
        queue.changed(start);
        assert_eq!(queue.next(start), None);
        assert_eq!(queue.deadline(), Some(start + BACKOFF));
        assert_eq!(queue.next(start + BACKOFF), Some(key("old")));
        // a change while it was looked at
        queue.changed(start);
        queue.failed(&key("old"), start, false);
        assert_eq!(queue.deadline(), Some(start + 2 * BACKOFF));
        queue.remove(&key("old"));
        assert_eq!(queue.deadline(), None);
        assert_eq!(backoff(50), BACKOFF_MAX);
    }
}
