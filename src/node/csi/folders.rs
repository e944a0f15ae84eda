//! Where drivers and the node meet on disk: the folder that drivers know as `/var/lib/kubelet`.
//!
//! Pods of drivers mount it by that name, most with mounts that propagate both ways, and are told paths in it. What is there lies
//! below the agent's own folder; `/var/lib/kubelet` is a link to it, which `kedge reset` takes away.
//!
//! ```text
//! plugins_registry/<driver>-reg.sock                                  who wants to be known
//! plugins/kubernetes.io/csi/<driver>/<sha256 of the handle>/          globalmount, vol_data.json
//! plugins/kubernetes.io/csi/volumeDevices/{staging,publish}/<volume>  block devices; <volume>/data/vol_data.json
//! pods/<uid>/volumes/kubernetes.io~csi/<volume>/                      mount, vol_data.json
//! pods/<uid>/volumeDevices/kubernetes.io~csi/<volume>                 link to the published device
//! ```
//! Source: `pkg/kubelet/kubelet_getters.go`, `pkg/volume/csi/{csi_attacher,csi_block,csi_mounter}.go`.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use sha2::{Digest as _, Sha256};

/// As folders of plugins are called, with its slash escaped.
const ESCAPED: &str = "kubernetes.io~csi";

#[derive(Debug, Clone)]
pub struct Folders {
    /// As drivers are told.
    pub name: PathBuf,
    /// Where it is.
    pub real: PathBuf,
}

impl Folders {
    /// A folder under its own name, which only drivers on the host itself can use.
    pub fn at(real: &Path) -> Folders {
        Folders { name: real.to_owned(), real: real.to_owned() }
    }

    /// Makes the folders, sees to it that mounts propagate from and to them, and links the name to them. Idempotent.
    ///
    /// # Errors
    /// What the disk says; that the name is somebody else's.
    pub fn prepare(&self) -> io::Result<()> {
        for sub in ["plugins", "plugins_registry", "pods"] {
            fs::create_dir_all(self.real.join(sub))?;
        }
        fs::set_permissions(&self.real, fs::Permissions::from_mode(0o750))?;
        if self.name == self.real {
            return Ok(());
        }
        share(&self.real)?;
        link(&self.name, &self.real)
    }

    pub fn registry(&self) -> PathBuf {
        self.real.join("plugins_registry")
    }

    pub fn pods(&self) -> PathBuf {
        self.name.join("pods")
    }

    /// The volumes of a pod that are mounted, each in a folder of its own.
    pub fn of_pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid).join("volumes").join(ESCAPED)
    }

    /// The volumes of a pod that are devices, each a link.
    pub fn devices_of_pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid).join("volumeDevices").join(ESCAPED)
    }

    pub fn target(&self, uid: &str, volume: &str) -> PathBuf {
        self.of_pod(uid).join(volume.replace('/', "~")).join("mount")
    }

    pub fn plugin(&self) -> PathBuf {
        self.name.join("plugins/kubernetes.io/csi")
    }

    pub fn staging(&self, driver: &str, handle: &str) -> PathBuf {
        self.plugin().join(driver).join(sha256(handle.as_bytes())).join("globalmount")
    }

    pub fn device_staging(&self, volume: &str) -> PathBuf {
        self.devices().join("staging").join(volume)
    }

    pub fn device_publish(&self, volume: &str, uid: &str) -> PathBuf {
        self.devices().join("publish").join(volume).join(uid)
    }

    /// What is kept about a device, by the volume.
    pub fn device(&self, volume: &str) -> PathBuf {
        self.devices().join(volume)
    }

    pub fn devices(&self) -> PathBuf {
        self.plugin().join("volumeDevices")
    }
}

/// In hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Sees to it that what is mounted below reaches those who mount the folder, and the other way round. Without a system manager
/// mounts are private.
fn share(folder: &Path) -> io::Result<()> {
    let real = fs::canonicalize(folder)?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    if is_shared(&table, &real) {
        return Ok(());
    }
    let none = None::<&str>;
    let itself = |flags| mount(Some(real.as_path()), real.as_path(), none, flags, none);
    if !table.lines().any(|line| line.split(' ').nth(4) == real.to_str()) {
        itself(MsFlags::MS_BIND)?;
    }
    Ok(mount(none, real.as_path(), none, MsFlags::MS_SHARED, none)?)
}

/// Whether the mount that a path lies on is shared. Source: proc_pid_mountinfo(5), optional fields.
fn is_shared(mountinfo: &str, path: &Path) -> bool {
    let mounts = mountinfo.lines().filter_map(|line| {
        let at = line.split(' ').nth(4)?;
        path.starts_with(at).then(|| (at.len(), line.split(" - ").next().unwrap_or_default().contains(" shared:")))
    });
    // Of several on one point the last is the one that is seen.
    mounts.max_by_key(|(length, _)| *length).is_some_and(|(_, shared)| shared)
}

fn link(name: &Path, real: &Path) -> io::Result<()> {
    if let Ok(old) = fs::read_link(name) {
        if old == real {
            return Ok(());
        }
        // Of a data folder that is not used any more.
        if !old.exists() {
            fs::remove_file(name)?;
        }
    } else if let Some(parent) = name.parent() {
        fs::create_dir_all(parent)?;
        // Goes only when nothing is in it.
        let _ = fs::remove_dir(name);
    }
    symlink(real, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_leads_to_the_folder() {
        let tmp = tempfile::tempdir().unwrap();
        let (real, name) = (tmp.path().join("data/kubelet"), tmp.path().join("lib/kubelet"));
        fs::create_dir_all(&real).unwrap();
        for _ in 0..2 {
            link(&name, &real).unwrap();
            assert_eq!(fs::read_link(&name).unwrap(), real);
        }
        fs::remove_file(&name).unwrap();
        fs::create_dir(&name).unwrap();
        link(&name, &real).unwrap();
        assert!(name.is_symlink(), "an empty folder gives way");
        fs::remove_file(&name).unwrap();
        symlink(tmp.path().join("gone"), &name).unwrap();
        link(&name, &real).unwrap();
        assert_eq!(fs::read_link(&name).unwrap(), real);
        fs::remove_file(&name).unwrap();
        fs::create_dir_all(name.join("pki")).unwrap();
        assert!(link(&name, &real).is_err(), "another kubelet's stays what it is");
    }

    #[test]
    fn which_mounts_are_shared() {
        let table = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n2 1 8:2 / /data rw - ext4 /dev/sdb rw\n\
            3 2 8:2 /k /data/k rw shared:7 master:2 - ext4 /dev/sdb rw\n";
        for (path, shared) in [("/x", true), ("/data/x", false), ("/data/k/y", true), ("/data/kk", false)] {
            assert_eq!(is_shared(table, Path::new(path)), shared, "{path}");
        }
    }

    #[test]
    fn paths_are_upstreams() {
        let folders = Folders { name: "/var/lib/kubelet".into(), real: "/var/lib/kedge/agent/kubelet".into() };
        let shown = |path: PathBuf| path.display().to_string();
        assert_eq!(
            shown(folders.staging("a.b", "handle")),
            format!("/var/lib/kubelet/plugins/kubernetes.io/csi/a.b/{}/globalmount", sha256(b"handle"))
        );
        assert_eq!(shown(folders.target("u", "pv")), "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pv/mount");
        assert_eq!(
            shown(folders.device_publish("pv", "u")),
            "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pv/u"
        );
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
