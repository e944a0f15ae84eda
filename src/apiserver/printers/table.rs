//! The Table object, built row by row.

use serde_json::{Map, Value, json};
use types::registry::Kind;

use super::{Column, columns, row};

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

/// A Table under construction.
pub struct Table<'a> {
    kind: &'a Kind,
    /// `v1` or `v1beta1` of meta.k8s.io, as the client asked.
    version: &'a str,
    include: IncludeObject,
    now: jiff::Timestamp,
    rows: Vec<Value>,
}

impl<'a> Table<'a> {
    pub fn new(kind: &'a Kind, version: &'a str, include: IncludeObject, now: jiff::Timestamp) -> Self {
        Self { kind, version, include, now, rows: Vec::new() }
    }

    /// Adds the row of an object.
    pub fn push(&mut self, object: &Value) {
        let row = row(self.kind, object, self.now);
        let mut out = Map::new();
        out.insert("cells".into(), row.cells.into());
        if !row.conditions.is_empty() {
            out.insert("conditions".into(), row.conditions.into());
        }
        match self.include {
            IncludeObject::None => {}
            IncludeObject::Object => {
                out.insert("object".into(), object.clone());
            }
            IncludeObject::Metadata => {
                let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
                let partial = json!({
                    "kind": "PartialObjectMetadata",
                    "apiVersion": format!("meta.k8s.io/{}", self.version),
                    "metadata": metadata,
                });
                out.insert("object".into(), partial);
            }
        }
        self.rows.push(Value::Object(out));
    }

    /// The Table. `list_metadata` is the list's (resourceVersion, continue, remainingItemCount) or the object's
    /// resourceVersion; `with_columns` is false for all but the first event of a watch.
    pub fn finish(self, list_metadata: Value, with_columns: bool) -> Value {
        let definitions: Vec<Value> =
            if with_columns { columns(self.kind).iter().map(definition).collect() } else { Vec::new() };
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{}", self.version),
            "metadata": list_metadata,
            "columnDefinitions": if with_columns { Value::Array(definitions) } else { Value::Null },
            "rows": self.rows,
        })
    }
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name, "type": column.type_, "format": column.format, "description": column.description,
        "priority": column.priority,
    })
}
