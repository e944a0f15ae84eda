//! Tables: what `kubectl get` shows, made on the server.
//!
//! Pure: an object, the columns of its kind and the time go in, cells come out. What never lives here: a list, a watch,
//! negotiation. Source: `pkg/printers/internalversion/printers.go`, apimachinery `meta.k8s.io/v1` `Table`.

use serde_json::Value;
use types::registry::{Kind, Verb};

mod cells;
mod columns;
mod keep;
mod rows;
mod table;

pub use columns::{Column, columns};
pub use table::{IncludeObject, Table, partial};

/// One line: a cell for each column, and the conditions of the row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub cells: Vec<Value>,
    pub conditions: Vec<Value>,
}

/// The line of an object. There are as many cells as [`columns`] of the kind, the wide ones included.
pub fn row(kind: &Kind, object: &Value, now: jiff::Timestamp) -> Row {
    rows::row(kind, object, now)
}

/// Puts the texts of a list into the order in which they are shown, for the one kind whose order means something: flow schemas
/// by their precedence. Source: `printFlowSchemaList`.
pub fn sort(kind: &Kind, texts: &mut [&[u8]]) {
    if kind.kind != "FlowSchema" || kind.group != "flowcontrol.apiserver.k8s.io" {
        return;
    }
    texts.sort_by_cached_key(|text| {
        let object: Value = serde_json::from_slice(text).unwrap_or_default();
        let precedence = object["spec"]["matchingPrecedence"].as_i64().unwrap_or(0);
        (precedence, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    });
}

/// Whether the kind can be shown as a table; reviews and bindings cannot (406).
pub fn printable(kind: &Kind) -> bool {
    kind.stored || kind.allows(Verb::Get)
}

#[cfg(test)]
mod tests;
