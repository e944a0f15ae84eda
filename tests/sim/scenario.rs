//! A run: a cluster with workloads, people who change them, faults for a while, healing, rest.

use std::time::Duration;

use client::{Client, DeleteParams, Patch, Propagation};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::chance::Chance;
use crate::drain;
use crate::faults::Rates;
use crate::invariants::quiescence;
use crate::kubelet::Habits;
use crate::profile::Profile;
use crate::workloads::{self, DAEMON_SET, DEPLOYMENTS, NAMESPACE, STATEFUL_SETS, collection};
use crate::world::World;

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
/// Simulated time for everything to become as it is wanted once faults have ended: Jobs wait up to ten minutes between attempts.
const SETTLE_MAX: Duration = Duration::from_secs(3600);
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What is due later comes within this: back-off, progress deadlines, events that are written late.
const CALM_DOWN: Duration = Duration::from_secs(660);
const QUIET: Duration = Duration::from_secs(300);

/// How a run went.
#[derive(Debug)]
pub struct Report {
    /// What did not hold; empty: all is well.
    pub broken: Vec<String>,
    /// What was done, in one number.
    pub trace: u64,
    pub writes: u64,
    pub faults: u64,
    /// The last writes, when something did not hold.
    pub lately: Vec<String>,
}

struct Scenario {
    world: World,
    admin: Client,
    profile: Profile,
    chance: Chance,
    /// What others do meanwhile.
    beside: JoinSet<()>,
    jobs: u64,
    images: u64,
    /// What nodes are called next.
    node: usize,
}

pub async fn play(seed: u64) -> Report {
    let profile = Profile::of(seed);
    let world = World::begin(seed, profile.lag()).await;
    let admin = world.admin.clone();
    let chance = Chance::new(seed, "scenario");
    let mut scenario =
        Scenario { world, admin, profile, chance, beside: JoinSet::new(), jobs: 0, images: 0, node: NODES.len() };
    let broken = scenario.run().await.err().unwrap_or_default();
    let judge = &scenario.world.judge;
    let lately = if broken.is_empty() { Vec::new() } else { judge.lately() };
    let (trace, writes, faults) = (judge.trace(), judge.writes(), scenario.world.faults.happened());
    scenario.beside.abort_all();
    scenario.world.end().await;
    Report { broken, trace, writes, faults, lately }
}

impl Scenario {
    async fn run(&mut self) -> Result<(), Vec<String>> {
        self.deploy().await;
        self.settle("at the beginning").await?;
        self.disturb().await?;
        self.heal().await;
        self.settle("after the faults").await?;
        self.rest().await
    }

    async fn deploy(&mut self) {
        self.world.post("/api/v1/namespaces", &json!({"metadata": {"name": NAMESPACE}})).await;
        for node in NODES {
            self.world.register(node).await;
        }
        self.world.post("/apis/resource.k8s.io/v1/deviceclasses", &workloads::device_class()).await;
        self.world.post(&collection("resource.k8s.io", "resourceclaimtemplates"), &workloads::claim_template()).await;
        for name in DEPLOYMENTS {
            self.world.post(&collection("apps", "deployments"), &workloads::deployment(name, &mut self.chance)).await;
        }
        for name in STATEFUL_SETS {
            self.world
                .post(&collection("apps", "statefulsets"), &workloads::stateful_set(name, &mut self.chance))
                .await;
        }
        self.world.post(&collection("apps", "daemonsets"), &workloads::daemon_set(DAEMON_SET)).await;
        for name in ["web", "db"] {
            self.world.post(&collection("", "services"), &workloads::service(name)).await;
            let budget = workloads::budget(name, &mut self.chance);
            self.world.post(&collection("policy", "poddisruptionbudgets"), &budget).await;
        }
        self.new_job().await;
    }

    async fn disturb(&mut self) -> Result<(), Vec<String>> {
        let rates = self.profile.rates(&mut self.chance);
        self.world.judge.note(format!("disturb {:?} {rates:?}", self.profile));
        self.world.faults.set(rates);
        if self.profile.crashes {
            self.world.habits.lock().crashes = 100;
        }
        for _ in 0..self.chance.between(12, 24) {
            self.act().await;
            let wait = self.chance.millis(500, 45_000);
            self.world.pass(wait).await;
            self.so_far()?;
        }
        Ok(())
    }

    fn so_far(&self) -> Result<(), Vec<String>> {
        let broken = self.world.judge.violations();
        if broken.is_empty() { Ok(()) } else { Err(broken) }
    }

    async fn act(&mut self) {
        let Profile { watches, crashes, nodes, restarts, .. } = self.profile;
        match self.chance.between(0, 19) {
            0..=2 => self.scale().await,
            3..=6 => self.update().await,
            7 => self.new_job().await,
            8 => self.change_job().await,
            9 => self.replace().await,
            10 => self.partition().await,
            11 => self.quota().await,
            12 | 13 if nodes => self.drain(),
            14 if nodes => self.cut_off(),
            15 if nodes => self.reboot(),
            16 if nodes => self.lose().await,
            17 if restarts => self.restart().await,
            18 if watches => self.world.store.compact(),
            _ if crashes => self.delete_pod().await,
            _ => self.update().await,
        }
    }

    /// A change by a person, of something that may be gone.
    async fn patch(&self, path: &str, patch: Value) {
        self.world.judge.note(format!("patch {path} {patch}"));
        match self.admin.patch_path::<Value>(path, Patch::Merge(&patch), &Default::default()).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => panic!("{path}: {error}"),
        }
    }

    async fn delete(&self, path: &str, propagation: Propagation) {
        self.world.judge.note(format!("delete {path} {propagation:?}"));
        match self.admin.delete_path(path, &DeleteParams::default().propagation(propagation)).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => panic!("{path}: {error}"),
        }
    }

    fn workload(&mut self) -> String {
        let all = DEPLOYMENTS.map(|d| ("deployments", d)).into_iter().chain(STATEFUL_SETS.map(|s| ("statefulsets", s)));
        let all: Vec<(&str, &str)> = all.collect();
        let (plural, name) = *self.chance.pick(&all);
        format!("{}/{name}", collection("apps", plural))
    }

    async fn scale(&mut self) {
        let (path, size) = (self.workload(), self.chance.between(0, 5));
        self.patch(&path, json!({"spec": {"replicas": size}})).await;
    }

    async fn update(&mut self) {
        let mut path = self.workload();
        if self.chance.permille(100) {
            path = format!("{}/{DAEMON_SET}", collection("apps", "daemonsets"));
        }
        self.images += 1;
        // Back to what was, forward, or to what never becomes ready.
        let image = match self.chance.between(0, 9) {
            0 | 1 => format!("v{}", self.chance.between(0, self.images)),
            // A StatefulSet would wait for it for ever, as upstream's does ("Forced rollback").
            2 if !path.contains("statefulsets") => "broken".to_owned(),
            _ => format!("v{}", self.images),
        };
        self.set_image(&path, &image).await;
    }

    async fn set_image(&self, path: &str, image: &str) {
        let found: client::Result<Value> = self.admin.get_path(path).await;
        let Ok(found) = found else { return };
        let mut containers = found["spec"]["template"]["spec"]["containers"].clone();
        containers[0]["image"] = image.into();
        self.patch(path, json!({"spec": {"template": {"spec": {"containers": containers}}}})).await;
    }

    async fn new_job(&mut self) {
        self.jobs += 1;
        let job = workloads::job(&format!("job-{}", self.jobs), &mut self.chance);
        self.world.post(&collection("batch", "jobs"), &job).await;
    }

    async fn change_job(&mut self) {
        let path = format!("{}/job-{}", collection("batch", "jobs"), self.chance.between(1, self.jobs));
        let change = match self.chance.between(0, 3) {
            0 => json!({"spec": {"suspend": true}}),
            1 => return self.delete(&path, Propagation::Background).await,
            2 => json!({"spec": {"suspend": false}}),
            _ => json!({"spec": {"parallelism": self.chance.between(0, 4)}}),
        };
        self.patch(&path, change).await;
    }

    /// Deletes a workload and makes it anew.
    async fn replace(&mut self) {
        let path = self.workload();
        let how = *self.chance.pick(&[Propagation::Background, Propagation::Foreground, Propagation::Orphan]);
        self.delete(&path, how).await;
        let wait = self.chance.millis(0, 5000);
        self.world.pass(wait).await;
        self.restore().await;
    }

    /// Makes what is not there.
    async fn restore(&mut self) {
        for name in DEPLOYMENTS {
            let object = workloads::deployment(name, &mut self.chance);
            self.create_absent(&collection("apps", "deployments"), &object).await;
        }
        for name in STATEFUL_SETS {
            let object = workloads::stateful_set(name, &mut self.chance);
            self.create_absent(&collection("apps", "statefulsets"), &object).await;
        }
    }

    async fn create_absent(&self, collection: &str, object: &Value) {
        match self.admin.create_path::<Value>(collection, object, &Default::default()).await {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => {}
            Err(error) => panic!("{collection}: {error}"),
        }
    }

    async fn partition(&mut self) {
        let path = format!("{}/{}", collection("apps", "statefulsets"), self.chance.pick(&STATEFUL_SETS));
        let partition = self.chance.between(0, 3);
        self.patch(&path, json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": partition}}}})).await;
    }

    /// Few pods for a while.
    async fn quota(&mut self) {
        let quotas = collection("", "resourcequotas");
        let quota = workloads::quota(self.chance.between(0, 25));
        self.create_absent(&quotas, &quota).await;
        let (admin, wait) = (self.admin.clone(), self.chance.millis(5000, 60_000));
        self.beside.spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = admin.delete_path(&format!("{quotas}/few"), &DeleteParams::default()).await;
        });
    }

    fn any_node(&mut self) -> String {
        let nodes = self.world.nodes();
        self.chance.pick(&nodes).clone()
    }

    fn drain(&mut self) {
        let node = self.any_node();
        self.world.judge.note(format!("drain {node}"));
        let client = self.world.client(crate::invariants::DRAINS);
        self.beside.spawn(drain::drain(client, node, self.chance.millis(20_000, 120_000)));
    }

    fn cut_off(&mut self) {
        let (node, time) = (self.any_node(), self.chance.millis(5000, 200_000));
        self.world.judge.note(format!("cut off {node}"));
        let Some(cable) = self.world.cable(&node) else { return };
        cable.send_replace(false);
        self.beside.spawn(async move {
            tokio::time::sleep(time).await;
            cable.send_replace(true);
        });
    }

    fn reboot(&mut self) {
        let node = self.any_node();
        self.world.judge.note(format!("reboot {node}"));
        self.world.boot(&node);
    }

    /// A node goes for good, and is replaced.
    async fn lose(&mut self) {
        let node = self.any_node();
        self.world.judge.note(format!("lose {node}"));
        self.world.switch_off(&node);
        let (admin, wait) = (self.admin.clone(), self.chance.millis(0, 120_000));
        self.beside.spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = admin.delete_path(&format!("/api/v1/nodes/{node}"), &DeleteParams::default()).await;
        });
        self.node += 1;
        self.world.register(&format!("n{}", self.node)).await;
    }

    async fn restart(&mut self) {
        let properly = self.chance.permille(300);
        self.world.judge.note(format!("restart, properly: {properly}"));
        self.world.end_control(properly).await;
        let wait = self.chance.millis(0, 60_000);
        self.world.pass(wait).await;
        self.world.start_control();
    }

    async fn delete_pod(&mut self) {
        let chance = &mut self.chance;
        let path = self.world.judge.look(|objects| {
            let pods: Vec<&str> = objects.all("pods").map(crate::objects::name).collect();
            (!pods.is_empty()).then(|| format!("{}/{}", collection("", "pods"), chance.pick(&pods)))
        });
        if let Some(path) = path {
            self.delete(&path, Propagation::Background).await;
        }
    }

    /// Ends the faults, and repairs what people have broken.
    async fn heal(&mut self) {
        while self.beside.join_next().await.is_some() {}
        self.world.judge.note("heal".into());
        self.world.faults.set(Rates::default());
        *self.world.habits.lock() = Habits::default();
        self.restore().await;
        for plural in ["deployments", "statefulsets", "daemonsets"] {
            let all = [&DEPLOYMENTS[..], &STATEFUL_SETS[..], &[DAEMON_SET]].concat();
            for name in all {
                let path = format!("{}/{name}", collection("apps", plural));
                let broken = self
                    .admin
                    .get_path::<Value>(&path)
                    .await
                    .is_ok_and(|o| o["spec"]["template"]["spec"]["containers"][0]["image"] == "broken");
                if broken {
                    self.set_image(&path, "good").await;
                }
            }
        }
        for n in 1..=self.jobs {
            let path = format!("{}/job-{n}", collection("batch", "jobs"));
            self.patch(&path, json!({"spec": {"suspend": false, "parallelism": 2}})).await;
        }
    }

    async fn settle(&mut self, when: &str) -> Result<(), Vec<String>> {
        let mut left = SETTLE_MAX;
        loop {
            self.world.pass(LOOK_EVERY).await;
            self.so_far()?;
            let unsettled = self.world.judge.unsettled();
            if unsettled.is_empty() {
                self.world.judge.note(format!("settled {when}"));
                return Ok(());
            }
            left = left.saturating_sub(LOOK_EVERY);
            if left.is_zero() {
                return Err(unsettled.into_iter().map(|why| format!("{when}: {why}")).collect());
            }
        }
    }

    async fn rest(&mut self) -> Result<(), Vec<String>> {
        self.world.pass(CALM_DOWN).await;
        self.world.judge.begin_rest();
        self.world.pass(QUIET).await;
        self.so_far()?;
        quiescence::judge(&self.world.judge.end_rest()).map_err(|why| vec![why])?;
        let unsettled = self.world.judge.unsettled();
        if unsettled.is_empty() { Ok(()) } else { Err(unsettled) }
    }
}
