//! The simulated cluster: the real API server over a store in memory, the real controllers and scheduler, nodes that pretend.
//! Everything runs on one thread, on a clock that only moves when there is nothing to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Identity, Version};
use client::{Client, Clock, Informers, Recorder};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::faults::Faults;
use crate::judge::Judge;
use crate::kubelet::{self, Habits, Kubelet};
use crate::line::Line;
use crate::store::MemoryStore;

/// Of the simulated world.
const BEGINS: i64 = 1_767_225_600;
/// Silence after which a node is lost.
const NODE_GRACE_SECONDS: u32 = 40;
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// One life of the controllers and the scheduler.
struct Control {
    up: watch::Sender<bool>,
    handle: control::Handle,
    stop: CancellationToken,
    scheduler: JoinHandle<()>,
}

/// One life of a node.
struct Node {
    up: watch::Sender<bool>,
    kubelet: JoinHandle<()>,
}

pub struct World {
    pub clock: Clock,
    pub judge: Judge,
    pub faults: Faults,
    pub store: MemoryStore,
    pub habits: Arc<Mutex<Habits>>,
    /// Where nothing goes wrong.
    pub admin: Client,
    api: ApiServer,
    chance: Chance,
    control: Option<Control>,
    nodes: BTreeMap<String, Node>,
    /// Of the one who drains nodes and of the admin: always up.
    always: watch::Sender<bool>,
}

impl World {
    /// A cluster without nodes, whose controllers run.
    pub async fn begin(seed: u64, lag: SignedDuration) -> Self {
        let clock = Clock::fake(Timestamp::from_second(BEGINS).expect("a time"));
        let judge = Judge::new(clock, lag);
        let witness = judge.clone();
        let store = MemoryStore::new(Box::new(move |event| witness.witness(event)));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let config = apiserver::Config {
            clock: Arc::new(move || clock.now()),
            version: Version {
                git_version: "v1.36.2+kedge0.1.0".into(),
                git_commit: "0000000".into(),
                build_date: "2026-01-01T00:00:00Z".into(),
            },
            service_account_issuer: ISSUER.into(),
            api_audiences: vec![ISSUER.into()],
            service_account_key_pem: key.serialize_pem(),
            authentication: apiserver::auth::Settings::default(),
            audit: None,
            dialer: None,
            front_proxy: None,
            service_cidrs: vec!["10.43.0.0/16".parse().expect("a range")],
            node_ports: (30000, 32767),
            advertise: Some("192.0.2.1:6443".parse().expect("an address")),
        };
        let api = ApiServer::new(config, Arc::new(store.clone())).await.expect("the API server starts");
        let faults = Faults::new(Chance::new(seed, "faults"));
        let always = watch::Sender::new(true);
        let admin = Line {
            api: api.clone(),
            name: "user".into(),
            identity: Arc::new(Identity::admin()),
            faults: None,
            up: always.subscribe(),
        };
        let mut world = Self {
            clock,
            judge,
            faults,
            store,
            habits: Arc::default(),
            admin: admin.client(),
            api,
            chance: Chance::new(seed, "world"),
            control: None,
            nodes: BTreeMap::new(),
            always,
        };
        world.start_control();
        world
    }

    /// A client that is called `name` and may do anything; things go wrong for it.
    pub fn client(&self, name: &str) -> Client {
        self.line(name, Identity::admin(), &self.always).client()
    }

    fn line(&self, name: &str, identity: Identity, up: &watch::Sender<bool>) -> Line {
        Line {
            api: self.api.clone(),
            name: name.into(),
            identity: Arc::new(identity),
            faults: Some(self.faults.clone()),
            up: up.subscribe(),
        }
    }

    pub fn start_control(&mut self) {
        let up = watch::Sender::new(true);
        let any = self.line("", Identity::admin(), &up);
        let line = move |name: &str, identity| Line { name: name.into(), identity: Arc::new(identity), ..any.clone() };
        let scheduler = line("scheduler", Identity::component("system:kube-scheduler")).client();
        let clients: control::Clients = Arc::new(move |name: &str| {
            let identity = match name {
                control::INFORMERS | control::MANAGER => Identity::component("system:kube-controller-manager"),
                controller => Identity::service_account("kube-system", controller),
            };
            line(name, identity).client()
        });
        let config = control::Config {
            root_ca: "PEM".into(),
            advertise: vec!["192.0.2.1".parse().expect("an address")],
            node_grace_seconds: NODE_GRACE_SECONDS,
            local_path: false,
            clock: self.clock,
            ..control::Config::default()
        };
        let handle = control::start(clients, config);
        let recorder = Recorder::new(scheduler.clone(), "default-scheduler", "", self.clock);
        let (stop, own) = (CancellationToken::new(), Informers::new(scheduler.clone()));
        let how = control::scheduler::Configuration::default();
        let scheduler = tokio::spawn(control::scheduler::run(scheduler, own, recorder, self.clock, how, stop.clone()));
        self.control = Some(Control { up, handle, stop, scheduler });
    }

    /// Ends the controllers and the scheduler, properly or as if their machine had lost its power.
    pub async fn end_control(&mut self, properly: bool) {
        let Some(control) = self.control.take() else { return };
        if !properly {
            control.up.send_replace(false);
        }
        control.stop.cancel();
        let end = async move {
            control.handle.stop().await;
            let _ = control.scheduler.await;
            drop(control.up);
        };
        if properly {
            end.await;
        } else {
            // Nothing that it still does reaches anybody.
            tokio::spawn(end);
        }
    }

    pub async fn register(&mut self, name: &str) {
        let now = types::time::rfc3339(self.clock.now());
        self.post("/api/v1/nodes", &kubelet::registration(name, &now)).await;
        self.post("/apis/resource.k8s.io/v1/resourceslices", &crate::workloads::slice(name)).await;
        self.boot(name);
    }

    /// Starts the node's agent, anew if it runs: what ran on the node is lost.
    pub fn boot(&mut self, name: &str) {
        if let Some(before) = self.nodes.remove(name) {
            before.kubelet.abort();
        }
        let up = watch::Sender::new(true);
        let kubelet = Kubelet {
            client: self.line(&format!("kubelet/{name}"), Identity::node(name), &up).client(),
            clock: self.clock,
            node: name.to_owned(),
            habits: Arc::clone(&self.habits),
            chance: Chance::new(self.chance.draw(), name),
        };
        self.nodes.insert(name.to_owned(), Node { up, kubelet: tokio::spawn(kubelet.run()) });
    }

    /// The node's cable, to be pulled and put back.
    pub fn cable(&self, name: &str) -> Option<watch::Sender<bool>> {
        self.nodes.get(name).map(|node| node.up.clone())
    }

    pub fn switch_off(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name) {
            node.kubelet.abort();
        }
    }

    pub fn nodes(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    pub async fn post(&self, collection: &str, object: &Value) {
        let created: client::Result<Value> = self.admin.create_path(collection, object, &Default::default()).await;
        if let Err(error) = created {
            panic!("{collection}: {error}: {object}");
        }
    }

    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Ends everything.
    pub async fn end(mut self) {
        self.end_control(true).await;
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.kubelet.abort();
        }
        self.api.stop();
    }
}
