//! The request path as clients meet it, over the real store.

mod access;
mod bad_input;
mod harness;
mod kubectl;
mod objects;
mod reading;
mod wire;
