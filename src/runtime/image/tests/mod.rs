//! Tests of the store as a whole, on real files, real overlay mounts and a real registry.

mod fixture;
mod import;
mod pull;
mod registry;
mod store;
