//! No node is given more than it has.
//!
//! Source: scheduler plugin `NodeResourcesFit`: the requests of the pods on a node, the new one included, do not exceed what it
//! can allocate. Nobody but the scheduler gives pods to nodes, so that nothing excuses it.

use serde_json::Value;
use types::quantity::Quantity;

use super::Invariant;
use crate::objects::{Change, Objects, is_finished, list, text};

#[derive(Debug)]
pub struct Capacity;

/// In thousandths.
fn amount(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse::<Quantity>().ok()).map_or(0, |q| q.millis())
}

fn requested(pod: &Value, resource: &str) -> i64 {
    list(pod, "/spec/containers").map(|c| amount(&c["resources"]["requests"][resource])).sum()
}

impl Invariant for Capacity {
    fn name(&self) -> &'static str {
        "capacity"
    }

    fn observe(&mut self, objects: &Objects, change: &Change) -> Result<(), String> {
        let is_bound = |pod: &Value| !text(pod, "/spec/nodeName").is_empty();
        if change.resource != "pods" || !change.becomes(is_bound) {
            return Ok(());
        }
        let name = text(change.object(), "/spec/nodeName");
        let Some(node) = objects.get("nodes", "", name) else { return Ok(()) };
        let pods: Vec<&Value> =
            objects.all("pods").filter(|p| text(p, "/spec/nodeName") == name && !is_finished(p)).collect();
        for resource in ["cpu", "memory", "pods"] {
            let has = amount(&node["status"]["allocatable"][resource]);
            let wanted = match resource {
                "pods" => pods.len() as i64 * 1000,
                _ => pods.iter().map(|pod| requested(pod, resource)).sum(),
            };
            if wanted > has {
                return Err(format!("{name} has {has} thousandths of {resource}, {wanted} with {}", change.name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{History, object, phase};
    use super::*;

    fn pod(name: &str, cpu: &str) -> Value {
        let requests = json!({"requests": {"cpu": cpu}});
        object(name, json!({"spec": {"nodeName": "n1", "containers": [{"resources": requests}]}}))
    }

    #[test]
    fn too_much_is_told() {
        let mut history = History::of(Capacity);
        let allocatable = json!({"cpu": "2", "memory": "1Gi", "pods": "3"});
        history.write("user", "nodes", &json!({"metadata": {"name": "n1"}, "status": {"allocatable": allocatable}}));
        history.write("scheduler", "pods", &pod("a", "1500m"));
        history.holds();
        history.write("scheduler", "pods", &pod("b", "1"));
        history.breaks("n1 has 2000 thousandths of cpu, 2500 with b");
        history.write("kubelet/n1", "pods", &phase(pod("a", "1500m"), "Succeeded"));
        history.write("scheduler", "pods", &pod("c", "1"));
        history.write("scheduler", "pods", &pod("d", "0"));
        history.holds();
        history.write("scheduler", "pods", &pod("e", "0"));
        history.breaks("n1 has 3000 thousandths of pods, 4000 with e");
    }
}
