//! Sub-paths of volumes, opened so that no link that a container plants can lead out of the volume.
//!
//! The opened place is bound to a folder of the node's own, because its path could be swapped for a link between the check and the
//! container's mount. Source: `pkg/volume/util/subpath/subpath_linux.go`, openat2(2).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, fstat, mkdirat};

/// What a new folder takes over from its volume's mode: permissions and the group of what is made in it, not the sticky bit.
const TAKEN_OVER: u32 = 0o2777;

/// Opens `sub` below `root`, making folders that are missing, open to those to whom the volume is.
///
/// # Errors
/// A path that leaves the volume, by its text or through a link.
pub fn open_beneath(root: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let leaves = || io::Error::new(io::ErrorKind::InvalidInput, format!("subPath {} leaves its volume", sub.display()));
    if sub.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(leaves());
    }
    // The volume itself may be reached through links; it is the node's own choice.
    let mut at = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(beneath);
    match openat2(&at, sub, how) {
        Ok(fd) => return Ok(fd),
        Err(nix::errno::Errno::ENOENT) => {}
        Err(nix::errno::Errno::EXDEV) => return Err(leaves()),
        Err(e) => return Err(e.into()),
    }
    let mode = fstat(&at)?.st_mode & TAKEN_OVER;
    for part in sub.components().filter(|c| matches!(c, Component::Normal(_))) {
        let part = Path::new(part.as_os_str());
        let made = match mkdirat(&at, part, Mode::from_bits_truncate(mode & 0o777)) {
            Ok(()) => true,
            Err(nix::errno::Errno::EEXIST) => false,
            Err(e) => return Err(e.into()),
        };
        // What was made just now is no link, unless a container has been quick.
        let how = if made { how.resolve(beneath | ResolveFlag::RESOLVE_NO_SYMLINKS) } else { how };
        at = openat2(&at, part, how).map_err(|e| if e == nix::errno::Errno::EXDEV { leaves() } else { e.into() })?;
        if made {
            // Past the umask.
            fs::set_permissions(format!("/proc/self/fd/{}", at.as_raw_fd()), fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(at)
}

/// Binds an opened place to `target`, a new file or folder. Undone by unmounting `target`.
pub fn bind(fd: &OwnedFd, target: &Path) -> io::Result<()> {
    let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if fs::metadata(&source)?.is_dir() {
        fs::create_dir_all(target)?;
    } else {
        fs::write(target, b"")?;
    }
    mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_cannot_lead_out() {
        let tmp = tempfile::tempdir().unwrap();
        let (root, outside) = (tmp.path().join("v"), tmp.path().join("outside"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(root.join("file"), b"x").unwrap();
        symlink("file", root.join("inner")).unwrap();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../outside", root.join("relative")).unwrap();
        assert!(open_beneath(&root, Path::new("file")).is_ok());
        assert!(open_beneath(&root, Path::new("inner")).is_ok(), "as the files of a configMap are");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o3777)).unwrap();
        assert!(open_beneath(&root, Path::new("new/deep")).is_ok());
        for made in ["new", "new/deep"] {
            assert_eq!(fs::metadata(root.join(made)).unwrap().permissions().mode(), 0o42_777, "{made}");
        }
        for bad in ["absolute", "relative", "absolute/x", "relative/x", "../outside", "/etc"] {
            assert!(open_beneath(&root, Path::new(bad)).is_err(), "{bad}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
