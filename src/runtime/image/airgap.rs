//! A folder of archives whose images are here, pinned, for as long as the archive lies in the folder.
//!
//! What was imported is remembered by name, size, time and digest in the store's index: a start reads no archive again, and a
//! copied or touched file is read once to find that its content is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::folder::FolderChanges;

use super::archive::import_as;
use super::digest::{Digest, HashReader};
use super::error::{Error, Result};
use super::store::{ArchiveRecord, Image, ImageStore};

/// Files in the folder that are looked at.
const ARCHIVES_MAX: usize = 4096;

/// What one look at the folder changed.
#[derive(Debug, Default)]
pub struct Synced {
    pub imported: Vec<Image>,
    /// Files that could not be imported; they are tried again when they change, or at the next call.
    pub failed: Vec<(PathBuf, Error)>,
    /// Archives whose content was known.
    pub unchanged: usize,
    /// Archives that are gone; their images are no longer pinned by them.
    pub gone: usize,
}

fn is_archive(name: &str) -> bool {
    const ENDINGS: [&str; 6] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst"];
    !name.starts_with('.') && ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Brings the store in line with the folder; a missing folder is an empty one. One bad archive does not keep the others out.
/// Blocks; belongs on a blocking thread. Errors: [`Error::Io`] for the folder itself or the index.
pub fn sync(dir: &Path, store: &ImageStore) -> Result<Synced> {
    let mut present = BTreeMap::new();
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("read", dir)(error)),
        Ok(entries) => {
            for entry in entries.take(ARCHIVES_MAX) {
                let entry = entry.map_err(Error::io("read", dir))?;
                // Links are followed: archives may lie on another disk.
                let found = fs::metadata(entry.path()).ok().filter(fs::Metadata::is_file);
                if let (Some(metadata), Ok(name)) = (found, entry.file_name().into_string())
                    && is_archive(&name)
                {
                    present.insert(name, metadata);
                }
            }
        }
    }
    let mut synced = Synced::default();
    let known = store.archives();
    synced.gone = known.keys().filter(|name| !present.contains_key(*name)).count();
    if synced.gone > 0 {
        store.update(|state| {
            state.retain_archives(|name| present.contains_key(name));
            Ok(())
        })?;
    }
    for (name, metadata) in present {
        let path = dir.join(&name);
        match one(store, &path, &name, &metadata, &known) {
            Ok(images) if images.is_empty() => synced.unchanged += 1,
            Ok(images) => synced.imported.extend(images),
            Err(error) => synced.failed.push((path, error)),
        }
    }
    Ok(synced)
}

fn one(
    store: &ImageStore,
    path: &Path,
    name: &str,
    metadata: &fs::Metadata,
    known: &BTreeMap<String, ArchiveRecord>,
) -> Result<Vec<Image>> {
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    let whole = |record: &&ArchiveRecord| store.has_images(&record.images);
    if known.get(name).filter(whole).is_some_and(|r| r.bytes == metadata.len() && r.modified == modified) {
        return Ok(Vec::new());
    }
    let open = || File::open(path).map_err(Error::io("open", path));
    // Reading twice only where it may save an import: an archive of that size is known.
    let same_size: Vec<&ArchiveRecord> = known.values().filter(whole).filter(|r| r.bytes == metadata.len()).collect();
    if !same_size.is_empty() {
        let (digest, ..) = HashReader::new(open()?).finish().map_err(Error::io("read", path))?;
        if let Some(record) = same_size.iter().find(|record| record.digest == digest) {
            let record = ArchiveRecord { modified, ..(*record).clone() };
            store.update(|state| {
                state.set_archive(name, record);
                Ok(())
            })?;
            return Ok(Vec::new());
        }
    }
    let record = |digest: &Digest, bytes: u64, ids: &[Digest]| {
        let images: BTreeSet<Digest> = ids.iter().cloned().collect();
        Some((name.to_owned(), ArchiveRecord { digest: digest.clone(), bytes, modified, images }))
    };
    Ok(import_as(store, open()?, None, false, record)?.images)
}

/// Syncs once and then whenever the folder changes, until cancelled; `report` gets each outcome. The folder is made when missing.
/// Waits in the kernel: nothing runs while nothing changes.
///
/// Errors: [`Error::Io`] when the folder cannot be made or watched, or as [`sync`].
pub async fn watch(
    dir: PathBuf,
    store: ImageStore,
    mut report: impl FnMut(Synced),
    stop: CancellationToken,
) -> Result<()> {
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    let changes = FolderChanges::of(&dir).map_err(Error::io("watch", &dir))?;
    loop {
        let (folder, images) = (dir.clone(), store.clone());
        let synced = tokio::task::spawn_blocking(move || sync(&folder, &images)).await;
        report(synced.unwrap_or(Err(Error::Canceled))?);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = changes.next() => changed.map_err(Error::io("watch", &dir))?,
        }
    }
}
