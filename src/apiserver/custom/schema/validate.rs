//! Checks a value against a schema, in upstream's words and order of preference.
//!
//! Of alternatives that all fail (`anyOf`, `oneOf`) the findings of the one with the most checks that hold are shown, which
//! is why matches are counted here exactly as upstream counts them.
//!
//! Source: kube-openapi `pkg/validation/{validate,errors}`; apiextensions-apiserver `pkg/apiserver/validation/validation.go`.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;
use types::field::{FieldError, Path, Problem};

use super::{Additional, Checks, Schema, Type, format, list, number};

/// What is wrong with a value, by path. `base` is the path of the value itself. Parts that are as they were in `old` may be
/// wrong: a rule that came later does not keep an object from being changed elsewhere.
///
/// Source: KEP-4008 (CRD validation ratcheting); apiextensions-apiserver `pkg/apiserver/validation/ratcheting.go`.
pub fn validate(value: &Value, old: Option<&Value>, schema: &Schema, base: &Path) -> Vec<FieldError> {
    let mut walk = Walk { path: String::new(), base };
    walk.schema(value, old, schema).errors
}

/// What a part of the checks found, and how many of them held.
#[derive(Default)]
pub struct Outcome {
    pub errors: Vec<FieldError>,
    matches: usize,
}

impl Outcome {
    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
    fn merge(&mut self, other: Outcome) {
        self.errors.extend(other.errors);
        self.matches += other.matches;
    }
}

pub struct Walk<'b> {
    /// As upstream has it: names joined by dots, the first one bare, indexes in brackets.
    path: String,
    base: &'b Path,
}

/// The type of a value in error texts.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Walk<'_> {
    fn at(&mut self, name: &str, then: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        let out = then(self);
        self.path.truncate(length);
        out
    }

    fn at_index(&mut self, index: usize, then: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        let length = self.path.len();
        let _ = write!(self.path, "[{index}]");
        let out = then(self);
        self.path.truncate(length);
        out
    }

    fn place(&self, path: &str) -> Path {
        let path = path.strip_prefix('.').unwrap_or(path);
        match (path.is_empty(), self.base.as_str()) {
            (true, _) => self.base.clone(),
            (false, _) if *self.base == Path::root() => Path::new(path),
            (false, _) => self.base.child(path),
        }
    }

    /// An error with a text of upstream's `… in body …` family.
    fn error(&self, problem: Problem, value: Option<&Value>, words: impl std::fmt::Display) -> FieldError {
        let shown = match value {
            None | Some(Value::Null) => "\"\"".to_owned(),
            Some(Value::String(text)) => format!("{text:?}"),
            Some(other) => other.to_string(),
        };
        let detail = format!("{} in body {words}", self.path);
        FieldError { path: self.place(&self.path), problem, value: Some(shown), detail }
    }

    pub fn invalid(&self, value: &Value, words: impl std::fmt::Display) -> FieldError {
        self.error(Problem::Invalid, Some(value), words)
    }

    /// An error that is about the whole object, as upstream places those that are no single check's.
    pub fn composite(&self, words: String) -> FieldError {
        FieldError { path: self.base.clone(), problem: Problem::Invalid, value: Some("\"\"".into()), detail: words }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    fn wrong_type(&self, expected: &str, found: &str) -> FieldError {
        let found = Value::String(found.to_owned());
        let words = format!("must be of type {expected}: {}", Quoted(found.as_str().unwrap_or_default()));
        self.error(Problem::TypeInvalid, Some(&found), words)
    }

    fn schema(&mut self, value: &Value, old: Option<&Value>, schema: &Schema) -> Outcome {
        let mut out = self.checked(value, old, schema);
        if !out.is_valid() && old == Some(value) {
            out.errors.clear();
        }
        out
    }

    fn checked(&mut self, value: &Value, old: Option<&Value>, schema: &Schema) -> Outcome {
        let mut out = Outcome::default();
        if value.is_null() {
            out.merge(self.type_(value, schema));
            if let Some(checks) = &schema.checks {
                out.errors.extend(self.choices(value, checks));
            }
            return out;
        }
        let format = schema.checks.as_ref().map_or("", |c| &*c.format);
        if schema.int_or_string || schema.type_ != Type::Any || !format.is_empty() {
            out.merge(self.type_(value, schema));
            out.matches += 1;
        }
        // The junctors apply to everything.
        out.merge(self.junctors(value, old, schema.checks.as_deref()));
        out.matches += 1;
        match (value, schema.checks.as_deref()) {
            (Value::String(text), checks) => {
                out.errors.extend(checks.and_then(|checks| self.string(text, checks)));
                out.matches += 1;
                if !format.is_empty() && format::is_known(format) {
                    if !format::matches(format, text) {
                        let words = format!("must be of type {format}: {}", Quoted(text));
                        out.errors.push(self.error(Problem::TypeInvalid, Some(value), words));
                    }
                    out.matches += 1;
                }
            }
            (Value::Number(n), checks) => {
                let single = if schema.int_or_string { Type::Any } else { schema.type_ };
                number::check(self, n, single, checks, &mut out.errors);
                out.matches += 2;
            }
            (Value::Array(items), checks) => {
                out.merge(self.list(items, old, schema, checks));
                out.matches += 2;
            }
            _ => {}
        }
        out.errors.extend(schema.checks.as_deref().and_then(|checks| self.choices(value, checks)));
        out.matches += 1;
        if let Value::Object(object) = value {
            out.merge(self.object(object, old, schema));
            out.matches += 1;
        }
        out.matches += 1;
        out
    }

    fn type_(&self, value: &Value, schema: &Schema) -> Outcome {
        let found = type_of(value);
        let has = |t: Type| {
            if schema.int_or_string { matches!(t, Type::Integer | Type::String) } else { schema.type_ == t }
        };
        let typed = schema.int_or_string || schema.type_ != Type::Any;
        let format = schema.checks.as_ref().map_or("", |c| &*c.format);
        let wrong = |errors| Outcome { errors, matches: 0 };
        let fine = Outcome { errors: Vec::new(), matches: 1 };
        let own = match value {
            Value::Null if typed && !schema.nullable => {
                return wrong(vec![self.wrong_type(schema.type_text(), found)]);
            }
            Value::Null => return fine,
            Value::Bool(_) => Type::Boolean,
            Value::Number(n) if n.is_f64() => Type::Number,
            Value::Number(_) => Type::Integer,
            Value::String(_) => Type::String,
            Value::Array(_) => Type::Array,
            Value::Object(_) => Type::Object,
        };
        let whole = matches!(value, Value::Number(n) if n.is_f64() && number::is_whole(n)) && has(Type::Integer);
        let widened = own == Type::Integer && has(Type::Number);
        let textual = matches!(own, Type::String | Type::Array);
        if !format.is_empty() && textual && !(has(Type::Number) || has(Type::Integer)) {
            return fine;
        }
        let natural = match own {
            Type::Integer => "int64",
            Type::Number => "float64",
            _ => "",
        };
        if !(textual || format.is_empty() || has(own) || natural == format || whole || widened) {
            return wrong(vec![self.wrong_type(format, natural)]);
        }
        if has(own) || whole || widened { fine } else { wrong(vec![self.wrong_type(schema.type_text(), found)]) }
    }

    fn junctors(&mut self, value: &Value, old: Option<&Value>, checks: Option<&Checks>) -> Outcome {
        let mut out = Outcome { errors: Vec::new(), matches: 1 };
        let Some(checks) = checks else { return out };
        if !checks.any_of.is_empty() {
            let mut best: Option<Outcome> = None;
            let mut good = None;
            for schema in &checks.any_of {
                let result = self.schema(value, old, schema);
                if result.is_valid() {
                    good = Some(result);
                    break;
                }
                if best.as_ref().is_none_or(|b| result.matches > b.matches) {
                    best = Some(result);
                }
            }
            match (good, best) {
                (Some(good), _) => out.merge(good),
                (None, best) => {
                    let words = format!("{} must validate at least one schema (anyOf)", Quoted(&self.path));
                    out.errors.push(self.composite(words));
                    out.merge(best.unwrap_or_default());
                }
            }
        }
        if !checks.one_of.is_empty() {
            let mut best: Option<Outcome> = None;
            let mut good = None;
            let mut count = 0;
            for schema in &checks.one_of {
                let result = self.schema(value, old, schema);
                if result.is_valid() {
                    count += 1;
                    best = None;
                    good = good.or(Some(result));
                } else if count == 0 && best.as_ref().is_none_or(|b| result.matches > b.matches) {
                    best = Some(result);
                }
            }
            if count == 1 {
                out.merge(good.unwrap_or_default());
            } else {
                let found: Cow<'_, str> = match count {
                    0 => "Found none valid".into(),
                    count => format!("Found {count} valid alternatives").into(),
                };
                let words = format!("{} must validate one and only one schema (oneOf). {found}", Quoted(&self.path));
                out.errors.push(self.composite(words));
                out.merge(best.unwrap_or_default());
            }
        }
        if !checks.all_of.is_empty() {
            let mut count = 0;
            for schema in &checks.all_of {
                let result = self.schema(value, old, schema);
                count += usize::from(result.is_valid());
                out.merge(result);
            }
            if count != checks.all_of.len() {
                let none = if count == 0 { ". None validated" } else { "" };
                let words = format!("{} must validate all the schemas (allOf){none}", Quoted(&self.path));
                out.errors.push(self.composite(words));
            }
        }
        if let Some(not) = &checks.not
            && self.schema(value, old, not).is_valid()
        {
            let words = format!("{} must not validate the schema (not)", Quoted(&self.path));
            out.errors.push(self.composite(words));
        }
        out
    }

    /// The first of what is wrong with a text.
    fn string(&self, text: &str, checks: &Checks) -> Option<FieldError> {
        let value = Value::String(text.to_owned());
        let length = || i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(max) = checks.max_length
            && length() > max
        {
            let detail = format!("may not be more than {max} bytes");
            return Some(FieldError { path: self.place(&self.path), problem: Problem::TooLong, value: None, detail });
        }
        if let Some(min) = checks.min_length
            && length() < min
        {
            return Some(self.invalid(&value, format!("should be at least {min} chars long")));
        }
        match &checks.pattern {
            Some(pattern) if !pattern.is_match(text) => {
                Some(self.invalid(&value, format!("should match '{}'", pattern.text)))
            }
            _ => None,
        }
    }

    fn choices(&self, value: &Value, checks: &Checks) -> Option<FieldError> {
        if checks.choices.is_empty() || checks.choices.iter().any(|choice| number::same(choice, value)) {
            return None;
        }
        let texts: Vec<Cow<'_, str>> = checks
            .choices
            .iter()
            .map(|choice| match choice {
                Value::String(text) => Cow::Borrowed(text.as_str()),
                other => Cow::Owned(other.to_string()),
            })
            .collect();
        let texts: Vec<&str> = texts.iter().map(|t| &**t).collect();
        Some(FieldError::not_supported(&self.place(&self.path), value, &texts))
    }

    fn list(&mut self, items: &[Value], old: Option<&Value>, schema: &Schema, checks: Option<&Checks>) -> Outcome {
        let mut out = Outcome::default();
        if let Some(below) = schema.items.as_deref() {
            let older = list::Older::new(old, schema);
            for (i, item) in items.iter().enumerate() {
                let before = older.of(item, schema);
                let found = self.at_index(i, |walk| walk.schema(item, before, below));
                out.merge(found);
            }
        }
        let Some(checks) = checks else { return out };
        let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
        if let Some(min) = checks.min_items.filter(|min| size < *min) {
            out.errors.push(self.invalid(&size.into(), format!("should have at least {min} items")));
        }
        if let Some(max) = checks.max_items.filter(|max| size > *max) {
            let max = usize::try_from(max).unwrap_or_default();
            out.errors.push(FieldError::too_many(&self.place(&self.path), items.len(), max));
        }
        if checks.unique_items && items.iter().enumerate().any(|(i, item)| items[..i].contains(item)) {
            out.errors.push(self.error(Problem::Invalid, None, "shouldn't contain duplicates"));
        }
        out
    }

    fn object(&mut self, object: &serde_json::Map<String, Value>, old: Option<&Value>, schema: &Schema) -> Outcome {
        let mut out = Outcome::default();
        let checks = schema.checks.as_deref();
        let size = i64::try_from(object.len()).unwrap_or(i64::MAX);
        if let Some(min) = checks.and_then(|c| c.min_properties).filter(|min| size < *min) {
            out.errors.push(self.invalid(&size.into(), format!("should have at least {min} properties")));
        }
        if let Some(max) = checks.and_then(|c| c.max_properties).filter(|max| size > *max) {
            let max = usize::try_from(max).unwrap_or_default();
            out.errors.push(FieldError::too_many(&self.place(&self.path), object.len(), max));
        }
        for (name, value) in object {
            let before = old.filter(|_| !schema.map_atomic).and_then(|old| old.get(name));
            match (schema.property(name), &schema.additional) {
                (Some(below), _) => {
                    let found = self.at(name, |walk| walk.schema(value, before, below));
                    out.merge(found);
                }
                (None, Additional::Of(below)) => {
                    let found = self.at_additional(name, |walk| walk.schema(value, before, below));
                    out.merge(found);
                }
                (None, Additional::Any(false)) => {
                    let words = format!("{}.{name} in body is a forbidden property", self.path);
                    let path = self.place(&self.path);
                    let value = Some(format!("{name:?}"));
                    out.errors.push(FieldError { path, problem: Problem::Invalid, value, detail: words });
                }
                _ => {}
            }
        }
        for name in checks.iter().flat_map(|c| &c.required).filter(|name| !object.contains_key(&***name)) {
            let path = self.place(&format!("{}.{name}", self.path));
            out.errors.push(FieldError::required(&path, ""));
        }
        out
    }

    /// The path of a field that is not named begins with a dot at the root.
    fn at_additional(&mut self, name: &str, then: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        let length = self.path.len();
        self.path.push('.');
        self.path.push_str(name);
        let out = then(self);
        self.path.truncate(length);
        out
    }
}

/// A text in quotes, as Go's `%q` has it.
struct Quoted<'a>(&'a str);
impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
