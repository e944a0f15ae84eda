//! Admission policies: ValidatingAdmissionPolicy and MutatingAdmissionPolicy, decided in this process by CEL.
//!
//! ```text
//! policy, bindings ─► compiled once ─► matchConstraints, matchResources ─► params ─► matchConditions
//!                                                                                ─► validations: deny, warn, audit
//!                                                                                ─► mutations: configuration or JSON patch
//! ```
//!
//! Compiled policies are kept in step with the store: a write of one makes what is kept stale, and the next request compiles
//! again what has changed, as with roles. A cluster without policies pays for one load.
//!
//! Source: apiserver `pkg/admission/plugin/policy`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value as Json;
use store::{Revision, Store, View};
use types::status::Status;

use super::Request;
use crate::hooks::json::{get, text, texts};

pub mod checks;
pub mod conditions;
mod constraints;
mod declare;
pub mod environment;
pub mod expression;
pub mod input;
mod mutating;
mod params;
pub mod status;
mod type_check;
mod validating;

use constraints::Constraints;
pub use mutating::Mutating;

/// Where policies and bindings lie in the store.
const STORE_PREFIX: &str = "admissionregistration.k8s.io/";
/// The most policies of a kind that are in force; a cluster has tens. Those with later names are passed over, and that is
/// logged.
const POLICIES_MAX: usize = 1_000;

/// A binding, parsed.
pub struct Binding {
    pub name: String,
    policy: String,
    constraints: Option<Constraints>,
    pub param_ref: Json,
    pub denies: bool,
    pub warns: bool,
    pub audits: bool,
    /// As the audit log is told.
    pub actions: Json,
}

impl Binding {
    fn read(binding: &Json) -> Self {
        let spec = get(binding, "spec");
        let acts = |action: &str| texts(spec, "validationActions").any(|given| given == action);
        Self {
            name: text(get(binding, "metadata"), "name").to_owned(),
            policy: text(spec, "policyName").to_owned(),
            constraints: Some(get(spec, "matchResources")).filter(|m| !m.is_null()).map(Constraints::read),
            param_ref: get(spec, "paramRef").clone(),
            denies: acts("Deny"),
            warns: acts("Warn"),
            audits: acts("Audit"),
            actions: get(spec, "validationActions").clone(),
        }
    }
    fn matches(&self, request: &Request) -> Result<bool, String> {
        self.constraints.as_ref().map_or(Ok(true), |constraints| Ok(constraints.match_(request)?.is_some()))
    }
}

/// A policy with the bindings that put it in force, in the order of their names.
struct Active<P> {
    policy: Arc<P>,
    bindings: Vec<Arc<Binding>>,
    /// Where the parameters are that the policy names, or why nobody knows.
    params: Result<Option<params::Source>, String>,
}

/// Policies in the order of their names.
type InForce<P> = Vec<Active<P>>;

#[derive(Default)]
struct Current {
    generation: u64,
    validating: InForce<validating::Policy>,
    mutating: InForce<mutating::Policy>,
}

/// What has been compiled, by store key. Also the lock of compiling.
#[derive(Default)]
struct Known {
    validating: HashMap<Arc<str>, (Revision, Arc<validating::Policy>)>,
    mutating: HashMap<Arc<str>, (Revision, Arc<mutating::Policy>)>,
    bindings: HashMap<Arc<str>, (Revision, Arc<Binding>)>,
}

/// The policies that are in force.
pub struct Policies {
    store: Arc<dyn Store>,
    current: ArcSwap<Current>,
    /// Grows with every change; what was read at a lower generation is stale.
    wanted: AtomicU64,
    known: Mutex<Known>,
}

impl Policies {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, current: ArcSwap::default(), wanted: AtomicU64::new(1), known: Mutex::default() }
    }
    /// A policy, a binding or the definition of a kind that may hold parameters was written: the next request reads it.
    pub fn changed(&self) {
        self.wanted.fetch_add(1, Ordering::AcqRel);
    }

    fn current(&self) -> arc_swap::Guard<Arc<Current>> {
        let wanted = self.wanted.load(Ordering::Acquire);
        let current = self.current.load();
        if current.generation >= wanted {
            return current;
        }
        drop(current);
        self.read(wanted);
        self.current.load()
    }
    fn read(&self, wanted: u64) {
        let mut known = self.known.lock();
        if self.current.load().generation >= wanted {
            return;
        }
        // Taken after `wanted` was read, so that it holds the change that raised it.
        let view = self.store.snapshot();
        let view = &*view;
        let mut fresh = Known::default();
        let bindings = |plural: &str, fresh: &mut Known| {
            let mut by_policy: BTreeMap<String, Vec<Arc<Binding>>> = BTreeMap::new();
            for binding in gather(view, plural, &known.bindings, &mut fresh.bindings, Binding::read) {
                by_policy.entry(binding.policy.clone()).or_default().push(binding);
            }
            by_policy
        };
        let mut of_validating = bindings("validatingadmissionpolicybindings", &mut fresh);
        let mut of_mutating = bindings("mutatingadmissionpolicybindings", &mut fresh);
        let policies = gather(
            view,
            "validatingadmissionpolicies",
            &known.validating,
            &mut fresh.validating,
            validating::Policy::compile,
        );
        let validating =
            bound(policies, view, |policy| &policy.param_kind, |policy| of_validating.remove(&policy.name));
        let policies =
            gather(view, "mutatingadmissionpolicies", &known.mutating, &mut fresh.mutating, mutating::Policy::compile);
        let mutating = bound(policies, view, |policy| &policy.param_kind, |policy| of_mutating.remove(&policy.name));
        *known = fresh;
        self.current.store(Arc::new(Current { generation: wanted, validating, mutating }));
    }

    /// Asks every validating policy. Adds what they warn of to the request.
    ///
    /// # Errors
    /// What the first of them says against it.
    pub async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let current = self.current();
        if current.validating.is_empty() {
            return Ok(());
        }
        let current = arc_swap::Guard::into_inner(current);
        validating::validate(&current.validating, request, &*self.store).await
    }

    /// The mutating policies for one request; `None` when there are none.
    pub fn mutating(&self) -> Option<Mutating> {
        let current = self.current();
        (!current.mutating.is_empty()).then(|| Mutating::new(arc_swap::Guard::into_inner(current), self.store.clone()))
    }
}

/// Every object of a kind, read anew where it has changed.
fn gather<T>(
    view: &dyn View,
    plural: &str,
    known: &HashMap<Arc<str>, (Revision, Arc<T>)>,
    fresh: &mut HashMap<Arc<str>, (Revision, Arc<T>)>,
    read: impl Fn(&Json) -> T,
) -> Vec<Arc<T>> {
    let mut all = Vec::new();
    for entry in view.range(&format!("{STORE_PREFIX}{plural}/"), None) {
        if all.len() == POLICIES_MAX {
            tracing::warn!(plural, "more objects than are looked at");
            break;
        }
        let made = match known.get(entry.key()) {
            Some((revision, made)) if *revision == entry.modified() => made.clone(),
            _ => Arc::new(read(&serde_json::from_slice(entry.value()).unwrap_or_default())),
        };
        fresh.insert(entry.key().into(), (entry.modified(), made.clone()));
        all.push(made);
    }
    all
}
/// Those of the policies that a binding puts in force.
fn bound<P>(
    policies: Vec<Arc<P>>,
    view: &dyn View,
    param_kind: impl Fn(&P) -> &Json,
    mut bindings: impl FnMut(&P) -> Option<Vec<Arc<Binding>>>,
) -> InForce<P> {
    let active = |policy: Arc<P>| {
        let bindings = bindings(&policy)?;
        let params = params::Source::find(param_kind(&policy), view);
        Some(Active { policy, bindings, params })
    };
    policies.into_iter().filter_map(active).collect()
}

/// The name by which a refusal calls the object. Source: apiserver `pkg/admission/errors.go` `extractResourceName`.
fn subject(request: &Request) -> String {
    let metadata = request.object.as_deref().map(|object| get(object, "metadata"));
    let of = |field| metadata.map_or("", |metadata| text(metadata, field));
    [request.name, of("name"), of("generateName")]
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or("Unknown")
        .to_owned()
}
