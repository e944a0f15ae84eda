//! Devices, as far as they decide where pods go: which claims of a pod have devices and where, which devices its other claims get
//! on a node, and that the claims say so before the pod is bound. DynamicResources of upstream.
//!
//! ```text
//! asked_by (PreFilter) ──► Asked ── judge (Filter) ── points (Score) ──► reserve ──► bind (PreBind), or give_up (Unreserve)
//!                            ▲                                             │
//!        caches, Taken ──────┴──────────── decided, until it shows ◄───────┘
//! ```
//!
//! | file | decides |
//! |---|---|
//! | `pools` | which devices a node reaches |
//! | `allocate`, `constraint`, `capacity`, `selectors` | which of them claims get |
//! | `extended` | which claim stands for extended resources that are devices |
//! | `result` | what is written of it |
//! | `taken` | nothing: it keeps what is in use |
//! | `bind` | nothing: it writes |
//!
//! A pod without claims is told apart by one look at its spec.
//!
//! Source: `pkg/scheduler/framework/plugins/dynamicresources/dynamicresources.go`.

mod allocate;
mod bind;
mod capacity;
mod constraint;
mod extended;
mod pools;
mod result;
mod selectors;
mod taken;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use client::devices::{ALTERNATIVES_MAX, Allocation, Claim, Class, DeviceStatus, Picked, Slice, Taint, Toleration};
use client::{Cache, Informers, Key, Object as _, Selector};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::amounts::{Amounts, is_extended};
use super::filter::{Refusal, matches_selector};
use super::profile::Plugin;
use super::snapshot::Facts;
use crate::claims::{self, Named};
use allocate::{Failure, World, allocate};
pub use bind::{Binding, Made};
use extended::Mapping;
use selectors::Selectors;
use taken::Taken;

/// How long devices may take to get ready for a pod. Source: `DynamicResourcesBindingTimeoutDefault`.
pub const BIND_SECONDS_MAX: u64 = 600;
/// Indexes of the slices: by the node whose they are (`""`: of several), and by pool.
const BY_NODE: &str = "node";
const BY_POOL: &str = "pool";
/// Index of the classes: by the extended resource for which they stand.
const BY_RESOURCE: &str = "resource";
/// Index of the claims: by the uid of the pod for whose extended resources they were made.
const BY_POD: &str = "extended";

const TOO_FEW: &str = "cannot allocate all claims";
const ELSEWHERE: &str = "resourceclaim not available on the node";
const STALE: &str = "cannot schedule extended resource claim";

pub struct Devices {
    claims: Arc<Cache<Claim>>,
    classes: Arc<Cache<Class>>,
    slices: Arc<Cache<Slice>>,
    selectors: Selectors,
    taken: Arc<Mutex<Taken>>,
}

/// The claims of one pod, as they are now.
pub struct Asked {
    all: Vec<OfPod>,
    /// Those without devices.
    without: Vec<Arc<Claim>>,
    extended: Option<Extended>,
    /// Slices that are not one node's.
    shared: Vec<Arc<Slice>>,
    /// Claims that have devices with which the pod cannot go where it was asked: bit by place in the list.
    unusable: Cell<u64>,
    /// Why no node can be judged.
    error: RefCell<Option<String>>,
}

/// Extended resources that are devices, where a node does not count them itself.
struct Extended {
    pod: Arc<Pod>,
    /// With their classes, sorted.
    resources: Vec<(String, String)>,
    /// Of an attempt that failed: it goes, since its devices may not be those that are wanted now.
    stale: Option<Arc<Claim>>,
}

/// What is in a pod's way.
#[derive(Clone)]
pub enum InTheWay {
    /// Its devices are to be given back.
    Allocated(Arc<Claim>),
    /// It is to be deleted.
    Stale(Arc<Claim>),
}

struct OfPod {
    claim: Arc<Claim>,
    /// Its devices did not get ready, or said that they never will.
    failed: bool,
}

impl Asked {
    /// Why nothing can be told; upstream gives up the attempt.
    pub fn error(&self) -> Option<String> {
        self.error.borrow().clone()
    }

    /// A claim that keeps the pod from nodes and that nobody else uses: it may get other devices.
    pub fn to_give_back(&self, pod: &Pod) -> Option<InTheWay> {
        let stale = self.extended.as_ref().and_then(|extended| extended.stale.clone());
        let unusable = self.unusable.get();
        let idle = |claim: &Claim| match claim.status.reserved_for.as_slice() {
            [] => true,
            [only] => only.uid == pod.uid(),
            _ => false,
        };
        let claims = self.all.iter().enumerate().filter(|(i, _)| unusable & bit(*i) != 0);
        let idle = claims.map(|(_, of)| &of.claim).find(|claim| idle(claim));
        idle.cloned().map(InTheWay::Allocated).or(stale.map(InTheWay::Stale))
    }

    /// What the claims without devices ask for on a node, and which containers get what of the last of them, if that stands for
    /// extended resources.
    fn wanted_on(&self, node: &Facts) -> (Vec<Arc<Claim>>, Vec<Mapping>) {
        let mut all = self.without.clone();
        let Some(extended) = &self.extended else { return (all, Vec::new()) };
        let missing = extended.resources.iter().filter(|(name, _)| node.allocatable.get(name) == 0);
        let (requests, mappings) = extended::requests(&extended.pod, &missing.cloned().collect::<Vec<_>>());
        if !requests.is_empty() {
            all.push(Arc::new(extended::claim(&extended.pod, requests)));
        }
        (all, mappings)
    }
}

fn bit(i: usize) -> u64 {
    1_u64.checked_shl(u32::try_from(i).unwrap_or(u32::MAX)).unwrap_or(0)
}

impl Devices {
    pub fn new(informers: &Informers) -> Self {
        let slices = informers.cache::<Slice>(Selector::all());
        slices.add_index(BY_NODE, |slice| {
            let own = slice.spec.node_name.clone().filter(|_| slice.spec.shared_counters.is_empty());
            vec![own.unwrap_or_default()]
        });
        slices.add_index(BY_POOL, |slice| vec![pool_key(&slice.spec.driver, &slice.spec.pool.name)]);
        let classes = informers.cache::<Class>(Selector::all());
        classes.add_index(BY_RESOURCE, |class| class.spec.extended_resource_name.clone().into_iter().collect());
        let claims = informers.cache::<Claim>(Selector::all());
        claims.add_index(BY_POD, |claim| {
            let owner = claim.controller_owner().filter(|_| claim.annotation(extended::ANNOTATION) == Some("true"));
            owner.into_iter().map(|owner| owner.uid.clone()).collect()
        });
        Self { claims, classes, slices, selectors: Selectors::default(), taken: Arc::default() }
    }

    pub async fn synced(&self) {
        self.claims.synced().await;
        self.classes.synced().await;
        self.slices.synced().await;
    }

    /// Calls `f` when something changes that may let pods go somewhere.
    pub fn on_change(&self, f: impl Fn(Change<'_>) + Send + Sync + 'static) {
        let f = Arc::new(f);
        let (tell, taken) = (Arc::clone(&f), Arc::clone(&self.taken));
        self.claims.on_change(Box::new(move |old, new| {
            taken.lock().follow(old, new);
            if let Some(new) = new {
                tell(Change::Claim { old: old.map(|old| &**old), new });
            }
        }));
        let tell = Arc::clone(&f);
        self.classes
            .on_change(Box::new(move |_, new| new.into_iter().for_each(|_| tell(Change::Offer { class: true }))));
        self.slices.on_change(Box::new(move |_, new| new.into_iter().for_each(|_| f(Change::Offer { class: false }))));
    }

    /// Whether the pod waits for its claims to be made: it is not looked at before.
    pub fn hold_back(&self, pod: &Pod) -> bool {
        !claims::entries(pod).is_empty() && self.claims_of(pod).is_err()
    }

    fn claims_of(&self, pod: &Pod) -> Result<Vec<Arc<Claim>>, String> {
        let mut all = Vec::new();
        for entry in claims::entries(pod) {
            let Named::Is { name, own } = claims::named(pod, entry)? else { continue };
            let claim = self.claims.get(&Key::new(pod.namespace(), name));
            let claim = claim.ok_or_else(|| format!("resourceclaim.resource.k8s.io {name:?} not found"))?;
            if claim.is_terminating() {
                return Err(format!("resourceclaim {name:?} is being deleted"));
            }
            if own {
                claims::is_for_pod(pod, &claim)?;
            }
            if all.iter().all(|known: &Arc<Claim>| known.name() != name) {
                all.push(claim);
            }
        }
        Ok(all)
    }

    /// Which of the extended resources that are asked for devices can be, with their classes. Of several classes for one
    /// resource the newest counts.
    pub fn extended(&self, requests: &Amounts) -> Vec<(String, String)> {
        let class = |name: &str| -> Option<String> {
            if let Some(class) = name.strip_prefix(extended::CLASS_PREFIX) {
                return self.classes.get(&Key::cluster(class)).map(|class| class.name().to_owned());
            }
            let all = self.classes.indexed(BY_RESOURCE, name);
            let made = |class: &Class| class.metadata.creation_timestamp.as_ref().map(|t| t.0);
            let newest = all.iter().min_by(|a, b| made(b).cmp(&made(a)).then_with(|| a.name().cmp(b.name())));
            newest.filter(|_| is_extended(name)).map(|class| class.name().to_owned())
        };
        requests
            .others()
            .filter(|(_, n)| *n > 0)
            .filter_map(|(name, _)| Some((name.to_owned(), class(name)?)))
            .collect()
    }

    /// What the pod's claims are and want; `None`: it has none. `resources`: see [`Devices::extended`].
    ///
    /// # Errors
    /// Why it can go nowhere.
    pub fn asked_by(
        &self,
        pod: &Arc<Pod>,
        resources: Vec<(String, String)>,
        now: Timestamp,
    ) -> Result<Option<Asked>, String> {
        if claims::entries(pod).is_empty() && resources.is_empty() {
            return Ok(None);
        }
        let claims = self.claims_of(pod)?;
        if claims.is_empty() && resources.is_empty() {
            return Ok(None);
        }
        let stale = || self.claims.indexed(BY_POD, pod.uid()).into_iter().next();
        let extended = (!resources.is_empty()).then(|| Extended { pod: Arc::clone(pod), resources, stale: stale() });
        let taken = self.taken.lock();
        let mut asked = Asked {
            all: Vec::with_capacity(claims.len()),
            without: Vec::new(),
            extended,
            shared: Vec::new(),
            unusable: Cell::new(0),
            error: RefCell::new(None),
        };
        for claim in claims {
            if claim.status.allocation.is_none() {
                if taken.is_pending(claim.uid()) {
                    return Err(format!("resource claim {} is in the process of being allocated", claim.key()));
                }
                self.know_classes(&claim)?;
                asked.without.push(Arc::clone(&claim));
            }
            let failed = is_failed(&claim, now);
            asked.all.push(OfPod { claim, failed });
        }
        if !asked.without.is_empty() || asked.extended.is_some() {
            asked.shared = self.slices.indexed(BY_NODE, "");
        }
        Ok(Some(asked))
    }

    fn know_classes(&self, claim: &Claim) -> Result<(), String> {
        for request in &claim.spec.devices.requests {
            let name = |alternative: &str| match alternative {
                "" => request.name.clone(),
                alternative => format!("{}/{alternative}", request.name),
            };
            for wanted in request.exactly.iter().chain(&request.first_available) {
                let class = &wanted.device_class_name;
                if self.classes.get(&Key::cluster(class)).is_none() {
                    return Err(format!("request {}: device class {class} does not exist", name(&wanted.name)));
                }
            }
        }
        Ok(())
    }

    /// Why the pod cannot go to a node with its claims.
    pub fn refusal(&self, asked: &Asked, node: &Facts) -> Option<Refusal> {
        let refused =
            |why: String| Some(Refusal { plugin: Plugin::DynamicResources, for_good: true, reasons: vec![why.into()] });
        if asked.extended.as_ref().is_some_and(|extended| extended.stale.is_some()) {
            return refused(STALE.into());
        }
        match self.give(asked, node) {
            Ok(None) => return refused(TOO_FEW.into()),
            Err(Failure::Here(why)) => return refused(why),
            Err(Failure::Everywhere(why)) => {
                asked.error.borrow_mut().get_or_insert(why);
                return refused(TOO_FEW.into());
            }
            Ok(Some(_)) => {}
        }
        let mut unusable = 0;
        for (i, of) in asked.all.iter().enumerate() {
            let Some(allocation) = &of.claim.status.allocation else { continue };
            let reaches = allocation.node_selector.as_ref().is_none_or(|selector| matches_selector(selector, node));
            if !reaches || of.failed {
                unusable |= bit(i);
            }
        }
        if unusable == 0 {
            return None;
        }
        asked.unusable.set(asked.unusable.get() | unusable);
        refused(ELSEWHERE.into())
    }

    /// The devices that the claims without any get on a node.
    fn give(&self, asked: &Asked, node: &Facts) -> Result<Option<Vec<Allocation>>, Failure> {
        self.give_to(&asked.wanted_on(node).0, asked, node)
    }

    fn give_to(&self, wanted: &[Arc<Claim>], asked: &Asked, node: &Facts) -> Result<Option<Vec<Allocation>>, Failure> {
        if wanted.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let own = self.slices.indexed(BY_NODE, &node.name);
        let whole = |driver: &str, pool: &str| self.slices.indexed(BY_POOL, &pool_key(driver, pool));
        let pools = pools::gather(node, own.iter().chain(&asked.shared), &whole);
        let taken = self.taken.lock();
        let classes = |name: &str| self.classes.get(&Key::cluster(name));
        let world = World { classes: &classes, selectors: &self.selectors, taken: &taken };
        allocate(wanted, node, &pools, &world)
    }

    /// How early the alternatives stand that the claims get on each node. `None`: there are none to choose between.
    pub fn points(&self, asked: &Asked, nodes: &[&Facts]) -> Option<Vec<i64>> {
        let chooses = |claim: &Claim| claim.spec.devices.requests.iter().any(|r| !r.first_available.is_empty());
        if !asked.all.iter().any(|of| chooses(&of.claim)) {
            return None;
        }
        let points = |node: &&Facts| {
            let given = self.give(asked, node).ok().flatten().unwrap_or_default();
            let has = asked.all.iter().filter_map(|of| Some((&of.claim, of.claim.status.allocation.as_ref()?)));
            has.chain(asked.without.iter().zip(&given)).map(|(claim, given)| points(claim, given)).sum()
        };
        Some(nodes.iter().map(points).collect())
    }

    /// Gives the claims of a pod that goes to a node their devices, and keeps these from others until [`Devices::settled`].
    ///
    /// # Errors
    /// There are none, although the node was judged to have them.
    pub fn reserve(&self, asked: &Asked, node: &Facts) -> Result<Vec<Binding>, String> {
        let (wanted, mappings) = asked.wanted_on(node);
        let given = match self.give_to(&wanted, asked, node) {
            Ok(Some(given)) => given,
            Ok(None) => return Err("claim allocation not found for node".into()),
            Err(Failure::Here(why) | Failure::Everywhere(why)) => return Err(why),
        };
        let mut taken = self.taken.lock();
        let mut given = given.into_iter();
        let has = asked.all.iter().map(|of| &of.claim).filter(|claim| claim.status.allocation.is_some());
        let bindings = has.chain(&wanted).map(|claim| {
            let allocation = if claim.status.allocation.is_none() { given.next() } else { None };
            let allocation = allocation.map(|mut allocation| {
                let shares = allocation.devices.results.iter_mut().filter_map(|picked| picked.share_id.as_mut());
                shares.for_each(|id| *id = types::random::uuid());
                Arc::new(allocation)
            });
            if let Some(allocation) = &allocation {
                taken.decided(claim.uid(), Arc::clone(allocation));
            }
            let made = extended::is_made_up(claim).then(|| Arc::new(Made::of(mappings.clone())));
            Binding { claim: Arc::clone(claim), allocation, made }
        });
        Ok(bindings.collect())
    }
}

/// What happened to claims and devices.
pub enum Change<'a> {
    Claim {
        old: Option<&'a Claim>,
        new: &'a Claim,
    },
    /// A slice came or changed, or a class.
    Offer {
        class: bool,
    },
}

fn pool_key(driver: &str, pool: &str) -> String {
    [driver, pool].join("/")
}

/// Source: `computeScore`.
fn points(claim: &Claim, allocation: &Allocation) -> i64 {
    let got = |request: &str, alternative: &str| {
        let is = |picked: &Picked| picked.request.split_once('/') == Some((request, alternative));
        allocation.devices.results.iter().any(is)
    };
    let of_request = |request: &client::devices::Request| -> usize {
        let alternatives = request.first_available.iter().enumerate();
        let got = alternatives.filter(|(_, wanted)| got(&request.name, &wanted.name));
        got.map(|(i, _)| ALTERNATIVES_MAX.saturating_sub(i)).sum()
    };
    claim.spec.devices.requests.iter().map(of_request).sum::<usize>() as i64
}

/// Whether one of the tolerations tolerates a device's taint. Source: `resourceclaim/devicetoleration.go`.
fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| {
        (t.effect.is_empty() || t.effect == taint.effect)
            && (t.key.is_empty() || t.key == taint.key)
            && match t.operator.as_str() {
                "" | "Equal" => t.value == taint.value,
                "Exists" => true,
                _ => false,
            }
    })
}

/// What is to become of devices that have to be got ready.
#[derive(Debug, PartialEq, Eq)]
enum Readiness {
    Ready,
    Pending,
    Failed(String),
}

/// Source: `isClaimReadyForBinding`.
fn readiness(claim: &Claim) -> Readiness {
    let Some(allocation) = &claim.status.allocation else { return Readiness::Pending };
    for picked in allocation.devices.results.iter().filter(|p| !p.binding_conditions.is_empty()) {
        let is = |s: &&DeviceStatus| (&s.driver, &s.pool, &s.device) == (&picked.driver, &picked.pool, &picked.device);
        let Some(status) = claim.status.devices.iter().find(is) else { return Readiness::Pending };
        let holds = |kind: &String| status.conditions.iter().find(|c| c.kind == *kind && c.status == "True");
        if let Some(failed) = picked.binding_failure_conditions.iter().find_map(holds) {
            return Readiness::Failed(format!(
                "device binding failed: claim={}, reason={}, message={:?}",
                claim.name(),
                failed.reason,
                failed.message
            ));
        }
        if !picked.binding_conditions.iter().all(|kind| holds(kind).is_some()) {
            return Readiness::Pending;
        }
    }
    Readiness::Ready
}

fn waits_for_devices(claim: &Claim) -> bool {
    let results = claim.status.allocation.iter().flat_map(|a| &a.devices.results);
    results.into_iter().any(|picked| !picked.binding_conditions.is_empty())
}

fn is_failed(claim: &Claim, now: Timestamp) -> bool {
    let since = claim.status.allocation.as_ref().and_then(|a| a.allocation_timestamp.as_ref());
    let late = |since: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| {
        now.duration_since(since.0) > SignedDuration::from_secs(BIND_SECONDS_MAX as i64)
    };
    match readiness(claim) {
        Readiness::Failed(_) => true,
        Readiness::Pending => waits_for_devices(claim) && since.is_some_and(late),
        Readiness::Ready => false,
    }
}

#[cfg(test)]
mod tests;
