//! Kernel settings, and the memory of what they were.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::Error;

/// File in the state folder with the former values of the host's settings.
const MEMORY: &str = "sysctls.json";

/// Path of a setting in the calling thread's network namespace, from dotted form. A link name may hold dots: callers pass
/// such paths with slashes.
pub(crate) fn path(name: &str) -> PathBuf {
    let name = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    Path::new("/proc/sys").join(name)
}

/// The value without line end; `None` if the setting does not exist.
pub(crate) fn get(name: &str) -> Option<String> {
    fs::read_to_string(path(name)).ok().map(|v| v.trim_end().to_owned())
}

/// Writes a setting unless it has the value already (so a read-only /proc/sys that is right is fine).
pub(crate) fn set(name: &str, value: &str) -> Result<(), Error> {
    if get(name).as_deref() == Some(value) {
        return Ok(());
    }
    let path = path(name);
    fs::write(&path, value).map_err(Error::io("write", path))
}

/// Settings of the host that are changed for as long as Kedge is installed.
#[derive(Debug)]
pub(crate) struct Remembered {
    file: PathBuf,
    former: BTreeMap<String, String>,
}

impl Remembered {
    /// Reads what an earlier process remembered.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, Error> {
        let file = state_dir.join(MEMORY);
        let former = match fs::read(&file) {
            // A file cut short by a crash: its values are lost, the settings stay as they are.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(Error::io("read", file)(error)),
        };
        Ok(Self { file, former })
    }

    /// Changes a setting; its former value is on record before.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let old = get(name);
        if old.as_deref() == Some(value) {
            return Ok(());
        }
        if let Some(old) = old
            && !self.former.contains_key(name)
        {
            self.former.insert(name.to_owned(), old);
            let text = serde_json::to_vec(&self.former).unwrap_or_default();
            fs::write(&self.file, text).map_err(Error::io("write", &self.file))?;
        }
        set(name, value)
    }

    /// Puts all former values back. A setting whose link has gone is done.
    pub(crate) fn restore(self) -> Vec<Error> {
        let back = |(name, value): (&String, &String)| match set(name, value) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            other => other.err(),
        };
        self.former.iter().filter_map(back).collect()
    }
}
