//! Pulls: from a name to an image in the store. Layers come in parallel, each unpacked while it downloads; callers that want
//! the same thing at the same time share one pull; when the last of them goes away it stops.
//!
//! ```text
//! task: resolve → manifest → configuration → layers, 3 at a time ──► record
//!                                             │ bounded channel of pieces
//!                                             ▼
//!                           blocking thread: digest, decompress, digest, unpack, flush
//! ```
//!
//! Memory of one pull: per layer under way a channel of 16 pieces (at most 16 × 64 KiB in practice), the look-ahead and the
//! decompressor's window.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::archive::no_platform;
use super::digest::Digest;
use super::error::{Error, Result};
use super::model::{ConfigDocument, Descriptor, LAYERS_MAX, Manifest};
use super::reference::{Reference, Version};
use super::registry::config::Registries;
use super::registry::{BODY_TIMEOUT, Client, Credentials, Repository, plain_text};
use super::store::{Image, ImageStore, Lease, NewImage, Staged};

/// Layers of one pull under way. Source: containerd's and Docker's default.
const LAYERS_AT_ONCE: usize = 3;

/// Layers of all pulls under way: each has a blocking thread and a connection.
const DOWNLOADS_MAX: usize = 6;

/// Pieces between the network and the unpacking thread.
const PIECES_MAX: usize = 16;

/// Tries to go on with a layer without one byte of progress between them.
const STALLS_MAX: u32 = 5;

/// Before going on after the first stall; doubled for each further one.
const STALL_BACKOFF: Duration = Duration::from_millis(500);

/// Events kept for a slow listener; then it misses some, which for progress is fine.
const PROGRESS_MAX: usize = 256;

/// Bytes of one layer between two progress events.
const PROGRESS_BYTES: u64 = 512 << 10;

/// Something happened to one layer of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Of the compressed layer.
    pub layer: Digest,
    /// Compressed size, 0 if the manifest does not say.
    pub total_bytes: u64,
    #[serde(flatten)]
    pub step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "status")]
pub enum Step {
    /// Here already.
    Exists,
    Downloading {
        #[serde(rename = "bytes")]
        bytes: u64,
    },
    /// The connection broke; going on from where it was.
    Resuming {
        bytes: u64,
        why: String,
    },
    Done,
}

/// The store together with the way to fill it from registries. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    store: ImageStore,
    client: Arc<Client>,
    under_way: Arc<Mutex<HashMap<Key, Weak<Shared>>>>,
    downloads: Arc<Semaphore>,
    /// One download of a layer at a time, whoever wants it.
    layers: Arc<Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>>,
}

/// Pulls with different credentials are different pulls: being allowed is not shared.
type Key = (String, Vec<Credentials>);

type Outcome = std::result::Result<Image, Arc<Error>>;

struct Shared {
    progress: broadcast::Sender<Progress>,
    outcome: watch::Receiver<Option<Outcome>>,
    _cancel: DropGuard,
}

/// A pull under way, perhaps shared. Dropping the last one of the same pull cancels it.
pub struct Pull {
    shared: Arc<Shared>,
    progress: broadcast::Receiver<Progress>,
}

impl Pull {
    /// The next event; `None` when the pull has ended.
    pub async fn progress(&mut self) -> Option<Progress> {
        let mut outcome = self.shared.outcome.clone();
        loop {
            tokio::select! {
                biased;
                event = self.progress.recv() => match event {
                    Ok(event) => return Some(event),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                _ = outcome.wait_for(Option::is_some) => return None,
            }
        }
    }

    /// The image, or why not: [`Error::Pull`], whose [`Error::cause`] says what kind of failure it was, or
    /// [`Error::InvalidReference`].
    pub async fn finish(self) -> Outcome {
        let mut outcome = self.shared.outcome.clone();
        let ended = outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        ended.ok().flatten().unwrap_or_else(|| Err(Arc::new(Error::Canceled)))
    }
}

impl Images {
    pub fn new(store: ImageStore, registries: Registries) -> Images {
        Images {
            store,
            client: Arc::new(Client::new(registries)),
            under_way: Arc::default(),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            layers: Arc::default(),
        }
    }

    pub fn store(&self) -> &ImageStore {
        &self.store
    }

    /// Starts a pull, or joins the one of the same name and credentials that is under way. Needs a tokio runtime.
    ///
    /// Of a tag it is first asked what it means now; when that is here already, nothing is fetched. A digest that is here is
    /// not asked for at all: it cannot mean anything else, and a node without a network shall start its pods.
    pub fn pull(&self, reference: &str, credentials: &[Credentials]) -> Pull {
        let key = (reference.to_owned(), credentials.to_vec());
        let mut under_way = self.under_way.lock();
        if let Some(shared) = under_way.get(&key).and_then(Weak::upgrade)
            && shared.outcome.borrow().is_none()
        {
            let progress = shared.progress.subscribe();
            return Pull { shared, progress };
        }
        let cancel = CancellationToken::new();
        let (progress, receiver) = broadcast::channel(PROGRESS_MAX);
        let (done, outcome) = watch::channel(None);
        let shared = Arc::new(Shared { progress: progress.clone(), outcome, _cancel: cancel.clone().drop_guard() });
        under_way.insert(key.clone(), Arc::downgrade(&shared));
        drop(under_way);
        let images = self.clone();
        tokio::spawn(async move {
            let result = tokio::select! {
                () = cancel.cancelled() => Err(Error::Canceled),
                result = images.run(&key.0, &key.1, &progress) => result,
            };
            let result = result.map_err(|error| match error {
                error @ Error::InvalidReference { .. } => error,
                source => Error::Pull { reference: named(&key.0), source: Box::new(source) },
            });
            images.under_way.lock().retain(|_, shared| shared.strong_count() > 0);
            // Nobody listens any more when it was cancelled.
            let _ = done.send(Some(result.map_err(Arc::new)));
        });
        Pull { shared, progress: receiver }
    }

    async fn run(
        &self,
        name: &str,
        credentials: &[Credentials],
        progress: &broadcast::Sender<Progress>,
    ) -> Result<Image> {
        let reference = Reference::parse(name)?;
        if let Version::Digest(_) = reference.version
            && let Some(image) = self.store.resolve(name)?
        {
            return Ok(image);
        }
        let mut last: Option<Error> = None;
        for repository in self.client.repositories(&reference.host, &reference.path, credentials) {
            match self.from(&repository, &reference, progress).await {
                Ok(image) => return Ok(image),
                Err(error) => {
                    tracing::debug!(image = %reference, endpoint = repository.endpoint(), error = %error.chain(), "pull failed here");
                    // No other endpoint makes room on the disk.
                    if let Error::Io { .. } = error {
                        return Err(error);
                    }
                    // The registry's own word, which comes last, weighs more than a mirror's.
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or(Error::NotFound(reference.to_string())))
    }

    async fn from(
        &self,
        repository: &Repository,
        reference: &Reference,
        progress: &broadcast::Sender<Progress>,
    ) -> Result<Image> {
        let resolving = |source: Error| {
            // The name that was asked for says more than a URL.
            let source = match source {
                Error::NotFound(_) => Error::NotFound(reference.to_string()),
                other => other,
            };
            Error::Resolve { reference: reference.to_string(), source: Box::new(source) }
        };
        let mut version = reference.version.clone();
        if let Version::Tag(_) = version
            && let Some(digest) = match repository.head(&version).await {
                // Some registries know no HEAD; what GET says then counts.
                Err(Error::Status { .. }) => None,
                head => head.map_err(resolving)?,
            }
        {
            if let Some(image) = self.store.resolve(&reference.at(&digest))? {
                let (store, name, id) = (self.store.clone(), reference.to_string(), image.id.clone());
                if !image.names.contains(&name) {
                    blocking(move || store.tag(id.as_str(), &name)).await?;
                }
                return self.store.resolve(&reference.to_string())?.ok_or(Error::Canceled);
            }
            version = Version::Digest(digest);
        }
        let top = repository.manifest(&version).await.map_err(resolving)?;
        let manifest = parse(&top.bytes)?;
        let manifest = match manifest.is_index() {
            false => manifest,
            true => {
                let ours =
                    self.store.platform().choose(&manifest.manifests).ok_or_else(|| {
                        no_platform(&reference.to_string(), self.store.platform(), &manifest.manifests)
                    })?;
                parse(&repository.manifest(&Version::Digest(ours.digest.clone())).await?.bytes)?
            }
        };
        let described = manifest.config.ok_or_else(|| Error::malformed("manifest", "neither an image nor an index"))?;
        let config = repository.document(&described.digest).await?;
        let document: ConfigDocument =
            serde_json::from_slice(&config).map_err(|error| Error::malformed("image configuration", error))?;
        self.fits(reference, &document)?;
        let diff_ids = document.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() || diff_ids.len() > LAYERS_MAX {
            let why = format!("{} layers, but its configuration lists {}", manifest.layers.len(), diff_ids.len());
            return Err(Error::malformed("manifest", why));
        }
        let mut leases = Vec::new();
        let mut keys = Vec::new();
        let mut chain: Option<Digest> = None;
        let wanted: Vec<Wanted> = manifest
            .layers
            .into_iter()
            .zip(diff_ids)
            .map(|(blob, diff_id)| {
                let chain_id = chain.as_ref().map_or_else(|| diff_id.clone(), |below| Digest::chain(below, &diff_id));
                chain = Some(chain_id.clone());
                Wanted { blob, diff_id, chain_id }
            })
            .collect();
        // After a failure no further layer is begun, but those under way are let come to their end: what is whole is kept, and the
        // next try need not fetch it again.
        let failing = AtomicBool::new(false);
        let mut layers = stream::iter(wanted.into_iter().map(async |wanted| match failing.load(Ordering::Relaxed) {
            true => Err(Error::Canceled),
            false => self.layer(repository, wanted, progress).await,
        }))
        .buffered(LAYERS_AT_ONCE);
        let mut failed = None;
        while let Some(layer) = layers.next().await {
            let committed = match layer {
                Ok(Layer::Here(key, lease)) => Ok((key, lease)),
                // It leans on those below, which are all committed by now.
                Ok(Layer::Staged(staged, chain_id)) if failed.is_none() => {
                    self.commit(staged, keys.clone(), chain_id).await
                }
                Ok(Layer::Staged(..)) => continue,
                Err(error) => Err(error),
            };
            match committed {
                Ok((key, lease)) => {
                    keys.push(key);
                    leases.push(lease);
                }
                Err(error) => {
                    failing.store(true, Ordering::Relaxed);
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let names = match reference.version {
            Version::Tag(_) => vec![reference.clone()],
            Version::Digest(_) => Vec::new(),
        };
        let image = NewImage { config, layers: keys, names, digests: vec![reference.at(&top.digest)], pinned: false };
        let store = self.store.clone();
        let images = blocking(move || store.record(vec![image], None)).await?;
        drop(leases);
        images.into_iter().next().ok_or(Error::Canceled)
    }

    /// An image without an index may still be for another machine.
    fn fits(&self, reference: &Reference, document: &ConfigDocument) -> Result<()> {
        let theirs = document.platform();
        if theirs.os.is_empty() || self.store.platform().rank(&theirs).is_some() {
            return Ok(());
        }
        Err(Error::NoMatchingPlatform {
            reference: reference.to_string(),
            wanted: self.store.platform().to_string(),
            available: format!(", only {theirs}"),
        })
    }

    async fn commit(&self, staged: Staged, below: Vec<Digest>, chain_id: Digest) -> Result<(Digest, Lease)> {
        let store = self.store.clone();
        blocking(move || {
            let mut lease = store.lease();
            let key = store.commit(staged, &below, &chain_id, &mut lease)?;
            Ok((key, lease))
        })
        .await
    }

    async fn layer(
        &self,
        repository: &Repository,
        wanted: Wanted,
        progress: &broadcast::Sender<Progress>,
    ) -> Result<Layer> {
        let report = |step: Step| {
            let event = Progress { layer: wanted.blob.digest.clone(), total_bytes: wanted.blob.size, step };
            // Nobody may be listening.
            let _ = progress.send(event);
        };
        let turn = {
            let mut layers = self.layers.lock();
            layers.retain(|_, turn| turn.strong_count() > 0);
            match layers.get(&wanted.diff_id).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(tokio::sync::Mutex::new(()));
                    layers.insert(wanted.diff_id.clone(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        let _turn = turn.lock().await;
        let mut lease = self.store.lease();
        if let Some(key) = self.store.find_layer(&wanted.diff_id, &wanted.chain_id, &mut lease) {
            report(Step::Exists);
            return Ok(Layer::Here(key, lease));
        }
        let _slot = self.downloads.acquire().await.map_err(|_| Error::Canceled)?;
        let (pieces, receiver) = mpsc::channel(PIECES_MAX);
        let store = self.store.clone();
        let expected = wanted.blob.digest.clone();
        let unpacking =
            blocking(move || store.stage(Pieces { receiver, piece: Bytes::new(), ended: false }, Some(&expected)));
        let downloading = download(repository, &wanted.blob, pieces, report);
        let (downloaded, staged) = tokio::join!(downloading, unpacking);
        let staged = match (downloaded, staged) {
            // Without all of it the unpacking failed as well, but that is not why.
            (Err(Downloading::Failed(error)), _) => return Err(error),
            (_, staged) => staged?,
        };
        let diff_id = &staged.unpacked.diff_id;
        if *diff_id != wanted.diff_id {
            let what = "uncompressed layer".to_owned();
            return Err(Error::BadDigest { what, expected: wanted.diff_id, actual: diff_id.clone() });
        }
        if !staged.stands_alone() {
            report(Step::Done);
            return Ok(Layer::Staged(staged, wanted.chain_id));
        }
        // At once, not when its turn comes: should another layer fail, this one need not come again.
        let (key, lease) = self.commit(staged, Vec::new(), wanted.chain_id.clone()).await?;
        report(Step::Done);
        Ok(Layer::Here(key, lease))
    }
}

struct Wanted {
    blob: Descriptor,
    diff_id: Digest,
    chain_id: Digest,
}

enum Layer {
    Here(Digest, Lease),
    Staged(Staged, Digest),
}

enum Downloading {
    /// The other side of the channel is gone and says why.
    Unwanted,
    Failed(Error),
}

/// Sends a blob's bytes, going on where a connection broke, and an empty piece at its end.
async fn download(
    repository: &Repository,
    blob: &Descriptor,
    pieces: mpsc::Sender<Bytes>,
    report: impl Fn(Step),
) -> std::result::Result<(), Downloading> {
    let mut at = 0u64;
    let mut reported = 0u64;
    let mut stalls = 0;
    report(Step::Downloading { bytes: 0 });
    loop {
        let (start, mut body) = repository.blob(&blob.digest, at).await.map_err(Downloading::Failed)?;
        let mut skip = at - start;
        let before = at;
        let why = loop {
            match tokio::time::timeout(BODY_TIMEOUT, body.frame()).await {
                Err(_) => break "no data for a minute".to_owned(),
                Ok(Some(Err(error))) => break plain_text(&error),
                Ok(None) if blob.size > 0 && at < blob.size => break "connection closed before the end".to_owned(),
                Ok(None) => {
                    report(Step::Downloading { bytes: at });
                    return pieces.send(Bytes::new()).await.map_err(|_| Downloading::Unwanted);
                }
                Ok(Some(Ok(frame))) => {
                    let Ok(mut data) = frame.into_data() else { continue };
                    let known = skip.min(data.len() as u64);
                    skip -= known;
                    // At most the length of the piece.
                    drop(data.split_to(known as usize));
                    if data.is_empty() {
                        continue;
                    }
                    at += data.len() as u64;
                    if blob.size > 0 && at > blob.size {
                        let why = format!("longer than the {} bytes that the manifest says", blob.size);
                        return Err(Downloading::Failed(Error::malformed(blob.digest.as_str(), why)));
                    }
                    pieces.send(data).await.map_err(|_| Downloading::Unwanted)?;
                    if at - reported >= PROGRESS_BYTES {
                        reported = at;
                        report(Step::Downloading { bytes: at });
                    }
                }
            }
        };
        stalls = if at > before { 0 } else { stalls + 1 };
        if stalls >= STALLS_MAX {
            let url = format!("{}/blobs/{}", repository.endpoint(), blob.digest);
            return Err(Downloading::Failed(Error::Unreachable { method: "Get", url, why }));
        }
        report(Step::Resuming { bytes: at, why });
        tokio::time::sleep(STALL_BACKOFF * 2u32.pow(stalls)).await;
    }
}

/// What the network sends, as a reader for the unpacking thread.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                // The end is said; silence is a download that was given up.
                Some(piece) => {
                    self.ended = piece.is_empty();
                    self.piece = piece;
                }
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let read = buffer.len().min(self.piece.len());
        buffer[..read].copy_from_slice(&self.piece.split_to(read));
        Ok(read)
    }
}

fn parse(bytes: &[u8]) -> Result<Manifest> {
    serde_json::from_slice(bytes).map_err(|error| Error::malformed("manifest", error))
}

/// The canonical form of a name that has one.
fn named(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.to_string())
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The process is ending.
        Err(_) => Err(Error::Canceled),
    }
}
