//! stub
pub mod scheduler;
