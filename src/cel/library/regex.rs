//! Regular expressions: `matches`, `find`, `findAll`. RE2's language and the `regex` crate's are one but for corners; both
//! take time linear in the text.
//!
//! Source: cel-go `common/types/string.go`, apiserver `pkg/cel/library/regex.go`.

use std::num::NonZeroUsize;
use std::sync::Arc;

use parking_lot::Mutex;
use regex::Regex;

use crate::signature::Function;
use crate::value::{Answer, EvalError, ITEMS_MAX, Value, bounded, fault, no_overload};

/// The largest compiled expression in bytes: a tenth of the crate's default, far above what rules for names need.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// What each thread that matches may keep of the automaton that it makes on the way, in bytes.
const AUTOMATON_BYTES_MAX: usize = 256 << 10;
/// Compiled expressions that are kept: those of the policies and rules that run just now.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("is not zero");

pub const FUNCTIONS: &[Function] = &[
    Function {
        run: matches,
        overloads: &[
            ("matches", "matches", "(string, string) bool"),
            ("matches", "matches_string", "string.(string) bool"),
        ],
    },
    Function { run: find, overloads: &[("find", "string_find_string", "string.(string) string")] },
    Function {
        run: find_all,
        overloads: &[
            ("findAll", "string_find_all_string", "string.(string) list(string)"),
            ("findAll", "string_find_all_string_int", "string.(string, int) list(string)"),
        ],
    },
];

/// The expression, compiled.
///
/// # Errors
/// The crate's text on one line; Go words it differently.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(pattern)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(AUTOMATON_BYTES_MAX)
        .build()
        .map_err(|error| {
            let text = error.to_string();
            format!(
                "error parsing regexp: {}: `{pattern}`",
                text.lines().last().unwrap_or_default().trim_start_matches("error: ")
            )
        })
}

/// What was compiled lately.
static KEPT: Mutex<Vec<(Arc<str>, Regex)>> = Mutex::new(Vec::new());

/// Whether the expression need not be compiled again.
pub fn is_kept(pattern: &str) -> bool {
    KEPT.lock().iter().any(|(known, _)| **known == *pattern)
}

/// The expression, compiled or kept.
///
/// # Errors
/// See [`compile`].
pub fn compiled(pattern: &str) -> Result<Regex, String> {
    let mut kept = KEPT.lock();
    if let Some(i) = kept.iter().position(|(known, _)| **known == *pattern) {
        // the newest are at the end
        let entry = kept.remove(i);
        let regex = entry.1.clone();
        kept.push(entry);
        return Ok(regex);
    }
    drop(kept);
    let regex = compile(pattern)?;
    let mut kept = KEPT.lock();
    if kept.len() >= KEPT_MAX.get() {
        kept.remove(0);
    }
    kept.push((pattern.into(), regex.clone()));
    Ok(regex)
}

fn matches<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::String(text), Value::String(pattern)] = args else { return no_overload() };
    match compiled(pattern) {
        Ok(regex) => Ok(Value::Bool(regex.is_match(text))),
        Err(why) => fault(why),
    }
}
fn illegal(pattern: &str) -> Result<Regex, EvalError> {
    compiled(pattern).or_else(|why| fault(format!("Illegal regex: {why}")))
}
fn find<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::String(text), Value::String(pattern)] = args else { return no_overload() };
    Ok(Value::text(illegal(pattern)?.find(text).map_or("", |found| found.as_str())))
}
fn find_all<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (text, pattern, limit) = match args {
        [Value::String(text), Value::String(pattern)] => (text, pattern, -1),
        [Value::String(text), Value::String(pattern), Value::Int(limit)] => (text, pattern, *limit),
        _ => return no_overload(),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let regex = illegal(pattern)?;
    let found: Vec<&str> = regex.find_iter(text).take(limit.min(ITEMS_MAX + 1)).map(|found| found.as_str()).collect();
    bounded(found.len(), ITEMS_MAX)?;
    Ok(Value::texts(found))
}
