//! The page that a description is written on: indented lines whose tabs become columns, and what many kinds show alike.
//!
//! Source: kubectl `pkg/describe/describe.go` for the layout; Go's `text/tabwriter` (padding 2, no least width) for columns.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::manifest::text;

/// Blanks between a column and the next.
const PADDING: usize = 2;
/// Longest annotation that is shown on its key's line.
const ANNOTATION_MAX: usize = 140;
/// What `apply` remembers is for machines.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub const NONE: &str = "<none>";
pub const UNSET: &str = "<unset>";

/// Text whose columns are laid out when it is done; a column reaches over neighbouring lines that have it.
#[derive(Debug, Default)]
pub struct Page {
    pending: String,
    done: String,
}

impl Page {
    /// A line at an indentation of `level` steps.
    pub fn line(&mut self, level: usize, line: impl AsRef<str>) {
        self.part(level, line);
        self.pending.push('\n');
    }

    /// As [`Page::line`], without ending the line.
    pub fn part(&mut self, level: usize, part: impl AsRef<str>) {
        self.pending.extend(std::iter::repeat_n("  ", level));
        self.pending.push_str(&crate::terminal::escape(part.as_ref()));
    }

    /// `Title:  value`.
    pub fn field(&mut self, level: usize, title: &str, value: impl std::fmt::Display) {
        self.line(level, format!("{title}:\t{value}"));
    }

    /// As [`Page::field`], when there is a value.
    pub fn field_if(&mut self, level: usize, title: &str, value: &str) {
        if !value.is_empty() {
            self.field(level, title, value);
        }
    }

    /// Lines that follow share no columns with those before.
    pub fn flush(&mut self) {
        let text = std::mem::take(&mut self.pending);
        self.done.push_str(&lay_out(&text));
    }

    pub fn finish(mut self) -> String {
        self.flush();
        self.done
    }

    /// The text with its tabs.
    pub fn raw(self) -> String {
        self.done + &self.pending
    }

    /// `key=value` lines under a title. `indent` stands before the title and every line after the first.
    pub fn pairs(&mut self, indent: &str, title: &str, pairs: &BTreeMap<String, String>) {
        let lines: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        self.block(indent, title, &lines);
    }

    /// Lines in the column beside a title; `<none>` for no line.
    pub fn block(&mut self, indent: &str, title: &str, lines: &[String]) {
        let Some((first, rest)) = lines.split_first() else {
            return self.line(0, format!("{indent}{title}:\t{NONE}"));
        };
        self.line(0, format!("{indent}{title}:\t{first}"));
        for line in rest {
            self.line(0, format!("{indent}\t{line}"));
        }
    }

    pub fn labels(&mut self, object: &Value) {
        self.pairs("", "Labels", &map(object, "/metadata/labels"));
    }

    /// Annotations; long ones and those of several lines below their key.
    pub fn annotations(&mut self, title: &str, object: &Value) {
        let mut shown = map(object, "/metadata/annotations");
        shown.remove(LAST_APPLIED);
        let mut lines = Vec::new();
        for (key, value) in &shown {
            let value = value.strip_suffix('\n').unwrap_or(value);
            if value.len() + key.len() + 2 > ANNOTATION_MAX || value.contains('\n') {
                lines.push(format!("{key}:"));
                lines.extend(value.split('\n').map(|line| format!("  {}", shorten(line, ANNOTATION_MAX - 2))));
            } else {
                lines.push(format!("{key}: {value}"));
            }
        }
        let Some((first, rest)) = lines.split_first() else { return self.line(0, format!("{title}:\t{NONE}")) };
        self.line(0, format!("{title}:\t{first}"));
        for line in rest {
            self.line(0, format!("\t{line}"));
        }
    }

    /// Name, namespace, labels and annotations: how most descriptions begin.
    pub fn head(&mut self, object: &Value) {
        self.field(0, "Name", text(object, "/metadata/name"));
        self.field(0, "Namespace", text(object, "/metadata/namespace"));
        self.labels(object);
        self.annotations("Annotations", object);
    }

    /// As [`Page::head`] for what has no namespace.
    pub fn head_without_namespace(&mut self, object: &Value) {
        self.field(0, "Name", text(object, "/metadata/name"));
        self.labels(object);
        self.annotations("Annotations", object);
    }
}

fn shorten(text: &str, length: usize) -> String {
    match text.char_indices().map(|(i, _)| i).take_while(|i| *i <= length).last() {
        Some(at) if text.len() > length => format!("{}...", &text[..at]),
        _ => text.to_owned(),
    }
}

/// Puts cells that end in a tab into columns.
pub fn lay_out(text: &str) -> String {
    let Some(body) = text.strip_suffix('\n').or(Some(text)).filter(|t| !t.is_empty() || text == "\n") else {
        return String::new();
    };
    let lines: Vec<Vec<&str>> = body.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|line| vec![0; line.len() - 1]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or_default();
    for column in 0..columns {
        let mut at = 0;
        while at < lines.len() {
            let run = widths[at..].iter().take_while(|w| w.len() > column).count();
            let widest = lines[at..at + run].iter().map(|l| l[column].chars().count()).max().unwrap_or_default();
            widths[at..at + run].iter_mut().for_each(|w| w[column] = widest + PADDING);
            at += run.max(1);
        }
    }
    let mut out = String::with_capacity(text.len());
    for (line, widths) in lines.iter().zip(&widths) {
        for (i, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(i) {
                out.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
        }
        out.push('\n');
    }
    if !text.ends_with('\n') {
        out.pop();
    }
    out
}

// --- reading objects ---

pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub fn int(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

pub fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

/// A map of texts, in order.
pub fn map(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let map = object.pointer(pointer).and_then(Value::as_object);
    map.into_iter().flatten().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
}

pub fn strings<'a>(object: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(object, pointer).iter().filter_map(Value::as_str).collect()
}

/// The field as people write it: texts bare, numbers as numbers.
pub fn shown(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).map(crate::jsonpath::show).unwrap_or_default()
}

pub fn or<'a>(text: &'a str, instead: &'a str) -> &'a str {
    if text.is_empty() { instead } else { text }
}

/// `a=b,c=d`, or `<none>`.
pub fn pairs_text(pairs: &BTreeMap<String, String>) -> String {
    let text = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
    or(&text, NONE).to_owned()
}

/// A `metav1.LabelSelector` as text: `a=b,c in (d,e),!f`; `<none>` when it says nothing.
pub fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> =
        map(selector, "/matchLabels").into_iter().map(|(k, v)| (k.clone(), format!("{k}={v}"))).collect();
    for e in list(selector, "/matchExpressions") {
        let key = text(e, "/key");
        let mut values = strings(e, "/values");
        values.sort_unstable();
        let values = values.join(",");
        let part = match text(e, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        parts.push((key.to_owned(), part));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    let text = parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(",");
    or(&text, NONE).to_owned()
}

/// `Kind/name` of the controller that owns the object.
pub fn controller(object: &Value) -> Option<&Value> {
    list(object, "/metadata/ownerReferences").iter().find(|o| flag(o, "/controller"))
}

/// A time of the API in this place's zone, e.g. `Mon, 02 Jan 2006 15:04:05 -0700`.
pub fn date(at: &str, zone: &TimeZone) -> String {
    match at.parse::<Timestamp>() {
        Ok(at) => at.to_zoned(zone.clone()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
        // Go's zero time.
        Err(_) => "Mon, 01 Jan 0001 00:00:00 +0000".into(),
    }
}

pub fn yes(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// Go's way to print a list: `[a b]`.
pub fn bracketed(items: &[&str]) -> String {
    format!("[{}]", items.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_reach_over_neighbours_only() {
        for (text, expected) in [
            ("", ""),
            ("a\tb\nlong\tc\n", "a     b\nlong  c\n"),
            ("a\tb\nnone\nlong\tc\n", "a  b\nnone\nlong  c\n"),
            ("A\t\tB\nx\t\ty\n", "A    B\nx    y\n"),
            ("a \tb \n", "a   b \n"),
            ("a\t\tx\na\tlonger\ty\nb\tz\n", "a          x\na  longer  y\nb  z\n"),
            ("ü\tb\nxyz\tc", "ü    b\nxyz  c"),
        ] {
            assert_eq!(lay_out(text), expected, "{text:?}");
        }
    }

    #[test]
    fn annotations_fold() {
        let long = "x".repeat(150);
        let mut page = Page::default();
        page.annotations(
            "Annotations",
            &json!({"metadata": {"annotations": {"b": long, "a": "1", LAST_APPLIED: "{}", "c": "x\ny\n"}}}),
        );
        let expected = format!(
            "Annotations:  a: 1\n              b:\n                {}...\n              c:\n                x\n                y\n",
            &long[..138]
        );
        assert_eq!(page.finish(), expected);
        let mut none = Page::default();
        none.annotations("Annotations", &json!({"metadata": {"annotations": {LAST_APPLIED: "{}"}}}));
        assert_eq!(none.finish(), "Annotations:  <none>\n");
    }

    #[test]
    fn selectors_and_dates() {
        let s = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"},
            {"key": "d", "operator": "Exists"}]});
        assert_eq!(selector_text(&s), "a in (x,y),b=1,!c,d");
        assert_eq!(selector_text(&json!({})), "<none>");
        assert_eq!(date("2026-11-21T03:44:00Z", &TimeZone::UTC), "Sat, 21 Nov 2026 03:44:00 +0000");
        assert_eq!(date("", &TimeZone::UTC), "Mon, 01 Jan 0001 00:00:00 +0000");
    }
}
