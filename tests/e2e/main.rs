//! Whole tests: the real binary on test hosts, driven by real clients.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod aggregated;
mod apply;
mod bad_input;
mod cli;
mod clients;
mod csi;
mod disk;
mod guestbook;
mod helm;
mod hosts;
mod images;
mod install;
mod kubectl;
mod masks;
mod operator;
mod pods;
mod script;
mod storage;
