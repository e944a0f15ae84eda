//! The wire: TLS, HTTP/1.1 and 2, routes, health, discovery, metrics. What never lives here: what a verb does.

pub mod body;
pub mod query;
