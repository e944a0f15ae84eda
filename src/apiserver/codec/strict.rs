//! Unknown and duplicate fields of a JSON text, in one pass over its bytes and in its order.
//!
//! Expects text that has already been parsed, so that nesting is bounded and the syntax is right.

use std::borrow::Cow;
use std::collections::HashSet;

use super::trail::{Step, Trail, strict_path};
use crate::schema::{Container, Field, Item, Type};

/// Upstream reports no more than this many problems of one body.
pub const PROBLEMS_MAX: usize = 100;

/// Maps up to this size are checked by comparing keys, larger ones by a hash set.
const SMALL_MAP: usize = 16;

/// The problems of a text whose root is of type `ty`; without a type (custom kinds) every field is known and only
/// duplicates are problems.
pub fn problems(text: &[u8], ty: Option<&'static Type>) -> Vec<String> {
    let mut scanner = Scanner { text, at: 0, problems: Vec::new() };
    scanner.value(ty.map_or(Expect::Anything, Expect::Message), None);
    scanner.problems
}

/// What a value is read as.
#[derive(Clone, Copy)]
enum Expect {
    Message(&'static Type),
    /// A field with its container.
    Field(&'static Field),
    /// An element of the field's container.
    Element(&'static Field),
    /// Untyped, but duplicates count.
    Anything,
    /// Scalars and values with a decoder of their own.
    Opaque,
}

struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
    problems: Vec<String>,
}

impl<'t> Scanner<'t> {
    fn value(&mut self, expect: Expect, at: Option<&Trail<'_>>) {
        let expect = match expect {
            Expect::Field(field) if field.container == Container::Single => Expect::Element(field),
            other => other,
        };
        let expect = match expect {
            Expect::Element(field) => field.message().map_or(Expect::Opaque, Expect::Message),
            other => other,
        };
        self.spaces();
        match (self.peek(), expect) {
            (Some(b'{'), Expect::Message(ty)) => self.message(ty, at),
            (Some(b'{'), Expect::Field(field)) if field.container == Container::Map => {
                self.map(Expect::Element(field), at);
            }
            (Some(b'{'), Expect::Anything) => self.map(Expect::Anything, at),
            (Some(b'['), Expect::Field(field)) if field.container == Container::List => {
                // Nothing can be unknown in a list of scalars.
                if matches!(field.item, Item::Message(_)) { self.list(Expect::Element(field), at) } else { self.skip() }
            }
            (Some(b'['), Expect::Anything) => self.list(Expect::Anything, at),
            _ => self.skip(),
        }
    }

    fn message(&mut self, ty: &'static Type, at: Option<&Trail<'_>>) {
        let mut seen: u128 = 0;
        self.entries(|scanner, key| {
            let Some(index) = ty.index(&key) else {
                scanner.problem("unknown", at, &key);
                scanner.skip();
                return;
            };
            let bit = 1u128 << index;
            if seen & bit != 0 {
                scanner.problem("duplicate", at, &key);
            }
            seen |= bit;
            let field = &ty.fields[index];
            scanner.value(Expect::Field(field), Some(&Trail { parent: at, step: Step::Field(field) }));
        });
    }

    fn map(&mut self, expect: Expect, at: Option<&Trail<'_>>) {
        let mut small: Vec<Cow<'t, str>> = Vec::new();
        let mut large: HashSet<Cow<'t, str>> = HashSet::new();
        self.entries(|scanner, key| {
            scanner.value(expect, Some(&Trail { parent: at, step: Step::Key(&key) }));
            if small.contains(&key) || large.contains(&key) {
                scanner.problem("duplicate", at, &key);
            } else if small.len() < SMALL_MAP {
                small.push(key);
            } else {
                large.insert(key);
            }
        });
    }

    fn list(&mut self, expect: Expect, at: Option<&Trail<'_>>) {
        self.at += 1;
        let mut index = 0;
        loop {
            self.spaces();
            match self.peek() {
                None => return,
                Some(b']') => {
                    self.at += 1;
                    return;
                }
                Some(b',') => self.at += 1,
                Some(_) => {
                    let step = Step::Index(index);
                    match at {
                        Some(_) => self.value(expect, Some(&Trail { parent: at, step })),
                        None => self.value(expect, None),
                    }
                    index += 1;
                }
            }
        }
    }

    /// Calls `each` with every key of the object that begins here, when its value is next.
    fn entries(&mut self, mut each: impl FnMut(&mut Self, Cow<'t, str>)) {
        self.at += 1;
        loop {
            self.spaces();
            match self.peek() {
                None => return,
                Some(b'}') => {
                    self.at += 1;
                    return;
                }
                Some(b'"') => {
                    let key = self.key();
                    self.spaces();
                    self.at += 1; // the colon
                    each(self, key);
                }
                Some(_) => self.at += 1, // a comma
            }
        }
    }

    fn key(&mut self) -> Cow<'t, str> {
        let start = self.at;
        self.skip_string();
        let quoted = &self.text[start..self.at];
        let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        if memchr::memchr(b'\\', inner).is_some() {
            return Cow::Owned(serde_json::from_slice(quoted).unwrap_or_default());
        }
        String::from_utf8_lossy(inner)
    }

    fn problem(&mut self, what: &str, at: Option<&Trail<'_>>, key: &str) {
        if self.problems.len() < PROBLEMS_MAX {
            let problem = format!("{what} field {:?}", strict_path(at, key));
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn skip_string(&mut self) {
        self.at += 1;
        while let Some(found) = self.text.get(self.at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
            self.at += found;
            if self.text[self.at] == b'"' {
                self.at += 1;
                return;
            }
            self.at += 2;
        }
        self.at = self.text.len();
    }

    /// Passes over one value.
    fn skip(&mut self) {
        self.spaces();
        let mut depth = 0u32;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.skip_string();
                    if depth == 0 {
                        return;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 0 => return,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return;
                    }
                }
                b',' if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_in_maps_and_escaped_keys() {
        let ty = crate::schema::type_of("", "v1", "ConfigMap");
        let text = br#" { "metadata" : {"labels":{"a":"1","b":"]}\"","\u0061":"2"}}, "data" : { "x" : "1" , "x":"2" } , "d\u0061ta":{}, "zz": [1,{}] } "#;
        assert_eq!(
            problems(text, ty),
            [
                r#"duplicate field "metadata.labels.a""#,
                r#"duplicate field "data.x""#,
                r#"duplicate field "data""#,
                r#"unknown field "zz""#
            ]
        );
    }

    #[test]
    fn without_a_type_only_duplicates_count() {
        assert_eq!(problems(br#"{"a":[{"b":1,"b":2}],"c":{}}"#, None), [r#"duplicate field "a[0].b""#]);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text: Vec<u8>) {
            problems(&text, crate::schema::type_of("", "v1", "Pod"));
        }
    }
}
