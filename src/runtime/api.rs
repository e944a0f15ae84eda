//! The seam: what any runtime promises, and what it tells. [`crate::Shims`] is the real one, [`crate::Fake`] the scripted one.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::broadcast;

use crate::spec::{AttachSpec, ContainerId, ContainerSpec, ExecSpec, PodId, PodSpec, Resources, TerminalSize};
use crate::{Error, Result};

/// Runs pods on one host. Every verb may be called from any task, in any order, for different pods at the same time; calls
/// for one pod are carried out in the order in which its shim receives them. Dropping a future does not undo what it began.
pub trait Runtime: Send + Sync {
    /// Every pod that lives, or that died and was not removed. Adopts, at its first call, what an earlier daemon left
    /// running. Cheap afterwards: answered from memory.
    fn list(&self) -> BoxFuture<'_, Result<Vec<PodInfo>>>;

    /// One pod, as `list` would show it. Errors: `PodNotFound`.
    fn pod<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<PodInfo>>;

    /// Makes or updates a cgroup that groups pods (`kubepods`, `kubepods/burstable`), path as in [`PodSpec::cgroup`].
    fn apply_cgroup<'a>(&'a self, path: &'a str, resources: &'a Resources) -> BoxFuture<'a, Result<()>>;

    /// Makes cgroup and namespaces and starts the pod's shim. No container runs yet. On error nothing is left behind.
    /// Errors: `AlreadyExists`, `Invalid`, `Cgroup`, `Io`.
    fn start_pod(&self, spec: PodSpec) -> BoxFuture<'_, Result<PodInfo>>;

    /// Changes the limits of the pod's cgroup.
    fn update_pod<'a>(&'a self, pod: &'a PodId, resources: &'a Resources) -> BoxFuture<'a, Result<()>>;

    /// Kills whatever still runs, removes containers, mounts, cgroup and shim. Idempotent: removing a pod that is not there
    /// succeeds. Works for pods whose shim died. Does not touch the network namespace, the log files, or the snapshot.
    fn remove_pod<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<()>>;

    /// Creates and starts a container. When it answers, the process was executed. On error nothing is left of it.
    /// Errors: `Create` (set-up failed), `Start` (the executable could not be run), `AlreadyExists`, `Invalid`, `ShimGone`.
    fn start_container(&self, pod: &PodId, spec: ContainerSpec) -> BoxFuture<'_, Result<ContainerInfo>>;

    /// Changes the limits of a running container.
    fn update_container<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerId,
        resources: &'a Resources,
    ) -> BoxFuture<'a, Result<()>>;

    /// Sends a signal to the container's first process. Succeeds without effect when it has exited. `SIGKILL` (9) goes to
    /// every process of the container.
    fn signal<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId, signal: i32) -> BoxFuture<'a, Result<()>>;

    /// Waits until the container has exited. Errors: `ContainerNotFound`, `ShimGone`.
    fn wait<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId) -> BoxFuture<'a, Result<ExitStatus>>;

    /// Kills the container if it runs, and forgets it. Idempotent. The log file stays.
    fn remove_container<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId) -> BoxFuture<'a, Result<()>>;

    /// Runs a further process. Errors: `NotRunning`, `Exec`.
    fn exec<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId, spec: ExecSpec)
    -> BoxFuture<'a, Result<Session>>;

    /// Joins the streams of the container's first process. Its session ends with the container; an attached reader that
    /// does not keep up with 1 MiB of output is disconnected rather than waited for. Errors: `NotRunning`.
    fn attach<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerId,
        spec: AttachSpec,
    ) -> BoxFuture<'a, Result<Session>>;

    /// Closes and opens the log file anew (after somebody moved it).
    fn reopen_log<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId) -> BoxFuture<'a, Result<()>>;

    /// What a cgroup uses now; path as in [`PodSpec::cgroup`], `<pod cgroup>/<container id>` for a container, empty for all.
    fn stats<'a>(&'a self, cgroup: &'a str) -> BoxFuture<'a, Result<Stats>>;

    /// A new subscription. Events say *look again*, nothing more: the truth is in `pod` and `list`.
    fn events(&self) -> Events;
}

#[derive(Debug, Clone, PartialEq)]
pub struct PodInfo {
    pub id: PodId,
    pub state: PodState,
    pub labels: BTreeMap<String, String>,
    /// As given to `start_pod`.
    pub spec: Arc<PodSpec>,
    pub created_at: Timestamp,
    /// In the order in which they were started.
    pub containers: Vec<ContainerInfo>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodState {
    /// The shim answers.
    Ready,
    /// The shim is gone. The runtime has killed what was left of its containers, they show as exited; the caller removes
    /// the pod.
    Dead,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerInfo {
    pub id: ContainerId,
    pub state: ContainerState,
    pub labels: BTreeMap<String, String>,
    pub started_at: Timestamp,
    pub tty: bool,
    pub stdin: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// The pid is the host's.
    Running {
        pid: u32,
    },
    Exited(ExitStatus),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitStatus {
    /// Exit code, or 128 + signal. 137 when the shim was lost and the true code is not known (`lost`).
    pub code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// The kernel killed a process of the container for memory.
    pub oom_killed: bool,
    /// The shim died before it could see the exit.
    pub lost: bool,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    /// First 4096 bytes of the termination message file; empty when there is none.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    ContainerExited {
        pod: PodId,
        container: ContainerId,
    },
    /// The shim is gone: state `Dead`.
    PodDied {
        pod: PodId,
    },
    /// The subscriber was too slow and missed some: look at everything.
    Missed,
}

/// A subscription to events; dropped, it ends.
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    pub(crate) fn new(receiver: broadcast::Receiver<Event>) -> Events {
        Events(receiver)
    }

    /// The next event; `None` once the runtime was dropped. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Event::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// What a cgroup uses. Counters that the host does not keep are zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    pub cpu_usage_ns: u64,
    pub cpu_throttled_periods: u64,
    pub cpu_periods: u64,
    pub memory_usage_bytes: u64,
    /// Usage less what the kernel could drop at once (inactive file pages): what eviction counts.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub memory_cache_bytes: u64,
    /// `None` when there is no limit.
    pub memory_limit_bytes: Option<u64>,
    pub swap_usage_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pids: u64,
    /// Since the cgroup was made.
    pub oom_kills: u64,
}

/// The streams of an exec or an attach. Dropping the session closes the streams; it does not kill an exec'd process.
pub struct Session {
    /// Dropping it is end of file for the process (attach: only with `stdin_once`).
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    /// Only with a terminal.
    pub resizer: Option<Resizer>,
    /// The exit code (128 + signal) of the exec'd process, or of the container for an attach. May be awaited with the
    /// streams still open. Errors: `ShimGone`.
    pub exit: BoxFuture<'static, Result<i32>>,
    /// Sends a signal to the exec'd process (its whole process group for 9); for an attach, to the container.
    pub killer: Arc<dyn Fn(i32) -> BoxFuture<'static, Result<()>> + Send + Sync>,
}

/// Sets the size of a terminal; may be cloned and used from another task.
#[derive(Clone)]
pub struct Resizer(pub(crate) Arc<dyn Fn(TerminalSize) -> BoxFuture<'static, Result<()>> + Send + Sync>);

impl Resizer {
    /// For runtimes of other makes, fakes above all.
    pub fn new(resize: impl Fn(TerminalSize) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static) -> Resizer {
        Resizer(Arc::new(resize))
    }

    /// Succeeds without effect when the process has exited.
    pub async fn resize(&self, size: TerminalSize) -> Result<()> {
        (self.0)(size).await
    }
}

/// The reading end of a pipe or a terminal. A terminal whose process is gone reads as end of file.
pub struct Reader(AsyncFd<OwnedFd>);

/// The writing end of a pipe or a terminal. A terminal is hung up by dropping both ends.
pub struct Writer(AsyncFd<OwnedFd>);

impl Reader {
    /// Takes a pipe, socket or terminal; must be called within a tokio runtime. Errors: the descriptor cannot be polled.
    pub fn new(fd: OwnedFd) -> io::Result<Reader> {
        set_nonblocking(&fd)?;
        Ok(Reader(register(fd)?))
    }
}

impl Writer {
    /// Takes a pipe, socket or terminal; must be called within a tokio runtime. Errors: the descriptor cannot be polled.
    pub fn new(fd: OwnedFd) -> io::Result<Writer> {
        set_nonblocking(&fd)?;
        Ok(Writer(register(fd)?))
    }
}

fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // JUSTIFICATION: tokio asks for a promise about the descriptor's lifetime that it cannot check for arbitrary types.
    // SAFETY: an `OwnedFd` owns its open descriptor until dropped and always reports the same number.
    Ok(unsafe { AsyncFd::register(fd)? })
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = std::task::ready!(self.0.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            match guard.try_io(|fd| match nix::unistd::read(fd.get_ref(), room) {
                // A terminal whose last user is gone says EIO where a pipe says end of file.
                Err(nix::errno::Errno::EIO) => Ok(0),
                other => other.map_err(io::Error::from),
            }) {
                Ok(Ok(count)) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = std::task::ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|fd| nix::unistd::write(fd.get_ref(), bytes).map_err(io::Error::from)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing to wait for: end of file is sent by dropping the writer.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Session {
    /// Kills the exec'd process.
    pub async fn kill(&self) -> Result<()> {
        (self.killer)(libc::SIGKILL).await
    }
}

/// An error that nobody can hit unless a lock-step between daemon and shim is broken.
pub(crate) fn protocol(pod: &PodId, message: impl Into<String>) -> Error {
    Error::Protocol { pod: pod.clone(), message: message.into() }
}
