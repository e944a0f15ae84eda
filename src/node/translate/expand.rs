//! `$(NAME)` in commands, arguments, environment values and sub-paths. Pure.
//!
//! Source: `third_party/forked/golang/expansion/expand.go` (behaviour).

/// Replaces `$(NAME)` by what `lookup` knows; unknown names stay as written, `$$` is one `$`, and a `$` before anything else
/// stays. An opening without an end stays.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    expand_or(text, |name, out| match lookup(name) {
        Some(value) => out.push_str(value),
        None => {
            out.push_str("$(");
            out.push_str(name);
            out.push(')');
        }
    })
}

/// As [`expand`], but an unknown name is an error that names it (sub-paths must not be half expanded).
pub fn expand_strict<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> Result<String, String> {
    let mut missing = None;
    let text = expand_or(text, |name, out| match lookup(name) {
        Some(value) => out.push_str(value),
        None => missing = missing.take().or(Some(name.to_owned())),
    });
    match missing {
        Some(name) => Err(name),
        None => Ok(text),
    }
}

fn expand_or(text: &str, mut name: impl FnMut(&str, &mut String)) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('(') {
            match after.find(')') {
                Some(end) => {
                    name(&after[..end], &mut out);
                    rest = &after[end + 1..];
                }
                None => {
                    out.push_str("$(");
                    rest = after;
                }
            }
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let lookup = |name: &str| match name {
            "A" => Some("a"),
            "EMPTY" => Some(""),
            "NEST" => Some("$(A)"),
            _ => None,
        };
        for (input, expected) in [
            ("plain", "plain"),
            ("$(A)", "a"),
            ("x$(A)y$(A)", "xaya"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$$$$(A)", "$$(A)"),
            ("$(B)", "$(B)"),
            ("$(EMPTY)!", "!"),
            ("$(NEST)", "$(A)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$", "$"),
            ("a$", "a$"),
            ("$()", "$()"),
            ("ü$(A)ß", "üaß"),
        ] {
            assert_eq!(expand(input, lookup), expected, "{input}");
        }
        assert_eq!(expand_strict("x/$(A)", lookup), Ok("x/a".into()));
        assert_eq!(expand_strict("x/$(B)/$(C)", lookup), Err("B".into()));
    }
}
