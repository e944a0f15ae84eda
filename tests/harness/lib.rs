//! Test hosts: machines made of namespaces, joined only to each other.
//!
//! A [`Host`] has its own process, network, mount and UTS namespaces, its own root file system (an overlay over this
//! machine's, so that nothing it writes stays) and its own cgroup subtree. Hosts are plugged into a [`Switch`]; there is no
//! route to anything else. Dropping a host ends every process in it and removes every trace.
//!
//! What never lives here: an assertion about Kedge. Needs root, `ip`, `unshare`, `nsenter` and `mount`.

mod host;
pub mod kedge;
pub mod machine;
mod machine_boot;
mod machine_disk;
mod machine_kernel;
mod switch;
pub mod wait;

pub use host::{Host, Output};
pub use machine::{Machine, MachineSpec};
pub use machine_disk::Lost;
pub use machine_kernel::{Arch, Kernel};
pub use switch::Switch;

use anyhow::{Context, Result, bail};
use std::process::Command;

/// Runs a command of this machine to its end; a failure carries what it printed.
pub fn sh(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().with_context(|| format!("{program} {args:?}"))?;
    if !output.status.success() {
        bail!("{program} {args:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A short name that no other test of this run has.
pub fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
