//! JSON patch, with the texts and the leniency of the library that upstream uses: indexes may be negative, `replace`
//! creates a missing member of an object.
//!
//! Source: RFC 6902; gopkg.in/evanphx/json-patch.v4.

use serde_json::{Map, Value};
use types::status::{Cause, Reason, Status};

/// Upstream's limit.
const OPERATIONS_MAX: usize = 10_000;

/// What all copies of one patch may add, in bytes of JSON: the size of a request body, as upstream sets it.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Deepest nesting that a patch may build, which is what the parser reads from a body. Values are walked recursively.
const DEPTH_MAX: usize = 128;

/// Source: apimachinery `pkg/api/errors` `NewGenericServerResponse`.
const REJECTED: &str = "the server rejected our request due to an error in our request";

pub fn apply(current: &Value, body: &[u8]) -> Result<Value, Status> {
    let patch: Value = super::json(body).map_err(|why| Status::bad_request(format!("error decoding patch: {why}")))?;
    let Value::Array(operations) = patch else {
        let what = crate::codec::json_type(&patch);
        return Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {what} into Go value of type []handlers.jsonPatchOp"
        )));
    };
    if operations.len() > OPERATIONS_MAX {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let mut document = current.clone();
    let mut copied_bytes = 0;
    for operation in operations {
        let Value::Object(operation) = operation else {
            let what = crate::codec::json_type(&operation);
            return Err(Status::bad_request(format!(
                "error decoding patch: json: cannot unmarshal {what} into Go value of type handlers.jsonPatchOp"
            )));
        };
        one(&mut document, operation, &mut copied_bytes).map_err(|why| {
            // Upstream's message says no more than this; what is wrong goes where kubectl shows it.
            let cause = Cause { message: why, field: "patch".into(), ..Cause::default() };
            Status::new(Reason::Invalid, REJECTED).with_cause(cause)
        })?;
    }
    if !document.is_object() {
        let what = crate::codec::json_type(&document);
        return Err(Status::new(Reason::Invalid, format!("the patch makes the object a JSON {what}")));
    }
    Ok(document)
}

fn one(document: &mut Value, mut operation: Map<String, Value>, copied_bytes: &mut usize) -> Result<(), String> {
    let kind = operation.get("op").and_then(Value::as_str).unwrap_or("unknown").to_owned();
    let text = |name: &str| operation.get(name).and_then(Value::as_str).map(str::to_owned);
    let (path, from) = (text("path"), text("from"));
    let path_or = |missing: &str| path.clone().ok_or_else(|| format!("{missing}: missing value"));
    let from_or = |op: &str| {
        from.clone().ok_or_else(|| {
            format!("{op} operation failed to decode from: operation, missing from field: missing value")
        })
    };
    let no_path = |op: &str| format!("{op} operation failed to decode path: operation missing path field");
    let value = operation.remove("value");
    match kind.as_str() {
        "add" => {
            let path = path_or("add operation failed to decode path")?;
            let (parent, key) = find(document, &path).ok_or_else(|| {
                format!("add operation does not apply: doc is missing path: \"{path}\": missing value")
            })?;
            add(parent, &key, value.unwrap_or(Value::Null), &path)
                .map_err(|e| format!("error in add for path: '{path}': {e}"))
        }
        "remove" => {
            let path = path_or("remove operation failed to decode path")?;
            let (parent, key) = find(document, &path).ok_or_else(|| {
                format!("remove operation does not apply: doc is missing path: \"{path}\": missing value")
            })?;
            remove(parent, &key).map(drop).map_err(|e| format!("error in remove for path: '{path}': {e}"))
        }
        "replace" => {
            let path = path_or(&no_path("replace"))?;
            let value = value.unwrap_or(Value::Null);
            if path.is_empty() {
                if !value.is_object() && !value.is_array() {
                    return Err("replace operation value must be object or array: %!w(<nil>)".into());
                }
                *document = value;
                return Ok(());
            }
            let (parent, key) = find(document, &path).ok_or_else(|| {
                format!("replace operation does not apply: doc is missing path: {path}: missing value")
            })?;
            shallow(&path, &value)?;
            match parent {
                Value::Object(object) => {
                    object.insert(key, value);
                }
                Value::Array(items) => {
                    let at = index(items, &key).map_err(|_| {
                        format!("replace operation does not apply: doc is missing key: {path}: missing value")
                    })?;
                    items[at] = value;
                }
                _ => {}
            }
            Ok(())
        }
        "move" => {
            let from = from_or("move")?;
            let (parent, key) = find(document, &from).ok_or_else(|| {
                format!("move operation does not apply: doc is missing from path: {from}: missing value")
            })?;
            let moved = remove(parent, &key).map_err(|e| format!("error in move for path: '{key}': {e}"))?;
            let path = path_or(&no_path("move"))?;
            let (parent, key) = find(document, &path).ok_or_else(|| {
                format!("move operation does not apply: doc is missing destination path: {path}: missing value")
            })?;
            add(parent, &key, moved, &path).map_err(|e| format!("error in move for path: '{path}': {e}"))
        }
        "copy" => {
            let from = from_or("copy")?;
            let (parent, key) = find(document, &from).ok_or_else(|| {
                format!("copy operation does not apply: doc is missing from path: {from}: missing value")
            })?;
            let copied = get(parent, &key).map_err(|e| format!("error in copy for from: '{from}': {e}"))?;
            let copied = copied.cloned().unwrap_or(Value::Null);
            let path = path_or("copy operation failed to decode path")?;
            let (parent, key) = find(document, &path).ok_or_else(|| {
                format!("copy operation does not apply: doc is missing destination path: {path}: missing value")
            })?;
            *copied_bytes += copied.to_string().len();
            if *copied_bytes > COPIED_BYTES_MAX {
                return Err(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied_bytes}, exceeding the limit {COPIED_BYTES_MAX}"
                ));
            }
            add(parent, &key, copied, &path).map_err(|e| format!("error while adding value during copy: {e}"))
        }
        "test" => {
            let path = path_or(&no_path("test"))?;
            let value = value.unwrap_or(Value::Null);
            let failed = || Err(format!("testing value {path} failed: test failed"));
            if path.is_empty() {
                return if *document == value { Ok(()) } else { failed() };
            }
            let (parent, key) = find(document, &path)
                .ok_or_else(|| format!("test operation does not apply: is missing path: {path}: missing value"))?;
            let found = get(parent, &key).map_err(|e| format!("error in test for path: '{path}': {e}"))?;
            if *found.unwrap_or(&Value::Null) == value { Ok(()) } else { failed() }
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

/// The container that holds the last segment of a pointer, and that segment; `None` when there is no such container.
fn find<'d>(document: &'d mut Value, path: &str) -> Option<(&'d mut Value, String)> {
    let mut segments: Vec<String> = path.split('/').map(|s| s.replace("~1", "/").replace("~0", "~")).collect();
    if segments.len() < 2 {
        return None;
    }
    let last = segments.pop()?;
    let mut at = document;
    for segment in segments.iter().skip(1) {
        at = match at {
            Value::Object(object) => object.get_mut(segment)?,
            Value::Array(items) => {
                let i = index(items, segment).ok()?;
                items.get_mut(i)?
            }
            _ => return None,
        };
    }
    matches!(at, Value::Object(_) | Value::Array(_)).then_some((at, last))
}

/// An index as Go reads it; negative ones count from the end.
fn position(key: &str, length: usize) -> Result<usize, String> {
    let at: i64 = key.parse().map_err(|_| format!("strconv.Atoi: parsing {key:?}: invalid syntax"))?;
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let resolved = if at < 0 { at + length } else { at };
    if resolved < 0 || resolved >= length {
        return Err(format!("Unable to access invalid index: {at}: invalid index referenced"));
    }
    usize::try_from(resolved).map_err(|e| e.to_string())
}

fn index(items: &[Value], key: &str) -> Result<usize, String> {
    position(key, items.len())
}

fn get<'d>(parent: &'d Value, key: &str) -> Result<Option<&'d Value>, String> {
    match parent {
        Value::Object(object) => Ok(object.get(key)),
        Value::Array(items) => Ok(items.get(index(items, key)?)),
        _ => Ok(None),
    }
}

fn add(parent: &mut Value, key: &str, value: Value, path: &str) -> Result<(), String> {
    shallow(path, &value)?;
    match parent {
        Value::Object(object) => {
            object.insert(key.to_owned(), value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            if key.parse::<i64>().is_err() {
                return Err(format!(
                    "value was not a proper array index: '{key}': strconv.Atoi: parsing {key:?}: invalid syntax"
                ));
            }
            items.insert(position(key, items.len() + 1)?, value);
        }
        _ => {}
    }
    Ok(())
}

fn remove(parent: &mut Value, key: &str) -> Result<Value, String> {
    match parent {
        Value::Object(object) => {
            object.remove(key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value"))
        }
        Value::Array(items) => {
            let at = index(items, key)?;
            Ok(items.remove(at))
        }
        _ => Err("invalid state detected".into()),
    }
}

/// Refuses what would nest deeper than a body may.
fn shallow(path: &str, value: &Value) -> Result<(), String> {
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    if path.split('/').count() + depth(value) > DEPTH_MAX {
        return Err("exceeded max depth".into());
    }
    Ok(())
}
