//! What daemon and shim say to each other, and the files that both read. Everything here outlives a release: a newer daemon
//! adopts an older shim, so fields are only added, with defaults, and unknown fields are ignored.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::{AttachSpec, LogPolicy, TerminalSize, User};

/// Spoken version. A shim answers `Hello` with its own; the daemon uses nothing newer.
pub const VERSION: u32 = 1;

/// Largest message: one `SOCK_SEQPACKET` packet, below the default socket buffer of 208 KiB.
pub const MESSAGE_BYTES_MAX: usize = 128 << 10;

/// File names in a pod's directory.
pub const SOCKET: &str = "shim.sock";
pub const POD_FILE: &str = "pod.json";
pub const SHIM_FILE: &str = "shim.json";
pub const SHIM_LOG: &str = "shim.log";
pub const CONTAINERS_DIR: &str = "c";
/// File names in a container's directory.
pub const CONTAINER_FILE: &str = "container.json";
pub const OCI_FILE: &str = "config.json";
pub const EXIT_FILE: &str = "exit.json";
pub const MESSAGE_FILE: &str = "message";
/// A compiled filter, where the container has one.
pub const SECCOMP_FILE: &str = "seccomp.bpf";
/// Annotation of the OCI spec: capabilities that are only lent to load the filter, by name, separated by commas.
pub const LENT: &str = "dev.kedge.lent-capabilities";
pub const ROOTFS_DIR: &str = "rootfs";

/// Descriptors at which every shim holds its pod's namespaces; OCI specs name them as `/proc/self/fd/<n>`.
pub const UTS_FD: i32 = 3;
pub const IPC_FD: i32 = 4;
pub const PID_FD: i32 = 5;

/// How a shim is set up: `shim.json`, written by the daemon before it starts the shim.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Setup {
    /// `None` leaves the host's.
    pub uts: Option<Uts>,
    pub ipc: bool,
    pub pid: bool,
    /// Network namespace in which the sysctls are written.
    pub network: Option<PathBuf>,
    pub sysctls: BTreeMap<String, String>,
    /// Cgroup directories (one per v1 hierarchy, or one) for the shim itself, outside the daemon's own.
    pub shim_cgroups: Vec<PathBuf>,
    /// Those for the pod's first process, when `pid`.
    pub init_cgroups: Vec<PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Uts {
    pub hostname: String,
    pub domainname: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the daemon, repeated in the answer.
    pub id: u64,
    pub verb: Verb,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    Hello {
        version: u32,
    },
    /// Answered when no start is under way.
    State,
    Start(Box<Start>),
    Signal {
        container: String,
        signal: i32,
    },
    Remove {
        container: String,
    },
    /// Answered by `Started` with the parent's ends of stdin, stdout, stderr (or one terminal) attached.
    Exec {
        container: String,
        exec: Box<Exec>,
    },
    SignalExec {
        token: u64,
        signal: i32,
    },
    /// Answered with the descriptors of the wanted streams attached, in the order stdin, stdout, stderr.
    Attach {
        container: String,
        streams: AttachSpec,
    },
    Resize {
        container: String,
        size: TerminalSize,
    },
    ReopenLog {
        container: String,
    },
    /// Kill everything, then answer, then end.
    Shutdown,
}

/// A container to start: its directory holds the OCI spec.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    pub container: String,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    #[serde(default)]
    pub log: Option<LogPolicy>,
    /// Topmost first; empty: the OCI spec's root is used as it is.
    #[serde(default)]
    pub lower: Vec<PathBuf>,
    #[serde(default)]
    pub upper: PathBuf,
    #[serde(default)]
    pub work: PathBuf,
    /// Mounts that the creator prepares below the container's directory, in its own mount namespace.
    #[serde(default)]
    pub staged: Vec<Staged>,
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// The container's cgroup directories, to be made empty and removed at its end; joined by exec.
    pub cgroups: Vec<PathBuf>,
    /// A file with an `oom_kill <n>` line.
    pub oom_file: PathBuf,
    /// The container has no process namespace of its own: its end does not end its other processes.
    #[serde(default)]
    pub shared_pid: bool,
    /// Device rules for cgroup v2; `None` where the kernel takes them as files, or all are allowed.
    #[serde(default)]
    pub device_rules: Option<Vec<DeviceRule>>,
}

/// A volume prepared at `staged` before the OCI runtime binds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Staged {
    /// Name below the container's directory.
    pub name: String,
    pub kind: StagedKind,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StagedKind {
    /// A recursive bind without any propagation.
    Private(PathBuf),
    /// A recursive bind that keeps the peers of its source.
    Peer(PathBuf),
    /// A read-only overlay.
    Layers(Vec<PathBuf>),
}

/// One allowed device: type `a`, `c` or `b`, numbers (`None` is any), and of `rwm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    pub kind: char,
    pub major: Option<i64>,
    pub minor: Option<i64>,
    pub access: String,
}

/// A process to exec, complete.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    /// Chosen by the daemon; names the process in events and signals.
    pub token: u64,
    pub args: Vec<String>,
    /// Added to the container's, replacing equal names.
    pub env: Vec<String>,
    pub cwd: Option<PathBuf>,
    pub user: Option<User>,
    pub tty: bool,
    pub size: Option<TerminalSize>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// From shim to daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    Answer { id: u64, result: Result<Reply, Refusal> },
    ContainerExited { container: String, exit: Exit },
    ExecExited { token: u64, code: i32 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    Done,
    Hello { version: u32, pid: u32 },
    State { containers: Vec<ContainerReport> },
    Started { pid: u32, started_at_ns: i64 },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerReport {
    pub container: String,
    pub pid: u32,
    pub started_at_ns: i64,
    pub exit: Option<Exit>,
}

/// Also the content of `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub started_at_ns: i64,
    pub finished_at_ns: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    pub kind: RefusalKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RefusalKind {
    NotFound,
    NotRunning,
    Exists,
    /// Set-up failed.
    Create,
    /// The executable could not be run.
    Start,
    Failed,
}

impl Refusal {
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Refusal {
        Refusal { kind, message: message.into() }
    }
}
