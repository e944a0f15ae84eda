//! What a call costs when it runs: one for what takes constant time, a tenth for every character that is looked at.
//!
//! Source: cel-go `interpreter/runtimecost.go`, `ext/lists.go`, `ext/sets.go`; apiserver `pkg/cel/library/cost.go`.

use super::value::{List, Value};

pub const SELECT_AND_IDENT: u64 = 1;
pub const LIST_CREATE: u64 = 10;
pub const MAP_CREATE: u64 = 30;
pub const STRUCT_CREATE: u64 = 40;
pub const STRING_TRAVERSAL: f64 = 0.1;
pub const REGEX_LENGTH: f64 = 0.25;
/// An authorization check: two fit into one call's limit.
pub const AUTHORIZER_CHECK: u64 = 350_000;
/// A selector requirement takes at least two characters and makes a list and a struct.
pub const SELECTOR_REQUIREMENTS_PER_CHAR: f64 = 0.5;
pub const SELECTOR_REQUIREMENT: f64 = (LIST_CREATE + STRUCT_CREATE) as f64;

fn scaled(size: f64, factor: f64) -> u64 {
    (size * factor).ceil() as u64
}
fn traversal(value: &Value) -> u64 {
    scaled(value.size() as f64, STRING_TRAVERSAL)
}
fn regex(text: u64, pattern: u64) -> u64 {
    scaled(1.0 + text as f64, STRING_TRAVERSAL).saturating_mul(scaled(pattern as f64, REGEX_LENGTH))
}

/// What it costs to compile a regular expression that an evaluation comes upon: a tenth of a millisecond, as all costs are
/// scaled, and ten times that for a long one. Upstream compiles for nothing.
pub fn compilation(pattern: &str) -> u64 {
    (pattern.len() as u64).saturating_mul(10).max(1_000)
}

/// Whether [`call`] says more when it knows the result.
pub fn depends_on_result(function: &str, overload: &str) -> bool {
    function == "join" || matches!(overload, "list_slice" | "lists_range" | "list_reverse")
}

/// `overload` is empty when only the values decided which one it is; `args` have the target first. Without a result it is the
/// least that the call costs.
pub fn call(function: &str, overload: &str, args: &[Value], result: Option<&Value>) -> u64 {
    if let Some(cost) = list_call(overload, args, result) {
        return cost;
    }
    let size = |i: usize| args.get(i).map_or(1, Value::size);
    let arg = |i: usize| args.get(i).map_or(0, traversal);
    match function {
        "check" => return AUTHORIZER_CHECK,
        "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed"
        | "reason" | "error" | "errored" => return 1,
        "fieldSelector" | "labelSelector" if args.len() >= 2 => {
            let requirements = scaled(size(1) as f64, SELECTOR_REQUIREMENTS_PER_CHAR) as f64;
            return LIST_CREATE + arg(1) + scaled(requirements, SELECTOR_REQUIREMENT);
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => return args.first().map_or(0, deep),
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => return arg(0),
        "replace" | "split" => return scaled(size(0) as f64 * 2.0, STRING_TRAVERSAL),
        "join" => return scaled(result.map_or(0, Value::size) as f64 * 2.0, STRING_TRAVERSAL),
        "find" | "findAll" if args.len() >= 2 => return regex(size(0), size(1)),
        "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => return arg(0),
        "ip" => return if overload == "cidr_ip" { 1 } else { arg(0) },
        "ip.isCanonical" => return scaled(size(0) as f64 * 2.0, STRING_TRAVERSAL),
        "containsIP" | "containsCIDR" if args.len() >= 2 => {
            let mut cost = scaled(size(0) as f64 * 2.0, STRING_TRAVERSAL);
            if function == "containsCIDR" {
                cost += arg(0) + 1;
            }
            if overload.ends_with("_string") {
                cost += arg(1);
            }
            return cost;
        }
        "validate" => {
            if let (Some(Value::Format(format)), Some(text)) = (args.first(), args.get(1)) {
                return regex(text.size(), format.regex_size);
            }
        }
        "_==_"
            if matches!(
                args,
                [
                    Value::Quantity(_)
                        | Value::Ip(_)
                        | Value::Cidr(..)
                        | Value::Format(_)
                        | Value::Url(_)
                        | Value::Semver(_)
                        | Value::Authorization(_),
                    _
                ]
            ) =>
        {
            return 1;
        }
        _ => {}
    }
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string" | "strings_quote"
        | "string_format" => arg(0),
        "in_list" => size(1),
        "equals" | "not_equals" => compared(size(0), size(1)),
        "add_string" | "add_bytes" => scaled((size(0) + size(1)) as f64, STRING_TRAVERSAL),
        "matches_string" => regex(size(0), size(1)),
        "contains_string" => arg(0).saturating_mul(arg(1)),
        _ if is_text_comparison(overload) => compared(size(0), size(1)),
        _ => 1,
    }
}

/// `less_string`, `greater_equals_bytes` and their kin.
pub fn is_text_comparison(overload: &str) -> bool {
    let compares = overload.starts_with("less_") || overload.starts_with("greater_");
    compares && (overload.ends_with("_string") || overload.ends_with("_bytes"))
}
fn compared(a: u64, b: u64) -> u64 {
    scaled(a.min(b) as f64, STRING_TRAVERSAL)
}

/// A value looked through, down to its last character.
fn deep(value: &Value) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * STRING_TRAVERSAL) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * STRING_TRAVERSAL) as u64,
        Value::List(list) => list.iter().flatten().map(|item| deep(&item)).sum(),
        Value::Map(map) => map.entries().map(|(key, value)| deep(&key) + value.map_or(1, |v| deep(&v))).sum(),
        _ => 1,
    }
}

fn allocating(factor: f64, size: u64) -> u64 {
    ((size as f64 * factor) as u64).saturating_add(1 + LIST_CREATE)
}
fn self_compared(list: &List) -> u64 {
    let size = list.len() as u64;
    let text = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
    allocating(if text { 2.0 + STRING_TRAVERSAL } else { 2.0 }, size.saturating_mul(size))
}
/// cel-go's libraries of lists and sets.
fn list_call(overload: &str, args: &[Value], result: Option<&Value>) -> Option<u64> {
    let size = |i: usize| args.get(i).map_or(1, Value::size);
    let list = |i: usize| match args.get(i) {
        Some(Value::List(list)) => Some(list),
        _ => None,
    };
    Some(match overload {
        "list_sets_contains_list" | "list_sets_intersects_list" => size(0).saturating_mul(size(1)).saturating_add(1),
        "list_sets_equivalent_list" => size(0).saturating_mul(size(1)).saturating_mul(2).saturating_add(1),
        "list_slice" | "lists_range" | "list_reverse" => allocating(1.0, result.map_or(0, Value::size)),
        "list_flatten" => allocating(1.0, size(0)),
        "list_flatten_int" => match args.get(1) {
            Some(Value::Int(depth)) => allocating(*depth as f64, size(0)),
            _ => return None,
        },
        "list_distinct" => self_compared(list(0)?),
        _ if overload.ends_with("_sortByAssociatedKeys") => self_compared(list(1)?),
        _ if overload.starts_with("list_") && overload.ends_with("_sort") => self_compared(list(0)?),
        _ => return None,
    })
}
