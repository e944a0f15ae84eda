//! What is written down beside what is mounted, and what of it an earlier daemon has left.
//!
//! Source: `volDataKey`, `saveVolumeData`, `loadVolumeData`, `removeMountDir` in `pkg/volume/csi`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::folders::Folders;
use crate::volume::is_mounted;

const FILE: &str = "vol_data.json";

/// A volume as all its users on this node share it. Ephemeral ones are one pod's, and are nobody's to share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    pub driver: String,
    pub handle: String,
    /// The PersistentVolume's name when it is a block device, which is staged by that.
    pub device: Option<String>,
}

impl Volume {
    /// As the API names it. Source: `GetUniqueVolumeName`, `GetVolumeName` of the plugin.
    pub fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }

    pub fn staging(&self, folders: &Folders) -> PathBuf {
        match &self.device {
            Some(name) => folders.device_staging(name),
            None => folders.staging(&self.driver, &self.handle),
        }
    }
}

/// Of one volume in one pod, or of one that is staged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    pub driver: String,
    pub handle: String,
    /// Empty where only what is shared is written down.
    pub name: String,
    pub ephemeral: bool,
}

impl Record {
    /// `staged`: what is shared only.
    pub fn write(&self, folder: &Path, node: &str) -> io::Result<()> {
        let mut map: BTreeMap<&str, String> = BTreeMap::new();
        map.insert("driverName", self.driver.clone());
        map.insert("volumeHandle", self.handle.clone());
        if !self.name.is_empty() {
            map.insert("specVolID", self.name.clone());
            map.insert("nodeName", node.to_owned());
            map.insert("attachmentID", client::csi::attachment_name(&self.driver, &self.handle, node));
            map.insert("volumeLifecycleMode", if self.ephemeral { "Ephemeral" } else { "Persistent" }.to_owned());
        }
        let path = folder.join(FILE);
        let text = serde_json::to_string(&map).map_err(io::Error::other)? + "\n";
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            return Ok(());
        }
        // A power cut leaves the old one or the new one.
        let new = folder.join(".vol_data.json.new");
        fs::write(&new, text)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(new, path)
    }

    /// # Errors
    /// There is none, or it cannot be understood.
    pub fn read(folder: &Path) -> io::Result<Record> {
        let map: BTreeMap<String, String> =
            serde_json::from_slice(&fs::read(folder.join(FILE))?).map_err(io::Error::other)?;
        let text = |name: &str| map.get(name).cloned().unwrap_or_default();
        Ok(Record {
            driver: text("driverName"),
            handle: text("volumeHandle"),
            name: text("specVolID"),
            ephemeral: text("volumeLifecycleMode") == "Ephemeral",
        })
    }
}

/// Removes the mount point and the record beside it, with the folder that they lie in, unless something is still mounted.
pub fn remove(mount_point: &Path) -> io::Result<()> {
    if is_mounted(mount_point)? {
        return Ok(());
    }
    gone(fs::remove_dir(mount_point))?;
    if let Some(folder) = mount_point.parent() {
        gone(fs::remove_file(folder.join(FILE)))?;
        gone(fs::remove_dir(folder))?;
    }
    Ok(())
}

/// All that is kept about a device that nobody uses.
pub fn remove_device(folders: &Folders, name: &str) -> io::Result<()> {
    if let Some(publish) = folders.device_publish(name, "x").parent() {
        gone(fs::remove_dir(publish))?;
    }
    gone(fs::remove_dir(folders.device_staging(name)))?;
    let data = folders.device(name).join("data");
    gone(fs::remove_file(data.join(FILE)))?;
    gone(fs::remove_dir(&data))?;
    gone(fs::remove_dir(folders.device(name)))
}

pub fn gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// The names in a folder; none when it is not there.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// The volumes that a pod has by what is written down: mounted ones with the folder of each, and devices.
pub fn of_pod(folders: &Folders, uid: &str) -> Vec<(Record, Option<PathBuf>)> {
    let mounted = folders.of_pod(uid);
    let mut all: Vec<(Record, Option<PathBuf>)> = names(&mounted)
        .into_iter()
        .filter_map(|name| Some((Record::read(&mounted.join(&name)).ok()?, Some(mounted.join(&name)))))
        .collect();
    let devices = names(&folders.devices_of_pod(uid)).into_iter();
    all.extend(devices.filter_map(|name| Some((Record::read(&folders.device(&name).join("data")).ok()?, None))));
    all
}

/// Everything that an earlier daemon has mounted, and for which pods.
pub fn found(folders: &Folders) -> BTreeMap<Volume, BTreeSet<String>> {
    let mut all: BTreeMap<Volume, BTreeSet<String>> = BTreeMap::new();
    let shared =
        |r: &Record, device: Option<String>| Volume { driver: r.driver.clone(), handle: r.handle.clone(), device };
    for driver in names(&folders.plugin()).into_iter().filter(|name| name != "volumeDevices") {
        let folder = folders.plugin().join(driver);
        for record in names(&folder).iter().filter_map(|name| Record::read(&folder.join(name)).ok()) {
            all.entry(shared(&record, None)).or_default();
        }
    }
    for name in names(&folders.devices()) {
        if let Ok(record) = Record::read(&folders.device(&name).join("data")) {
            all.entry(shared(&record, Some(name))).or_default();
        }
    }
    for uid in names(&folders.pods()) {
        for (record, mounted) in of_pod(folders, &uid).into_iter().filter(|(r, _)| !r.ephemeral) {
            let device = mounted.is_none().then(|| record.name.clone());
            all.entry(shared(&record, device)).or_default().insert(uid.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_down_is_found() {
        let tmp = tempfile::tempdir().unwrap();
        let folders = Folders::at(tmp.path());
        let record = |name: &str, handle: &str| Record {
            driver: "d".into(),
            handle: handle.into(),
            name: name.into(),
            ephemeral: name == "inline",
        };
        for (folder, name, handle) in [
            (folders.target("u1", "pv"), "pv", "h"),
            (folders.target("u2", "pv"), "pv", "h"),
            (folders.target("u2", "inline"), "inline", "csi-1"),
            (folders.staging("d", "h"), "", "h"),
            (folders.staging("d", "left"), "", "left"),
        ] {
            fs::create_dir_all(&folder).unwrap();
            record(name, handle).write(folder.parent().unwrap(), "n").unwrap();
        }
        let text = fs::read_to_string(folders.target("u1", "pv").with_file_name(FILE)).unwrap();
        assert!(text.contains(r#""volumeHandle":"h""#) && text.contains(r#""attachmentID":"csi-"#), "{text}");
        let data = folders.device("raw").join("data");
        fs::create_dir_all(&data).unwrap();
        record("raw", "r").write(&data, "n").unwrap();
        fs::create_dir_all(folders.devices_of_pod("u1")).unwrap();
        std::os::unix::fs::symlink("/nowhere", folders.devices_of_pod("u1").join("raw")).unwrap();
        let shown: Vec<String> =
            found(&folders).iter().map(|(v, users)| format!("{} {:?} {users:?}", v.unique_name(), v.device)).collect();
        assert_eq!(
            shown,
            [
                r#"kubernetes.io/csi/d^h None {"u1", "u2"}"#,
                "kubernetes.io/csi/d^left None {}",
                r#"kubernetes.io/csi/d^r Some("raw") {"u1"}"#
            ]
        );
        assert_eq!(of_pod(&folders, "u2").len(), 2);
        remove(&folders.target("u1", "pv")).unwrap();
        remove(&folders.target("u1", "pv")).unwrap();
        assert_eq!(names(&folders.of_pod("u1")), [""; 0]);
        fs::remove_file(folders.devices_of_pod("u1").join("raw")).unwrap();
        remove_device(&folders, "raw").unwrap();
        assert!(!folders.device("raw").exists());
    }
}
