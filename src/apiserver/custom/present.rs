//! A stored custom object in the version that is asked for, as its schema has it now.
//!
//! What was written under the definition as it is needs no look: its bytes are served. Only objects of another version, and
//! those that are older than the last change of the definition, are read, defaulted and pruned again.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/customresource_handler.go` `crdConversionRESTOptionsGetter`.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use store::{Entry, Revision};
use types::registry::{Kind, api_version};
use types::status::Status;

use super::of;

/// The entry as the kind's version shows it.
///
/// Errors: 500 when another version cannot be had of it.
pub fn present(kind: &Kind, entry: Arc<Entry>) -> Result<Arc<Entry>, Status> {
    Ok(match changed(kind, &entry.value, entry.modified)? {
        None => entry,
        Some(value) => Arc::new(Entry { value, stamp_at: None, ..Entry::clone(&entry) }),
    })
}

/// The bytes as the kind's version shows them; as they are when it cannot, which a stream of many objects outlives.
pub fn present_bytes(kind: &Kind, value: Bytes, modified: Revision) -> Bytes {
    match changed(kind, &value, modified) {
        Ok(None) => value,
        Ok(Some(changed)) => changed,
        Err(status) => {
            tracing::warn!(%status, kind = &*kind.kind, "an object cannot be shown in the version that is asked for");
            value
        }
    }
}

/// The bytes in another form, when those that are stored are not what is asked for.
fn changed(kind: &Kind, bytes: &Bytes, modified: Revision) -> Result<Option<Bytes>, Status> {
    let Some(custom) = of(kind) else { return Ok(None) };
    let version = kind.api_version();
    let own = is_of(bytes, &version);
    if own && modified >= custom.definition().modified {
        return Ok(None);
    }
    let mut value: Value = serde_json::from_slice(bytes).map_err(Status::internal)?;
    if !own {
        if custom.definition().webhook.is_some() {
            let from = value["apiVersion"].as_str().unwrap_or_default();
            let why = format!("conversion webhook for {from}, Kind={} failed: webhooks are not called yet", kind.kind);
            return Err(Status::internal(why));
        }
        value["apiVersion"] = version.into();
    }
    // What upstream finds malformed in the store it drops as well.
    let _ = custom.canonicalize(&mut value, false);
    custom.default(&mut value);
    serde_json::to_vec(&value).map(|bytes| Some(bytes.into())).map_err(Status::internal)
}

/// Whether the bytes are an object of that version: it is the first thing that they say.
fn is_of(bytes: &[u8], version: &str) -> bool {
    let rest = bytes.strip_prefix(b"{\"apiVersion\":\"").and_then(|rest| rest.strip_prefix(version.as_bytes()));
    rest.is_some_and(|rest| rest.first() == Some(&b'"'))
}

/// The object in the version in which the kind is kept.
pub fn to_storage<'o>(kind: &Kind, object: &'o Value) -> Cow<'o, Value> {
    let storage = of(kind).and_then(|custom| custom.definition().storage());
    match storage {
        Some(storage) if storage.name != kind.version => {
            let mut object = object.clone();
            object["apiVersion"] = api_version(&kind.group, &storage.name).into();
            Cow::Owned(object)
        }
        _ => Cow::Borrowed(object),
    }
}
