//! What a change changes: two versions of an object to the fields that differ. Pure.
//!
//! The old version of a new object is the empty Go struct of its kind, as upstream has it: a field that Go always writes
//! is there before anybody sets it, which shows in who owns the struct itself and not only what is in it.
//!
//! Source: structured-merge-diff `typed/compare.go`.

use std::cmp::Ordering;

use serde_json::Value;

use super::reset::Reset;
use super::set::{Element, Set};
use super::shape::{Items, Object, Parts, Shape, is_zero};

/// What is there on one side.
#[derive(Clone, Copy)]
pub enum Side<'a> {
    Absent,
    /// The zero value, which Go writes though nobody has set it.
    Zero,
    Is(&'a Value),
}

impl<'a> Side<'a> {
    fn object(self, shape: Shape<'_>) -> Option<&'a Object> {
        match self {
            Side::Is(value) => match shape.parts(value) {
                Parts::Object(object) if !object.is_empty() => Some(object),
                _ => None,
            },
            Side::Absent | Side::Zero => None,
        }
    }

    fn list(self, shape: Shape<'_>) -> Option<&'a [Value]> {
        match self {
            Side::Is(value) => match shape.parts(value) {
                Parts::List(items) if !items.is_empty() => Some(items),
                _ => None,
            },
            Side::Absent | Side::Zero => None,
        }
    }

    fn is_absent(self) -> bool {
        matches!(self, Side::Absent)
    }

    fn is(self, other: Side<'_>) -> bool {
        match (self, other) {
            (Side::Is(a), Side::Is(b)) => a == b,
            (Side::Is(value), Side::Zero) | (Side::Zero, Side::Is(value)) => is_zero(value),
            (Side::Zero, Side::Zero) | (Side::Absent, Side::Absent) => true,
            _ => false,
        }
    }
}

/// The difference between two versions.
#[derive(Debug, Default)]
pub struct Difference<'a> {
    /// Added or modified.
    pub changed: Set<'a>,
    pub removed: Set<'a>,
}

impl Difference<'_> {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Fields of the whole object and of `metadata` that nobody owns.
/// Source: apimachinery `pkg/util/managedfields/internal/stripmeta.go`.
pub const UNOWNED: &[&str] = &["apiVersion", "kind"];
pub const UNOWNED_METADATA: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Compares two versions of an object; `old` is `None` for a new one. What nobody owns and what the writer may not set is
/// left out.
pub fn compare<'a>(shape: Shape<'_>, old: Option<&'a Value>, new: &'a Value, reset: &Reset) -> Difference<'a> {
    let old = old.map_or(Side::Zero, Side::Is);
    let mut difference = Walk { reset }.objects(shape, old, Side::Is(new), Level::Root);
    if !reset.only.is_empty() {
        difference.changed.retain_below(reset.only);
        difference.removed.retain_below(reset.only);
    }
    difference
}

/// Where fields without an owner may be.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Metadata,
    Below,
}

struct Walk<'r> {
    reset: &'r Reset,
}

impl Walk<'_> {
    fn skips(&self, level: Level, name: &str) -> bool {
        match level {
            Level::Root => UNOWNED.contains(&name) || self.reset.root.contains(&name),
            Level::Metadata => UNOWNED_METADATA.contains(&name) || self.reset.metadata.contains(&name),
            Level::Below => false,
        }
    }

    fn node<'a>(
        &self,
        element: Element<'a>,
        shape: Shape<'_>,
        old: Side<'a>,
        new: Side<'a>,
        level: Level,
        out: &mut Difference<'a>,
    ) {
        let parts = if old.object(shape).is_some() || new.object(shape).is_some() {
            // A side of another type than the other's is a leaf to it.
            self.objects(shape, old, new, level)
        } else if old.list(shape).is_some() || new.list(shape).is_some() {
            self.lists(shape, old, new)
        } else {
            // What holds nothing on either side is a leaf.
            match (old, new) {
                (_, Side::Absent) => out.removed.push(element, !old.is_absent(), Set::new()),
                (old, new) if !old.is(new) => out.changed.push(element, true, Set::new()),
                _ => {}
            }
            return;
        };
        if old.is_absent() || !parts.changed.is_empty() {
            out.changed.push(element.clone(), old.is_absent(), parts.changed);
        }
        if new.is_absent() || !parts.removed.is_empty() {
            out.removed.push(element, new.is_absent(), parts.removed);
        }
    }

    fn objects<'a>(&self, shape: Shape<'_>, old: Side<'a>, new: Side<'a>, level: Level) -> Difference<'a> {
        let mut out = Difference::default();
        let (before, after) = (old.object(shape), new.object(shape));
        let mut left = before.into_iter().flatten().peekable();
        let mut right = after.into_iter().flatten().peekable();
        loop {
            let order = match (left.peek(), right.peek()) {
                (Some((l, _)), Some((r, _))) => l.cmp(r),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let l = if order.is_le() { left.next() } else { None };
            let r = if order.is_ge() { right.next() } else { None };
            let Some((name, _)) = l.or(r) else { break };
            if self.skips(level, name) {
                continue;
            }
            let Some((below, member)) = shape.member(name) else { continue };
            // Go writes the field of a struct that is there at all.
            let zero = |side: Side<'a>, value: Option<&'a Value>| match (value, side) {
                (Some(value), _) => Side::Is(value),
                (None, Side::Absent) => Side::Absent,
                (None, _) if member.is_always_there() => Side::Zero,
                (None, _) => Side::Absent,
            };
            let (from, to) = (zero(old, l.map(|(_, v)| v)), zero(new, r.map(|(_, v)| v)));
            let level = if level == Level::Root && name == "metadata" { Level::Metadata } else { Level::Below };
            self.node(Element::field(name), below, from, to, level, &mut out);
        }
        out
    }

    fn lists<'a>(&self, shape: Shape<'_>, old: Side<'a>, new: Side<'a>) -> Difference<'a> {
        let mut out = Difference::default();
        let (before, after) = (Items::of(shape, old.list(shape)), Items::of(shape, new.list(shape)));
        let (mut left, mut right) = (before.groups().peekable(), after.groups().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (Some(l), Some(r)) => l[0].0.cmp(&r[0].0),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let none: &[(Element<'a>, &'a Value)] = &[];
            let l = if order.is_le() { left.next().unwrap_or_default() } else { none };
            let r = if order.is_ge() { right.next().unwrap_or_default() } else { none };
            let Some((element, _)) = l.first().or(r.first()) else { break };
            if l.len() > 1 || r.len() > 1 {
                // Items that cannot be told apart have one owner together.
                if r.is_empty() {
                    out.removed.push(element.clone(), true, Set::new());
                } else if !l.iter().map(|(_, v)| v).eq(r.iter().map(|(_, v)| v)) {
                    out.changed.push(element.clone(), true, Set::new());
                }
                continue;
            }
            let side = |items: &[(Element<'a>, &'a Value)]| items.first().map_or(Side::Absent, |(_, v)| Side::Is(v));
            self.node(element.clone(), shape.item(), side(l), side(r), Level::Below, &mut out);
        }
        out
    }
}
