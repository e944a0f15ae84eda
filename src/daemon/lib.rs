//! The composition root: configuration becomes components, started in order, stopped in reverse.
//!
//! What never lives here: a decision about an object, a protocol. Every other room is wired here and nowhere else.

pub mod config;
