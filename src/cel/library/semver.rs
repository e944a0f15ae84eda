//! Semantic versions. Source: apiserver `pkg/cel/library/semverlib.go`; the parser's errors are those of `blang/semver`.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::signature::Function;
use crate::value::{Answer, Value, fault, no_overload};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Number(u64),
    Text(String),
}

pub const FUNCTIONS: &[Function] = &[
    Function {
        run: |args| match strict(args) {
            Some(parsed) => parsed.map_or_else(fault, |v| Ok(Value::Semver(Arc::new(v)))),
            None => no_overload(),
        },
        overloads: &[
            ("semver", "string_to_semver", "(string) kubernetes.Semver"),
            ("semver", "string_bool_to_semver", "(string, bool) kubernetes.Semver"),
        ],
    },
    Function {
        run: |args| strict(args).map_or_else(no_overload, |parsed| Ok(Value::Bool(parsed.is_ok()))),
        overloads: &[
            ("isSemver", "is_semver_string", "(string) bool"),
            ("isSemver", "is_semver_string_bool", "(string, bool) bool"),
        ],
    },
    Function {
        run: |args| order(args, |o| Value::Bool(o.is_gt())),
        overloads: &[("isGreaterThan", "semver_is_greater_than", "kubernetes.Semver.(kubernetes.Semver) bool")],
    },
    Function {
        run: |args| order(args, |o| Value::Bool(o.is_lt())),
        overloads: &[("isLessThan", "semver_is_less_than", "kubernetes.Semver.(kubernetes.Semver) bool")],
    },
    Function {
        run: |args| order(args, |o| Value::Int(o as i64)),
        overloads: &[("compareTo", "semver_compare_to", "kubernetes.Semver.(kubernetes.Semver) int")],
    },
    Function { run: |args| number(args, 0), overloads: &[("major", "semver_major", "kubernetes.Semver.() int")] },
    Function { run: |args| number(args, 1), overloads: &[("minor", "semver_minor", "kubernetes.Semver.() int")] },
    Function { run: |args| number(args, 2), overloads: &[("patch", "semver_patch", "kubernetes.Semver.() int")] },
];

fn strict(args: &[Value]) -> Option<Result<Semver, String>> {
    match args {
        [Value::String(text)] | [Value::String(text), Value::Bool(false)] => Some(parse(text)),
        [Value::String(text), Value::Bool(true)] => Some(normalized(text)),
        _ => None,
    }
}
fn order<'a>(args: &[Value<'a>], f: fn(Ordering) -> Value<'a>) -> Answer<'a> {
    match args {
        [Value::Semver(a), Value::Semver(b)] => Ok(f(a.precedence(b))),
        _ => no_overload(),
    }
}
fn number<'a>(args: &[Value<'a>], which: usize) -> Answer<'a> {
    match args {
        [Value::Semver(v)] => Ok(Value::Int(v.numbers[which] as i64)),
        _ => no_overload(),
    }
}

/// Reads `v1.2`, `1.02.3`: without the `v`, without leading zeroes, with what is missing as zero.
fn normalized(text: &str) -> Result<Semver, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text.splitn(3, '.').map(str::to_owned).collect();
    for part in &mut parts {
        if part.len() > 1 {
            let trimmed = part.trim_start_matches('0');
            let numeric = trimmed.starts_with(|c: char| c.is_ascii_digit());
            *part = if numeric { trimmed.to_owned() } else { format!("0{trimmed}") };
        }
    }
    if parts.len() < 3 {
        if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".into());
        }
        parts.resize(3, "0".into());
    }
    parse(&parts.join("."))
}

fn parse(text: &str) -> Result<Semver, String> {
    if text.is_empty() {
        return Err("Version string empty".into());
    }
    let parts: Vec<&str> = text.splitn(3, '.').collect();
    let [major, minor, rest] = parts[..] else { return Err("No Major.Minor.Patch elements found".into()) };
    let numeric = |what: &str, text: &str| {
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("Invalid character(s) found in {what} number {text:?}"));
        }
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("{} number must not contain leading zeroes {text:?}", capital(what)));
        }
        text.parse::<u64>().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))
    };
    let (major, minor) = (numeric("major", major)?, numeric("minor", minor)?);
    let (rest, build) = match rest.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (rest, None),
    };
    let (patch, pre) = match rest.split_once('-') {
        Some((patch, pre)) => (patch, Some(pre)),
        None => (rest, None),
    };
    let patch = numeric("patch", patch)?;
    let mut parsed = Semver { numbers: [major, minor, patch], pre: Vec::new() };
    let allowed = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    for part in pre.into_iter().flat_map(|pre| pre.split('.')) {
        if part.is_empty() {
            return Err("Prerelease is empty".into());
        }
        if part.bytes().all(|b| b.is_ascii_digit()) {
            if part.len() > 1 && part.starts_with('0') {
                return Err(format!("Numeric PreRelease version must not contain leading zeroes {part:?}"));
            }
            let number =
                part.parse().map_err(|_| format!("strconv.ParseUint: parsing {part:?}: value out of range"))?;
            parsed.pre.push(Part::Number(number));
        } else if allowed(part) {
            parsed.pre.push(Part::Text(part.to_owned()));
        } else {
            return Err(format!("Invalid character(s) found in prerelease {part:?}"));
        }
    }
    for part in build.into_iter().flat_map(|build| build.split('.')) {
        if part.is_empty() {
            return Err("Build meta data is empty".into());
        }
        if !allowed(part) {
            return Err(format!("Invalid character(s) found in build meta data {part:?}"));
        }
    }
    Ok(parsed)
}
fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    format!("{}{rest}", first.to_uppercase())
}

impl Semver {
    /// Reads a version as its specification has it.
    ///
    /// # Errors
    /// What the parser's author says is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse(text)
    }

    /// The order of versions; build metadata has no part in it.
    pub fn precedence(&self, other: &Semver) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            // a release is behind its own previews
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let parts = self.pre.iter().zip(&other.pre).map(|(a, b)| match (a, b) {
                    (Part::Number(a), Part::Number(b)) => a.cmp(b),
                    (Part::Number(_), Part::Text(_)) => Ordering::Less,
                    (Part::Text(_), Part::Number(_)) => Ordering::Greater,
                    (Part::Text(a), Part::Text(b)) => a.cmp(b),
                });
                parts.fold(Ordering::Equal, Ordering::then).then(self.pre.len().cmp(&other.pre.len()))
            }
        })
    }
}
