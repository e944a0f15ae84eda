//! The API server: the whole Kubernetes request path over one registry and generic verbs.
//!
//! ```text
//! TLS → authenticate → authorize → decode → (patch) → default → admit → validate → store → encode
//! http    auth           auth      codec     patch    hooks    admission  hooks    verbs    codec, printers
//! ```
//!
//! Objects are one untyped JSON value from the wire to the store and back; what is known about their types comes from
//! tables (`schema`), what is special about a kind from its hooks (`hooks`). What never lives here: a per-kind handler,
//! typed Kubernetes structs, SQLite, a controller.

pub mod admission;
pub mod auth;
pub mod codec;
pub mod hooks;
pub mod http;
pub mod patch;
pub mod printers;
pub mod schema;
pub mod verbs;
