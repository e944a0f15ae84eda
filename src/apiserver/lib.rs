//! The API server: the whole Kubernetes request path over one registry and generic verbs.
//!
//! ```text
//! TLS → authenticate → seat → authorize → decode → (patch) → default → owners  → admit → validate → store → encode
//! http    auth         flow   auth        codec     patch    hooks     managed   admission hooks   verbs   codec, printers
//!         └──────────────────────────────── audit: what came, what was answered ────────────────────────────┘
//! ```
//!
//! [`ApiServer::call`] is the one door: the TLS listener ([`http::listener`]) and the in-process transport of the same
//! daemon both go through it, so that both meet the same authorization and admission.
//!
//! Objects are one untyped JSON value from the wire to the store and back; what is known about their types comes from
//! tables (`schema`), what is special about a kind from its hooks (`hooks`). Kinds that definitions make at run time bring both
//! with them (`custom`); one stored object is served in several versions through `conversion`; expressions of rules and policies
//! are the room `cel`'s; whoever is asked over HTTPS about a request is asked through `webhook`. Groups that other servers serve are
//! theirs: `aggregator` carries requests for them there once they are authorized.
//!
//! What never lives here: a per-kind handler, typed Kubernetes structs, SQLite, a controller, but for those that only keep what
//! the server itself decides by (`custom::keeper`, `admission::policy::status`, `aggregator::keeper`; each says why).

pub mod admission;
pub mod aggregator;
mod answer;
pub mod audit;
pub mod auth;
pub mod codec;
pub mod conversion;
pub mod custom;
pub mod flow;
mod follow;
pub mod hooks;
pub mod http;
pub mod managed;
pub mod patch;
pub mod printers;
mod request;
mod retry;
pub mod schema;
mod server;
pub mod tls;
pub mod verbs;
pub mod webhook;

pub use aggregator::FrontProxy;
pub use auth::identity::Identity;
pub use http::body::Body;
pub use server::{ApiServer, Certificate, Clock, Config, Error, Peer, Version};
pub use verbs::facts::{ObjectFacts, facts_of};
