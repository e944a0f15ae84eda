//! Which devices are taken, and how much of those that are shared: by claims that the API shows as allocated, and by
//! allocations that are decided and not written yet. Kept change by change.
//!
//! Source: `pkg/scheduler/framework/plugins/dynamicresources/allocateddevices.go`,
//! k8s.io/dynamic-resource-allocation `structured/internal/allocatedstate.go`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::Object as _;
use client::devices::{Allocation, Claim, Picked};
use types::quantity::Quantity;

/// `driver/pool/device`. Only a pool's name may have a slash of its own.
pub type DeviceId = Box<str>;

pub fn device_id(driver: &str, pool: &str, device: &str) -> DeviceId {
    [driver, pool, device].join("/").into()
}

#[derive(Default)]
struct Known {
    /// As the API shows it.
    seen: Option<Arc<Claim>>,
    /// As it was decided. What the API shows counts before it.
    decided: Option<Arc<Allocation>>,
}

impl Known {
    fn results(&self) -> &[Picked] {
        let seen = self.seen.as_ref().and_then(|claim| claim.status.allocation.as_ref());
        seen.or(self.decided.as_deref()).map_or(&[], |allocation| &allocation.devices.results)
    }
}

/// What several claims have of one device.
#[derive(Debug, Default)]
struct Share {
    users: u32,
    amounts: BTreeMap<String, Quantity>,
}

#[derive(Default)]
pub struct Taken {
    /// By the uid of the claim.
    claims: HashMap<String, Known>,
    whole: HashMap<DeviceId, u32>,
    shares: HashMap<DeviceId, Share>,
}

impl Taken {
    /// The API shows a claim, or it is gone.
    pub fn seen(&mut self, uid: &str, claim: Option<&Arc<Claim>>) {
        self.change(uid, |known| known.seen = claim.cloned());
    }

    /// Its devices are given to a claim, before it is written.
    pub fn decided(&mut self, uid: &str, allocation: Arc<Allocation>) {
        self.change(uid, |known| known.decided = Some(allocation));
    }

    /// What was decided shows in the API, or has failed.
    pub fn settled(&mut self, uid: &str) {
        self.change(uid, |known| known.decided = None);
    }

    /// Whether devices are being given to the claim.
    pub fn is_pending(&self, uid: &str) -> bool {
        self.claims.get(uid).is_some_and(|known| known.decided.is_some())
    }

    /// Whether somebody has all of the device.
    pub fn is_whole(&self, device: &str) -> bool {
        self.whole.contains_key(device)
    }

    /// What is used of a shared device; `None`: nobody uses it.
    pub fn amounts(&self, device: &str) -> Option<&BTreeMap<String, Quantity>> {
        self.shares.get(device).map(|share| &share.amounts)
    }

    fn change(&mut self, uid: &str, change: impl FnOnce(&mut Known)) {
        let mut known = self.claims.remove(uid).unwrap_or_default();
        self.count(known.results(), false);
        change(&mut known);
        self.count(known.results(), true);
        if known.seen.is_some() || known.decided.is_some() {
            self.claims.insert(uid.to_owned(), known);
        }
    }

    fn count(&mut self, results: &[Picked], more: bool) {
        // An administrator looks on: whose the device is does not change.
        for picked in results.iter().filter(|p| p.admin_access != Some(true)) {
            let device = device_id(&picked.driver, &picked.pool, &picked.device);
            if picked.share_id.is_none() {
                let users = self.whole.entry(device.clone()).or_default();
                *users = if more { *users + 1 } else { users.saturating_sub(1) };
                if *users == 0 {
                    self.whole.remove(&device);
                }
                continue;
            }
            let share = self.shares.entry(device.clone()).or_default();
            share.users = if more { share.users + 1 } else { share.users.saturating_sub(1) };
            for (name, amount) in &picked.consumed_capacity {
                let used = share.amounts.entry(name.clone()).or_default();
                *used = if more { used.plus(amount) } else { used.minus(amount) };
            }
            if share.users == 0 {
                self.shares.remove(&device);
            }
        }
    }

    /// How many devices are taken, wholly or in part.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.whole.len() + self.shares.len()
    }

    /// Takes over a change of the cache of claims.
    pub fn follow(&mut self, old: Option<&Arc<Claim>>, new: Option<&Arc<Claim>>) {
        if let Some(old) = old.filter(|old| new.is_none_or(|new| new.uid() != old.uid())) {
            self.seen(old.uid(), None);
        }
        if let Some(new) = new {
            self.seen(new.uid(), Some(new));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(uid: &str, results: &Value) -> Arc<Claim> {
        let status = json!({"allocation": {"devices": {"results": results}}});
        Arc::new(serde_json::from_value(json!({"metadata": {"uid": uid}, "status": status})).unwrap())
    }

    #[test]
    fn what_is_decided_counts_until_it_is_seen() {
        let mut taken = Taken::default();
        let one = claim("a", &json!([{"driver": "d.io", "pool": "p", "device": "0"}]));
        taken.decided("a", Arc::new(one.status.allocation.clone().unwrap()));
        assert!(taken.is_whole("d.io/p/0") && taken.is_pending("a"));
        taken.follow(None, Some(&one));
        taken.settled("a");
        assert!(taken.is_whole("d.io/p/0") && !taken.is_pending("a"));
        let given_back = Arc::new(Claim { status: Default::default(), ..(*one).clone() });
        taken.follow(Some(&one), Some(&given_back));
        assert!(!taken.is_whole("d.io/p/0"));
        taken.follow(Some(&given_back), None);
        assert_eq!((taken.len(), taken.claims.len()), (0, 0));
        taken.decided("b", Arc::new(one.status.allocation.clone().unwrap()));
        taken.settled("b");
        assert_eq!((taken.len(), taken.claims.len()), (0, 0), "it failed");
    }

    #[test]
    fn shares_add_up_and_administrators_take_nothing() {
        let mut taken = Taken::default();
        let share = |id: &str| {
            json!([{"driver": "d.io", "pool": "p", "device": "0", "shareID": id,
            "consumedCapacity": {"memory": "1Gi"}}])
        };
        let (a, b) = (claim("a", &share("1")), claim("b", &share("2")));
        taken.follow(None, Some(&a));
        taken.follow(None, Some(&b));
        assert_eq!(taken.amounts("d.io/p/0").unwrap()["memory"], "2Gi".parse().unwrap());
        taken.follow(Some(&a), None);
        assert_eq!(taken.amounts("d.io/p/0").unwrap()["memory"], "1Gi".parse().unwrap());
        taken.follow(Some(&b), None);
        assert!(taken.amounts("d.io/p/0").is_none());
        taken.follow(
            None,
            Some(&claim("c", &json!([{"driver": "d.io", "pool": "p", "device": "0", "adminAccess": true}]))),
        );
        assert_eq!(taken.len(), 0);
    }
}
