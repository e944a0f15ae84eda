//! Where the daemons of this host keep things, written down by each before it touches the host, so that `kedge reset` finds
//! what flags and variables named that nobody remembers. A note outlives its daemon, however that ended, and a boot.
//!
//! What never lives here: anything that a daemon reads.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::config::{Common, check};

/// Beside what install.sh writes down; one file for each place.
pub const FOLDER: &str = "/etc/kedge/places";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    pub run_dir: PathBuf,
    pub data_dir: PathBuf,
    pub cgroup_root: String,
}

impl Place {
    pub fn of(common: &Common) -> Self {
        Self {
            run_dir: common.run_dir.clone(),
            data_dir: common.data_dir.clone(),
            cgroup_root: common.cgroup_root.clone(),
        }
    }

    fn file(&self, folder: &Path) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        folder.join(format!("{:016x}.json", hasher.finish()))
    }
}

/// Writes the place down; nothing is written when it is there already.
///
/// # Errors
/// The folder or the file cannot be written.
pub fn note(folder: &Path, place: &Place) -> Result<()> {
    let file = place.file(folder);
    if read(&file).is_ok_and(|noted| noted == *place) {
        return Ok(());
    }
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    Ok(cluster::files::write(&file, &serde_json::to_vec(place)?)?)
}

/// Every note with its file. One that cannot be understood, or names what no daemon takes, is an error of its own.
pub fn noted(folder: &Path) -> Vec<(PathBuf, Result<Place>)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "json")).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), read(&file))).collect()
}

fn read(file: &Path) -> Result<Place> {
    let place: Place = serde_json::from_slice(&std::fs::read(file)?)?;
    check::folder("run-dir", &place.run_dir)?;
    check::folder("data-dir", &place.data_dir)?;
    check::cgroup_root(&place.cgroup_root)?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_noted_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("places");
        assert!(noted(&folder).is_empty());
        let one = Place { run_dir: "/run/a".into(), data_dir: "/srv/a".into(), cgroup_root: "/a".into() };
        let two = Place { cgroup_root: "/b".into(), ..one.clone() };
        for place in [&one, &two, &one] {
            note(&folder, place).unwrap();
        }
        let mut found: Vec<Place> = noted(&folder).into_iter().map(|(_, place)| place.unwrap()).collect();
        found.sort();
        assert_eq!(found, [one, two]);
        std::fs::write(folder.join("x.json"), r#"{"run_dir":"/","data_dir":"/srv","cgroup_root":"/a"}"#).unwrap();
        assert_eq!(noted(&folder).iter().filter(|(_, place)| place.is_err()).count(), 1);
    }
}
