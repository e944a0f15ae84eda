//! The handle: every verb is a message to the one thread that owns netlink sockets, state and namespaces.
//!
//! RTNL serialises link work in the kernel anyway (measured: concurrency buys nothing), so one thread loses nothing, and
//! `setns`/`unshare` never happen on a tokio worker.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    Config, Error, PodNet, PodSpec, ServiceTable, host, sysctl,
    watch::{self, Watched},
    worker::{Command, Worker},
};

/// Requests that may wait for the thread. A burst of 250 pods (the node's most) fits, more wait in their callers.
const QUEUE: usize = 256;

/// Handle to the node's network. Clones are cheap and share one thread, which ends with the last clone; what it built in
/// the kernel stays (pods outlive the daemon).
#[derive(Clone, Debug)]
pub struct Network {
    queue: mpsc::Sender<Command>,
    config: Arc<Config>,
    _watches: Arc<[Watch; 2]>,
}

/// Ends the task with the last handle.
#[derive(Debug)]
struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Network {
    /// Brings the host's side up: bridge with gateway and DNS addresses, forwarding sysctls (former values are remembered in
    /// the state folder), route of the service ranges, and adopts what an earlier process left: pods whose namespace and link
    /// are still there are kept with their addresses, half-made ones are removed, a service table that this version would have
    /// made stays in force until the first [`Network::set_services`]. Idempotent.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the configuration, else what the kernel refused. Nothing is undone on failure: the next start
    /// continues, [`remove_all`] cleans.
    pub async fn start(config: Config) -> Result<Self, Error> {
        config.check()?;
        let config = Arc::new(if has_v6() { config } else { config.without_v6() });
        if config.pod_cidrs.is_empty() {
            return Err(Error::invalid("pod_cidrs", "only IPv6, and this host has none"));
        }
        let (queue, inbox) = mpsc::channel(QUEUE);
        let (ready, started) = oneshot::channel();
        let theirs = Arc::clone(&config);
        let thread = std::thread::Builder::new().name("kedge-net".into()).spawn(move || match Worker::start(theirs) {
            Ok(worker) => {
                if ready.send(worker.nft_port()).is_ok() {
                    worker.run(inbox);
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        });
        thread.map_err(|source| Error::Namespace { what: "start the network thread", source })?;
        let own = started.await.map_err(|_| Error::Closed)??;
        let watch = |watched| watch::start(queue.downgrade(), watched).map(Watch);
        let watches = [watch(Watched::Table { own })?, watch(Watched::Links)?];
        Ok(Self { queue, config, _watches: Arc::new(watches) })
    }

    /// The configuration in force: without IPv6 ranges when the host has no IPv6.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes the pod's namespace, pins it, links it to the bridge, addresses it, opens its host ports. Returns when IPv4
    /// packets can flow (IPv6 follows within milliseconds). About 1 ms. Idempotent: a pod that is there is returned as it is, its host ports brought up to date.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::PoolExhausted`], [`Error::HostPortTaken`], or what the kernel refused; a pod that failed leaves
    /// nothing behind. A dropped future does not stop the work; call [`Network::del_pod`] if the pod is no longer wanted.
    pub async fn add_pod(&self, spec: PodSpec) -> Result<PodNet, Error> {
        self.call(|reply| Command::AddPod(Box::new(spec), reply)).await?
    }

    /// Removes the pod's pin, host ports and state, and frees its addresses. The namespace and its link end in the background
    /// with the last process in it, so end those first. Idempotent: an unknown id is fine.
    ///
    /// # Errors
    /// [`Error::Teardown`] when steps failed; the others were done, and calling again continues.
    pub async fn del_pod(&self, id: &str) -> Result<(), Error> {
        self.call(|reply| Command::DelPod(id.to_owned(), reply)).await?
    }

    /// The pods that have a network, by id. After [`Network::start`]: those that were adopted.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn pods(&self) -> Result<Vec<PodNet>, Error> {
        self.call(Command::Pods).await
    }

    /// Makes the table the one in force, in one transaction: a packet sees the old table or the new one. Costs what changed, not
    /// what is there. Connections that are open stay with their endpoint; UDP flows to endpoints that vanished are forgotten.
    /// Calls are applied in order; a caller with a newer table need not wait for the older one.
    ///
    /// # Errors
    /// What the kernel refused; the old table then stays in force.
    pub async fn set_services(&self, table: ServiceTable) -> Result<(), Error> {
        self.call(|reply| Command::SetServices(table, reply)).await?
    }

    /// Leads port 53 of the DNS addresses to where the server listens, if that is another port. Takes [`crate::dns::Server::addresses`];
    /// call it once after the server's start.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn lead_dns(&self, addresses: &[std::net::SocketAddr]) -> Result<(), Error> {
        let addresses = addresses.to_vec();
        self.call(|reply| Command::LeadDns(addresses, reply)).await?
    }

    async fn call<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(command(reply)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)
    }
}

/// Takes everything back from the host: pods' links and pins, bridge, routes, nft table, sysctls, state folder. For `kedge reset`,
/// with no [`Network`] running. Blocking (some milliseconds per pod). Idempotent: nothing there is fine.
///
/// # Errors
/// [`Error::Teardown`] with every step that failed; all are tried.
pub fn remove_all(config: &Config) -> Result<(), Error> {
    host::remove_all(config)
}

/// Whether this network namespace has IPv6 and its administrator has not switched it off.
fn has_v6() -> bool {
    sysctl::get("net.ipv6.conf.all.disable_ipv6").as_deref() == Some("0")
}
