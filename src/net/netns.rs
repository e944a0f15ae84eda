//! Network namespaces: made, pinned, left. Only ever on a thread that is ours alone, never by fork.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use crate::{Error, netlink::Socket, sysctl};

/// The calling thread's namespace.
const HERE: &str = "/proc/thread-self/ns/net";

/// The calling thread's network namespace, kept alive by the descriptor.
pub(crate) fn current() -> Result<OwnedFd, Error> {
    File::open(HERE).map(OwnedFd::from).map_err(Error::io("open", HERE))
}

/// A namespace that was just made.
pub(crate) struct Made {
    pub(crate) namespace: OwnedFd,
    /// A routing socket that works inside it, from any thread.
    pub(crate) socket: Socket,
}

/// Why [`make`] failed.
pub(crate) enum Failure {
    /// The thread is back home; another try may succeed.
    Home(Error),
    /// The thread could not return: it must end, or it would do the host's work in a pod's namespace.
    Astray(Error),
}

/// Makes a namespace, pins it at `pin` (replacing what is there), writes the sysctls in it and opens a socket in it. The calling
/// thread is inside for the time of a few system calls and back in `home` when this returns.
pub(crate) fn make<'a>(
    pin: &Path,
    home: &OwnedFd,
    sysctls: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Made, Failure> {
    unpin(pin).map_err(Failure::Home)?;
    File::create(pin).map_err(|e| Failure::Home(Error::io("create", pin)(e)))?;
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|e| Failure::Home(Error::Namespace { what: "unshare network", source: e.into() }))?;
    let made = inside(pin, sysctls);
    setns(home.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|e| Failure::Astray(Error::Namespace { what: "return to the host's network", source: e.into() }))?;
    made.map_err(Failure::Home)
}

/// Opens a socket in the namespace that is pinned there. The calling thread is back in `home` when this returns.
pub(crate) fn enter(pin: &Path, home: &OwnedFd) -> Result<Made, Failure> {
    let namespace = File::open(pin).map(OwnedFd::from).map_err(|e| Failure::Home(Error::io("open", pin)(e)))?;
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|e| Failure::Home(Error::Namespace { what: "enter a pod's network", source: e.into() }))?;
    let socket = Socket::route();
    setns(home.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|e| Failure::Astray(Error::Namespace { what: "return to the host's network", source: e.into() }))?;
    Ok(Made { namespace, socket: socket.map_err(Failure::Home)? })
}

fn inside<'a>(pin: &Path, sysctls: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Made, Error> {
    mount(Some(HERE), pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| Error::io("mount", pin)(e.into()))?;
    let namespace = current()?;
    for (name, value) in sysctls {
        sysctl::set(name, value)?;
    }
    Ok(Made { namespace, socket: Socket::route()? })
}

/// Unmounts and removes a pin. Nothing there is fine.
pub(crate) fn unpin(pin: &Path) -> Result<(), Error> {
    loop {
        match umount2(pin, MntFlags::MNT_DETACH) {
            // A crash between two starts can leave more than one mount on the file.
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(errno) => return Err(Error::io("unmount", pin)(errno.into())),
        }
    }
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", pin)(error)),
        _ => Ok(()),
    }
}

/// Whether the pin holds a namespace (and is not just the file under it).
pub(crate) fn is_pinned(pin: &Path) -> bool {
    nix::sys::statfs::statfs(pin).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}
