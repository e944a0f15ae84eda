//! The columns of a custom kind's tables. Source: apiextensions-apiserver `pkg/registry/customresource/tableconvertor`.

use serde_json::{Value, json};

use super::definition::PrinterColumn;
use super::jsonpath::JsonPath;
use crate::patch::go_text;

pub struct Column {
    name: String,
    type_: String,
    format: String,
    description: String,
    priority: i32,
    /// `None`: the text is no path, and every cell is empty.
    path: Option<JsonPath>,
}

/// The columns besides the name; the age for a definition that names none.
pub fn read(columns: &[PrinterColumn]) -> Vec<Column> {
    if columns.is_empty() {
        return vec![Column {
            name: "Age".into(),
            type_: "date".into(),
            format: String::new(),
            description: CREATED.into(),
            priority: 0,
            path: JsonPath::read(".metadata.creationTimestamp").ok(),
        }];
    }
    let described = |column: &PrinterColumn| match column.description.as_str() {
        "" => format!("Custom resource definition column (in JSONPath format): {}", column.json_path),
        own => own.to_owned(),
    };
    columns
        .iter()
        .map(|column| Column {
            name: column.name.clone(),
            type_: column.type_.clone(),
            format: column.format.clone(),
            description: described(column),
            priority: column.priority,
            path: JsonPath::read(&column.json_path).ok(),
        })
        .collect()
}

const NAME: &str = "Unique within its namespace, or within the cluster.";
const CREATED: &str = "When the object was created.";

pub fn definitions(columns: &[Column]) -> Vec<Value> {
    let name = json!({"name": "Name", "type": "string", "format": "name", "description": NAME, "priority": 0});
    let others = columns.iter().map(|column| {
        json!({"name": column.name, "type": column.type_, "format": column.format, "description": column.description,
            "priority": column.priority})
    });
    std::iter::once(name).chain(others).collect()
}

pub fn cells(columns: &[Column], object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let name = object["metadata"]["name"].clone();
    let others = columns.iter().map(|column| {
        let found = column.path.as_ref().and_then(|path| path.first(object));
        found.map_or(Value::Null, |value| cell(&column.type_, value, now))
    });
    std::iter::once(name).chain(others).collect()
}

fn cell(type_: &str, value: &Value, now: jiff::Timestamp) -> Value {
    match (type_, value) {
        ("string", Value::Object(_) | Value::Array(_)) => Value::String(value.to_string()),
        ("string", value) => Value::String(go_text(value)),
        ("integer", Value::Number(n)) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).into(),
        ("number", Value::Number(n)) => n.as_f64().into(),
        ("boolean", Value::Bool(b)) => Value::Bool(*b),
        ("date", Value::String(text)) => match text.parse::<jiff::Timestamp>() {
            Ok(_) => types::time::age(Some(text), now).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_by_type() {
        let now: jiff::Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        for (type_, value, expected) in [
            ("string", json!("a"), json!("a")),
            ("string", json!(3), json!("3")),
            ("string", json!(["a"]), json!("[\"a\"]")),
            ("integer", json!(3.7), json!(3)),
            ("integer", json!("3"), json!(null)),
            ("number", json!(3), json!(3.0)),
            ("boolean", json!(true), json!(true)),
            ("date", json!("2026-01-01T00:00:00Z"), json!("60m")),
            ("date", json!("x"), json!("<invalid>")),
        ] {
            assert_eq!(cell(type_, &value, now), expected, "{type_} {value}");
        }
    }
}
