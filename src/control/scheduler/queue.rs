//! Pods that wait for a node: ready by priority and age; backing off; the unplaceable until something changes that may help.
//! Pure but for its memory.
//!
//! Source: `pkg/scheduler/backend/queue` (back-off 1 s doubling to 10 s; when nothing else is ready, those that back off are
//! tried early; the unplaceable are tried again after five minutes whatever happens).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::Key;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::among::Namespaces;
use super::hints::{self, Event};
use super::needs::Needs;
use super::profile::{Plugin, Plugins, Profile};

/// After this long the unplaceable are tried again although nothing happened: in case that a hint is wrong.
const PARKED_MAX: Duration = Duration::from_secs(5 * 60);

/// Highest priority first, then who waits longest since the last try, then the oldest, then by name.
type Order = (Reverse<i32>, Instant, i64, Key);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// Being placed, bound, or reported.
    Tried,
    /// Ready again at that time; or earlier when nobody else is, unless the API failed.
    BackingOff {
        until: Instant,
        early: bool,
    },
    /// Until the cluster changes.
    Parked,
    /// Until the pod changes.
    Gated,
}

struct Waiting {
    order: Order,
    state: State,
    /// Refusals and failures of the API in a row: how long to back off.
    refusals: u32,
    failures: u32,
    /// Who refused it last, and what it asked.
    rejectors: Plugins,
    needs: Option<Arc<Needs>>,
    /// Others are being told to go for it: it must not be tried before. `true`: something happened meanwhile.
    making_room: Option<bool>,
}

impl Waiting {
    fn since(&self) -> Instant {
        self.order.1
    }
}

/// How long to back off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_secs(10) }
    }
}

impl Backoff {
    fn after(&self, count: u32) -> Duration {
        match count {
            0 => Duration::ZERO,
            n => self.first.saturating_mul(1u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(self.most),
        }
    }
}

#[derive(Default)]
pub struct Queue {
    backoff: Backoff,
    pods: HashMap<Key, Waiting>,
    ready: BTreeSet<Order>,
    backing_off: BTreeMap<(Instant, Key), bool>,
    /// Those that are tried again whatever happens.
    parked: BTreeSet<(Instant, Key)>,
    /// How many parked pods each plugin refused: most events concern nobody.
    refused: [usize; Plugin::ALL.len()],
}

impl Queue {
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, ..Self::default() }
    }

    /// A pod wants a node. Nothing happens if it is known.
    pub fn add(&mut self, key: Key, priority: i32, created_second: i64, gated: bool, now: Instant) {
        if self.pods.contains_key(&key) {
            return;
        }
        let order = (Reverse(priority), now, created_second, key.clone());
        let waiting = Waiting {
            order,
            state: State::Tried,
            refusals: 0,
            failures: 0,
            rejectors: Plugins::NONE,
            needs: None,
            making_room: None,
        };
        self.pods.insert(key.clone(), waiting);
        self.put(&key, if gated { State::Gated } else { State::Ready });
    }

    pub fn remove(&mut self, key: &Key) {
        self.put(key, State::Tried);
        self.pods.remove(key);
    }

    /// The pod that was being placed has got a node. Another one of its name that has come meanwhile stays.
    pub fn done(&mut self, key: &Key) {
        if self.pods.get(key).is_some_and(|w| w.state == State::Tried) {
            self.remove(key);
        }
    }

    /// The pod itself changed.
    pub fn changed(&mut self, key: &Key, old: &Pod, new: &Pod, gated: bool, now: Instant) {
        let Some(waiting) = self.pods.get(key) else { return };
        match waiting.state {
            State::Gated if !gated => self.put(key, State::Ready),
            State::Parked
                if waiting.needs.as_ref().is_some_and(|n| hints::own_change(waiting.rejectors, n, old, new)) =>
            {
                self.wake(key, now);
            }
            _ => {}
        }
    }

    /// Nothing holds the pod back any more. Whether something did.
    pub fn release(&mut self, key: &Key) -> bool {
        let was_held = self.pods.get(key).is_some_and(|w| w.state == State::Gated);
        if was_held {
            self.put(key, State::Ready);
        }
        was_held
    }

    /// The next pod to place, which stays known until it is removed, refused or failed.
    pub fn next(&mut self, now: Instant) -> Option<Key> {
        self.ring(now);
        let key = match self.ready.first() {
            Some((_, _, _, key)) => key.clone(),
            None => self.backing_off.iter().find(|(_, early)| **early).map(|((_, key), _)| key.clone())?,
        };
        self.put(&key, State::Tried);
        Some(key)
    }

    /// When [`Queue::next`] will have something although nothing changes.
    pub fn deadline(&self) -> Option<Instant> {
        let parked = self.parked.first().map(|(since, _)| *since + PARKED_MAX);
        [self.backing_off.keys().next().map(|(at, _)| *at), parked].into_iter().flatten().min()
    }

    /// No node fits: park it until something changes the mind of those who refused it. `making_room`: others are being told
    /// to go for it, and until [`Queue::room_made`] it is not tried.
    pub fn refused(&mut self, key: &Key, rejectors: Plugins, needs: Arc<Needs>, making_room: bool, now: Instant) {
        self.put(key, State::Tried);
        let Some(waiting) = self.pods.get_mut(key) else { return };
        waiting.refusals = waiting.refusals.saturating_add(1);
        waiting.failures = 0;
        waiting.rejectors = rejectors;
        waiting.needs = Some(needs);
        waiting.making_room = making_room.then_some(false);
        waiting.order.1 = now;
        self.put(key, State::Parked);
    }

    /// The API did not do what was asked: try again after a while.
    pub fn failed(&mut self, key: &Key, now: Instant) {
        self.put(key, State::Tried);
        let Some(waiting) = self.pods.get_mut(key) else { return };
        waiting.failures = waiting.failures.saturating_add(1);
        waiting.order.1 = now;
        let until = now + self.backoff.after(waiting.failures);
        self.put(key, State::BackingOff { until, early: false });
    }

    /// Those that were in its way have been told to go, or (`failed`) could not be.
    pub fn room_made(&mut self, key: &Key, failed: bool, now: Instant) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        let woken = waiting.making_room.take() == Some(true);
        if waiting.state == State::Parked && (woken || failed) {
            self.wake(key, now);
        }
    }

    /// The cluster changed. Whether a pod is to be tried again for it; `only` narrows those that are asked by priority.
    pub fn happened(
        &mut self,
        event: Event<'_>,
        profile: &dyn Fn(&Needs) -> Arc<Profile>,
        namespaces: &Namespaces,
        only: Option<i32>,
        now: Instant,
    ) -> bool {
        let concerned = hints::concerned(event);
        if concerned.iter().all(|p| self.refused[p as usize] == 0) {
            return false;
        }
        let helped = |w: &Waiting| {
            let Some(needs) = w.needs.as_ref().filter(|_| w.state == State::Parked) else { return false };
            only.is_none_or(|priority| needs.resident.priority() <= priority)
                && w.rejectors
                    .iter()
                    .filter(|p| concerned.has(*p))
                    .any(|plugin| hints::worth_it(plugin, needs, &profile(needs), event, namespaces))
        };
        let keys: Vec<Key> = self.pods.iter().filter(|(_, w)| helped(w)).map(|(k, _)| k.clone()).collect();
        for key in &keys {
            self.wake(key, now);
        }
        !keys.is_empty()
    }

    /// A parked pod is worth a try: after its back-off, if that is not over.
    fn wake(&mut self, key: &Key, now: Instant) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        if let Some(woken) = &mut waiting.making_room {
            *woken = true;
            return;
        }
        let until = waiting.since() + self.backoff.after(waiting.refusals);
        self.put(key, if until > now { State::BackingOff { until, early: true } } else { State::Ready });
    }

    /// Moves those whose time has come.
    fn ring(&mut self, now: Instant) {
        while let Some(((until, key), _)) = self.backing_off.first_key_value()
            && *until <= now
        {
            let key = key.clone();
            self.put(&key, State::Ready);
        }
        while let Some((since, key)) = self.parked.first()
            && *since + PARKED_MAX <= now
        {
            let key = key.clone();
            if let Some(waiting) = self.pods.get_mut(&key) {
                waiting.making_room = None;
            }
            self.wake(&key, now);
        }
    }

    /// The only place where a pod changes its state, so that the indexes follow.
    fn put(&mut self, key: &Key, state: State) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        match waiting.state {
            State::Ready => drop(self.ready.remove(&waiting.order)),
            State::BackingOff { until, .. } => drop(self.backing_off.remove(&(until, key.clone()))),
            State::Parked => {
                self.parked.remove(&(waiting.since(), key.clone()));
                for plugin in waiting.rejectors.iter() {
                    self.refused[plugin as usize] -= 1;
                }
            }
            State::Tried | State::Gated => {}
        }
        waiting.state = state;
        match state {
            State::Ready => drop(self.ready.insert(waiting.order.clone())),
            State::BackingOff { until, early } => drop(self.backing_off.insert((until, key.clone()), early)),
            State::Parked => {
                self.parked.insert((waiting.since(), key.clone()));
                for plugin in waiting.rejectors.iter() {
                    self.refused[plugin as usize] += 1;
                }
            }
            State::Tried | State::Gated => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Facts;
    use super::super::testing;
    use super::*;
    use serde_json::json;

    fn key(name: &str) -> Key {
        Key::new("d", name)
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn node_came(queue: &mut Queue, now: Instant) -> bool {
        let facts = Facts::of(&testing::node("n", &[]));
        let event = Event::Node { old: None, new: Some(&facts) };
        queue.happened(event, &|_| Arc::new(Profile::default()), &Namespaces::default(), None, now)
    }

    fn refuse(queue: &mut Queue, name: &str, plugin: Plugin, making_room: bool, now: Instant) {
        let needs = Arc::new(testing::needs(json!({})));
        queue.refused(&key(name), Plugins::NONE.with(plugin), needs, making_room, now);
    }

    #[tokio::test(start_paused = true)]
    async fn order_parking_and_backoff() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add(key("young"), 0, 20, false, start);
        queue.add(key("old"), 0, 10, false, start);
        queue.add(key("vip"), 5, 30, false, start);
        assert_eq!(queue.next(start), Some(key("vip")));
        assert_eq!(queue.next(start), Some(key("old")));
        // nothing changed: parked
        refuse(&mut queue, "old", Plugin::NodeResourcesFit, false, start);
        assert_eq!(queue.next(start), Some(key("young")));
        queue.remove(&key("young"));
        assert_eq!((queue.next(start), queue.deadline()), (None, Some(start + PARKED_MAX)));
        // a change brings it back; nobody else is ready, so its back-off is not waited for
        assert!(node_came(&mut queue, start));
        assert_eq!(queue.deadline(), Some(start + seconds(1)));
        assert_eq!(queue.next(start), Some(key("old")));
        // with somebody else ready it is
        refuse(&mut queue, "old", Plugin::NodeResourcesFit, false, start);
        queue.add(key("other"), -5, 20, false, start);
        assert!(node_came(&mut queue, start));
        assert_eq!(queue.deadline(), Some(start + seconds(2)));
        assert_eq!(queue.next(start), Some(key("other")));
        assert_eq!(queue.next(start + seconds(2)), Some(key("old")));
        // a change after the back-off: ready at once
        refuse(&mut queue, "old", Plugin::NodeResourcesFit, false, start);
        queue.add(key("another"), -5, 20, false, start);
        assert!(node_came(&mut queue, start + seconds(4)));
        assert_eq!(queue.next(start + seconds(4)), Some(key("old")));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_concern_nobody_wake_nobody() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add(key("a"), 0, 10, false, start);
        queue.next(start);
        refuse(&mut queue, "a", Plugin::DefaultPreemption, false, start);
        assert!(!node_came(&mut queue, start));
        assert_eq!(queue.next(start + PARKED_MAX - seconds(1)), None);
        assert_eq!(queue.next(start + PARKED_MAX), Some(key("a")), "but not for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_the_api_are_waited_out() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add(key("a"), 0, 10, false, start);
        queue.next(start);
        queue.failed(&key("a"), start);
        assert_eq!((queue.next(start), queue.deadline()), (None, Some(start + seconds(1))));
        assert_eq!(queue.next(start + seconds(1)), Some(key("a")));
        queue.remove(&key("a"));
        assert_eq!(queue.deadline(), None);
        let backoff = Backoff::default();
        let all: Vec<u64> = [0, 1, 2, 3, 4, 5, 6, 50].iter().map(|n| backoff.after(*n).as_secs()).collect();
        assert_eq!(all, [0, 1, 2, 4, 8, 10, 10, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn gates_hold_until_they_are_gone() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add(key("a"), 0, 10, true, start);
        assert!(!node_came(&mut queue, start));
        assert_eq!((queue.next(start + PARKED_MAX), queue.deadline()), (None, None));
        let pod = testing::pod("a", json!({}), &json!({}));
        queue.changed(&key("a"), &pod, &pod, false, start);
        assert_eq!(queue.next(start), Some(key("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_room_is_not_tried_before_it_is_made() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add(key("a"), 0, 10, false, start);
        queue.next(start);
        refuse(&mut queue, "a", Plugin::NodeResourcesFit, true, start);
        node_came(&mut queue, start);
        assert_eq!(queue.next(start), None);
        queue.room_made(&key("a"), false, start);
        assert_eq!(queue.next(start), Some(key("a")), "what happened meanwhile counts");
        refuse(&mut queue, "a", Plugin::NodeResourcesFit, true, start);
        queue.room_made(&key("a"), false, start);
        assert_eq!(queue.next(start), None);
        refuse(&mut queue, "a", Plugin::NodeResourcesFit, true, start);
        queue.room_made(&key("a"), true, start);
        assert_eq!(queue.next(start), Some(key("a")));
    }
}
