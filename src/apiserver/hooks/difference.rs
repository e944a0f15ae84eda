//! What differs between two values, as people read it: a unified difference of their indented JSON.
//!
//! Source: apimachinery `pkg/util/diff/diff.go`. Upstream shows its internal types, whose fields are named with capitals.

use serde_json::{Map, Value};

/// Lines around a change.
const CONTEXT: usize = 3;
/// Longer texts are not compared line by line: the time it takes grows with the square.
const LINES_MAX: usize = 400;

/// Hunks of lines that are gone (`-`), new (`+`) or around them; nothing for equal values.
pub fn difference(old: &Value, new: &Value) -> String {
    let (old, new) = (lines(old), lines(new));
    if old.len() > LINES_MAX || new.len() > LINES_MAX {
        return String::new();
    }
    hunks(&old, &new)
}

fn lines(value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    let written = serde::Serialize::serialize(&capitalized(value), &mut serializer);
    if written.is_err() {
        return Vec::new();
    }
    String::from_utf8_lossy(&out).lines().map(str::to_owned).collect()
}

fn capitalized(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| {
                let mut name = key.clone();
                if let Some(first) = name.get_mut(..1) {
                    first.make_ascii_uppercase();
                }
                (name, capitalized(value))
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(capitalized).collect(),
        other => other.clone(),
    }
}

#[derive(Clone, Copy)]
enum Edit {
    Keep(usize, usize),
    Drop(usize, usize),
    Add(usize, usize),
}

/// The shortest way from one to the other.
fn edits(old: &[String], new: &[String]) -> Vec<Edit> {
    let width = new.len() + 1;
    // how many lines the tails have in common
    let mut common = vec![0usize; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut edits = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            edits.push(Edit::Keep(i, j));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]) {
            edits.push(Edit::Drop(i, j));
            i += 1;
        } else {
            edits.push(Edit::Add(i, j));
            j += 1;
        }
    }
    edits
}

fn hunks(old: &[String], new: &[String]) -> String {
    let edits = edits(old, new);
    let changes: Vec<usize> =
        edits.iter().enumerate().filter(|(_, e)| !matches!(e, Edit::Keep(..))).map(|(at, _)| at).collect();
    let mut out = String::new();
    let mut next = 0;
    while next < changes.len() {
        let from = changes[next].saturating_sub(CONTEXT);
        let mut last = changes[next];
        while next < changes.len() && changes[next] <= last + 2 * CONTEXT {
            last = changes[next];
            next += 1;
        }
        hunk(&edits[from..(last + CONTEXT + 1).min(edits.len())], old, new, &mut out);
    }
    out
}

fn hunk(edits: &[Edit], old: &[String], new: &[String], out: &mut String) {
    let Some(Edit::Keep(i, j) | Edit::Drop(i, j) | Edit::Add(i, j)) = edits.first().copied() else { return };
    let dropped = edits.iter().filter(|e| !matches!(e, Edit::Add(..))).count();
    let added = edits.iter().filter(|e| !matches!(e, Edit::Drop(..))).count();
    out.push_str(&format!("@@ -{} +{} @@\n", range(i, dropped), range(j, added)));
    for edit in edits {
        let (mark, line) = match *edit {
            Edit::Keep(i, _) => (' ', &old[i]),
            Edit::Drop(i, _) => ('-', &old[i]),
            Edit::Add(_, j) => ('+', &new[j]),
        };
        out.push(mark);
        out.push_str(line);
        out.push('\n');
    }
}

fn range(start: usize, length: usize) -> String {
    match length {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        _ => format!("{},{length}", start + 1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_unified() {
        let old = json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "volumeName": "a"});
        let new = json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "volumeName": "b"});
        let expected = "@@ -3,5 +3,5 @@\n   \"ReadWriteOnce\"\n  ],\n  \"VolumeMode\": \"Filesystem\",\n- \"VolumeName\": \
                        \"a\"\n+ \"VolumeName\": \"b\"\n }\n";
        assert_eq!(difference(&old, &new), expected);
        assert_eq!(difference(&old, &old), "");
    }
}
