//! Label and field selectors: parsing their text forms and matching.
//!
//! Source: apimachinery `pkg/labels/selector.go`, `pkg/fields/selector.go`, `pkg/apis/meta/v1/helpers.go`.

use std::collections::BTreeMap;
use std::fmt;

use crate::names;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    GreaterThan(String, i64),
    LessThan(String, i64),
}

/// All requirements must hold; none: everything matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

/// Where labels are looked up, so that stored facts, maps and JSON objects can all be matched.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}
impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}
impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|l| l.label(key))
    }
}
impl<L: Labels> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (*self).label(key)
    }
}
impl Labels for serde_json::Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(|v| v.as_str())
    }
}

impl Requirement {
    pub fn matches(&self, labels: &dyn Labels) -> bool {
        match self {
            Requirement::In(key, values) => labels.label(key).is_some_and(|v| values.iter().any(|x| x == v)),
            Requirement::NotIn(key, values) => labels.label(key).is_none_or(|v| values.iter().all(|x| x != v)),
            Requirement::Exists(key) => labels.label(key).is_some(),
            Requirement::Absent(key) => labels.label(key).is_none(),
            Requirement::GreaterThan(key, n) => number(labels, key).is_some_and(|v| v > *n),
            Requirement::LessThan(key, n) => number(labels, key).is_some_and(|v| v < *n),
        }
    }
}

fn number(labels: &dyn Labels, key: &str) -> Option<i64> {
    labels.label(key)?.parse().ok()
}

impl LabelSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    /// `matchLabels`-like equality.
    pub fn equal<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirements = pairs.into_iter().map(|(k, v)| Requirement::In(k.clone(), vec![v.clone()])).collect();
        Self { requirements }
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn matches(&self, labels: &dyn Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }

    /// The text form: `a=b,c in (x,y),!d`.
    ///
    /// # Errors
    /// A text that says what was found and what was expected, as upstream's parser does.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Parser { tokens: lex(text), at: 0 }.selector()
    }

    /// A `metav1.LabelSelector` object: `matchLabels` and `matchExpressions`. `None` or null selects nothing, an empty
    /// object everything; callers decide what `None` means to them.
    pub fn from_object(object: &serde_json::Value) -> Result<Self, ParseError> {
        let mut requirements = Vec::new();
        if let Some(map) = object.get("matchLabels").and_then(|m| m.as_object()) {
            for (k, v) in map {
                requirements.push(Requirement::In(k.clone(), vec![v.as_str().unwrap_or_default().to_owned()]));
            }
        }
        for e in object.get("matchExpressions").and_then(|m| m.as_array()).into_iter().flatten() {
            let key = e.get("key").and_then(|k| k.as_str()).unwrap_or_default().to_owned();
            let values: Vec<String> = e
                .get("values")
                .and_then(|v| v.as_array())
                .into_iter()
                .flatten()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect();
            requirements.push(match e.get("operator").and_then(|o| o.as_str()).unwrap_or_default() {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::Absent(key),
                other => return Err(ParseError(format!("{other:?} is not a valid label selector operator"))),
            });
        }
        Ok(Self { requirements })
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::In(k, v) if v.len() == 1 => write!(f, "{k}={}", v[0])?,
                Requirement::NotIn(k, v) if v.len() == 1 => write!(f, "{k}!={}", v[0])?,
                Requirement::In(k, v) => write!(f, "{k} in ({})", v.join(","))?,
                Requirement::NotIn(k, v) => write!(f, "{k} notin ({})", v.join(","))?,
                Requirement::Exists(k) => f.write_str(k)?,
                Requirement::Absent(k) => write!(f, "!{k}")?,
                Requirement::GreaterThan(k, n) => write!(f, "{k}>{n}")?,
                Requirement::LessThan(k, n) => write!(f, "{k}<{n}")?,
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(w) => f.write_str(w),
            Token::Symbol(s) => f.write_str(s),
            Token::End => Ok(()),
        }
    }
}

fn lex(text: &str) -> Vec<Token> {
    const SYMBOLS: &[&str] = &["==", "!=", "=", "!", "(", ")", ",", ">", "<"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    'outer: while !rest.is_empty() {
        for s in SYMBOLS {
            if let Some(after) = rest.strip_prefix(s) {
                tokens.push(Token::Symbol(s));
                rest = after.trim_start();
                continue 'outer;
            }
        }
        let end = rest.find(|c: char| c.is_whitespace() || "=!(),><".contains(c)).unwrap_or(rest.len());
        tokens.push(Token::Word(rest[..end].to_owned()));
        rest = rest[end..].trim_start();
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }
    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }
    fn eat(&mut self, symbol: &'static str) -> bool {
        let found = *self.peek() == Token::Symbol(symbol);
        if found {
            self.at += 1;
        }
        found
    }

    fn selector(mut self) -> Result<LabelSelector, ParseError> {
        let mut requirements = Vec::new();
        while *self.peek() != Token::End {
            requirements.push(self.requirement()?);
            match self.next() {
                Token::End => break,
                Token::Symbol(",") if *self.peek() == Token::End => {
                    return Err(ParseError("found '', expected: identifier after ','".into()));
                }
                Token::Symbol(",") => {}
                other => return Err(ParseError(format!("found '{other}', expected: ',' or 'end of string'"))),
            }
        }
        requirements.sort_by(|a, b| a.key().cmp(b.key()));
        Ok(LabelSelector { requirements })
    }

    fn key(&mut self) -> Result<String, ParseError> {
        match self.next() {
            Token::Word(key) => match names::qualified_name(&key).into_iter().next() {
                Some(error) => Err(ParseError(format!("key: Invalid value: {key:?}: {error}"))),
                None => Ok(key),
            },
            other => Err(ParseError(format!("found '{other}', expected: identifier"))),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, ParseError> {
        if self.eat("!") {
            return Ok(Requirement::Absent(self.key()?));
        }
        let key = self.key()?;
        match self.peek().clone() {
            Token::End | Token::Symbol(",") => Ok(Requirement::Exists(key)),
            Token::Symbol("=" | "==") => {
                self.at += 1;
                Ok(Requirement::In(key, vec![self.value()?]))
            }
            Token::Symbol("!=") => {
                self.at += 1;
                Ok(Requirement::NotIn(key, vec![self.value()?]))
            }
            Token::Symbol(sign @ (">" | "<")) => {
                self.at += 1;
                let text = self.value()?;
                let number = text.parse().map_err(|_| {
                    ParseError(format!("values[0][{key}]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer"))
                })?;
                Ok(if sign == ">" { Requirement::GreaterThan(key, number) } else { Requirement::LessThan(key, number) })
            }
            Token::Word(word) if word == "in" || word == "notin" => {
                self.at += 1;
                let values = self.values()?;
                Ok(if word == "in" { Requirement::In(key, values) } else { Requirement::NotIn(key, values) })
            }
            other => Err(ParseError(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt"))),
        }
    }

    fn value(&mut self) -> Result<String, ParseError> {
        match self.peek().clone() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(word) => {
                self.at += 1;
                check_value(&word)?;
                Ok(word)
            }
            other => Err(ParseError(format!("found '{other}', expected: identifier"))),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, ParseError> {
        if !self.eat("(") {
            return Err(ParseError(format!("found '{}', expected: '('", self.peek())));
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                Token::Word(word) => {
                    check_value(&word)?;
                    values.push(word);
                    match self.next() {
                        Token::Symbol(",") => {
                            if *self.peek() == Token::Symbol(")") {
                                values.push(String::new());
                            }
                        }
                        Token::Symbol(")") => break,
                        other => return Err(ParseError(format!("found '{other}', expected: ',' or ')'"))),
                    }
                }
                Token::Symbol(",") => values.push(String::new()),
                Token::Symbol(")") => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    break;
                }
                other => return Err(ParseError(format!("found '{other}', expected: ',', ')' or identifier"))),
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

impl Requirement {
    pub fn key(&self) -> &str {
        match self {
            Requirement::In(k, _)
            | Requirement::NotIn(k, _)
            | Requirement::Exists(k)
            | Requirement::Absent(k)
            | Requirement::GreaterThan(k, _)
            | Requirement::LessThan(k, _) => k,
        }
    }
}

fn check_value(value: &str) -> Result<(), ParseError> {
    match names::label_value(value).into_iter().next() {
        Some(error) => Err(ParseError(format!("values[0]: Invalid value: {value:?}: {error}"))),
        None => Ok(()),
    }
}

/// `a=b,c!=d` over named fields; all must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    pub equal: bool,
}

impl FieldSelector {
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// # Errors
    /// `invalid selector: …` for a term without an operator.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut terms = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let (field, value, equal) = if let Some((f, v)) = term.split_once("!=") {
                (f, v, false)
            } else if let Some((f, v)) = term.split_once("==") {
                (f, v, true)
            } else if let Some((f, v)) = term.split_once('=') {
                (f, v, true)
            } else {
                return Err(ParseError(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value), equal });
        }
        Ok(Self { terms })
    }

    /// Whether the terms hold; `read` gives a field's text, empty when it is absent.
    pub fn matches<'a>(&self, read: impl Fn(&str) -> std::borrow::Cow<'a, str>) -> bool {
        self.terms.iter().all(|t| (read(&t.field) == t.value) == t.equal)
    }

    /// The value that a field must equal, if there is such a term.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.terms.iter().enumerate() {
            let (comma, sign) = (if i > 0 { "," } else { "" }, if t.equal { "=" } else { "!=" });
            write!(f, "{comma}{}{sign}{}", t.field, t.value)?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[test]
    fn matches() {
        for (selector, on, expected) in [
            ("", "a=b", true),
            ("a=b", "a=b", true),
            ("a==b,c!=d", "a=b", true),
            ("a in (x, b)", "a=b", true),
            ("a notin (x,b)", "a=b", false),
            ("a notin (x)", "c=d", true),
            ("!a", "a=b", false),
            ("a", "a=b", true),
            ("n>3", "n=4", true),
            ("n<3", "n=4", false),
            ("a=", "a=", true),
            ("app.kubernetes.io/name=web", "app.kubernetes.io/name=web", true),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap().matches(&labels(on)), expected, "{selector} on {on}");
        }
    }

    #[test]
    fn bad_syntax_says_what_was_expected() {
        for (selector, part) in [
            ("a in x", "expected: '('"),
            ("a,", "expected: identifier after ','"),
            ("=b", "expected: identifier"),
            ("a ~ b", "expected: in, notin"),
            ("a in (x", "expected: ',' or ')'"),
            ("a=b c", "expected: ',' or 'end of string'"),
        ] {
            let error = LabelSelector::parse(selector).unwrap_err().to_string();
            assert!(error.contains(part), "{selector}: {error}");
        }
    }

    #[test]
    fn fields() {
        let selector = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed").unwrap();
        let read = |f: &str| std::borrow::Cow::from(if f == "spec.nodeName" { "n1" } else { "Running" });
        assert!(selector.matches(read));
        assert_eq!(selector.required("spec.nodeName"), Some("n1"));
        assert!(FieldSelector::parse("nonsense").is_err());
    }

    fn requirements() -> impl Strategy<Value = Requirement> {
        let (key, value) = ("[a-z]{1,5}(/[a-z]{1,3})?", "[a-zA-Z0-9]([a-zA-Z0-9._-]{0,5}[a-zA-Z0-9])?");
        let values = proptest::collection::btree_set(value, 1..4).prop_map(|v| v.into_iter().collect::<Vec<_>>());
        prop_oneof![
            (key, values.clone()).prop_map(|(k, v)| Requirement::In(k, v)),
            (key, values).prop_map(|(k, v)| Requirement::NotIn(k, v)),
            key.prop_map(Requirement::Exists),
            key.prop_map(Requirement::Absent),
            (key, any::<i64>()).prop_map(|(k, n)| Requirement::GreaterThan(k, n.saturating_abs())),
            (key, any::<i64>()).prop_map(|(k, n)| Requirement::LessThan(k, n.saturating_abs())),
        ]
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z0-9=!<>,() ./-]{0,40}", other in ".*") {
            for text in [text, other] {
                let _ = LabelSelector::parse(&text);
                let _ = FieldSelector::parse(&text);
            }
        }

        #[test]
        fn what_is_written_is_read_again(requirements in proptest::collection::vec(requirements(), 0..4)) {
            let selector = LabelSelector { requirements };
            let text = selector.to_string();
            let read = LabelSelector::parse(&text);
            // A key that is an operator has no text form; upstream's neither.
            if ["in", "notin", "gt", "lt"].iter().all(|word| !text.contains(word)) || read.is_ok() {
                let mut left = read.unwrap_or_else(|e| panic!("{text}: {e}")).requirements;
                let mut right = selector.requirements;
                // The parser puts them in order.
                left.sort_by_key(|r| format!("{r:?}"));
                right.sort_by_key(|r| format!("{r:?}"));
                prop_assert_eq!(left, right, "{}", text);
            }
        }
    }
}
