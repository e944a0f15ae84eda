//! The Table object, built row by row.

use bytes::Bytes;
use serde_json::{Value, json};
use types::registry::Kind;

use super::{Column, columns, keep, row};
use crate::codec::pieces::Pieces;
use crate::codec::tape::{Item, Malformed, Tape};
use crate::conversion;
use crate::custom;

/// What stands beside the cells of a row (`?includeObject=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    #[default]
    Metadata,
    Object,
    None,
}

impl IncludeObject {
    /// `None` for a value that is not served (400).
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            "None" => Some(Self::None),
            _ => None,
        }
    }
}

/// A Table under construction, as JSON.
pub struct Table<'a> {
    kind: &'a Kind,
    /// `v1` or `v1beta1` of meta.k8s.io, as the client asked.
    version: &'a str,
    include: IncludeObject,
    now: jiff::Timestamp,
    rows: Pieces,
    tape: Tape,
}

impl<'a> Table<'a> {
    pub fn new(kind: &'a Kind, version: &'a str, include: IncludeObject, now: jiff::Timestamp) -> Self {
        Self { kind, version, include, now, rows: Pieces::default(), tape: Tape::default() }
    }

    /// Adds the row of an object, which is its JSON text.
    ///
    /// # Errors
    /// The text cannot be read.
    pub fn push(&mut self, text: &[u8]) -> Result<(), Malformed> {
        let object = self.tape.read(text)?;
        // rows are made of the version that is kept
        let row = row(self.kind, &conversion::keep(self.kind, keep::value(self.kind, object)), self.now);
        let first = self.rows.is_empty();
        let out = self.rows.room();
        out.extend_from_slice(if first { b"{\"cells\":" } else { b",{\"cells\":" });
        write(out, &row.cells);
        if !row.conditions.is_empty() {
            out.extend_from_slice(b",\"conditions\":");
            write(out, &row.conditions);
        }
        match self.include {
            IncludeObject::None => {}
            IncludeObject::Object => {
                out.extend_from_slice(b",\"object\":");
                out.extend_from_slice(text);
            }
            IncludeObject::Metadata => {
                out.extend_from_slice(b",\"object\":");
                partial(out, self.version, object);
            }
        }
        out.push(b'}');
        Ok(())
    }

    /// The Table. `list_metadata` is the list's (resourceVersion, continue, remainingItemCount) or the object's
    /// resourceVersion; `with_columns` is false for all but the first event of a watch.
    pub fn finish(self, list_metadata: &Value, with_columns: bool) -> Vec<Bytes> {
        let definitions = if with_columns {
            match custom::of(self.kind) {
                Some(custom) => Value::Array(custom.column_definitions()),
                None => columns(self.kind).iter().map(definition).collect(),
            }
        } else {
            Value::Null
        };
        let head = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{}\",\"metadata\":{list_metadata},\
             \"columnDefinitions\":{definitions},\"rows\":[",
            self.version
        );
        self.rows.between(head.into_bytes(), b"]}".to_vec())
    }
}

/// Writes the object's `PartialObjectMetadata`; `version` is one of meta.k8s.io.
pub fn partial(out: &mut Vec<u8>, version: &str, object: Item<'_>) {
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    out.extend_from_slice(object.get("metadata").filter(|m| !m.is_null()).map_or(b"{}", Item::raw));
    out.push(b'}');
}

fn write(out: &mut Vec<u8>, values: &[Value]) {
    serde_json::to_writer(out, values).expect("JSON values are written to memory");
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name, "type": column.type_, "format": column.format, "description": column.description,
        "priority": column.priority,
    })
}
