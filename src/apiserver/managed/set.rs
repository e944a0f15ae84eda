//! Sets of fields: a tree of path elements, each of which may be a member. What never lives here: a schema, a value.
//!
//! A set reads from and writes to FieldsV1: an object whose names are path elements (`f:` a field, `k:` the keys of a list
//! item, `v:` the value of a list item, `i:` an index) and whose `.` says that the element itself belongs to the set where
//! it has children. Source: KEP-555; structured-merge-diff `fieldpath`.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Write as _};

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// In the order in which elements are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    Field,
    /// The text is a JSON object of the key fields, in order of their names.
    Key,
    /// The text is JSON.
    Value,
    Index,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element<'a> {
    pub sort: Sort,
    pub text: Cow<'a, str>,
}

impl<'a> Element<'a> {
    pub fn field(name: &'a str) -> Self {
        Self { sort: Sort::Field, text: Cow::Borrowed(name) }
    }
    pub fn value(value: &Value) -> Self {
        Self { sort: Sort::Value, text: Cow::Owned(value.to_string()) }
    }

    /// Reads `f:name` and its like; `None` for a sort that is not known, as upstream skips it.
    ///
    /// Errors: what is wrong with the text.
    fn parse(text: Cow<'a, str>) -> Result<Option<Self>, String> {
        if text.len() < 2 {
            return Err("key must be 2 characters long:".into());
        }
        if text.as_bytes()[1] != b':' {
            return Err(format!("missing colon: {text}"));
        }
        let sort = match text.as_bytes()[0] {
            b'f' => Sort::Field,
            b'k' => Sort::Key,
            b'v' => Sort::Value,
            b'i' => Sort::Index,
            _ => return Ok(None),
        };
        let rest = match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[2..]),
            Cow::Owned(text) => Cow::Owned(text[2..].to_owned()),
        };
        Ok(Some(Self { sort, text: rest }))
    }

    /// The element as we write it: others may write the same keys with other spaces or in another order.
    ///
    /// Errors: for keys and values that are no JSON.
    fn canonical(self) -> Result<Self, String> {
        let text = match self.sort {
            Sort::Field => self.text,
            Sort::Index => Cow::Owned(self.text.parse::<i64>().map_err(|e| e.to_string())?.to_string()),
            Sort::Key | Sort::Value => {
                let value: Value = serde_json::from_str(&self.text).map_err(|e| e.to_string())?;
                if self.sort == Sort::Key && !value.is_object() {
                    return Err(format!("no object: {}", self.text));
                }
                Cow::Owned(value.to_string())
            }
        };
        Ok(Self { sort: self.sort, text })
    }

    pub fn into_owned(self) -> Element<'static> {
        Element { sort: self.sort, text: Cow::Owned(self.text.into_owned()) }
    }
}

impl PartialOrd for Element<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Element<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sort.cmp(&other.sort).then_with(|| match self.sort {
            Sort::Field => self.text.cmp(&other.text),
            Sort::Key | Sort::Value | Sort::Index => json_cmp(self.text.as_bytes(), other.text.as_bytes()),
        })
    }
}

/// Orders two JSON texts of the same shape by their first difference, numbers by their value.
fn json_cmp(a: &[u8], b: &[u8]) -> Ordering {
    let Some(at) = a.iter().zip(b).position(|(x, y)| x != y) else { return a.len().cmp(&b.len()) };
    let start = a[..at].iter().rposition(|c| !c.is_ascii_digit()).map_or(0, |i| i + 1);
    let number = |text: &[u8]| {
        let digits = text[start..].iter().take_while(|c| c.is_ascii_digit()).count();
        std::str::from_utf8(&text[start..start + digits]).ok().and_then(|t| t.parse::<u64>().ok())
    };
    // A digit within a string follows something else than the mark before a value.
    if (start == 0 || a[start - 1] == b':')
        && let (Some(x), Some(y)) = (number(a), number(b))
    {
        return x.cmp(&y).then_with(|| a.cmp(b));
    }
    a.cmp(b)
}

impl fmt::Display for Element<'_> {
    /// As in error texts: `.name`, `[key="value"]`, `[="value"]`, `[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sort {
            Sort::Field => write!(f, ".{}", self.text),
            Sort::Value => write!(f, "[={}]", self.text),
            Sort::Index => write!(f, "[{}]", self.text),
            Sort::Key => {
                let keys: serde_json::Map<String, Value> = serde_json::from_str(&self.text).unwrap_or_default();
                f.write_char('[')?;
                for (i, (name, value)) in keys.iter().enumerate() {
                    if i > 0 {
                        f.write_char(',')?;
                    }
                    write!(f, "{name}={value}")?;
                }
                f.write_char(']')
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<'a> {
    pub element: Element<'a>,
    pub member: bool,
    pub children: Set<'a>,
}

/// Fields. Nodes are in order; none is neither a member nor has children.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Set<'a>(pub Vec<Node<'a>>);

impl<'a> Set<'a> {
    pub const fn new() -> Self {
        Self(Vec::new())
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a node at the end, unless it holds nothing. The caller keeps the order, or calls [`Set::sort`].
    pub fn push(&mut self, element: Element<'a>, member: bool, children: Set<'a>) {
        if member || !children.is_empty() {
            self.0.push(Node { element, member, children });
        }
    }

    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| a.element.cmp(&b.element));
    }

    /// Keeps what lies on one of the paths or below its end; `*` is any element.
    ///
    /// Source: structured-merge-diff `fieldpath` `FilterIncludeMatches`.
    pub fn retain_below(&mut self, paths: &[&[&str]]) {
        self.0.retain_mut(|node| {
            let is = |step: &str| step == "*" || (node.element.sort == Sort::Field && node.element.text == step);
            let steps = paths.iter().filter_map(|path| path.split_first());
            let rest: Vec<&[&str]> = steps.filter(|(step, _)| is(step)).map(|(_, rest)| rest).collect();
            if rest.iter().any(|rest| rest.is_empty()) {
                return true;
            }
            node.children.retain_below(&rest);
            !rest.is_empty() && (node.member || !node.children.is_empty())
        });
    }

    pub fn get(&self, element: &Element<'_>) -> Option<&Node<'a>> {
        let at = self.0.binary_search_by(|node| node.element.cmp(element)).ok()?;
        Some(&self.0[at])
    }

    pub fn field(&self, name: &str) -> Option<&Node<'a>> {
        let at =
            self.0.binary_search_by(|n| n.element.sort.cmp(&Sort::Field).then_with(|| (*n.element.text).cmp(name)));
        at.ok().map(|at| &self.0[at])
    }

    /// What is in either.
    pub fn union(self, other: Set<'a>) -> Set<'a> {
        if other.is_empty() {
            return self;
        }
        let mut out = Vec::with_capacity(self.0.len() + other.0.len());
        let (mut left, mut right) = (self.0.into_iter().peekable(), other.0.into_iter().peekable());
        while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
            match l.element.cmp(&r.element) {
                Ordering::Less => out.extend(left.next()),
                Ordering::Greater => out.extend(right.next()),
                Ordering::Equal => {
                    if let (Some(l), Some(r)) = (left.next(), right.next()) {
                        let children = l.children.union(r.children);
                        out.push(Node { element: l.element, member: l.member || r.member, children });
                    }
                }
            }
        }
        out.extend(left);
        out.extend(right);
        Set(out)
    }

    /// Takes out what is in `other`; says whether there was something. Children of a member of `other` stay.
    pub fn subtract(&mut self, other: &Set<'_>) -> bool {
        if other.is_empty() {
            return false;
        }
        let mut changed = false;
        self.0.retain_mut(|node| {
            if let Some(found) = other.get(&node.element) {
                if found.member && node.member {
                    node.member = false;
                    changed = true;
                }
                changed |= node.children.subtract(&found.children);
            }
            node.member || !node.children.is_empty()
        });
        changed
    }

    pub fn difference(mut self, other: &Set<'_>) -> Set<'a> {
        self.subtract(other);
        self
    }

    /// What is in both.
    pub fn intersection(&self, other: &Set<'_>) -> Set<'a> {
        let mut out = Set::new();
        for node in &self.0 {
            if let Some(found) = other.get(&node.element) {
                let children = node.children.intersection(&found.children);
                out.push(node.element.clone(), node.member && found.member, children);
            }
        }
        out
    }

    /// Whether everything in `other` is in this set.
    pub fn covers(&self, other: &Set<'_>) -> bool {
        other.0.iter().all(|node| {
            self.get(&node.element)
                .is_some_and(|own| (own.member || !node.member) && own.children.covers(&node.children))
        })
    }

    /// Calls `each` with the path of every member, parents first.
    pub fn paths(&self, each: &mut dyn FnMut(&str)) {
        self.paths_under(&mut String::new(), each);
    }

    fn paths_under(&self, path: &mut String, each: &mut dyn FnMut(&str)) {
        let length = path.len();
        // Upstream visits the members of one level before it descends.
        for node in self.0.iter().filter(|n| n.member) {
            let _ = write!(path, "{}", node.element);
            each(path);
            path.truncate(length);
        }
        for node in self.0.iter().filter(|n| !n.children.is_empty()) {
            let _ = write!(path, "{}", node.element);
            node.children.paths_under(path, each);
            path.truncate(length);
        }
    }

    /// The set as we write it.
    ///
    /// Errors: for elements that are no path elements.
    pub fn canonical(self) -> Result<Set<'a>, String> {
        let mut out = Set::new();
        for node in self.0 {
            let node =
                Node { element: node.element.canonical()?, member: node.member, children: node.children.canonical()? };
            let sorted = out.0.last().is_none_or(|last| last.element < node.element);
            if sorted {
                out.0.push(node);
            } else {
                out = out.union(Set(vec![node]));
            }
        }
        Ok(out)
    }

    pub fn into_owned(self) -> Set<'static> {
        let own =
            |n: Node<'a>| Node { element: n.element.into_owned(), member: n.member, children: n.children.into_owned() };
        Set(self.0.into_iter().map(own).collect())
    }

    /// Appends FieldsV1.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        self.write_members(out, true);
        out.push(b'}');
    }

    fn write_members(&self, out: &mut Vec<u8>, mut first: bool) {
        for node in &self.0 {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            let mark = match node.element.sort {
                Sort::Field => b'f',
                Sort::Key => b'k',
                Sort::Value => b'v',
                Sort::Index => b'i',
            };
            let text = node.element.text.as_bytes();
            if text.iter().all(|b| *b >= 0x20 && *b != b'"' && *b != b'\\') {
                out.extend_from_slice(&[b'"', mark, b':']);
                out.extend_from_slice(text);
                out.push(b'"');
            } else {
                let quoted = format!("{}:{}", char::from(mark), node.element.text);
                serde_json::to_writer(&mut *out, &quoted).expect("a text is written to memory");
            }
            if node.children.is_empty() {
                out.extend_from_slice(b":{}");
            } else {
                out.extend_from_slice(b":{");
                if node.member {
                    out.extend_from_slice(b"\".\":{}");
                }
                node.children.write_members(out, !node.member);
                out.push(b'}');
            }
        }
    }
}

/// A text in JSON, borrowed where it has no escapes.
#[derive(Debug)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Texts)
    }
}

/// A set and whether it named itself.
struct Read<'a>(Set<'a>, bool);

impl<'de> Deserialize<'de> for Read<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sets;
        impl<'de> Visitor<'de> for Sets {
            type Value = Read<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a set of fields")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Read<'de>, M::Error> {
                let (mut set, mut own) = (Set::new(), false);
                let mut sorted = true;
                while let Some(Text(name)) = map.next_key()? {
                    if name == "." {
                        own = true;
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let Some(element) = Element::parse(name).map_err(de::Error::custom)? else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let Read(children, member) = map.next_value()?;
                    sorted &= set.0.last().is_none_or(|last: &Node<'_>| last.element < element);
                    // One without children stands for itself.
                    let member = member || children.is_empty();
                    set.0.push(Node { element, member, children });
                }
                if !sorted {
                    let nodes = std::mem::take(&mut set.0);
                    for node in nodes {
                        set = set.union(Set(vec![node]));
                    }
                }
                Ok(Read(set, own))
            }
        }
        deserializer.deserialize_map(Sets)
    }
}

impl<'de> Deserialize<'de> for Set<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Read::deserialize(deserializer).map(|Read(set, _)| set)
    }
}
