//! The request path as clients meet it, over the real store.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod aggregated;
mod aggregated_bad;
mod audited;
mod bad_input;
mod converting;
mod credentials;
mod custom;
mod custom_objects;
mod equivalents;
mod evictions;
mod harness;
mod kinds;
mod kubectl;
mod managed;
mod metrics;
mod objects;
mod operations;
mod policies;
mod proxy;
mod published;
mod quotas;
mod reading;
mod replay;
mod scales;
mod shapes;
mod trust;
mod versions;
mod webhooks;
mod wire;
