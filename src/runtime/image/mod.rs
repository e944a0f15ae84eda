//! Images on this host: where they come from (registries, archives, a folder of archives), how they are kept (verified by
//! digest, layers unpacked once and shared) and how a container gets a root filesystem of its own out of one.
//!
//! ```text
//! registry ──(pull)──┐ bytes, resumed        ┌─ blobs/sha256/<hex>   configurations
//! archive  ─(import)─┼─► unpack (blocking) ─►├─ layers/<hex>/fs      overlay lower directories
//! folder   ─(airgap)─┘ digests checked       ├─ index.json           names, images, archives: one atomic write
//!                      in ingest/, renamed   └─ containers/<id>      upper and work directories
//! ```
//!
//! Nothing here knows pods, secrets or pull policies; nothing runs when nobody asks. A power cut at any instant leaves either
//! the state before a change or the one after it: content is written under `ingest/`, flushed, then renamed; `ingest/` is
//! emptied at start.
//! Source: OCI Image Specification 1.1, OCI Distribution Specification 1.1.

pub mod admin;
pub mod airgap;
mod archive;
mod compress;
mod digest;
mod error;
mod export;
mod lookup;
mod model;
mod pull;
mod reference;
pub mod registry;
mod rootfs;
mod store;
mod tarball;
mod unpack;

#[cfg(test)]
mod tests;

pub use archive::{Imported, import};
pub use digest::Digest;
pub use error::{Error, Result};
pub use export::export;
pub use model::{ImageConfig, Platform};
pub use pull::{Images, Progress, Pull, Step};
pub use reference::Reference;
pub use registry::{Credentials, config::Registries};
pub use store::{Image, ImageStore, Options, Pruned};
