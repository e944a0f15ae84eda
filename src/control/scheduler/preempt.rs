//! DefaultPreemption: whom to send away so that a pod of higher priority has room. Pure.
//!
//! Source: `pkg/scheduler/framework/preemption/preemption.go`, `pkg/scheduler/framework/plugins/defaultpreemption`.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use client::Object as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use types::selector::LabelSelector;

use super::cycle::Cycle;
use super::needs::Resident;
use super::place::{Diagnosis, counted};
use super::snapshot::{Load, Snapshot};
use crate::pods;

/// Reason of the condition `DisruptionTarget` of those that have to go.
pub const REASON: &str = "PreemptionByScheduler";

#[derive(Debug, Clone)]
pub enum Outcome {
    Room {
        slot: u32,
        victims: Vec<Arc<Resident>>,
        /// Pods that hoped for room on the same node and now have to look elsewhere.
        outranked: Vec<Arc<Resident>>,
    },
    /// Nobody can be sent away, or nobody more: the text goes behind the one that says why no node fits.
    None { message: String, gives_up_node: bool },
}

/// What a PodDisruptionBudget still allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    namespace: String,
    /// Never empty: such a budget is about no pod.
    selector: LabelSelector,
    allowed: i32,
    /// Pods that are being evicted already, and counted.
    disrupted: BTreeSet<String>,
}

impl Budget {
    pub fn of(budget: &PodDisruptionBudget) -> Option<Self> {
        let selector = budget.spec.as_ref()?.selector.as_ref().and_then(pods::matcher).filter(|s| !s.is_empty())?;
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|s| s.disrupted_pods.as_ref()).into_iter().flatten();
        Some(Self {
            namespace: budget.namespace().to_owned(),
            selector,
            allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0),
            disrupted: disrupted.map(|(name, _)| name.clone()).collect(),
        })
    }

    fn is_about(&self, pod: &Pod) -> bool {
        pod.metadata.labels.as_ref().is_some_and(|l| !l.is_empty())
            && self.namespace == pod.namespace()
            && self.selector.matches(&pod.metadata.labels)
            && !self.disrupted.contains(pod.name())
    }
}

struct Candidate {
    slot: u32,
    /// The most important first.
    victims: Vec<Arc<Resident>>,
    violations: usize,
}

/// Looks for the node where the least harm is done.
pub fn make_room(cycle: &mut Cycle<'_>, snapshot: &mut Snapshot, diagnosis: &Diagnosis, budgets: &[Budget]) -> Outcome {
    let none = |message: &str| Outcome::None { message: message.to_owned(), gives_up_node: false };
    if let Err(why) = may(cycle, snapshot, diagnosis) {
        return none(why);
    }
    let open: Vec<u32> = diagnosis.refusals.iter().filter(|(_, r)| !r.for_good).map(|(slot, _)| *slot).collect();
    let (percentage, least) = cycle.profile.candidates;
    let enough = (open.len() * percentage / 100).max(least).min(open.len());
    let (mut candidates, mut reasons): (Vec<Candidate>, Vec<Vec<Cow<'static, str>>>) = Default::default();
    for i in 0..open.len() {
        let slot = open[(snapshot.start + i) % open.len()];
        match victims(cycle, snapshot, slot, budgets) {
            Ok(candidate) => candidates.push(candidate),
            Err(why) => reasons.push(why),
        }
        if candidates.len() >= enough && candidates.iter().any(|c| c.violations == 0) {
            break;
        }
    }
    let harm = |c: &Candidate| {
        let highest = c.victims.first().map_or(i32::MIN, |v| v.priority());
        // Priorities may be negative; a node with more pods of the same must not look better for it.
        let sum: i64 = c.victims.iter().map(|v| i64::from(v.priority()) + (1 << 31)).sum();
        let oldest = c.victims.iter().filter(|v| v.priority() == highest).map(|v| v.started()).min();
        (c.violations, highest, sum, c.victims.len(), Reverse(oldest.unwrap_or(Timestamp::MIN)))
    };
    match candidates.into_iter().min_by_key(harm) {
        None => {
            let unhelpful = diagnosis.nodes - reasons.len();
            let others = Some((unhelpful, "Preemption is not helpful for scheduling"));
            let message = counted(diagnosis.nodes, reasons.into_iter().flatten(), others);
            Outcome::None { message, gives_up_node: true }
        }
        Some(best) => {
            let own = cycle.needs.resident.priority();
            let waiting = snapshot.nominated(&snapshot.facts(best.slot).name);
            let outranked = waiting.iter().filter(|r| r.priority() < own).cloned().collect();
            Outcome::Room { slot: best.slot, victims: best.victims, outranked }
        }
    }
}

/// Whether the pod may send others away at all.
fn may(cycle: &Cycle<'_>, snapshot: &Snapshot, diagnosis: &Diagnosis) -> Result<(), &'static str> {
    let own = &cycle.needs.resident;
    if cycle.needs.spec().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Err("not eligible due to preemptionPolicy=Never.");
    }
    let Some(slot) = own.nominated().and_then(|n| snapshot.find(n)) else { return Ok(()) };
    let full = diagnosis.refusals.iter().any(|(s, r)| *s == slot && !r.for_good);
    let leaves = |r: &Arc<Resident>| r.priority() < own.priority() && is_leaving(&r.pod);
    if full && snapshot.node(slot).load.pods.iter().any(leaves) {
        return Err("not eligible due to a terminating pod on the nominated node.");
    }
    Ok(())
}

/// Whether a pod goes because it was sent away here.
fn is_leaving(pod: &Pod) -> bool {
    pod.is_terminating()
        && pods::condition(pod, "DisruptionTarget")
            .is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some(REASON))
}

/// The fewest and least important pods without which the pod fits on the node. Leaves the cycle as it was.
fn victims(
    cycle: &mut Cycle<'_>,
    snapshot: &mut Snapshot,
    slot: u32,
    budgets: &[Budget],
) -> Result<Candidate, Vec<Cow<'static, str>>> {
    let own = cycle.needs.resident.priority();
    let there = snapshot.node(slot).load.pods.iter();
    let mut potential: Vec<Arc<Resident>> = there.filter(|r| r.priority() < own).cloned().collect();
    if potential.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".into()]);
    }
    let mut load = snapshot.node(slot).load.clone();
    potential.sort_unstable_by_key(|r| (Reverse(r.priority()), r.started(), r.key()));
    let mut away = Away { cycle, snapshot, slot, load: &mut load };
    for resident in &potential {
        away.send(resident);
    }
    if let Some(refusal) = away.refusal() {
        for resident in &potential {
            away.bring_back(resident);
        }
        return Err(refusal.reasons);
    }
    let (protected, others) = by_budget(&potential, budgets);
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (resident, is_protected) in protected.iter().map(|r| (r, true)).chain(others.iter().map(|r| (r, false))) {
        away.bring_back(resident);
        if away.refusal().is_some() {
            away.send(resident);
            violations += usize::from(is_protected);
            victims.push(Arc::clone(resident));
        }
    }
    for resident in &victims {
        away.bring_back(resident);
    }
    victims.sort_unstable_by_key(|r| (Reverse(r.priority()), r.started(), r.key()));
    match victims.is_empty() {
        true => Err(vec!["expected at least one victim pod".into()]),
        false => Ok(Candidate { slot, victims, violations }),
    }
}

/// A node from which pods go for a while.
struct Away<'c, 'n> {
    cycle: &'c mut Cycle<'n>,
    snapshot: &'c mut Snapshot,
    slot: u32,
    load: &'c mut Load,
}

impl Away<'_, '_> {
    fn send(&mut self, resident: &Arc<Resident>) {
        self.load.remove(resident);
        self.cycle.change(self.snapshot, self.slot, resident, false);
    }
    fn bring_back(&mut self, resident: &Arc<Resident>) {
        self.load.add(resident);
        self.cycle.change(self.snapshot, self.slot, resident, true);
    }
    fn refusal(&mut self) -> Option<super::filter::Refusal> {
        self.cycle.judge(self.snapshot, self.slot, self.load)
    }
}

/// Those whose going a budget does not allow, if the ones before them go too; and the rest. In the same order.
fn by_budget(all: &[Arc<Resident>], budgets: &[Budget]) -> (Vec<Arc<Resident>>, Vec<Arc<Resident>>) {
    let mut left: Vec<i32> = budgets.iter().map(|b| b.allowed).collect();
    all.iter().cloned().partition(|resident| {
        for (budget, left) in budgets.iter().zip(&mut left) {
            if budget.is_about(&resident.pod) {
                *left -= 1;
                if *left < 0 {
                    return true;
                }
            }
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::super::needs::Needs;
    use super::super::place::{Placement, place};
    use super::super::profile::Profile;
    use super::super::testing;
    use super::*;
    use serde_json::{Value, json};

    const NODES: [(&str, &str); 2] = [("a", "x"), ("b", "y")];

    fn spec(priority: i32, cpu: &str) -> Value {
        json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    fn with(mut spec: Value, more: Value) -> Value {
        for (k, v) in more.as_object().unwrap() {
            spec[k] = v.clone();
        }
        spec
    }

    fn budget(app: &str, allowed: i32) -> Budget {
        let budget = json!({"metadata": {"name": "b", "namespace": "d"}, "spec": {"selector": {"matchLabels": {"app": app}}},
            "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
        Budget::of(&serde_json::from_value(budget).unwrap()).unwrap()
    }

    /// The node and the victims, or the text.
    fn check(
        name: &str,
        pods: &[(&str, &str, Value, Value)],
        budgets: &[Budget],
        pod: Value,
        expected: Result<(&str, &[&str]), &str>,
    ) {
        let mut snapshot = testing::snapshot(&NODES, pods);
        let (needs, profile) = (testing::needs(pod), Profile::default());
        let mut cycle = Cycle::of(&needs, &profile, &mut snapshot);
        let Placement::Nowhere(diagnosis) = place(&mut cycle, &mut snapshot) else { panic!("{name}: it fits") };
        let found = match make_room(&mut cycle, &mut snapshot, &diagnosis, budgets) {
            Outcome::Room { slot, victims, .. } => {
                let victims: Vec<String> = victims.iter().map(|v| v.pod.name().to_owned()).collect();
                Ok((snapshot.facts(slot).name.to_string(), victims))
            }
            Outcome::None { message, .. } => Err(message),
        };
        let expected = expected
            .map(|(node, victims)| (node.to_owned(), victims.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>()))
            .map_err(str::to_owned);
        assert_eq!(found, expected, "{name}");
        let again = place(&mut cycle, &mut snapshot);
        assert!(
            matches!(again, Placement::Nowhere(d) if d.message() == diagnosis.message()),
            "{name}: nothing is left"
        );
    }

    #[test]
    fn the_least_harm_is_done() {
        let web = || json!({"app": "web"});
        let pod = |name, node, priority, cpu| (name, node, web(), spec(priority, cpu));
        check(
            "the lower priority",
            &[pod("p", "a", 2, "2"), pod("q", "b", 1, "2")],
            &[],
            spec(5, "1"),
            Ok(("b", &["q"])),
        );
        check(
            "only as many as it takes, the least important",
            &[pod("p", "a", 1, "1"), pod("q", "a", 2, "1"), pod("r", "b", 9, "2")],
            &[],
            spec(5, "1"),
            Ok(("a", &["p"])),
        );
        check(
            "fewer",
            &[pod("p", "a", 1, "1"), pod("q", "a", 1, "1"), pod("r", "b", 1, "2")],
            &[],
            spec(5, "2"),
            Ok(("b", &["r"])),
        );
        check(
            "the budget counts before the priority",
            &[("p", "a", json!({"app": "db"}), spec(2, "2")), pod("q", "b", 1, "2")],
            &[budget("web", 0)],
            spec(5, "1"),
            Ok(("a", &["p"])),
        );
        check(
            "but is no protection where nothing else helps",
            &[pod("p", "a", 9, "2"), pod("q", "b", 1, "2")],
            &[budget("web", 0)],
            spec(5, "1"),
            Ok(("b", &["q"])),
        );
        check(
            "nobody is lower",
            &[pod("p", "a", 5, "2"), pod("q", "b", 6, "2")],
            &[],
            spec(5, "1"),
            Err("0/2 nodes are available: 2 No preemption victims found for incoming pod."),
        );
        check(
            "it would not be enough",
            &[pod("p", "a", 9, "1500m"), pod("q", "a", 1, "500m"), pod("r", "b", 6, "2")],
            &[],
            spec(5, "1"),
            Err("0/2 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod."),
        );
        check(
            "too large for any",
            &[],
            &[],
            spec(5, "3"),
            Err("0/2 nodes are available: 2 Preemption is not helpful for scheduling."),
        );
        check(
            "it must not",
            &[pod("p", "a", 1, "2"), pod("q", "b", 1, "2")],
            &[],
            with(spec(5, "1"), json!({"preemptionPolicy": "Never"})),
            Err("not eligible due to preemptionPolicy=Never."),
        );
    }

    #[test]
    fn those_who_keep_others_away_have_to_go() {
        let away = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
        check(
            "anti-affinity",
            &[("p", "a", json!({"app": "web"}), spec(1, "100m")), ("q", "b", json!({"app": "web"}), spec(9, "100m"))],
            &[],
            with(spec(5, "1"), away),
            Ok(("a", &["p"])),
        );
    }

    #[test]
    fn room_that_is_being_made_is_waited_for() {
        let leaving = |reason: &str| -> Pod {
            let mut pod = (*testing::pod("p", json!({}), &spec(1, "2"))).clone();
            pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
            pod.status = serde_json::from_value(
                json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]}),
            )
            .unwrap();
            pod
        };
        let mut waiting = (*testing::pod("vip", json!({}), &spec(5, "2"))).clone();
        waiting.status = serde_json::from_value(json!({"nominatedNodeName": "a"})).unwrap();
        let needs = Needs::of(&Arc::new(waiting), &Profile::default(), None);
        for (reason, waits) in [(REASON, true), ("EvictionByEvictionAPI", false)] {
            let mut snapshot = testing::snapshot(&NODES[..1], &[]);
            let resident = Arc::new(Resident::of(&Arc::new(leaving(reason))));
            snapshot.assume(resident.key(), "a", resident);
            let profile = Profile::default();
            let mut cycle = Cycle::of(&needs, &profile, &mut snapshot);
            let Placement::Nowhere(diagnosis) = place(&mut cycle, &mut snapshot) else { panic!("it fits") };
            let outcome = make_room(&mut cycle, &mut snapshot, &diagnosis, &[]);
            let why = "not eligible due to a terminating pod on the nominated node.";
            let found = matches!(outcome, Outcome::None { message, gives_up_node: false } if message == why);
            assert_eq!(found, waits, "{reason}");
        }
    }

    #[test]
    fn budgets_are_used_up_in_order() {
        let pods: Vec<Arc<Resident>> = ["p", "q", "r"]
            .map(|n| Arc::new(Resident::of(&testing::pod(n, json!({"app": "web"}), &spec(0, "1")))))
            .into();
        let names = |all: Vec<Arc<Resident>>| all.iter().map(|r| r.pod.name().to_owned()).collect::<Vec<_>>();
        let (protected, others) = by_budget(&pods, &[budget("web", 1), budget("db", 0)]);
        assert_eq!((names(protected), names(others)), (vec!["q".into(), "r".into()], vec!["p".to_owned()]));
        let mut being_evicted = budget("web", 0);
        being_evicted.disrupted.insert("q".into());
        let (protected, _) = by_budget(&pods, &[being_evicted]);
        assert_eq!(names(protected), ["p", "r"]);
    }
}
