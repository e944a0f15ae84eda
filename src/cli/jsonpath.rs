//! kubectl's JSONPath templates: `{.items[*].metadata.name}`, `{range .items[*]}…{"\n"}{end}`, filters, slices, unions.
//!
//! Source: client-go `util/jsonpath` (grammar, printing of maps and lists, missing keys).

use serde_json::Value;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("unclosed action in {0:?}")]
    Unclosed(String),
    #[error("unexpected {0:?} in JSONPath")]
    Unexpected(String),
    #[error("{0} is not found")]
    Missing(String),
    #[error("array index out of bounds: index {index}, length {length}")]
    Bounds { index: i64, length: usize },
    #[error("not in range, nothing to end")]
    End,
    #[error("range without end")]
    Range,
}

type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Root,
    Field(String),
    Wildcard,
    Descend,
    Slice(Option<i64>, Option<i64>, Option<i64>),
    Index(i64),
    Union(Vec<Step>),
    Filter(Operand, Option<(String, Operand)>),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    nodes: Vec<Node>,
    /// A key that is not there is an error; `get -o jsonpath` lets it pass.
    strict: bool,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self> {
        let mut p = Parser { chars: text.chars().collect(), at: 0 };
        let (nodes, ended) = p.nodes(false)?;
        if ended { Err(Error::End) } else { Ok(Self { nodes, strict: false }) }
    }

    /// As `wait --for=jsonpath` and `custom-columns` take it: `{.a.b}`, `.a.b`, `a.b`.
    pub fn relaxed(text: &str) -> Result<Self> {
        let inner = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text.trim());
        let dotted = if inner.starts_with(['.', '[', '$', '@']) { inner.to_owned() } else { format!(".{inner}") };
        Self::parse(&format!("{{{dotted}}}"))
    }

    pub fn render(&self, value: &Value) -> Result<String> {
        let mut out = String::new();
        self.run(&self.nodes, value, value, &mut out)?;
        Ok(out)
    }

    /// The values that the template's paths find, in order.
    pub fn values<'a>(&self, value: &'a Value) -> Result<Vec<&'a Value>> {
        let mut found = Vec::new();
        for node in &self.nodes {
            if let Node::Path(steps) = node {
                found.extend(self.walk(steps, value, value)?);
            }
        }
        Ok(found)
    }

    fn run(&self, nodes: &[Node], root: &Value, here: &Value, out: &mut String) -> Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Path(steps) => {
                    let texts: Vec<String> = self.walk(steps, root, here)?.into_iter().map(show).collect();
                    out.push_str(&texts.join(" "));
                }
                Node::Range(steps, body) => {
                    for item in self.walk(steps, root, here)? {
                        self.run(body, root, item, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn walk<'a>(&self, steps: &[Step], root: &'a Value, here: &'a Value) -> Result<Vec<&'a Value>> {
        let mut values = vec![here];
        for step in steps {
            values = self.step(step, root, values)?;
        }
        Ok(values)
    }

    fn step<'a>(&self, step: &Step, root: &'a Value, values: Vec<&'a Value>) -> Result<Vec<&'a Value>> {
        let mut next = Vec::new();
        for value in values {
            match step {
                Step::Root => next.push(root),
                Step::Field(name) => match value {
                    Value::Object(map) => match map.get(name) {
                        Some(v) => next.push(v),
                        None if self.strict => return Err(Error::Missing(name.clone())),
                        None => {}
                    },
                    _ if self.strict => return Err(Error::Missing(name.clone())),
                    _ => {}
                },
                Step::Wildcard => match value {
                    Value::Array(list) => next.extend(list),
                    Value::Object(map) => next.extend(map.values()),
                    _ => {}
                },
                Step::Descend => descend(value, &mut next),
                Step::Index(index) => {
                    if let Value::Array(list) = value {
                        let at = if *index < 0 { *index + len(list) } else { *index };
                        match usize::try_from(at).ok().and_then(|at| list.get(at)) {
                            Some(item) => next.push(item),
                            None => return Err(Error::Bounds { index: at, length: list.len() }),
                        }
                    }
                }
                Step::Slice(from, to, by) => {
                    if let Value::Array(list) = value {
                        let clamp = |n: i64| (if n < 0 { n + len(list) } else { n }).clamp(0, len(list));
                        let (from, to) = (clamp(from.unwrap_or(0)), clamp(to.unwrap_or(len(list))));
                        let by = usize::try_from(by.unwrap_or(1).max(1)).unwrap_or(1);
                        let (from, to) = (usize::try_from(from).unwrap_or(0), usize::try_from(to).unwrap_or(0));
                        next.extend(list[from.min(to)..to].iter().step_by(by));
                    }
                }
                Step::Union(steps) => {
                    for step in steps {
                        next.extend(self.step(step, root, vec![value])?);
                    }
                }
                Step::Filter(left, rest) => {
                    if let Value::Array(list) = value {
                        for item in list {
                            if self.passes(left, rest.as_ref(), root, item)? {
                                next.push(item);
                            }
                        }
                    }
                }
            }
        }
        Ok(next)
    }

    fn passes(&self, left: &Operand, rest: Option<&(String, Operand)>, root: &Value, item: &Value) -> Result<bool> {
        let lenient = Self { nodes: Vec::new(), strict: false };
        let value = |operand: &Operand| -> Result<Option<Value>> {
            Ok(match operand {
                Operand::Literal(v) => Some(v.clone()),
                Operand::Path(steps) => lenient.walk(steps, root, item)?.first().map(|v| (*v).clone()),
            })
        };
        let l = value(left)?;
        let Some((op, right)) = rest else { return Ok(l.is_some()) };
        let (Some(l), Some(r)) = (l, value(right)?) else { return Ok(false) };
        let order = match (&l, &r) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            _ => None,
        };
        Ok(match (op.as_str(), order) {
            ("==", Some(o)) => o.is_eq(),
            ("!=", Some(o)) => o.is_ne(),
            ("!=", None) => true,
            ("<", Some(o)) => o.is_lt(),
            ("<=", Some(o)) => o.is_le(),
            (">", Some(o)) => o.is_gt(),
            (">=", Some(o)) => o.is_ge(),
            _ => false,
        })
    }
}

fn len(list: &[Value]) -> i64 {
    i64::try_from(list.len()).unwrap_or(i64::MAX)
}

fn descend<'a>(value: &'a Value, into: &mut Vec<&'a Value>) {
    into.push(value);
    match value {
        Value::Array(list) => list.iter().for_each(|v| descend(v, into)),
        Value::Object(map) => map.values().for_each(|v| descend(v, into)),
        _ => {}
    }
}

/// Text bare, everything else as JSON.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }
    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }
    fn eat_text(&mut self, text: &str) -> bool {
        let found = text.chars().enumerate().all(|(i, c)| self.chars.get(self.at + i) == Some(&c));
        if found {
            self.at += text.chars().count();
        }
        found
    }
    fn blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }
    fn unexpected<T>(&self) -> Result<T> {
        Err(Error::Unexpected(self.peek().map_or_else(|| "end".into(), String::from)))
    }

    /// Nodes until the end or `{end}`; tells whether it was `{end}`.
    fn nodes(&mut self, in_range: bool) -> Result<(Vec<Node>, bool)> {
        let mut nodes = Vec::new();
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            if c != '{' {
                text.push(c);
                continue;
            }
            if !text.is_empty() {
                nodes.push(Node::Text(std::mem::take(&mut text)));
            }
            if self.action(&mut nodes)? {
                return Ok((nodes, true));
            }
        }
        if !text.is_empty() {
            nodes.push(Node::Text(text));
        }
        if in_range { Err(Error::Range) } else { Ok((nodes, false)) }
    }

    fn action(&mut self, nodes: &mut Vec<Node>) -> Result<bool> {
        loop {
            self.blanks();
            match self.peek() {
                None => return Err(Error::Unclosed(self.chars.iter().collect())),
                Some('}') => {
                    self.at += 1;
                    return Ok(false);
                }
                Some('"' | '\'') => nodes.push(Node::Text(self.quoted()?)),
                Some(_) if self.word("range") => {
                    self.blanks();
                    let steps = self.path()?;
                    self.blanks();
                    if !self.eat('}') {
                        return self.unexpected();
                    }
                    let (body, ended) = self.nodes(true)?;
                    if !ended {
                        return Err(Error::Range);
                    }
                    nodes.push(Node::Range(steps, body));
                    return Ok(false);
                }
                Some(_) if self.word("end") => {
                    self.blanks();
                    return if self.eat('}') { Ok(true) } else { self.unexpected() };
                }
                Some(_) => {
                    let before = self.at;
                    let steps = self.path()?;
                    if self.at == before {
                        return self.unexpected();
                    }
                    nodes.push(Node::Path(steps));
                }
            }
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let before = self.at;
        if self.eat_text(word) && self.peek().is_none_or(|c| c.is_whitespace() || c == '}') {
            return true;
        }
        self.at = before;
        false
    }

    fn path(&mut self) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        if self.eat('$') {
            steps.push(Step::Root);
        } else {
            let _ = self.eat('@');
        }
        loop {
            match self.peek() {
                Some('.') => {
                    self.at += 1;
                    if self.eat('.') {
                        steps.push(Step::Descend);
                    }
                    match self.peek() {
                        Some('*') => {
                            self.at += 1;
                            steps.push(Step::Wildcard);
                        }
                        Some('[') => {}
                        _ => {
                            let name = self.field();
                            if !name.is_empty() {
                                steps.push(Step::Field(name));
                            }
                        }
                    }
                }
                Some('[') => {
                    self.at += 1;
                    steps.push(self.bracket()?);
                }
                Some(c) if steps.is_empty() && (c.is_alphanumeric() || c == '_') => {
                    steps.push(Step::Field(self.field()));
                }
                _ => return Ok(steps),
            }
        }
    }

    fn field(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if c == '\\' {
                self.at += 1;
                name.extend(self.peek());
                self.at += 1;
            } else if c.is_whitespace() || ".[]{}(),=<>!|&".contains(c) {
                break;
            } else {
                name.push(c);
                self.at += 1;
            }
        }
        name
    }

    fn quoted(&mut self) -> Result<String> {
        let Some(quote) = self.peek() else { return self.unexpected() };
        self.at += 1;
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            match c {
                c if c == quote => return Ok(text),
                '\\' => {
                    let next = self.peek().ok_or_else(|| Error::Unexpected("end".into()))?;
                    self.at += 1;
                    text.push(match next {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    });
                }
                c => text.push(c),
            }
        }
        Err(Error::Unclosed(text))
    }

    fn bracket(&mut self) -> Result<Step> {
        self.blanks();
        if self.eat('?') {
            return self.filter();
        }
        let mut steps = Vec::new();
        loop {
            self.blanks();
            steps.push(match self.peek() {
                Some('*') => {
                    self.at += 1;
                    Step::Wildcard
                }
                Some('\'' | '"') => Step::Field(self.quoted()?),
                _ => self.slice()?,
            });
            self.blanks();
            if self.eat(']') {
                return Ok(if steps.len() == 1 { steps.remove(0) } else { Step::Union(steps) });
            }
            if !self.eat(',') {
                return self.unexpected();
            }
        }
    }

    fn number(&mut self) -> Option<i64> {
        let start = self.at;
        let _ = self.eat('-');
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        let found = self.chars[start..self.at].iter().collect::<String>().parse().ok();
        if found.is_none() {
            self.at = start;
        }
        found
    }

    fn slice(&mut self) -> Result<Step> {
        let from = self.number();
        if !self.eat(':') {
            return match from {
                Some(index) => Ok(Step::Index(index)),
                None => {
                    let name = self.field();
                    if name.is_empty() { self.unexpected() } else { Ok(Step::Field(name)) }
                }
            };
        }
        let to = self.number();
        let by = if self.eat(':') { self.number() } else { None };
        Ok(Step::Slice(from, to, by))
    }

    fn filter(&mut self) -> Result<Step> {
        if !self.eat('(') {
            return self.unexpected();
        }
        let left = self.operand()?;
        self.blanks();
        let op = ["==", "!=", "<=", ">=", "<", ">"].into_iter().find(|op| self.eat_text(op));
        let rest = match op {
            Some(op) => Some((op.to_owned(), self.operand()?)),
            None => None,
        };
        self.blanks();
        if self.eat(')') && self.eat(']') { Ok(Step::Filter(left, rest)) } else { self.unexpected() }
    }

    fn operand(&mut self) -> Result<Operand> {
        self.blanks();
        match self.peek() {
            Some('@' | '$' | '.') => Ok(Operand::Path(self.path()?)),
            Some('"' | '\'') => Ok(Operand::Literal(self.quoted()?.into())),
            _ => {
                let start = self.at;
                while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.')) {
                    self.at += 1;
                }
                let word: String = self.chars[start..self.at].iter().collect();
                match serde_json::from_str::<Value>(&word) {
                    Ok(value) => Ok(Operand::Literal(value)),
                    Err(_) => self.unexpected(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_render_as_kubectls() {
        let v = json!({
            "kind": "List",
            "items": [
                {"kind": "None", "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "127.0.0.1"}},
                 "status": {"capacity": {"cpu": "4"}, "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.1"}]}},
                {"kind": "None", "metadata": {"name": "127.0.0.2"},
                 "status": {"capacity": {"cpu": "8"}, "addresses": [
                    {"type": "LegacyHostIP", "address": "127.0.0.2"}, {"type": "another", "address": "127.0.0.3"}]}},
            ],
            "users": [{"name": "myself", "n": 1}, {"name": "e2e", "n": 5, "ready": true}],
        });
        for (template, expected) in [
            ("kind is {.kind}", "kind is List"),
            ("{['kind']}", "List"),
            ("{.items[*].metadata.name}", "127.0.0.1 127.0.0.2"),
            ("{.items[*]['metadata.name', 'status.capacity']}", ""),
            ("{.users[?(@.name==\"e2e\")].n}", "5"),
            ("{.users[?(@.n>1)].name}", "e2e"),
            ("{.users[?(@.ready)].name}", "e2e"),
            ("{.users[?(@.ready==true)].name}", "e2e"),
            (
                "{range .items[*]}{.metadata.name}\\t{.status.capacity}{\"\\n\"}{end}",
                "127.0.0.1\\t{\"cpu\":\"4\"}\n127.0.0.2\\t{\"cpu\":\"8\"}\n",
            ),
            ("{.items[0].metadata.labels.kubernetes\\.io/hostname}", "127.0.0.1"),
            ("{.items[-1:].metadata.name}", "127.0.0.2"),
            ("{.users[0:1].name}", "myself"),
            ("{.users[0,1].name}", "myself e2e"),
            ("{..name}", "127.0.0.1 127.0.0.2 myself e2e"),
            ("{.missing}", ""),
            ("{.users[*].n}", "1 5"),
            ("{$.kind} {@.kind}", "List List"),
            ("{range .users[*]}[{.name}]{end}", "[myself][e2e]"),
            ("{.items[1].status.addresses[?(@.type=='another')].address}", "127.0.0.3"),
        ] {
            assert_eq!(Template::parse(template).unwrap().render(&v).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn wrong_templates_are_named() {
        for (template, expected) in [
            ("{.a", "unclosed action in \"{.a\""),
            ("{range .a[*]}x", "range without end"),
            ("{end}", "not in range, nothing to end"),
            ("{.a[}", "unexpected \"}\" in JSONPath"),
        ] {
            assert_eq!(Template::parse(template).unwrap_err().to_string(), expected);
        }
        let v = json!({"a": [1]});
        let bounds = Template::parse("{.a[3]}").unwrap().render(&v).unwrap_err();
        assert_eq!(bounds.to_string(), "array index out of bounds: index 3, length 1");
        let missing = Template { strict: true, ..Template::relaxed("b.c").unwrap() }.render(&v).unwrap_err();
        assert_eq!(missing.to_string(), "b is not found");
        assert_eq!(Template::relaxed("{.a[0]}").unwrap().values(&v).unwrap(), [&json!(1)]);
    }

    proptest::proptest! {
        #[test]
        fn any_template_is_read_or_refused(text in "[{}.a-c\\[\\]'?()@=!<>0-9:,* \"-]{0,40}", other in ".*") {
            let object = json!({"a": [{"b": 1, "c": [1, 2]}, {"b": "c"}], "b": {"a": null}});
            for text in [format!("{{range .a[*]}}{{{text}}}{{end}}"), text, other] {
                for template in [Template::parse(&text), Template::relaxed(&text)].into_iter().flatten() {
                    let _ = (template.render(&object), template.values(&object));
                }
            }
        }
    }
}
