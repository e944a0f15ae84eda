//! A JSON text taken apart in one pass without being copied: where each value stands, and nothing more.
//!
//! For texts that this server has written itself, objects in the store above all: what is looked for is found without a tree
//! of allocated values. A text that is no JSON is refused or read in some way, but never read past. What never lives here:
//! the meaning of a field, Go's error texts.

use std::borrow::Cow;

/// How deep values may lie in each other; `serde_json`'s own limit, so that nothing deeper was ever stored.
const DEPTH_MAX: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Shape {
    /// What Go calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Shape::Null => "null",
            Shape::Bool => "bool",
            Shape::Number => "number",
            Shape::String => "string",
            Shape::Array => "array",
            Shape::Object => "object",
        }
    }
}

/// One value or key: its span in the text, quotes and brackets included, and where the node behind all of it is.
#[derive(Debug, Clone, Copy)]
struct Node {
    start: u32,
    end: u32,
    next: u32,
    shape: Shape,
    /// A string with a backslash in it.
    escaped: bool,
}

/// The index, kept to be filled again: reading a thousand objects allocates as often as reading the largest of them.
#[derive(Debug, Default)]
pub struct Tape {
    nodes: Vec<Node>,
    open: Vec<u32>,
}

/// The text is no JSON value, or lies too deep.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed JSON at byte {at}")]
pub struct Malformed {
    at: usize,
}

impl Tape {
    pub fn read<'t>(&'t mut self, text: &'t [u8]) -> Result<Item<'t>, Malformed> {
        self.nodes.clear();
        self.open.clear();
        if u32::try_from(text.len()).is_err() {
            return Err(Malformed { at: text.len() });
        }
        let end = self.fill(text).map_err(|at| Malformed { at })?;
        match skip(text, end) {
            at if at == text.len() => Ok(Item { text, nodes: &self.nodes, at: 0 }),
            at => Err(Malformed { at }),
        }
    }

    /// Returns where the value ends; on failure the place where it goes wrong.
    fn fill(&mut self, text: &[u8]) -> Result<usize, usize> {
        let mut at = 0;
        loop {
            // A value begins here.
            at = skip(text, at);
            let start = at;
            match text.get(at).ok_or(at)? {
                open @ (b'{' | b'[') => {
                    if self.open.len() == DEPTH_MAX {
                        return Err(at);
                    }
                    let object = *open == b'{';
                    self.open.push(self.nodes.len() as u32);
                    self.push(start, at, if object { Shape::Object } else { Shape::Array }, false);
                    at = skip(text, at + 1);
                    if text.get(at) == Some(if object { &b'}' } else { &b']' }) {
                        at += 1;
                        self.close(at);
                    } else {
                        if object {
                            at = self.key(text, at)?;
                        }
                        continue;
                    }
                }
                b'"' => at = self.string(text, at)?,
                b't' => at = self.word(text, at, "true", Shape::Bool)?,
                b'f' => at = self.word(text, at, "false", Shape::Bool)?,
                b'n' => at = self.word(text, at, "null", Shape::Null)?,
                b'-' | b'0'..=b'9' => {
                    let number = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                    at += text[at..].iter().take_while(|b| number(b)).count();
                    self.push(start, at, Shape::Number, false);
                }
                _ => return Err(at),
            }
            // A value has ended: close what ends with it, or go on to the next.
            loop {
                let Some(open) = self.open.last() else { return Ok(at) };
                let object = self.nodes[*open as usize].shape == Shape::Object;
                at = skip(text, at);
                match text.get(at) {
                    Some(b',') => {
                        at = skip(text, at + 1);
                        if object {
                            at = self.key(text, at)?;
                        }
                        break;
                    }
                    Some(b'}') if object => {
                        at += 1;
                        self.close(at);
                    }
                    Some(b']') if !object => {
                        at += 1;
                        self.close(at);
                    }
                    _ => return Err(at),
                }
            }
        }
    }

    fn push(&mut self, start: usize, end: usize, shape: Shape, escaped: bool) {
        let next = self.nodes.len() as u32 + 1;
        self.nodes.push(Node { start: start as u32, end: end as u32, next, shape, escaped });
    }

    /// The innermost open value ends before `end`.
    fn close(&mut self, end: usize) {
        let next = self.nodes.len() as u32;
        if let Some(node) = self.open.pop().and_then(|open| self.nodes.get_mut(open as usize)) {
            node.end = end as u32;
            node.next = next;
        }
    }

    fn key(&mut self, text: &[u8], at: usize) -> Result<usize, usize> {
        if text.get(at) != Some(&b'"') {
            return Err(at);
        }
        let at = skip(text, self.string(text, at)?);
        if text.get(at) == Some(&b':') { Ok(at + 1) } else { Err(at) }
    }

    fn string(&mut self, text: &[u8], start: usize) -> Result<usize, usize> {
        let mut at = start + 1;
        let mut escaped = false;
        loop {
            let rest = text.get(at..).ok_or(text.len())?;
            let found = memchr::memchr2(b'"', b'\\', rest).ok_or(text.len())?;
            at += found;
            if text[at] == b'"' {
                self.push(start, at + 1, Shape::String, escaped);
                return Ok(at + 1);
            }
            escaped = true;
            at += 2;
        }
    }

    fn word(&mut self, text: &[u8], at: usize, word: &str, shape: Shape) -> Result<usize, usize> {
        if !text[at..].starts_with(word.as_bytes()) {
            return Err(at);
        }
        self.push(at, at + word.len(), shape, false);
        Ok(at + word.len())
    }
}

fn skip(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

/// A value in a text.
#[derive(Debug, Clone, Copy)]
pub struct Item<'t> {
    text: &'t [u8],
    nodes: &'t [Node],
    at: usize,
}

impl<'t> Item<'t> {
    fn node(self) -> &'t Node {
        &self.nodes[self.at]
    }

    fn go(self, at: usize) -> Self {
        Self { at, ..self }
    }

    /// The place in the index, by which [`Item::place`] finds the value again.
    pub fn index(self) -> u32 {
        self.at as u32
    }

    /// The value at a place of the same text.
    pub fn place(self, index: u32) -> Option<Self> {
        self.nodes.get(index as usize).map(|_| self.go(index as usize))
    }

    pub fn shape(self) -> Shape {
        self.node().shape
    }

    pub fn is_null(self) -> bool {
        self.shape() == Shape::Null
    }

    /// The value as it stands in the text.
    pub fn raw(self) -> &'t [u8] {
        &self.text[self.node().start as usize..self.node().end as usize]
    }

    /// What is between the quotes of a string, escapes as they are; empty for other values.
    pub fn quoted(self) -> &'t [u8] {
        match self.raw() {
            [b'"', inner @ .., b'"'] => inner,
            _ => b"",
        }
    }

    /// The bytes that a string stands for; `None` for other values.
    pub fn bytes(self) -> Option<Cow<'t, [u8]>> {
        match (self.shape(), self.node().escaped) {
            (Shape::String, false) => Some(Cow::Borrowed(self.quoted())),
            (Shape::String, true) => {
                serde_json::from_slice::<String>(self.raw()).ok().map(|s| Cow::Owned(s.into_bytes()))
            }
            _ => None,
        }
    }

    pub fn as_bool(self) -> Option<bool> {
        (self.shape() == Shape::Bool).then(|| self.raw() == b"true")
    }

    pub fn as_i64(self) -> Option<i64> {
        let digits = (self.shape() == Shape::Number).then(|| self.raw())?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    pub fn as_f64(self) -> Option<f64> {
        let digits = (self.shape() == Shape::Number).then(|| self.raw())?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// Keys and values of an object, in order.
    pub fn entries(self) -> impl Iterator<Item = (Item<'t>, Item<'t>)> {
        let mut at = self.at + 1;
        let end = if self.shape() == Shape::Object { self.node().next as usize } else { at };
        std::iter::from_fn(move || {
            (at + 1 < end).then(|| {
                let pair = (self.go(at), self.go(at + 1));
                at = pair.1.node().next as usize;
                pair
            })
        })
    }

    /// Elements of an array, in order.
    pub fn elements(self) -> impl Iterator<Item = Item<'t>> {
        let mut at = self.at + 1;
        let end = if self.shape() == Shape::Array { self.node().next as usize } else { at };
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let element = self.go(at);
                at = element.node().next as usize;
                element
            })
        })
    }

    /// The field of an object; names with escapes are not found.
    pub fn get(self, name: &str) -> Option<Item<'t>> {
        self.entries().find(|(key, _)| key.quoted() == name.as_bytes()).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// The value, put together again from the index.
    fn rebuilt(item: Item<'_>) -> Value {
        match item.shape() {
            Shape::Object => {
                let text = |key: Item<'_>| String::from_utf8(key.bytes().unwrap().into_owned()).unwrap();
                Value::Object(item.entries().map(|(key, value)| (text(key), rebuilt(value))).collect())
            }
            Shape::Array => item.elements().map(rebuilt).collect(),
            Shape::String => Value::String(String::from_utf8(item.bytes().unwrap().into_owned()).unwrap()),
            Shape::Bool => item.as_bool().unwrap().into(),
            Shape::Null => Value::Null,
            Shape::Number => serde_json::from_slice(item.raw()).unwrap(),
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(value in values(), indented: bool) {
            let text = if indented { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
            let mut tape = Tape::default();
            prop_assert_eq!(rebuilt(tape.read(&text).unwrap()), serde_json::from_slice::<Value>(&text).unwrap());
        }

        #[test]
        fn whatever_is_read_does_no_harm(mut text: Vec<u8>, value in values(), cut in any::<prop::sample::Index>()) {
            let mut tape = Tape::default();
            let walk = |item: Item<'_>| {
                let mut left = vec![item];
                while let Some(item) = left.pop() {
                    let _ = (item.bytes(), item.as_i64(), item.as_f64(), item.as_bool(), item.get("a"));
                    left.extend(item.elements().chain(item.entries().map(|(_, v)| v)));
                }
            };
            let _ = tape.read(&text).map(walk);
            text.splice(0..0, serde_json::to_vec(&value).unwrap());
            let _ = tape.read(&text[..cut.index(text.len() + 1).min(text.len())]).map(walk);
        }
    }

    #[test]
    fn what_is_no_json() {
        let deep = "[".repeat(DEPTH_MAX + 1);
        for text in
            ["", "{", "{\"a\"", "{\"a\":}", "{\"a\":1", "{\"a\":1,}", "[1,", "[1}", "\"a", "\"\\", "tru", "1 2", &deep]
        {
            assert!(Tape::default().read(text.as_bytes()).is_err(), "{text}");
        }
        let text = r#"{"a":{"b":[1,{"c":"\u00e9"}]},"d":null}"#;
        let mut tape = Tape::default();
        let root = tape.read(text.as_bytes()).unwrap();
        let list = root.get("a").and_then(|a| a.get("b")).unwrap();
        assert_eq!(list.raw(), br#"[1,{"c":"\u00e9"}]"#);
        assert_eq!(list.elements().nth(1).and_then(|e| e.get("c")).and_then(Item::bytes).unwrap(), "é".as_bytes());
        assert!(root.get("d").is_some_and(Item::is_null) && root.get("c").is_none());
    }
}
