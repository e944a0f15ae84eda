//! Images out of the store, as an OCI image layout in a tar archive.
//!
//! Layers are packed anew from their directories, in name order: the archive of an image is always the same bytes, but a layer
//! that came in another order gets another diff id, and with it the exported image another id. Names and files are the same.
//! Source: OCI image spec 1.1, image-layout.md, layer.md.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::digest::{Digest, Hasher};
use super::error::{Error, Result};
use super::model::{NAME_ANNOTATION, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, REF_NAME_ANNOTATION};
use super::store::ImageStore;
use super::unpack::{get_xattr_path, is_opaque};

/// Writes images (names or ids) as one archive. Blocks. Each layer's files are read twice: a blob's name is its digest.
///
/// Errors: [`Error::InvalidReference`], [`Error::Missing`], [`Error::Io`] (also of `to`).
pub fn export(store: &ImageStore, images: &[&str], to: impl Write) -> Result<()> {
    let failed = Error::io("write", PathBuf::from("archive"));
    let mut archive = Archive { tar: Builder::new(to), written: HashMap::new() };
    let mut manifests = Vec::new();
    let mut lease = store.lease();
    // All are looked up before anything is written.
    let found: Vec<_> = images
        .iter()
        .map(|name| store.resolve(name)?.ok_or_else(|| Error::Missing((*name).to_owned())))
        .collect::<Result<_>>()?;
    let mut write = || -> Result<()> {
        archive.member("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for (name, image) in images.iter().zip(&found) {
            let keys = store.image_layers(&image.id);
            let mut layers = Vec::new();
            let mut diff_ids = Vec::new();
            for key in &keys {
                // Held, so that nobody removes the directory meanwhile.
                let _ = store.find_layer(key, key, &mut lease);
                let (digest, size) = archive.layer(key, &store.layer_dir(key))?;
                layers.push(json!({"mediaType": OCI_LAYER, "digest": digest, "size": size}));
                diff_ids.push(json!(digest));
            }
            let config = store.config_bytes(&image.id)?;
            let mut document: Value =
                serde_json::from_slice(&config).map_err(|error| Error::malformed("image configuration", error))?;
            let same = document["rootfs"]["diff_ids"].as_array().is_some_and(|said| *said == diff_ids);
            document["rootfs"]["diff_ids"] = Value::Array(diff_ids);
            let config = if same { config } else { bytes(&document) };
            let config = archive.blob(OCI_CONFIG, &config)?;
            let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
            let mut descriptor = archive.blob(OCI_MANIFEST, &bytes(&manifest))?;
            descriptor["platform"] = json!(image.config.platform);
            // By id: under all its names.
            let named: Vec<&String> = match super::Reference::parse(name).map(|reference| reference.to_string()) {
                Ok(canonical) if image.names.contains(&canonical) => {
                    image.names.iter().filter(|n| **n == canonical).collect()
                }
                _ => image.names.iter().collect(),
            };
            if named.is_empty() {
                manifests.push(descriptor.clone());
            }
            for name in named {
                let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
                let mut descriptor = descriptor.clone();
                descriptor["annotations"] = json!({NAME_ANNOTATION: name, REF_NAME_ANNOTATION: tag});
                manifests.push(descriptor);
            }
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        archive.member("index.json", &bytes(&index))
    };
    write()?;
    let mut to = archive.tar.into_inner().map_err(failed)?;
    to.flush().map_err(Error::io("write", PathBuf::from("archive")))
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

struct Archive<W: Write> {
    tar: Builder<W>,
    /// Layers already in the archive.
    written: HashMap<Digest, (Digest, u64)>,
}

impl<W: Write> Archive<W> {
    fn header(size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header
    }

    fn member(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut header = Self::header(bytes.len() as u64);
        self.tar.append_data(&mut header, path, bytes).map_err(Error::io("write", path))
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let digest = Digest::of(bytes);
        self.member(&format!("blobs/sha256/{}", digest.hex()), bytes)?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    }

    fn layer(&mut self, key: &Digest, dir: &Path) -> Result<(Digest, u64)> {
        if let Some(written) = self.written.get(key) {
            return Ok(written.clone());
        }
        let mut count = Counting { hasher: Hasher::default(), bytes: 0, to: io::sink() };
        pack(dir, &mut count).map_err(Error::io("pack", dir))?;
        let (digest, size) = (count.hasher.finish(), count.bytes);
        let mut header = Self::header(size);
        let path = format!("blobs/sha256/{}", digest.hex());
        header.set_path(&path).map_err(Error::io("write", &path))?;
        header.set_cksum();
        let mut failed = None;
        // The packer writes, the builder reads: straight into the archive between a header and its padding.
        let to = self.tar.get_mut();
        if let Err(error) = to.write_all(header.as_bytes()).and_then(|()| {
            let mut count = Counting { hasher: Hasher::default(), bytes: 0, to: &mut *to };
            pack(dir, &mut count)?;
            if count.bytes != size {
                failed = Some(io::Error::other("layer changed while it was read"));
            }
            let padding = (512 - size % 512) % 512;
            to.write_all(&[0; 512][..padding as usize])
        }) {
            failed = Some(error);
        }
        match failed {
            Some(error) => Err(Error::io("write", path)(error)),
            None => {
                self.written.insert(key.clone(), (digest.clone(), size));
                Ok((digest, size))
            }
        }
    }
}

struct Counting<W> {
    hasher: Hasher,
    bytes: u64,
    to: W,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.to.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A layer directory as a tar stream.
fn pack(dir: &Path, to: impl Write) -> io::Result<()> {
    let mut tar = Builder::new(to);
    let mut links = HashMap::new();
    pack_dir(&mut tar, dir, Path::new(""), &mut links)?;
    tar.finish()
}

fn pack_dir(
    tar: &mut Builder<impl Write>,
    root: &Path,
    path: &Path,
    links: &mut HashMap<(u64, u64), PathBuf>,
) -> io::Result<()> {
    let real = root.join(path);
    let metadata = fs::symlink_metadata(&real)?;
    let name = if path.as_os_str().is_empty() { Path::new("./") } else { path };
    attributes(tar, &real)?;
    tar.append_data(&mut described(&metadata, EntryType::Directory), name, io::empty())?;
    if is_opaque(&real) {
        empty(tar, &path.join(".wh..wh..opq"))?;
    }
    let mut names = fs::read_dir(&real)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        let (path, real) = (path.join(&name), real.join(&name));
        let metadata = fs::symlink_metadata(&real)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            pack_dir(tar, root, &path, links)?;
            continue;
        }
        if kind.is_char_device() && metadata.rdev() == 0 {
            let mut hidden = std::ffi::OsString::from(".wh.");
            hidden.push(&name);
            empty(tar, &path.with_file_name(hidden))?;
            continue;
        }
        if metadata.nlink() > 1 {
            let first = links.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.clone());
            if *first != path {
                tar.append_link(&mut described(&metadata, EntryType::Link), &path, &*first)?;
                continue;
            }
        }
        attributes(tar, &real)?;
        if kind.is_symlink() {
            tar.append_link(&mut described(&metadata, EntryType::Symlink), &path, fs::read_link(&real)?)?;
        } else if kind.is_file() {
            let mut header = described(&metadata, EntryType::Regular);
            header.set_size(metadata.len());
            tar.append_data(&mut header, &path, fs::File::open(&real)?)?;
        } else if kind.is_fifo() {
            tar.append_data(&mut described(&metadata, EntryType::Fifo), &path, io::empty())?;
        } else if kind.is_char_device() || kind.is_block_device() {
            let kind = if kind.is_char_device() { EntryType::Char } else { EntryType::Block };
            let mut header = described(&metadata, kind);
            let number = |n: u64| u32::try_from(n).map_err(io::Error::other);
            header.set_device_major(number(nix::sys::stat::major(metadata.rdev()))?)?;
            header.set_device_minor(number(nix::sys::stat::minor(metadata.rdev()))?)?;
            tar.append_data(&mut header, &path, io::empty())?;
        }
    }
    Ok(())
}

fn described(metadata: &fs::Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

/// File capabilities, the attribute that images use.
fn attributes(tar: &mut Builder<impl Write>, real: &Path) -> io::Result<()> {
    match get_xattr_path(real, b"security.capability") {
        Some(value) => tar.append_pax_extensions([("SCHILY.xattr.security.capability", value.as_slice())]),
        None => Ok(()),
    }
}

fn empty(tar: &mut Builder<impl Write>, path: &Path) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    tar.append_data(&mut header, path, io::empty())
}
