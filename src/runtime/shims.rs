//! The real runtime: one shim process per pod, on this host. Prepares directories, cgroups and OCI specs; everything that
//! touches a container's process happens in the shim.

mod devices;
mod lifecycle;
mod link;
mod pod;
mod prepare;
mod session;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, broadcast};

use crate::api::{
    ContainerInfo, ContainerState, Event, Events, ExitStatus, PodInfo, Runtime, Session, Stats, protocol,
};
use crate::cgroup::{Driver, Version};
use crate::oci::Facts;
use crate::shim::protocol::{POD_FILE, Refusal, RefusalKind, Reply, SHIM_FILE, Verb};
use crate::shim::{alive, sys};
use crate::spec::{AttachSpec, ContainerId, ContainerSpec, ExecSpec, PodId, PodSpec, Resources};
use crate::{Error, Result};
use link::{Gone, Link};
use pod::{Pod, PodFile};

/// Events kept for a slow subscriber; a node has some hundreds of containers.
const EVENTS_MAX: usize = 1024;
/// The shims' own cgroup, beside the pods'.
pub const SHIMS_CGROUP: &str = "shims";
/// Leaf for a pod's first process, beside its containers: v2 allows processes in leaves only.
const INIT_CGROUP: &str = "init";

/// Where things lie and what starts a shim.
#[derive(Debug, Clone)]
pub struct Config {
    /// For sockets and state that need not survive a boot; `pods/<id>` is made below. `/run/kedge`.
    pub run_dir: PathBuf,
    /// The one cgroup subtree, with a leading slash: `/kedge`. Made when the first pod needs it.
    pub cgroup_root: String,
    /// The command that becomes a shim, to which the pod's directory is added: `[/proc/self/exe, shim]`.
    pub shim_command: Vec<String>,
}

impl Config {
    /// The paths of a normal installation; this executable is its own shim.
    pub fn new(run_dir: impl Into<PathBuf>, cgroup_root: impl Into<String>) -> Config {
        Config {
            run_dir: run_dir.into(),
            cgroup_root: cgroup_root.into(),
            shim_command: vec!["/proc/self/exe".into(), "shim".into()],
        }
    }
}

/// Handle to the pods of this host; clones share one state. Dropping the last one leaves every pod running.
#[derive(Clone)]
pub struct Shims {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    driver: Driver,
    facts: Facts,
    pods: Mutex<BTreeMap<PodId, Arc<Pod>>>,
    adopted: OnceCell<()>,
    events: broadcast::Sender<Event>,
    token: AtomicU64,
    /// Compiled filters by profile text.
    filters: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
}

impl Shims {
    /// Prepares the run directory and looks at the host's cgroups. Running pods are adopted by the first call of any verb.
    /// Errors: `Io`, `Invalid` (no cgroups, or a root that is not a subtree).
    pub fn open(config: Config) -> Result<Shims> {
        let pods = config.run_dir.join("pods");
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&pods);
        made.map_err(Error::io("make", &pods))?;
        let mut config = config;
        config.run_dir = fs::canonicalize(&config.run_dir).map_err(Error::io("resolve", &config.run_dir))?;
        let driver = Driver::detect(&config.cgroup_root)?;
        let facts = devices::facts(driver.version());
        let inner = Inner {
            filters: Mutex::default(),
            config,
            driver,
            facts,
            pods: Mutex::default(),
            adopted: OnceCell::new(),
            events: broadcast::channel(EVENTS_MAX).0,
            // Tokens must not meet those of an earlier daemon whose processes still run.
            token: AtomicU64::new(u64::from(std::process::id()) << 32 | now().as_nanosecond() as u64 & 0xffff_ffff),
        };
        Ok(Shims { inner: Arc::new(inner) })
    }

    /// How this host's cgroups are.
    pub fn cgroup_version(&self) -> Version {
        self.inner.driver.version()
    }

    /// Removes the cgroup subtree, if no pod is left: for `kedge reset`.
    pub fn remove_cgroups(&self) -> Result<()> {
        self.inner.driver.remove("")
    }

    async fn found(&self, pod: &PodId) -> Result<Arc<Pod>> {
        self.adopted().await;
        self.inner.pods.lock().get(pod).cloned().ok_or_else(|| Error::PodNotFound(pod.clone()))
    }

    async fn adopted(&self) {
        let adopt = || async {
            let dir = self.inner.config.run_dir.join("pods");
            let Ok(entries) = fs::read_dir(&dir) else { return };
            for entry in entries.filter_map(|entry| entry.ok()) {
                if let Err(error) = self.adopt(&entry.path()).await {
                    tracing::warn!(path = %entry.path().display(), %error, "pod cannot be adopted");
                }
            }
        };
        self.inner.adopted.get_or_init(adopt).await;
    }

    /// Takes over what an earlier daemon started in `dir`.
    async fn adopt(&self, dir: &Path) -> Result<()> {
        let read = fs::read(dir.join(POD_FILE)).and_then(|bytes| Ok(serde_json::from_slice::<PodFile>(&bytes)?));
        let file = match read {
            Ok(file) => file,
            // Cut off before the pod existed: nothing can run in it.
            Err(error) => {
                tracing::warn!(path = %dir.display(), %error, "half-made pod directory is removed");
                let _ = nix::mount::umount2(&dir.join("shm"), nix::mount::MntFlags::MNT_DETACH);
                return fs::remove_dir_all(dir).map_err(Error::io("remove", dir));
            }
        };
        let pod = Arc::new(Pod::new(Arc::new(file.spec), dir.to_owned(), pod::timestamp(file.created_at_ns)));
        for container in pod::read_containers(dir) {
            pod.adopt(&container);
        }
        self.inner.pods.lock().insert(pod.spec.id.clone(), pod.clone());
        match self.connect(&pod).await {
            Ok(link) => {
                let (reply, _) = self.call(&pod, &link, Verb::State).await?;
                let Reply::State { containers } = reply else {
                    return Err(protocol(&pod.spec.id, "no state"));
                };
                for report in containers {
                    let id = ContainerId(report.container);
                    if let Err(error) = pod.started(&id, report.pid, report.started_at_ns) {
                        tracing::warn!(pod = %pod.spec.id, container = %id, %error, "container without a record");
                        continue;
                    }
                    if let Some(exit) = report.exit {
                        pod.exited(&id, &exit);
                    }
                }
                pod.forget_unstarted();
                tracing::info!(pod = %pod.spec.id, "pod adopted");
            }
            Err(error) => {
                tracing::warn!(pod = %pod.spec.id, %error, "pod has lost its shim");
                // It may live and only its socket be gone: nobody could ever talk to it again.
                if let Some(pid) = alive::holder(&pod.dir.join(SHIM_FILE)) {
                    let _ = sys::kill(pid, libc::SIGKILL);
                }
                self.lost(&pod);
            }
        }
        Ok(())
    }

    /// Connects and introduces itself.
    async fn connect(&self, pod: &Arc<Pod>) -> Result<Link> {
        let (exit_pod, close_pod) = (Arc::downgrade(pod), Arc::downgrade(pod));
        let events = self.inner.events.clone();
        let close = Arc::downgrade(&self.inner);
        let link = Link::connect(
            &pod.dir,
            move |container, exit| {
                if let Some(pod) = exit_pod.upgrade() {
                    let container = ContainerId(container);
                    pod.exited(&container, &exit);
                    let _ = events.send(Event::ContainerExited { pod: pod.spec.id.clone(), container });
                }
            },
            move || {
                if let (Some(pod), Some(inner)) = (close_pod.upgrade(), close.upgrade())
                    && !pod.is_removing()
                {
                    Shims { inner }.lost(&pod);
                }
            },
        )
        .map_err(Error::io("connect to the shim in", &pod.dir))?;
        let hello = self.call(pod, &link, Verb::Hello { version: crate::shim::protocol::VERSION }).await?;
        if let (Reply::Hello { pid, .. }, _) = hello {
            *pod.shim_pid.lock() = Some(pid);
        }
        pod.set_link(link.clone());
        Ok(link)
    }

    /// The shim is gone: nobody could reap, log or end its containers any more, so they end too.
    fn lost(&self, pod: &Arc<Pod>) {
        if let Err(error) = self.inner.driver.kill(&pod.spec.cgroup) {
            tracing::warn!(pod = %pod.spec.id, %error, "orphaned containers could not be killed");
        }
        pod.died(now());
        let _ = self.inner.events.send(Event::PodDied { pod: pod.spec.id.clone() });
    }

    async fn call(&self, pod: &Pod, link: &Link, verb: Verb) -> Result<(Reply, Vec<OwnedFd>)> {
        match link.call(verb).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(refusal)) => Err(protocol(&pod.spec.id, refusal.message)),
            Err(Gone) => Err(pod.gone()),
        }
    }

    /// Like `call`, for verbs about a container whose refusals mean something.
    async fn ask(&self, pod: &Pod, container: &ContainerId, verb: Verb) -> Result<(Reply, Vec<OwnedFd>)> {
        match pod.link()?.call(verb).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(refusal)) => Err(refused(container, refusal)),
            Err(Gone) => Err(pod.gone()),
        }
    }
}

fn refused(container: &ContainerId, refusal: Refusal) -> Error {
    let (container, message) = (container.clone(), refusal.message);
    match refusal.kind {
        RefusalKind::NotFound => Error::ContainerNotFound(container),
        RefusalKind::NotRunning => Error::NotRunning(container),
        RefusalKind::Exists => Error::AlreadyExists(format!("container {container}")),
        RefusalKind::Start => Error::Start { container, message },
        RefusalKind::Create | RefusalKind::Failed => Error::Create { container, message },
    }
}

fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "creation and loss of pods are facts of this host, stamped here")]
    Timestamp::now()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Io { what: "run", path: PathBuf::new(), source: io::Error::other(error) }),
    }
}

/// Runs to the end even when the caller loses interest: half a start would leave a container that nobody lists.
async fn whole<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Io { what: "run", path: PathBuf::new(), source: io::Error::other(error) }),
    }
}

impl Runtime for Shims {
    fn list(&self) -> BoxFuture<'_, Result<Vec<PodInfo>>> {
        async {
            self.adopted().await;
            let pods: Vec<Arc<Pod>> = self.inner.pods.lock().values().cloned().collect();
            Ok(pods.iter().map(|pod| pod.info()).collect())
        }
        .boxed()
    }

    fn pod<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<PodInfo>> {
        async { Ok(self.found(pod).await?.info()) }.boxed()
    }

    fn apply_cgroup<'a>(&'a self, path: &'a str, resources: &'a Resources) -> BoxFuture<'a, Result<()>> {
        let (this, path, resources) = (self.clone(), path.to_owned(), resources.clone());
        blocking(move || {
            this.inner.driver.ensure(&path)?;
            this.inner.driver.apply(&path, &resources)
        })
        .boxed()
    }

    fn start_pod(&self, spec: PodSpec) -> BoxFuture<'_, Result<PodInfo>> {
        whole(self.clone().start_pod_now(spec)).boxed()
    }

    fn update_pod<'a>(&'a self, pod: &'a PodId, resources: &'a Resources) -> BoxFuture<'a, Result<()>> {
        async {
            let pod = self.found(pod).await?;
            self.inner.driver.apply(&pod.spec.cgroup, resources)
        }
        .boxed()
    }

    fn remove_pod<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<()>> {
        whole(self.clone().remove_pod_now(pod.clone())).boxed()
    }

    fn start_container(&self, pod: &PodId, spec: ContainerSpec) -> BoxFuture<'_, Result<ContainerInfo>> {
        whole(self.clone().start_container_now(pod.clone(), spec)).boxed()
    }

    fn update_container<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerId,
        resources: &'a Resources,
    ) -> BoxFuture<'a, Result<()>> {
        async {
            let pod = self.found(pod).await?;
            if let ContainerState::Exited(_) = pod.container(container)?.state {
                return Err(Error::NotRunning(container.clone()));
            }
            self.inner.driver.apply(&pod.container_cgroup(container), resources)
        }
        .boxed()
    }

    fn signal<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId, signal: i32) -> BoxFuture<'a, Result<()>> {
        async move {
            let pod = self.found(pod).await?;
            if let ContainerState::Exited(_) = pod.container(container)?.state {
                return Ok(());
            }
            let verb = Verb::Signal { container: container.0.clone(), signal };
            self.ask(&pod, container, verb).await.map(drop)
        }
        .boxed()
    }

    fn wait<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId) -> BoxFuture<'a, Result<ExitStatus>> {
        async { self.found(pod).await?.wait(container).await }.boxed()
    }

    fn remove_container<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        whole(self.clone().remove_container_now(pod.clone(), container.clone())).boxed()
    }

    fn exec<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerId,
        spec: ExecSpec,
    ) -> BoxFuture<'a, Result<Session>> {
        self.clone().exec_now(pod.clone(), container.clone(), spec).boxed()
    }

    fn attach<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerId,
        spec: AttachSpec,
    ) -> BoxFuture<'a, Result<Session>> {
        self.clone().attach_now(pod.clone(), container.clone(), spec).boxed()
    }

    fn reopen_log<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        async {
            let pod = self.found(pod).await?;
            self.ask(&pod, container, Verb::ReopenLog { container: container.0.clone() }).await.map(drop)
        }
        .boxed()
    }

    fn stats<'a>(&'a self, cgroup: &'a str) -> BoxFuture<'a, Result<Stats>> {
        async move { self.inner.driver.stats(cgroup) }.boxed()
    }

    fn events(&self) -> Events {
        Events::new(self.inner.events.subscribe())
    }
}
