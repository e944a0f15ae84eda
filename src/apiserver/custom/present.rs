//! A stored custom object in the version that is asked for, as its schema has it now; and an object in the version in which it
//! is kept.
//!
//! What was written under the definition as it is needs no look: its bytes are served. Only objects of another version, and
//! those that are older than the last change of the definition, are read, converted, defaulted and pruned again. With the
//! strategy Webhook an object whose webhook does not answer is neither shown nor stored: an error is told instead.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/customresource_handler.go` `crdConversionRESTOptionsGetter`.

use std::borrow::Cow;

use serde_json::Value;
use store::{Entry, Revision, Store};
use types::registry::{Kind, api_version};
use types::status::Status;

use super::{Custom, of};

/// Stored bytes that are read and converted at once; they take some ten times as much while they are. A webhook is sent as
/// much in one call.
const BATCH_BYTES: usize = 1 << 20;

/// The entry as the kind's version shows it.
///
/// Errors: 500 when another version cannot be had of it.
pub async fn present(store: &dyn Store, kind: &Kind, entry: Entry) -> Result<Entry, Status> {
    if of(kind).is_none() {
        return Ok(entry);
    }
    Ok(match present_bytes(store, kind, Cow::Borrowed(entry.value()), entry.modified()).await? {
        // The entry's own, with the place of its revision.
        Cow::Borrowed(_) => entry,
        Cow::Owned(value) => entry.with_value(&value),
    })
}

/// Entries as the kind's version shows them.
///
/// Errors: 500 when another version cannot be had of one.
pub async fn present_all(store: &dyn Store, kind: &Kind, mut entries: Vec<Entry>) -> Result<Vec<Entry>, Status> {
    let Some(custom) = of(kind) else { return Ok(entries) };
    let mut at = 0;
    while at < entries.len() {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some(entry) = entries.get(at)
        {
            if let Some(value) = outdated(custom, kind, entry.value(), entry.modified())? {
                bytes += entry.value().len();
                batch.push((at, value));
            }
            at += 1;
        }
        let mut values: Vec<&mut Value> = batch.iter_mut().map(|(_, value)| value).collect();
        convert(store, custom, &kind.api_version(), &mut values).await?;
        for (at, value) in batch {
            let value = finished(custom, value)?;
            entries[at] = entries[at].with_value(&value);
        }
    }
    Ok(entries)
}

/// The bytes as the kind's version shows them.
///
/// Errors: 500 when it cannot, which ends a stream of them.
pub async fn present_bytes<'a>(
    store: &dyn Store,
    kind: &Kind,
    bytes: Cow<'a, [u8]>,
    modified: Revision,
) -> Result<Cow<'a, [u8]>, Status> {
    let Some(custom) = of(kind) else { return Ok(bytes) };
    let Some(mut value) = outdated(custom, kind, &bytes, modified)? else { return Ok(bytes) };
    convert(store, custom, &kind.api_version(), &mut vec![&mut value]).await?;
    finished(custom, value).map(Cow::Owned)
}

/// Brings objects into the version of a custom kind, as they are on their way into the store.
///
/// Errors: 500 when the webhook that makes it does not.
pub async fn in_version(store: &dyn Store, kind: &Kind, objects: &mut [Value]) -> Result<(), Status> {
    let Some(custom) = of(kind) else { return Ok(()) };
    convert(store, custom, &kind.api_version(), &mut objects.iter_mut().collect()).await?;
    for object in objects {
        custom.canonicalize(object, false).map_err(Status::internal)?;
    }
    Ok(())
}

/// What is in the bytes, when it is not what the kind's version shows.
fn outdated(custom: &Custom, kind: &Kind, bytes: &[u8], modified: Revision) -> Result<Option<Value>, Status> {
    if is_of(bytes, &kind.api_version()) && modified >= custom.definition().modified {
        return Ok(None);
    }
    serde_json::from_slice(bytes).map(Some).map_err(Status::internal)
}

/// Brings those of the objects that are of another version into this one.
async fn convert(
    store: &dyn Store,
    custom: &Custom,
    version: &str,
    objects: &mut Vec<&mut Value>,
) -> Result<(), Status> {
    objects.retain(|object| object["apiVersion"] != version);
    match &custom.definition().webhook {
        Some(webhook) => webhook.convert(store, version, objects).await,
        None => {
            objects.iter_mut().for_each(|object| object["apiVersion"] = version.into());
            Ok(())
        }
    }
}

fn finished(custom: &Custom, mut value: Value) -> Result<Vec<u8>, Status> {
    // What upstream finds malformed in the store it drops as well.
    let _ = custom.canonicalize(&mut value, false);
    custom.default(&mut value);
    serde_json::to_vec(&value).map_err(Status::internal)
}

/// Whether the bytes are an object of that version: it is the first thing that they say.
fn is_of(bytes: &[u8], version: &str) -> bool {
    let rest = bytes.strip_prefix(b"{\"apiVersion\":\"").and_then(|rest| rest.strip_prefix(version.as_bytes()));
    rest.is_some_and(|rest| rest.first() == Some(&b'"'))
}

/// The object in the version in which the kind is kept.
///
/// Errors: 500 when the webhook that makes it does not; nothing may be stored then.
pub async fn to_storage<'o>(store: &dyn Store, kind: &Kind, object: &'o Value) -> Result<Cow<'o, Value>, Status> {
    let Some(custom) = of(kind) else { return Ok(Cow::Borrowed(object)) };
    let definition = &custom.definition;
    let kept = definition.versions.iter().position(|version| version.storage);
    let Some((at, name)) =
        kept.map(|at| (at, &definition.versions[at].name)).filter(|(_, name)| **name != kind.version)
    else {
        return Ok(Cow::Borrowed(object));
    };
    let mut object = object.clone();
    convert(store, custom, &api_version(&kind.group, name), &mut vec![&mut object]).await?;
    if definition.webhook.is_some() {
        // Bytes of the kept version are served as they are, so they are made to fit its schema now.
        let kept = Custom::new(definition.clone(), at);
        let _ = kept.canonicalize(&mut object, false);
        kept.default(&mut object);
    }
    Ok(Cow::Owned(object))
}
