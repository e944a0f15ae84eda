//! Pods and Services into the plain structs of `runtime` and `net`. Pure functions with goldens; nothing here looks anything up.

pub mod container;
pub mod env;
pub mod expand;
pub mod files;
#[cfg(test)]
pub(crate) mod golden;
pub mod resources;
pub mod security;
