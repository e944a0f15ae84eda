//! Texts of single cells, shared by several kinds.

use std::net::IpAddr;

use serde_json::Value;
use types::selector::LabelSelector;

use crate::hooks::json::{self, at, get, list, map, text};

pub const NONE: &str = "<none>";

/// The age of an RFC 3339 time.
pub fn age(time: &Value, now: jiff::Timestamp) -> String {
    types::time::age(time.as_str().filter(|t| !t.is_empty()), now)
}

pub fn created(object: &Value, now: jiff::Timestamp) -> String {
    age(at(object, &["metadata", "creationTimestamp"]), now)
}

/// The text, or what stands for none.
pub fn or<'a>(text: &'a str, none: &'a str) -> &'a str {
    if text.is_empty() { none } else { text }
}

/// `k=v` of a map, sorted, joined by commas.
pub fn labels(object: &Value, key: &str) -> String {
    let pairs: Vec<String> = map(object, key).map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { NONE.into() } else { pairs.join(",") }
}

/// The text form of a label selector; `invalid` for one that is none.
pub fn selector(selector: &Value, empty: &str, invalid: &str) -> String {
    match LabelSelector::from_object(selector) {
        Err(_) => invalid.into(),
        Ok(selector) if selector.is_empty() => empty.into(),
        Ok(selector) => selector.to_string(),
    }
}

/// Names and images of the containers of a template.
pub fn containers(object: &Value) -> (String, String) {
    containers_of(at(object, &["spec", "template"]))
}

/// Names and images of the containers of this template.
pub fn containers_of(template: &Value) -> (String, String) {
    let containers = list(get(template, "spec"), "containers");
    let join = |field| containers.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",");
    (join("name"), join("image"))
}

/// The first few of a list and how many there are more.
pub fn capped(items: &[String], most: usize, none: &str) -> String {
    match items.len() {
        0 => none.into(),
        n if n > most => format!("{} + {} more...", items[..most].join(","), n - most),
        _ => items.join(","),
    }
}

/// `ip:port`, with brackets around IPv6.
pub fn host_port(ip: &str, port: i64) -> String {
    match ip.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{ip}]:{port}"),
        _ => format!("{ip}:{port}"),
    }
}

/// A number as it goes into a cell; zero when it is absent.
pub fn number(object: &Value, key: &str) -> Value {
    get(object, key).as_i64().unwrap_or(0).into()
}

/// A quantity as it is written, nothing as zero.
pub fn quantity(v: &Value) -> String {
    json::quantity(v).map_or_else(|| "0".into(), |q| q.to_string())
}
