//! The JSONPath of printer columns: enough of client-go's for one value. Paths are read once per definition.
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

impl JsonPath {
    /// `None` for a text that is none.
    pub fn read(text: &str) -> Option<Self> {
        let mut reader = Reader { rest: text };
        let path = reader.path()?;
        reader.rest.is_empty().then_some(path)
    }

    /// Everything that the path leads to.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.from(value)).collect();
        }
        found
    }
}

impl Step {
    fn from<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Below => {
                let mut all = vec![value];
                let mut at = 0;
                while at < all.len() {
                    all.extend(children(all[at]));
                    at += 1;
                }
                all
            }
            Step::All => children(value),
            Step::Slice(start, end, step) => {
                let Value::Array(items) = value else { return Vec::new() };
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let place = |at: i64| if at < 0 { at + length } else { at }.clamp(0, length);
                let (from, to) = (place(start.unwrap_or(0)), place(end.unwrap_or(length)));
                let step = usize::try_from(*step).unwrap_or(1).max(1);
                let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
                items.get(range).unwrap_or_default().iter().step_by(step).collect()
            }
            Step::Filter(path, test) => {
                let Value::Array(items) = value else { return Vec::new() };
                let holds = |item: &&Value| {
                    let found = path.find(item);
                    match (test, found.first()) {
                        (None, found) => found.is_some(),
                        (Some(_), None) => false,
                        (Some((compare, Operand::Literal(wanted))), Some(found)) => compare.holds(found, wanted),
                        (Some((compare, Operand::Path(path))), Some(found)) => {
                            path.find(item).first().is_some_and(|wanted| compare.holds(found, wanted))
                        }
                    }
                };
                items.iter().filter(holds).collect()
            }
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
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
                Some(Step::Slice(Some(index), if index == -1 { None } else { Some(index + 1) }, 1))
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
            (".spec.a", json!([1])),
            (".spec.b\\.c", json!(["x"])),
            (".spec['b.c']", json!(["x"])),
            (".spec.none.deeper", json!([])),
            (".spec.list[0]", json!([1])),
            (".spec.list[-1]", json!([3])),
            (".spec.list[-2:]", json!([2, 3])),
            (".spec.list[*]", json!([1, 2, 3])),
            (".spec.list[9]", json!([])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type == 'Ready')].n", json!([2])),
            (".status.conditions[?(@.n>1)].type", json!(["Ready"])),
            (".status.conditions[?(@.status)].type", json!(["Ready"])),
            ("..type", json!(["A", "Ready"])),
        ] {
            let found = JsonPath::read(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(json!(found.find(&object)), expected, "{path}");
        }
        for wrong in [".a[", ".a[x]", ".a[?(@.b=]", "a b"] {
            assert_eq!(JsonPath::read(wrong), None, "{wrong}");
        }
    }
}
