//! Strings: cel-go's own methods and its extension library, version 2. Positions count code points.
//!
//! Source: cel-go `common/types/string.go`, `ext/strings.go`.

use super::string_format;
use crate::signature::Function;
use crate::value::{Answer, ITEMS_MAX, TEXT_BYTES_MAX, Value, bounded, fault, no_overload};

pub const FUNCTIONS: &[Function] = &[
    Function {
        run: |args| test(args, |s, part| s.contains(part)),
        overloads: &[("contains", "contains_string", "string.(string) bool")],
    },
    Function {
        run: |args| test(args, |s, part| s.ends_with(part)),
        overloads: &[("endsWith", "ends_with_string", "string.(string) bool")],
    },
    Function {
        run: |args| test(args, |s, part| s.starts_with(part)),
        overloads: &[("startsWith", "starts_with_string", "string.(string) bool")],
    },
    Function { run: char_at, overloads: &[("charAt", "string_char_at_int", "string.(int) string")] },
    Function {
        run: index_of,
        overloads: &[
            ("indexOf", "string_index_of_string", "string.(string) int"),
            ("indexOf", "string_index_of_string_int", "string.(string, int) int"),
        ],
    },
    Function {
        run: last_index_of,
        overloads: &[
            ("lastIndexOf", "string_last_index_of_string", "string.(string) int"),
            ("lastIndexOf", "string_last_index_of_string_int", "string.(string, int) int"),
        ],
    },
    Function {
        run: |args| map(args, str::to_ascii_lowercase),
        overloads: &[("lowerAscii", "string_lower_ascii", "string.() string")],
    },
    Function {
        run: |args| map(args, str::to_ascii_uppercase),
        overloads: &[("upperAscii", "string_upper_ascii", "string.() string")],
    },
    Function {
        run: |args| map(args, |s| s.trim().to_owned()),
        overloads: &[("trim", "string_trim", "string.() string")],
    },
    Function {
        run: replace,
        overloads: &[
            ("replace", "string_replace_string_string", "string.(string, string) string"),
            ("replace", "string_replace_string_string_int", "string.(string, string, int) string"),
        ],
    },
    Function {
        run: split,
        overloads: &[
            ("split", "string_split_string", "string.(string) list(string)"),
            ("split", "string_split_string_int", "string.(string, int) list(string)"),
        ],
    },
    Function {
        run: substring,
        overloads: &[
            ("substring", "string_substring_int", "string.(int) string"),
            ("substring", "string_substring_int_int", "string.(int, int) string"),
        ],
    },
    Function {
        run: join,
        overloads: &[
            ("join", "list_join", "list(string).() string"),
            ("join", "list_join_string", "list(string).(string) string"),
        ],
    },
    Function { run: format, overloads: &[("format", "string_format", "string.(list(dyn)) string")] },
    Function { run: |args| map(args, quote), overloads: &[("strings.quote", "strings_quote", "(string) string")] },
];

fn test<'a>(args: &[Value<'a>], holds: fn(&str, &str) -> bool) -> Answer<'a> {
    match args {
        [Value::String(s), Value::String(part)] => Ok(Value::Bool(holds(s, part))),
        _ => no_overload(),
    }
}
fn map<'a>(args: &[Value<'a>], f: fn(&str) -> String) -> Answer<'a> {
    match args {
        [Value::String(s)] => Ok(Value::text(f(s))),
        _ => no_overload(),
    }
}

fn out_of_range<'a>(index: i64) -> Answer<'a> {
    fault(format!("index out of range: {index}"))
}
/// The byte at which the code point begins; the length for the one behind the last.
fn byte_at(s: &str, index: i64) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    s.char_indices().map(|(byte, _)| byte).chain([s.len()]).nth(index)
}
fn chars(s: &str) -> i64 {
    i64::try_from(s.chars().count()).unwrap_or(i64::MAX)
}

fn char_at<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::String(s), Value::Int(index)] = args else { return no_overload() };
    match byte_at(s, *index) {
        Some(byte) => Ok(Value::text(s[byte..].chars().take(1).collect::<String>())),
        None => out_of_range(*index),
    }
}
fn index_of<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (s, part, offset) = match args {
        [Value::String(s), Value::String(part)] => (s, part, 0),
        [Value::String(s), Value::String(part), Value::Int(offset)] => (s, part, *offset),
        _ => return no_overload(),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    if offset < 0 {
        return out_of_range(offset);
    }
    let found = byte_at(s, offset).and_then(|from| Some(from + s[from..].find(&**part)?));
    Ok(Value::Int(found.map_or(-1, |byte| chars(&s[..byte]))))
}
fn last_index_of<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (s, part, offset) = match args {
        [Value::String(s), Value::String(part)] if part.is_empty() => return Ok(Value::Int(chars(s))),
        [Value::String(s), Value::String(part)] => (s, part, None),
        [Value::String(s), Value::String(part), Value::Int(offset)] => (s, part, Some(*offset)),
        _ => return no_overload(),
    };
    let found = match offset {
        Some(offset) if part.is_empty() => return Ok(Value::Int(offset)),
        Some(offset) if offset < 0 => return out_of_range(offset),
        Some(offset) if offset >= chars(s) => None,
        // the last match that begins no later than there
        Some(offset) => byte_at(s, offset).and_then(|last| {
            let mut end = (last + part.len()).min(s.len());
            while !s.is_char_boundary(end) {
                end += 1;
            }
            s[..end].rfind(&**part).filter(|found| *found <= last)
        }),
        None => s.rfind(&**part),
    };
    Ok(Value::Int(found.map_or(-1, |byte| chars(&s[..byte]))))
}
fn replace<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (s, old, new, count) = match args {
        [Value::String(s), Value::String(old), Value::String(new)] => (s, old, new, -1),
        [Value::String(s), Value::String(old), Value::String(new), Value::Int(count)] => (s, old, new, *count),
        _ => return no_overload(),
    };
    let found = s.matches(&**old).take(usize::try_from(count).unwrap_or(usize::MAX)).count();
    bounded(s.len().saturating_add(found.saturating_mul(new.len())), TEXT_BYTES_MAX)?;
    Ok(Value::text(match usize::try_from(count) {
        Ok(count) => s.replacen(&**old, new, count),
        Err(_) => s.replace(&**old, new),
    }))
}
fn split<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (s, separator, count) = match args {
        [Value::String(s), Value::String(separator)] => (s, separator, -1),
        [Value::String(s), Value::String(separator), Value::Int(count)] => (s, separator, *count),
        _ => return no_overload(),
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count == 0 {
        return Ok(Value::list(Vec::new()));
    }
    if separator.is_empty() {
        // code points, the rest of them in the last part
        let mut parts = Vec::new();
        let mut rest: &str = s;
        while parts.len() + 1 < count {
            bounded(parts.len(), ITEMS_MAX)?;
            let Some(c) = rest.chars().next() else { break };
            parts.push(&rest[..c.len_utf8()]);
            rest = &rest[c.len_utf8()..];
        }
        if !rest.is_empty() {
            parts.push(rest);
        }
        return Ok(Value::texts(parts));
    }
    bounded(s.matches(&**separator).take(count).count(), ITEMS_MAX)?;
    Ok(Value::texts(s.splitn(count, &**separator)))
}
fn substring<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (s, start, end) = match args {
        [Value::String(s), Value::Int(start)] => (s, *start, None),
        [Value::String(s), Value::Int(start), Value::Int(end)] => (s, *start, Some(*end)),
        _ => return no_overload(),
    };
    if let Some(end) = end.filter(|end| start > *end) {
        return fault(format!("invalid substring range. start: {start}, end: {end}"));
    }
    let Some(from) = byte_at(s, start) else { return out_of_range(start) };
    let to = match end {
        None => s.len(),
        Some(end) => match byte_at(s, end) {
            Some(to) => to,
            None => return out_of_range(end),
        },
    };
    Ok(Value::text(&s[from..to]))
}
fn join<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return no_overload(),
    };
    let mut out = String::new();
    for (i, item) in list.iter().enumerate() {
        let item = item?;
        let Value::String(text) = &item else {
            return fault(format!("join: invalid input: {}", super::conversions::plain(&item)));
        };
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
        bounded(out.len(), TEXT_BYTES_MAX)?;
    }
    Ok(Value::text(out))
}
fn format<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::String(s), Value::List(list)] => string_format::format(s, list).map(Value::text),
        _ => no_overload(),
    }
}
fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
