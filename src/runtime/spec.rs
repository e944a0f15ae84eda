//! What a caller asks for: plain data, already decided. No field means "look it up": names, defaults and policies were
//! resolved before. Turned into an OCI spec by [`crate::oci`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Name of a pod on this host, chosen by the caller (a UID serves well): 1..=64 bytes of `[A-Za-z0-9_.-]`, not starting
/// with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodId(pub String);

/// Name of a container, unique on this host, chosen by the caller: same form as [`PodId`]. A restarted container is a new
/// container with a new id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(pub String);

impl std::fmt::Display for PodId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Length limit of both ids; with the run directory in front, paths of sockets and cgroups stay short.
pub const ID_BYTES_MAX: usize = 64;

/// Whether `id` may name a pod or a container: it becomes a file name and a cgroup name.
pub fn valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= ID_BYTES_MAX
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Where the pod's network is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetworkNamespace {
    #[default]
    Host,
    /// A namespace pinned by a mount, made and removed by the caller (room `net`).
    Path(PathBuf),
}

/// Whose namespace the containers of a pod live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Namespace {
    /// One for the whole pod, held by the shim.
    #[default]
    Pod,
    /// Each container its own; only for processes (`pid`).
    Container,
    Host,
}

/// A pod: what its containers share. Starting it starts no container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    pub id: PodId,
    /// Kernel host name inside the pod (at most 64 bytes); ignored with the host's UTS namespace.
    pub hostname: String,
    /// Kernel domain name (not DNS search); empty leaves the kernel's `(none)`.
    #[serde(default)]
    pub domainname: String,
    pub network: NetworkNamespace,
    /// `Container` is not allowed here.
    pub ipc: Namespace,
    /// `Container` is not allowed here.
    pub uts: Namespace,
    /// `Pod` starts a small first process that reaps (shared process namespace).
    pub pid: Namespace,
    /// Dotted names to values, written inside the pod's namespaces before any container starts.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Path below the runtime's cgroup root, without a leading slash: `kubepods/burstable/pod<uid>`. Parents are made.
    pub cgroup: String,
    pub resources: Resources,
    /// Size limit of the `/dev/shm` that the containers share. 64 MiB is what every runtime gives.
    #[serde(default = "default_shm_size_bytes")]
    pub shm_size_bytes: u64,
    /// Opaque to the runtime; kept on disk and handed back by `list`, for adoption after a restart. At most 256 KiB in all.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

pub const fn default_shm_size_bytes() -> u64 {
    64 << 20
}

/// Limits of a cgroup. `None` leaves what is there (a new cgroup: the kernel's default, no limit).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Bytes; -1 is no limit.
    pub memory_limit_bytes: Option<i64>,
    /// Memory and swap together, bytes; -1 is no limit. Set equal to the memory limit for "no swap". Silently without effect
    /// where the kernel accounts no swap.
    pub memory_and_swap_limit_bytes: Option<i64>,
    /// Protected memory (cgroup v2 `memory.min`); ignored on v1.
    pub memory_min_bytes: Option<u64>,
    /// Throttling limit (cgroup v2 `memory.high`); ignored on v1.
    pub memory_high_bytes: Option<u64>,
    /// Kill the whole cgroup on OOM (cgroup v2 `memory.oom.group`); ignored on v1.
    pub oom_group: Option<bool>,
    /// CPU shares as cgroup v1 counts them, 2..=262144; converted to a weight on v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period; -1 is no limit.
    pub cpu_quota_us: Option<i64>,
    /// Microseconds; 100000 when only the quota is given.
    pub cpu_period_us: Option<u64>,
    /// CPU and memory node lists as the kernel writes them (`0-1,4`).
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Tasks; -1 is no limit.
    pub pids_limit: Option<i64>,
    /// Page size as in the cgroup file name (`2MB`, `1GB`) to bytes. Sizes that the host lacks are ignored when 0.
    pub hugepages_bytes: BTreeMap<String, u64>,
}

/// A root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rootfs {
    /// Overlay of `lower` (topmost layer first; at least one) under `upper`; `upper` and `work` exist, are empty when new,
    /// and lie on one filesystem. The overlay is mounted in the container's own mount namespace only: the host never sees
    /// it and there is nothing to unmount.
    Overlay { lower: Vec<PathBuf>, upper: PathBuf, work: PathBuf },
    /// A directory used as it is.
    Directory(PathBuf),
}

/// Who a process runs as; names were resolved before (see [`crate::user`]).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub additional_gids: Vec<u32>,
}

/// How mounts that appear later travel between host and container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    /// Needs a source that lies on a shared mount of the host.
    Bidirectional,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountSource {
    /// A file or directory of the host that exists.
    Bind(PathBuf),
    /// A memory filesystem of the container's own.
    Tmpfs { size_bytes: Option<u64>, mode: u32 },
    /// Read-only overlay of layers (an image volume), topmost first.
    Layers(Vec<PathBuf>),
}

/// A mount in a container. They are made in order of `destination` depth; a mount at `/dev/shm`, `/dev/mqueue`, `/proc`,
/// `/sys` replaces the default one there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    pub source: MountSource,
    /// Absolute path in the container; made if missing.
    pub destination: PathBuf,
    pub read_only: bool,
    /// Also everything mounted below the source (needs kernel 5.12). Only with `read_only`.
    #[serde(default)]
    pub recursive_read_only: bool,
    #[serde(default)]
    pub propagation: Propagation,
}

impl Mount {
    /// A private bind mount.
    pub fn bind(source: impl Into<PathBuf>, destination: impl Into<PathBuf>, read_only: bool) -> Mount {
        Mount {
            source: MountSource::Bind(source.into()),
            destination: destination.into(),
            read_only,
            recursive_read_only: false,
            propagation: Propagation::Private,
        }
    }
}

/// Which system calls a container may make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Seccomp {
    Unconfined,
    /// The allow-list in [`crate::seccomp`], widened by the container's capabilities.
    #[default]
    RuntimeDefault,
    /// A profile as the OCI runtime spec's `linux.seccomp` or in the Docker format that `Localhost` profiles use; JSON text.
    Profile(String),
}

/// A device node to add to the default ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Node on the host; its type and numbers are read when the container is made.
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Of `rwm`.
    pub permissions: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and the like.
    pub kind: String,
    pub soft: u64,
    /// Lowered to what the daemon itself may set when that is less.
    pub hard: u64,
}

/// Where stdout and stderr go, in the CRI log format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPolicy {
    /// The live file; parent directories are made. Rotated ones get `.<YYYYMMDD-HHMMSS>` (UTC) appended.
    pub path: PathBuf,
    /// Rotate when the live file would grow beyond this. Kubernetes: 10 MiB.
    pub bytes_max: u64,
    /// Live file included; at least 2. Kubernetes: 5.
    pub files_max: u32,
}

/// A container: everything of it that its pod does not decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    pub id: ContainerId,
    /// Executable and arguments, at least one; looked up in the `PATH` of `env` when it has no slash.
    pub args: Vec<String>,
    /// `NAME=value`, in order, names unique. `HOSTNAME`, `PATH` and `HOME` are added where missing, `TERM` with a terminal.
    pub env: Vec<String>,
    /// Absolute; made if missing. Empty means `/`.
    pub cwd: PathBuf,
    pub user: User,
    pub rootfs: Rootfs,
    pub read_only_rootfs: bool,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// `CAP_…` names, see [`crate::capability::resolve`]. Those that the daemon itself lacks are left out.
    pub capabilities: Vec<String>,
    /// All devices, nothing masked, `/sys` and cgroups writable. Capabilities and seccomp are still what the fields say.
    pub privileged: bool,
    /// Process can never gain privileges (`allowPrivilegeEscalation: false`).
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// Hide `/proc/kcore` and the like (procMount Default). False is "Unmasked".
    pub mask_proc: bool,
    /// AppArmor profile name loaded on this host; `None` leaves the process unconfined. Ignored where AppArmor is off.
    pub apparmor_profile: Option<String>,
    pub rlimits: Vec<Rlimit>,
    pub resources: Resources,
    /// -1000..=1000; best effort, lowering needs CAP_SYS_RESOURCE.
    pub oom_score_adj: Option<i32>,
    pub tty: bool,
    /// Keeps a stdin that `attach` writes to; without it stdin is `/dev/null`.
    pub stdin: bool,
    /// The first attached stdin that ends closes the container's stdin for good.
    pub stdin_once: bool,
    /// `None` discards the output (attach still sees it).
    pub log: Option<LogPolicy>,
    /// Path in the container of a file whose first 4096 bytes become [`crate::ExitStatus::message`].
    pub termination_message_path: Option<PathBuf>,
    /// Runs in the process namespace of this running container of the same pod (ephemeral containers' target).
    pub pid_target: Option<ContainerId>,
    /// Opaque, handed back by `list`. At most 256 KiB in all.
    pub labels: BTreeMap<String, String>,
}

impl ContainerSpec {
    /// A plain unprivileged container: root user, default capabilities and seccomp, masked `/proc`, no limits, no log.
    pub fn new(id: impl Into<String>, args: Vec<String>, rootfs: Rootfs) -> ContainerSpec {
        ContainerSpec {
            id: ContainerId(id.into()),
            args,
            env: Vec::new(),
            cwd: PathBuf::new(),
            user: User::default(),
            rootfs,
            read_only_rootfs: false,
            mounts: Vec::new(),
            devices: Vec::new(),
            capabilities: crate::capability::DEFAULT.iter().map(|c| (*c).to_owned()).collect(),
            privileged: false,
            no_new_privileges: false,
            seccomp: Seccomp::RuntimeDefault,
            mask_proc: true,
            apparmor_profile: None,
            rlimits: Vec::new(),
            resources: Resources::default(),
            oom_score_adj: None,
            tty: false,
            stdin: false,
            stdin_once: false,
            log: None,
            termination_message_path: None,
            pid_target: None,
            labels: BTreeMap::new(),
        }
    }
}

/// A further process in a running container. It gets the container's environment, capabilities and seccomp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecSpec {
    pub args: Vec<String>,
    /// Added to the container's environment, replacing equal names.
    #[serde(default)]
    pub env: Vec<String>,
    /// `None`: the container's.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// `None`: the container's.
    #[serde(default)]
    pub user: Option<User>,
    /// One terminal instead of three pipes; stderr then arrives on stdout.
    #[serde(default)]
    pub tty: bool,
    /// Initial size of the terminal.
    #[serde(default)]
    pub size: Option<TerminalSize>,
    #[serde(default)]
    pub stdin: bool,
    #[serde(default = "yes")]
    pub stdout: bool,
    #[serde(default = "yes")]
    pub stderr: bool,
}

fn yes() -> bool {
    true
}

impl ExecSpec {
    /// Runs `args` as the container's user with stdout and stderr, no stdin, no terminal.
    pub fn new(args: Vec<String>) -> ExecSpec {
        ExecSpec {
            args,
            env: Vec::new(),
            cwd: None,
            user: None,
            tty: false,
            size: None,
            stdin: false,
            stdout: true,
            stderr: true,
        }
    }
}

/// Which streams of a running container to join. Output starts with what is written from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachSpec {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}
