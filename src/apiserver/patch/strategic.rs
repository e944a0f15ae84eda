//! Strategic merge patch: lists merge by keys that the type table knows, directives say what merging cannot.
//!
//! Source: apimachinery `pkg/util/strategicpatch/patch.go`; "Strategic Merge Patch" of the community's API conventions.

use serde_json::{Map, Value};
use types::status::{Reason, Status};

use crate::schema::{Container, Field, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const DELETE_FROM_PREFIX: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const ELEMENT_ORDER_PREFIX: &str = "$setElementOrder";

type Object = Map<String, Value>;

/// Why a patch does not apply, with upstream's texts.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    ElementOrder,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("{0}")]
    Other(String),
}

pub fn apply(ty: &'static Type, current: &Value, body: &[u8]) -> Result<Value, Status> {
    let patch = super::object(body).map_err(Status::bad_request)?;
    let mut object = current.as_object().cloned().unwrap_or_default();
    match merge_object(&mut object, patch, Schema::Struct(ty)) {
        Ok(()) => Ok(Value::Object(object)),
        Err(error) => {
            let text = error.to_string();
            Err(match error {
                Error::PrimitiveList | Error::RetainKeys | Error::ElementOrder => Status::bad_request(text),
                Error::ListOfLists => Status::new(Reason::Invalid, text),
                // Upstream answers 500 without a reason, though the client is at fault; clients are used to the code.
                Error::Other(_) => Status { reason: String::new(), ..Status::new(Reason::InternalError, text) },
            })
        }
    }
}

/// What is known about the members of an object that is merged.
#[derive(Clone, Copy)]
enum Schema {
    Struct(&'static Type),
    /// A map or scalar, by the name of its Go kind.
    Other(&'static str),
}

impl Schema {
    fn lookup(self, key: &str) -> Result<&'static Field, Error> {
        match self {
            Schema::Struct(ty) => ty.field(key).ok_or_else(|| {
                let name = ty.go.rsplit('.').next().unwrap_or(ty.go);
                Error::Other(format!("unable to find api field in struct {name} for the json field {key:?}"))
            }),
            Schema::Other(kind) => {
                Err(Error::Other(format!("merging an object in json but data type is not struct, instead is: {kind}")))
            }
        }
    }

    /// Of the member itself, or of the elements of the member's list.
    fn of(field: &'static Field, element: bool) -> Self {
        match (field.container, field.message()) {
            (Container::Map, _) => Schema::Other("map"),
            (Container::List, _) if !element => Schema::Other("slice"),
            (_, Some(ty)) => Schema::Struct(ty),
            (_, None) => Schema::Other("string"),
        }
    }
}

fn merge_object(original: &mut Object, mut patch: Object, schema: Schema) -> Result<(), Error> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                *original = patch;
                return Ok(());
            }
            Some("delete") => {
                original.clear();
                return Ok(());
            }
            _ => return Err(unknown_directive(directive, &patch)),
        }
    }
    retain_keys(original, &mut patch)?;
    merge_ordered_lists(original, &mut patch, schema)?;
    for (key, value) in patch {
        let delete_from = key.starts_with(DELETE_FROM_PREFIX);
        let key = if delete_from {
            if !value.is_array() {
                return Err(Error::PrimitiveList);
            }
            key.strip_prefix(DELETE_FROM).ok_or(Error::PrimitiveList)?.to_owned()
        } else {
            key
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        match (original.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let field = schema.lookup(&key)?;
                if field.patch_replace {
                    *old = new;
                } else {
                    merge_object(old, new, Schema::of(field, false))?;
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let field = lookup_list(schema, &key)?;
                let merged = merge_list_of(field, std::mem::take(old), new, delete_from)?;
                original.insert(key, Value::Array(merged));
            }
            (_, _) if delete_from => {}
            (_, value) => set(original, key, value),
        }
    }
    Ok(())
}

/// A value that has nothing to merge with: directives and nulls are dropped.
fn set(original: &mut Object, key: String, mut value: Value) {
    discard_nulls(&mut value);
    match without_directives(value) {
        Some(value) => original.insert(key, value),
        None => original.remove(&key),
    };
}

fn lookup_list(schema: Schema, key: &str) -> Result<&'static Field, Error> {
    schema.lookup(key).map_err(|e| match schema {
        Schema::Other(kind) => {
            Error::Other(format!("merging slice in json but data type is not slice, instead is: {kind}"))
        }
        Schema::Struct(_) => e,
    })
}

fn unknown_directive(directive: &Value, patch: &Object) -> Error {
    Error::Other(format!("unknown patch type: {} in map: {}", go_text(directive), go_map(patch)))
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Error> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(Error::RetainKeys) };
    let kept = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let foreign = |(key, value): (&String, &Value)| {
        !value.is_null() && !key.starts_with(DELETE_FROM_PREFIX) && !key.starts_with(ELEMENT_ORDER_PREFIX) && !kept(key)
    };
    if patch.iter().any(foreign) {
        return Err(Error::RetainKeys);
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// Merges each list that comes with `$setElementOrder` and orders it; both leave the patch.
fn merge_ordered_lists(original: &mut Object, patch: &mut Object, schema: Schema) -> Result<(), Error> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER_PREFIX)).cloned().collect();
    for directive in directives {
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            other => return Err(bad_type(&other.unwrap_or(Value::Null))),
        };
        let key = directive.strip_prefix(ELEMENT_ORDER).ok_or(Error::ElementOrder)?;
        let list = |value: Option<Value>| match value {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(bad_type(&other)),
        };
        let old = list(original.get(key).cloned())?;
        let new = list(patch.get(key).cloned())?;
        let field = lookup_list(schema, key)?;
        let merge_key = field.merge_key();
        check_order(new.as_deref().unwrap_or_default(), &order, merge_key)?;
        let server_order = old.clone().unwrap_or_default();
        let sample = server_order.first().or(new.as_ref().and_then(|n| n.first())).cloned();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(new)) => merge_list_of(field, old, new, false)?,
        };
        let (patched, server_only) = partition(merged, &order, merge_key)?;
        if sample.is_none() {
            return Err(Error::Other("no elements in any of the given slices".into()));
        }
        let ordered = merge_sorted(server_only, sort(patched, &order, merge_key), &server_order, merge_key);
        original.insert(key.to_owned(), Value::Array(ordered));
        patch.remove(key);
    }
    Ok(())
}

fn bad_type(actual: &Value) -> Error {
    let actual = match actual {
        Value::Object(_) => "map[string]interface {}",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::Array(_) => "[]interface {}",
        Value::Null => "%!s(<nil>)",
    };
    Error::Other(format!("expected a []interface {{}}, but received a {actual}"))
}

/// The elements of the patch's list must stand in the order's list, in the same order.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<(), Error> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let is_special = |v: &Value| v.as_object().is_some_and(|o| o.contains_key(DIRECTIVE));
    let mut rest = order.iter();
    for item in patch.iter().filter(|v| !is_special(v)) {
        loop {
            let Some(next) = rest.next() else {
                return Err(Error::Other(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    go_list(patch),
                    go_list(order)
                )));
            };
            if identity(item, merge_key)? == identity(next, merge_key)? {
                break;
            }
        }
    }
    Ok(())
}

/// What identifies an element: its merge key's value, or itself in a list of scalars.
fn identity<'v>(item: &'v Value, merge_key: &str) -> Result<&'v Value, Error> {
    if merge_key.is_empty() {
        return Ok(item);
    }
    let missing = |text: String| Error::Other(format!("map: {text} does not contain declared merge key: {merge_key}"));
    match item {
        Value::Object(object) => object.get(merge_key).ok_or_else(|| missing(go_map(object))),
        other => Err(missing(go_text(other))),
    }
}

fn merge_list_of(
    field: &'static Field,
    old: Vec<Value>,
    new: Vec<Value>,
    delete_from: bool,
) -> Result<Vec<Value>, Error> {
    if !delete_from && !field.patch_merge {
        return Ok(new);
    }
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    if one_kind(&old, &new)? != "object" {
        if delete_from {
            return Ok(old.into_iter().filter(|v| !new.contains(v)).collect());
        }
        let mut merged: Vec<Value> = Vec::new();
        for item in old.iter().chain(&new) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        let (patched, server_only) = partition(merged, &new, "")?;
        return Ok(merge_sorted(server_only, sort(patched, &new, ""), &old, ""));
    }
    let merge_key = field.merge_key();
    if merge_key.is_empty() {
        let name = field.message().map_or("", |t| t.go.rsplit('.').next().unwrap_or(t.go));
        return Err(Error::Other(format!("cannot merge lists without merge key for {name}")));
    }
    let (mut original, patch) = special_elements(old, new.clone(), merge_key)?;
    let server_order = original.clone();
    for item in patch {
        let Value::Object(item) = item else { continue };
        let at = {
            let item = Value::Object(item.clone());
            let wanted = identity(&item, merge_key)?;
            let mut found = None;
            for (i, candidate) in original.iter().enumerate() {
                if identity(candidate, merge_key)? == wanted {
                    found = Some(i);
                    break;
                }
            }
            found
        };
        match at.and_then(|i| original[i].as_object_mut()) {
            Some(object) => merge_object(object, item, Schema::of(field, true))?,
            None => original.push(Value::Object(item)),
        }
    }
    let order: Vec<Value> = new.into_iter().filter(|v| v.get(DIRECTIVE).is_none()).collect();
    let (patched, server_only) = partition(original, &order, merge_key)?;
    Ok(merge_sorted(server_only, sort(patched, &order, merge_key), &server_order, merge_key))
}

/// Carries out the elements of a list that are directives. Returns what is left of the original and of the patch.
fn special_elements(old: Vec<Value>, new: Vec<Value>, merge_key: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let (mut original, mut plain, mut replace) = (old, Vec::new(), false);
    for item in new {
        let Some(directive) = item.get(DIRECTIVE).cloned() else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let gone = identity(&item, merge_key)?;
                let mut kept = Vec::with_capacity(original.len());
                for candidate in original {
                    if identity(&candidate, merge_key)? != gone {
                        kept.push(candidate);
                    }
                }
                original = kept;
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(Error::Other("merging lists cannot yet be specified in the patch".into())),
            _ => return Err(unknown_directive(&directive, item.as_object().unwrap_or(&Object::new()))),
        }
    }
    Ok(if replace { (plain, Vec::new()) } else { (original, plain) })
}

/// The one JSON type of all elements.
fn one_kind(old: &[Value], new: &[Value]) -> Result<&'static str, Error> {
    let mut kinds = old.iter().chain(new).map(crate::codec::json_type);
    let Some(first) = kinds.next() else {
        return Err(Error::Other("no elements in any of the given slices".into()));
    };
    if first == "array" {
        return Err(Error::ListOfLists);
    }
    if kinds.any(|k| k != first) {
        return Err(Error::Other(format!("list element types are not identical: [{} {}]", go_list(old), go_list(new))));
    }
    Ok(first)
}

/// Splits into elements that `order` names and those that it does not.
fn partition(items: Vec<Value>, order: &[Value], merge_key: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in items {
        let wanted = identity(&item, merge_key)?;
        let mut found = false;
        for candidate in order {
            found = found || identity(candidate, merge_key)? == wanted;
        }
        if found { named.push(item) } else { others.push(item) }
    }
    Ok((named, others))
}

fn place(item: &Value, order: &[Value], merge_key: &str) -> Option<usize> {
    let wanted = identity(item, merge_key).ok()?;
    order.iter().position(|o| identity(o, merge_key).ok() == Some(wanted))
}

fn sort(mut items: Vec<Value>, order: &[Value], merge_key: &str) -> Vec<Value> {
    items.sort_by_key(|item| place(item, order, merge_key).unwrap_or(usize::MAX));
    items
}

/// Weaves the elements that only the server has into those of the patch, keeping the server's order where it is known.
fn merge_sorted(server_only: Vec<Value>, patched: Vec<Value>, server_order: &[Value], merge_key: &str) -> Vec<Value> {
    let server_only = sort(server_only, server_order, merge_key);
    let mut merged = Vec::with_capacity(server_only.len() + patched.len());
    let (mut left, mut right) = (server_only.into_iter().peekable(), patched.into_iter().peekable());
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => return merged,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => match (place(l, server_order, merge_key), place(r, server_order, merge_key)) {
                (Some(l), Some(r)) => l < r,
                _ => false,
            },
        };
        merged.extend(if take_left { left.next() } else { right.next() });
    }
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, v| !v.is_null());
            object.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// Objects with a `$patch` directive vanish.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(object) if object.contains_key(DIRECTIVE) => None,
        Value::Object(object) => {
            Some(Value::Object(object.into_iter().filter_map(|(k, v)| without_directives(v).map(|v| (k, v))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

/// A value as Go's `%v` prints it.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Object(object) => go_map(object),
        Value::Array(items) => go_list(items),
        other => other.to_string(),
    }
}

fn go_map(object: &Object) -> String {
    let entries: Vec<String> = object.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect();
    format!("map[{}]", entries.join(" "))
}

fn go_list(items: &[Value]) -> String {
    format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" "))
}
