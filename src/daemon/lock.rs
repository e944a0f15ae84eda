//! What one daemon alone may use at a time: the run folder, and the host state that is one per network namespace (bridge
//! `kedge0`, nft table `kedge`). Both are taken before anything of the host is touched, and end with the process.
//!
//! What never lives here: the lock of the state database, which is the store's own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};

/// The lock in the run folder; it holds its holder's pid and stays when the daemon ends, or two could lock two files.
const FILE: &str = "kedge.lock";
/// The lock of the network namespace: abstract names of UNIX sockets are one set per network namespace, whatever the mounts,
/// and go with the process. Source: unix(7).
const NETWORK: &str = "kedge-host-network";

/// Who holds what was asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is used by {}", holder(*.pid))]
pub struct Taken {
    what: String,
    /// 0 where it is not known: a process of another process namespace.
    pid: i32,
}

fn holder(pid: i32) -> String {
    if pid > 0 { format!("process {pid}") } else { "a process outside this process namespace".into() }
}

/// What a running server holds. To be dropped after everything that uses the host.
pub struct Held {
    _run_dir: Flock<File>,
    network: Option<UnixListener>,
}

impl Held {
    /// Takes the run folder and, for a server with a node agent, the network namespace.
    ///
    /// # Errors
    /// [`Taken`], with what to do about it.
    pub fn take(dir: &Path, with_agent: bool) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let alone = if with_agent { "--disable-agent and another --run-dir" } else { "another --run-dir" };
        let advice = |error: anyhow::Error| match error.downcast_ref::<Taken>() {
            Some(taken) => anyhow::anyhow!("{taken}: stop it, or start this one with {alone}"),
            None => error,
        };
        let run_dir = run_dir(dir).map_err(advice)?;
        let network = if with_agent { network(NETWORK).map_err(advice)? } else { None };
        Ok(Self { _run_dir: run_dir, network })
    }

    /// Accepts those who come to ask who holds the network, so that there is always room for the next.
    ///
    /// # Errors
    /// Descriptors have run out.
    pub fn answer(&self) -> io::Result<()> {
        let Some(listener) = &self.network else { return Ok(()) };
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        Ok(())
    }
}

/// What `kedge reset` holds while it removes: nothing is taken from under a running daemon.
///
/// # Errors
/// [`Taken`].
pub fn for_reset(dirs: &BTreeSet<&Path>) -> Result<(Vec<Flock<File>>, Option<UnixListener>)> {
    let dirs = dirs.iter().filter(|dir| dir.exists());
    Ok((dirs.map(|dir| run_dir(dir)).collect::<Result<_>>()?, network(NETWORK)?))
}

fn run_dir(dir: &Path) -> Result<Flock<File>> {
    let path = dir.join(FILE);
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)?;
            writeln!(lock, "{}", std::process::id())?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            let pid = text.trim().parse().unwrap_or(0);
            Err(Taken { what: dir.display().to_string(), pid }.into())
        }
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// `None` where the name is held by somebody who cannot be a daemon: any user may bind a name, and none but root may keep
/// this host's pods from starting by it.
fn network(name: &str) -> Result<Option<UnixListener>> {
    match UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match roots_process(name) {
            Some(pid) => {
                let what = "the network of this host (bridge kedge0, nft table kedge)".to_owned();
                Err(Taken { what, pid }.into())
            }
            None => {
                tracing::warn!(
                    name,
                    "a process without root's rights holds the name of the network's lock; it is ignored"
                );
                Ok(None)
            }
        },
        Err(error) => Err(error).context("cannot lock the host's network"),
    }
}

/// The process of root that listens on the abstract `name`.
fn roots_process(name: &str) -> Option<i32> {
    // never waits: a full queue is no daemon's, which accepts at once
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let asking = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    socket::connect(asking.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).ok()?).ok()?;
    let peer = socket::getsockopt(&asking, sockopt::PeerCredentials).ok()?;
    (peer.uid() == 0).then(|| peer.pid())
}

/// A file that this process made, removed only while it is still the same file.
pub struct Mine {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl Mine {
    /// To be called when `path` was just made.
    pub fn of(path: PathBuf) -> Self {
        Self { inode: inode(&path), path }
    }

    pub fn remove(self) {
        if self.inode.is_some() && self.inode == inode(&self.path) {
            let _ = fs::remove_file(self.path);
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let held = Held::take(dir.path(), false).unwrap();
        let refused = Held::take(dir.path(), true).err().unwrap().to_string();
        let (shown, me) = (dir.path().display(), std::process::id());
        let advice = "stop it, or start this one with --disable-agent and another --run-dir";
        assert_eq!(refused, format!("{shown} is used by process {me}: {advice}"));
        assert!(for_reset(&BTreeSet::from([dir.path()])).unwrap_err().downcast_ref::<Taken>().is_some());
        drop(held);
        Held::take(dir.path(), false).unwrap();
    }

    #[test]
    fn a_network_has_one_holder() {
        let name = format!("kedge-test-{}", std::process::id());
        let held = network(&name).unwrap().unwrap();
        let again = network(&name);
        if nix::unistd::geteuid().is_root() {
            let error = again.unwrap_err();
            let taken = error.downcast_ref::<Taken>().unwrap();
            assert_eq!(taken.pid, i32::try_from(std::process::id()).unwrap());
        } else {
            assert!(again.unwrap().is_none());
        }
        drop(held);
        assert!(network(&name).unwrap().is_some());
        // a name that is bound and not listened to is no daemon's
        let silent = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        socket::bind(silent.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).unwrap()).unwrap();
        assert!(network(&name).unwrap().is_none());
    }

    #[test]
    fn only_what_is_ones_own_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kedge.pid");
        fs::write(&path, "1").unwrap();
        let mine = Mine::of(path.clone());
        // made before the first goes, so that it cannot get its inode
        fs::write(dir.path().join("other"), "2").unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        mine.remove();
        assert!(path.exists());
        Mine::of(path.clone()).remove();
        assert!(!path.exists());
    }
}
