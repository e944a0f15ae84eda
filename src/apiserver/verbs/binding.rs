//! Binding: puts a pod onto a node, once.
//!
//! Source: `pkg/registry/core/pod/storage/storage.go` `BindingREST`.

use bytes::Bytes;
use serde_json::Value;
use store::{Expect, Op};
use types::registry::{GroupVersionKind, KindRef};
use types::status::Status;

use super::ask::{Answer, Ask, Change};
use super::object::{self, meta};
use super::update::CONFLICT_RETRIES;
use crate::admission::{self, Operation};
use crate::hooks;

const BINDING: GroupVersionKind = GroupVersionKind::new("", "v1", "Binding");

pub async fn bind(ask: &mut Ask<'_>, body: &Bytes) -> Result<Answer, Status> {
    let dry_run = ask.dry_run("CreateOptions")?;
    let mut binding = ask.decode(body, &BINDING)?;
    let named = meta(&binding, "name").to_owned();
    // `pods/<name>/binding` names the pod; the older collection takes it from the object.
    let Some(pods) = types::registry::by_kind("", "v1", "Pod") else { return Err(Status::no_such_path()) };
    let name = if ask.kind.kind == "Pod" { ask.name.to_owned() } else { named.clone() };
    if !named.is_empty() && named != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    if let Some(hooks) = hooks::named("", "Binding") {
        let errors = (hooks.validate)(&binding);
        if !errors.is_empty() {
            let kind = types::registry::by_kind("", "v1", "Binding").unwrap_or(pods);
            return Err(Status::invalid(kind, &name, &errors));
        }
    }
    let view = ask.view();
    let options = admission::Options::Query(ask.query);
    let change = Change { operation: Operation::Create, name: &name, old: None, dry_run, options };
    ask.admit(change, Some(&mut binding), &*view).await?;
    let pods = KindRef::from(pods);
    let mut pod_ask = Ask {
        kind: &pods,
        served: &pods,
        name: &name,
        subresource: "binding",
        warnings: Vec::new(),
        annotations: ask.no_annotations(),
        ..*ask
    };
    assign(&mut pod_ask, &binding, dry_run).await?;
    let mut status = Status::success();
    status.code = 201;
    Ok(Answer::Object { code: 201, value: serde_json::to_value(status).unwrap_or(Value::Null) })
}

async fn assign(ask: &mut Ask<'_>, binding: &Value, dry_run: bool) -> Result<(), Status> {
    for _ in 0..=CONFLICT_RETRIES {
        let entry = ask.current().await?;
        // Who owns what does not change: upstream binds below the handlers that track it.
        let (mut pod, managed) = object::open(&entry)?;
        hooks::core::binding::apply(ask.kind, &mut pod, binding, &ask.context()).map_err(as_binding)?;
        if dry_run {
            return Ok(());
        }
        let value = object::to_store(ask.kind, &pod, &managed);
        match ask.write(entry.key().into(), Expect::At(entry.modified()), Op::Put(value)).await {
            Ok(_) => return Ok(()),
            Err(store::Error::Precondition { .. }) => {}
            Err(other) => return Err(ask.store_error(&other)),
        }
    }
    Err(as_binding(Status::conflict(ask.kind, ask.name, types::status::OBJECT_MODIFIED)))
}

/// Upstream's conflicts are about `pods/binding`.
fn as_binding(mut status: Status) -> Status {
    status.message = status.message.replacen(" on pods ", " on pods/binding ", 1);
    if let Some(details) = &mut status.details {
        details.kind = "pods/binding".into();
    }
    status
}
