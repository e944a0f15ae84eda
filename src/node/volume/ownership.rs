//! The group of a volume's files (`fsGroup`): every file of the volume is the group's, and the group may do what it must.
//!
//! The files are others': while they are walked, a pod may put a link in the place of one. So each is opened without following
//! links and changed by its descriptor.
//!
//! Source: kubernetes `pkg/volume/volume_linux.go`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Gid, fchownat};

const READ_WRITE: u32 = 0o660;
const READ_ONLY: u32 = 0o440;
const SEARCH: u32 = 0o110;
const SET_GROUP: u32 = 0o2000;

/// Gives everything at and below `root` to the group, the root last: an interrupted walk shows there. `unless_done`: not when
/// the root shows that it was done.
///
/// # Errors
/// The first that the disk has.
pub fn give(root: &Path, group: u32, read_only: bool, unless_done: bool) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let fd = open(root, flags, Mode::empty())?;
    if unless_done && is_done(&std::fs::metadata(root)?, group, read_only) {
        return Ok(());
    }
    walk(&fd, group, if read_only { READ_ONLY } else { READ_WRITE })
}

fn is_done(root: &std::fs::Metadata, group: u32, read_only: bool) -> bool {
    let wanted = SET_GROUP | SEARCH | if read_only { READ_ONLY } else { READ_WRITE };
    root.gid() == group && root.mode() & wanted == wanted
}

fn walk(fd: &OwnedFd, group: u32, mask: u32) -> io::Result<()> {
    let stat = fstat(fd)?;
    let kind = stat.st_mode & libc::S_IFMT;
    // The descriptor has no rights to read with; by this path the kernel opens the very same file.
    let own = format!("/proc/self/fd/{}", fd.as_raw_fd());
    if kind == libc::S_IFDIR {
        for entry in std::fs::read_dir(&own)? {
            match child(fd.as_fd(), &entry?.file_name()) {
                Ok(child) => walk(&child, group, mask)?,
                // It went while we walked.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    fchownat(fd, "", None, Some(Gid::from_raw(group)), AtFlags::AT_EMPTY_PATH)?;
    if kind == libc::S_IFLNK {
        return Ok(());
    }
    let more = if kind == libc::S_IFDIR { SET_GROUP | SEARCH } else { 0 };
    let mode = std::os::unix::fs::PermissionsExt::from_mode((stat.st_mode & 0o7777) | mask | more);
    std::fs::set_permissions(own, mode)
}

fn child(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(openat(folder, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn everything_is_the_groups_and_links_lead_nowhere() {
        let tmp = tempfile::tempdir().unwrap();
        let (root, outside) = (tmp.path().join("v"), tmp.path().join("outside"));
        fs::create_dir_all(root.join("deep")).unwrap();
        for path in [root.join("deep/file"), outside.clone()] {
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        symlink(&outside, root.join("link")).unwrap();
        // One's own group needs no rights to give.
        let group = nix::unistd::getegid().as_raw();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        give(&root, group, false, true).unwrap();
        assert_eq!(mode(&root.join("deep/file")), 0o660);
        assert_eq!(mode(&root.join("deep")) & 0o2770, 0o2770);
        assert_eq!(mode(&outside), 0o600);
        // Done by the root's word.
        fs::set_permissions(root.join("deep/file"), fs::Permissions::from_mode(0o600)).unwrap();
        give(&root, group, false, true).unwrap();
        assert_eq!(mode(&root.join("deep/file")), 0o600);
        give(&root, group, true, false).unwrap();
        assert_eq!(mode(&root.join("deep/file")), 0o640);
    }
}
