//! Whole virtual machines: Kedge where namespaces are not enough. Run with `--test-threads=1`: machines share the cores of
//! this computer.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod boots;
mod pods;
mod power;
mod systemd;
