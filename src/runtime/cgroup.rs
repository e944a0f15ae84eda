//! The cgroup subtree of this room, on v1 (hybrid) and v2: made, limited, read and removed here. Nothing outside the one root
//! is ever written, except that v2 controllers are switched on in the parents of the root.
//!
//! libcontainer makes the containers' own cgroups below the pods'; the shim removes those with the functions here.

pub mod devices;
mod driver;
mod limits;
mod stats;

use std::fs;
use std::io;
use std::path::Path;

pub use devices::restrict as restrict_devices;
pub use driver::{Driver, Version};
pub use limits::{pod_weight, writes};

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
