//! What names, labels and annotations may look like. Each check returns upstream's messages; none means valid.
//!
//! Source: apimachinery `pkg/util/validation/validation.go`, `pkg/api/validation/generic.go`.

use crate::field::{FieldError, Path};

pub const LABEL_MAX: usize = 63;
pub const SUBDOMAIN_MAX: usize = 253;
/// All annotations of an object together, keys and values.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

const LABEL_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
pub const SUBDOMAIN_FORM: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035_FORM: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE_FORM: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";

pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

pub fn form(what: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}'")).collect();
    format!("{what} (e.g. {}, regex used for validation is '{regex}')", examples.join(",  or "))
}

fn lower_alphanumeric(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    matches!((b.first(), b.last()), (Some(f), Some(l)) if lower_alphanumeric(*f) && lower_alphanumeric(*l))
        && b.iter().all(|c| lower_alphanumeric(*c) || *c == b'-')
}

fn is_qualified_part(s: &str) -> bool {
    let b = s.as_bytes();
    matches!((b.first(), b.last()), (Some(f), Some(l)) if f.is_ascii_alphanumeric() && l.is_ascii_alphanumeric())
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// RFC 1123 label: at most 63 of lower-case letters, digits and inner dashes.
pub fn dns1123_label(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !is_label(s) {
        errors.push(form(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character",
            LABEL_FORM,
            &["my-name", "123-abc"],
        ));
    }
    errors
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 bytes.
pub fn dns1123_subdomain(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if !s.split('.').all(is_label) {
        errors.push(form(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            SUBDOMAIN_FORM,
            &["example.com"],
        ));
    }
    errors
}

/// RFC 1035 label: as an RFC 1123 label, but beginning with a letter.
pub fn dns1035_label(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !is_label(s) || !s.starts_with(|c: char| c.is_ascii_lowercase()) {
        errors.push(form(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            DNS1035_FORM,
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// A path segment, as RBAC names are: anything but `.`, `..`, `/` and `%`.
pub fn path_segment(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s == "." || s == ".." {
        errors.push(format!("may not be '{s}'"));
    }
    for bad in ["/", "%"] {
        if s.contains(bad) {
            errors.push(format!("may not contain '{bad}'"));
        }
    }
    errors
}

/// A label or annotation key, a taint key, a finalizer: an optional DNS prefix, a slash, a name of at most 63.
pub fn qualified_name(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name =
        match s.split_once('/') {
            None => s,
            Some((_, name)) if name.contains('/') => {
                errors.push(form(
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                 with an alphanumeric character",
                QUALIFIED_FORM,
                &["MyName", "my.name", "123-abc"],
            ) + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')");
                return errors;
            }
            Some((prefix, name)) => {
                if prefix.is_empty() {
                    errors.push("prefix part must be non-empty".into());
                } else {
                    errors.extend(dns1123_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
                }
                name
            }
        };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        errors.push(
            "name part ".to_owned()
                + &form(
                    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                     alphanumeric character",
                    QUALIFIED_FORM,
                    &["MyName", "my.name", "123-abc"],
                ),
        );
    }
    errors
}

/// A label's value: empty, or at most 63 of letters, digits and inner `-`, `_`, `.`.
pub fn label_value(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > LABEL_MAX {
        errors.push(too_long(LABEL_MAX));
    }
    if !s.is_empty() && !is_qualified_part(s) {
        errors.push(form(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            LABEL_VALUE_FORM,
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn config_key(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > SUBDOMAIN_MAX {
        errors.push(too_long(SUBDOMAIN_MAX));
    }
    if s.is_empty() || !s.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')) {
        errors.push(form(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if s == "." || s == ".." {
        errors.push(format!("must not be '{s}'"));
    } else if s.starts_with("..") {
        errors.push("must not start with '..'".into());
    }
    errors
}

/// Errors of a label map at `path`.
pub fn labels<'a>(path: &Path, labels: impl Iterator<Item = (&'a String, Option<&'a str>)>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels {
        errors.extend(qualified_name(key).into_iter().map(|e| FieldError::invalid(path, key, e)));
        match value {
            Some(v) => errors.extend(label_value(v).into_iter().map(|e| FieldError::invalid(path, v, e))),
            None => errors.push(FieldError::invalid(path, key, "must be a string")),
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses() {
        let long = "a".repeat(64);
        for (check, good, bad) in [
            (dns1123_label as fn(&str) -> Vec<String>, vec!["a", "a-1", "1"], vec!["", "A", "-a", "a.", long.as_str()]),
            (dns1123_subdomain, vec!["a.b", "a"], vec!["a..b", ".a", "a_b"]),
            (dns1035_label, vec!["a1"], vec!["1a", ""]),
            (qualified_name, vec!["a", "x.io/Y_z", "A.b"], vec!["", "/a", "a/", "a/b/c", "X.io/a"]),
            (label_value, vec!["", "A_b.c"], vec!["-a", "a b", long.as_str()]),
            (config_key, vec![".a", "A-b_c.d"], vec!["", ".", "..", "..a", "a/b"]),
            (path_segment, vec!["system:node"], vec!["a/b", ".", "%"]),
        ] {
            for name in good {
                assert_eq!(check(name), Vec::<String>::new(), "{name:?}");
            }
            for name in bad {
                assert!(!check(name).is_empty(), "{name:?}");
            }
        }
    }

    #[test]
    fn text_is_upstreams() {
        assert_eq!(
            dns1123_label("A"),
            vec![
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
    }
}
