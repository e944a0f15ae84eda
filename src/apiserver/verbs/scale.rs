//! The scale subresource: a workload seen as a number of replicas.
//!
//! Source: `pkg/registry/apps/deployment/storage/storage.go` `ScaleREST`.

use std::borrow::Cow;

use bytes::Bytes;
use http::Method;
use types::registry::{GroupVersionKind, Kind, Scope, WriteClass};
use types::status::Status;

use super::ask::{Answer, Ask};
use super::object;
use super::update::{CONFLICT_RETRIES, Unchanged, replace_read};
use crate::hooks;
use crate::hooks::autoscaling;

const SCALE: GroupVersionKind = GroupVersionKind::new("autoscaling", "v1", "Scale");

/// What patches and field checks want to know of a kind that has no path of its own.
static SCALE_KIND: Kind = Kind {
    group: Cow::Borrowed("autoscaling"),
    version: Cow::Borrowed("v1"),
    kind: Cow::Borrowed("Scale"),
    plural: Cow::Borrowed("scales"),
    singular: Cow::Borrowed("scale"),
    short_names: Cow::Borrowed(&[]),
    categories: Cow::Borrowed(&[]),
    scope: Scope::Namespaced,
    verbs: Cow::Borrowed(&[]),
    subresources: Cow::Borrowed(&[]),
    write_class: WriteClass::Durable,
    selectable_fields: Cow::Borrowed(&[]),
    storage_version_hash: Cow::Borrowed(""),
    stored: false,
};

pub async fn scale(ask: &mut Ask<'_>, method: &Method, body: &Bytes) -> Result<Answer, Status> {
    if matches!(*method, Method::GET | Method::HEAD) {
        let value = autoscaling::scale_of(&object::read(&*ask.current()?)?);
        return Ok(Answer::Object { code: 200, value });
    }
    let put = *method == Method::PUT;
    let dry_run = ask.dry_run(if put { "UpdateOptions" } else { "PatchOptions" })?;
    for _ in 0..=CONFLICT_RETRIES {
        let entry = ask.current()?;
        let old = object::read(&entry)?;
        let scale = if put {
            ask.decode(body, &SCALE)?
        } else {
            super::patch::patched(ask, &SCALE_KIND, &autoscaling::scale_of(&old), body)?
        };
        let named = object::meta(&scale, "name");
        if !named.is_empty() && named != ask.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({named}) does not match the name on the URL ({})",
                ask.name
            )));
        }
        let hooks = hooks::named("autoscaling", "Scale").unwrap_or(&hooks::Hooks::NEUTRAL);
        let errors = (hooks.validate)(&scale);
        if !errors.is_empty() {
            return Err(Status::invalid(&SCALE_KIND, ask.name, &errors));
        }
        let conditional = put && !object::meta(&scale, "resourceVersion").is_empty();
        let mut new = old.clone();
        autoscaling::apply(&mut new, &scale);
        match replace_read(ask, entry, old, new, dry_run).await {
            Ok(Answer::Entry { code, entry }) => {
                let value = autoscaling::scale_of(&object::read(&entry)?);
                return Ok(Answer::Object { code, value });
            }
            Ok(Answer::Object { code, value }) => {
                return Ok(Answer::Object { code, value: autoscaling::scale_of(&value) });
            }
            Ok(other) => return Ok(other),
            Err(Unchanged::Refused(status)) => return Err(status),
            Err(Unchanged::Raced) if conditional => break,
            Err(Unchanged::Raced) => {}
        }
    }
    Err(Status::conflict(ask.kind, ask.name, types::status::OBJECT_MODIFIED))
}
