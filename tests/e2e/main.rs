//! Whole tests: the real binary on test hosts, driven by real clients.

mod guestbook;
mod hosts;
mod install;
