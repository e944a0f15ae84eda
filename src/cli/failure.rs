//! How a verb fails: the line on standard error and the exit code.
//!
//! Source: kubectl `pkg/cmd/util/helpers.go` (`checkErr`, `StandardErrorMessage`) for the texts.

use client::TransportError;
use types::status::{Reason, Status};

/// Wrong usage that the argument parser could not see: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Ends with this code and no text: what had to be said was said.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub struct Exit(pub u8);

/// An API error about an object of a file.
#[derive(Debug, thiserror::Error)]
#[error("error when {doing} {file:?}: {source}")]
pub struct FromFile {
    pub doing: &'static str,
    pub file: String,
    pub source: client::Error,
}

/// Several things failed; the others were done.
#[derive(Debug, thiserror::Error)]
#[error("{} failures", .0.len())]
pub struct Several(pub Vec<anyhow::Error>);

/// `Ok`, the one error, or all of them.
pub fn all(mut errors: Vec<anyhow::Error>) -> anyhow::Result<()> {
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(Several(errors).into()),
    }
}

pub fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// Lines for standard error, and the exit code.
pub fn report(error: &anyhow::Error) -> (Vec<String>, u8) {
    if let Some(Exit(code)) = error.downcast_ref() {
        return (Vec::new(), *code);
    }
    if let Some(Several(errors)) = error.downcast_ref() {
        let mut lines = Vec::new();
        for error in errors {
            lines.extend(report(error).0);
        }
        return (lines, 1);
    }
    if let Some(Usage(text)) = error.downcast_ref() {
        return (vec![format!("error: {text}")], 2);
    }
    // A reader that went away (`kedge get pods | head`) needs no words.
    if error
        .chain()
        .any(|e| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
        && error.downcast_ref::<client::Error>().is_none()
    {
        return (Vec::new(), 1);
    }
    if let Some(failed) = error.downcast_ref::<FromFile>() {
        let lines = match failed.source.status() {
            Some(status) if !status.is(Reason::Invalid) => {
                vec![server(status, &format!("error when {} {:?}: {}", failed.doing, failed.file, status.message))]
            }
            _ => api(&failed.source),
        };
        return (lines, 1);
    }
    if let Some(error) = error.downcast_ref::<client::Error>() {
        return (api(error), 1);
    }
    (vec![format!("error: {error:#}")], 1)
}

fn server(status: &Status, message: &str) -> String {
    if status.reason.is_empty() {
        format!("Error from server: {message}")
    } else {
        format!("Error from server ({}): {message}", status.reason)
    }
}

fn api(error: &client::Error) -> Vec<String> {
    match error {
        client::Error::Status(status) if status.is(Reason::Unauthorized) => {
            vec![format!("error: You must be logged in to the server ({})", status.message)]
        }
        client::Error::Status(status) if status.is(Reason::Invalid) => invalid(status),
        client::Error::Status(status) => vec![server(status, &status.message)],
        client::Error::Transport { source: TransportError::Connect(e), .. } => {
            vec![format!("Unable to connect to the server: {}", chain(&**e))]
        }
        other => vec![format!("error: {}", chain(other))],
    }
}

/// One line for one cause; a list for several.
fn invalid(status: &Status) -> Vec<String> {
    let Some(details) = status.details.as_deref() else {
        return vec![format!("The request is invalid: {}", status.message)];
    };
    let head = match details.name.is_empty() && details.kind.is_empty() {
        true => "The request is invalid".to_owned(),
        false => format!("The {} {:?} is invalid", details.kind, details.name),
    };
    let mut causes: Vec<String> = Vec::new();
    for cause in &details.causes {
        let text = format!("{}: {}", cause.field, cause.message);
        if !causes.contains(&text) {
            causes.push(text);
        }
    }
    match &causes[..] {
        [] => vec![format!("{head}: {}", status.message)],
        [one] => vec![format!("{head}: {one}")],
        many => std::iter::once(format!("{head}: ")).chain(many.iter().map(|c| format!("* {c}"))).collect(),
    }
}

/// An error and its causes on one line; a cause whose text is in its effect's is left out.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::status::{Cause, Details};

    fn status(reason: Reason, message: &str, causes: &[(&str, &str)]) -> anyhow::Error {
        let mut status = Status::new(reason, message);
        let causes = causes
            .iter()
            .map(|(f, m)| Cause { field: (*f).into(), message: (*m).into(), ..Cause::default() })
            .collect();
        status.details = Some(Box::new(Details { name: "x".into(), kind: "Pod".into(), causes, ..Details::default() }));
        client::Error::from(status).into()
    }

    #[test]
    fn errors_read_as_kubectls_do() {
        let rows = [
            (
                status(Reason::NotFound, "pods \"x\" not found", &[]),
                "Error from server (NotFound): pods \"x\" not found",
                1,
            ),
            (
                status(Reason::Invalid, "…", &[("spec.a", "Required value")]),
                "The Pod \"x\" is invalid: spec.a: Required value",
                1,
            ),
            (
                status(Reason::Invalid, "…", &[("a", "1"), ("b", "2"), ("b", "2")]),
                "The Pod \"x\" is invalid: \n* a: 1\n* b: 2",
                1,
            ),
            (
                status(Reason::Unauthorized, "Unauthorized", &[]),
                "error: You must be logged in to the server (Unauthorized)",
                1,
            ),
            (usage("resource name may not be empty"), "error: resource name may not be empty", 2),
            (anyhow::anyhow!("cause").context("effect"), "error: effect: cause", 1),
            (Exit(7).into(), "", 7),
            (
                FromFile {
                    doing: "creating",
                    file: "a.yaml".into(),
                    source: Status::new(Reason::Forbidden, "no").into(),
                }
                .into(),
                "Error from server (Forbidden): error when creating \"a.yaml\": no",
                1,
            ),
        ];
        for (error, text, code) in rows {
            let (lines, got) = report(&error);
            assert_eq!((lines.join("\n").as_str(), got), (text, code));
        }
        let both = all(vec![anyhow::anyhow!("a"), anyhow::anyhow!("b")]).unwrap_err();
        assert_eq!(report(&both), (vec!["error: a".into(), "error: b".into()], 1));
        assert!(all(Vec::new()).is_ok());
    }
}
