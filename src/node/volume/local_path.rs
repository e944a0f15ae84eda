//! Folders of local-path volumes: one for each volume, made and removed on request of the cluster's provisioner.
//!
//! A folder is there before its volume is, and a pod's start never makes one: a disk that was exchanged shows as an error and not
//! as an empty volume.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::mounted_below;

/// Prefix of what is on its way out; a volume's folder never begins with a dot.
const GOING: &str = ".going-";

/// Only a plain name, so that nothing above or beside the folder of volumes can be meant.
fn is_plain(name: &str) -> bool {
    (1..=255 - GOING.len()).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn within(root: &Path, name: &str) -> io::Result<PathBuf> {
    if is_plain(name) {
        return Ok(root.join(name));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a volume's folder")))
}

/// Makes the folder, which everybody may write to: whose files they are is the pod's to say. Idempotent; on disk when it returns.
///
/// # Errors
/// A name that is not plain; the disk's.
pub fn make(root: &Path, name: &str) -> io::Result<PathBuf> {
    let folder = within(root, name)?;
    if folder.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        return Ok(folder);
    }
    fs::create_dir_all(root)?;
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    fs::File::open(root)?.sync_all()?;
    Ok(folder)
}

/// Removes the folder with all that is in it. Idempotent, and goes on with what an earlier call could not finish.
///
/// # Errors
/// A name that is not plain; something is mounted there; the disk's.
pub fn remove(root: &Path, name: &str) -> io::Result<()> {
    let folder = within(root, name)?;
    let going = root.join(format!("{GOING}{name}"));
    for path in [&folder, &going] {
        if let Some(point) = mounted_below(path)?.first() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is still mounted", point.display())));
        }
    }
    gone(fs::remove_dir_all(&going))?;
    gone(fs::rename(&folder, &going))?;
    gone(fs::remove_dir_all(&going))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_and_go() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("volumes");
        let name = "pvc-0_default_data";
        let folder = make(&root, name).unwrap();
        assert_eq!(folder, root.join(name));
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o777);
        fs::create_dir(folder.join("deep")).unwrap();
        fs::write(folder.join("deep/file"), "x").unwrap();
        assert_eq!(make(&root, name).unwrap(), folder, "made again");
        assert!(folder.join("deep/file").exists(), "with what is in it");
        // An outsider's link is removed, not followed.
        fs::write(tmp.path().join("outside"), "x").unwrap();
        std::os::unix::fs::symlink(tmp.path(), folder.join("link")).unwrap();
        fs::create_dir(root.join(format!("{GOING}{name}"))).unwrap();
        remove(&root, name).unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        assert!(tmp.path().join("outside").exists());
        remove(&root, name).unwrap();
        for bad in ["", ".", "..", "a/b", "../x", ".going-x", "a\0b", &"x".repeat(256)] {
            assert_eq!(make(&root, bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad:?}");
            assert_eq!(remove(&root, bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        }
    }
}
