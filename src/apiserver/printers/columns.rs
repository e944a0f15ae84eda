//! Column definitions by kind.

use types::registry::Kind;

/// One column. Those with a priority above zero are shown with `-o wide` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub type_: &'static str,
    /// `name` for the first, else empty.
    pub format: &'static str,
    pub description: &'static str,
    pub priority: i32,
}

/// The columns of a kind; Name and Created At for one that has none of its own.
pub fn columns(_kind: &Kind) -> &'static [Column] {
    &[]
}
