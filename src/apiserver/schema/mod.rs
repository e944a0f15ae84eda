//! What is known about types: fields, list semantics, defaults, wire numbers; the OpenAPI documents.
//!
//! The table is static data made by the build script from types.tsv: nothing is built, parsed or inflated when the server
//! starts, and only the pages that are looked at become resident. Custom kinds are not in it.

mod convert;
pub mod openapi;
pub mod paths;
mod table;

pub use table::{Container, Extra, Field, Item, KINDS, ListType, TYPES, Type, Wire, WireField, type_named, type_of};
