//! The real runtime: one shim process per pod, on this host. Prepares directories, cgroups and OCI specs; everything that
//! touches a container's process happens in the shim.

mod link;
mod pod;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, broadcast};

use crate::api::{
    ContainerInfo, ContainerState, Event, Events, ExitStatus, PodInfo, Reader, Resizer, Runtime, Session, Stats,
    Writer, protocol,
};
use crate::cgroup::{Driver, Version};
use crate::oci::{self, DeviceNode, Facts, Place};
use crate::shim::protocol::{
    CONTAINER_FILE, CONTAINERS_DIR, Exec, MESSAGE_FILE, OCI_FILE, POD_FILE, ROOTFS_DIR, Refusal, RefusalKind, Reply,
    SECCOMP_FILE, SHIM_FILE, Setup, Start, Uts, Verb,
};
use crate::shim::sys;
use crate::spec::{
    AttachSpec, ContainerId, ContainerSpec, ExecSpec, MountSource, Namespace, NetworkNamespace, PodId, PodSpec,
    Resources, Rootfs, valid_id,
};
use crate::{Error, Result};
use link::{Gone, Link};
use pod::{ContainerFile, Pod, PodFile};

/// Events kept for a slow subscriber; a node has some hundreds of containers.
const EVENTS_MAX: usize = 1024;
/// Labels are for names and hashes; more is somebody's mistake.
const LABELS_BYTES_MAX: usize = 256 << 10;
/// How long a shim may take to kill its pod before it is killed itself: processes in uninterruptible sleep take seconds.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// The kernel tells nobody when a v1 cgroup has emptied: look again this often, this many times (10 s).
const EMPTY_LOOK: Duration = Duration::from_millis(5);
const EMPTY_LOOKS_MAX: u32 = 2000;
/// Compiled filters that are kept, of about 5 KiB each: a node has a handful of profiles and sets of capabilities.
const FILTERS_MAX: usize = 32;
/// The shims' own cgroup, beside the pods'.
const SHIMS_CGROUP: &str = "shims";
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
        let facts = facts(driver.version());
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

    async fn start_pod_now(self, spec: PodSpec) -> Result<PodInfo> {
        check_pod(&spec)?;
        self.adopted().await;
        let dir = self.inner.config.run_dir.join("pods").join(&spec.id.0);
        let pod = Arc::new(Pod::new(Arc::new(spec), dir, now()));
        {
            let mut pods = self.inner.pods.lock();
            if pods.contains_key(&pod.spec.id) {
                return Err(Error::AlreadyExists(format!("pod {}", pod.spec.id)));
            }
            pods.insert(pod.spec.id.clone(), pod.clone());
        }
        let started = async {
            let (this, made) = (self.clone(), pod.clone());
            blocking(move || this.inner.prepare_pod(&made)).await?;
            self.connect(&pod).await
        };
        match started.await {
            Ok(_) => Ok(pod.info()),
            Err(error) => {
                pod.removing.store(true, Ordering::Release);
                if let Err(error) = self.sweep(&pod).await {
                    tracing::warn!(pod = %pod.spec.id, %error, "remains of a pod that did not start");
                }
                self.inner.pods.lock().remove(&pod.spec.id);
                Err(error)
            }
        }
    }

    async fn remove_pod_now(self, id: PodId) -> Result<()> {
        self.adopted().await;
        let Some(pod) = self.inner.pods.lock().get(&id).cloned() else { return Ok(()) };
        pod.removing.store(true, Ordering::Release);
        if let Ok(link) = pod.link() {
            let end = async {
                let _ = link.call(Verb::Shutdown).await;
                link.closed().await;
            };
            if tokio::time::timeout(SHUTDOWN_MAX, end).await.is_err() {
                tracing::warn!(pod = %id, "shim did not end its pod in time");
            }
            if !link.is_closed()
                && let Some(pid) = *pod.shim_pid.lock()
            {
                let _ = sys::kill(pid as i32, libc::SIGKILL);
            }
        }
        self.sweep(&pod).await?;
        pod.died(now());
        self.inner.pods.lock().remove(&id);
        Ok(())
    }

    /// Removes every trace of a pod whose shim is gone.
    async fn sweep(&self, pod: &Arc<Pod>) -> Result<()> {
        let mut looks = 0;
        loop {
            self.inner.driver.kill(&pod.spec.cgroup)?;
            match self.inner.driver.remove(&pod.spec.cgroup) {
                Ok(()) => break,
                Err(_) if looks < EMPTY_LOOKS_MAX => {
                    looks += 1;
                    tokio::time::sleep(EMPTY_LOOK).await;
                }
                Err(error) => return Err(error),
            }
        }
        let dir = pod.dir.clone();
        blocking(move || {
            let _ = nix::mount::umount2(&dir.join("shm"), nix::mount::MntFlags::MNT_DETACH);
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &dir)(error)),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn start_container_now(self, pod: PodId, spec: ContainerSpec) -> Result<ContainerInfo> {
        let pod = self.found(&pod).await?;
        if !valid_id(&spec.id.0) || spec.id.0 == INIT_CGROUP {
            return Err(Error::Invalid(format!("container id {:?}", spec.id.0)));
        }
        check_labels(&spec.labels)?;
        let pid_target = match &spec.pid_target {
            Some(target) => match pod.container(target)?.state {
                ContainerState::Running { pid } => Some(pid),
                ContainerState::Exited(_) => return Err(Error::NotRunning(target.clone())),
            },
            None => None,
        };
        let link = pod.link()?;
        let sequence = pod.reserve(&spec)?;
        let id = spec.id.clone();
        let file = ContainerFile { spec, sequence };
        let (this, made) = (self.clone(), pod.clone());
        let started = async {
            let start = blocking(move || this.inner.prepare_container(&made, &file, pid_target)).await?;
            match link.call(Verb::Start(Box::new(start))).await {
                Ok(Ok((Reply::Started { pid, started_at_ns }, _))) => pod.started(&id, pid, started_at_ns),
                Ok(Ok(_)) => Err(protocol(&pod.spec.id, "start was not answered")),
                Ok(Err(refusal)) => Err(refused(&id, refusal)),
                Err(Gone) => Err(pod.gone()),
            }
        };
        let started = started.await;
        if started.is_err() {
            pod.forget(&id);
            let _ = fs::remove_dir_all(pod.container_dir(&id));
        }
        started
    }

    async fn remove_container_now(self, pod: PodId, container: ContainerId) -> Result<()> {
        let pod = match self.found(&pod).await {
            Ok(pod) => pod,
            Err(Error::PodNotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.ask(&pod, &container, Verb::Remove { container: container.0.clone() }).await {
            Ok(_) | Err(Error::ContainerNotFound(_) | Error::ShimGone(_)) => {}
            Err(error) => return Err(error),
        }
        pod.forget(&container);
        let dir = pod.container_dir(&container);
        blocking(move || match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &dir)(error)),
            _ => Ok(()),
        })
        .await
    }

    async fn exec_now(self, pod: PodId, container: ContainerId, spec: ExecSpec) -> Result<Session> {
        let pod = self.found(&pod).await?;
        if spec.args.first().is_none_or(String::is_empty) {
            return Err(Error::Invalid("no command specified".into()));
        }
        if let ContainerState::Exited(_) = pod.container(&container)?.state {
            return Err(Error::NotRunning(container));
        }
        let link = pod.link()?;
        let token = self.inner.token.fetch_add(1, Ordering::Relaxed);
        let (tty, wanted) = (spec.tty, [spec.stdin, spec.stdout, spec.stderr]);
        let exec = Exec {
            token,
            args: spec.args,
            env: spec.env,
            cwd: spec.cwd,
            user: spec.user,
            tty,
            size: spec.size,
            stdin: spec.stdin,
            stdout: spec.stdout,
            stderr: spec.stderr,
        };
        let exit = link.expect_exec(token);
        let verb = Verb::Exec { container: container.0.clone(), exec: Box::new(exec) };
        let fds = match link.call(verb).await {
            Ok(Ok((_, fds))) => fds,
            Ok(Err(refusal)) => {
                link.forget_exec(token);
                return Err(match refusal.kind {
                    RefusalKind::Start | RefusalKind::Failed | RefusalKind::Create => {
                        Error::Exec { container, message: refusal.message }
                    }
                    _ => refused(&container, refusal),
                });
            }
            Err(Gone) => return Err(pod.gone()),
        };
        let fault = Error::io("stream of", PathBuf::from(&container.0));
        let gone = pod.gone();
        let exit = async move { exit.await.map_err(|_| gone) }.boxed();
        let killer = killer(pod.clone(), move |signal| Verb::SignalExec { token, signal });
        if tty {
            let master = one(fds).map_err(fault)?;
            return terminal_session(master, spec.stdin, exit, killer).map_err(Error::io("terminal of", container.0));
        }
        let (stdin, stdout, stderr) = streams(fds, wanted).map_err(fault)?;
        Ok(Session { stdin, stdout, stderr, resizer: None, exit, killer })
    }

    async fn attach_now(self, pod: PodId, container: ContainerId, spec: AttachSpec) -> Result<Session> {
        let pod = self.found(&pod).await?;
        let info = pod.container(&container)?;
        let verb = Verb::Attach { container: container.0.clone(), streams: spec };
        let (_, fds) = self.ask(&pod, &container, verb).await?;
        let fault = Error::io("stream of", PathBuf::from(&container.0));
        let (stdin, stdout, stderr) = streams(fds, [spec.stdin, spec.stdout, spec.stderr]).map_err(fault)?;
        let resizer = info.tty.then(|| {
            let (pod, container) = (pod.clone(), container.clone());
            Resizer::new(move |size| {
                let verb = Verb::Resize { container: container.0.clone(), size };
                tell(pod.clone(), verb)
            })
        });
        let (waiting, id) = (pod.clone(), container.clone());
        Ok(Session {
            stdin,
            stdout,
            stderr,
            resizer,
            exit: async move { Ok(waiting.wait(&id).await?.code) }.boxed(),
            killer: killer(pod, move |signal| Verb::Signal { container: container.0.clone(), signal }),
        })
    }
}

impl Inner {
    /// Everything of a pod up to a shim that answers. Blocking; what it leaves behind on error is swept by the caller.
    fn prepare_pod(&self, pod: &Pod) -> Result<()> {
        let (dir, spec) = (&pod.dir, &*pod.spec);
        let made =
            fs::DirBuilder::new().mode(0o700).create(dir).and_then(|()| fs::create_dir(dir.join(CONTAINERS_DIR)));
        made.map_err(Error::io("make", dir))?;
        self.driver.ensure(SHIMS_CGROUP)?;
        self.driver.ensure(&spec.cgroup)?;
        self.driver.apply(&spec.cgroup, &spec.resources)?;
        let init = format!("{}/{INIT_CGROUP}", spec.cgroup);
        if spec.pid == Namespace::Pod {
            self.driver.ensure(&init)?;
        }
        if spec.ipc == Namespace::Pod {
            let shm = dir.join("shm");
            fs::create_dir(&shm).map_err(Error::io("make", &shm))?;
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let options = format!("mode=1777,size={}", spec.shm_size_bytes);
            sys::mount(Some(Path::new("shm")), &shm, Some("tmpfs"), flags, Some(&options))
                .map_err(Error::io("mount", &shm))?;
        }
        let setup = Setup {
            uts: (spec.uts == Namespace::Pod)
                .then(|| Uts { hostname: spec.hostname.clone(), domainname: spec.domainname.clone() }),
            ipc: spec.ipc == Namespace::Pod,
            pid: spec.pid == Namespace::Pod,
            network: match &spec.network {
                NetworkNamespace::Path(path) => Some(path.clone()),
                NetworkNamespace::Host => None,
            },
            sysctls: spec.sysctls.clone(),
            shim_cgroups: self.driver.dirs(SHIMS_CGROUP),
            init_cgroups: if spec.pid == Namespace::Pod { self.driver.dirs(&init) } else { Vec::new() },
        };
        write_json(&dir.join(SHIM_FILE), &setup)?;
        // Last: a directory without it is half made, and swept by the next daemon.
        write_json(
            &dir.join(POD_FILE),
            &PodFile { spec: spec.clone(), created_at_ns: i64::try_from(pod.created_at.as_nanosecond()).unwrap_or(0) },
        )?;
        self.spawn(dir)
    }

    /// Starts the shim and waits until it answers. std's Command starts processes without copying this one's page tables.
    fn spawn(&self, dir: &Path) -> Result<()> {
        let [program, args @ ..] = &self.config.shim_command[..] else {
            return Err(Error::Invalid("no shim command".into()));
        };
        let output = std::process::Command::new(program)
            .args(args)
            .arg(dir)
            .env_clear()
            .stdin(std::process::Stdio::null())
            .output()
            .map_err(Error::io("start shim", program))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(Error::Io { what: "start shim in", path: dir.into(), source: io::Error::other(text.trim().to_owned()) })
    }

    fn filter(&self, profile: &serde_json::Value) -> Result<Arc<Vec<u8>>> {
        let key = profile.to_string();
        if let Some(known) = self.filters.lock().get(&key) {
            return Ok(known.clone());
        }
        let program = Arc::new(crate::seccomp::compile(profile).map_err(Error::Invalid)?);
        let mut filters = self.filters.lock();
        if filters.len() >= FILTERS_MAX {
            filters.clear();
        }
        filters.insert(key, program.clone());
        Ok(program)
    }

    /// Writes a container's directory: record, OCI spec, termination message file.
    fn prepare_container(&self, pod: &Pod, file: &ContainerFile, pid_target: Option<u32>) -> Result<Start> {
        let spec = &file.spec;
        let dir = pod.container_dir(&spec.id);
        // Left by a start that a crash cut off: the shim does not know it, or it would be in the list.
        let _ = fs::remove_dir_all(&dir);
        let rootfs = dir.join(ROOTFS_DIR);
        fs::create_dir_all(&rootfs).map_err(Error::io("make", &rootfs))?;
        let message = match &spec.termination_message_path {
            Some(path) => {
                let host = dir.join(MESSAGE_FILE);
                fs::write(&host, "").map_err(Error::io("write", &host))?;
                // Any user of the container may write it.
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
                fs::set_permissions(&host, mode).map_err(Error::io("write", &host))?;
                Some((host, path.clone()))
            }
            None => None,
        };
        let mut files = Vec::new();
        for mount in &spec.mounts {
            if let MountSource::Bind(source) = &mount.source {
                let metadata = fs::metadata(source).map_err(|error| Error::Create {
                    container: spec.id.clone(),
                    message: format!("mount source {}: {error}", source.display()),
                })?;
                if !metadata.is_dir() {
                    files.push(source.clone());
                }
            }
        }
        files.extend(message.iter().map(|(host, _)| host.clone()));
        let cgroup = pod.container_cgroup(&spec.id);
        let shm = match pod.spec.ipc {
            Namespace::Pod => pod.dir.join("shm"),
            Namespace::Host | Namespace::Container => "/dev/shm".into(),
        };
        let place = Place {
            dir: dir.clone(),
            shm,
            cgroup: self.driver.oci_path(&cgroup),
            controllers: match self.driver.version() {
                Version::V1 => self.driver.controller_dirs(&cgroup),
                Version::V2 => BTreeMap::new(),
            },
            files,
            devices: devices(spec)?,
            pid_target,
            message,
        };
        let built = oci::build(&pod.spec, spec, &place, &self.facts).map_err(Error::Invalid)?;
        if let Some(profile) = &built.seccomp {
            let path = dir.join(SECCOMP_FILE);
            fs::write(&path, &*self.filter(profile)?).map_err(Error::io("write", &path))?;
        }
        write_json(&dir.join(OCI_FILE), &built.config)?;
        write_json(&dir.join(CONTAINER_FILE), file)?;
        let (lower, upper, work) = match &spec.rootfs {
            Rootfs::Overlay { lower, upper, work } => (lower.clone(), upper.clone(), work.clone()),
            Rootfs::Directory(_) => Default::default(),
        };
        Ok(Start {
            container: spec.id.0.clone(),
            tty: spec.tty,
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            log: spec.log.clone(),
            lower,
            upper,
            work,
            staged: built.staged,
            oom_score_adj: spec.oom_score_adj,
            cgroups: self.driver.dirs(&cgroup),
            oom_file: self.driver.oom_file(&cgroup),
            shared_pid: pid_target.is_some() || pod.spec.pid != Namespace::Container,
            device_rules: built.device_rules,
        })
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

fn killer(
    pod: Arc<Pod>,
    verb: impl Fn(i32) -> Verb + Send + Sync + 'static,
) -> Arc<dyn Fn(i32) -> BoxFuture<'static, Result<()>> + Send + Sync> {
    Arc::new(move |signal| tell(pod.clone(), verb(signal)))
}

/// Asks for something whose subject may be gone by now.
fn tell(pod: Arc<Pod>, verb: Verb) -> BoxFuture<'static, Result<()>> {
    async move {
        match pod.link()?.call(verb).await {
            Ok(_) => Ok(()),
            Err(Gone) => Err(pod.gone()),
        }
    }
    .boxed()
}

fn one(fds: Vec<OwnedFd>) -> io::Result<OwnedFd> {
    fds.into_iter().next().ok_or_else(|| io::Error::other("no descriptor arrived"))
}

/// Sorts descriptors that arrived in order to the streams that were wanted.
fn streams(fds: Vec<OwnedFd>, wanted: [bool; 3]) -> io::Result<(Option<Writer>, Option<Reader>, Option<Reader>)> {
    let mut fds = fds.into_iter();
    let mut next = |wanted: bool| -> io::Result<Option<OwnedFd>> {
        match wanted {
            true => fds.next().map(Some).ok_or_else(|| io::Error::other("a descriptor is missing")),
            false => Ok(None),
        }
    };
    let [stdin, stdout, stderr] = [next(wanted[0])?, next(wanted[1])?, next(wanted[2])?];
    Ok((
        stdin.map(Writer::new).transpose()?,
        stdout.map(Reader::new).transpose()?,
        stderr.map(Reader::new).transpose()?,
    ))
}

fn terminal_session(
    master: OwnedFd,
    stdin: bool,
    exit: BoxFuture<'static, Result<i32>>,
    killer: Arc<dyn Fn(i32) -> BoxFuture<'static, Result<()>> + Send + Sync>,
) -> io::Result<Session> {
    let size = Arc::new(master.try_clone()?);
    let resizer = Resizer::new(move |to| {
        let size = size.clone();
        async move {
            let done = sys::set_terminal_size(size.as_fd(), to.columns, to.rows);
            done.map_err(Error::io("resize", "terminal"))
        }
        .boxed()
    });
    let writer = if stdin { Some(Writer::new(master.try_clone()?)?) } else { None };
    Ok(Session {
        stdin: writer,
        stdout: Some(Reader::new(master)?),
        stderr: None,
        resizer: Some(resizer),
        exit,
        killer,
    })
}

/// What this process may do for containers.
fn facts(version: Version) -> Facts {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
    let capabilities = bounding.unwrap_or(0);
    let may_raise = crate::capability::number("CAP_SYS_RESOURCE").is_some_and(|n| capabilities >> n & 1 == 1);
    let names = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let limits = names.iter().map(|name| format!("RLIMIT_{name}"));
    let rlimits = limits.filter_map(|name| Some((name.clone(), sys::hard_rlimit(&name)?)));
    let apparmor =
        fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'));
    Facts { version, capabilities, rlimits: if may_raise { BTreeMap::new() } else { rlimits.collect() }, apparmor }
}

/// The devices that a container asked for; all of the host's when it is privileged.
fn devices(spec: &ContainerSpec) -> Result<Vec<DeviceNode>> {
    let mut nodes = Vec::new();
    if spec.privileged {
        host_devices(Path::new("/dev"), 0, &mut nodes);
    }
    for device in &spec.devices {
        let node =
            device_node(&device.host_path, device.container_path.clone(), &device.permissions).ok_or_else(|| {
                Error::Create {
                    container: spec.id.clone(),
                    message: format!("{} is not a device", device.host_path.display()),
                }
            })?;
        nodes.retain(|known| known.path != node.path);
        nodes.push(node);
    }
    Ok(nodes)
}

/// Depth of /dev that is looked at for privileged containers: `/dev/bus/usb/001/002` is the deepest in use.
const DEV_DEPTH_MAX: u32 = 4;

fn host_devices(dir: &Path, depth: u32, nodes: &mut Vec<DeviceNode>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(|entry| entry.ok()) {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(kind) = entry.file_type() else { continue };
        // Mounted or made by the runtime itself.
        if depth == 0 && ["pts", "shm", "fd", "mqueue", "console", "ptmx"].iter().any(|own| name == *own) {
            continue;
        }
        if kind.is_dir() && depth < DEV_DEPTH_MAX {
            host_devices(&path, depth + 1, nodes);
        } else if kind.is_char_device() || kind.is_block_device() {
            nodes.extend(device_node(&path, path.clone(), "rwm"));
        }
    }
}

fn device_node(host: &Path, path: PathBuf, access: &str) -> Option<DeviceNode> {
    let metadata = fs::metadata(host).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    Some(DeviceNode {
        path,
        kind,
        major: i64::from(libc::major(metadata.rdev())),
        minor: i64::from(libc::minor(metadata.rdev())),
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

fn check_pod(spec: &PodSpec) -> Result<()> {
    if !valid_id(&spec.id.0) {
        return Err(Error::Invalid(format!("pod id {:?}", spec.id.0)));
    }
    if spec.hostname.len() > 64 || spec.domainname.len() > 64 {
        return Err(Error::Invalid("host and domain name have at most 64 bytes".into()));
    }
    if spec.ipc == Namespace::Container || spec.uts == Namespace::Container {
        return Err(Error::Invalid("only the process namespace can be a container's own".into()));
    }
    if spec.cgroup.is_empty() || spec.cgroup == SHIMS_CGROUP {
        return Err(Error::Invalid(format!("cgroup {:?}", spec.cgroup)));
    }
    check_labels(&spec.labels)
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > LABELS_BYTES_MAX {
        return Err(Error::Invalid(format!("labels of {bytes} bytes; at most {LABELS_BYTES_MAX}")));
    }
    Ok(())
}

/// By rename, so that a reader finds all of it or nothing. Not synced: the run directory does not survive a boot.
fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let bytes = serde_json::to_vec(value).map_err(|error| Error::io("encode", path)(error.into()))?;
    fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path)).map_err(Error::io("write", path))
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
