//! Server-side apply: creates what is absent, else merges by who owns what and goes the way of an update.
//!
//! Source: apiserver `pkg/endpoints/handlers/patch.go` `applyPatcher`, `pkg/apis/meta/v1/validation` `ValidatePatchOptions`.

use bytes::Bytes;
use serde_json::Value;
use types::field::{FieldError, Path};
use types::status::{Reason, Status};

use super::ask::{Answer, Ask, Owners};
use super::object::meta;
use super::update::{CONFLICT_RETRIES, Live, Unchanged, replace};
use super::{create, options};
use crate::codec;
use crate::codec::fields::{self, FieldValidation};
use crate::managed::{self, Applied};

pub async fn apply(ask: &mut Ask<'_>, body: &Bytes, dry_run: bool) -> Result<Answer, Status> {
    let (config, force) = configuration(ask, body)?;
    let manager = ask.manager();
    for _ in 0..=CONFLICT_RETRIES {
        let Some(entry) = ask.find().await? else {
            if !ask.subresource.is_empty() {
                return Err(Status::not_found(ask.kind, ask.name));
            }
            let applied = managed::applied(None, &config, &ask.writer(&manager), force)?;
            match create_applied(ask, applied, dry_run).await {
                // Somebody else made it meanwhile: there is something to merge with now.
                Err(status) if status.is(Reason::AlreadyExists) => continue,
                other => return other,
            }
        };
        let live = Live::open(entry)?;
        let applied =
            managed::applied(Some((&ask.shown(&live.object), &live.managed)), &config, &ask.writer(&manager), force)?;
        let object = checked(ask, applied.object)?;
        match replace(ask, live, object, Owners::Known(applied.managed), dry_run).await {
            Ok(answer) => return Ok(answer),
            Err(Unchanged::Refused(status)) => return Err(status),
            Err(Unchanged::Raced) => {}
        }
    }
    Err(Status::conflict(ask.kind, ask.name, types::status::OBJECT_MODIFIED))
}

/// The applied configuration, and whether it takes over what others own.
///
/// Errors: 422 without a manager, 400 for a body that cannot be read or, in mode Strict, says something twice.
pub fn configuration(ask: &mut Ask<'_>, body: &Bytes) -> Result<(Value, bool), Status> {
    if ask.query.text("fieldManager").is_none() {
        let error = FieldError::required(&Path::new("fieldManager"), "is required for apply patch");
        return Err(options::invalid("meta.k8s.io", "PatchOptions", &[error]));
    }
    let mode = ask.field_validation()?;
    let config = codec::parse_yaml(body).map_err(|why| Status::bad_request(format!("error decoding YAML: {why}")))?;
    let config = match config {
        Value::Object(_) => config,
        Value::Null => Value::Object(serde_json::Map::new()),
        other => {
            let what = codec::json_type(&other);
            return Err(Status::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {what} into Go \
                 value of type map[string]interface {{}}"
            )));
        }
    };
    if mode != FieldValidation::Ignore {
        let json = body.trim_ascii_start().starts_with(b"{");
        let twice = if json { codec::strict_problems(body) } else { codec::yaml_duplicates(body) };
        if mode == FieldValidation::Strict && !twice.is_empty() {
            let why = if json {
                twice.join(", ")
            } else {
                format!("error converting YAML to JSON: {}", codec::yaml_duplicates_error(&twice))
            };
            return Err(Status::bad_request(format!("error strict decoding YAML: {why}")));
        }
        ask.warnings.extend(twice);
    }
    Ok((config, ask.query.flag("force")))
}

/// The object in the form in which it is kept, which is the one that the path names.
fn checked(ask: &Ask<'_>, mut object: Value) -> Result<Value, Status> {
    fields::canonicalize_kind(ask.served, &mut object, false)
        .map_err(|why| Status { reason: String::new(), ..Status::new(Reason::InternalError, why) })?;
    let named = meta(&object, "name");
    if named.is_empty() {
        let why =
            format!("the name of the object ({} based on URL) was undeterminable: name must be provided", ask.name);
        return Err(Status::bad_request(why));
    }
    if named != ask.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            ask.name
        )));
    }
    let namespace = meta(&object, "namespace");
    if ask.kind.namespaced() && !namespace.is_empty() && namespace != ask.namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the request ({})",
            ask.namespace
        )));
    }
    Ok(object)
}

async fn create_applied(ask: &mut Ask<'_>, applied: Applied, dry_run: bool) -> Result<Answer, Status> {
    let object = checked(ask, applied.object)?;
    let uid = meta(&object, "uid");
    if !uid.is_empty() {
        let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        return Err(Status::conflict(ask.kind, ask.name, &why));
    }
    ask.may_create()?;
    create::create_object(ask, object, Owners::Known(applied.managed), dry_run).await
}
