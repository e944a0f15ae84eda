//! The control loops: each keeps one promise about the cluster by reading shared caches, planning purely, and writing through
//! the API like anybody else.
//!
//! What never lives here: an edge to the store or the API server, a clock, a poll. The scheduler is a folder of its own.

use std::net::IpAddr;
use std::sync::Arc;

use client::meters::Load;
use client::queue::Queue;
use client::runner::{self, Reconcile};
use client::{Cache, Client, Clock, Informers, Recorder, Selector};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub mod claims;
pub mod controllers;
mod failures;
mod history;
pub mod keys;
mod nodes;
mod pod_writes;
pub mod pods;
pub mod scheduler;
pub mod storage;
mod watches;

/// What the controllers need to know about the cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// PEM of the cluster's certificate authority, published into every namespace.
    pub root_ca: String,
    /// Where this API server is reached; published as the endpoints of `default/kubernetes`. Empty: not published.
    pub advertise: Vec<IpAddr>,
    pub api_port: u16,
    /// Silence after which a node counts as lost. 10 s, so that with the default tolerations a dead node's pods run elsewhere
    /// within 20 s; upstream waits 50 s.
    pub node_grace_seconds: u32,
    /// Finished pods that may exist before the oldest are deleted; upstream's `--terminated-pod-gc-threshold`.
    pub finished_pods_max: usize,
    /// Whether there is a default class whose volumes are folders on nodes.
    pub local_path: bool,
    /// Signs certificates and tokens; without it nobody's are.
    pub keys: Option<Arc<dyn keys::Keys>>,
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root_ca: String::new(),
            advertise: Vec::new(),
            api_port: 6443,
            node_grace_seconds: 10,
            finished_pods_max: 12_500,
            local_path: true,
            keys: None,
            clock: Clock::system(),
        }
    }
}

/// Gives a client that acts as a name: `<controller>` as `system:serviceaccount:kube-system:<controller>`, [`INFORMERS`] as
/// an identity that may list and watch everything, and [`MANAGER`] as what all controllers are one process of.
pub type Clients = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// The name under which the shared caches are filled.
pub const INFORMERS: &str = "shared-informers";

/// Acts as `system:kube-controller-manager`: for what must work before there are ServiceAccounts.
pub const MANAGER: &str = "kube-controller-manager";

/// What a controller starts with.
pub struct Context {
    clients: Clients,
    pub informers: Informers,
    pub config: Config,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
    /// Of the controllers that run, by their names.
    queues: Mutex<Vec<(&'static str, Arc<Queue>)>>,
}

impl Context {
    pub fn client(&self, name: &str) -> Client {
        (self.clients)(name)
    }

    pub fn recorder(&self, client: &Client, name: &str) -> Recorder {
        Recorder::new(client.clone(), name, "", self.config.clock)
    }

    pub fn queue(&self) -> Arc<Queue> {
        Arc::new(Queue::new())
    }

    /// Every pod, indexed by node and by claim.
    pub fn pods(&self) -> Arc<Cache<Pod>> {
        let pods = self.informers.cache::<Pod>(Selector::all());
        pods.add_index(POD_BY_NODE, |p| {
            Some(pods::node_name(p).to_owned()).filter(|n| !n.is_empty()).into_iter().collect()
        });
        pods.add_index(storage::POD_BY_CLAIM, |p| storage::claim_keys(p).map(|key| key.to_string()).collect());
        pods
    }

    /// Runs a controller once every cache that was asked for is filled.
    pub fn run(&self, controller: impl Reconcile, queue: Arc<Queue>, workers: usize) {
        let (informers, stop, clock) = (self.informers.clone(), self.stop.clone(), self.config.clock);
        let controller: Arc<dyn Reconcile> = Arc::new(controller);
        self.show(controller.name(), &queue);
        self.tasks.lock().spawn(async move {
            tokio::select! {
                () = informers.synced() => {}
                () = stop.cancelled() => return,
            }
            runner::run(controller, queue, clock, workers, stop).await;
        });
    }

    /// Has `/metrics` show what the queue has to do. Of several of one name the first: a label that stands there twice makes
    /// all of the text unreadable.
    pub fn show(&self, name: &'static str, queue: &Arc<Queue>) {
        let mut queues = self.queues.lock();
        if queues.iter().all(|(known, _)| *known != name) {
            queues.push((name, Arc::clone(queue)));
        }
    }

    /// Runs a task that ends by itself when `stop` is cancelled.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().spawn(task);
    }

    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }
}

/// What upstream calls the queue of a controller in its metrics, by which dashboards ask.
fn queue_name(controller: &str) -> &str {
    match controller {
        "clusterrole-aggregation-controller" => "ClusterRoleAggregator",
        "daemon-set-controller" => "daemonset",
        "endpointslice-controller" => "endpoint_slice",
        "ephemeral-volume-controller" => "ephemeral_volume",
        "generic-garbage-collector" => "garbage_collector_attempt_to_delete",
        "horizontal-pod-autoscaler" => "horizontalpodautoscaler",
        "node-controller" => "node_lifecycle_controller",
        "pod-garbage-collector" => "orphaned_pods_nodes",
        "replication-controller" => "replicationmanager",
        "resource-claim-controller" => "resource_claim",
        "resourcequota-controller" => "resourcequota_primary",
        "root-ca-cert-publisher" => "root_ca_cert_publisher",
        "service-account-controller" => "serviceaccount",
        "service-cidrs-controller" => "ipaddresses",
        "serviceaccount-token-controller" => "serviceaccount_tokens_secret",
        "ttl-after-finished-controller" => "ttl_jobs_to_delete",
        other => other.strip_suffix("-controller").unwrap_or(other),
    }
}

/// Index of the pod cache.
pub const POD_BY_NODE: &str = "node";

/// The running controllers.
pub struct Handle {
    context: Arc<Context>,
}

/// Starts every controller. Must be called within a tokio runtime; needs the API to answer only eventually.
///
/// Supervision: work on a key that fails or panics comes again with back-off (`client::runner`), a list-watch reconnects by
/// itself, so that no controller has a way to end before [`Handle::stop`]. The daemon may watch [`Handle::ended`] for the
/// case that one does.
pub fn start(clients: Clients, config: Config) -> Handle {
    let informers = Informers::new(clients(INFORMERS));
    let context = Arc::new(Context {
        clients,
        informers,
        config,
        stop: CancellationToken::new(),
        tasks: Mutex::new(JoinSet::new()),
        queues: Mutex::default(),
    });
    for start in controllers::ALL {
        start(&context);
    }
    Handle { context }
}

impl Handle {
    /// The shared caches, for others in the process (the scheduler) so that nothing is kept twice.
    pub fn informers(&self) -> &Informers {
        &self.context.informers
    }

    /// Appends what the queues of the controllers have had to do, for `/metrics`.
    pub fn write_metrics(&self, text: &mut String) {
        let now = self.context.config.clock.monotonic();
        let queues = self.context.queues.lock();
        let loads: Vec<(&str, Load)> = queues.iter().map(|(name, queue)| (queue_name(name), queue.load(now))).collect();
        drop(queues);
        client::meters::write_queues(text, &loads);
    }

    /// Resolves when every shared cache is filled.
    pub async fn ready(&self) {
        self.context.informers.synced().await;
    }

    /// Resolves with `true` when a controller ended although nobody asked: a bug that the daemon should log and answer by
    /// stopping and starting control again. Cancel safe.
    pub async fn ended(&self) -> bool {
        std::future::poll_fn(|cx| self.context.tasks.lock().poll_join_next(cx)).await;
        !self.context.stop.is_cancelled()
    }

    /// Finishes the work under way and ends. Idempotent.
    pub async fn stop(&self) {
        self.context.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.context.tasks.lock());
        while tasks.join_next().await.is_some() {}
        self.context.informers.stop().await;
    }
}
