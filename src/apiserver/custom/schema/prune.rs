//! Takes out what a schema does not name. Source: apiextensions-apiserver `pkg/apiserver/schema/pruning/algorithm.go`.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Additional, META_FIELDS, Schema};

/// Prunes the object and returns the paths of what was unknown, sorted, at most `limit`.
pub fn prune(object: &mut Value, schema: &Schema, is_root: bool, limit: usize) -> Vec<String> {
    let mut walk = Walk { path: String::new(), found: Vec::new(), limit };
    walk.prune(object, Some(schema), is_root || schema.embedded);
    walk.found.sort();
    walk.found
}

struct Walk {
    path: String,
    found: Vec<String>,
    limit: usize,
}

impl Walk {
    fn at<T>(&mut self, name: &str, then: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        let out = then(self);
        self.path.truncate(length);
        out
    }

    fn at_index(&mut self, index: usize, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        let _ = write!(self.path, "[{index}]");
        then(self);
        self.path.truncate(length);
    }

    fn unknown(&mut self, name: &str) {
        if self.found.len() < self.limit {
            let path = self.at(name, |walk| walk.path.clone());
            self.found.push(path);
        }
    }

    fn prune(&mut self, value: &mut Value, schema: Option<&Schema>, embedded: bool) {
        if let Some(schema) = schema.filter(|s| s.preserve_unknown) {
            self.keep(value, schema, embedded);
            return;
        }
        match value {
            Value::Object(object) => {
                let root = self.path.is_empty();
                object.retain(|name, value| {
                    let meta = META_FIELDS.contains(&name.as_str());
                    let Some(schema) = schema else {
                        self.unknown(name);
                        return false;
                    };
                    if embedded && meta {
                        return true;
                    }
                    match (schema.property(name), &schema.additional) {
                        (Some(below), _) => self.at(name, |walk| walk.prune(value, Some(below), below.embedded)),
                        (None, Additional::Of(below)) => {
                            self.at(name, |walk| walk.prune(value, Some(below), below.embedded));
                        }
                        (None, Additional::Any(_)) => self.at(name, |walk| walk.prune(value, None, false)),
                        (None, Additional::Unsaid) => {
                            if !meta || !root {
                                self.unknown(name);
                            }
                            return false;
                        }
                    }
                    true
                });
            }
            Value::Array(items) => {
                let below = schema.and_then(|s| s.items.as_deref());
                for (i, item) in items.iter_mut().enumerate() {
                    self.at_index(i, |walk| walk.prune(item, below, below.is_some_and(|b| b.embedded)));
                }
            }
            _ => {}
        }
    }

    /// Where unknown fields stay, those that are known are still looked into.
    fn keep(&mut self, value: &mut Value, schema: &Schema, embedded: bool) {
        match value {
            Value::Object(object) => {
                for (name, value) in object.iter_mut() {
                    if embedded && META_FIELDS.contains(&name.as_str()) {
                        continue;
                    }
                    match (schema.property(name), &schema.additional) {
                        (Some(below), _) => self.at(name, |walk| walk.prune(value, Some(below), below.embedded)),
                        (None, Additional::Of(below)) => {
                            self.at(name, |walk| walk.prune(value, Some(below), below.embedded));
                        }
                        (None, Additional::Any(_)) => self.at(name, |walk| walk.prune(value, None, false)),
                        (None, Additional::Unsaid) => {}
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = schema.items.as_deref() else { return };
                for (i, item) in items.iter_mut().enumerate() {
                    self.at_index(i, |walk| walk.keep(item, below, below.embedded));
                }
            }
            _ => {}
        }
    }
}
