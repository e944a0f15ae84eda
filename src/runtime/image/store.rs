//! The store on disk: what is here, under which names, and who needs it.
//!
//! ```text
//! <dir>/lock                      held while a process has the store
//! <dir>/index.json                names, images, archives; replaced whole by one rename
//! <dir>/blobs/sha256/<hex>        image configurations, as they came
//! <dir>/layers/<hex>/fs           one unpacked layer; <hex> is its diff id, or its chain id when it leans on those below
//! <dir>/layers/<hex>/layer.json   what is known about it
//! <dir>/containers/<id>/          upper, work, container.json
//! <dir>/ingest/<n>/               being written; emptied at start
//! ```
//!
//! Compressed layers are not kept: flash is what a small board lacks. A layer directory appears by one rename after its
//! filesystem was flushed, so that what is listed under `layers/` is whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{Flock, FlockArg};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::digest::Digest;
use super::error::{Error, Result};
use super::model::{ConfigDocument, ImageConfig, Platform};
use super::reference::{Reference, Version};
use super::unpack::{self, Unpacked};

/// Format of `index.json` and of the folders around it.
const FORMAT: u32 = 1;

/// What a store may be told when it is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which image of a multi-platform one is ours.
    pub platform: Platform,
}

impl Default for Options {
    fn default() -> Options {
        Options { platform: Platform::host() }
    }
}

/// An image at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of its configuration.
    pub id: Digest,
    /// `repository:tag` names, fully qualified, sorted.
    pub names: Vec<String>,
    /// `repository@sha256:…` names, fully qualified, sorted.
    pub digests: Vec<String>,
    /// Of the unpacked files; layers shared with other images count in each.
    pub size_bytes: u64,
    /// Never removed by [`ImageStore::prune`].
    pub pinned: bool,
    /// Containers that have a root filesystem of it.
    pub containers: usize,
    pub config: Arc<ImageConfig>,
}

/// What [`ImageStore::prune`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// Ids of removed images.
    pub images: Vec<Digest>,
    pub layers: usize,
    pub freed_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    format: u32,
    /// Canonical `repository:tag` to image id.
    #[serde(default)]
    names: BTreeMap<String, Digest>,
    #[serde(default)]
    images: BTreeMap<Digest, Record>,
    /// Archives of the airgap folder by file name.
    #[serde(default)]
    archives: BTreeMap<String, ArchiveRecord>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// Keys of its layers, lowest first.
    layers: Vec<Digest>,
    /// `repository@sha256:…` names.
    #[serde(default)]
    digests: BTreeSet<String>,
    size_bytes: u64,
    #[serde(default)]
    pinned: bool,
}

/// What is known of a file in the airgap folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchiveRecord {
    pub digest: Digest,
    pub bytes: u64,
    /// Seconds and nanoseconds, as the filesystem tells.
    pub modified: (i64, i64),
    pub images: BTreeSet<Digest>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layer {
    pub diff_id: Digest,
    /// Digest of the stream it came from; the next image that names it needs no download.
    pub blob: Digest,
    pub size_bytes: u64,
    /// It says what owner and mode `/` has.
    #[serde(default)]
    pub root: bool,
}

pub(super) struct State {
    index: Index,
    configs: HashMap<Digest, Arc<ImageConfig>>,
    layers: HashMap<Digest, Layer>,
    /// Container to image.
    containers: BTreeMap<String, Digest>,
    /// Layers that a pull or an import under way relies on.
    leases: HashMap<Digest, usize>,
}

/// The images of this host. Cheap to clone; every verb may be called from any thread, and all of them block on the disk
/// except [`ImageStore::resolve`] and [`ImageStore::list`], which read memory.
#[derive(Clone)]
pub struct ImageStore(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    options: Options,
    state: RwLock<State>,
    /// Held over a change and its write, so that readers never wait for the disk.
    writer: Mutex<()>,
    next: AtomicU64,
    /// How often something has come under a name that did not mean it before.
    added: watch::Sender<u64>,
    _lock: Flock<File>,
}

/// An image about to be recorded; its layers are committed.
pub(super) struct NewImage {
    pub config: Vec<u8>,
    pub layers: Vec<Digest>,
    pub names: Vec<Reference>,
    pub digests: Vec<String>,
    pub pinned: bool,
}

impl ImageStore {
    /// Opens the store in `dir`, making it when missing, and drops what an interrupted write left. Images whose content is not
    /// whole are forgotten, with a warning, and come back with the next pull.
    ///
    /// Errors: [`Error::Locked`], [`Error::NewerStore`], [`Error::Malformed`] for an index that is no index, [`Error::Io`].
    pub fn open(dir: impl Into<PathBuf>, options: Options) -> Result<ImageStore> {
        let dir = dir.into();
        for part in ["blobs/sha256", "layers", "containers", "empty"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(Error::io("create", path))?;
        }
        let lock = File::create(dir.join("lock")).map_err(Error::io("create", dir.join("lock")))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|_| Error::Locked(dir.clone()))?;
        let index = read_index(&dir)?;
        clear_ingest(&dir)?;
        let layers = scan_layers(&dir)?;
        let containers = super::rootfs::scan(&dir)?;
        let mut state = State { index, configs: HashMap::new(), layers, containers, leases: HashMap::new() };
        state.load_configs(&dir);
        Ok(ImageStore(Arc::new(Inner {
            dir,
            options,
            state: RwLock::new(state),
            writer: Mutex::new(()),
            next: AtomicU64::new(0),
            added: watch::Sender::new(0),
            _lock: lock,
        })))
    }

    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    pub fn platform(&self) -> &Platform {
        &self.0.options.platform
    }

    /// The image of this name, digest name or id (`sha256:…`), if it is here. Reads memory only.
    ///
    /// Errors: [`Error::InvalidReference`].
    pub fn resolve(&self, name: &str) -> Result<Option<Image>> {
        let state = self.0.state.read();
        Ok(state.find(name)?.map(|id| state.image(&id)))
    }

    /// Changes whenever a name or digest name comes to mean an image that it did not mean before. The number says nothing else.
    pub fn added(&self) -> watch::Receiver<u64> {
        self.0.added.subscribe()
    }

    /// Everything that is here, by id. Reads memory only.
    pub fn list(&self) -> Vec<Image> {
        let state = self.0.state.read();
        state.index.images.keys().map(|id| state.image(id)).collect()
    }

    /// Gives an image another name, taking it from the image that had it.
    ///
    /// Errors: [`Error::InvalidReference`] (also for a digest name), [`Error::Missing`], [`Error::Io`].
    pub fn tag(&self, image: &str, name: &str) -> Result<()> {
        let reference = Reference::parse(name)?;
        if let Version::Digest(_) = reference.version {
            let why = "a digest is no name that can be given".to_owned();
            return Err(Error::InvalidReference { reference: name.to_owned(), why });
        }
        self.update(|state| {
            let id = state.find(image)?.ok_or_else(|| Error::Missing(image.to_owned()))?;
            state.index.names.insert(reference.to_string(), id);
            Ok(())
        })
    }

    /// Keeps an image from being pruned, or no longer.
    ///
    /// Errors: [`Error::InvalidReference`], [`Error::Missing`], [`Error::Io`].
    pub fn pin(&self, image: &str, pinned: bool) -> Result<()> {
        self.update(|state| {
            let id = state.find(image)?.ok_or_else(|| Error::Missing(image.to_owned()))?;
            if let Some(record) = state.index.images.get_mut(&id) {
                record.pinned = pinned;
            }
            Ok(())
        })
    }

    /// Removes a name, and with the last name (or by id) the image and the layers that no other image has.
    ///
    /// Errors: [`Error::InvalidReference`], [`Error::Missing`], [`Error::InUse`], [`Error::Pinned`], [`Error::Io`].
    pub fn remove(&self, name: &str) -> Result<Pruned> {
        let removed = self.update(|state| {
            let id = state.find(name)?.ok_or_else(|| Error::Missing(name.to_owned()))?;
            let canonical = Reference::parse(name).map(|reference| reference.to_string()).unwrap_or_default();
            let names = state.index.names.values().filter(|named| **named == id).count();
            if names > 1 && state.index.names.contains_key(&canonical) {
                state.index.names.remove(&canonical);
                return Ok(None);
            }
            if let Some((container, _)) = state.containers.iter().find(|(_, image)| **image == id) {
                return Err(Error::InUse { image: name.to_owned(), container: container.clone() });
            }
            if let Some(by) = state.pinned_by(&id) {
                return Err(Error::Pinned { image: name.to_owned(), by });
            }
            state.forget(&id);
            Ok(Some(id))
        })?;
        let Some(id) = removed else { return Ok(Pruned::default()) };
        let mut pruned = self.sweep()?;
        pruned.images.push(id);
        Ok(pruned)
    }

    /// Removes every image that no container has and that is not pinned, and every layer and blob that no image has.
    pub fn prune(&self) -> Result<Pruned> {
        let images = self.update(|state| {
            let used: BTreeSet<Digest> = state.containers.values().cloned().collect();
            let unused: Vec<Digest> = state.index.images.keys().cloned().collect();
            let unused: Vec<Digest> =
                unused.into_iter().filter(|id| !used.contains(id) && state.pinned_by(id).is_none()).collect();
            unused.iter().for_each(|id| state.forget(id));
            Ok(unused)
        })?;
        let mut pruned = self.sweep()?;
        pruned.images = images;
        Ok(pruned)
    }

    /// Deletes layers and configurations that no image has and no pull relies on.
    pub(super) fn sweep(&self) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        let _writer = self.0.writer.lock();
        let mut state = self.0.state.write();
        let needed: BTreeSet<Digest> =
            state.index.images.values().flat_map(|record| &record.layers).chain(state.leases.keys()).cloned().collect();
        let unneeded: Vec<Digest> = state.layers.keys().filter(|key| !needed.contains(key)).cloned().collect();
        let mut trash = Vec::new();
        for key in unneeded {
            let to = self.ingest_path();
            fs::create_dir_all(self.0.dir.join("ingest")).map_err(Error::io("create", self.0.dir.join("ingest")))?;
            let from = self.0.dir.join("layers").join(key.hex());
            fs::rename(&from, &to).map_err(Error::io("remove", from))?;
            pruned.freed_bytes += state.layers.remove(&key).map_or(0, |layer| layer.size_bytes);
            pruned.layers += 1;
            trash.push(to);
        }
        let blobs = self.0.dir.join("blobs/sha256");
        for entry in fs::read_dir(&blobs).map_err(Error::io("read", &blobs))? {
            let path = entry.map_err(Error::io("read", &blobs))?.path();
            let known = path.file_name().and_then(|name| Digest::from_hex(name.to_str()?));
            if !known.is_some_and(|digest| state.index.images.contains_key(&digest)) {
                fs::remove_file(&path).map_err(Error::io("remove", path))?;
            }
        }
        drop(state);
        for path in trash {
            fs::remove_dir_all(&path).map_err(Error::io("remove", path))?;
        }
        Ok(pruned)
    }

    /// Changes the index in memory and then on disk; undone in memory when either fails.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Changing<'_>) -> Result<T>) -> Result<T> {
        let _writer = self.0.writer.lock();
        let (before, after, out) = {
            let mut state = self.0.state.write();
            let before = state.index.clone();
            match change(&mut Changing(&mut state)) {
                Ok(out) => (before, state.index.clone(), out),
                Err(error) => {
                    state.index = before;
                    return Err(error);
                }
            }
        };
        let written = serde_json::to_vec(&after)
            .map_err(io::Error::other)
            .and_then(|bytes| write_atomically(&self.0.dir.join("index.json"), &bytes))
            .map_err(Error::io("write", self.0.dir.join("index.json")));
        match written {
            Ok(()) => {
                if gained(&before, &after) {
                    self.0.added.send_modify(|generation| *generation += 1);
                }
                Ok(out)
            }
            Err(error) => {
                self.0.state.write().index = before;
                Err(error)
            }
        }
    }

    /// Records images whose layers are committed, and the archive that they came from, in one write.
    pub(super) fn record(&self, images: Vec<NewImage>, archive: Option<(String, ArchiveRecord)>) -> Result<Vec<Image>> {
        let mut ids = Vec::new();
        let mut configs = Vec::new();
        for image in &images {
            let id = Digest::of(&image.config);
            let document: ConfigDocument = serde_json::from_slice(&image.config)
                .map_err(|error| Error::malformed(format!("image configuration {id}"), error))?;
            let path = self.0.dir.join("blobs/sha256").join(id.hex());
            write_atomically(&path, &image.config).map_err(Error::io("write", path))?;
            configs.push((id.clone(), Arc::new(document.image_config())));
            ids.push(id);
        }
        self.update(|state| {
            for ((id, config), image) in configs.into_iter().zip(images) {
                let size_bytes =
                    image.layers.iter().filter_map(|key| state.layers.get(key)).map(|l| l.size_bytes).sum();
                let record = state.index.images.entry(id.clone()).or_default();
                record.layers = image.layers;
                record.size_bytes = size_bytes;
                record.pinned |= image.pinned;
                record.digests.extend(image.digests);
                for name in image.names {
                    match name.version {
                        Version::Tag(_) => drop(state.index.names.insert(name.to_string(), id.clone())),
                        Version::Digest(_) => {
                            if let Some(record) = state.index.images.get_mut(&id) {
                                record.digests.insert(name.to_string());
                            }
                        }
                    }
                }
                state.configs.insert(id, config);
            }
            if let Some((name, record)) = archive {
                state.index.archives.insert(name, record);
            }
            Ok(())
        })?;
        let state = self.0.state.read();
        Ok(ids.iter().map(|id| state.image(id)).collect())
    }

    pub(super) fn archives(&self) -> BTreeMap<String, ArchiveRecord> {
        self.0.state.read().index.archives.clone()
    }

    pub(super) fn has_images(&self, ids: &BTreeSet<Digest>) -> bool {
        let state = self.0.state.read();
        ids.iter().all(|id| state.index.images.contains_key(id))
    }

    /// The layer of this diff id on this chain, if it is unpacked; holds it against pruning.
    pub(super) fn find_layer(&self, diff_id: &Digest, chain_id: &Digest, lease: &mut Lease) -> Option<Digest> {
        let mut state = self.0.state.write();
        let key = [diff_id, chain_id].into_iter().find(|key| state.layers.contains_key(*key))?.clone();
        lease.hold(&mut state, key.clone());
        Some(key)
    }

    /// Whether a stream of this digest was unpacked before, into a layer that fits on any other; held if so.
    pub(super) fn find_blob(&self, blob: &Digest, lease: &mut Lease) -> bool {
        let mut state = self.0.state.write();
        let found = state
            .layers
            .iter()
            .find(|(key, layer)| **key == layer.diff_id && (layer.blob == *blob || layer.diff_id == *blob))
            .map(|(key, _)| key.clone());
        found.is_some_and(|key| {
            lease.hold(&mut state, key);
            true
        })
    }

    /// What is known about a layer.
    pub(super) fn layer(&self, key: &Digest) -> Option<Layer> {
        self.0.state.read().layers.get(key).cloned()
    }

    pub(super) fn layer_dir(&self, key: &Digest) -> PathBuf {
        self.0.dir.join("layers").join(key.hex()).join("fs")
    }

    pub(super) fn lease(&self) -> Lease {
        Lease { store: self.clone(), keys: Vec::new() }
    }

    fn ingest_path(&self) -> PathBuf {
        self.0.dir.join("ingest").join(self.0.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// An empty directory below `ingest/`, removed with the value.
    pub(super) fn ingest(&self) -> Result<Ingest> {
        let path = self.ingest_path();
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        Ok(Ingest { path })
    }

    /// Unpacks a layer into `ingest/`, of which the compressed digest may be known. Blocks.
    pub(super) fn stage(&self, source: impl io::Read, expected: Option<&Digest>) -> Result<Staged> {
        let ingest = self.ingest()?;
        let root = ingest.path.join("fs");
        fs::create_dir(&root).map_err(Error::io("create", &root))?;
        let unpacked = unpack::unpack(source, expected, &root)?;
        Ok(Staged { ingest, unpacked })
    }

    /// Makes a staged layer one of the store, on top of `below` (keys, lowest first). Returns its key, which is held by the lease.
    pub(super) fn commit(
        &self,
        staged: Staged,
        below: &[Digest],
        chain_id: &Digest,
        lease: &mut Lease,
    ) -> Result<Digest> {
        let Staged { ingest, unpacked } = staged;
        if let Some(key) = self.find_layer(&unpacked.diff_id, chain_id, lease) {
            return Ok(key);
        }
        let leans = !unpacked.implied.is_empty() || !unpacked.links.is_empty();
        let key = if leans { chain_id.clone() } else { unpacked.diff_id.clone() };
        if leans {
            let below: Vec<PathBuf> = below.iter().rev().map(|key| self.layer_dir(key)).collect();
            super::lookup::complete(&ingest.path.join("fs"), &unpacked, &below)?;
        }
        let layer = Layer {
            diff_id: unpacked.diff_id,
            blob: unpacked.blob,
            size_bytes: unpacked.size_bytes,
            root: unpacked.root,
        };
        let about = ingest.path.join("layer.json");
        serde_json::to_vec(&layer)
            .map_err(io::Error::other)
            .and_then(|bytes| fs::write(&about, bytes))
            .map_err(Error::io("write", about))?;
        // Thousands of files: one flush of the filesystem is cheaper than one of each, and nothing else orders them before the
        // rename.
        File::open(&ingest.path)
            .and_then(|dir| nix::unistd::syncfs(&dir).map_err(Into::into))
            .map_err(Error::io("flush", &ingest.path))?;
        let _writer = self.0.writer.lock();
        let mut state = self.0.state.write();
        if !state.layers.contains_key(&key) {
            let to = self.0.dir.join("layers").join(key.hex());
            fs::rename(&ingest.path, &to).map_err(Error::io("commit layer", &to))?;
            sync_dir(&self.0.dir.join("layers")).map_err(Error::io("flush", to))?;
            state.layers.insert(key.clone(), layer);
        }
        lease.hold(&mut state, key.clone());
        Ok(key)
    }

    pub(super) fn config_bytes(&self, id: &Digest) -> Result<Vec<u8>> {
        let path = self.0.dir.join("blobs/sha256").join(id.hex());
        fs::read(&path).map_err(Error::io("read", path))
    }

    /// Keys of an image's layers, lowest first.
    pub(super) fn image_layers(&self, id: &Digest) -> Vec<Digest> {
        self.0.state.read().index.images.get(id).map(|record| record.layers.clone()).unwrap_or_default()
    }

    /// Notes that a container has (or had) a root filesystem; `None` for an image that is not here.
    pub(super) fn use_by(&self, container: &str, image: &str) -> Result<Digest> {
        let mut state = self.0.state.write();
        let id = state.find(image)?.ok_or_else(|| Error::Missing(image.to_owned()))?;
        state.containers.insert(container.to_owned(), id.clone());
        Ok(id)
    }

    pub(super) fn used_by(&self, container: &str) -> Option<Digest> {
        self.0.state.read().containers.get(container).cloned()
    }

    pub(super) fn unuse(&self, container: &str) {
        self.0.state.write().containers.remove(container);
    }

    /// Containers that hold a root filesystem, by name.
    pub fn prepared(&self) -> Vec<String> {
        self.0.state.read().containers.keys().cloned().collect()
    }
}

/// The part of the state that a change may touch.
pub(super) struct Changing<'a>(&'a mut State);

impl std::ops::Deref for Changing<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.0
    }
}

impl std::ops::DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.0
    }
}

impl Changing<'_> {
    /// Forgets archives that are no longer in the folder; their images lose that pin.
    pub(super) fn retain_archives(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.index.archives.retain(|name, _| keep(name));
    }

    pub(super) fn set_archive(&mut self, name: &str, record: ArchiveRecord) {
        self.0.index.archives.insert(name.to_owned(), record);
    }
}

impl State {
    fn find(&self, name: &str) -> Result<Option<Digest>> {
        if let Ok(id) = Digest::parse(name) {
            return Ok(Some(id).filter(|id| self.index.images.contains_key(id)));
        }
        let reference = Reference::parse(name)?;
        let canonical = reference.to_string();
        Ok(match reference.version {
            Version::Tag(_) => self.index.names.get(&canonical).cloned(),
            Version::Digest(_) => {
                let has = |record: &Record| record.digests.contains(&canonical);
                self.index.images.iter().find(|(_, record)| has(record)).map(|(id, _)| id.clone())
            }
        })
    }

    fn image(&self, id: &Digest) -> Image {
        let record = self.index.images.get(id).cloned().unwrap_or_default();
        let named = self.index.names.iter().filter(|(_, named)| *named == id);
        Image {
            id: id.clone(),
            names: named.map(|(name, _)| name.clone()).collect(),
            digests: record.digests.into_iter().collect(),
            size_bytes: record.size_bytes,
            pinned: self.pinned_by(id).is_some(),
            containers: self.containers.values().filter(|image| *image == id).count(),
            config: self.configs.get(id).cloned().unwrap_or_default(),
        }
    }

    /// Who pinned it, as the end of a sentence.
    fn pinned_by(&self, id: &Digest) -> Option<String> {
        let archive = self.index.archives.iter().find(|(_, archive)| archive.images.contains(id));
        match archive {
            Some((name, _)) => Some(format!(" by the archive {name} in the images folder; remove that first")),
            None => self.index.images.get(id).filter(|record| record.pinned).map(|_| String::new()),
        }
    }

    fn forget(&mut self, id: &Digest) {
        self.index.images.remove(id);
        self.index.names.retain(|_, named| named != id);
        self.configs.remove(id);
    }

    /// Reads every image's configuration; images that are not whole are dropped from memory, and with the next change from disk.
    fn load_configs(&mut self, dir: &Path) {
        let ids: Vec<Digest> = self.index.images.keys().cloned().collect();
        for id in ids {
            let whole = fs::read(dir.join("blobs/sha256").join(id.hex()))
                .ok()
                .filter(|bytes| Digest::of(bytes) == id)
                .and_then(|bytes| serde_json::from_slice::<ConfigDocument>(&bytes).ok())
                .filter(|_| {
                    let record = self.index.images.get(&id);
                    record.is_some_and(|record| record.layers.iter().all(|key| self.layers.contains_key(key)))
                });
            match whole {
                Some(document) => drop(self.configs.insert(id, Arc::new(document.image_config()))),
                None => {
                    tracing::warn!(image = %id, "image is not whole on disk and will be fetched again");
                    self.forget(&id);
                }
            }
        }
    }
}

/// Keeps layers from being pruned while someone is about to need them.
pub(super) struct Lease {
    store: ImageStore,
    keys: Vec<Digest>,
}

impl Lease {
    fn hold(&mut self, state: &mut State, key: Digest) {
        *state.leases.entry(key.clone()).or_default() += 1;
        self.keys.push(key);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.store.0.state.write();
        for key in self.keys.drain(..) {
            if let Some(count) = state.leases.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(&key);
                }
            }
        }
    }
}

/// A directory being filled.
pub(super) struct Ingest {
    pub path: PathBuf,
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // Gone already when it was committed; what cannot be removed now is removed at the next start.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// An unpacked layer that is not part of the store yet.
pub(super) struct Staged {
    ingest: Ingest,
    pub unpacked: Unpacked,
}

impl Staged {
    /// Whether it can be committed without those below it.
    pub fn stands_alone(&self) -> bool {
        self.unpacked.implied.is_empty() && self.unpacked.links.is_empty()
    }
}

/// Whether `after` resolves a reference that `before` did not, or to another image.
fn gained(before: &Index, after: &Index) -> bool {
    let digests = |id: &Digest| before.images.get(id).map(|record| &record.digests);
    after.names.iter().any(|(name, id)| before.names.get(name) != Some(id))
        || after.images.iter().any(|(id, record)| digests(id).is_none_or(|had| !record.digests.is_subset(had)))
}

fn read_index(dir: &Path) -> Result<Index> {
    let path = dir.join("index.json");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Index {
                format: FORMAT,
                names: BTreeMap::new(),
                images: BTreeMap::new(),
                archives: BTreeMap::new(),
            });
        }
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let broken = |error: serde_json::Error| Error::malformed(path.display().to_string(), error);
    let Format { format } = serde_json::from_slice(&bytes).map_err(broken)?;
    if format > FORMAT {
        return Err(Error::NewerStore { path: dir.to_owned(), found: format, known: FORMAT });
    }
    serde_json::from_slice(&bytes).map_err(broken)
}

fn clear_ingest(dir: &Path) -> Result<()> {
    let path = dir.join("ingest");
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("clear", path)(error)),
        _ => fs::create_dir(&path).map_err(Error::io("create", path)),
    }
}

fn scan_layers(dir: &Path) -> Result<HashMap<Digest, Layer>> {
    let path = dir.join("layers");
    let mut layers = HashMap::new();
    for entry in fs::read_dir(&path).map_err(Error::io("read", &path))? {
        let entry = entry.map_err(Error::io("read", &path))?;
        let about = fs::read(entry.path().join("layer.json")).ok();
        let layer = about.and_then(|bytes| serde_json::from_slice::<Layer>(&bytes).ok());
        let key = entry.file_name().to_str().and_then(Digest::from_hex);
        match (key, layer) {
            (Some(key), Some(layer)) if entry.path().join("fs").is_dir() => drop(layers.insert(key, layer)),
            _ => fs::remove_dir_all(entry.path()).map_err(Error::io("remove", entry.path()))?,
        }
    }
    Ok(layers)
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Replaces a file so that a power cut leaves the old or the new content.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}
