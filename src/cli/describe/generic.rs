//! Kinds that nobody wrote a page for: every field, under a title made from its name.

use serde_json::Value;

use super::Facts;
use super::page::Page;

const ACRONYMS: [&str; 4] = ["API", "URL", "UID", "GUID"];
/// Shown at the head of the page, or not at all.
const SKIPPED: [&str; 5] =
    [".metadata.managedFields", ".metadata.name", ".metadata.namespace", ".metadata.labels", ".metadata.annotations"];

pub fn generic(page: &mut Page, facts: &Facts<'_>) {
    page.head(facts.object);
    fields(page, 0, facts.object, "");
    facts.write_events(page);
}

fn fields(page: &mut Page, level: usize, object: &Value, path: &str) {
    for (name, value) in object.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if SKIPPED.contains(&path.as_str()) {
            continue;
        }
        match value {
            Value::Object(_) => {
                page.line(level, format!("{}:", title(name)));
                fields(page, level + 1, value, &path);
            }
            Value::Array(items) => {
                page.line(level, format!("{}:", title(name)));
                for item in items {
                    match item {
                        Value::Object(_) => fields(page, level + 1, item, &path),
                        other => page.line(level + 1, go_text(other)),
                    }
                }
            }
            other => page.field(level, &title(name), go_text(other)),
        }
    }
}

/// As Go prints a value of a JSON document.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => crate::jsonpath::show(other),
    }
}

/// `creationTimestamp` as `Creation Timestamp`; a name with other characters than letters stays as it is.
fn title(field: &str) -> String {
    if field.chars().any(|c| !c.is_alphabetic() && c != '-') {
        return field.to_owned();
    }
    let mut words: Vec<String> = Vec::new();
    let parts = camel_case(field);
    let mut parts = parts.into_iter().peekable();
    while let Some(mut part) = parts.next() {
        let is_upper = part.len() >= 2 && part.chars().all(|c| !c.is_alphabetic() || c.is_uppercase());
        if is_upper && parts.peek().is_some_and(|next| next.starts_with(char::is_uppercase)) {
            // `URLPath` is one word.
            part.push_str(&parts.next().unwrap_or_default());
        }
        words.push(part);
    }
    let shown = words.into_iter().map(|word| {
        let upper = word.to_uppercase();
        if ACRONYMS.contains(&upper.as_str()) {
            upper
        } else if word.to_lowercase() == word {
            let mut chars = word.chars();
            chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
        } else {
            word
        }
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// The words of a name in camel case. A run of capitals is a word, but its last begins the next one when that is of small
/// letters; other characters are words too.
fn camel_case(name: &str) -> Vec<String> {
    #[derive(PartialEq, Clone, Copy)]
    enum Class {
        Lower,
        Upper,
        Other,
    }
    let class = |c: char| match c {
        c if c.is_lowercase() => Class::Lower,
        c if c.is_uppercase() => Class::Upper,
        _ => Class::Other,
    };
    let mut runs: Vec<(Class, String)> = Vec::new();
    for c in name.chars() {
        match runs.last_mut() {
            Some((last, run)) if *last == class(c) => run.push(c),
            _ => runs.push((class(c), c.to_string())),
        }
    }
    for i in 0..runs.len().saturating_sub(1) {
        if runs[i].0 == Class::Upper
            && runs[i + 1].0 == Class::Lower
            && let Some(last) = runs[i].1.pop()
        {
            runs[i + 1].1.insert(0, last);
        }
    }
    runs.into_iter().map(|(_, run)| run).filter(|run| !run.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        for (field, expected) in [
            ("apiVersion", "API Version"),
            ("kind", "Kind"),
            ("creationTimestamp", "Creation Timestamp"),
            ("uid", "UID"),
            ("holderIdentity", "Holder Identity"),
            ("podIPs", "Pod I Ps"),
            ("clusterIP", "Cluster IP"),
            ("f:x", "f:x"),
            ("a.b", "a.b"),
        ] {
            assert_eq!(title(field), expected, "{field}");
        }
    }
}
