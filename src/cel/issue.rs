//! What is wrong with the text of an expression, told as cel-go tells it: place, message, the line and a caret.
//!
//! Source: cel-go `common/error.go`, `common/errors.go`.

/// Longer lines are not repeated below the message. Source: cel-go `maxSnippetLength`.
const SNIPPET_BYTES_MAX: usize = 16_384;
/// Source: cel-go `common/errors.go` `maxErrorsToReport`.
pub const ISSUES_MAX: usize = 100;

/// One error about an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Where, in code points from the start of the text.
    pub at: u32,
    pub message: String,
}

impl Issue {
    pub fn new(at: u32, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

/// Line (from 1) and column (from 0) of a position, with the line itself.
fn locate(text: &str, at: u32) -> (usize, usize, &str) {
    let mut left = at as usize;
    let mut found = (1, 0, "");
    for (i, line) in text.split('\n').enumerate() {
        let length = line.chars().count();
        found = (i + 1, left.min(length), line);
        if left <= length {
            break;
        }
        left -= length + 1;
    }
    found
}

fn render_one(text: &str, issue: &Issue) -> String {
    let (line, column, source) = locate(text, issue.at);
    let mut out = format!("ERROR: <input>:{line}:{}: {}", column + 1, issue.message);
    if source.len() > SNIPPET_BYTES_MAX {
        return out;
    }
    let source = source.replace('\t', " ");
    out.push_str("\n | ");
    out.push_str(&source);
    out.push_str("\n | ");
    let mut rest = source.chars();
    for c in rest.by_ref().take(column) {
        out.push(if c.len_utf8() > 1 { '\u{ff0e}' } else { '.' });
    }
    out.push(if rest.next().is_some_and(|c| c.len_utf8() > 1) { '\u{ff3e}' } else { '^' });
    out
}

/// All issues as one text, in the order of their places.
pub fn render(text: &str, issues: &[Issue]) -> String {
    let mut sorted: Vec<&Issue> = issues.iter().take(ISSUES_MAX).collect();
    sorted.sort_by_key(|issue| issue.at);
    let mut lines: Vec<String> = sorted.into_iter().map(|issue| render_one(text, issue)).collect();
    if issues.len() > ISSUES_MAX {
        lines.push(format!("{} more errors were truncated", issues.len() - ISSUES_MAX));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_at_the_place() {
        assert_eq!(
            render("a +\n\tfoo", &[Issue::new(5, "undeclared reference to 'foo' (in container '')")]),
            "ERROR: <input>:2:2: undeclared reference to 'foo' (in container '')\n |  foo\n | .^"
        );
        assert_eq!(render("'é' + x", &[Issue::new(6, "m")]), "ERROR: <input>:1:7: m\n | 'é' + x\n | .．....^");
    }
}
