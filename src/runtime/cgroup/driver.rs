//! Where the hierarchies are, and the pods' and classes' cgroups in them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::limits::{Write, writes};
use super::{kill_tree, remove_tree};
use crate::api::Stats;
use crate::spec::Resources;
use crate::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// v1 hierarchies that this room makes directories in: all that libcontainer uses.
const CONTROLLERS_V1: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
];

/// v2 controllers that are switched on for the subtree, where the kernel has them.
const CONTROLLERS_V2: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// The subtree. Cheap to clone; holds no descriptors.
#[derive(Debug, Clone)]
pub struct Driver {
    version: Version,
    /// v1: controller to its mount point (co-mounted ones share it). v2: one entry, "".
    mounts: BTreeMap<String, PathBuf>,
    /// Without slashes at the ends.
    root: String,
}

impl Driver {
    /// Reads how this host mounts its cgroups. `root` is the one subtree, `/kedge`. Errors: no cgroups at `/sys/fs/cgroup`.
    pub fn detect(root: &str) -> Result<Driver> {
        let path = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let root = root.trim_matches('/');
        if root.is_empty() || root.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
            return Err(Error::Invalid(format!("cgroup root \"/{root}\" does not name a subtree")));
        }
        let (version, mounts) = parse_mounts(&text)
            .ok_or_else(|| Error::Invalid("no cgroup filesystem is mounted at /sys/fs/cgroup".into()))?;
        Ok(Driver { version, mounts, root: root.to_owned() })
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The subtree's path as an OCI spec names it: absolute within each hierarchy.
    pub fn oci_path(&self, path: &str) -> String {
        if path.is_empty() { format!("/{}", self.root) } else { format!("/{}/{path}", self.root) }
    }

    /// Directories of a cgroup, one for each hierarchy.
    pub fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let mut mounts: Vec<&PathBuf> = self.mounts.values().collect();
        mounts.sort();
        mounts.dedup();
        // libcontainer and our signals look at the devices hierarchy first; any does.
        mounts.into_iter().map(|mount| self.below(mount, path)).collect()
    }

    /// Controller to directory of a cgroup: v1's hierarchies, for mounting into containers.
    pub fn controller_dirs(&self, path: &str) -> BTreeMap<String, PathBuf> {
        self.mounts.iter().map(|(controller, mount)| (controller.clone(), self.below(mount, path))).collect()
    }

    fn below(&self, mount: &Path, path: &str) -> PathBuf {
        let dir = mount.join(&self.root);
        if path.is_empty() { dir } else { dir.join(path) }
    }

    fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let key = if self.version == Version::V2 { "" } else { controller };
        self.mounts.get(key).map(|mount| self.below(mount, path))
    }

    /// A file with a line `oom_kill <n>` for a cgroup.
    pub fn oom_file(&self, path: &str) -> PathBuf {
        let file = if self.version == Version::V2 { "memory.events" } else { "memory.oom_control" };
        self.dir("memory", path).unwrap_or_default().join(file)
    }

    /// Makes the cgroup and its parents, without limits. Idempotent.
    pub fn ensure(&self, path: &str) -> Result<()> {
        check(path)?;
        let mut mounts: Vec<&PathBuf> = self.mounts.values().collect();
        mounts.sort();
        mounts.dedup();
        for mount in mounts {
            let mut dir = mount.clone();
            for part in self.root.split('/').chain(path.split('/')).filter(|part| !part.is_empty()) {
                if self.version == Version::V2 {
                    enable_controllers(&dir)?;
                }
                dir.push(part);
                let made = match self.version {
                    Version::V1 => make_v1(&dir),
                    Version::V2 => make(&dir),
                };
                if let Err(source) = made {
                    return Err(Error::Cgroup { path: dir, what: "make", source });
                }
            }
            // Containers are made below by others.
            if self.version == Version::V2 && path.rsplit('/').next().is_some_and(|last| last.starts_with("pod")) {
                enable_controllers(&dir)?;
            }
        }
        Ok(())
    }

    /// Writes limits of a cgroup that exists.
    pub fn apply(&self, path: &str, resources: &Resources) -> Result<()> {
        check(path)?;
        let mut again = Vec::new();
        for write in writes(self.version, resources) {
            match self.write(path, &write) {
                // On v1 memory may not exceed memory and swap: raising both needs the other order.
                Err(_) if write.file == "memory.limit_in_bytes" => again.push(write),
                other => other?,
            }
        }
        again.iter().try_for_each(|write| self.write(path, write))
    }

    fn write(&self, path: &str, write: &Write) -> Result<()> {
        let Some(dir) = self.dir(write.controller, path) else {
            return if write.optional {
                Ok(())
            } else {
                Err(Error::Invalid(format!("this kernel has no {} cgroup controller", write.controller)))
            };
        };
        let file = dir.join(&write.file);
        if write.optional && !file.exists() {
            return Ok(());
        }
        fs::write(&file, &write.value).map_err(|source| Error::Cgroup { path: file, what: "limit", source })
    }

    /// Kills everything in the cgroup and below. Not being there is success.
    pub fn kill(&self, path: &str) -> Result<()> {
        for dir in self.dirs(path) {
            match kill_tree(&dir) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Cgroup { path: dir, what: "kill", source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the cgroup and everything below. Not being there is success. Errors: a process is still in it.
    pub fn remove(&self, path: &str) -> Result<()> {
        check(path)?;
        for dir in self.dirs(path) {
            remove_tree(&dir).map_err(|source| Error::Cgroup { path: dir, what: "remove", source })?;
        }
        Ok(())
    }

    /// What a cgroup uses. Errors: it is not there.
    pub fn stats(&self, path: &str) -> Result<Stats> {
        let read = |controller: &str, file: &str| -> Option<String> {
            fs::read_to_string(self.dir(controller, path)?.join(file)).ok()
        };
        let probe = self.dir("memory", path).unwrap_or_default();
        if !probe.exists() {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::Cgroup { path: probe, what: "read", source });
        }
        Ok(super::stats::read(self.version, &read))
    }
}

fn check(path: &str) -> Result<()> {
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0');
    if path.is_empty() || path.split('/').all(plain) {
        Ok(())
    } else {
        Err(Error::Invalid(format!("cgroup path {path:?} does not stay below the root")))
    }
}

fn enable_controllers(dir: &Path) -> Result<()> {
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    for controller in CONTROLLERS_V2 {
        let has = |text: &str| text.split_whitespace().any(|word| word == controller);
        if has(&available) && !has(&enabled) {
            let file = dir.join("cgroup.subtree_control");
            fs::write(&file, format!("+{controller}")).map_err(|source| Error::Cgroup {
                path: file,
                what: "enable controllers",
                source,
            })?;
        }
    }
    Ok(())
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a cgroup of a v1 hierarchy, ready to take processes. Its parent is there and ready. Idempotent.
pub fn make_v1(dir: &Path) -> io::Result<()> {
    make(dir)?;
    inherit_cpuset(dir)
}

/// A new v1 cpuset has no CPUs and takes no process until it is given some.
fn inherit_cpuset(dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(file);
        let (Ok(now), Some(parent)) = (fs::read_to_string(&own), dir.parent()) else { continue };
        if now.trim().is_empty()
            && let Ok(value) = fs::read_to_string(parent.join(file))
        {
            fs::write(&own, value.trim())?;
        }
    }
    Ok(())
}

/// Version and mount points from mountinfo. Pure.
fn parse_mounts(mountinfo: &str) -> Option<(Version, BTreeMap<String, PathBuf>)> {
    let mut v1 = BTreeMap::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let point = left.split(' ').nth(4)?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1).unwrap_or_default());
        match kind {
            "cgroup2" if point == "/sys/fs/cgroup" => v2 = Some(PathBuf::from(point)),
            "cgroup" if point.starts_with("/sys/fs/cgroup/") => {
                for controller in options.split(',').filter(|option| CONTROLLERS_V1.contains(option)) {
                    v1.insert(controller.to_owned(), PathBuf::from(point));
                }
            }
            _ => {}
        }
    }
    match v2 {
        Some(point) => Some((Version::V2, [(String::new(), point)].into())),
        None if v1.contains_key("memory") || v1.contains_key("pids") || v1.contains_key("cpu") => {
            Some((Version::V1, v1))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_recognized() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(parse_mounts(v2).unwrap().0, Version::V2);
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let (version, mounts) = parse_mounts(hybrid).unwrap();
        assert_eq!(version, Version::V1);
        assert_eq!(mounts.keys().collect::<Vec<_>>(), ["cpu", "cpuacct"]);
        assert!(parse_mounts("22 27 0:21 / /proc rw - proc proc rw\n").is_none());
    }

    #[test]
    fn paths_stay_below_the_root() {
        for bad in ["/abs", "a//b", "../x", "a/..", "a/./b"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("kubepods/burstable/podabc").is_ok());
        for bad in ["/", "", "/a/../b"] {
            assert!(Driver::detect(bad).is_err(), "{bad}");
        }
    }
}
