//! Objects and sets of fields together, for server-side apply: the fields that a configuration names, a configuration
//! merged into an object, fields taken out of an object.
//!
//! Source: structured-merge-diff `typed/{tofieldset,merge,remove}.go`, `fieldpath/set.go`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::{Element, Node, Set, Sort};
use super::shape::{Items, Parts, Shape, element};
use crate::custom::schema::ListType;

/// Every leaf, list item and map entry of the value.
pub fn fields<'v>(shape: Shape<'_>, value: &'v Value) -> Set<'v> {
    let mut set = Set::new();
    match shape.parts(value) {
        Parts::None => {}
        Parts::Object(object) => {
            for (name, value) in object {
                let Some((below, kind)) = shape.member(name) else { continue };
                let children = fields(below, value);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                let member = !kind.is_named() || empty || is_leaf(below, value);
                set.push(Element::field(name), member, children);
            }
        }
        Parts::List(items) => {
            let items = Items::of(shape, Some(items));
            for group in items.groups() {
                let [(element, value), more @ ..] = group else { continue };
                let children = if more.is_empty() { fields(shape.item(), value) } else { Set::new() };
                set.push(element.clone(), true, children);
            }
        }
    }
    set
}

fn is_leaf(shape: Shape<'_>, value: &Value) -> bool {
    match (shape, value) {
        (Shape::Leaf, _) => true,
        (Shape::Any, value) => !value.is_object(),
        (Shape::Custom(schema), value) => schema.list == ListType::Atomic && value.is_array(),
        (Shape::Struct(_) | Shape::Map(_) | Shape::Set | Shape::Keyed(_) | Shape::Root(_), _) => false,
    }
}

/// The set with the fields of structs in it that have something in them: they are members in name only.
pub fn with_named<'a>(shape: Shape<'_>, set: &Set<'a>) -> Set<'a> {
    let node = |node: &Node<'a>| {
        let (below, named) = below(shape, &node.element);
        let member = node.member || (named && !node.children.is_empty());
        Node { element: node.element.clone(), member, children: with_named(below, &node.children) }
    };
    Set(set.0.iter().map(node).collect())
}

/// The shape under an element, and whether that is a field of a struct.
fn below<'s>(shape: Shape<'s>, element: &Element<'_>) -> (Shape<'s>, bool) {
    if element.sort != Sort::Field {
        return (shape.item(), false);
    }
    match shape.member(&element.text) {
        Some((below, member)) => (below, member.is_named()),
        None => (Shape::Leaf, false),
    }
}

/// The value without the members of `set` and what is in them. What loses all that it holds is `null`.
pub fn remove(shape: Shape<'_>, value: &Value, set: &Set<'_>) -> Value {
    match shape.parts(value) {
        // Nobody owns a part of what is owned as a whole.
        Parts::None if value.is_object() || value.is_array() => Value::Null,
        Parts::None => value.clone(),
        Parts::Object(object) => {
            let mut out = Map::new();
            for (name, value) in object {
                let kept = match set.field(name) {
                    Some(node) if node.member => continue,
                    Some(node) => remove(shape.member(name).map_or(Shape::Leaf, |(s, _)| s), value, &node.children),
                    None => value.clone(),
                };
                out.insert(name.clone(), kept);
            }
            if out.is_empty() { Value::Null } else { Value::Object(out) }
        }
        Parts::List(items) => {
            let mut out = Vec::with_capacity(items.len());
            for item in items {
                let found = element(shape, item).ok().and_then(|element| set.get(&element));
                match found {
                    Some(node) if node.member => {}
                    Some(node) => out.push(remove(shape.item(), item, &node.children)),
                    None => out.push(item.clone()),
                }
            }
            if out.is_empty() { Value::Null } else { Value::Array(out) }
        }
    }
}

/// The paths of what the configuration would replace as a whole although it holds something: lists, maps and structs with
/// one owner.
pub fn wholes(shape: Shape, config: &Value, path: &str, into: &mut Vec<String>) {
    match (shape, shape.parts(config)) {
        (Shape::Leaf, _) if config.is_object() || config.is_array() => into.push(path.to_owned()),
        (_, Parts::Object(object)) => {
            for (name, value) in object {
                let Some((below, _)) = shape.member(name) else { continue };
                wholes(below, value, &format!("{path}.{name}"), into);
            }
        }
        (_, Parts::List(items)) => {
            for (i, item) in items.iter().enumerate() {
                wholes(shape.item(), item, &format!("{path}[{i}]"), into);
            }
        }
        _ => {}
    }
}

/// The configuration merged into the live value: it wins where it says something, and what it does not name stays.
pub fn merge(shape: Shape<'_>, live: &Value, config: &Value) -> Value {
    match (shape.parts(live), shape.parts(config)) {
        (Parts::Object(live), Parts::Object(config)) if !(live.is_empty() && config.is_empty()) => {
            let mut out = live.clone();
            for (name, value) in config {
                let below = shape.member(name).map_or(Shape::Leaf, |(s, _)| s);
                let merged = match live.get(name) {
                    Some(old) => merge(below, old, value),
                    None => value.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Parts::List(live), Parts::List(config)) if !config.is_empty() => {
            Value::Array(merge_lists(shape, live, config))
        }
        // Nothing, or an empty container, says nothing about one that holds something.
        (Parts::Object(object), _) if !object.is_empty() && says_nothing(config) => live.clone(),
        (Parts::List(items), _) if !items.is_empty() && says_nothing(config) => live.clone(),
        _ => config.clone(),
    }
}

fn says_nothing(config: &Value) -> bool {
    match config {
        Value::Null => true,
        Value::Object(object) => object.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Items that both have stand in the configuration's order; those that only the live list has keep their place before what
/// follows them there.
fn merge_lists(shape: Shape<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    // Each element to the items that have it.
    let index = |list: &[Value]| {
        let mut places: BTreeMap<Element<'static>, Vec<usize>> = BTreeMap::new();
        let mut keys = Vec::with_capacity(list.len());
        for (at, item) in list.iter().enumerate() {
            let key = element(shape, item).ok().map(Element::into_owned);
            if let Some(key) = &key {
                places.entry(key.clone()).or_default().push(at);
            }
            keys.push(key);
        }
        (places, keys)
    };
    let ((live_places, live_keys), (config_places, config_keys)) = (index(live), index(config));
    let places = |places: &BTreeMap<Element<'static>, Vec<usize>>, key: &Option<Element<'static>>| {
        key.as_ref().and_then(|key| places.get(key)).cloned().unwrap_or_default()
    };
    let merged = |at: usize| match places(&live_places, &config_keys[at]).as_slice() {
        [old] => merge(shape.item(), &live[*old], &config[at]),
        // Of items that cannot be told apart none is merged into.
        _ => config[at].clone(),
    };
    let shared: Vec<bool> = config_keys.iter().map(|key| !places(&live_places, key).is_empty()).collect();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut c, mut next) = (0, 0, 0);
    while l < live.len() || c < config.len() {
        let in_config = l < live.len() && !places(&config_places, &live_keys[l]).is_empty();
        if l < live.len() && !in_config {
            out.push(live[l].clone());
            l += 1;
            continue;
        }
        if c == config.len() {
            l += 1;
            continue;
        }
        next = next.max(c);
        while next < config.len() && !shared[next] {
            next += 1;
        }
        if l < live.len() && next < config.len() && config_keys[next] != live_keys[l] {
            // It has had its turn, or will have it.
            l += 1;
            continue;
        }
        out.push(merged(c));
        l += usize::from(l < live.len() && live_keys[l] == config_keys[c]);
        c += 1;
    }
    out
}
