//! Regular expressions as Go reads them: its classes are ASCII, and its character classes know no set operations.
//!
//! Source: Go `regexp/syntax`.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use regex::{Regex, RegexBuilder};

/// The largest compiled pattern in bytes: a tenth of the crate's default, far above what patterns for names need.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// What each thread that matches may keep of the automaton that it makes on the way, in bytes. With less than it needs a search
/// falls back to a slower engine, which is linear in the text too.
const AUTOMATON_BYTES_MAX: usize = 256 << 10;
/// Different patterns of one schema. Embedded pod templates have about a hundred.
pub const PATTERNS_MAX: usize = 1_000;

/// A pattern, compiled when the first text is compared with it: most patterns of most definitions never are.
#[derive(Debug)]
pub struct Pattern {
    pub text: Box<str>,
    compiled: OnceLock<Option<Arc<Regex>>>,
}

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), compiled: OnceLock::new() }
    }

    /// Whether the text matches; one that cannot be compiled was refused with its definition and matches all.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.get_or_init(|| shared(&self.text)).as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

/// Errors: what is wrong, in the words of this library.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(&translate(pattern))
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(AUTOMATON_BYTES_MAX)
        .build()
        .map_err(|error| error.to_string())
}

/// The compiled pattern, which everybody who has the same text uses: a schema repeats its patterns in many places.
fn shared(pattern: &str) -> Option<Arc<Regex>> {
    static SHARED: Mutex<Option<HashMap<Box<str>, Weak<Regex>>>> = Mutex::new(None);
    let known = |text: &str| SHARED.lock().as_ref().and_then(|all| all.get(text).and_then(Weak::upgrade));
    if let Some(regex) = known(pattern) {
        return Some(regex);
    }
    let regex = Arc::new(compile(pattern).ok()?);
    let mut shared = SHARED.lock();
    let all = shared.get_or_insert_default();
    // Those of schemas that are gone make room before the table grows.
    if all.len() == all.capacity() {
        all.retain(|_, regex| regex.strong_count() > 0);
    }
    all.insert(pattern.into(), Arc::downgrade(&regex));
    Some(regex)
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    // A bracket right after the opening one is a member.
    let mut first = false;
    let mut last = ' ';
    while let Some(c) = chars.next() {
        let was_first = std::mem::take(&mut first);
        match c {
            '\\' => {
                let Some(escaped) = chars.next() else {
                    out.push('\\');
                    break;
                };
                match (escaped, in_class) {
                    ('d', true) => out.push_str("0-9"),
                    ('d', false) => out.push_str("[0-9]"),
                    ('D', _) => out.push_str("[^0-9]"),
                    ('w', true) => out.push_str("0-9A-Za-z_"),
                    ('w', false) => out.push_str("[0-9A-Za-z_]"),
                    ('W', _) => out.push_str("[^0-9A-Za-z_]"),
                    ('s', true) => out.push_str("\\t\\n\\f\\r "),
                    ('s', false) => out.push_str("[\\t\\n\\f\\r ]"),
                    ('S', _) => out.push_str("[^\\t\\n\\f\\r ]"),
                    ('b', false) => out.push_str("(?-u:\\b)"),
                    ('B', false) => out.push_str("(?-u:\\B)"),
                    (other, _) => {
                        out.push('\\');
                        out.push(other);
                    }
                }
                last = ' ';
                continue;
            }
            '[' if !in_class => {
                in_class = true;
                first = true;
                out.push(c);
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
                last = ' ';
                continue;
            }
            '[' if chars.peek() == Some(&':') => out.push(c),
            ']' if in_class && last == ':' && out.rfind("[:").is_some_and(|at| !out[at + 2..].contains(']')) => {
                out.push(c);
            }
            ']' if in_class && !was_first => {
                in_class = false;
                out.push(c);
            }
            '[' | ']' if in_class => {
                out.push('\\');
                out.push(c);
            }
            '&' | '~' if in_class && last == c => {
                out.push('\\');
                out.push(c);
            }
            '-' if in_class && last == '-' => out.push_str("\\-"),
            other => out.push(other),
        }
        last = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_reads_them() {
        for (pattern, good, bad) in [
            (r"^\d+$", "12", "١"),
            (r"^[\w.-]+$", "a_b.c-d", "é"),
            (r"^[[]$", "[", "x"),
            (r"^[]a]+$", "]a", "b"),
            (r"^[[:alpha:]]+$", "ab", "1"),
            (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a-1", "-"),
            (r"^[&&~~]+$", "&~", "a"),
            (r"\bfoo\b", "a foo", "afoo"),
            (r"^[^\s]+$", "a", " "),
        ] {
            let pattern = Pattern::new(pattern);
            assert!(pattern.is_match(good), "{pattern:?} {good} {}", translate(&pattern.text));
            assert!(!pattern.is_match(bad), "{pattern:?} {bad}");
        }
        assert!(compile("(").is_err());
    }

    #[test]
    fn patterns_are_small_and_shared() {
        assert!(compile(r"^.{1,253}$").is_ok());
        assert!(compile(r"(\pL{50}){50}").is_err_and(|why| why.contains("size limit")));
        let (a, b) = (Pattern::new("^shared$"), Pattern::new("^shared$"));
        assert!(a.is_match("shared") && b.is_match("shared"));
        let compiled = |of: &Pattern| of.compiled.get().cloned().flatten().unwrap();
        assert!(Arc::ptr_eq(&compiled(&a), &compiled(&b)));
    }
}
