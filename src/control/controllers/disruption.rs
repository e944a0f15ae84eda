//! Disruption controller. Counts for each PodDisruptionBudget how many of its pods may be evicted, and confirms evictions.
//!
//! `plan` is pure. How many pods an owner wants is gathered before: from the caches for Deployments and ReplicaSets, else
//! from the scale subresource ([`scale`]). When that fails for a reason that only a change of pods or budget can take away,
//! nothing may be evicted and the budget says why.
//!
//! Source: kubernetes `pkg/controller/disruption/disruption.go`, component-helpers `apps/poddisruptionbudget/helpers.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::runner::{Done, Plan, Reconcile};
use client::{Cache, Client, Error, Key, Object, Recorder, Selector};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use types::selector::LabelSelector as Matcher;

use crate::{Context, pods};
use scale::{Owners, Trouble};

mod scale;

const NAME: &str = "disruption-controller";
/// What the events say they come from.
const COMPONENT: &str = "controllermanager";
/// How long an eviction may take to show as a deletion; afterwards it counts as not carried out. Upstream's `DeletionTimeout`.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// Budgets worked on at once: upstream has one worker, and nobody waits for another's scale.
const WORKERS: usize = 2;

/// How many pods there should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    Pods {
        count: i32,
        /// Some of the pods have no controller, whose scale would count.
        unmanaged: bool,
    },
    /// It cannot be known.
    Unknown(String),
}

/// What a plan is made from.
pub struct Observed<'a> {
    pub budget: &'a PodDisruptionBudget,
    /// Those that the budget selects.
    pub pods: &'a [Arc<Pod>],
    pub expected: Expected,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Status(Box<PodDisruptionBudget>),
    /// About the budget: whether it warns, reason, message.
    Event(bool, &'static str, String),
    /// The pod was evicted and is still there.
    NotDeleted(Key),
}

/// Whether `spec` needs to know what the owners of its pods want.
fn asks_owners(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

pub fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let budget = observed.budget;
    let Some(spec) = &budget.spec else { return plan };
    let old = budget.status.clone().unwrap_or_default();
    let (disrupted, again) = disrupted(observed, &old, now, &mut plan);
    let status = match &observed.expected {
        Expected::Unknown(why) => {
            let condition = allowed(false, "SyncFailed", why, old.observed_generation);
            PodDisruptionBudgetStatus {
                disruptions_allowed: Some(0),
                conditions: with(&old, condition, now),
                ..old.clone()
            }
        }
        Expected::Pods { count, .. } => {
            let healthy = |p: &&Arc<Pod>| !p.is_terminating() && !disrupted.contains_key(p.name()) && pods::is_ready(p);
            let current = i32::try_from(observed.pods.iter().filter(healthy).count()).unwrap_or(i32::MAX);
            let desired = desired(spec, *count);
            // A budget without pods allows nothing, so that its first pods are safe until they are counted.
            let spare = if *count > 0 { current.saturating_sub(desired).max(0) } else { 0 };
            let generation = budget.metadata.generation;
            let reason = if spare > 0 { "SufficientPods" } else { "InsufficientPods" };
            let condition = allowed(spare > 0, reason, "", generation);
            if let Some(at) = again {
                plan.again_at(at);
            }
            PodDisruptionBudgetStatus {
                conditions: with(&old, condition, now),
                current_healthy: Some(current),
                desired_healthy: Some(desired),
                disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
                disruptions_allowed: Some(spare),
                expected_pods: Some(*count),
                observed_generation: generation,
            }
        }
    };
    let known = PodDisruptionBudgetStatus { disrupted_pods: old.disrupted_pods.filter(|d| !d.is_empty()), ..old };
    if known == status {
        return plan;
    }
    plan.push(Action::Status(Box::new(budget_with(budget, status))), "the count changed");
    // With the status, so that each is said once.
    if observed.pods.is_empty() {
        plan.push(Action::Event(false, "NoPods", "No matching pods found".into()), "no pods");
    }
    match &observed.expected {
        Expected::Unknown(why) => {
            let text = format!("Failed to calculate the number of expected pods: {why}");
            plan.push(Action::Event(true, "CalculateExpectedPodCountFailed", text), "the scale is unknown");
        }
        Expected::Pods { unmanaged: true, .. } => {
            let text = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the \
                 status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account \
                 for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                shown(spec.selector.as_ref())
            );
            plan.push(Action::Event(true, "UnmanagedPods", text), "pods without a controller");
        }
        Expected::Pods { unmanaged: false, .. } => {}
    }
    plan
}

fn budget_with(budget: &PodDisruptionBudget, status: PodDisruptionBudgetStatus) -> PodDisruptionBudget {
    PodDisruptionBudget { status: Some(status), ..budget.clone() }
}

/// The evictions that are still to show, and when the first of them counts as failed.
fn disrupted(
    observed: &Observed<'_>,
    old: &PodDisruptionBudgetStatus,
    now: Timestamp,
    plan: &mut Plan<Action>,
) -> (BTreeMap<String, Time>, Option<Timestamp>) {
    let (mut left, mut again): (BTreeMap<String, Time>, Option<Timestamp>) = (BTreeMap::new(), None);
    let Some(evicted) = &old.disrupted_pods else { return (left, None) };
    for pod in observed.pods.iter().filter(|p| !p.is_terminating()) {
        let Some(at) = evicted.get(pod.name()) else { continue };
        let until = at.0 + DELETION_TIMEOUT;
        if until <= now {
            plan.push(Action::NotDeleted(pod.key()), format!("{} was evicted and is still there", pod.name()));
        } else {
            again = Some(again.map_or(until, |known| known.min(until)));
            left.insert(pod.name().to_owned(), at.clone());
        }
    }
    (left, again)
}

/// How many pods must stay healthy.
fn desired(spec: &PodDisruptionBudgetSpec, expected: i32) -> i32 {
    let of = |value: &IntOrString| pods::share(value, expected, true);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => expected.saturating_sub(of(max)).max(0),
        (None, Some(min)) => of(min),
        (None, None) => 0,
    }
}

fn allowed(yes: bool, reason: &str, message: &str, observed_generation: Option<i64>) -> Condition {
    Condition {
        type_: "DisruptionAllowed".into(),
        status: if yes { "True" } else { "False" }.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: observed_generation.filter(|g| *g != 0),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

/// The conditions with `condition` in the place of its type; its time moves when its status does.
fn with(old: &PodDisruptionBudgetStatus, mut condition: Condition, now: Timestamp) -> Option<Vec<Condition>> {
    let mut all = old.conditions.clone().unwrap_or_default();
    condition.last_transition_time = Time(pods::whole_second(now));
    match all.iter_mut().find(|c| c.type_ == condition.type_) {
        Some(known) => {
            if known.status == condition.status {
                condition.last_transition_time = known.last_transition_time.clone();
            }
            *known = condition;
        }
        None => all.push(condition),
    }
    Some(all)
}

/// A selector as upstream's events show it.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let labels: String = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}: {v},")).collect();
    let expressions = selector.match_expressions.iter().flatten().map(|e| {
        let values = e.values.clone().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", e.key, e.operator)
    });
    let expressions: String = expressions.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// What a budget selects: everything when its selector is empty, nothing without one.
fn matcher(budget: &PodDisruptionBudget) -> Option<Matcher> {
    pods::matcher(budget.spec.as_ref()?.selector.as_ref()?)
}

/// What of a pod budgets count by.
fn counts_as(pod: &Pod) -> (bool, bool, Option<&BTreeMap<String, String>>, Option<&str>) {
    let owner = pod.controller_owner().map(|o| o.uid.as_str());
    (pod.is_terminating(), pods::is_ready(pod), pod.metadata.labels.as_ref(), owner)
}

struct Budgets {
    client: Client,
    budgets: Arc<Cache<PodDisruptionBudget>>,
    pods: Arc<Cache<Pod>>,
    owners: Owners,
    recorder: Recorder,
}

pub fn start(context: &Context) {
    let client = context.client(NAME);
    let recorder = context.recorder(&client, COMPONENT);
    let budgets = context.informers.cache::<PodDisruptionBudget>(Selector::all());
    let (pods, queue) = (context.pods(), context.queue());
    let dirty = Arc::clone(&queue);
    budgets.on_change(Box::new(move |_, new| {
        if let Some(budget) = new {
            dirty.add(budget.key());
        }
    }));
    let (dirty, all, events) = (Arc::clone(&queue), Arc::clone(&budgets), recorder.clone());
    pods.on_change(Box::new(move |old, new| {
        if let (Some(old), Some(new)) = (old, new)
            && old.uid() == new.uid()
            && counts_as(old) == counts_as(new)
        {
            return;
        }
        let Some(any) = new.or(old) else { return };
        let mut of_new = Vec::new();
        for budget in all.in_namespace(any.namespace()) {
            let Some(matcher) = matcher(&budget) else { continue };
            let matches = |p: &Arc<Pod>| matcher.matches(&p.metadata.labels);
            let now = new.is_some_and(matches);
            if now || old.is_some_and(matches) {
                dirty.add(budget.key());
            }
            if now {
                of_new.push(budget);
            }
        }
        let relabelled = old.map(|o| &o.metadata.labels) != new.map(|n| &n.metadata.labels);
        if let ([first, _, ..], Some(pod), true) = (&of_new[..], new, relabelled) {
            let text = format!(
                "Pod {:?}/{:?} matches multiple PodDisruptionBudgets.  Chose {:?} arbitrarily.",
                pod.namespace(),
                pod.name(),
                first.name()
            );
            events.warning(&**pod, "MultiplePodDisruptionBudgets", text);
        }
    }));
    let owners = Owners::new(context, client.clone());
    context.run(Budgets { client, budgets, pods, owners, recorder }, queue, WORKERS);
}

impl Budgets {
    async fn expected(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<Expected, Error> {
        if !budget.spec.as_ref().is_some_and(asks_owners) {
            let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
            return Ok(Expected::Pods { count, unmanaged: false });
        }
        match self.owners.scale(pods).await {
            Ok((count, unmanaged)) => Ok(Expected::Pods { count, unmanaged }),
            Err(Trouble::Never(why)) => Ok(Expected::Unknown(why)),
            Err(Trouble::Error(error)) => Err(error),
        }
    }

    async fn apply(&self, budget: &PodDisruptionBudget, action: Action, done: &mut Done) -> Result<(), Error> {
        match action {
            Action::Status(budget) => match self.client.update_status(&*budget).await {
                Ok(written) => done.seen.push(Box::pin(self.budgets.reached(written.revision()))),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            },
            Action::Event(true, reason, message) => self.recorder.warning(budget, reason, message),
            Action::Event(false, reason, message) => self.recorder.normal(budget, reason, message),
            Action::NotDeleted(pod) => {
                if let Some(pod) = self.pods.get(&pod) {
                    let text = format!("Pod was expected by PDB {} to be deleted but it wasn't", budget.key());
                    self.recorder.warning(&*pod, "NotDeleted", text);
                }
            }
        }
        Ok(())
    }
}

impl Reconcile for Budgets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reconcile<'a>(&'a self, key: &'a Key, now: Timestamp) -> BoxFuture<'a, Done> {
        async move {
            let mut done = Done::default();
            let Some(budget) = self.budgets.get(key) else { return done };
            let matcher = matcher(&budget);
            let mut pods = self.pods.in_namespace(&key.namespace);
            pods.retain(|p| matcher.as_ref().is_some_and(|m| m.matches(&p.metadata.labels)));
            let (expected, failed) = match self.expected(&budget, &pods).await {
                Ok(expected) => (expected, None),
                // Nothing may be evicted meanwhile.
                Err(error) => (Expected::Unknown(error.to_string()), Some(error)),
            };
            let plan = plan(&Observed { budget: &budget, pods: &pods, expected }, now);
            done.again = plan.again;
            for action in plan.actions {
                if let Err(error) = self.apply(&budget, action, &mut done).await {
                    done.error = Some(error);
                    return done;
                }
            }
            done.error = failed;
            done
        }
        .boxed()
    }
}

#[cfg(test)]
#[path = "disruption_tests.rs"]
mod tests;
