//! The agent: registers the node, keeps its status and lease, and gives every pod of this node its worker.
//!
//! ```text
//! pods of this node (watch) ─► reconcile: admit / adopt / tell the worker / let go
//! runtime events ───────────► the worker concerned looks again
//! images that have come ────► every worker looks whether one of its containers waited for it
//! services, their ranges, slices, namespaces (watch) ─► service table, DNS zone
//! ```
//! Nothing here ticks but the lease (2.5 s) and the status heartbeat (5 min).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::object::{Key, Object as _};
use client::{Cache, Client, Clock, Informers, Patch, Recorder, Selector, ServiceRange};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use runtime::{PodInfo, PodState, Runtime};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::admit::admit;
use crate::config::Config;
use crate::csi::Csi;
use crate::csi::folders::Folders;
use crate::host::{Dns, Host, Network};
use crate::images::Images;
use crate::node_object::{self, Facts, Health};
use crate::pod;
use crate::translate::container::log_folder;
use crate::volume::Volumes;
use crate::volume::objects::Changed;
use crate::worker::adopt;
use crate::worker::input::{ExitFacts, Input};
use crate::worker::run::{Handle as Worker, Snapshot, start as start_worker};
use crate::worker::state::State;
use crate::{Error, lease, services};

/// How long an unchanged status is left unsaid. Source: `nodeStatusReportFrequency`.
const STATUS_EVERY: Duration = Duration::from_secs(300);
/// Wait after a failed request at start-up or for a status, doubled up to the second value.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The workers of this node, by pod uid.
#[derive(Clone, Default)]
pub struct Workers(Arc<RwLock<BTreeMap<String, Worker>>>);

impl Workers {
    pub fn get(&self, uid: &str) -> Option<Worker> {
        self.0.read().get(uid).cloned()
    }

    pub fn all(&self) -> Vec<Worker> {
        self.0.read().values().cloned().collect()
    }

    /// The pod of that name; when a namesake is still going, the one that is not.
    pub fn named(&self, namespace: &str, name: &str) -> Option<Worker> {
        let fits = |w: &Worker| {
            let s = w.snapshot.read();
            (pod::namespace(&s.pod) == namespace && pod::name(&s.pod) == name).then(|| pod::deleting(&s.pod))
        };
        let mut found: Vec<(bool, Worker)> = self.all().into_iter().filter_map(|w| fits(&w).map(|d| (d, w))).collect();
        found.sort_by_key(|(deleting, _)| *deleting);
        found.into_iter().next().map(|(_, w)| w)
    }

    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.all().iter().map(|w| w.snapshot.read().clone()).collect()
    }
}

/// What the daemon holds of the node.
#[derive(Clone)]
pub struct Handle {
    pub(crate) workers: Workers,
    ready: watch::Receiver<bool>,
    /// Where the HTTPS server listens, if there is one.
    pub listen: Option<std::net::SocketAddr>,
    stop: CancellationToken,
    #[cfg(test)]
    host: Arc<Host>,
}

impl Handle {
    /// What answers the HTTP requests, for tests without TLS.
    #[cfg(test)]
    pub(crate) fn server(&self) -> Arc<crate::http::Server> {
        Arc::new(crate::http::Server::new(Arc::clone(&self.host), self.workers.clone()))
    }

    /// Whether the API server has this node as Ready.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until the API server has this node as Ready.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        // The sender lives as long as the node's task; without it the answer can only be the last one.
        let _ = ready.wait_for(|r| *r).await;
    }

    /// Ends the agent's own tasks. Pods go on running, whatever becomes of this process.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Pods that have a worker.
    pub fn pods(&self) -> usize {
        self.workers.all().len()
    }
}

/// What [`start`] needs besides the configuration.
pub struct Parts {
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub images: Arc<dyn Images>,
    pub network: Arc<dyn Network>,
    /// `None`: names are served elsewhere.
    pub dns: Option<Arc<dyn Dns>>,
    pub clock: Clock,
}

/// Starts the node agent. Returns as soon as its server listens; everything else (registration, adoption, pods) goes on in the
/// background and is retried until it works. Must be called inside a tokio runtime.
///
/// # Errors
/// The server's certificates or its address are unusable.
pub async fn start(config: Config, parts: Parts) -> Result<Handle, Error> {
    let facts = Facts::read(&config);
    let allocatable = facts.allocatable(&config);
    let informers = Informers::new(parts.client.clone());
    let workers = Workers::default();
    let tell = workers.clone();
    let changed: Changed = Arc::new(move |uid| {
        if let Some(worker) = tell.get(uid) {
            worker.mailbox.objects_changed();
        }
    });
    let recorder = Recorder::new(parts.client.clone(), "kubelet", &config.node_name, parts.clock);
    let folders = Folders { name: config.kubelet_dir.clone(), real: config.data_dir.join("kubelet") };
    let drivers = Csi::new(parts.client.clone(), &config.node_name, recorder.clone(), folders, Arc::clone(&changed));
    let volumes = Volumes::new(parts.client.clone(), &config.data_dir, &config.run_dir, allocatable, changed)
        .with_csi(Arc::new(drivers));
    let stop = CancellationToken::new();
    let host = Arc::new(Host {
        stop: stop.clone(),
        recorder,
        services: informers.cache::<Service>(Selector::all()),
        memory_bytes: facts.memory_bytes as i64,
        started: parts.clock.monotonic(),
        client: parts.client,
        runtime: parts.runtime,
        images: parts.images,
        network: parts.network,
        volumes,
        allocatable,
        clock: parts.clock,
        config,
    });
    let listen = match host.config.tls.clone() {
        Some(tls) => Some(crate::http::serve(Arc::clone(&host), workers.clone(), &tls, stop.clone()).await?),
        None => None,
    };
    let (tell_ready, ready) = watch::channel(false);
    let port = listen.map_or(host.config.listen.port(), |a| a.port());
    let handle = Handle {
        workers: workers.clone(),
        ready,
        listen,
        stop: stop.clone(),
        #[cfg(test)]
        host: Arc::clone(&host),
    };
    let agent = Agent { host, facts, informers, workers, tell_ready, port, dns: parts.dns };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = agent.run(stop.clone()) => {}
        }
    });
    Ok(handle)
}

struct Agent {
    host: Arc<Host>,
    facts: Facts,
    informers: Informers,
    workers: Workers,
    tell_ready: watch::Sender<bool>,
    port: u16,
    dns: Option<Arc<dyn Dns>>,
}

impl Agent {
    async fn run(self, stop: CancellationToken) {
        let name = self.host.config.node_name.clone();
        let node = register(&self.host).await;
        let (client, clock) = (self.host.client.clone(), self.host.clock);
        tokio::spawn(lease::run(client, clock, name.clone(), node.uid().to_owned(), stop));
        let nodes = self.informers.cache::<Node>(Selector::fields(format!("metadata.name={name}")));
        let pods = self.informers.cache::<Pod>(Selector::fields(format!("spec.nodeName={name}")));
        let mut keys = pods.dirty();
        tokio::join!(
            self.keep_status(&nodes),
            self.keep_services(),
            self.keep_pods(&nodes, &pods, &mut keys),
            self.hear_runtime(),
            self.hear_images(),
            self.host.volumes.csi.run()
        );
    }

    /// Sends the node's status when it differs from what was sent, and every five minutes.
    async fn keep_status(&self, nodes: &Cache<Node>) {
        let host = &self.host;
        let changed = Arc::new(Notify::new());
        let (tell, drivers) = (Arc::clone(&changed), Arc::clone(&host.volumes.csi));
        nodes.on_change(Box::new(move |_, node| {
            node.into_iter().for_each(|node| drivers.node_changed(node));
            tell.notify_one();
        }));
        let health = Health { not_ready: None };
        let (mut sent, mut sent_at, mut wait) = (Value::Null, None, RETRY_MIN);
        let mut with_times = None;
        host.recorder.normal(&bare_node(host), "Starting", "Starting kubelet.");
        loop {
            let node = nodes.get(&Key::cluster(&host.config.node_name));
            let images = host.images.list().await.unwrap_or_default();
            let extended = node.as_deref().map(extended_resources).unwrap_or_default();
            let mut status = node_object::status(&host.config, &self.facts, &health, &images, &extended, self.port);
            let in_use = host.volumes.csi.in_use();
            // Nothing is said by taking away what was said before.
            status["volumesInUse"] = if in_use.is_empty() { Value::Null } else { in_use.into() };
            let due = sent_at.is_none_or(|at: tokio::time::Instant| at.elapsed() >= STATUS_EVERY);
            // Somebody else may have changed what is ours, the node lifecycle controller above all.
            let lost =
                node.as_deref().is_some_and(|n| sent_at.is_some() && !shows_ready(n) && health.not_ready.is_none());
            if status == sent && !due && !lost {
                let left = sent_at.map_or(STATUS_EVERY, |at| STATUS_EVERY.saturating_sub(at.elapsed()));
                tokio::select! {
                    () = changed.notified() => {}
                    () = host.volumes.csi.in_use_changed.notified() => {}
                    () = tokio::time::sleep(left) => {}
                }
                continue;
            }
            let timed = node_object::with_times(&status, with_times.as_ref(), host.clock.now());
            let mut patch = json!({"status": timed});
            // The merge key of addresses is their type, of which a dual-stack node has two: the list is replaced whole.
            if let Some(addresses) = patch["status"]["addresses"].as_array_mut() {
                addresses.insert(0, json!({"$patch": "replace"}));
            }
            match host.client.patch_status::<Node>("", &host.config.node_name, Patch::Strategic(&patch)).await {
                Ok(_) => {
                    (sent, sent_at, wait) = (status, Some(host.clock.monotonic()), RETRY_MIN);
                    with_times = Some(timed);
                    if !self.tell_ready.send_replace(true) {
                        host.recorder.normal(
                            &bare_node(host),
                            "NodeReady",
                            format!("Node {} status is now: NodeReady", host.config.node_name),
                        );
                    }
                    if lost {
                        // What the cache shows is older than what was just sent; wait for the next word.
                        changed.notified().await;
                    }
                }
                Err(e) => {
                    tracing::warn!(error = %e, "node status not sent");
                    if e.is_not_found() {
                        register(host).await;
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Keeps service table and zone in step with the API: one pass takes in whatever has changed by then.
    async fn keep_services(&self) {
        let host = &self.host;
        let slices = self.informers.cache::<EndpointSlice>(Selector::all());
        let ranges = self.informers.cache::<ServiceRange>(Selector::all());
        let namespaces = self.informers.trimmed::<Namespace>(Selector::all(), |n| {
            (n.spec, n.status, n.metadata.annotations) = (None, None, None);
        });
        let changed = Arc::new(Notify::new());
        let [a, b, c, d] = [(); 4].map(|()| Arc::clone(&changed));
        host.services.synced().await;
        slices.synced().await;
        ranges.synced().await;
        namespaces.synced().await;
        host.services.on_change(Box::new(move |_, _| a.notify_one()));
        slices.on_change(Box::new(move |_, _| b.notify_one()));
        namespaces.on_change(Box::new(move |_, _| c.notify_one()));
        ranges.on_change(Box::new(move |_, _| d.notify_one()));
        let (mut table, mut zone) = (None, None);
        let mut wait = RETRY_MIN;
        loop {
            let (services, all) = (host.services.all(), slices.all());
            let new = services::table(&services, &all, &ranges.all(), &host.config.node_name);
            if table.as_ref() != Some(&new) {
                match host.network.set_services(new.clone()).await {
                    Ok(()) => (table, wait) = (Some(new), RETRY_MIN),
                    Err(e) => {
                        tracing::error!(error = %format!("{e:#}"), "service table not applied");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(RETRY_MAX);
                        continue;
                    }
                }
            }
            if let Some(dns) = &self.dns {
                let names: BTreeSet<String> = namespaces.all().iter().map(|n| n.name().to_owned()).collect();
                let new = services::zone(&services, &all, names, &host.config.cluster_domain);
                if zone.as_ref() != Some(&new) {
                    dns.set_zone(new.clone());
                    zone = Some(new);
                }
            }
            changed.notified().await;
        }
    }

    async fn keep_pods(&self, nodes: &Cache<Node>, pods: &Cache<Pod>, keys: &mut client::cache::DirtyKeys) {
        let host = &self.host;
        let running = loop {
            match host.runtime.list().await {
                Ok(list) => break list,
                Err(e) => {
                    tracing::error!(error = %format!("{:#}", anyhow::Error::from(e)), "the runtime does not answer");
                    tokio::time::sleep(RETRY_MAX).await;
                }
            }
        };
        // Only after the API has answered may anything be removed.
        pods.synced().await;
        nodes.synced().await;
        // Environments name services; a container that started before they are known would lack them.
        host.services.synced().await;
        self.sweep_roots(&running).await;
        let networks = host.network.pods().await.unwrap_or_default();
        let ips: BTreeMap<String, Vec<String>> =
            networks.iter().map(|n| (n.id.clone(), n.ips.iter().map(ToString::to_string).collect())).collect();
        let mut adopted: BTreeMap<String, &PodInfo> = running.iter().map(|i| (i.id.0.clone(), i)).collect();
        let mut first = pods.all();
        // Those that ran before keep what they hold; the others are let in after them, oldest first.
        first.sort_by_key(|p| (!adopted.contains_key(pod::uid(p)), p.metadata.creation_timestamp.clone(), p.key()));
        for pod in first {
            let info = adopted.remove(pod::uid(&pod));
            self.begin(pod, info, &ips, nodes);
        }
        let node_name = &host.config.node_name;
        for (uid, info) in adopted {
            tracing::info!(pod = %uid, node = %node_name, "pod is gone from the API: it ends");
            let pod = Arc::new(adopt::orphan(info));
            let own = ips.get(&uid).cloned().unwrap_or_default();
            let (state, exits) = adopt::adopt(pod, info, own, host.host_ips(), host.now());
            let worker = self.launch(state, exits);
            worker.mailbox.gone();
        }
        self.sweep(&networks, pods).await;
        drop(running);
        loop {
            for key in keys.next().await {
                self.reconcile(&key, pods, nodes);
            }
        }
    }

    /// Brings the workers of one name in line with what the API has under it.
    fn reconcile(&self, key: &Key, pods: &Cache<Pod>, nodes: &Cache<Node>) {
        let current = pods.get(key);
        let uid = current.as_deref().map(pod::uid).unwrap_or_default().to_owned();
        for worker in self.workers.all() {
            let own = {
                let s = worker.snapshot.read();
                pod::namespace(&s.pod) == &*key.namespace && pod::name(&s.pod) == &*key.name
            };
            if own && worker.uid != uid {
                worker.mailbox.gone();
            }
        }
        if let Some(pod) = current {
            match self.workers.get(&uid) {
                Some(worker) => worker.mailbox.pod(pod),
                None => self.begin(pod, None, &BTreeMap::new(), nodes),
            }
        }
    }

    fn begin(&self, pod: Arc<Pod>, info: Option<&PodInfo>, ips: &BTreeMap<String, Vec<String>>, nodes: &Cache<Node>) {
        let host = &self.host;
        let (now, host_ips) = (host.now(), host.host_ips());
        let deleting = pod::deleting(&pod).then(|| Arc::clone(&pod));
        let worker = if let Some(info) = info.filter(|_| !pod::terminal(&pod)) {
            let own = if pod::host_network(&pod) {
                host_ips.clone()
            } else {
                ips.get(pod::uid(&pod)).cloned().unwrap_or_default()
            };
            let (state, exits) = adopt::adopt(pod, info, own, host_ips, now);
            let worker = self.launch(state, exits);
            if info.state == PodState::Dead {
                worker.mailbox.fact(Input::SandboxDied);
            }
            worker
        } else if pod::terminal(&pod) {
            self.launch(adopt::finished(pod, host_ips, now), Vec::new())
        } else {
            let others: Vec<Arc<Pod>> =
                self.workers.snapshots().into_iter().filter(|s| !s.ended).map(|s| s.pod).collect();
            let others: Vec<&Pod> = others.iter().map(|p| &**p).collect();
            let node = nodes.get(&Key::cluster(&host.config.node_name)).unwrap_or_default();
            let fits = if pod::deleting(&pod) {
                Ok(())
            } else {
                admit(&pod, &others, &node, host.allocatable, host.config.pods_max)
            };
            match fits {
                Ok(()) => match adopt::forgotten(&pod, &host_ips, now) {
                    Some(state) => self.launch_with(state, Input::SandboxDied, Vec::new()),
                    None => self.launch(State::new(pod, host_ips, now), Vec::new()),
                },
                Err(r) => {
                    host.recorder.warning(&*pod, r.reason, r.message.trim_start_matches("Pod was rejected: "));
                    self.launch(State::rejected(pod, host_ips, now, r.reason, &r.message), Vec::new())
                }
            }
        };
        if let Some(pod) = deleting {
            worker.mailbox.pod(pod);
        }
    }

    fn launch(&self, state: State, exits: Vec<(String, ExitFacts)>) -> Worker {
        self.launch_with(state, Input::Tick, exits)
    }

    fn launch_with(&self, state: State, first: Input, exits: Vec<(String, ExitFacts)>) -> Worker {
        let workers = self.workers.clone();
        let uid = pod::uid(&state.pod).to_owned();
        // The worker may be done before it is in the table; the lock keeps the order.
        let mut table = self.workers.0.write();
        let worker = start_worker(Arc::clone(&self.host), state, first, move |uid| {
            workers.0.write().remove(uid);
        });
        for (id, exit) in exits {
            worker.mailbox.fact(Input::Exited { id, exit });
        }
        table.insert(uid, worker.clone());
        worker
    }

    /// Gives back root filesystems that no container has. Before any worker begins: an instance that an earlier daemon could not
    /// start is started again under the same id.
    async fn sweep_roots(&self, running: &[PodInfo]) {
        let held: BTreeSet<&str> = running.iter().flat_map(|p| p.containers.iter().map(|c| c.id.0.as_str())).collect();
        for id in self.host.images.prepared().await.unwrap_or_default() {
            if !held.contains(id.as_str())
                && let Err(e) = self.host.images.release(&id).await
            {
                not_swept("root filesystem", &id, &e);
            }
        }
    }

    /// Removes what pods left behind that neither the API nor the runtime knows.
    async fn sweep(&self, networks: &[net::PodNet], pods: &Cache<Pod>) {
        let host = &self.host;
        let known: BTreeSet<String> = self.workers.all().into_iter().map(|w| w.uid).collect();
        for uid in host.volumes.leftovers().into_iter().filter(|uid| !known.contains(uid)) {
            if let Err(e) = host.volumes.remove(&uid).await {
                not_swept("volumes", &uid, &e.into());
                host.volumes.csi.orphan(&uid);
            }
        }
        for net in networks.iter().filter(|n| !known.contains(&n.id)) {
            if let Err(e) = host.network.del_pod(&net.id).await {
                not_swept("network", &net.id, &e);
            }
        }
        let folders: BTreeSet<String> = pods.all().iter().map(|p| log_folder(p)).collect();
        let (logs, links) = (host.config.pod_logs_dir.clone(), host.config.container_logs_dir.clone());
        let swept = tokio::task::spawn_blocking(move || {
            for entry in std::fs::read_dir(&logs).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // Only what has the form of ours: namespace, name and uid.
                if name.split('_').count() == 3 && !folders.contains(&name) {
                    let _ = crate::worker::remove_pod_logs(&entry.path(), &links);
                }
            }
        });
        let _ = swept.await;
    }

    async fn hear_images(&self) {
        let mut added = self.host.images.added();
        while added.changed().await.is_ok() {
            self.workers.all().iter().for_each(|w| w.mailbox.images_added());
        }
        std::future::pending::<()>().await;
    }

    async fn hear_runtime(&self) {
        let mut events = self.host.runtime.events();
        while let Some(event) = events.next().await {
            match event {
                runtime::Event::PodDied { pod } => {
                    if let Some(worker) = self.workers.get(&pod.0) {
                        worker.mailbox.look();
                    }
                }
                // Each worker waits for its containers itself.
                runtime::Event::ContainerExited { .. } => {}
                runtime::Event::Missed => self.workers.all().iter().for_each(|w| w.mailbox.look()),
            }
        }
        std::future::pending::<()>().await;
    }
}

fn not_swept(what: &str, id: &str, error: &anyhow::Error) {
    tracing::warn!(id, error = %format!("{error:#}"), "{what} of a pod that is gone could not be removed");
}

fn bare_node(host: &Host) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(host.config.node_name.clone());
    // Source: kubelet: events about a node carry its name as uid.
    node.metadata.uid = Some(host.config.node_name.clone());
    node
}

fn shows_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Resources in the capacity that others have put there.
fn extended_resources(node: &Node) -> BTreeMap<String, String> {
    let capacity = node.status.as_ref().and_then(|s| s.capacity.as_ref());
    capacity
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.contains('/'))
        .map(|(name, q)| (name.clone(), q.0.clone()))
        .collect()
}

/// Creates the Node or takes over the one that is there; comes back when one of the two has worked.
async fn register(host: &Host) -> Node {
    let mut wait = RETRY_MIN;
    loop {
        match try_register(host).await {
            Ok(node) => return node,
            Err(e) => tracing::warn!(error = %e, "node not registered"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

async fn try_register(host: &Host) -> client::Result<Node> {
    let new = node_object::new_node(&host.config);
    let collection = client::api::collection_path::<Node>("");
    match host.client.create_path::<Node>(&collection, &new, &client::WriteParams::default()).await {
        Err(e) if e.is_already_exists() => {
            let patch = json!({"metadata": {"labels": node_object::labels(&host.config)}});
            host.client.patch::<Node>("", &host.config.node_name, Patch::Merge(&patch)).await
        }
        other => other,
    }
}
