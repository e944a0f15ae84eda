//! Amounts of resources, compared for every node that is looked at.
//!
//! Source: `pkg/scheduler/framework/types.go` (Resource), `pkg/scheduler/util/utils.go` (IsScalarResourceName).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use types::quantity::Quantity;

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const EPHEMERAL: &str = "ephemeral-storage";

/// CPU in thousandths of a core, everything else in units (bytes, devices).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Amounts {
    pub cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    /// Extended resources, huge pages, attachable volumes: sorted by name, none of them zero.
    others: Vec<(Box<str>, i64)>,
}

/// Whether the scheduler counts a resource that is neither CPU, memory nor storage of the node.
fn is_scalar(name: &str) -> bool {
    name.contains('/') && !name.starts_with("requests.")
        || name.starts_with("hugepages-")
        || name.starts_with("attachable-volumes-")
}

/// Whether a resource is a vendor's, not Kubernetes' own. Source: `IsExtendedResourceName`.
pub fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// The number of a quantity, rounded up as upstream does. What is no quantity is none.
pub fn amount(name: &str, text: &Text) -> i64 {
    let Ok(quantity) = text.0.parse::<Quantity>() else { return 0 };
    if name == CPU { quantity.millis() } else { quantity.value() }
}

impl Amounts {
    pub fn of(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut all = Self::default();
        for (name, text) in list.into_iter().flatten() {
            all.raise(name, amount(name, text));
        }
        all
    }

    pub fn get(&self, name: &str) -> i64 {
        match name {
            CPU => self.cpu,
            MEMORY => self.memory,
            EPHEMERAL => self.ephemeral,
            _ => self.others.binary_search_by(|(n, _)| (**n).cmp(name)).map_or(0, |at| self.others[at].1),
        }
    }

    pub fn others(&self) -> impl Iterator<Item = (&str, i64)> {
        self.others.iter().map(|(name, n)| (&**name, *n))
    }

    /// Makes it that much, if it is less.
    pub fn raise(&mut self, name: &str, to: i64) {
        let by = (to - self.get(name)).max(0);
        self.change(name, by);
    }

    pub fn set(&mut self, name: &str, to: i64) {
        self.change(name, to - self.get(name));
    }

    fn change(&mut self, name: &str, by: i64) {
        match name {
            CPU => self.cpu += by,
            MEMORY => self.memory += by,
            EPHEMERAL => self.ephemeral += by,
            _ if by == 0 || !is_scalar(name) => {}
            _ => match self.others.binary_search_by(|(n, _)| (**n).cmp(name)) {
                Ok(at) if self.others[at].1 + by == 0 => drop(self.others.remove(at)),
                Ok(at) => self.others[at].1 += by,
                Err(at) => self.others.insert(at, (name.into(), by)),
            },
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.cpu += other.cpu;
        self.memory += other.memory;
        self.ephemeral += other.ephemeral;
        for (name, n) in &other.others {
            self.change(name, *n);
        }
    }

    pub fn subtract(&mut self, other: &Self) {
        self.cpu -= other.cpu;
        self.memory -= other.memory;
        self.ephemeral -= other.ephemeral;
        for (name, n) in &other.others {
            self.change(name, -n);
        }
    }

    /// The larger of both, resource by resource.
    pub fn raise_to(&mut self, other: &Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (name, n) in &other.others {
            self.raise(name, *n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_and_taken_leaves_nothing() {
        let list = |pairs: &[(&str, &str)]| -> Amounts {
            let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), Text((*v).to_owned()))).collect();
            Amounts::of(Some(&map))
        };
        let one = list(&[("cpu", "1500m"), ("memory", "1Gi"), ("x.io/gpu", "2"), ("storage", "9"), ("a/b", "0")]);
        assert_eq!((one.cpu, one.memory, one.get("x.io/gpu"), one.get("storage")), (1500, 1 << 30, 2, 0));
        let mut sum = one.clone();
        sum.add(&list(&[("hugepages-2Mi", "4Mi"), ("x.io/gpu", "1")]));
        assert_eq!(sum.others().collect::<Vec<_>>(), [("hugepages-2Mi", 4 << 20), ("x.io/gpu", 3)]);
        sum.subtract(&list(&[("hugepages-2Mi", "4Mi"), ("x.io/gpu", "1")]));
        assert_eq!(sum, one);
        sum.raise_to(&list(&[("cpu", "1"), ("x.io/gpu", "5")]));
        assert_eq!((sum.cpu, sum.get("x.io/gpu")), (1500, 5));
        sum.set("x.io/gpu", 0);
        assert_eq!(sum.others().count(), 0);
    }

    #[test]
    fn extended_resources_are_vendors() {
        for (name, extended) in [
            ("x.io/gpu", true),
            ("kubernetes.io/a", false),
            ("a.kubernetes.io/b", false),
            ("cpu", false),
            ("requests.x.io/y", false),
        ] {
            assert_eq!(is_extended(name), extended, "{name}");
        }
    }
}
