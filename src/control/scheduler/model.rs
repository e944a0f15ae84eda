//! What is counted as pods and nodes come and go is what counting from the beginning gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Key;
use proptest::prelude::*;
use serde_json::json;
use types::selector::LabelSelector;

use super::among::Among;
use super::cycle::Cycle;
use super::needs::{Needs, Resident};
use super::place::{Placement, place};
use super::preempt::make_room;
use super::profile::Profile;
use super::snapshot::Snapshot;
use super::testing;
use super::topology::NOWHERE;

const NODES: [&str; 4] = ["n0", "n1", "n2", "n3"];
const APPS: [&str; 2] = ["web", "db"];

#[derive(Debug, Clone)]
enum Step {
    /// A pod of an app comes to a node, or moves there.
    Place {
        pod: usize,
        app: usize,
        node: usize,
    },
    Forget {
        pod: usize,
    },
    /// A node has this zone now; `None`: it is gone.
    Node {
        node: usize,
        zone: Option<usize>,
    },
    /// Somebody asks, so that the sets are followed from here on.
    Ask,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6usize, 0..2usize, 0..4usize).prop_map(|(pod, app, node)| Step::Place { pod, app, node }),
        2 => (0..6usize).prop_map(|pod| Step::Forget { pod }),
        2 => (0..4usize, prop::option::weighted(0.8, 0..3usize)).prop_map(|(node, zone)| Step::Node { node, zone }),
        1 => Just(Step::Ask),
    ]
}

fn spec(app: usize, priority: i32) -> serde_json::Value {
    json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}],
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": APPS[1 - app]}}}]}},
        "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": APPS[app]}}}]})
}

#[derive(Default)]
struct Model {
    pods: BTreeMap<usize, (usize, usize)>,
    nodes: BTreeMap<usize, usize>,
}

impl Model {
    fn apply(&mut self, step: &Step, snapshot: &mut Snapshot) {
        match *step {
            Step::Place { pod, app, node } => {
                self.pods.insert(pod, (app, node));
                let key = Key::new("d", &format!("p{pod}"));
                let mut spec = spec(app, 0);
                spec["nodeName"] = NODES[node].into();
                let bound = testing::pod(&key.name, json!({"app": APPS[app]}), &spec);
                snapshot.set_pod(&key, Some(&bound));
            }
            Step::Forget { pod } => {
                self.pods.remove(&pod);
                snapshot.forget(&Key::new("d", &format!("p{pod}")));
            }
            Step::Node { node, zone } => {
                let zone_name = zone.map(|z| format!("z{z}"));
                match zone {
                    Some(zone) => drop(self.nodes.insert(node, zone)),
                    None => drop(self.nodes.remove(&node)),
                }
                let object = zone_name.map(|z| testing::node(NODES[node], &[("zone", z.as_str())]));
                snapshot.set_node(NODES[node], object.as_ref());
            }
            Step::Ask => drop((picture(snapshot), outcome(snapshot))),
        }
    }

    fn fresh(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (node, zone) in &self.nodes {
            self.fresh_node(&mut snapshot, *node, *zone);
        }
        for (pod, (app, node)) in &self.pods {
            snapshot.assume(Key::new("d", &format!("p{pod}")), NODES[*node], resident(*pod, *app));
        }
        snapshot
    }

    fn fresh_node(&self, snapshot: &mut Snapshot, node: usize, zone: usize) {
        let zone = format!("z{zone}");
        snapshot.set_node(NODES[node], Some(&testing::node(NODES[node], &[("zone", zone.as_str())])));
    }
}

fn resident(pod: usize, app: usize) -> Arc<Resident> {
    Arc::new(Resident::of(&testing::pod(&format!("p{pod}"), json!({"app": APPS[app]}), &spec(app, 0))))
}

/// All that can be asked, by the names of nodes.
fn picture(snapshot: &mut Snapshot) -> Vec<String> {
    snapshot.sort();
    let zone = snapshot.topology("zone");
    let mut all = Vec::new();
    for app in APPS {
        let among = Among::within("d", LabelSelector::parse(&format!("app={app}")).ok());
        let counts = snapshot.tally(&[&among], true);
        for slot in snapshot.order() {
            all.push(format!("{app} on {}: {}", snapshot.facts(*slot).name, counts.get(*slot)));
        }
    }
    for slot in snapshot.order() {
        let node = snapshot.node(*slot);
        let at = snapshot.topologies.get(zone);
        let together = snapshot.order().iter().filter(|s| at.domain(**s) == at.domain(*slot)).count();
        let has = at.domain(*slot) != NOWHERE;
        let load = &node.load;
        all.push(format!("{}: {} {has} {together} {:?}", node.facts.name, load.pods.len(), load.taken));
        for held in snapshot.held.iter() {
            all.push(format!("{} holds {} {}", node.facts.name, held.term.among.text, held.counts.get(*slot)));
        }
    }
    all.retain(|line| !line.ends_with(" 0"));
    all.sort_unstable();
    all
}

/// What becomes of one more pod.
fn outcome(snapshot: &mut Snapshot) -> String {
    let profile = Profile::default();
    let mut all = String::new();
    for (app, name) in APPS.iter().enumerate() {
        let pod = testing::pod("new", json!({"app": name}), &spec(app, 5));
        let needs = Needs::of(&pod, &profile, None);
        let mut cycle = Cycle::of(&needs, &profile, snapshot);
        snapshot.start = 0;
        match place(&mut cycle, snapshot) {
            Placement::On(slot) => all.push_str(&format!("on {}; ", snapshot.facts(slot).name)),
            Placement::Nowhere(diagnosis) => {
                let before = picture(snapshot);
                drop(make_room(&mut cycle, snapshot, &diagnosis, &[]));
                assert_eq!(picture(snapshot), before, "to think of it changes nothing");
                all.push_str(&diagnosis.message());
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn counting_along_is_counting_anew(steps in prop::collection::vec(step(), 0..40)) {
        let (mut model, mut snapshot) = (Model::default(), Snapshot::default());
        for step in &steps {
            model.apply(step, &mut snapshot);
        }
        let mut fresh = model.fresh();
        prop_assert_eq!(picture(&mut snapshot), picture(&mut fresh));
        prop_assert_eq!(outcome(&mut snapshot), outcome(&mut fresh));
    }
}
