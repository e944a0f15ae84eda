//! What brings a pod that no node could take back: which changes may alter the mind of the plugins that refused it. Pure.
//!
//! Source: `EventsToRegister` and the hints of each plugin under `pkg/scheduler/framework/plugins`,
//! `pkg/scheduler/framework/events.go`.

use client::devices::Claim;
use client::{Key, Object as _};
use k8s_openapi::api::core::v1::Pod;

use super::among::{Namespaces, Term, in_all, terms};
use super::filter::{self, tolerates_all, wants_node};
use super::needs::{Needs, Resident, requests};
use super::profile::{Plugin, Plugins, Profile};
use super::resources;
use super::snapshot::{Facts, Load};
use super::spread::{Constraint, has_labels};

/// A change of the cluster.
#[derive(Clone, Copy)]
pub enum Event<'a> {
    Node {
        old: Option<&'a Facts>,
        new: Option<&'a Facts>,
    },
    /// A pod that has a place, or is waiting for one that was made for it: came, changed, went.
    Pod {
        old: Option<&'a Pod>,
        new: Option<&'a Pod>,
    },
    /// A volume, a class, or this claim came or changed.
    Storage(Option<&'a Key>),
    /// A claim of devices came or changed.
    Claim {
        old: Option<&'a Claim>,
        new: &'a Claim,
    },
    /// Devices came or changed, or a class of them.
    Offer {
        class: bool,
    },
    /// A node may take more volumes of a driver than before.
    Limits,
}

/// Plugins that could change their mind.
pub fn concerned(event: Event<'_>) -> Plugins {
    use Plugin::*;
    let these = |list: &[Plugin]| list.iter().fold(Plugins::NONE, |all, p| all.with(*p));
    match event {
        Event::Node { old: None, new: Some(_) } => these(&[
            NodeUnschedulable,
            NodeName,
            TaintToleration,
            NodeAffinity,
            NodePorts,
            NodeResourcesFit,
            VolumeRestrictions,
            NodeVolumeLimits,
            VolumeBinding,
            VolumeZone,
            PodTopologySpread,
            InterPodAffinity,
            DynamicResources,
        ]),
        Event::Node { old: Some(old), new: Some(new) } => {
            let mut all = Plugins::NONE;
            if old.unschedulable && !new.unschedulable {
                all = all.with(NodeUnschedulable).with(PodTopologySpread);
            }
            if old.taints != new.taints {
                all = all.with(NodeUnschedulable).with(TaintToleration).with(PodTopologySpread);
            }
            if old.labels != new.labels {
                let by_label = these(&[
                    NodeAffinity,
                    VolumeBinding,
                    VolumeZone,
                    PodTopologySpread,
                    InterPodAffinity,
                    DynamicResources,
                ]);
                all = all.and(by_label);
            }
            if old.allocatable != new.allocatable || old.pods_max != new.pods_max {
                all = all.with(NodeResourcesFit).with(DynamicResources);
            }
            all
        }
        Event::Node { new: None, .. } => these(&[PodTopologySpread]),
        Event::Pod { old: None, new: Some(_) } => these(&[PodTopologySpread, InterPodAffinity]),
        Event::Pod { old: Some(old), new: Some(new) } => {
            let mut all = Plugins::NONE;
            if old.metadata.labels != new.metadata.labels {
                all = all.with(PodTopologySpread).with(InterPodAffinity);
            }
            if shrank(old, new, None) {
                all = all.with(NodeResourcesFit);
            }
            all
        }
        Event::Pod { old: Some(_), new: None } => these(&[
            NodePorts,
            NodeResourcesFit,
            VolumeRestrictions,
            NodeVolumeLimits,
            VolumeBinding,
            PodTopologySpread,
            InterPodAffinity,
        ]),
        Event::Pod { old: None, new: None } => Plugins::NONE,
        Event::Storage(_) => these(&[VolumeRestrictions, VolumeBinding]),
        Event::Claim { .. } | Event::Offer { class: false } => these(&[DynamicResources]),
        Event::Offer { class: true } => these(&[NodeResourcesFit, DynamicResources]),
        Event::Limits => these(&[NodeVolumeLimits]),
    }
}

/// Whether the event may make a plugin that refused the pod take it.
pub fn worth_it(plugin: Plugin, needs: &Needs, profile: &Profile, event: Event<'_>, namespaces: &Namespaces) -> bool {
    match event {
        Event::Node { old, new: Some(new) } => node_helps(plugin, needs, profile, old, new),
        Event::Node { old: Some(old), new: None } => {
            plugin == Plugin::PodTopologySpread && has_labels(&needs.hard, old)
        }
        Event::Node { old: None, new: None } => false,
        Event::Pod { old, new } => pod_helps(plugin, needs, old, new, namespaces),
        Event::Claim { old, new } => claim_helps(needs.pod(), old, new),
        // The class may stand for an extended resource that no node has.
        Event::Offer { .. } => plugin == Plugin::DynamicResources || needs.resident.requests.others().next().is_some(),
        Event::Limits => crate::storage::claim_keys(needs.pod()).next().is_some(),
        Event::Storage(claim) => claim.is_none_or(|key| crate::storage::claim_keys(needs.pod()).any(|own| own == *key)),
    }
}

/// A claim gave its devices back, or is the pod's own and says something else than before.
fn claim_helps(pod: &Pod, old: Option<&Claim>, new: &Claim) -> bool {
    let has = |claim: &Claim| claim.status.allocation.is_some();
    old.is_some_and(has) && !has(new)
        || old.is_none_or(|old| old.status != new.status) && crate::claims::keys(pod).any(|key| key == new.key())
}

fn node_helps(plugin: Plugin, needs: &Needs, profile: &Profile, old: Option<&Facts>, new: &Facts) -> bool {
    let tolerations = needs.tolerations();
    match plugin {
        Plugin::NodeUnschedulable => !new.unschedulable && old.is_none_or(|o| o.unschedulable),
        Plugin::TaintToleration => {
            old.is_none_or(|o| !tolerates_all(tolerations, &o.taints)) && tolerates_all(tolerations, &new.taints)
        }
        Plugin::NodeAffinity => {
            let added = profile.added_affinity.as_ref();
            let added = added.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
            let matches =
                |node: &Facts| wants_node(needs, node) && added.is_none_or(|a| filter::matches_selector(a, node));
            matches(new) && !old.is_some_and(matches)
        }
        Plugin::NodeResourcesFit => {
            let wanted = &needs.resident.requests;
            let empty = Load::default();
            let grew = |old: &Facts| {
                let more = |name: &str| new.allocatable.get(name) > old.allocatable.get(name);
                new.pods_max > old.pods_max
                    || wanted.cpu > 0 && more("cpu")
                    || wanted.memory > 0 && more("memory")
                    || wanted.ephemeral > 0 && more("ephemeral-storage")
                    || wanted.others().any(|(name, _)| more(name))
            };
            resources::refusal(wanted, &profile.fit, new, &empty).is_none() && old.is_none_or(grew)
        }
        Plugin::PodTopologySpread => {
            let now = has_labels(&needs.hard, new);
            let moved = |old: &Facts| {
                let label = |node: &Facts, c: &Constraint| node.labels.get(&*c.topology).cloned();
                needs.hard.iter().any(|c| label(old, c) != label(new, c)) || old.taints != new.taints
            };
            match old {
                None => now,
                Some(old) => has_labels(&needs.hard, old) != now || now && moved(old),
            }
        }
        Plugin::InterPodAffinity => affinity_helped(needs, old, new),
        Plugin::NodeName
        | Plugin::NodePorts
        | Plugin::VolumeRestrictions
        | Plugin::NodeVolumeLimits
        | Plugin::VolumeBinding
        | Plugin::VolumeZone
        | Plugin::DynamicResources => true,
        Plugin::SchedulingGates
        | Plugin::DefaultPreemption
        | Plugin::NodeResourcesBalancedAllocation
        | Plugin::ImageLocality => false,
    }
}

fn affinity_helped(needs: &Needs, old: Option<&Facts>, new: &Facts) -> bool {
    let own = terms(&needs.resident);
    let label = |node: &Facts, t: &Term| node.labels.get(&*t.topology).cloned();
    let none = own.attracts.is_empty() && own.repels.is_empty();
    let Some(old) = old else {
        // A node without the label takes every pod that wants to be away from others.
        return none || !own.repels.is_empty() || own.attracts.iter().any(|t| label(new, t).is_some());
    };
    let nearer = |t: &Term| label(new, t).is_some() && label(old, t) != label(new, t);
    let farther = |t: &Term| label(old, t).is_some() && label(old, t) != label(new, t);
    own.attracts.iter().any(nearer) || own.repels.iter().any(farther)
}

fn pod_helps(plugin: Plugin, needs: &Needs, old: Option<&Pod>, new: Option<&Pod>, namespaces: &Namespaces) -> bool {
    match (plugin, old, new) {
        (Plugin::NodeResourcesFit, Some(_), None) => true,
        (Plugin::NodeResourcesFit, Some(old), Some(new)) => shrank(old, new, Some(needs)),
        (Plugin::NodePorts, Some(old), None) => {
            let freed = Resident::of(&std::sync::Arc::new(old.clone())).ports;
            !filter::ports_free(&needs.resident.ports, &freed)
        }
        (Plugin::PodTopologySpread, _, _) => {
            let counts = |pod: &Pod| {
                let among = |c: &Constraint| c.among.has(pod, namespaces);
                needs.hard.iter().map(among).collect::<Vec<_>>()
            };
            match (old, new) {
                (Some(old), Some(new)) => counts(old) != counts(new),
                (Some(pod), None) | (None, Some(pod)) => counts(pod).contains(&true),
                (None, None) => false,
            }
        }
        (Plugin::InterPodAffinity, _, _) => {
            let own = terms(&needs.resident);
            let near = |pod: &Pod| in_all(&own.attracts, pod, namespaces);
            let hated = |pod: &Pod| own.repels.iter().any(|t| t.among.has(pod, namespaces));
            let hates = |pod: &Pod| {
                super::among::Terms::of(pod)
                    .is_some_and(|t| t.repels.iter().any(|t| t.among.has(needs.pod(), namespaces)))
            };
            match (old, new) {
                (Some(old), Some(new)) => !near(old) && near(new) || hated(old) && !hated(new),
                (None, Some(new)) => near(new),
                (Some(old), None) => hated(old) || hates(old),
                (None, None) => false,
            }
        }
        (Plugin::VolumeRestrictions | Plugin::NodeVolumeLimits | Plugin::VolumeBinding, Some(_), None) => true,
        _ => false,
    }
}

/// Whether a pod asks for less than before, of what `for_whom` wants.
fn shrank(old: &Pod, new: &Pod, for_whom: Option<&Needs>) -> bool {
    // Nearly all changes are of the status alone and leave the requests as they are.
    let same = old.spec == new.spec
        && old.status.as_ref().map(|s| &s.container_statuses) == new.status.as_ref().map(|s| &s.container_statuses);
    if same {
        return false;
    }
    let (old, new) = (requests(old, false), requests(new, false));
    let less = |name: &str| new.get(name) < old.get(name);
    let wanted = |name: &str| for_whom.is_none_or(|n| n.resident.requests.get(name) > 0);
    ["cpu", "memory", "ephemeral-storage"].into_iter().chain(old.others().map(|(n, _)| n)).any(|n| less(n) && wanted(n))
}

/// Whether a change of the pod itself may make those take it that refused it.
pub fn own_change(rejectors: Plugins, needs: &Needs, old: &Pod, new: &Pod) -> bool {
    let gates = |p: &Pod| p.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty());
    let tolerations = |p: &Pod| p.spec.as_ref().and_then(|s| s.tolerations.as_ref()).map_or(0, Vec::len);
    let relabelled = old.metadata.labels != new.metadata.labels;
    let tolerant = tolerations(old) != tolerations(new);
    let claims = |p: &Pod| crate::claims::keys(p).collect::<Vec<_>>();
    rejectors.iter().any(|plugin| match plugin {
        Plugin::SchedulingGates => gates(old) && !gates(new),
        Plugin::TaintToleration | Plugin::NodeUnschedulable => tolerant,
        Plugin::InterPodAffinity => relabelled,
        Plugin::PodTopologySpread => relabelled || tolerant && needs.hard.iter().any(|c| c.honors_taints),
        Plugin::NodeResourcesFit => shrank(old, new, None),
        Plugin::DynamicResources => claims(old) != claims(new),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use serde_json::{Value, json};

    fn check(name: &str, plugin: Plugin, spec: Value, event: Event<'_>, expected: bool) {
        let needs = testing::needs(spec);
        let worth = concerned(event).has(plugin)
            && worth_it(plugin, &needs, &Profile::default(), event, &Namespaces::default());
        assert_eq!(worth, expected, "{name}");
    }

    fn cpu(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    #[test]
    fn nodes_bring_back_whom_they_may_take() {
        let plain = Facts::of(&testing::node("n", &[("zone", "a")]));
        let with = |change: fn(&mut Facts)| {
            let mut facts = plain.clone();
            change(&mut facts);
            facts
        };
        let cordoned = with(|f| f.unschedulable = true);
        let tainted = with(|f| {
            f.taints = serde_json::from_value(json!([{"key": "k", "effect": "NoSchedule"}])).unwrap();
        });
        let elsewhere = with(|f| drop(f.labels.insert("zone".into(), "b".into())));
        let larger = with(|f| f.allocatable.set("cpu", 4000));
        let came = |new| Event::Node { old: None, new: Some(new) };
        let became = |old, new| Event::Node { old: Some(old), new: Some(new) };
        let in_b = json!({"nodeSelector": {"zone": "b"}});
        let spread = json!({"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"a": "b"}}}]});
        let (fit, taint, affinity) = (Plugin::NodeResourcesFit, Plugin::TaintToleration, Plugin::NodeAffinity);
        check("it may fit", fit, cpu("1"), came(&plain), true);
        check("it is too small", fit, cpu("3"), came(&plain), false);
        check("it grew", fit, cpu("3"), became(&plain, &larger), true);
        check("it shrank", fit, cpu("1"), became(&larger, &plain), false);
        check("other taints say nothing of room", fit, cpu("1"), became(&tainted, &plain), false);
        check("the taint went", taint, json!({}), became(&tainted, &plain), true);
        check("a taint came", taint, json!({}), became(&plain, &tainted), false);
        check("new, but tainted", taint, json!({}), came(&tainted), false);
        check("uncordoned", Plugin::NodeUnschedulable, json!({}), became(&cordoned, &plain), true);
        check("cordoned", Plugin::NodeUnschedulable, json!({}), became(&plain, &cordoned), false);
        check("the label came", affinity, in_b.clone(), became(&plain, &elsewhere), true);
        check("the label was there", affinity, in_b.clone(), became(&elsewhere, &larger), false);
        check("another label", affinity, in_b, came(&plain), false);
        check("a new domain", Plugin::PodTopologySpread, spread.clone(), became(&plain, &elsewhere), true);
        check(
            "a domain less",
            Plugin::PodTopologySpread,
            spread.clone(),
            Event::Node { old: Some(&plain), new: None },
            true,
        );
        check("nothing of interest", Plugin::PodTopologySpread, spread, became(&plain, &larger), false);
        check("a name", Plugin::NodeName, json!({}), came(&plain), true);
    }

    #[test]
    fn pods_bring_back_whom_they_hindered_or_draw() {
        let other = |labels: Value, spec: Value| (*testing::pod("q", labels, &spec)).clone();
        let term = |which: &str| {
            json!({"affinity": {which: {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}]}}})
        };
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        let (plain, labelled) = (other(json!({}), cpu("1")), other(json!({"a": "b"}), cpu("1")));
        let small = other(json!({}), cpu("500m"));
        let with_port = other(json!({}), port.clone());
        let came = |new| Event::Pod { old: None, new: Some(new) };
        let went = |old| Event::Pod { old: Some(old), new: None };
        let became = |old, new| Event::Pod { old: Some(old), new: Some(new) };
        let affinity = Plugin::InterPodAffinity;
        check("room became free", Plugin::NodeResourcesFit, cpu("1"), went(&plain), true);
        check("it came", Plugin::NodeResourcesFit, cpu("1"), came(&plain), false);
        check("it shrank", Plugin::NodeResourcesFit, cpu("1"), became(&plain, &small), true);
        check("it shrank in what is not wanted", Plugin::NodeResourcesFit, json!({}), became(&plain, &small), false);
        check("its port is free", Plugin::NodePorts, port.clone(), went(&with_port), true);
        check("no port is free", Plugin::NodePorts, port, went(&plain), false);
        check("company came", affinity, term("podAffinity"), came(&labelled), true);
        check("others came", affinity, term("podAffinity"), came(&plain), false);
        check("it became company", affinity, term("podAffinity"), became(&plain, &labelled), true);
        check("the hated went", affinity, term("podAntiAffinity"), went(&labelled), true);
        check("others went", affinity, term("podAntiAffinity"), went(&plain), false);
        check("the hated is no more", affinity, term("podAntiAffinity"), became(&labelled, &plain), true);
    }

    #[test]
    fn a_pod_that_changes_itself() {
        let gated = testing::pod("p", json!({}), &json!({"schedulingGates": [{"name": "x"}]}));
        let free = testing::pod("p", json!({"a": "b"}), &json!({"tolerations": [{"operator": "Exists"}]}));
        let needs = testing::needs(json!({}));
        for (plugin, expected) in [
            (Plugin::SchedulingGates, true),
            (Plugin::TaintToleration, true),
            (Plugin::InterPodAffinity, true),
            (Plugin::NodeResourcesFit, false),
            (Plugin::NodeName, false),
        ] {
            let rejectors = Plugins::NONE.with(plugin);
            assert_eq!(own_change(rejectors, &needs, &gated, &free), expected, "{plugin:?}");
            assert!(!own_change(rejectors, &needs, &gated, &gated), "{plugin:?}");
        }
    }
}
