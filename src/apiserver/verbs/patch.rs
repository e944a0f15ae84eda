//! Patch: reads, applies, and goes the way of an update; again when another write came first and the patch named no version.
//!
//! Source: apiserver `pkg/endpoints/handlers/patch.go`.

use bytes::Bytes;
use serde_json::Value;
use types::field::{FieldError, Path};
use types::status::Status;

use super::ask::{Answer, Ask, Owners};
use super::object::meta;
use super::update::{CONFLICT_RETRIES, Live, Unchanged, replace};
use crate::managed::Given;

pub async fn patch(ask: &mut Ask<'_>, body: &Bytes) -> Result<Answer, Status> {
    let dry_run = ask.dry_run("PatchOptions")?;
    if crate::patch::is_apply(ask.content_type()) {
        return super::apply::apply(ask, body, dry_run).await;
    }
    check_force(ask)?;
    for _ in 0..=CONFLICT_RETRIES {
        let live = Live::open(ask.current().await?)?;
        let mut new = if names_managed_fields(body) {
            let mut old = ask.shown(&live.object).into_owned();
            live.managed.put_into(&mut old);
            patched(ask, ask.served, &old, body)?
        } else {
            let old = ask.shown(&live.object);
            patched(ask, ask.served, &old, body)?
        };
        let given = Given::take(&mut new);
        let named = meta(&new, "name");
        if named != ask.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({named}) does not match the name on the URL ({})",
                ask.name
            )));
        }
        match replace(ask, live, new, Owners::Track(given), dry_run).await {
            Ok(answer) => return Ok(answer),
            Err(Unchanged::Refused(status)) => return Err(status),
            Err(Unchanged::Raced) => {}
        }
    }
    Err(Status::conflict(ask.kind, ask.name, types::status::OBJECT_MODIFIED))
}

/// Whether a patch may look at the managed fields, which few do: by their name, by a name with escapes, or as a part of
/// something larger that a JSON patch names.
fn names_managed_fields(body: &[u8]) -> bool {
    let has = |text: &str| memchr::memmem::find(body, text.as_bytes()).is_some();
    has("managedFields")
        || has("\\u")
        || (body.trim_ascii_start().starts_with(b"[") && (has("/metadata\"") || has("\"\"")))
}

/// Only an apply takes over what others own.
pub fn check_force(ask: &Ask<'_>) -> Result<(), Status> {
    if ask.query.get("force").is_none() {
        return Ok(());
    }
    let error = FieldError::forbidden(&Path::new("force"), "may not be specified for non-apply patch");
    Err(super::options::invalid("meta.k8s.io", "PatchOptions", &[error]))
}

/// The patch applied to `current`, an object of `kind`, with its fields checked.
pub fn patched(
    ask: &mut Ask<'_>,
    kind: &types::registry::Kind,
    current: &Value,
    body: &Bytes,
) -> Result<Value, Status> {
    let mode = ask.field_validation()?;
    let content_type = ask.content_type().unwrap_or_default();
    let (new, warnings) = crate::patch::apply_checked(kind, content_type, current, body, mode)?;
    // A repeated attempt says the same again.
    for warning in warnings {
        if !ask.warnings.contains(&warning) {
            ask.warnings.push(warning);
        }
    }
    Ok(new)
}
