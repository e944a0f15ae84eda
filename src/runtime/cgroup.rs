//! The cgroup subtree of this room, on v1 (hybrid) and v2: made, limited, read and removed here. Nothing outside the one root
//! is ever written, except that v2 controllers are switched on in the parents of the root.
//!
//! libcontainer makes the containers' own cgroups below the pods'; the shim removes those with the functions here.

pub mod devices;
mod driver;
mod limits;
mod stats;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

pub use devices::restrict as restrict_devices;
pub use driver::{Driver, Version, make_v1};
pub use limits::{pod_weight, writes};

/// The file through which a v1 cgroup takes single threads. v2 has none.
const TASKS: &str = "tasks";

/// Whether `dir` is a cgroup of a v1 hierarchy.
pub fn is_v1(dir: &Path) -> bool {
    dir.join(TASKS).exists()
}

/// Moves the calling process, which must have one thread, into the cgroup `dir`.
///
/// On v1 it moves as a thread, which is the same for it and takes no time: `cgroup.procs` holds up every fork of the host and
/// waits for an RCU grace period first (5 to 20 ms), which one's own thread is spared. v2 has that for threaded cgroups only.
/// Source: Linux `kernel/cgroup/cgroup.c` `cgroup_procs_write_start`.
pub fn join(dir: &Path) -> io::Result<()> {
    match fs::File::options().write(true).open(dir.join(TASKS)) {
        Ok(mut tasks) => tasks.write_all(b"0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::write(dir.join("cgroup.procs"), "0"),
        Err(error) => Err(error),
    }
}

/// Sends SIGKILL to every process in `dir` and below. Errors are those of reading; processes that are gone are none.
pub fn kill_tree(dir: &Path) -> io::Result<()> {
    // One write since Linux 5.14, race free.
    if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return Ok(());
    }
    for child in children(dir)? {
        kill_tree(&child)?;
    }
    for line in fs::read_to_string(dir.join("cgroup.procs"))?.lines() {
        if let Ok(pid) = line.parse::<i32>()
            && pid > 0
        {
            crate::shim::sys::kill(pid, libc::SIGKILL)?;
        }
    }
    Ok(())
}

/// Removes `dir` and everything below; not being there is success. Errors: busy while a process is in it.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(()) => return Ok(()),
        Err(_) => {}
    }
    for child in children(dir)? {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn children(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    Ok(entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}
