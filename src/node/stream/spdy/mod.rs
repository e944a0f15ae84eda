//! SPDY/3.1, as much of it as Kubernetes clients speak: streams with headers over one connection, no flow control, no push.
//!
//! `frame` and `headers` are codecs without I/O; `connection` moves frames. Source: SPDY draft 3.1; `moby/spdystream` (what
//! clients do in fact: they neither send nor expect window updates).

pub mod connection;
pub mod frame;
pub mod headers;

pub use connection::{Stream, Writer, serve};
