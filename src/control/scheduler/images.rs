//! Which node has which images: a pod is better where its large ones are.
//!
//! Source: `pkg/scheduler/framework/plugins/imagelocality/image_locality.go`.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Node, PodSpec};

use super::profile::SCORE_MAX;

const MIB: i64 = 1024 * 1024;
/// Sizes below it do not count.
const LEAST: i64 = 23 * MIB;
/// Nor do those above it, for each container.
const MOST_PER_CONTAINER: i64 = 1000 * MIB;

#[derive(Default)]
pub struct Images {
    /// Size in bytes by name and slot.
    sizes: HashMap<Box<str>, HashMap<u32, i64>>,
    /// What each node has said, so that it can be taken back.
    of_slot: HashMap<u32, Vec<(Box<str>, i64)>>,
}

impl Images {
    /// A node's newest state; `None`: it is gone.
    pub fn set(&mut self, slot: u32, node: Option<&Node>) {
        let images = node.and_then(|n| n.status.as_ref()).and_then(|s| s.images.as_deref()).unwrap_or_default();
        let mut now: Vec<(Box<str>, i64)> = images
            .iter()
            .flat_map(|i| i.names.iter().flatten().map(|n| (n.as_str().into(), i.size_bytes.unwrap_or(0))))
            .collect();
        now.sort_unstable();
        if self.of_slot.get(&slot).map_or(now.is_empty(), |before| *before == now) {
            return;
        }
        for (name, _) in self.of_slot.remove(&slot).into_iter().flatten() {
            if let Some(slots) = self.sizes.get_mut(&name) {
                slots.remove(&slot);
                if slots.is_empty() {
                    self.sizes.remove(&name);
                }
            }
        }
        for (name, size) in &now {
            self.sizes.entry(name.clone()).or_default().insert(slot, *size);
        }
        if !now.is_empty() {
            self.of_slot.insert(slot, now);
        }
    }

    /// Scores of nodes for a pod, of `all` nodes that exist; `None`: no node has any of its images.
    pub fn scores(&self, spec: &PodSpec, slots: &[u32], all: usize) -> Option<Vec<i64>> {
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let images = containers.map(|c| c.image.as_deref().unwrap_or_default());
        let volumes = spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.as_deref());
        let found: Vec<&HashMap<u32, i64>> =
            images.chain(volumes).filter_map(|name| self.sizes.get(&*tagged(name))).collect();
        if found.is_empty() || all == 0 {
            return None;
        }
        let count = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
        let most = MOST_PER_CONTAINER * count as i64;
        let score = |slot: &u32| {
            let sum: i64 = found
                .iter()
                .filter_map(|sizes| Some((*sizes.get(slot)? as f64 * (sizes.len() as f64 / all as f64)) as i64))
                .sum();
            SCORE_MAX * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
        };
        Some(slots.iter().map(score).collect())
    }
}

/// The name with its tag: `latest` where it has none.
fn tagged(name: &str) -> std::borrow::Cow<'_, str> {
    if name.rfind(':') <= name.rfind('/') { format!("{name}:latest").into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn large_images_that_many_nodes_have_count() {
        let node = |name: &str, size: i64| -> Node {
            serde_json::from_value(json!({"status": {"images": [{"names": [name, "x@sha256:1"], "sizeBytes": size}]}}))
                .unwrap()
        };
        let spec = |image: &str| -> PodSpec {
            serde_json::from_value(json!({"containers": [{"name": "c", "image": image}]})).unwrap()
        };
        let mut images = Images::default();
        images.set(0, Some(&node("a:latest", 523 * MIB)));
        images.set(1, Some(&node("a:latest", 523 * MIB)));
        images.set(2, Some(&node("b:1", 5 * MIB)));
        assert_eq!(images.scores(&spec("a"), &[0, 1, 2], 2), Some(vec![51, 51, 0]));
        // half of the nodes have it, so it counts half
        assert_eq!(images.scores(&spec("a"), &[0, 2], 4), Some(vec![24, 0]));
        assert_eq!(images.scores(&spec("b:1"), &[2], 3), Some(vec![0]));
        assert_eq!(images.scores(&spec("c"), &[0], 3), None);
        images.set(1, None);
        images.set(0, Some(&node("c", 1)));
        assert_eq!(images.scores(&spec("a"), &[0], 3), None);
        assert_eq!(tagged("host:5000/a"), "host:5000/a:latest");
    }
}
