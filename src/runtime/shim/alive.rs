//! Who the shim of a pod is, when its socket cannot say: the process that holds a lock on the pod's `shim.json`.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};

/// Locks `file` for this process until the handle is dropped. The lock is one of POSIX: it belongs to the process, so a fork
/// does not have it, and it is gone once the process closes any handle of the file. Errors: somebody else holds it.
pub fn hold(file: &Path) -> io::Result<File> {
    let held = OpenOptions::new().read(true).write(true).open(file)?;
    fcntl(&held, FcntlArg::F_SETLK(&whole()))?;
    Ok(held)
}

/// The process that holds `file`, if there is one.
#[must_use]
pub fn holder(file: &Path) -> Option<i32> {
    let asked = OpenOptions::new().read(true).write(true).open(file).ok()?;
    let mut lock = whole();
    fcntl(&asked, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (lock.l_type != libc::F_UNLCK as libc::c_short && lock.l_pid > 0).then_some(lock.l_pid)
}

/// A writer's lock on all of a file.
fn whole() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
