//! What single calls cost at most, library by library.

use super::{Arg, Call, Estimator, Range};
use crate::ast::{Id, Literal, Node};
use crate::cost::{
    AUTHORIZER_CHECK, LIST_CREATE, REGEX_LENGTH, SELECTOR_REQUIREMENT, SELECTOR_REQUIREMENTS_PER_CHAR,
    STRING_TRAVERSAL, is_text_comparison,
};
use crate::types::Type;

/// How long the regular expression of a named format is taken to be. Source: apiserver `pkg/cel/limits.go`.
const FORMAT_REGEX_SIZE: f64 = 128.0;
const FORMAT_SIZE: u64 = 64;

impl Estimator<'_> {
    /// cel-go's own functions. `None`: takes constant time.
    pub(super) fn standard(&mut self, id: Id, overload: &str, target: Option<&Arg>, args: &[Arg]) -> Option<Call> {
        match (overload, target, args) {
            ("string_format", Some(target), _) => Call::cost(target.size.scaled(STRING_TRAVERSAL)),
            ("string_to_bytes", _, [a]) => {
                let size = Range { min: a.size.min, max: a.size.max.wrapping_mul(4) };
                Call::sized(a.size.scaled(STRING_TRAVERSAL), size)
            }
            ("bytes_to_string", _, [a]) => {
                Call::sized(a.size.scaled(STRING_TRAVERSAL), Range { min: a.size.min / 4, max: a.size.max })
            }
            ("strings_quote", _, [a]) => {
                let size = Range { min: a.size.min.wrapping_add(2), max: a.size.max.wrapping_mul(2).wrapping_add(2) };
                Call::sized(a.size.scaled(STRING_TRAVERSAL), size)
            }
            ("starts_with_string" | "ends_with_string", _, [a]) => Call::cost(a.size.scaled(STRING_TRAVERSAL)),
            ("in_list", _, [_, list]) => Call::cost(list.size.scaled(1.0)),
            ("matches_string", Some(target), [pattern]) => Call::cost(regex(target.size, pattern.size)),
            ("contains_string", Some(target), [part]) => {
                Call::cost(target.size.scaled(STRING_TRAVERSAL).times(part.size.scaled(STRING_TRAVERSAL)))
            }
            ("add_string" | "add_bytes" | "add_list", _, [a, b]) => {
                let size = a.size.plus(b.size);
                if let (Some(x), Some(y)) = (self.known_entries(a.id), self.known_entries(b.id)) {
                    self.entries.insert(id, x.union(y));
                }
                let cost = if overload == "add_list" { Range::ONE } else { size.scaled(STRING_TRAVERSAL) };
                Call::sized(cost, size)
            }
            (_, _, [a, b]) if matches!(overload, "equals" | "not_equals") || is_text_comparison(overload) => {
                let max = a.size.max.min(b.size.max);
                Call::cost(Range { min: u64::from(max > 0), max }.scaled(STRING_TRAVERSAL))
            }
            _ => None,
        }
    }

    /// Kubernetes' libraries. `None`: not one of them.
    pub(super) fn kubernetes(
        &self,
        function: &str,
        overload: &str,
        target: Option<&Arg>,
        args: &[Arg],
    ) -> Option<Call> {
        let traversal = |size: Range| size.scaled(STRING_TRAVERSAL);
        match (function, target, args) {
            ("check", _, _) => Call::cost(Range::fixed(AUTHORIZER_CHECK)),
            (
                "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed"
                | "reason" | "error" | "errored",
                _,
                _,
            ) => Call::cost(Range::ONE),
            ("fieldSelector" | "labelSelector", _, [a]) => {
                let requirements = a.size.scaled(SELECTOR_REQUIREMENTS_PER_CHAR).scaled(SELECTOR_REQUIREMENT);
                Call::cost(Range::fixed(LIST_CREATE).plus(traversal(a.size)).plus(requirements))
            }
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(target), _) => {
                let Some((item, of_item)) = self.item(target.id) else { return Call::cost(traversal(target.size)) };
                let mut each = Range::ONE;
                if matches!(item, Type::String | Type::Bytes) {
                    each = each.plus(traversal(of_item));
                }
                Call::cost(target.size.times(each))
            }
            ("url" | "jsonpatch.escapeKey", _, [a]) => Call::sized(traversal(a.size), a.size),
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(target), _) => {
                Call::sized(traversal(target.size), target.size)
            }
            ("replace", Some(target), [old, new, ..]) => {
                let size = replaced(target.size, old.size, new.size);
                Call::sized(target.size.scaled(2.0 * STRING_TRAVERSAL), size)
            }
            ("split", Some(target), _) => {
                let limit = args.get(1).and_then(|limit| match self.node(limit.id) {
                    Node::Literal(Literal::Int(n)) => Some(*n as u64),
                    _ => None,
                });
                let size = Range { min: 0, max: limit.unwrap_or(target.size.max) };
                Call::sized(target.size.scaled(2.0 * STRING_TRAVERSAL), size)
            }
            ("join", Some(target), _) => {
                let mut size = self.item(target.id).map_or_else(Range::default, |(_, item)| target.size.times(item));
                if let Some(separator) = args.first() {
                    let gaps = Range { min: target.size.min.saturating_sub(1), max: target.size.max.saturating_sub(1) };
                    size = size.plus(separator.size.times(gaps));
                }
                Call::sized(traversal(size), size)
            }
            ("find" | "findAll", Some(target), [pattern, ..]) => {
                Call::sized(regex(target.size, pattern.size), Range { min: 0, max: target.size.max })
            }
            ("ip", _, _) if overload == "cidr_ip" => Call::cost(Range::ONE),
            ("cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver", _, [a, ..]) => {
                Call::cost(traversal(a.size))
            }
            ("ip.isCanonical", _, [a]) => Call::cost(a.size.scaled(2.0 * STRING_TRAVERSAL)),
            (
                "masked"
                | "prefixLength"
                | "family"
                | "isUnspecified"
                | "isLoopback"
                | "isLinkLocalMulticast"
                | "isLinkLocalUnicast"
                | "isGlobalUnicast",
                _,
                _,
            ) => Call::cost(Range::ONE),
            ("containsIP" | "containsCIDR", _, [a]) => {
                // an address is four or sixteen bytes
                let address = Range { min: 4, max: 16 };
                let mut cost = traversal(address.plus(address));
                if function == "containsCIDR" {
                    cost = cost.plus(traversal(address)).plus(Range::ONE);
                }
                if overload.ends_with("_string") {
                    cost = cost.plus(traversal(a.size));
                }
                Call::cost(cost)
            }
            ("validate", _, [a]) => Call::cost(traversal(a.size).scaled(FORMAT_REGEX_SIZE * REGEX_LENGTH)),
            (
                "format.named" | "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "isGreaterThan"
                | "isLessThan" | "compareTo" | "add" | "sub" | "major" | "minor" | "patch" | "getScheme"
                | "getHostname" | "getHost" | "getPort" | "getEscapedPath" | "getQuery",
                _,
                _,
            ) => Call::cost(Range::ONE),
            ("_==_", _, [a, b]) if self.type_of(a.id) == self.type_of(b.id) => match self.type_of(a.id) {
                Type::Opaque(_) => Call::cost(Range::ONE),
                Type::Object(name) => match &**name {
                    "kubernetes.NamedFormat" => Call::cost(traversal(Range { min: 1, max: FORMAT_SIZE })),
                    "kubernetes.URL" => {
                        Call::cost(traversal(Range { min: 1, max: self.sizes.get(&b.id).map_or(1, |size| size.max) }))
                    }
                    name if name.starts_with("kubernetes.") => Call::cost(Range::ONE),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    /// cel-go's libraries of lists and sets.
    pub(super) fn list_library(&self, overload: &str, target: Option<&Arg>, args: &[Arg]) -> Option<Call> {
        let allocating = |factor: f64, size: Range| {
            Call::sized(size.scaled(factor).plus(Range::ONE).plus(Range::fixed(LIST_CREATE)), size)
        };
        let literal = |arg: &Arg, default: u64| match self.node(arg.id) {
            Node::Literal(Literal::Int(n)) => u64::try_from(*n).unwrap_or(0),
            _ => default,
        };
        let squared = |arg: &Arg| {
            let text = matches!(self.type_of(arg.id), Type::List(item) if matches!(**item, Type::String | Type::Bytes));
            allocating(if text { 2.0 + STRING_TRAVERSAL } else { 2.0 }, arg.size.times(arg.size))
        };
        match (overload, target, args) {
            ("list_sets_contains_list" | "list_sets_intersects_list", _, [a, b]) => {
                Call::cost(a.size.times(b.size).scaled(1.0).plus(Range::ONE))
            }
            ("list_sets_equivalent_list", _, [a, b]) => Call::cost(a.size.times(b.size).scaled(2.0).plus(Range::ONE)),
            ("list_slice", Some(target), [start, end]) => {
                let size = literal(end, target.size.max).wrapping_sub(literal(start, 0));
                allocating(1.0, Range::fixed(size))
            }
            ("lists_range", None, [n]) => allocating(1.0, Range::fixed(literal(n, u64::MAX))),
            ("list_reverse", Some(target), []) => allocating(1.0, target.size),
            ("list_flatten", Some(target), []) => allocating(1.0, target.size),
            ("list_flatten_int", Some(target), [depth]) => allocating(literal(depth, u64::MAX) as f64, target.size),
            ("list_distinct", Some(target), []) => allocating(2.0, target.size.times(target.size)),
            (_, Some(_), [keys]) if overload.ends_with("_sortByAssociatedKeys") => squared(keys),
            (_, Some(target), []) if overload.starts_with("list_") && overload.ends_with("_sort") => squared(target),
            _ => None,
        }
    }
}

fn regex(text: Range, pattern: Range) -> Range {
    text.plus(Range::ONE).scaled(STRING_TRAVERSAL).times(pattern.scaled(REGEX_LENGTH))
}
/// How long a text can be when every `old` in it has become `new`.
fn replaced(text: Range, old: Range, new: Range) -> Range {
    let (mut count, mut kept) = (Range::default(), Range::default());
    if old.min == 0 {
        // an empty text is found around every character
        count.max = text.max.saturating_add(1);
        kept.max = text.max;
    } else if new.max <= old.min {
        kept.max = text.max;
    } else {
        count.max = (text.max as f64 / old.min as f64).ceil() as u64;
    }
    if old.max == 0 {
        count.min = text.min.saturating_add(1);
        kept.min = text.min;
    } else if old.max <= new.min {
        kept.min = text.min;
    } else {
        count.min = (text.min as f64 / old.max as f64).ceil() as u64;
    }
    count.times(new).plus(kept)
}
