//! Zones of nodes: how many of each are lost, and how fast their pods may be told to go therefore. Pure.
//!
//! One lost node is a dead one. Many at a time are more likely behind a broken link, and when all are lost it is this server
//! that is cut off: then their pods are better left where they are.
//!
//! Source: kubernetes `pkg/controller/nodelifecycle/node_lifecycle_controller.go` (`ComputeZoneState`, `handleDisruption`),
//! `pkg/controller/nodelifecycle/scheduler/rate_limited_queue.go`, `nodelifecyclecontroller.go` (defaults of the flags).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client::Object as _;
use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

/// Between two nodes of a zone; upstream's `--node-eviction-rate` of 0.1 a second.
const EVERY: Duration = Duration::from_secs(10);
/// The same in a large zone that is disrupted; upstream's `--secondary-node-eviction-rate` of 0.01 a second.
const EVERY_WHEN_DISRUPTED: Duration = Duration::from_secs(100);
/// A zone with more nodes is large; upstream's `--large-cluster-size-threshold`.
const SMALL_MAX: usize = 50;
/// So many of a hundred nodes lost are a disruption; upstream's `--unhealthy-zone-threshold`.
const DISRUPTED_PERCENT: usize = 55;
/// But no fewer nodes than these.
const DISRUPTED_MIN: usize = 3;
/// Nodes that need not wait for one another. Upstream lets one go; here it is the number that is no disruption in any zone, so
/// that the pods of each of two nodes that die together run elsewhere in time.
const BURST: u32 = DISRUPTED_MIN as u32 - 1;

const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
const REGION: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];
const ZONE: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

fn state(ready: usize, lost: usize) -> State {
    match (ready, lost) {
        (0, 1..) => State::Full,
        _ if lost >= DISRUPTED_MIN && lost * 100 >= (lost + ready) * DISRUPTED_PERCENT => State::Partial,
        _ => State::Normal,
    }
}

/// Time between two nodes; `None`: no node.
fn interval(state: State, nodes: usize) -> Option<Duration> {
    match state {
        State::Normal | State::Full => Some(EVERY),
        State::Partial => (nodes > SMALL_MAX).then_some(EVERY_WHEN_DISRUPTED),
    }
}

/// Lets [`BURST`] through, then one in an interval.
#[derive(Debug, Clone, Copy)]
struct Limiter {
    every: Option<Duration>,
    /// When it will be as if nobody had ever gone through; `None`: it is.
    full: Option<Instant>,
}

impl Limiter {
    const NEW: Self = Self { every: Some(EVERY), full: None };

    /// When somebody may go through; `None`: never.
    fn next(&self, now: Instant) -> Option<Instant> {
        let ahead = self.every? * (BURST - 1);
        Some(self.full.and_then(|at| at.checked_sub(ahead)).map_or(now, |at| at.max(now)))
    }

    fn pass(&mut self, now: Instant) {
        self.full = self.every.map(|every| self.full.map_or(now, |at| at.max(now)) + every);
    }

    /// Who had to wait before still has to.
    fn set(&mut self, every: Option<Duration>, now: Instant) {
        if self.every != every {
            let waits = self.next(now).is_none_or(|at| at > now);
            *self = Self { every, full: every.filter(|_| waits).map(|every| now + every * BURST) };
        }
    }
}

/// When the pods of a lost node may be told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Now,
    At(Instant),
    /// Not before its zone changes.
    Later,
    /// Never while all are lost; who has been told is told otherwise.
    Nobody,
}

/// What a node is to its zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    name: Box<str>,
    zone: String,
    counts: bool,
    ready: bool,
}

impl Member {
    pub fn of(node: &Node) -> Self {
        let label = |keys: [&str; 2]| keys.into_iter().find_map(|k| node.label(k)).unwrap_or_default();
        Self {
            name: node.name().into(),
            zone: format!("{}/{}", label(REGION), label(ZONE)),
            counts: node.label(EXCLUDED).is_none(),
            ready: super::is_ready(node),
        }
    }
}

#[derive(Debug)]
struct Zone {
    nodes: usize,
    /// Of those that count.
    ready: usize,
    lost: usize,
    limiter: Limiter,
    /// In the order in which they came.
    waiting: Vec<Box<str>>,
    /// Whose turn it was, until they are tainted.
    called: BTreeSet<Box<str>>,
}

impl Zone {
    const NEW: Self =
        Self { nodes: 0, ready: 0, lost: 0, limiter: Limiter::NEW, waiting: Vec::new(), called: BTreeSet::new() };

    fn state(&self) -> State {
        state(self.ready, self.lost)
    }

    fn count(&mut self, member: &Member, more: bool) {
        let change = |n: &mut usize| *n = if more { *n + 1 } else { n.saturating_sub(1) };
        change(&mut self.nodes);
        match (member.counts, member.ready) {
            (true, true) => change(&mut self.ready),
            (true, false) => change(&mut self.lost),
            (false, _) => {}
        }
    }
}

/// Who is to be looked at again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub nodes: Vec<Box<str>>,
    /// All nodes: they have got lost, the last one too (`true`), or the first one is back.
    pub all: Option<bool>,
}

#[derive(Debug, Default)]
pub struct Zones {
    zones: BTreeMap<String, Zone>,
    all_lost: bool,
}

impl Zones {
    /// A node came, changed or went.
    pub fn change(&mut self, old: Option<&Member>, new: Option<&Member>, now: Instant) -> Changed {
        if old == new {
            return Changed::default();
        }
        let mut changed = Changed::default();
        if let Some(old) = old
            && let Some(zone) = self.zones.get_mut(&old.zone)
        {
            zone.count(old, false);
            let leaves = new.is_none_or(|new| new.zone != old.zone);
            if leaves || new.is_some_and(|new| new.ready) {
                changed.nodes = self.leave(&old.zone, &old.name);
            }
        }
        if let Some(new) = new {
            self.zones.entry(new.zone.clone()).or_insert(Zone::NEW).count(new, true);
        }
        self.zones.retain(|_, z| z.nodes > 0);
        let mut states = self.zones.values().filter(|z| z.ready + z.lost > 0).map(Zone::state).peekable();
        let all_lost = states.peek().is_some() && states.all(|s| s == State::Full);
        if all_lost != self.all_lost {
            self.all_lost = all_lost;
            changed.all = Some(all_lost);
        }
        for zone in self.zones.values_mut() {
            let every = interval(zone.state(), zone.ready + zone.lost).filter(|_| !all_lost);
            if every != zone.limiter.every {
                zone.limiter.set(every, now);
                changed.nodes.extend(zone.waiting.iter().cloned());
            }
            if all_lost {
                zone.waiting.clear();
                zone.called.clear();
            }
        }
        changed
    }

    /// When the pods of this node, which is lost and has not been tainted for it, may be told to go. Its turn stays until
    /// [`Zones::done`].
    pub fn turn(&mut self, member: &Member, now: Instant) -> Turn {
        let Some(zone) = self.zones.get_mut(&member.zone) else { return Turn::Later };
        if self.all_lost {
            return Turn::Nobody;
        }
        if zone.called.contains(&member.name) {
            return Turn::Now;
        }
        let at = zone.waiting.iter().position(|n| *n == member.name).unwrap_or_else(|| {
            zone.waiting.push(member.name.clone());
            zone.waiting.len() - 1
        });
        let (mut limiter, mut turn) = (zone.limiter, now);
        for _ in 0..=at {
            let Some(next) = limiter.next(turn) else { return Turn::Later };
            limiter.pass(next);
            turn = next;
        }
        if turn > now {
            return Turn::At(turn);
        }
        zone.limiter.pass(now);
        zone.called.insert(zone.waiting.remove(at));
        Turn::Now
    }

    /// The node needs no turn, or no other one. Returns whose has come nearer.
    pub fn done(&mut self, member: &Member) -> Vec<Box<str>> {
        self.leave(&member.zone, &member.name)
    }

    pub fn all_lost(&self) -> bool {
        self.all_lost
    }

    fn leave(&mut self, zone: &str, name: &str) -> Vec<Box<str>> {
        let Some(zone) = self.zones.get_mut(zone) else { return Vec::new() };
        zone.called.remove(name);
        match zone.waiting.iter().position(|n| **n == *name) {
            None => Vec::new(),
            Some(at) => {
                zone.waiting.remove(at);
                zone.waiting[at..].to_vec()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn member(zone: &str, n: usize, ready: bool) -> Member {
        Member { name: format!("{zone}{n}").into(), zone: zone.into(), counts: true, ready }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn zones(sizes: &[(&str, usize)], now: Instant) -> Zones {
        let mut zones = Zones::default();
        for (zone, size) in sizes {
            for n in 0..*size {
                zones.change(None, Some(&member(zone, n, true)), now);
            }
        }
        zones
    }

    /// The node is lost, and asks for its turn.
    fn lose(zones: &mut Zones, zone: &str, n: usize, now: Instant) -> Turn {
        let lost = member(zone, n, false);
        zones.change(Some(&member(zone, n, true)), Some(&lost), now);
        zones.turn(&lost, now)
    }

    #[test]
    fn states_are_upstreams() {
        use State::{Full, Normal, Partial};
        for (ready, lost, expected) in [
            (0, 0, Normal),
            (1, 0, Normal),
            (0, 1, Full),
            (0, 9, Full),
            (1, 2, Normal),
            (1, 3, Partial),
            (9, 10, Normal),
            (9, 11, Partial),
            (45, 54, Normal),
            (45, 55, Partial),
        ] {
            assert_eq!(state(ready, lost), expected, "{ready} ready, {lost} lost");
        }
        for (state, nodes, expected) in [
            (Normal, 5, Some(10)),
            (Normal, 500, Some(10)),
            (Partial, 50, None),
            (Partial, 51, Some(100)),
            (Full, 5, Some(10)),
            (Full, 500, Some(10)),
        ] {
            assert_eq!(interval(state, nodes), expected.map(seconds), "{state:?} of {nodes}");
        }
    }

    #[test]
    fn a_node_knows_its_zone() {
        let of = |labels: serde_json::Value| {
            let node = json!({"metadata": {"name": "n", "labels": labels},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            let member = Member::of(&serde_json::from_value(node).unwrap());
            assert!(member.ready);
            (member.zone, member.counts)
        };
        assert_eq!(of(json!({})), ("/".into(), true));
        assert_eq!(of(json!({"topology.kubernetes.io/region": "r", ZONE[0]: "a"})), ("r/a".into(), true));
        assert_eq!(of(json!({"failure-domain.beta.kubernetes.io/zone": "b"})), ("/b".into(), true));
        assert_eq!(of(json!({EXCLUDED: ""})), ("/".into(), false));
    }

    #[tokio::test(start_paused = true)]
    async fn some_dead_nodes_one_after_the_other() {
        let start = Instant::now();
        let mut all = zones(&[("a", 20), ("b", 3)], start);
        assert_eq!([0, 1].map(|n| lose(&mut all, "a", n, start)), [Turn::Now; 2]);
        assert_eq!(lose(&mut all, "a", 2, start), Turn::At(start + seconds(10)));
        assert_eq!(lose(&mut all, "a", 3, start), Turn::At(start + seconds(20)));
        // Other zones do not wait for it, and whose turn it was need not ask again.
        assert_eq!(lose(&mut all, "b", 0, start), Turn::Now);
        assert_eq!(all.turn(&member("a", 0, false), start), Turn::Now);
        assert_eq!(all.done(&member("a", 0, false)), []);
        // One comes back: the next is earlier.
        let changed = all.change(Some(&member("a", 2, false)), Some(&member("a", 2, true)), start);
        assert_eq!(changed, Changed { nodes: vec!["a3".into()], all: None });
        assert_eq!(all.turn(&member("a", 3, false), start), Turn::At(start + seconds(10)));
        assert_eq!(all.turn(&member("a", 3, false), start + seconds(10)), Turn::Now);
        assert_eq!(lose(&mut all, "a", 4, start + seconds(12)), Turn::At(start + seconds(20)));
        // After a quiet while two may go at once again.
        assert_eq!(lose(&mut all, "b", 1, start + seconds(60)), Turn::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_are_left_alone() {
        let start = Instant::now();
        let mut all = zones(&[("a", 5), ("b", 1)], start);
        assert_eq!([0, 1].map(|n| lose(&mut all, "a", n, start)), [Turn::Now; 2]);
        assert_eq!([2, 3].map(|n| lose(&mut all, "a", n, start)), [Turn::Later; 2]);
        // The whole zone is lost, so it is not the link of this server: as fast as one, but who waited still does.
        let lost = member("a", 4, false);
        let changed = all.change(Some(&member("a", 4, true)), Some(&lost), start);
        assert_eq!(changed, Changed { nodes: vec!["a2".into(), "a3".into()], all: None });
        assert_eq!(all.turn(&member("a", 2, false), start), Turn::At(start + seconds(10)));
        // Now everything is.
        let lost = member("b", 0, false);
        let changed = all.change(Some(&member("b", 0, true)), Some(&lost), start);
        assert_eq!((changed.all, all.all_lost()), (Some(true), true));
        assert_eq!(all.turn(&lost, start + seconds(99)), Turn::Nobody);
        // The first one is back: time for the others to come too.
        let changed = all.change(Some(&member("a", 0, false)), Some(&member("a", 0, true)), start + seconds(100));
        assert_eq!((changed.all, all.all_lost()), (Some(false), false));
        assert_eq!(all.turn(&lost, start + seconds(100)), Turn::At(start + seconds(110)));
    }

    #[tokio::test(start_paused = true)]
    async fn large_zones_are_slowed_down() {
        let start = Instant::now();
        let mut all = zones(&[("a", 60)], start);
        let turns: Vec<Turn> = (0..33).map(|n| lose(&mut all, "a", n, start)).collect();
        assert_eq!(turns[..3], [Turn::Now, Turn::Now, Turn::At(start + seconds(10))]);
        let second = start + seconds(200);
        assert_eq!(all.turn(&member("a", 2, false), start), Turn::At(start + seconds(100)));
        assert_eq!(all.turn(&member("a", 3, false), start), Turn::At(second));
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_do_not_count_and_those_that_go() {
        let start = Instant::now();
        let mut all = zones(&[("a", 2)], start);
        let spare = Member { counts: false, ..member("a", 9, true) };
        all.change(None, Some(&spare), start);
        for n in [0, 1] {
            lose(&mut all, "a", n, start);
        }
        assert!(all.all_lost(), "the one that is ready does not count");
        for gone in [member("a", 0, false), member("a", 1, false)] {
            all.change(Some(&gone), None, start);
        }
        assert!(!all.all_lost(), "nobody who counts is lost");
        all.change(Some(&spare), None, start);
        assert!(all.zones.is_empty());
    }
}
