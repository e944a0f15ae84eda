//! The JSONPath of printer columns: enough of client-go's for one value. Paths are read once per definition.
//!
//! Neither a path nor an object can make a cell expensive: paths are short and hardly nested, and a search gives up.
//!
//! Source: client-go `util/jsonpath`.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// Every value below, at any depth, and the value itself.
    Below,
    /// Every element or field.
    All,
    /// Start, end, step of a slice; an index is a slice of one.
    Slice(Option<i64>, Option<i64>, i64),
    Filter(JsonPath, Option<(Compare, Operand)>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Literal(Value),
    Path(JsonPath),
}

/// The longest path. Those of real columns have about fifty bytes.
pub const BYTES_MAX: usize = 1024;
/// How deep filters may nest: reading and searching are recursive, and real columns do not nest them at all.
pub const DEPTH_MAX: usize = 16;
/// Values that are looked at for one cell; `..` can come to the same value by many ways. A table has hundreds of cells, and what
/// is found at all is found among the first few.
const LOOKED_AT_MAX: usize = 10_000;

/// Why a text is not a path here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    Malformed,
    /// Longer than [`BYTES_MAX`], or nested deeper than [`DEPTH_MAX`].
    TooLarge,
}

impl JsonPath {
    /// # Errors
    /// For a text that is no path, and for one that is too large.
    pub fn read(text: &str) -> Result<Self, Unread> {
        if text.len() > BYTES_MAX {
            return Err(Unread::TooLarge);
        }
        let mut reader = Reader { rest: text, depth: 0, too_deep: false };
        match reader.path() {
            Some(path) if reader.rest.is_empty() => Ok(path),
            _ if reader.too_deep => Err(Unread::TooLarge),
            _ => Err(Unread::Malformed),
        }
    }

    /// The first value that the path leads to; `None` as well when it is too far to seek.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        Search { left: LOOKED_AT_MAX }.first(&self.0, value)
    }
}

/// A search depth first, which ends with what it finds. Its recursion is bounded by the length of the path and the depth of the
/// value together.
struct Search {
    /// Values that may still be looked at.
    left: usize,
}

impl Search {
    fn first<'v>(&mut self, steps: &[Step], value: &'v Value) -> Option<&'v Value> {
        let Some((step, rest)) = steps.split_first() else { return Some(value) };
        self.left = self.left.checked_sub(1)?;
        match step {
            Step::Field(name) => self.first(rest, value.get(name)?),
            Step::Below => self.first(rest, value).or_else(|| self.first_of(steps, children(value))),
            Step::All => self.first_of(rest, children(value)),
            Step::Slice(start, end, step) => {
                let items = value.as_array()?;
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let place = |at: i64| if at < 0 { at.saturating_add(length) } else { at }.clamp(0, length);
                let (from, to) = (place(start.unwrap_or(0)), place(end.unwrap_or(length)));
                let step = usize::try_from(*step).unwrap_or(1).max(1);
                let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
                self.first_of(rest, items.get(range).unwrap_or_default().iter().step_by(step))
            }
            Step::Filter(path, test) => {
                for item in value.as_array()? {
                    if self.left == 0 {
                        break;
                    }
                    if self.holds(path, test.as_ref(), item)
                        && let Some(found) = self.first(rest, item)
                    {
                        return Some(found);
                    }
                }
                None
            }
        }
    }

    fn first_of<'v>(&mut self, steps: &[Step], values: impl Iterator<Item = &'v Value>) -> Option<&'v Value> {
        for value in values {
            if self.left == 0 {
                break;
            }
            if let Some(found) = self.first(steps, value) {
                return Some(found);
            }
        }
        None
    }

    fn holds(&mut self, path: &JsonPath, test: Option<&(Compare, Operand)>, item: &Value) -> bool {
        let Some(found) = self.first(&path.0, item) else { return false };
        match test {
            None => true,
            Some((compare, Operand::Literal(wanted))) => compare.holds(found, wanted),
            Some((compare, Operand::Path(path))) => {
                self.first(&path.0, item).is_some_and(|wanted| compare.holds(found, wanted))
            }
        }
    }
}

fn children(value: &Value) -> impl Iterator<Item = &Value> {
    let items = value.as_array().into_iter().flatten();
    items.chain(value.as_object().into_iter().flat_map(|fields| fields.values()))
}

impl Compare {
    fn holds(self, a: &Value, b: &Value) -> bool {
        let order = match (a, b) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Number(a), Value::Number(b)) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
            _ if a == b => Some(std::cmp::Ordering::Equal),
            _ => None,
        };
        match self {
            Compare::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
            Compare::NotEqual => !order.is_some_and(std::cmp::Ordering::is_eq),
            Compare::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Compare::LessEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Compare::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Compare::GreaterEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

struct Reader<'t> {
    rest: &'t str,
    /// Filters around the place.
    depth: usize,
    too_deep: bool,
}

impl<'t> Reader<'t> {
    fn takes(&mut self, what: &str) -> bool {
        match self.rest.strip_prefix(what) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn path(&mut self) -> Option<JsonPath> {
        let _ = self.takes("$") || self.takes("@");
        let mut steps = Vec::new();
        loop {
            if self.takes("..") {
                steps.push(Step::Below);
                if !self.rest.starts_with('[') {
                    steps.push(self.name()?);
                }
            } else if self.takes(".") {
                if self.rest.is_empty() || self.rest.starts_with('[') {
                    continue;
                }
                steps.push(self.name()?);
            } else if self.takes("[") {
                steps.push(self.bracket()?);
            } else {
                return Some(JsonPath(steps));
            }
        }
    }

    /// A field's name, in which a backslash makes the next character plain.
    fn name(&mut self) -> Option<Step> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.push(chars.next()?.1),
                '.' | '[' | ']' | ')' | ' ' | '=' | '!' | '<' | '>' | '}' => {
                    end = at;
                    break;
                }
                other => name.push(other),
            }
        }
        self.rest = &self.rest[end..];
        match name.as_str() {
            "" => None,
            "*" => Some(Step::All),
            _ => Some(Step::Field(name)),
        }
    }

    fn bracket(&mut self) -> Option<Step> {
        if self.takes("?(") {
            if self.depth == DEPTH_MAX {
                self.too_deep = true;
                return None;
            }
            self.depth += 1;
            self.spaces();
            let path = self.path()?;
            self.spaces();
            const SIGNS: [(&str, Compare); 6] = [
                ("==", Compare::Equal),
                ("!=", Compare::NotEqual),
                ("<=", Compare::LessEqual),
                (">=", Compare::GreaterEqual),
                ("<", Compare::Less),
                (">", Compare::Greater),
            ];
            let sign = SIGNS.into_iter().find(|(sign, _)| self.takes(sign));
            let test = match sign {
                None => None,
                Some((_, compare)) => {
                    self.spaces();
                    Some((compare, self.operand()?))
                }
            };
            self.spaces();
            self.depth -= 1;
            return (self.takes(")") && self.takes("]")).then_some(Step::Filter(path, test));
        }
        if self.rest.starts_with(['\'', '"']) {
            let Value::String(name) = self.quoted()? else { return None };
            return self.takes("]").then_some(Step::Field(name));
        }
        let end = self.rest.find(']')?;
        let inner = self.rest[..end].trim();
        self.rest = &self.rest[end + 1..];
        if inner == "*" {
            return Some(Step::All);
        }
        let number = |text: &str| -> Option<Option<i64>> {
            if text.trim().is_empty() { Some(None) } else { text.trim().parse().ok().map(Some) }
        };
        let parts: Vec<&str> = inner.split(':').collect();
        match parts.as_slice() {
            [index] => {
                let index = number(index)??;
                // The last element's end is the list's.
                Some(Step::Slice(Some(index), if index == -1 { None } else { Some(index.saturating_add(1)) }, 1))
            }
            [start, end] => Some(Step::Slice(number(start)?, number(end)?, 1)),
            [start, end, step] => Some(Step::Slice(number(start)?, number(end)?, number(step)?.unwrap_or(1))),
            _ => None,
        }
    }

    fn operand(&mut self) -> Option<Operand> {
        if self.rest.starts_with(['\'', '"']) {
            return self.quoted().map(Operand::Literal);
        }
        if self.rest.starts_with(['@', '$', '.']) {
            return self.path().map(Operand::Path);
        }
        let end = self.rest.find([')', ' ']).unwrap_or(self.rest.len());
        let value = serde_json::from_str(&self.rest[..end]).ok()?;
        self.rest = &self.rest[end..];
        Some(Operand::Literal(value))
    }

    fn quoted(&mut self) -> Option<Value> {
        let quote = self.rest.chars().next()?;
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => text.push(chars.next()?.1),
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(Value::String(text));
                }
                other => text.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_paths_lead_to() {
        let object = json!({"spec": {"a": 1, "b.c": "x", "list": [1, 2, 3]},
            "status": {"conditions": [{"type": "A", "n": 1}, {"type": "Ready", "status": "True", "n": 2}]}});
        for (path, expected) in [
            (".spec.a", json!(1)),
            (".spec.b\\.c", json!("x")),
            (".spec['b.c']", json!("x")),
            (".spec.none.deeper", json!(null)),
            (".spec.list[0]", json!(1)),
            (".spec.list[-1]", json!(3)),
            (".spec.list[-2:]", json!(2)),
            (".spec.list[*]", json!(1)),
            (".spec.list[9]", json!(null)),
            (".spec.list[9223372036854775807]", json!(null)),
            (".status.conditions[?(@.type==\"Ready\")].status", json!("True")),
            (".status.conditions[?(@.type == 'Ready')].n", json!(2)),
            (".status.conditions[?(@.n>1)].type", json!("Ready")),
            (".status.conditions[?(@.status)].type", json!("Ready")),
            (".status.conditions[*].status", json!("True")),
            ("..type", json!("A")),
            ("..status", object["status"].clone()),
        ] {
            let path = JsonPath::read(path).unwrap_or_else(|why| panic!("{path}: {why:?}"));
            assert_eq!(json!(path.first(&object)), expected, "{path:?}");
        }
        for wrong in [".a[", ".a[x]", ".a[?(@.b=]", "a b"] {
            assert_eq!(JsonPath::read(wrong), Err(Unread::Malformed), "{wrong}");
        }
    }

    /// Nested no deeper than the stack of a test bears when nothing stops it.
    #[test]
    fn large_paths_are_not_read() {
        let filters = |n: usize| format!(".a{}@{}", "[?(".repeat(n), ")]".repeat(n));
        assert!(JsonPath::read(&filters(DEPTH_MAX)).is_ok());
        assert_eq!(JsonPath::read(&filters(DEPTH_MAX + 1)), Err(Unread::TooLarge));
        assert_eq!(JsonPath::read(&".a[?(".repeat(100)), Err(Unread::TooLarge));
        assert_eq!(JsonPath::read(&format!(".{}", "a".repeat(BYTES_MAX))), Err(Unread::TooLarge));
        // Filters beside each other are not nested.
        assert!(JsonPath::read(&format!(".a{}", "[?(@.b)]".repeat(DEPTH_MAX + 1))).is_ok());
    }

    /// Without an end this would look at some ten million values.
    #[test]
    fn a_search_gives_up() {
        let mut deep = json!(1);
        for _ in 0..60 {
            deep = json!([deep]);
        }
        for path in ["..*..*..*..*..*.none", "..[?(@..[?(@..[?(@..[?(@..none)])])])]"] {
            let mut search = Search { left: LOOKED_AT_MAX };
            assert_eq!(search.first(&JsonPath::read(path).unwrap().0, &deep), None, "{path}");
            assert_eq!(search.left, 0, "{path}");
        }
        let wide = json!({"items": vec![json!({"a": 1}); 2 * LOOKED_AT_MAX]});
        assert_eq!(JsonPath::read("..a").unwrap().first(&wide), Some(&json!(1)));
        assert_eq!(JsonPath::read(".items[*].none").unwrap().first(&wide), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[.a-c\\[\\]'?()@=!<>0-9:,*\\\\\"-]{0,40}", other in ".*") {
            let object = json!({"a": [{"b": 1, "c": [1, 2]}, {"b": "c"}], "b": {"a": null}});
            for text in [text, other] {
                if let Ok(path) = JsonPath::read(&text) {
                    let _ = path.first(&object);
                }
            }
        }
    }
}
