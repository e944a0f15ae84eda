//! Waiting for a folder to change, in the kernel: nothing runs while nothing changes. Source: inotify(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// The changes of one folder, not of those below it. Changes between two calls are one.
pub struct FolderChanges(AsyncFd<Watched>);

struct Watched(Inotify);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl FolderChanges {
    /// Begins to watch. Look at the folder once afterwards: what came before is not told. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The folder is not there, or the user's limit of watches is reached.
    pub fn of(folder: &Path) -> io::Result<Self> {
        Self::watch(folder, AddWatchFlags::empty())
    }

    /// As [`FolderChanges::of`], and tells of what is made too: for sockets, to which nobody writes.
    ///
    /// # Errors
    /// As [`FolderChanges::of`].
    pub fn with_new(folder: &Path) -> io::Result<Self> {
        Self::watch(folder, AddWatchFlags::IN_CREATE)
    }

    fn watch(folder: &Path, more: AddWatchFlags) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // The end of a write, not its start: a half-written file would only be refused.
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | more;
        inotify.add_watch(folder, changes)?;
        // JUSTIFICATION: tokio offers no safe way to wait for a descriptor that is not a socket or a pipe.
        // SAFETY: `Watched` owns the descriptor for as long as it lives and never replaces it.
        Ok(Self(unsafe { AsyncFd::register(Watched(inotify)) }?))
    }

    /// Waits for the next change. What the events say does not matter: the folder itself is to be looked at. Cancel-safe.
    ///
    /// # Errors
    /// The reactor is gone.
    pub async fn next(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        while self.0.get_ref().0.read_events().is_ok() {}
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_finished_write_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let changes = FolderChanges::of(dir.path()).unwrap();
        std::fs::write(dir.path().join("a"), "1").unwrap();
        std::fs::write(dir.path().join("b"), "2").unwrap();
        changes.next().await.unwrap();
        let again = tokio::time::timeout(std::time::Duration::from_millis(50), changes.next()).await;
        assert!(again.is_err());
        std::fs::remove_file(dir.path().join("a")).unwrap();
        changes.next().await.unwrap();
    }
}
