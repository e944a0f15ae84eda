//! Patch: reads, applies, and goes the way of an update; again when another write came first and the patch named no version.
//!
//! Source: apiserver `pkg/endpoints/handlers/patch.go`.

use bytes::Bytes;
use serde_json::Value;
use types::status::Status;

use super::ask::{Answer, Ask};
use super::object::{self, meta};
use super::update::{CONFLICT_RETRIES, Unchanged, replace_read};

pub async fn patch(ask: &mut Ask<'_>, body: &Bytes) -> Result<Answer, Status> {
    let dry_run = ask.dry_run("PatchOptions")?;
    for _ in 0..=CONFLICT_RETRIES {
        let entry = ask.current()?;
        let old = object::read(&entry)?;
        let new = patched(ask, ask.kind, &old, body)?;
        let named = meta(&new, "name");
        if named != ask.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({named}) does not match the name on the URL ({})",
                ask.name
            )));
        }
        match replace_read(ask, entry, old, new, dry_run).await {
            Ok(answer) => return Ok(answer),
            Err(Unchanged::Refused(status)) => return Err(status),
            Err(Unchanged::Raced) => {}
        }
    }
    Err(Status::conflict(ask.kind, ask.name, types::status::OBJECT_MODIFIED))
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
