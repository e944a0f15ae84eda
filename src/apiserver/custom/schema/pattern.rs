//! Regular expressions as Go reads them: its classes are ASCII, and its character classes know no set operations.
//!
//! Source: Go `regexp/syntax`.

use std::sync::OnceLock;

use regex::Regex;

/// A pattern, compiled when the first text is compared with it: most patterns of most definitions never are.
#[derive(Debug)]
pub struct Pattern {
    pub text: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), compiled: OnceLock::new() }
    }

    /// Whether the text matches; one that cannot be compiled was refused with its definition and matches all.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.get_or_init(|| compile(&self.text).ok()).as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

/// Errors: what is wrong, in the words of this library.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(&translate(pattern)).map_err(|error| error.to_string())
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
}
