//! A container's own root filesystem: an image's layers below, an empty directory of the container's on top. Nothing is
//! mounted here; the mount lives and dies with the container.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::{Error, Result};
use super::store::ImageStore;
use crate::spec::{Rootfs, valid_id};

#[derive(Serialize, Deserialize)]
struct About {
    image: Digest,
}

/// Containers found on disk, with their images. What is not whole is removed: it was never handed out, or its container died
/// with the machine.
pub(super) fn scan(dir: &Path) -> Result<BTreeMap<String, Digest>> {
    let path = dir.join("containers");
    let mut containers = BTreeMap::new();
    for entry in fs::read_dir(&path).map_err(Error::io("read", &path))? {
        let entry = entry.map_err(Error::io("read", &path))?;
        let about = fs::read(entry.path().join("container.json")).ok();
        let about = about.and_then(|bytes| serde_json::from_slice::<About>(&bytes).ok());
        match (entry.file_name().into_string().ok().filter(|name| valid_id(name)), about) {
            (Some(name), Some(about)) => drop(containers.insert(name, about.image)),
            _ => fs::remove_dir_all(entry.path()).map_err(Error::io("remove", entry.path()))?,
        }
    }
    Ok(containers)
}

impl ImageStore {
    /// A root filesystem of `image` (name or id) for one container, its upper directory empty when new. The same container gets
    /// the same one again, also from a later process. Keeps the image from being removed until [`ImageStore::release`].
    /// A handful of system calls; nothing is flushed, since the content is not meant to outlive the machine's power.
    ///
    /// Errors: [`Error::InvalidReference`], [`Error::Missing`], [`Error::Malformed`] for a name that is no container id, [`Error::Io`].
    pub fn prepare(&self, image: &str, container: &str) -> Result<Rootfs> {
        if !valid_id(container) {
            return Err(Error::malformed("container id", format!("{container:?} cannot be a file name here")));
        }
        if let Some(id) = self.used_by(container) {
            return Ok(self.rootfs(&id, container));
        }
        let id = self.use_by(container, image)?;
        match self.make(&id, container) {
            Ok(()) => Ok(self.rootfs(&id, container)),
            Err(error) => {
                self.unuse(container);
                Err(error)
            }
        }
    }

    /// Drops a container's root filesystem with everything written to it. Idempotent. Blocks for as long as deleting takes.
    pub fn release(&self, container: &str) -> Result<()> {
        if !valid_id(container) {
            return Ok(());
        }
        let path = self.dir().join("containers").join(container);
        // Under another name first: an interrupted removal must not be taken for a whole one.
        let trash = self.ingest()?;
        match fs::rename(&path, trash.path.join("container")) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("remove", path)(error)),
        }
        self.unuse(container);
        fs::remove_dir_all(&trash.path).map_err(Error::io("remove", path))
    }

    /// An image's layers as a read-only volume would show them, topmost first; at least one.
    ///
    /// Errors: [`Error::InvalidReference`], [`Error::Missing`].
    pub fn layers(&self, image: &str) -> Result<Vec<PathBuf>> {
        let image = self.resolve(image)?.ok_or_else(|| Error::Missing(image.to_owned()))?;
        Ok(self.lower(&image.id))
    }

    pub(super) fn lower(&self, id: &Digest) -> Vec<PathBuf> {
        let keys = self.image_layers(id);
        match keys.is_empty() {
            // An image of no layers; overlayfs wants one.
            true => vec![self.dir().join("empty")],
            false => keys.iter().rev().map(|key| self.layer_dir(key)).collect(),
        }
    }

    fn rootfs(&self, id: &Digest, container: &str) -> Rootfs {
        let path = self.dir().join("containers").join(container);
        Rootfs::Overlay { lower: self.lower(id), upper: path.join("upper"), work: path.join("work") }
    }

    fn make(&self, id: &Digest, container: &str) -> Result<()> {
        let ingest = self.ingest()?;
        let (upper, work) = (ingest.path.join("upper"), ingest.path.join("work"));
        for path in [&upper, &work] {
            fs::create_dir(path).map_err(Error::io("create", path))?;
        }
        // The merged root shows the upper directory's owner and mode: those of the topmost layer that says any.
        let keys = self.image_layers(id);
        let told = keys.iter().rev().find(|key| self.layer(key).is_some_and(|layer| layer.root));
        let (mode, uid, gid) = match told.and_then(|key| fs::symlink_metadata(self.layer_dir(key)).ok()) {
            Some(root) => (root.mode() & 0o7777, root.uid(), root.gid()),
            None => (0o755, 0, 0),
        };
        std::os::unix::fs::chown(&upper, Some(uid), Some(gid))
            .and_then(|()| fs::set_permissions(&upper, fs::Permissions::from_mode(mode)))
            .map_err(Error::io("set owner and mode of", &upper))?;
        let about = ingest.path.join("container.json");
        serde_json::to_vec(&About { image: id.clone() })
            .map_err(io::Error::other)
            .and_then(|bytes| fs::write(&about, bytes))
            .map_err(Error::io("write", about))?;
        let to = self.dir().join("containers").join(container);
        fs::rename(&ingest.path, &to).map_err(Error::io("create", to))
    }
}
