//! The parameters of a log request, checked before an agent is asked.
//!
//! Source: `pkg/apis/core/validation` `ValidatePodLogOptions`, apimachinery `pkg/runtime/converter.go`.

use types::field::{FieldError, Path};
use types::status::Status;

use super::options;
use crate::http::query::Query;

const STREAMS: &[&str] = &["All", "Stderr", "Stdout"];

/// # Errors
/// 400 for what is no number or time, 422 for values that make no sense.
pub(super) fn check(pod: &str, query: &Query) -> Result<(), Status> {
    let number = |name: &str| match query.text(name) {
        None => Ok(None),
        Some(text) => text
            .parse::<i64>()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
    };
    let (tail, limit, seconds) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let time = query.text("sinceTime");
    if let Some(text) = time.filter(|t| t.parse::<jiff::Timestamp>().is_err()) {
        return Err(Status::bad_request(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
        )));
    }
    let mut errors = Vec::new();
    let mut invalid = |name: &str, value: i64, why: &str| {
        errors.push(FieldError::invalid(&Path::new(name), value, why));
    };
    if let Some(lines) = tail.filter(|n| *n < 0) {
        invalid("tailLines", lines, "must be greater than or equal to 0");
    }
    if let Some(bytes) = limit.filter(|n| *n < 1) {
        invalid("limitBytes", bytes, "must be greater than 0");
    }
    match (seconds, time) {
        (Some(_), Some(_)) => errors.push(FieldError::forbidden(
            &Path::new(""),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        )),
        (Some(n), None) if n < 1 => invalid("sinceSeconds", n, "must be greater than 0"),
        _ => {}
    }
    if let Some(stream) = query.text("stream") {
        if !STREAMS.contains(&stream) {
            errors.push(FieldError::not_supported(&Path::new("stream"), stream, STREAMS));
        }
        if stream != "All" && tail.is_some() {
            let why = "`tailLines` and specific `stream` are mutually exclusive for now";
            errors.push(FieldError::forbidden(&Path::new(""), why));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(options::invalid_named("", "PodLogOptions", pod, &errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        for (query, expected) in [
            ("follow=true&tailLines=0&limitBytes=1&sinceSeconds=1&timestamps=true&previous=false", None),
            ("sinceTime=2026-01-01T00:00:00Z&stream=Stdout", None),
            ("tailLines=x", Some((400, "strconv.ParseInt: parsing \"x\": invalid syntax"))),
            (
                "sinceTime=soon",
                Some((400, r#"parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#)),
            ),
            (
                "tailLines=-1",
                Some((
                    422,
                    "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
                )),
            ),
            (
                "limitBytes=0",
                Some((422, "PodLogOptions \"p\" is invalid: limitBytes: Invalid value: 0: must be greater than 0")),
            ),
            (
                "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
                Some((
                    422,
                    "PodLogOptions \"p\" is invalid: <nil>: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
                )),
            ),
        ] {
            let found = check("p", &Query::parse(Some(query))).err().map(|s| (s.code, s.message));
            assert_eq!(found, expected.map(|(code, text)| (code, text.to_owned())), "{query}");
        }
    }
}
