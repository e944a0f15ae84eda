//! The wire: TLS, HTTP/1.1 and 2, routes, health, discovery, metrics. What never lives here: what a verb does.

mod activity;
pub mod body;
pub mod deadline;
pub mod discovery;
pub mod documents;
pub mod fetch;
pub mod gzip;
pub mod health;
pub mod hop;
pub mod listener;
pub mod metrics;
mod process;
pub mod query;
pub mod respond;
pub mod router;
pub mod slis;
pub mod trace_context;
