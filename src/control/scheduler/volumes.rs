//! Storage, as far as it decides where pods go: which claims of a pod are bound, which nodes reach its volumes, which volumes its
//! other claims get when it comes to a node, and that these are bound before it does.
//!
//! Deciding is pure over what [`Storage::claims_of`] has gathered. What was decided and is not in the caches yet is kept in
//! [`Storage`], so that the next pod does not choose the same volume.
//!
//! Source: `pkg/scheduler/framework/plugins/volumebinding/{volume_binding,binder}.go`,
//! `pkg/scheduler/framework/plugins/volumerestrictions/volume_restrictions.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::storage::Volume;
use client::{Cache, Client, Error, Informers, Key, Object as _, Patch, Selector};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::StorageClass;
use parking_lot::Mutex;
use serde_json::json;
use types::selector::LabelSelector;

use super::limits::{Counted, Drivers, NO_ROOM, TOO_MANY};
use crate::controllers::volume_binder::claim::claimed;
use crate::pods;
use crate::storage::{self, POD_BY_CLAIM, Place, SELECTED_NODE};

/// How long a pod waits for its claims once it has a node. Source: `VolumeBindingArgs` `bindTimeoutSeconds`.
const BIND_SECONDS_MAX: u64 = 600;

const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const AFFINITY: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const LOST: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const ONE_POD: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
                       another pod";

/// The claims of one pod, as they are now.
#[derive(Default)]
pub struct Claims {
    /// With their volumes; `None`: the volume is not there.
    bound: Vec<Option<Arc<Volume>>>,
    /// Bound when the pod has a node: the smallest first.
    delayed: Vec<Delayed>,
    /// Volumes that may be chosen, and those that others have chosen.
    volumes: Vec<Arc<Volume>>,
    taken: BTreeSet<String>,
    /// A claim that only one pod may use is another pod's.
    is_taken: bool,
    /// Its volumes as nodes count them, and whom to ask; `None`: no node does.
    counted: Option<(Vec<Counted>, Arc<Drivers>)>,
}

struct Delayed {
    claim: Arc<PersistentVolumeClaim>,
    class: Option<Arc<StorageClass>>,
    /// The node for which it is provisioned already.
    node: Option<String>,
    /// Where its class has room for it; `None`: wherever.
    room: Option<Vec<LabelSelector>>,
}

/// What becomes of the claims of a pod that comes to a node.
#[derive(Default)]
pub struct Choice {
    pub bind: Vec<(Arc<PersistentVolumeClaim>, Arc<Volume>)>,
    /// To be provisioned for that node.
    pub provision: Vec<Arc<PersistentVolumeClaim>>,
}

impl Choice {
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }
}

impl Claims {
    /// Whether another pod has what only one may use: no node helps, until that pod goes.
    pub fn is_restricted(&self) -> Option<&'static str> {
        self.is_taken.then_some(ONE_POD)
    }

    /// Whether a node with these pods takes no more volumes: until some go from there.
    pub fn is_too_many<'a>(&self, node: &str, pods: impl Iterator<Item = &'a Arc<Pod>>) -> Option<&'static str> {
        let (counted, drivers) = self.counted.as_ref()?;
        drivers.exceeds(counted, node, pods).then_some(TOO_MANY)
    }

    /// What the pod's claims get on a node.
    ///
    /// # Errors
    /// Why it cannot go there.
    pub fn choose(&self, node: &str, labels: &BTreeMap<String, String>) -> Result<Choice, &'static str> {
        if self.bound.iter().any(Option::is_none) {
            return Err(LOST);
        }
        if !self.bound.iter().flatten().all(|v| storage::reaches(labels, v)) {
            return Err(AFFINITY);
        }
        let (mut choice, mut taken) = (Choice::default(), self.taken.clone());
        for delayed in &self.delayed {
            let found = match &delayed.node {
                Some(chosen) if chosen != node => return Err(NO_VOLUME),
                Some(_) => None,
                None => storage::find_volume(&delayed.claim, &self.volumes, Place::Node(labels), &taken),
            };
            match found {
                Some(volume) => {
                    taken.insert(volume.name().to_owned());
                    choice.bind.push((Arc::clone(&delayed.claim), Arc::clone(volume)));
                }
                None if delayed.class.as_ref().is_some_and(|c| provisions(c, labels)) => {
                    if delayed.room.as_ref().is_some_and(|room| !room.iter().any(|at| at.matches(labels))) {
                        return Err(NO_ROOM);
                    }
                    choice.provision.push(Arc::clone(&delayed.claim));
                }
                None => return Err(NO_VOLUME),
            }
        }
        Ok(choice)
    }
}

/// Whether a class makes volumes for a node with these labels.
fn provisions(class: &StorageClass, labels: &BTreeMap<String, String>) -> bool {
    let holds = |term: &TopologySelectorTerm| {
        let wanted = term.match_label_expressions.iter().flatten();
        wanted.into_iter().all(|e| labels.get(&e.key).is_some_and(|v| e.values.contains(v)))
    };
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    class.provisioner != NO_PROVISIONER && (terms.is_empty() || terms.iter().any(holds))
}

/// Decided, but not in the caches yet.
#[derive(Default)]
struct Assumed {
    /// Volumes chosen, by the claim that gets them.
    volumes: BTreeMap<String, Key>,
    /// Nodes for which claims are provisioned.
    nodes: BTreeMap<Key, String>,
}

pub struct Storage {
    claims: Arc<Cache<PersistentVolumeClaim>>,
    volumes: Arc<Cache<Volume>>,
    classes: Arc<Cache<StorageClass>>,
    pods: Arc<Cache<Pod>>,
    pub drivers: Arc<Drivers>,
    assumed: Mutex<Assumed>,
}

impl Storage {
    pub fn new(informers: &Informers) -> Self {
        let pods = informers.cache::<Pod>(Selector::all());
        pods.add_index(POD_BY_CLAIM, |p| storage::claim_keys(p).map(|key| key.to_string()).collect());
        Self {
            claims: informers.cache(Selector::all()),
            volumes: informers.cache(Selector::all()),
            classes: informers.cache(Selector::all()),
            pods,
            drivers: Arc::new(Drivers::new(informers)),
            assumed: Mutex::default(),
        }
    }

    pub async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.drivers.synced().await;
    }

    /// Calls `f` when something changes that may let pods go somewhere; with the claim that changed, if it is one.
    pub fn on_change(&self, f: impl Fn(Option<&Key>) + Send + Sync + 'static) {
        let f = Arc::new(f);
        let tell = Arc::clone(&f);
        self.claims.on_change(Box::new(move |_, new| new.into_iter().for_each(|c| tell(Some(&c.key())))));
        let tell = Arc::clone(&f);
        self.volumes.on_change(Box::new(move |_, new| new.into_iter().for_each(|_| tell(None))));
        self.classes.on_change(Box::new(move |_, new| new.into_iter().for_each(|_| f(None))));
    }

    /// The claims of a pod. `assumed`: whether a pod without a node in the API has one by a decision that is being carried out.
    ///
    /// # Errors
    /// Why it can go nowhere.
    pub fn claims_of(&self, pod: &Pod, assumed: &dyn Fn(&Key) -> bool) -> Result<Claims, String> {
        let mut all = Claims::default();
        let decided = self.assumed.lock();
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let Some((name, own)) = storage::claim_of(pod, volume) else { continue };
            let key = Key::new(pod.namespace(), &name);
            let Some(claim) = self.claims.get(&key) else {
                return Err(if own {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                } else {
                    format!("persistentvolumeclaim \"{name}\" not found")
                });
            };
            if storage::phase(&claim) == "Lost" {
                let volume = storage::volume_name(&claim);
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if claim.is_terminating() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if own {
                storage::is_for_pod(pod, &claim)?;
            }
            all.is_taken |= self.is_anothers(pod, &claim, &key, assumed);
            if storage::is_fully_bound(&claim) {
                all.bound.push(self.volumes.get(&Key::cluster(storage::volume_name(&claim))));
                continue;
            }
            let class = self.classes.get(&Key::cluster(storage::class_of(&claim)));
            if !storage::waits_for_consumer(class.as_deref()) || !storage::volume_name(&claim).is_empty() {
                return Err("pod has unbound immediate PersistentVolumeClaims".into());
            }
            let node = decided.nodes.get(&key).cloned();
            let node = node.or_else(|| claim.annotation(SELECTED_NODE).map(str::to_owned));
            let room = class.as_ref().and_then(|class| self.drivers.room(&claim, class));
            all.delayed.push(Delayed { claim, class, node, room });
        }
        let counted = self.drivers.counted(pod);
        if !counted.is_empty() {
            all.counted = Some((counted, Arc::clone(&self.drivers)));
        }
        if !all.delayed.is_empty() {
            all.delayed.sort_by_cached_key(|d| storage::requested(&d.claim));
            all.volumes = self.volumes.all();
            let own: BTreeSet<Key> = all.delayed.iter().map(|d| d.claim.key()).collect();
            let others = decided.volumes.iter().filter(|(_, claim)| !own.contains(claim));
            all.taken = others.map(|(volume, _)| volume.clone()).collect();
        }
        Ok(all)
    }

    /// Whether a claim that only one pod may use is used by another one.
    fn is_anothers(&self, pod: &Pod, claim: &PersistentVolumeClaim, key: &Key, assumed: &dyn Fn(&Key) -> bool) -> bool {
        let modes = claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten());
        let uses = |p: &Pod| {
            p.uid() != pod.uid() && !pods::is_finished(p) && (!pods::node_name(p).is_empty() || assumed(&p.key()))
        };
        modes.into_iter().any(|m| m == "ReadWriteOncePod")
            && self.pods.indexed(POD_BY_CLAIM, &key.to_string()).iter().any(|p| uses(p))
    }

    /// Keeps what was decided from others until [`Storage::settled`].
    pub fn assume(&self, choice: &Choice, node: &str) {
        let mut assumed = self.assumed.lock();
        assumed.volumes.extend(choice.bind.iter().map(|(c, v)| (v.name().to_owned(), c.key())));
        assumed.nodes.extend(choice.provision.iter().map(|c| (c.key(), node.to_owned())));
    }

    /// What was decided shows in the caches, or has failed.
    pub fn settled(&self, choice: &Choice) {
        let mut assumed = self.assumed.lock();
        choice.bind.iter().for_each(|(_, v)| drop(assumed.volumes.remove(v.name())));
        choice.provision.iter().for_each(|c| drop(assumed.nodes.remove(&c.key())));
    }

    /// Writes what was decided and waits until every claim is bound.
    ///
    /// # Errors
    /// The text of a condition. What was written stays: it holds for the next try too.
    pub async fn bind(&self, client: &Client, choice: &Choice, node: &str) -> Result<(), String> {
        let written = self.write(client, choice, node).await;
        self.settled(choice);
        written.map_err(|e| e.to_string())?;
        let keys: Vec<Key> =
            choice.bind.iter().map(|(c, _)| c.key()).chain(choice.provision.iter().map(|c| c.key())).collect();
        let provisioned = choice.bind.len();
        let mut outcome = Ok(());
        let claims = Arc::clone(&self.claims);
        let bound = self.claims.until(|| {
            for (i, key) in keys.iter().enumerate() {
                let Some(claim) = claims.get(key) else {
                    outcome = Err(format!("persistentvolumeclaim \"{}\" not found", key.name));
                    return true;
                };
                if storage::is_fully_bound(&claim) && storage::phase(&claim) == "Bound" {
                    continue;
                }
                if i >= provisioned && claim.annotation(SELECTED_NODE) != Some(node) {
                    outcome = Err(format!("provisioning failed for PVC \"{}\"", key.name));
                    return true;
                }
                return false;
            }
            outcome = Ok(());
            true
        });
        if tokio::time::timeout(Duration::from_secs(BIND_SECONDS_MAX), bound).await.is_err() {
            return Err("binding volumes: context deadline exceeded".into());
        }
        outcome.map_err(|why| format!("binding volumes: {why}"))
    }

    async fn write(&self, client: &Client, choice: &Choice, node: &str) -> Result<(), Error> {
        for (claim, volume) in &choice.bind {
            let patch = claimed(volume, claim);
            let volume = client.patch::<Volume>("", volume.name(), Patch::Merge(&patch)).await?;
            self.volumes.reached(volume.revision()).await;
        }
        for claim in &choice.provision {
            let patch = json!({"metadata": {"resourceVersion": claim.metadata.resource_version,
                "annotations": {SELECTED_NODE: node}}});
            let written =
                client.patch::<PersistentVolumeClaim>(claim.namespace(), claim.name(), Patch::Merge(&patch)).await?;
            self.claims.reached(written.revision()).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use client::fake::Fake;
    use client::{Clock, WriteParams};
    use jiff::Timestamp;
    use serde_json::Value;

    use super::*;

    fn claim(name: &str, class: &str, size: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": class, "resources": {"requests": {"storage": size}}}, "status": {"phase": "Pending"}})
    }

    fn volume(name: &str, size: &str, zone: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": size}, "storageClassName": "static", "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}}}})
    }

    fn bound(mut claim: Value, volume: &str) -> Value {
        claim["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
        claim["spec"]["volumeName"] = volume.into();
        claim["status"]["phase"] = "Bound".into();
        claim
    }

    fn pod(names: &[&str]) -> Pod {
        let volumes: Vec<Value> =
            names.iter().map(|n| json!({"name": n, "persistentVolumeClaim": {"claimName": n}})).collect();
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"containers": [], "volumes": volumes}}))
        .unwrap()
    }

    /// The caches are filled as long as the informers live.
    async fn storage() -> (Client, Storage, Informers) {
        let client = Fake::new(Clock::fake(Timestamp::UNIX_EPOCH)).client();
        let create = async |path: &str, object: Value| {
            client.create_path::<Value>(path, &object, &WriteParams::default()).await.unwrap();
        };
        let classes = "/apis/storage.k8s.io/v1/storageclasses";
        for (name, mode, provisioner) in [
            ("static", "WaitForFirstConsumer", NO_PROVISIONER),
            ("dynamic", "WaitForFirstConsumer", "x.io/y"),
            ("now", "Immediate", "x.io/y"),
        ] {
            let class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
            create(classes, class).await;
        }
        let mut zoned = json!({"metadata": {"name": "zoned"}, "provisioner": "x.io/y",
            "volumeBindingMode": "WaitForFirstConsumer"});
        zoned["allowedTopologies"] = json!([{"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]}]);
        create(classes, zoned).await;
        for (name, size, zone) in [("small-a", "1Gi", "a"), ("large-a", "9Gi", "a"), ("small-b", "1Gi", "b")] {
            create("/api/v1/persistentvolumes", volume(name, size, zone)).await;
        }
        let claims = "/api/v1/namespaces/d/persistentvolumeclaims";
        let mut alone = bound(claim("alone", "static", "1Gi"), "small-a");
        alone["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
        let mut chosen = claim("chosen", "dynamic", "1Gi");
        chosen["metadata"]["annotations"] = json!({SELECTED_NODE: "b1"});
        let mut lost = bound(claim("lost", "static", "1Gi"), "gone");
        lost["status"]["phase"] = "Lost".into();
        for c in [
            claim("one", "static", "1Gi"),
            claim("two", "static", "1Gi"),
            claim("huge", "static", "99Gi"),
            claim("made", "dynamic", "1Gi"),
            claim("zoned", "zoned", "1Gi"),
            claim("now", "now", "1Gi"),
            bound(claim("mine", "static", "1Gi"), "small-a"),
            bound(claim("orphan", "static", "1Gi"), "gone"),
            alone,
            chosen,
            lost,
        ] {
            create(claims, c).await;
        }
        let informers = Informers::new(client.clone());
        let storage = Storage::new(&informers);
        storage.synced().await;
        storage.pods.synced().await;
        (client, storage, informers)
    }

    /// What the pod's claims get on a node in zone a and on one in zone b.
    fn shown(storage: &Storage, names: &[&str]) -> String {
        let claims = match storage.claims_of(&pod(names), &|_| false) {
            Ok(claims) => claims,
            Err(why) => return why,
        };
        let on = |node: &str, zone: &str| match claims.choose(node, &[("zone".to_owned(), zone.to_owned())].into()) {
            Err(why) => why.to_owned(),
            Ok(choice) => {
                let bind = choice.bind.iter().map(|(c, v)| format!("{}={}", c.name(), v.name()));
                bind.chain(choice.provision.iter().map(|c| format!("{}+", c.name()))).collect::<Vec<_>>().join(" ")
            }
        };
        format!("{} | {}", on("a1", "a"), on("b1", "b"))
    }

    #[tokio::test]
    async fn nodes_are_judged_by_their_volumes() {
        let (_, storage, _informers) = storage().await;
        let (no, away) = (NO_VOLUME, AFFINITY);
        for (names, expected) in [
            (&["mine"][..], format!(" | {away}")),
            (&["one"], "one=small-a | one=small-b".to_owned()),
            // A pod's claims do not get the same volume; nor does one that is bound to another.
            (&["one", "two"], format!("one=small-a two=large-a | {no}")),
            (&["huge"], format!("{no} | {no}")),
            (&["made"], "made+ | made+".to_owned()),
            (&["made", "one"], "one=small-a made+ | one=small-b made+".to_owned()),
            (&["zoned"], format!("zoned+ | {no}")),
            (&["chosen"], format!("{no} | chosen+")),
            (&["orphan"], format!("{LOST} | {LOST}")),
            (&["now"], "pod has unbound immediate PersistentVolumeClaims".to_owned()),
            (&["none"], "persistentvolumeclaim \"none\" not found".to_owned()),
            (&["lost"], "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"gone\"".to_owned()),
        ] {
            let said = shown(&storage, names);
            assert_eq!(said, expected, "{names:?}");
        }
        // What was chosen for another claim is not chosen again, until that is settled.
        let claims = storage.claims_of(&pod(&["one"]), &|_| false).unwrap();
        let choice = claims.choose("b1", &[("zone".to_owned(), "b".to_owned())].into()).unwrap();
        storage.assume(&choice, "b1");
        assert_eq!(shown(&storage, &["two"]), format!("two=small-a | {no}"));
        storage.settled(&choice);
        assert_eq!(shown(&storage, &["two"]), "two=small-a | two=small-b");
    }

    #[tokio::test]
    async fn what_only_one_pod_may_use_is_kept_from_others() {
        let (client, storage, _informers) = storage().await;
        let restricted = |assumed: bool| storage.claims_of(&pod(&["alone"]), &|_| assumed).unwrap().is_restricted();
        assert_eq!(restricted(false), None);
        let mut other = pod(&["alone"]);
        other.metadata.name = Some("other".into());
        let other = client.create(&other).await.unwrap();
        storage.pods.reached(other.revision()).await;
        assert_eq!((restricted(false), restricted(true)), (None, Some(ONE_POD)), "it has no node yet, or it has");
        let placed = json!({"spec": {"nodeName": "a1"}});
        let other: Pod = client.patch("d", "other", Patch::Merge(&placed)).await.unwrap();
        storage.pods.reached(other.revision()).await;
        assert_eq!(restricted(false), Some(ONE_POD));
    }
}
