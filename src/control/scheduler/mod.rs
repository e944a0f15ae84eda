//! The scheduler: gives pods without a node the node that suits them best, and makes room for those that matter more.
//!
//! ```text
//! caches ── changes ──► Snapshot + Queue ── next ──► Cycle ──► place ──► bind
//!                          ▲         ▲                          │ nowhere
//!             assumed, until         │                          ▼
//!             the API shows it       └── hints ◄── changes   make_room ──► condition, event, evictions
//! ```
//!
//! Pods are placed one after the other on a snapshot that already counts the bindings under way; the requests themselves run
//! beside. At idle it waits for a change or the deadline of a back-off; nothing ticks.
//!
//! | file | decides |
//! |---|---|
//! | `place`, `cycle` | one pod: `filter`, `resources`, `spread`, `affinity` judge nodes, `score` chooses |
//! | `preempt` | whom to send away when no node fits |
//! | `queue`, `hints` | who is tried when |
//! | `devices` | which nodes suit a pod's claims of devices, and which devices these get there |
//! | `volumes`, `limits` | which nodes suit a pod's claims, and what these get there |
//! | `snapshot` | what is known, with `tally` and `topology` counted as pods and nodes come and go |
//! | `verdicts` | nothing: it keeps what `filter` and `resources` said of nodes that have not changed |
//!
//! What never lives here: a placement decision outside these, a write outside `act`.
//! Source: `pkg/scheduler/schedule_one.go`, `pkg/scheduler/eventhandlers.go`.

mod act;
mod affinity;
mod among;
mod amounts;
mod configuration;
mod cycle;
mod devices;
mod filter;
mod hints;
mod images;
mod limits;
#[cfg(test)]
mod model;
mod needs;
mod place;
mod preempt;
mod profile;
mod queue;
mod resources;
mod score;
mod siblings;
mod snapshot;
mod spread;
mod tally;
#[cfg(test)]
mod testing;
mod topology;
mod verdicts;
mod volumes;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, Client, Clock, Informers, Key, Object as _, Recorder, Selector};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use act::{Act, Room};
use cycle::Cycle;
use devices::{Change, Devices, InTheWay};
use hints::Event;
use needs::{Needs, Resident};
use place::{Diagnosis, Placement, place};
use preempt::{Budget, Outcome, make_room};
pub use profile::Profile;
use profile::{Fit, Plugin, Plugins};
pub use queue::Backoff;
use queue::Queue;
use siblings::Siblings;
use snapshot::Snapshot;
use volumes::{Claims, Storage};

use crate::claims::POD_BY_DEVICES;

/// The `schedulerName` of pods that name none.
pub const NAME: &str = "default-scheduler";
/// Requests under way at a time: enough to hide the latency of a slow disk, few enough to keep memory flat.
const REQUESTS_MAX: usize = 32;

/// What is served, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// By `schedulerName`.
    pub profiles: BTreeMap<String, Arc<Profile>>,
    pub backoff: Backoff,
}

impl Default for Configuration {
    fn default() -> Self {
        let profiles = [(NAME.to_owned(), Arc::new(Profile::default()))].into();
        Self { profiles, backoff: Backoff::default() }
    }
}

impl Configuration {
    /// How a pod is placed; `None`: by somebody else.
    fn profile(&self, pod: &Pod) -> Option<&Arc<Profile>> {
        let name = pod.spec.as_ref()?.scheduler_name.as_deref().filter(|n| !n.is_empty());
        self.profiles.get(name.unwrap_or(NAME))
    }

    /// Whether a pod wants a node from here.
    fn is_awaited(&self, pod: &Pod) -> bool {
        crate::pods::node_name(pod).is_empty()
            && !pod.is_terminating()
            && !crate::pods::is_finished(pod)
            && self.profile(pod).is_some()
    }

    fn holds_back(&self, pod: &Pod) -> bool {
        let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref());
        gates.is_some_and(|g| !g.is_empty()) && self.profile(pod).is_some_and(|p| p.gates)
    }
}

struct State {
    snapshot: Snapshot,
    queue: Queue,
}

struct Scheduler {
    pods: Arc<Cache<Pod>>,
    budgets: Arc<Cache<PodDisruptionBudget>>,
    siblings: Siblings,
    storage: Storage,
    devices: Devices,
    configuration: Configuration,
    client: Client,
    recorder: Recorder,
    clock: Clock,
    state: Mutex<State>,
    changed: Notify,
}

/// Runs until stopped; requests under way are finished first.
pub async fn run(
    client: Client,
    informers: Informers,
    recorder: Recorder,
    clock: Clock,
    configuration: Configuration,
    stop: CancellationToken,
) {
    let queue = Queue::new(configuration.backoff);
    let pods = informers.cache::<Pod>(Selector::all());
    pods.add_index(POD_BY_DEVICES, |pod| crate::claims::keys(pod).map(|key| key.to_string()).collect());
    let scheduler = Arc::new(Scheduler {
        pods,
        budgets: informers.cache(Selector::all()),
        siblings: Siblings::new(&informers),
        storage: Storage::new(&informers),
        devices: Devices::new(&informers),
        configuration,
        client,
        recorder,
        clock,
        state: Mutex::new(State { snapshot: Snapshot::default(), queue }),
        changed: Notify::new(),
    });
    let (nodes, namespaces) = (informers.cache::<Node>(Selector::all()), informers.cache::<Namespace>(Selector::all()));
    scheduler.follow(&nodes, &namespaces);
    nodes.synced().await;
    namespaces.synced().await;
    scheduler.pods.synced().await;
    scheduler.budgets.synced().await;
    scheduler.siblings.synced().await;
    scheduler.storage.synced().await;
    scheduler.devices.synced().await;
    scheduler.work(stop).await;
}

impl Scheduler {
    fn follow(self: &Arc<Self>, nodes: &Cache<Node>, namespaces: &Cache<Namespace>) {
        let weak = Arc::downgrade(self);
        namespaces.on_change(Box::new(move |old, new| {
            let (Some(scheduler), Some(namespace)) = (weak.upgrade(), new.or(old)) else { return };
            let none = BTreeMap::new();
            let labels = new.map(|n| n.metadata.labels.as_ref().unwrap_or(&none));
            scheduler.state.lock().snapshot.set_namespace(namespace.name(), labels);
        }));
        let weak = Arc::downgrade(self);
        nodes.on_change(Box::new(move |old, new| {
            let (Some(scheduler), Some(node)) = (weak.upgrade(), new.or(old)) else { return };
            scheduler.node_changed(node.name(), new.map(|n| &**n));
        }));
        let weak = Arc::downgrade(self);
        self.pods.on_change(Box::new(move |old, new| {
            let (Some(scheduler), Some(pod)) = (weak.upgrade(), new.or(old)) else { return };
            scheduler.pod_changed(&pod.key(), old, new);
        }));
        let weak = Arc::downgrade(self);
        self.storage.on_change(move |claim| {
            let Some(scheduler) = weak.upgrade() else { return };
            scheduler.happened(&mut scheduler.state.lock(), Event::Storage(claim), None);
        });
        let weak = Arc::downgrade(self);
        self.devices.on_change(move |change| {
            let Some(scheduler) = weak.upgrade() else { return };
            scheduler.devices_changed(&change);
        });
        let tell = |weak: std::sync::Weak<Self>, event: Event<'static>| {
            move || {
                let Some(scheduler) = weak.upgrade() else { return };
                scheduler.happened(&mut scheduler.state.lock(), event, None);
            }
        };
        let limits = tell(Arc::downgrade(self), Event::Limits);
        self.storage.drivers.on_change(limits, tell(Arc::downgrade(self), Event::Storage(None)));
    }

    fn node_changed(&self, name: &str, node: Option<&Node>) {
        let state = &mut *self.state.lock();
        let old = state.snapshot.set_node(name, node);
        let new = state.snapshot.find(name).map(|slot| Arc::clone(&state.snapshot.node(slot).facts));
        self.happened(state, Event::Node { old: old.as_deref(), new: new.as_deref() }, None);
    }

    fn pod_changed(&self, key: &Key, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let state = &mut *self.state.lock();
        let now = self.clock.monotonic();
        let had = state.snapshot.is_placed(key);
        let freed = state.snapshot.set_pod(key, new);
        let has = state.snapshot.is_placed(key) && !state.snapshot.is_assumed(key);
        match (old, new) {
            (Some(gone), _) | (None, Some(gone)) if freed => {
                self.happened(state, Event::Pod { old: Some(gone), new: None }, None);
            }
            (Some(old), Some(new)) if had && has && !crate::pods::node_name(old).is_empty() => {
                self.happened(state, Event::Pod { old: Some(old), new: Some(new) }, None);
            }
            (_, Some(new)) if has => self.happened(state, Event::Pod { old: None, new: Some(new) }, None),
            _ => {}
        }
        self.nomination_changed(state, key, old, new);
        match new.filter(|p| self.configuration.is_awaited(p)) {
            None => state.queue.remove(key),
            Some(_) if state.snapshot.is_assumed(key) => {}
            Some(pod) => {
                let gated = self.is_held_back(pod);
                let created = pod.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
                let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
                match old.filter(|o| o.uid() == pod.uid()) {
                    Some(old) => state.queue.changed(key, old, pod, gated, now),
                    None => state.queue.remove(key),
                }
                state.queue.add(key.clone(), priority, created, gated, now);
                self.changed.notify_one();
            }
        }
    }

    /// Whether the pod is not even looked at: it has gates, or claims that were not made yet.
    fn is_held_back(&self, pod: &Pod) -> bool {
        let by_claims = || {
            let profile = self.configuration.profile(pod);
            profile.is_some_and(|p| p.filters.has(Plugin::DynamicResources)) && self.devices.hold_back(pod)
        };
        self.configuration.holds_back(pod) || by_claims()
    }

    fn devices_changed(&self, change: &Change<'_>) {
        let state = &mut *self.state.lock();
        match change {
            Change::Offer { class } => self.happened(state, Event::Offer { class: *class }, None),
            Change::Claim { old, new } => {
                for pod in self.pods.indexed(POD_BY_DEVICES, &new.key().to_string()) {
                    if self.configuration.is_awaited(&pod)
                        && !self.is_held_back(&pod)
                        && state.queue.release(&pod.key())
                    {
                        self.changed.notify_one();
                    }
                }
                self.happened(state, Event::Claim { old: *old, new }, None);
            }
        }
    }

    /// Takes over on which node the pod hopes for room. What was decided here and is not written yet stays.
    fn nomination_changed(&self, state: &mut State, key: &Key, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let hopes = |p: &Arc<Pod>| {
            let node = p.status.as_ref().and_then(|s| s.nominated_node_name.clone()).filter(|n| !n.is_empty());
            node.filter(|_| self.configuration.is_awaited(p))
        };
        let (before, after) = (old.and_then(hopes), new.and_then(hopes));
        let awaited = new.is_some_and(|p| self.configuration.is_awaited(p));
        if awaited && before == after || !awaited && before.is_none() && !state.snapshot.is_nominated(key) {
            return;
        }
        let resident = new.zip(after.as_deref()).map(|(pod, node)| (node, Arc::new(Resident::of(pod))));
        state.snapshot.nominate(key, resident);
        if let Some(old) = old.filter(|_| before.is_some() && before != after) {
            // To those who come after it, it was as good as there.
            let priority = old.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
            self.happened(state, Event::Pod { old: Some(old), new: None }, Some(priority));
        }
    }

    fn happened(&self, state: &mut State, event: Event<'_>, only: Option<i32>) {
        let State { snapshot, queue } = state;
        let profile = |needs: &Needs| self.configuration.profile(needs.pod()).cloned().unwrap_or_default();
        if queue.happened(event, &profile, &snapshot.namespaces, only, self.clock.monotonic()) {
            self.changed.notify_one();
        }
    }

    async fn work(self: &Arc<Self>, stop: CancellationToken) {
        let mut requests: JoinSet<()> = JoinSet::new();
        // Of those that wait for their claims there may be more: they ask for nothing.
        let mut waiting: JoinSet<()> = JoinSet::new();
        while !stop.is_cancelled() {
            if requests.len() < REQUESTS_MAX
                && let Some(act) = self.next()
            {
                let scheduler = Arc::clone(self);
                let waits = act.waits();
                let tasks = if waits { &mut waiting } else { &mut requests };
                tasks.spawn(async move { scheduler.act(act).await });
                continue;
            }
            let deadline = if requests.len() < REQUESTS_MAX { self.state.lock().queue.deadline() } else { None };
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.changed.notified() => {}
                () = timer => {}
                Some(_) = requests.join_next(), if !requests.is_empty() => {}
                Some(_) = waiting.join_next(), if !waiting.is_empty() => {}
            }
        }
        while requests.join_next().await.is_some() {}
    }

    /// Places the next pod, or says why not. Skips pods that no longer want a node.
    fn next(&self) -> Option<Act> {
        let state = &mut *self.state.lock();
        let now = self.clock.monotonic();
        loop {
            let key = state.queue.next(now)?;
            let pod = self.pods.get(&key).filter(|p| self.configuration.is_awaited(p));
            let Some((pod, profile)) = pod.and_then(|p| Some((Arc::clone(&p), self.configuration.profile(&p)?))) else {
                state.queue.remove(&key);
                continue;
            };
            return Some(self.decide(state, key, pod, profile));
        }
    }

    fn decide(&self, state: &mut State, key: Key, pod: Arc<Pod>, profile: &Profile) -> Act {
        let State { snapshot, queue } = state;
        let needs = Arc::new(Needs::of(&pod, profile, self.siblings.of(&pod)));
        let claims = self.storage.claims_of(&pod, &|key| snapshot.is_assumed(key));
        let none = Claims::default();
        let with_devices = profile.filters.has(Plugin::DynamicResources);
        let mut extended = Vec::new();
        if with_devices && needs.resident.requests.others().next().is_some() {
            extended = self.devices.extended(&needs.resident.requests);
        }
        let own;
        let profile = if extended.is_empty() {
            profile
        } else {
            let by_devices = extended.iter().map(|(name, _)| name.as_str().into()).collect();
            own = Profile { fit: Fit { by_devices, ..profile.fit.clone() }, ..profile.clone() };
            &own
        };
        let asked = if with_devices && (!extended.is_empty() || !crate::claims::entries(&pod).is_empty()) {
            self.devices.asked_by(&pod, extended, self.clock.now())
        } else {
            Ok(None)
        };
        let devices = asked.as_ref().ok().and_then(Option::as_ref);
        let cycle = Cycle::of(&needs, profile, snapshot).with(claims.as_ref().unwrap_or(&none));
        let mut cycle = cycle.with_devices(&self.devices, devices);
        let at_once = match (&claims, &asked) {
            (Err(why), _) if profile.filters.has(Plugin::VolumeBinding) => Some((Plugin::VolumeBinding, why)),
            (_, Err(why)) => Some((Plugin::DynamicResources, why)),
            (Ok(_) | Err(_), Ok(_)) => None,
        };
        let placement = match at_once {
            Some((plugin, why)) => Placement::Nowhere(Diagnosis {
                nodes: snapshot.order().len(),
                at_once: Some(why.clone().into()),
                rejectors: Plugins::NONE.with(plugin),
                ..Diagnosis::default()
            }),
            None => place(&mut cycle, snapshot),
        };
        if let Some(why) = devices.and_then(devices::Asked::error) {
            queue.failed(&key, self.clock.monotonic());
            return Act::Fail { pod, message: format!("running \"DynamicResources\" filter plugin: {why}") };
        }
        let diagnosis = match placement {
            Placement::On(slot) => {
                let node = Arc::clone(&snapshot.node(slot).facts);
                let bindings = match devices.map(|asked| self.devices.reserve(asked, &node)) {
                    None => Vec::new(),
                    Some(Ok(bindings)) => bindings,
                    Some(Err(why)) => {
                        queue.failed(&key, self.clock.monotonic());
                        let message = format!("running Reserve plugin \"DynamicResources\": {why}");
                        return Act::Fail { pod, message };
                    }
                };
                let choice = claims.as_ref().ok().and_then(|c| c.choose(&node.name, &node.labels).ok());
                let choice = choice.unwrap_or_default();
                self.storage.assume(&choice, &node.name);
                snapshot.nominate(&key, None);
                snapshot.assume(key, &node.name, Arc::clone(&needs.resident));
                return Act::Bind { pod, node: node.name.to_string(), choice, bindings };
            }
            Placement::Nowhere(diagnosis) => diagnosis,
        };
        let mut message = diagnosis.message();
        let mut give_back = None;
        if with_devices && diagnosis.nodes > 0 {
            give_back = devices.and_then(|asked| asked.to_give_back(&pod));
            message.push_str(match (&give_back, devices) {
                (Some(InTheWay::Allocated(_)), _) => " deallocation of ResourceClaim completed",
                (Some(InTheWay::Stale(_)), _) => " deletion of ResourceClaim completed",
                (None, Some(_)) => " still not schedulable",
                (None, None) => " no new claims to deallocate",
            });
        }
        let (message, node, room) = if profile.preempts && diagnosis.nodes > 0 {
            let budgets: Vec<Budget> = self.budgets.all().iter().filter_map(|b| Budget::of(b)).collect();
            match make_room(&mut cycle, snapshot, &diagnosis, &budgets) {
                Outcome::Room { slot, victims, outranked } => {
                    let node = snapshot.facts(slot).name.to_string();
                    (diagnosis.message(), Some(node), Some(Room { victims, outranked }))
                }
                Outcome::None { message: why, gives_up_node } => {
                    let and = if with_devices { "," } else { "" };
                    (format!("{message}{and} preemption: {why}"), gives_up_node.then(String::new), None)
                }
            }
        } else {
            (message, Some(String::new()), None)
        };
        if let Some(node) = &node {
            let hoped = (!node.is_empty()).then(|| (node.as_str(), Arc::clone(&needs.resident)));
            snapshot.nominate(&key, hoped);
        }
        queue.refused(&key, diagnosis.rejectors, needs, room.is_some(), self.clock.monotonic());
        Act::Report { pod, message, node, room, give_back }
    }

    /// Devices may have become free of which no claim tells.
    fn room_came(&self) {
        self.happened(&mut self.state.lock(), Event::Offer { class: false }, None);
    }

    /// A pod that was counted on a node did not get there; `gone`: there is no such pod any more.
    fn unbound(&self, pod: &Pod, gone: bool) {
        let state = &mut *self.state.lock();
        let key = pod.key();
        if state.snapshot.is_assumed(&key) {
            state.snapshot.forget(&key);
            self.happened(state, Event::Pod { old: Some(pod), new: None }, None);
            if !crate::claims::entries(pod).is_empty() {
                self.happened(state, Event::Offer { class: false }, None);
            }
        }
        if gone {
            state.queue.remove(&key);
        } else {
            state.queue.failed(&key, self.clock.monotonic());
        }
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests;
