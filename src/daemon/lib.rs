//! The composition root: configuration becomes components, started in order, stopped in reverse.
//!
//! What never lives here: a decision about an object, a protocol. Every other room is wired here and nowhere else.

mod agent;
pub mod check;
mod clock;
pub mod config;
mod host;
mod images;
mod keys;
mod local;
mod lock;
mod log;
mod manifests;
mod network;
mod notify;
mod places;
mod reset;
mod server;
mod settled;
mod socket;
mod unit;
pub mod verbs;
mod version;
