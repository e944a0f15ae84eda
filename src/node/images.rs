//! What the node asks of the image store. The daemon supplies the real one, tests a scripted one.

use std::path::PathBuf;

use futures_util::future::BoxFuture;
pub use runtime::Rootfs;
use tokio::sync::watch;

/// An image at hand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// Digest of its configuration: `sha256:…`.
    pub id: String,
    /// `repo:tag` names, fully qualified.
    pub names: Vec<String>,
    /// `repo@sha256:…` names, fully qualified.
    pub digests: Vec<String>,
    /// Of the unpacked or compressed content, whichever the store counts.
    pub size_bytes: u64,
    pub config: ImageConfig,
}

/// The part of an image's configuration that containers start from. Source: OCI image spec config.md.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, …; empty is root.
    pub user: String,
    pub stop_signal: Option<String>,
    pub volumes: Vec<PathBuf>,
}

/// Why an image cannot be had; each is a reason of a waiting container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    #[error("couldn't parse image reference \"{reference}\": {why}")]
    InvalidName { reference: String, why: String },
    /// The registry said no, could not be reached, or sent something else than it promised.
    #[error("{0}")]
    Failed(String),
}

/// Who asks the registry.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// Host (and path) that they are for, as `dockerconfigjson` has it.
    pub registry: String,
    pub username: String,
    pub password: String,
    /// An identity token instead of a password.
    pub token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// The images of this host. Every verb may be called from any task.
pub trait Images: Send + Sync {
    /// The image if it is here. Errors: [`PullError::InvalidName`].
    fn resolve<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, PullError>>;

    /// Fetches what is missing of an image, or checks that a tag still means the same. The fitting one of `credentials` is
    /// used. Pulls of one image at the same time are one pull.
    fn pull<'a>(
        &'a self,
        reference: &'a str,
        credentials: &'a [Credentials],
    ) -> BoxFuture<'a, Result<Image, PullError>>;

    /// A root filesystem for one container, empty upper layer. Idempotent: the same container gets the same one.
    fn prepare<'a>(&'a self, image: &'a str, container: &'a str) -> BoxFuture<'a, anyhow::Result<Rootfs>>;

    /// Drops a container's root filesystem. Idempotent.
    fn release<'a>(&'a self, container: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;

    /// A text file of an image as its layers show it (`/etc/passwd`, `/etc/group`); `None` when it is not there. For user names.
    fn read_file<'a>(&'a self, image: &'a str, path: &'a str) -> BoxFuture<'a, anyhow::Result<Option<String>>>;

    /// Changes whenever a reference resolves that did not before, or to another image: who waits for one looks again.
    fn added(&self) -> watch::Receiver<u64>;

    /// Everything that is here, for the node's status.
    fn list(&self) -> BoxFuture<'_, anyhow::Result<Vec<Image>>>;

    /// Containers that hold a root filesystem, for cleaning up after those that are gone.
    fn prepared(&self) -> BoxFuture<'_, anyhow::Result<Vec<String>>>;
}
