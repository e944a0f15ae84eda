//! Images out of archives: OCI image layouts and `docker save` files, plain or compressed, read once from front to back.
//!
//! Nothing tells in advance which member is a layer, so each is told by its first bytes: layers are unpacked into `ingest/` as
//! they pass, JSON documents are kept in memory, and only when the archive has been read and everything fits together does any
//! of it become part of the store.
//! Source: OCI image spec 1.1, image-layout.md; Docker image spec v1.2, "Combined Image JSON + Filesystem Changeset Format".

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Cursor, Read};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::compress::Decoder;
use super::digest::{Digest, HashReader};
use super::error::{Error, Result};
use super::model::{
    ConfigDocument, DOCUMENT_BYTES_MAX, Descriptor, LAYERS_MAX, Manifest, NAME_ANNOTATION, Platform,
    REF_NAME_ANNOTATION,
};
use super::reference::Reference;
use super::store::{Image, ImageStore, Lease, NewImage, Staged};
use super::tarball::{Kind, TarReader, is_tar_start};

/// Bytes of all JSON documents of one archive, which are held in memory while it is read.
const DOCUMENTS_BYTES_MAX: usize = 64 << 20;

/// Images in one archive.
const IMAGES_MAX: usize = 1024;

/// What an import brought.
#[derive(Debug)]
pub struct Imported {
    pub images: Vec<Image>,
    /// Of the archive as it was read.
    pub digest: Digest,
    pub bytes: u64,
}

/// Reads an archive to its end and adds its images. All or nothing: on any error the store is as it was. `name` replaces the
/// archive's own names and is refused for an archive of several images. Blocks; belongs on a blocking thread.
///
/// Errors: [`Error::CutShort`], [`Error::Malformed`], [`Error::BadDigest`], [`Error::NoMatchingPlatform`], [`Error::Layer`],
/// [`Error::InvalidReference`], [`Error::Io`].
pub fn import(store: &ImageStore, source: impl Read, name: Option<&str>, pinned: bool) -> Result<Imported> {
    import_as(store, source, name, pinned, |_, _, _| None)
}

/// As [`import`]; `archive` makes the entry to record in the same write, from the digest, the size and the images' ids.
pub(super) fn import_as(
    store: &ImageStore,
    source: impl Read,
    name: Option<&str>,
    pinned: bool,
    archive: impl FnOnce(&Digest, u64, &[Digest]) -> Option<(String, super::store::ArchiveRecord)>,
) -> Result<Imported> {
    let name = name.map(Reference::parse).transpose()?;
    let mut lease = store.lease();
    let (contents, digest, bytes) = read(store, source, &mut lease)?;
    let mut found = contents.images(store.platform())?;
    if let Some(name) = name {
        let [only] = found.as_mut_slice() else {
            return Err(Error::malformed(
                "archive",
                format!("holds {} images, one name cannot be for all", found.len()),
            ));
        };
        only.names = vec![name];
    }
    let recorded = contents.commit(store, found, pinned, &mut lease).and_then(|images| {
        let ids: Vec<Digest> = images.iter().map(|image| Digest::of(&image.config)).collect();
        store.record(images, archive(&digest, bytes, &ids))
    });
    drop(lease);
    match recorded {
        Ok(images) => Ok(Imported { images, digest, bytes }),
        Err(error) => {
            // Some layers may be whole and nobody's; an import that failed leaves nothing.
            let _ = store.sweep();
            Err(error)
        }
    }
}

/// An archive, read.
#[derive(Default)]
struct Contents {
    /// JSON documents by member path.
    documents: HashMap<PathBuf, Vec<u8>>,
    layers: HashMap<PathBuf, Staged>,
    /// Layers that were not unpacked because the store knows the blob.
    known: HashMap<PathBuf, Digest>,
    /// Members that stand for others.
    links: HashMap<PathBuf, PathBuf>,
}

/// An image of an archive, its documents checked.
struct Found {
    names: Vec<Reference>,
    digests: Vec<String>,
    config: Vec<u8>,
    diff_ids: Vec<Digest>,
    /// Members that are its layers, lowest first.
    layers: Vec<PathBuf>,
}

fn failed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::CutShort("it ends within a file".to_owned()),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Error::malformed("archive", error),
        _ => Error::Io { what: "read", path: PathBuf::from("archive"), source: error },
    }
}

/// Where a member's path or a link within the archive leads, from the archive's top; `None` if out of it.
fn within(base: &Path, path: &Path) -> Option<PathBuf> {
    let mut out = base.to_owned();
    for component in path.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::ParentDir => out.pop().then_some(())?,
            Component::RootDir => out.clear(),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(out)
}

/// The digest that a member of an OCI layout is named by.
fn blob_digest(path: &Path) -> Option<Digest> {
    Digest::from_hex(path.strip_prefix("blobs/sha256").ok()?.to_str()?)
}

fn blob_path(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

fn read(store: &ImageStore, source: impl Read, lease: &mut Lease) -> Result<(Contents, Digest, u64)> {
    let decoder = Decoder::new(HashReader::new(source)).map_err(failed)?;
    let mut tar = TarReader::new(decoder);
    let mut contents = Contents::default();
    let mut documents_bytes = 0;
    let mut first = true;
    loop {
        let member = match tar.next() {
            Ok(Some(member)) => member,
            Ok(None) => break,
            Err(error) if first && error.kind() == io::ErrorKind::InvalidData => {
                return Err(Error::malformed("archive", "neither a tar archive nor a compressed one"));
            }
            Err(error) => return Err(failed(error)),
        };
        first = false;
        let path = super::unpack::clean(&member.path)
            .ok_or_else(|| Error::malformed("archive", "a member's name leads out of it"))?;
        match member.kind {
            Kind::Symlink | Kind::HardLink => {
                use std::os::unix::ffi::OsStrExt;
                let base = match member.kind {
                    Kind::Symlink => path.parent().unwrap_or(Path::new("")),
                    _ => Path::new(""),
                };
                if let Some(target) = within(base, Path::new(std::ffi::OsStr::from_bytes(&member.link))) {
                    contents.links.insert(path, target);
                }
                continue;
            }
            Kind::File => {}
            Kind::Directory | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => continue,
        }
        let named = blob_digest(&path);
        if let Some(digest) = named.as_ref().filter(|digest| store.find_blob(digest, lease)) {
            contents.known.insert(path, digest.clone());
            continue;
        }
        let mut start = Vec::with_capacity(512);
        tar.by_ref().take(512).read_to_end(&mut start).map_err(failed)?;
        let compressed = start.starts_with(&[0x1f, 0x8b]) || start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
        if compressed || is_tar_start(&start) {
            let staged =
                store.stage(Cursor::new(start).chain(&mut tar), named.as_ref()).map_err(|error| match error {
                    // Of the archive, not of the layer: the layer's length is the archive's word.
                    Error::CutShort(_) => Error::CutShort(format!("{} ends before its end", path.display())),
                    Error::BadDigest { expected, actual, .. } => {
                        Error::BadDigest { what: path.display().to_string(), expected, actual }
                    }
                    other => other,
                })?;
            contents.layers.insert(path, staged);
        } else if matches!(start.iter().find(|b| !b.is_ascii_whitespace()), Some(b'{' | b'[')) {
            if member.size > DOCUMENT_BYTES_MAX as u64 {
                continue;
            }
            documents_bytes += member.size as usize;
            if documents_bytes > DOCUMENTS_BYTES_MAX {
                return Err(Error::malformed("archive", "more than 64 MiB of JSON documents"));
            }
            tar.read_to_end(&mut start).map_err(failed)?;
            verify(&path, named, &Digest::of(&start))?;
            contents.documents.insert(path, start);
        }
    }
    // To the very end: a compressed archive has its checksum there, a docker-archive may be followed by padding.
    let mut decoder = tar.into_source();
    io::copy(&mut decoder, &mut io::sink()).map_err(failed)?;
    let (digest, bytes, _) = decoder.into_source().finish().map_err(failed)?;
    Ok((contents, digest, bytes))
}

fn verify(path: &Path, named: Option<Digest>, actual: &Digest) -> Result<()> {
    match named {
        Some(expected) if expected != *actual => {
            Err(Error::BadDigest { what: path.display().to_string(), expected, actual: actual.clone() })
        }
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: PathBuf,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<PathBuf>,
}

impl Contents {
    fn document(&self, path: &Path) -> Option<&Vec<u8>> {
        self.documents.get(self.links.get(path).map_or(path, |target| target))
    }

    fn has(&self, path: &Path) -> bool {
        let path = self.links.get(path).map_or(path, |target| target);
        self.documents.contains_key(path) || self.layers.contains_key(path) || self.known.contains_key(path)
    }

    fn images(&self, platform: &Platform) -> Result<Vec<Found>> {
        // `docker save` writes both since version 25; its manifest.json has the full names.
        let docker = self.document(Path::new("manifest.json")).map(|text| self.docker_images(text)).transpose()?;
        let oci = self.document(Path::new("index.json")).map(|text| self.oci_images(text, platform));
        let images = match (docker, oci) {
            (Some(docker), Some(Ok(oci))) if docker.iter().all(|image| image.names.is_empty()) => oci,
            (Some(docker), _) => docker,
            (None, Some(oci)) => oci?,
            (None, None) => {
                return Err(Error::malformed(
                    "archive",
                    "neither an OCI image layout (index.json) nor a docker archive (manifest.json), or cut short",
                ));
            }
        };
        match images.len() {
            0 => Err(Error::malformed("archive", "holds no image")),
            1..=IMAGES_MAX => Ok(images),
            count => Err(Error::malformed("archive", format!("holds {count} images"))),
        }
    }

    fn docker_images(&self, text: &[u8]) -> Result<Vec<Found>> {
        let images: Vec<DockerImage> =
            serde_json::from_slice(text).map_err(|error| Error::malformed("manifest.json", error))?;
        let read = |image: DockerImage| {
            let config = self.document(&image.config).ok_or_else(|| lacks(&image.config))?;
            let names = image.repo_tags.unwrap_or_default();
            let names = names.iter().map(|name| Reference::parse(name)).collect::<Result<Vec<_>>>()?;
            self.found(names, Vec::new(), config, image.layers)
        };
        images.into_iter().map(read).collect()
    }

    fn oci_images(&self, text: &[u8], platform: &Platform) -> Result<Vec<Found>> {
        let index: Manifest = serde_json::from_slice(text).map_err(|error| Error::malformed("index.json", error))?;
        // One entry per name; the same image under several names, or for several platforms, comes several times.
        let mut by_name: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
        for descriptor in index.manifests {
            let annotation = |key| descriptor.annotations.as_ref().and_then(|all| all.get(key)).cloned();
            let name = annotation(NAME_ANNOTATION).or_else(|| annotation(REF_NAME_ANNOTATION));
            by_name.entry(name).or_default().push(descriptor);
        }
        let mut images = Vec::new();
        for (name, descriptors) in by_name {
            let reference = name.as_deref().map(Reference::parse).transpose()?;
            let shown = name.unwrap_or_else(|| "archive".to_owned());
            // Nameless entries are images of their own; entries of one name are its platforms.
            let chosen: Vec<&Descriptor> = match (&reference, descriptors.as_slice()) {
                (None, all) => all.iter().collect(),
                (Some(_), [only]) => vec![only],
                (Some(_), all) => platform.choose(all).into_iter().collect(),
            };
            if chosen.is_empty() {
                return Err(no_platform(&shown, platform, &descriptors));
            }
            for top in chosen {
                let (text, manifest) = self.manifest(&top.digest)?;
                let (_, manifest) = match manifest.is_index() {
                    false => (text, manifest),
                    true => {
                        // A layout may hold only some of the platforms that its index lists.
                        let held: Vec<Descriptor> =
                            manifest.manifests.iter().filter(|d| self.has(&blob_path(&d.digest))).cloned().collect();
                        let ours =
                            platform.choose(&held).ok_or_else(|| no_platform(&shown, platform, &manifest.manifests))?;
                        self.manifest(&ours.digest)?
                    }
                };
                let config = manifest
                    .config
                    .as_ref()
                    .ok_or_else(|| Error::malformed(&shown, "a manifest without configuration"))?;
                let config_path = blob_path(&config.digest);
                let config = self.document(&config_path).ok_or_else(|| lacks(&config_path))?;
                let layers = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
                let digests = reference.iter().map(|reference| reference.at(&top.digest)).collect();
                images.push(self.found(reference.iter().cloned().collect(), digests, config, layers)?);
            }
        }
        Ok(images)
    }

    fn manifest(&self, digest: &Digest) -> Result<(&[u8], Manifest)> {
        let path = blob_path(digest);
        let text = self.document(&path).ok_or_else(|| lacks(&path))?;
        let manifest =
            serde_json::from_slice(text).map_err(|error| Error::malformed(path.display().to_string(), error))?;
        Ok((text, manifest))
    }

    fn found(&self, names: Vec<Reference>, digests: Vec<String>, config: &[u8], layers: Vec<PathBuf>) -> Result<Found> {
        let document: ConfigDocument =
            serde_json::from_slice(config).map_err(|error| Error::malformed("image configuration", error))?;
        let diff_ids = document.rootfs.diff_ids;
        if diff_ids.len() != layers.len() || layers.len() > LAYERS_MAX {
            let why = format!("{} layers, but its configuration lists {}", layers.len(), diff_ids.len());
            return Err(Error::malformed("image", why));
        }
        let layers: Vec<PathBuf> =
            layers.into_iter().map(|path| self.links.get(&path).cloned().unwrap_or(path)).collect();
        for (path, diff_id) in layers.iter().zip(&diff_ids) {
            match self.layers.get(path) {
                Some(staged) if staged.unpacked.diff_id != *diff_id => {
                    return Err(Error::BadDigest {
                        what: path.display().to_string(),
                        expected: diff_id.clone(),
                        actual: staged.unpacked.diff_id.clone(),
                    });
                }
                Some(_) => {}
                None if self.known.contains_key(path) => {}
                None => return Err(lacks(path)),
            }
        }
        Ok(Found { names, digests, config: config.to_vec(), diff_ids, layers })
    }

    fn commit(
        mut self,
        store: &ImageStore,
        found: Vec<Found>,
        pinned: bool,
        lease: &mut Lease,
    ) -> Result<Vec<NewImage>> {
        let mut images = Vec::new();
        for image in found {
            let mut keys: Vec<Digest> = Vec::new();
            let mut chain: Option<Digest> = None;
            for (path, diff_id) in image.layers.iter().zip(&image.diff_ids) {
                let chain_id = chain.as_ref().map_or_else(|| diff_id.clone(), |below| Digest::chain(below, diff_id));
                let key = match store.find_layer(diff_id, &chain_id, lease) {
                    Some(key) => key,
                    None => {
                        let staged = self.layers.remove(path).ok_or_else(|| {
                            Error::malformed(path.display().to_string(), "this layer is needed twice on different ones")
                        })?;
                        store.commit(staged, &keys, &chain_id, lease)?
                    }
                };
                keys.push(key);
                chain = Some(chain_id);
            }
            let Found { names, digests, config, .. } = image;
            images.push(NewImage { config, layers: keys, names, digests, pinned });
        }
        Ok(images)
    }
}

fn lacks(path: &Path) -> Error {
    Error::malformed("archive", format!("lacks {}, or is cut short", path.display()))
}

pub(super) fn no_platform(reference: &str, wanted: &Platform, offered: &[Descriptor]) -> Error {
    let offered: Vec<String> = offered.iter().filter_map(|d| d.platform.as_ref()).map(Platform::to_string).collect();
    let available = if offered.is_empty() { String::new() } else { format!(", only {}", offered.join(", ")) };
    Error::NoMatchingPlatform { reference: reference.to_owned(), wanted: wanted.to_string(), available }
}
