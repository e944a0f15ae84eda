//! Containers, images and their streams on one host. This room speaks OCI: pods here are groups of containers that share
//! namespaces and a cgroup, nothing more. It never speaks Kubernetes, never reads an API object, never decides a restart.
//!
//! Two halves, two processes:
//!
//! ```text
//! daemon (tokio, many threads)                    shim: same binary, `kedge shim`, one per pod, one thread around poll(2)
//! ┌────────────────────────────┐  unix socket,    ┌──────────────────────────────────────────────┐
//! │ Runtime (trait) ── Shims   │  versioned       │ holds namespaces and stdio, writes logs, reaps│
//! │ spec → OCI spec, cgroups   │ ───────────────► │  └─ creator: forked per call, runs libcontainer│
//! └────────────────────────────┘  fds by          │      └─ the container's first process         │
//!                                 SCM_RIGHTS      └──────────────────────────────────────────────┘
//! ```
//!
//! The daemon may die at any moment: shims and containers go on, and [`Runtime::list`] of the next daemon finds them again.
//! libcontainer is only ever called in a process that has one thread, because it runs allocating code after a bare clone.

pub mod api;
pub mod capability;
pub mod cgroup;
mod error;
pub mod fake;
pub mod folder;
pub mod image;
pub mod oci;
pub mod seccomp;
pub mod shim;
mod shims;
pub mod spec;
pub mod user;

pub use api::{
    ContainerInfo, ContainerState, Event, Events, ExitStatus, PodInfo, PodState, Reader, Resizer, Runtime, Session,
    Stats, Writer,
};
pub use error::{Error, Result};
pub use fake::Fake;
pub use shims::{Config, SHIMS_CGROUP, Shims};
pub use spec::{
    AttachSpec, ContainerId, ContainerSpec, Device, ExecSpec, LogPolicy, Mount, MountSource, Namespace,
    NetworkNamespace, PodId, PodSpec, Propagation, Resources, Rlimit, Rootfs, Seccomp, TerminalSize, User,
};
