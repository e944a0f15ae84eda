//! JSON as YAML, laid out and quoted as kubectl's printer does. Writing only; manifests are read by `manifest`.
//!
//! Source: sigs.k8s.io/yaml (goyaml.v2: `sorter.go` for key order, `resolve.go` for what needs quotes, `emitterc.go` for
//! styles and the folding of long lines).

use serde_json::Value;

/// Column after which a line is folded at the next space.
const WIDTH: usize = 80;

pub fn to_yaml(value: &Value) -> String {
    let mut w = Writer { out: String::new() };
    w.node(value, 0, Place::Root);
    w.out.push('\n');
    w.out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    /// After `key:`.
    Key,
    /// After `-`.
    Item,
}

struct Writer {
    out: String,
}

impl Writer {
    fn column(&self) -> usize {
        self.out.rsplit('\n').next().map_or(0, |l| l.chars().count())
    }

    fn new_line(&mut self, indent: usize) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', indent));
    }

    fn gap(&mut self, place: Place) {
        if place == Place::Key {
            self.out.push(' ');
        }
    }

    fn node(&mut self, value: &Value, indent: usize, place: Place) {
        match value {
            Value::Object(map) if map.is_empty() => {
                self.gap(place);
                self.out.push_str("{}");
            }
            Value::Array(list) if list.is_empty() => {
                self.gap(place);
                self.out.push_str("[]");
            }
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort_by(|a, b| natural(a, b));
                let indent = if place == Place::Key { indent + 2 } else { indent };
                for (i, key) in keys.into_iter().enumerate() {
                    if i > 0 || place == Place::Key {
                        self.new_line(indent);
                    }
                    self.scalar(key, indent, true);
                    self.out.push(':');
                    self.node(&map[key], indent, Place::Key);
                }
            }
            // A list under a key is not indented more than the key.
            Value::Array(list) => {
                for (i, item) in list.iter().enumerate() {
                    if i > 0 || place == Place::Key {
                        self.new_line(indent);
                    }
                    self.out.push_str("- ");
                    self.node(item, indent + 2, Place::Item);
                }
            }
            Value::Null => {
                self.gap(place);
                self.out.push_str("null");
            }
            Value::Bool(b) => {
                self.gap(place);
                self.out.push_str(if *b { "true" } else { "false" });
            }
            Value::Number(n) => {
                self.gap(place);
                self.out.push_str(&n.to_string());
            }
            Value::String(text) => {
                self.gap(place);
                // A folded or literal text is indented below its key, and level with its list item.
                let indent = if place == Place::Item { indent } else { indent + 2 };
                self.scalar(text, indent, false);
            }
        }
    }

    fn scalar(&mut self, text: &str, indent: usize, is_key: bool) {
        let a = Analysis::of(text);
        if text.contains('\n') && !is_key && a.block {
            return self.literal(text, indent);
        }
        if text.contains('\n') || !is_text(text) {
            return self.double_quoted(text, indent, is_key);
        }
        if a.plain {
            self.plain(text, indent, is_key);
        } else if a.single {
            self.single_quoted(text, indent, is_key);
        } else {
            self.double_quoted(text, indent, is_key);
        }
    }

    fn plain(&mut self, text: &str, indent: usize, is_key: bool) {
        self.folded(text, indent, is_key, |out, c| out.push(c));
    }

    fn single_quoted(&mut self, text: &str, indent: usize, is_key: bool) {
        self.out.push('\'');
        self.folded(text, indent, is_key, |out, c| {
            if c == '\'' {
                out.push('\'');
            }
            out.push(c);
        });
        self.out.push('\'');
    }

    /// Writes `text`; past the width, a single space between words becomes a line end.
    fn folded(&mut self, text: &str, indent: usize, is_key: bool, push: impl Fn(&mut String, char)) {
        let chars: Vec<char> = text.chars().collect();
        let mut column = self.column();
        let mut spaces = false;
        for (i, &c) in chars.iter().enumerate() {
            let inside = i > 0 && i + 1 < chars.len();
            if c == ' ' {
                if !is_key && !spaces && inside && column > WIDTH && chars[i + 1] != ' ' {
                    self.new_line(indent);
                    column = indent;
                } else {
                    self.out.push(' ');
                    column += 1;
                }
                spaces = true;
            } else {
                push(&mut self.out, c);
                column += 1;
                spaces = false;
            }
        }
    }

    fn double_quoted(&mut self, text: &str, indent: usize, is_key: bool) {
        use std::fmt::Write as _;
        self.out.push('"');
        let chars: Vec<char> = text.chars().collect();
        let mut spaces = false;
        for (i, &c) in chars.iter().enumerate() {
            match c {
                ' ' => {
                    let inside = i > 0 && i + 1 < chars.len();
                    if !is_key && !spaces && inside && self.column() > WIDTH {
                        self.new_line(indent);
                        if chars[i + 1] == ' ' {
                            self.out.push('\\');
                        }
                    } else {
                        self.out.push(' ');
                    }
                    spaces = true;
                    continue;
                }
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\t' => self.out.push_str("\\t"),
                '\r' => self.out.push_str("\\r"),
                '\0' => self.out.push_str("\\0"),
                '\x07' => self.out.push_str("\\a"),
                '\x08' => self.out.push_str("\\b"),
                '\x0b' => self.out.push_str("\\v"),
                '\x0c' => self.out.push_str("\\f"),
                '\x1b' => self.out.push_str("\\e"),
                '\u{85}' => self.out.push_str("\\N"),
                '\u{2028}' => self.out.push_str("\\L"),
                '\u{2029}' => self.out.push_str("\\P"),
                c if printable(c) => self.out.push(c),
                c if u32::from(c) <= 0xff => {
                    let _ = write!(self.out, "\\x{:02X}", u32::from(c));
                }
                c if u32::from(c) <= 0xffff => {
                    let _ = write!(self.out, "\\u{:04X}", u32::from(c));
                }
                c => {
                    let _ = write!(self.out, "\\U{:08X}", u32::from(c));
                }
            }
            spaces = false;
        }
        self.out.push('"');
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.out.push('|');
        if text.starts_with([' ', '\n']) {
            self.out.push('2');
        }
        if !text.ends_with('\n') {
            self.out.push('-');
        } else if text == "\n" || text.ends_with("\n\n") {
            self.out.push('+');
        }
        let body = text.strip_suffix('\n').unwrap_or(text);
        for line in body.split('\n') {
            if line.is_empty() {
                self.out.push('\n');
            } else {
                self.new_line(indent);
                self.out.push_str(line);
            }
        }
    }
}

/// Digits count as numbers, letters come after everything else.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let number = |text: &[char], from: usize| {
        let digits = text[from..].iter().take_while(|c| c.is_ascii_digit());
        digits.fold((0u64, 0usize), |(n, len), c| {
            (n.wrapping_mul(10).wrapping_add(u64::from(u32::from(*c) - u32::from('0'))), len + 1)
        })
    };
    for i in 0..a.len().min(b.len()) {
        let (x, y) = (a[i], b[i]);
        if x == y {
            continue;
        }
        return match (x.is_alphabetic(), y.is_alphabetic()) {
            (true, true) => x.cmp(&y),
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let (n, m) = (number(&a, i), number(&b, i));
                n.cmp(&m).then(x.cmp(&y))
            }
        };
    }
    a.len().cmp(&b.len())
}

fn printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
        && !matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}')
}

/// Which styles can carry a text.
struct Analysis {
    plain: bool,
    single: bool,
    block: bool,
}

impl Analysis {
    fn of(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut a = Self { plain: true, single: true, block: true };
        let (Some(&first), Some(&last)) = (chars.first(), chars.last()) else {
            return Self { plain: false, single: true, block: false };
        };
        let blank = |c: Option<&char>| c.is_none_or(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
        if text.starts_with("---") || text.starts_with("...") {
            a.plain = false;
        }
        for (i, &c) in chars.iter().enumerate() {
            let followed = blank(chars.get(i + 1));
            let preceded = i == 0 || blank(chars.get(i - 1));
            let indicator = if i == 0 {
                "#,[]{}&*!|>'\"%@`".contains(c) || (matches!(c, '?' | ':' | '-') && followed)
            } else {
                (c == ':' && followed) || (c == '#' && preceded)
            };
            if indicator {
                a.plain = false;
            }
            if c != '\n' && !printable(c) {
                a = Self { plain: false, single: false, block: false };
                return a;
            }
        }
        if first == ' ' || last == ' ' {
            a.plain = false;
        }
        if last == ' ' {
            a.block = false;
        }
        if text.contains(" \n") {
            a = Self { plain: false, single: false, block: false };
        } else if text.contains("\n ") {
            a.plain = false;
            a.single = false;
        }
        a
    }
}

/// Whether a plain scalar would be read back as text, and not as a number, a boolean, nothing, or a time.
fn is_text(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "n",
        "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf",
        ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", "<<",
    ];
    if WORDS.contains(&text) {
        return false;
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return true;
    }
    !(is_number(text) || is_time(text) || is_base_60(text))
}

fn is_number(text: &str) -> bool {
    let bare: String = text.chars().filter(|c| *c != '_').collect();
    let unsigned = bare.strip_prefix(['+', '-']).unwrap_or(&bare);
    let digits = |t: &str, base: u32| !t.is_empty() && t.chars().all(|c| c.is_digit(base));
    for (prefix, base) in [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)] {
        if let Some(rest) = unsigned.strip_prefix(prefix) {
            return digits(rest, base);
        }
    }
    // [-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e)),
        None => (unsigned, None),
    };
    if exponent.is_some_and(|e| !digits(e.strip_prefix(['+', '-']).unwrap_or(e), 10)) {
        return false;
    }
    match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction, 10),
        Some((whole, fraction)) => digits(whole, 10) && (fraction.is_empty() || digits(fraction, 10)),
        None => digits(mantissa, 10),
    }
}

/// `1:30`, which YAML 1.1 reads as 90.
fn is_base_60(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = text.split(':');
    let head = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let sixty = |t: &str| {
        (1..=2).contains(&t.len()) && t.chars().all(|c| c.is_ascii_digit()) && t.parse::<u8>().is_ok_and(|n| n < 60)
    };
    !rest.is_empty()
        && head.starts_with(|c: char| c.is_ascii_digit())
        && head.chars().all(|c| c.is_ascii_digit() || c == '_')
        && rest.iter().enumerate().all(|(i, t)| {
            let t = if i + 1 == rest.len() { t.split('.').next().unwrap_or_default() } else { t };
            sixty(t)
        })
}

/// `2026-01-02`, `2026-01-02T03:04:05Z`, `2026-01-02 03:04:05`.
fn is_time(text: &str) -> bool {
    let (date, clock) = match text.split_once(['T', 't', ' ']) {
        Some((date, clock)) => (date, Some(clock)),
        None => (text, None),
    };
    let number = |t: &str, max: u32| (1..=2).contains(&t.len()) && t.parse::<u32>().is_ok_and(|n| n <= max);
    let parts: Vec<&str> = date.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    if year.len() != 4 || !year.chars().all(|c| c.is_ascii_digit()) || !number(month, 12) || !number(day, 31) {
        return false;
    }
    let Some(clock) = clock else { return true };
    let zoneless = text.contains(' ');
    let body = match clock.strip_suffix('Z') {
        Some(body) if !zoneless => body,
        Some(_) => return false,
        None if zoneless => clock,
        None => match clock.rfind(['+', '-']) {
            Some(at) => &clock[..at],
            None => return false,
        },
    };
    let parts: Vec<&str> = body.split(':').collect();
    let [h, m, s] = parts[..] else { return false };
    number(h, 23) && number(m, 59) && number(s.split('.').next().unwrap_or_default(), 59)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn laid_out_as_kubectl_does() {
        let value = json!({
            "apiVersion": "v1", "kind": "X", "b": {}, "a": [], "n": null, "t": true, "i": 3,
            "list": [{"name": "a", "args": ["-c", "x: y", "- z"]}, ["p", "q"]],
            "data": {"k10": "1", "k9": "x", "A": "yes", "multi": "a\nb\n", "open": "a\nb", "empty": ""},
        });
        let expected = "\
a: []
apiVersion: v1
b: {}
data:
  A: \"yes\"
  empty: \"\"
  k9: x
  k10: \"1\"
  multi: |
    a
    b
  open: |-
    a
    b
i: 3
kind: X
list:
- args:
  - -c
  - 'x: y'
  - '- z'
  name: a
- - p
  - q
\"n\": null
t: true
";
        assert_eq!(to_yaml(&value), expected);
    }

    #[test]
    fn what_would_be_read_as_something_else_is_quoted() {
        for (text, expected) in [
            ("2026-01-02T03:04:05Z", "\"2026-01-02T03:04:05Z\""),
            ("2026-01-02", "\"2026-01-02\""),
            ("10.42.0.0/16", "10.42.0.0/16"),
            ("1.5", "\"1.5\""),
            ("0x1F", "\"0x1F\""),
            ("1e3", "\"1e3\""),
            ("12:30", "\"12:30\""),
            ("100m", "100m"),
            ("off", "\"off\""),
            ("*", "'*'"),
            ("a #b", "'a #b'"),
            ("it's", "it's"),
            ("'q'", "'''q'''"),
            (" x", "' x'"),
            ("tab\there", "\"tab\\there\""),
            ("{}", "'{}'"),
            ("key:", "'key:'"),
            ("a:b", "a:b"),
            ("é", "é"),
            ("-", "'-'"),
            ("-x", "-x"),
            ("v1.36", "v1.36"),
        ] {
            assert_eq!(to_yaml(&json!({"v": text})), format!("v: {expected}\n"), "{text}");
        }
    }

    #[test]
    fn long_lines_are_folded() {
        let long = "word ".repeat(30);
        let text = to_yaml(&json!({"message": long.trim_end()}));
        assert!(text.lines().count() == 2 && text.lines().nth(1).is_some_and(|l| l.starts_with("  word")), "{text}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(text in "[ -~éß\n\t]{0,120}", key in "[a-z0-9./_-]{1,12}") {
            let value = json!({"list": [{"s": &text}, &text], key: text});
            let back: Value = serde_yaml_ng::from_str(&to_yaml(&value)).unwrap();
            prop_assert_eq!(back, value);
        }
    }
}
