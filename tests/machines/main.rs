//! Whole virtual machines: Kedge where namespaces are not enough. Run with `--test-threads=1`: machines share the cores of
//! this computer.

mod boots;
mod pods;
mod power;
mod systemd;
