//! How many volumes of a driver a node takes, and how much room a class has for a node: as drivers say it.
//!
//! Source: `pkg/scheduler/framework/plugins/nodevolumelimits/csi.go`, `hasEnoughCapacity` in `volumebinding/binder.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::csi::{Attachment, Capacity, Driver, NodeDrivers};
use client::storage::Volume;
use client::{Cache, Informers, Key, Object as _, Selector};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use types::quantity::Quantity;
use types::selector::LabelSelector;

use crate::controllers::attach_detach::BY_NODE;
use crate::{pods, storage};

pub const TOO_MANY: &str = "node(s) exceed max volume count";
pub const NO_ROOM: &str = "node(s) did not have enough free storage";

/// A volume as it counts: its driver, and what tells it from the driver's others.
pub type Counted = (String, String);

pub struct Drivers {
    claims: Arc<Cache<PersistentVolumeClaim>>,
    volumes: Arc<Cache<Volume>>,
    classes: Arc<Cache<StorageClass>>,
    nodes: Arc<Cache<NodeDrivers>>,
    attachments: Arc<Cache<Attachment>>,
    drivers: Arc<Cache<Driver>>,
    capacities: Arc<Cache<Capacity>>,
}

impl Drivers {
    pub fn new(informers: &Informers) -> Self {
        let attachments = informers.cache::<Attachment>(Selector::all());
        attachments.add_index(BY_NODE, |a| vec![a.spec.node_name.clone()]);
        Self {
            claims: informers.cache(Selector::all()),
            volumes: informers.cache(Selector::all()),
            classes: informers.cache(Selector::all()),
            nodes: informers.cache(Selector::all()),
            attachments,
            drivers: informers.cache(Selector::all()),
            capacities: informers.cache(Selector::all()),
        }
    }

    pub async fn synced(&self) {
        self.nodes.synced().await;
        self.attachments.synced().await;
        self.drivers.synced().await;
        self.capacities.synced().await;
    }

    /// Calls `limits` when a node may take more volumes than before, and `room` when a class may have more room.
    pub fn on_change(
        &self,
        limits: impl Fn() + Send + Sync + Clone + 'static,
        room: impl Fn() + Send + Sync + Clone + 'static,
    ) {
        let tell = limits.clone();
        self.nodes.on_change(Box::new(move |old, new| {
            if new.is_some() && old.map(|n| &n.spec) != new.map(|n| &n.spec) {
                tell();
            }
        }));
        self.attachments.on_change(Box::new(move |_, new| {
            if new.is_none() {
                limits();
            }
        }));
        let tell = room.clone();
        self.drivers.on_change(Box::new(move |_, new| new.into_iter().for_each(|_| tell())));
        self.capacities.on_change(Box::new(move |_, new| new.into_iter().for_each(|_| room())));
    }

    /// What the pod's volumes count as; empty when no node has a limit.
    pub fn counted(&self, pod: &Pod) -> Vec<Counted> {
        let limited = |n: &Arc<NodeDrivers>| n.spec.drivers.iter().any(|d| limit(d).is_some());
        let keys: Vec<Key> = storage::claim_keys(pod).collect();
        if keys.is_empty() || !self.nodes.all().iter().any(limited) {
            return Vec::new();
        }
        keys.iter().filter_map(|key| self.of_claim(key)).collect()
    }

    /// A claim's volume, or the one that it will get.
    fn of_claim(&self, key: &Key) -> Option<Counted> {
        let claim = self.claims.get(key)?;
        match self.volumes.get(&Key::cluster(storage::volume_name(&claim))) {
            Some(volume) => of_volume(&volume),
            None => {
                let class = self.classes.get(&Key::cluster(storage::class_of(&claim)))?;
                Some((class.provisioner.clone(), format!("for {key}")))
            }
        }
    }

    /// Whether these volumes are too many for a node that has these pods.
    pub fn exceeds<'a>(&self, wanted: &[Counted], node: &str, pods: impl Iterator<Item = &'a Arc<Pod>>) -> bool {
        let Some(drivers) = self.nodes.get(&Key::cluster(node)) else { return false };
        let limits: BTreeMap<&str, i32> =
            drivers.spec.drivers.iter().filter_map(|d| Some((&*d.name, limit(d)?))).collect();
        if !wanted.iter().any(|(driver, _)| limits.contains_key(driver.as_str())) {
            return false;
        }
        let attached = self.attachments.indexed(BY_NODE, node);
        let attached = attached.iter().filter_map(|a| {
            let volume = self.volumes.get(&Key::cluster(a.volume()))?;
            of_volume(&volume)
        });
        // One that is attached already is not one more.
        let mut there: BTreeSet<Counted> = attached.collect();
        let pods = pods.filter(|p| !pods::is_finished(p));
        there.extend(pods.flat_map(|p| storage::claim_keys(p)).filter_map(|key| self.of_claim(&key)));
        let mut counts: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
        for (driver, _) in &there {
            counts.entry(driver).or_default().0 += 1;
        }
        let new: BTreeSet<&Counted> = wanted.iter().filter(|w| !there.contains(w)).collect();
        for (driver, _) in new {
            let count = counts.entry(driver).or_default();
            *count = (count.0 + 1, true);
        }
        let too_many = |(driver, (count, grows)): (&str, (usize, bool))| {
            grows && limits.get(driver).is_some_and(|limit| count > usize::try_from(*limit).unwrap_or(0))
        };
        counts.into_iter().any(too_many)
    }

    /// Where storage of the claim's class has room for it; `None`: wherever, as far as its driver says.
    pub fn room(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<Vec<LabelSelector>> {
        let driver = self.drivers.get(&Key::cluster(&class.provisioner))?;
        let size = storage::requested(claim);
        if !driver.spec.storage_capacity || size == Quantity::default() {
            return None;
        }
        let fits = |c: &Arc<Capacity>| {
            let most = c.maximum_volume_size.as_ref().or(c.capacity.as_ref());
            let most = most.and_then(|q| q.0.parse::<Quantity>().ok());
            (c.storage_class_name == class.name() && most.is_some_and(|most| most >= size))
                .then(|| pods::matcher(c.node_topology.as_ref()?))
                .flatten()
        };
        Some(self.capacities.all().iter().filter_map(fits).collect())
    }
}

fn limit(driver: &client::csi::NodeDriver) -> Option<i32> {
    driver.allocatable.as_ref().and_then(|a| a.count)
}

fn of_volume(volume: &Volume) -> Option<Counted> {
    volume.spec.csi.as_ref().map(|csi| (csi.driver.clone(), csi.volume_handle.clone()))
}

#[cfg(test)]
mod tests {
    use client::fake::Fake;
    use client::{Client, Clock, WriteParams};
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    async fn create(client: &Client, path: &str, object: Value) {
        client.create_path::<Value>(path, &object, &WriteParams::default()).await.unwrap();
    }

    fn pod(name: &str, claims: &[&str]) -> Arc<Pod> {
        let volumes: Vec<Value> =
            claims.iter().map(|n| json!({"name": n, "persistentVolumeClaim": {"claimName": n}})).collect();
        let pod = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"containers": [], "volumes": volumes}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// Claims a, b and c have volumes of a driver of which node n takes two; d gets one; e's is of another driver.
    async fn drivers() -> (Drivers, Informers, Client) {
        let client = Fake::new(Clock::fake(Timestamp::UNIX_EPOCH)).client();
        let class =
            json!({"metadata": {"name": "fast"}, "provisioner": "x.io", "volumeBindingMode": "WaitForFirstConsumer"});
        create(&client, "/apis/storage.k8s.io/v1/storageclasses", class).await;
        for (name, volume, driver) in
            [("a", "va", "x.io"), ("b", "vb", "x.io"), ("c", "vc", "x.io"), ("d", "", ""), ("e", "ve", "y.io")]
        {
            let claim = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"volumeName": volume,
                "storageClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}}});
            create(&client, "/api/v1/namespaces/d/persistentvolumeclaims", claim).await;
            if !volume.is_empty() {
                let volume =
                    json!({"metadata": {"name": volume}, "spec": {"csi": {"driver": driver, "volumeHandle": name}}});
                create(&client, "/api/v1/persistentvolumes", volume).await;
            }
        }
        let node =
            json!({"metadata": {"name": "n"}, "spec": {"drivers": [{"name": "x.io", "allocatable": {"count": 2}}]}});
        create(&client, "/apis/storage.k8s.io/v1/csinodes", node).await;
        let attachment = json!({"metadata": {"name": "att"}, "spec": {"attacher": "x.io", "nodeName": "n",
            "source": {"persistentVolumeName": "va"}}});
        create(&client, "/apis/storage.k8s.io/v1/volumeattachments", attachment).await;
        let informers = Informers::new(client.clone());
        let drivers = Drivers::new(&informers);
        informers.synced().await;
        (drivers, informers, client)
    }

    #[tokio::test]
    async fn a_node_takes_so_many_volumes() {
        let (drivers, _informers, _) = drivers().await;
        for (name, there, new, expected) in [
            ("one more", &[][..], &["b"][..], false),
            ("two more", &[], &["b", "c"], true),
            ("attached already", &[], &["a", "b"], false),
            ("full", &["b"], &["c"], true),
            ("full, but the same", &["b"], &["b"], false),
            ("full, for one that is to be made", &["b"], &["d"], true),
            ("another driver's", &["b"], &["e"], false),
            ("none", &["b"], &[], false),
        ] {
            let (resident, wanted) = (pod("there", there), drivers.counted(&pod("new", new)));
            assert_eq!(drivers.exceeds(&wanted, "n", [&resident].into_iter()), expected, "{name}");
            assert!(!drivers.exceeds(&wanted, "elsewhere", [&resident].into_iter()), "{name}");
        }
    }

    #[tokio::test]
    async fn a_class_has_room_for_some_nodes() {
        let (drivers, _informers, client) = drivers().await;
        let class = drivers.classes.get(&Key::cluster("fast")).unwrap();
        let claim = drivers.claims.get(&Key::new("d", "d")).unwrap();
        assert!(drivers.room(&claim, &class).is_none(), "the driver is not known");
        let driver = json!({"metadata": {"name": "x.io"}, "spec": {"storageCapacity": true}});
        let made: Driver =
            client.create_path("/apis/storage.k8s.io/v1/csidrivers", &driver, &WriteParams::default()).await.unwrap();
        drivers.drivers.reached(made.revision()).await;
        assert_eq!(drivers.room(&claim, &class).map(|r| r.len()), Some(0));
        let mut last = made.revision();
        for (name, class, zone, capacity, most) in [
            ("large", "fast", "a", "9Gi", None),
            ("small", "fast", "b", "1Gi", None),
            ("in-pieces", "fast", "c", "9Gi", Some("1Gi")),
            ("other", "slow", "d", "9Gi", None),
        ] {
            let capacity = json!({"metadata": {"name": name, "namespace": "d"}, "storageClassName": class,
                "capacity": capacity, "maximumVolumeSize": most, "nodeTopology": {"matchLabels": {"zone": zone}}});
            let path = "/apis/storage.k8s.io/v1/namespaces/d/csistoragecapacities";
            last = client.create_path::<Capacity>(path, &capacity, &WriteParams::default()).await.unwrap().revision();
        }
        drivers.capacities.reached(last).await;
        let room = drivers.room(&claim, &class).unwrap();
        let has = |zone: &str| {
            let labels: BTreeMap<String, String> = [("zone".to_owned(), zone.to_owned())].into();
            room.iter().any(|s| s.matches(&labels))
        };
        assert_eq!(["a", "b", "c", "d"].map(has), [true, false, false, false]);
    }
}
