//! The query parameters of list and watch, and the bodies of deletions, read and checked.
//!
//! Source: apimachinery `pkg/apis/meta/internalversion/validation/validation.go`, `pkg/apis/meta/v1/validation`.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::Value;
use types::field::{FieldError, Path};
use types::registry::Kind;
use types::selector::{FieldSelector, FieldTerm, LabelSelector};
use types::status::{Details, Reason, Status};

use super::facts;
use super::object;
use crate::http::query::Query;

/// What a list, watch or deletecollection is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// Fields of a custom kind are read from the object itself.
    custom: bool,
}

/// A field of an event in the newer group, by the name that the older one has for it.
///
/// Source: `pkg/apis/events/v1/conversion.go` `AddFieldLabelConversionsForEvent`.
fn newer_event_field(field: &str) -> Result<String, Status> {
    if let Some(part) = field.strip_prefix("regarding.") {
        return Ok(format!("involvedObject.{part}"));
    }
    match field {
        "reportingController" => Ok("reportingComponent".into()),
        "reason" | "type" | "metadata.name" | "metadata.namespace" => Ok(field.into()),
        _ => Err(Status::bad_request(format!("field label not supported: {field}"))),
    }
}

impl Selection {
    pub fn parse(kind: &Kind, query: &Query) -> Result<Self, Status> {
        let labels = match query.text("labelSelector") {
            None => LabelSelector::everything(),
            Some(text) => LabelSelector::parse(text).map_err(|e| Status::bad_request(label_error(&e.to_string())))?,
        };
        let mut fields = match query.text("fieldSelector") {
            None => FieldSelector::default(),
            Some(text) => FieldSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?,
        };
        for term in &mut fields.terms {
            if term.field == "spec.host" && kind.kind == "Pod" {
                term.field = "spec.nodeName".into();
            }
            if kind.group == "events.k8s.io" {
                term.field = newer_event_field(&term.field)?;
            }
            let known = term.field == "metadata.name"
                || (term.field == "metadata.namespace" && kind.namespaced())
                || kind.selectable_fields.iter().any(|f| *f == term.field);
            if !known {
                return Err(Status::bad_request(if kind.selectable_fields.is_empty() {
                    format!(
                        "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                        term.field
                    )
                } else {
                    format!("field label not supported: {}", term.field)
                }));
            }
        }
        let custom = kind.extension.is_some();
        Ok(Self { labels, fields, custom })
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether it depends on what an object says, which another version may say otherwise.
    pub fn reads_objects(&self) -> bool {
        self.custom && self.fields.terms.iter().any(|term| !is_place(&term.field))
    }

    /// What can be told of an object in any version.
    pub fn of_any_version(&self) -> Self {
        let told = |term: &&FieldTerm| !self.custom || is_place(&term.field);
        let terms = self.fields.terms.iter().filter(told).cloned().collect();
        Self { labels: self.labels.clone(), fields: FieldSelector { terms }, custom: self.custom }
    }

    /// Expects an object in the version that the selection is of when it [reads objects](Self::reads_objects).
    pub fn matches(&self, entry: &store::Entry) -> bool {
        if self.is_everything() {
            return true;
        }
        let facts = facts::facts(entry);
        if !self.labels.matches(&facts) {
            return false;
        }
        let (namespace, name) = place(entry.key());
        let mut object = None;
        self.fields.terms.iter().all(|term| {
            let value = match term.field.as_str() {
                "metadata.name" => Cow::Borrowed(name),
                "metadata.namespace" => Cow::Borrowed(namespace),
                field if self.custom => {
                    let object = object.get_or_insert_with(|| object::read(entry).unwrap_or_default());
                    Cow::Owned(facts::field_text(object, field))
                }
                field => Cow::Borrowed(facts.field(field)),
            };
            (value == term.value) == term.equal
        })
    }
}

fn is_place(field: &str) -> bool {
    matches!(field, "metadata.name" | "metadata.namespace")
}

/// Namespace and name in a store key.
pub fn place(key: &str) -> (&str, &str) {
    let mut parts = key.rsplitn(3, '/');
    let name = parts.next().unwrap_or_default();
    (parts.next().unwrap_or_default(), name)
}

/// Errors inside a requirement carry a prefix that those between requirements do not.
fn label_error(text: &str) -> String {
    if text.contains("'end of string'") || text.contains("identifier after ','") {
        text.to_owned()
    } else {
        format!("unable to parse requirement: {text}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    Unset,
    NotOlderThan,
    Exact,
}

/// Longer watches end here: as good as never, and far from where clocks end.
const TIMEOUT_SECONDS_MAX: u64 = u32::MAX as u64;

/// The options of a list or watch.
#[derive(Debug, Clone)]
pub struct ListOptions {
    pub limit: Option<usize>,
    pub continue_token: Option<String>,
    /// `None`: not given.
    pub resource_version: Option<u64>,
    pub version_match: Match,
    pub send_initial_events: Option<bool>,
    pub bookmarks: bool,
    pub timeout_seconds: Option<u64>,
}

impl ListOptions {
    pub fn parse(query: &Query, watch: bool) -> Result<Self, Status> {
        let number = |name: &str| match query.text(name) {
            None => Ok(None),
            Some(text) => text
                .parse::<i64>()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        };
        let rv_text = query.text("resourceVersion");
        let resource_version = match rv_text {
            None => None,
            Some(text) => Some(text.parse::<u64>().map_err(|_| {
                Status::bad_request(format!(
                    "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
                ))
            })?),
        };
        let match_text = query.text("resourceVersionMatch");
        let send_initial_events = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        let continue_token = query.text("continue").map(str::to_owned);
        let mut errors = Vec::new();
        let path = Path::new("resourceVersionMatch");
        let mut forbid = |text: &str| errors.push(FieldError::forbidden(&path, text));
        if watch {
            match (match_text, send_initial_events) {
                (Some(_), None) => {
                    forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
                }
                (other, Some(_)) if other != Some("NotOlderThan") => {
                    forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
                }
                _ => {}
            }
        } else if let Some(text) = match_text {
            if rv_text.is_none() {
                forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if continue_token.is_some() {
                forbid("resourceVersionMatch is forbidden when continue is provided");
            }
            if text == "Exact" && resource_version == Some(0) {
                forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if let Some(text) = match_text.filter(|t| !matches!(*t, "Exact" | "NotOlderThan")) {
            errors.push(FieldError::not_supported(&path, text, &["Exact", "NotOlderThan", ""]));
        }
        if send_initial_events.is_some() && !watch {
            errors.push(FieldError::forbidden(
                &Path::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            ));
        }
        if !errors.is_empty() {
            return Err(invalid("meta.k8s.io", "ListOptions", &errors));
        }
        let version_match = match match_text {
            Some("Exact") => Match::Exact,
            Some("NotOlderThan") => Match::NotOlderThan,
            _ => Match::Unset,
        };
        Ok(Self {
            limit: number("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0),
            continue_token,
            resource_version,
            version_match,
            send_initial_events,
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: number("timeoutSeconds")?
                .and_then(|n| u64::try_from(n).ok())
                .filter(|n| *n > 0)
                .map(|n| n.min(TIMEOUT_SECONDS_MAX)),
        })
    }
}

/// 422 about an options kind, which is in no registry.
pub fn invalid(group: &str, kind: &str, errors: &[FieldError]) -> Status {
    invalid_named(group, kind, "", errors)
}

/// As [`invalid`], for options that go by the name of the object that they are about.
pub fn invalid_named(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Status {
    let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let list = match errors {
        [one] => one.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    let mut status = Status::new(Reason::Invalid, format!("{qualified} {name:?} is invalid: {list}"));
    status.details = Some(Box::new(Details {
        group: group.into(),
        kind: kind.into(),
        name: name.into(),
        causes: errors.iter().map(FieldError::cause).collect(),
        ..Details::default()
    }));
    status
}

/// Checks `fieldManager`.
///
/// # Errors
/// 422 for one that is too long or not printable. Source: `ValidateFieldManager`.
pub fn field_manager(query: &Query, kind: &str) -> Result<(), Status> {
    let Some(name) = query.text("fieldManager") else { return Ok(()) };
    let path = Path::new("fieldManager");
    let mut errors = Vec::new();
    if name.len() > crate::managed::MANAGER_BYTES_MAX {
        errors.push(FieldError::too_long(&path, crate::managed::MANAGER_BYTES_MAX));
    }
    errors.extend(name.char_indices().filter(|(_, c)| c.is_control()).map(|(at, c)| {
        FieldError::invalid(&path, name, format!("invalid character U+{:04X} (at position {at})", u32::from(c)))
    }));
    if errors.is_empty() { Ok(()) } else { Err(invalid("meta.k8s.io", kind, &errors)) }
}

/// Whether `dryRun=All` was asked for.
///
/// # Errors
/// 422 for any other value.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>, kind: &str) -> Result<bool, Status> {
    let mut all = false;
    for value in values {
        if value != "All" {
            let error = FieldError::not_supported(&Path::new("dryRun"), value, &["All"]);
            return Err(invalid("meta.k8s.io", kind, &[error]));
        }
        all = true;
    }
    Ok(all)
}

/// What becomes of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// `DeleteOptions`, from the body or, when there is none, from the query.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    /// What is deleted later is answered with 202.
    pub accepts: bool,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

impl DeleteOptions {
    pub fn parse(content_type: Option<&str>, body: &Bytes, query: &Query) -> Result<Self, Status> {
        let decoded = crate::codec::decode_options(content_type, body, "DeleteOptions")?;
        let value = decoded.unwrap_or(Value::Null);
        let whole = |name: &str| match query.text(name).filter(|_| value.is_null()) {
            None => Ok(value[name].as_i64()),
            Some(text) => text
                .parse::<i64>()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        };
        let grace_period_seconds = whole("gracePeriodSeconds")?;
        let policy =
            value["propagationPolicy"].as_str().or_else(|| query.text("propagationPolicy").filter(|_| value.is_null()));
        let orphan = value["orphanDependents"].as_bool().or_else(|| {
            query.get("orphanDependents").filter(|_| value.is_null()).map(|_| query.flag("orphanDependents"))
        });
        let mut errors = Vec::new();
        let path = Path::new("propagationPolicy");
        if policy.is_some() && orphan.is_some() {
            errors.push(FieldError::invalid(
                &path,
                policy.unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        let propagation = match (policy, orphan) {
            (Some("Background"), _) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Orphan"), _) => Some(Propagation::Orphan),
            (Some(other), _) => {
                errors.push(FieldError::not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]));
                None
            }
            (None, Some(true)) => Some(Propagation::Orphan),
            (None, Some(false)) => Some(Propagation::Background),
            (None, None) => None,
        };
        if !errors.is_empty() {
            return Err(invalid("meta.k8s.io", "DeleteOptions", &errors));
        }
        let dry_run = match value["dryRun"].as_array() {
            Some(list) => dry_run(list.iter().filter_map(Value::as_str), "DeleteOptions")?,
            None => dry_run(query.all("dryRun"), "DeleteOptions")?,
        };
        let condition = |key: &str| value["preconditions"][key].as_str().map(str::to_owned);
        Ok(Self {
            grace_period_seconds,
            propagation,
            // Only these two ever were; the other deletions that take time answer 200 for the sake of old clients.
            accepts: orphan == Some(false) || propagation == Some(Propagation::Foreground),
            uid: condition("uid"),
            resource_version: condition("resourceVersion"),
            dry_run,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(query: &str, watch: bool) -> Result<ListOptions, Status> {
        ListOptions::parse(&Query::parse(Some(query)), watch)
    }

    #[test]
    fn list_options() {
        for (query, watch, code, part) in [
            ("resourceVersion=abc", false, 400, "invalid syntax"),
            ("resourceVersionMatch=Exact", false, 422, "forbidden unless resourceVersion is provided"),
            ("resourceVersionMatch=Exact&resourceVersion=0", false, 422, "forbidden for resourceVersion \"0\""),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=x", false, 422, "when continue is provided"),
            (
                "resourceVersionMatch=Foo&resourceVersion=1",
                false,
                422,
                "supported values: \"\", \"Exact\", \"NotOlderThan\"",
            ),
            ("sendInitialEvents=true", true, 422, "requires setting resourceVersionMatch to NotOlderThan"),
            ("resourceVersionMatch=NotOlderThan", true, 422, "forbidden for watch unless sendInitialEvents"),
            ("sendInitialEvents=true", false, 422, "forbidden for list"),
            ("limit=x", false, 400, "ParseInt"),
        ] {
            let status = list(query, watch).unwrap_err();
            assert_eq!(status.code, code, "{query}");
            assert!(status.message.contains(part), "{query}: {}", status.message);
        }
        assert_eq!(
            list("timeoutSeconds=9223372036854775807", true).unwrap().timeout_seconds,
            Some(TIMEOUT_SECONDS_MAX)
        );
        assert!(list("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1", true).is_ok());
    }

    #[test]
    fn delete_options() {
        let parse = |query: &str| DeleteOptions::parse(None, &Bytes::new(), &Query::parse(Some(query)));
        let options = parse("gracePeriodSeconds=0&propagationPolicy=Foreground&dryRun=All").unwrap();
        assert_eq!((options.grace_period_seconds, options.propagation), (Some(0), Some(Propagation::Foreground)));
        assert!(options.dry_run && options.accepts);
        assert!(parse("orphanDependents=false").unwrap().accepts && !parse("").unwrap().accepts);
        assert_eq!(parse("propagationPolicy=No").unwrap_err().code, 422);
        assert_eq!(parse("dryRun=some").unwrap_err().code, 422);
        assert_eq!(parse("orphanDependents=true&propagationPolicy=Orphan").unwrap_err().code, 422);
    }
}
