//! Files that change all at once: a folder whose visible names are links through `..data`, which one rename moves from one
//! set of files to the next. Readers see the old set or the new one, never a mixture.
//!
//! ```text
//! dir/name      -> ..data/name
//! dir/..data    -> ..2026_01_01_00_00_00.x7k2p
//! dir/..2026_01_01_00_00_00.x7k2p/name
//! ```
//! Source: `pkg/volume/util/atomic_writer.go` (behaviour; users and tests know these names).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

/// One file of a payload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct File {
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner; root when `None`.
    pub uid: Option<u32>,
}

/// Relative path to file.
pub type Payload = BTreeMap<PathBuf, File>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Group read for everybody in the fsGroup. Source: `volume_linux.go` roMask, execMask.
const GROUP_READ: u32 = 0o440;
const GROUP_DIRECTORY: u32 = 0o2550;

/// Makes `dir` show exactly `payload`. `group`: the pod's fsGroup. `stamp` names the new set and must not have been used
/// before. Returns whether anything was written: an unchanged payload leaves everything alone.
///
/// Errors: a path that leaves the folder, or what the filesystem says; what was visible before stays visible.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(if group.is_some() { 0o2775 } else { 0o755 }))?;
    own(dir, None, group)?;
    let current = fs::read_link(dir.join(DATA)).ok();
    if let Some(current) = &current
        && same(&dir.join(current), payload, group)?
    {
        link(dir, payload)?;
        return Ok(false);
    }
    let name = format!("..{stamp}");
    let new = dir.join(&name);
    let result = fill(&new, payload, group).and_then(|()| {
        let _ = fs::remove_file(dir.join(DATA_NEW));
        symlink(&name, dir.join(DATA_NEW))?;
        fs::rename(dir.join(DATA_NEW), dir.join(DATA))
    });
    if let Err(e) = result {
        let _ = fs::remove_dir_all(&new);
        return Err(e);
    }
    link(dir, payload)?;
    // Whatever an interrupted earlier write left is swept with the old set.
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let text = file_name.to_string_lossy();
        if text.starts_with("..") && text != DATA && *text != *name && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(true)
}

fn check(path: &Path) -> io::Result<()> {
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    let reserved = path.components().next().is_some_and(|c| c.as_os_str().to_string_lossy().starts_with(".."));
    if !plain || reserved || path.as_os_str().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {}", path.display())));
    }
    Ok(())
}

fn own(path: &Path, uid: Option<u32>, group: Option<u32>) -> io::Result<()> {
    if uid.is_some() || group.is_some() {
        std::os::unix::fs::lchown(path, uid, group)?;
    }
    Ok(())
}

fn mode(file: &File, group: Option<u32>) -> u32 {
    if group.is_some() { file.mode | GROUP_READ } else { file.mode }
}

fn fill(new: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    let directory = |path: &Path| -> io::Result<()> {
        if !path.is_dir() {
            fs::create_dir(path)?;
            own(path, None, group)?;
            let mode = if group.is_some() { 0o755 | GROUP_DIRECTORY } else { 0o755 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    };
    directory(new)?;
    for (path, file) in payload {
        let mut parent = new.to_owned();
        for part in path.parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            directory(&parent)?;
        }
        let target = new.join(path);
        fs::write(&target, &file.data)?;
        own(&target, file.uid, group)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode(file, group)))?;
    }
    Ok(())
}

/// Whether the set at `dir` is `payload` already, permissions included.
fn same(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let entries = match fs::read_dir(dir.join(&relative)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let path = relative.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    if found.len() != payload.len() {
        return Ok(false);
    }
    for (path, file) in payload {
        let target = dir.join(path);
        if !found.contains(path) || fs::read(&target)? != file.data {
            return Ok(false);
        }
        let metadata = fs::metadata(&target)?;
        if metadata.mode() & 0o7777 != mode(file, group) || file.uid.is_some_and(|uid| uid != metadata.uid()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the visible names those of `payload`.
fn link(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<_> =
        payload.keys().filter_map(|p| p.components().next()).map(|c| c.as_os_str().to_owned()).collect();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        let path = dir.join(&name);
        if fs::symlink_metadata(&path).is_err() {
            symlink(Path::new(DATA).join(&name), path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        files
            .iter()
            .map(|(path, data, mode)| {
                (PathBuf::from(path), File { data: data.as_bytes().to_vec(), mode: *mode, uid: None })
            })
            .collect()
    }

    fn visible(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn sets_replace_each_other_at_once() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("v");
        assert!(write(&dir, &payload(&[("a", "1", 0o644), ("d/e/f", "2", 0o400)]), None, "s1").unwrap());
        assert_eq!(visible(&dir), ["..data", "..s1", "a", "d"]);
        assert_eq!(fs::read_to_string(dir.join("d/e/f")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("d/e/f")).unwrap().mode() & 0o777, 0o400);
        assert_eq!(fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
        // the same again: nothing moves
        assert!(!write(&dir, &payload(&[("a", "1", 0o644), ("d/e/f", "2", 0o400)]), None, "s2").unwrap());
        assert_eq!(fs::read_link(dir.join("..data")).unwrap(), Path::new("..s1"));
        // content, mode, names
        assert!(write(&dir, &payload(&[("a", "2", 0o644), ("d/e/f", "2", 0o400)]), None, "s3").unwrap());
        assert!(write(&dir, &payload(&[("a", "2", 0o600), ("d/e/f", "2", 0o400)]), None, "s4").unwrap());
        assert!(write(&dir, &payload(&[("b", "3", 0o644)]), None, "s5").unwrap());
        assert_eq!(visible(&dir), ["..data", "..s5", "b"]);
        // empty
        assert!(write(&dir, &Payload::new(), None, "s6").unwrap());
        assert_eq!(visible(&dir), ["..data", "..s6"]);
    }

    #[test]
    fn an_open_file_keeps_its_content_and_the_link_moves_on() {
        let tmp = tempfile::tempdir().unwrap();
        write(tmp.path(), &payload(&[("a", "old", 0o644)]), None, "s1").unwrap();
        let mut open = fs::File::open(tmp.path().join("a")).unwrap();
        write(tmp.path(), &payload(&[("a", "new", 0o644)]), None, "s2").unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut open, &mut text).unwrap();
        assert_eq!((text.as_str(), fs::read_to_string(tmp.path().join("a")).unwrap().as_str()), ("old", "new"));
    }

    #[test]
    fn a_group_reads_everything() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        write(tmp.path(), &payload(&[("a", "x", 0o400)]), Some(2000), "s1").unwrap();
        let metadata = fs::metadata(tmp.path().join("a")).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o440, 2000));
        assert_eq!(fs::metadata(tmp.path().join("..s1")).unwrap().mode() & 0o7777, 0o2755);
    }

    #[test]
    fn paths_stay_inside_and_failures_leave_the_old_set() {
        let tmp = tempfile::tempdir().unwrap();
        write(tmp.path(), &payload(&[("a", "1", 0o644)]), None, "s1").unwrap();
        for bad in ["../x", "/etc/x", "..x", "a/../b", ""] {
            assert!(write(tmp.path(), &payload(&[(bad, "1", 0o644)]), None, "s2").is_err(), "{bad}");
        }
        // a file and a folder of one name cannot both be
        assert!(write(tmp.path(), &payload(&[("x", "1", 0o644), ("x/y", "1", 0o644)]), None, "s3").is_err());
        assert_eq!(visible(tmp.path()), ["..data", "..s1", "a"]);
    }
}
