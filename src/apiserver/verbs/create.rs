//! Create.
//!
//! Source: apiserver `pkg/endpoints/handlers/create.go`, `pkg/registry/rest/create.go`, `pkg/registry/generic/registry`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use store::{Expect, Op};
use types::status::Status;

use super::ask::{Answer, Ask, Change, Owners};
use super::object::{self, meta, meta_mut};
use crate::admission::{self, Operation};
use crate::conversion;
use crate::managed::{self, Given, Managed};
use crate::{auth, custom, hooks};

/// How often a generated name that is taken is generated anew. Source: apiserver `pkg/registry/generic/registry/store.go`
/// `maxNameGenerationCreateAttempts`.
const GENERATED_NAME_ATTEMPTS: usize = 8;

/// How long a new pod waits for the `default` ServiceAccount of a new namespace. Source:
/// `plugin/pkg/admission/serviceaccount/admission.go` `getServiceAccount`: ten attempts, 100 to 200 ms apart.
const ACCOUNT_WAIT: Duration = Duration::from_secs(1);

pub async fn create(ask: &mut Ask<'_>, body: &Bytes) -> Result<Answer, Status> {
    let dry_run = ask.dry_run("CreateOptions")?;
    let mut object = ask.decode(body, &ask.served.gvk())?;
    let given = Given::take(&mut object);
    create_object(ask, object, Owners::Track(given), dry_run).await
}

/// Creates an object that has been decoded, in the version that is served, and holds no managed fields; also the end of a PUT
/// or an apply to a name that is free.
pub async fn create_object(
    ask: &mut Ask<'_>,
    mut object: Value,
    owners: Owners,
    dry_run: bool,
) -> Result<Answer, Status> {
    check_namespace(ask, &object)?;
    object = conversion::keep(ask.served, object);
    let prefix = meta(&object, "generateName").to_owned();
    let generated = meta(&object, "name").is_empty() && !prefix.is_empty();
    if !generated {
        return attempt(ask, object, owners, dry_run).await.map_err(Refused::into_status);
    }
    let mut tries = 0;
    loop {
        tries += 1;
        meta_mut(&mut object).insert("name".into(), hooks::metadata::generate_name(&prefix).into());
        match attempt(ask, object.clone(), owners.clone(), dry_run).await {
            Err(Refused::Taken(_)) if tries < GENERATED_NAME_ATTEMPTS => {}
            other => return other.map_err(Refused::into_status),
        }
    }
}

/// Resolves when the key is written after `revision`, or when the store can no longer tell.
async fn appeared(ask: &Ask<'_>, key: &str, revision: store::Revision) {
    let Ok(mut feed) = ask.shared.store.watch(key, revision) else { return };
    let mut events = Vec::new();
    while feed.next(&mut events).await.is_ok() {
        if events.drain(..).any(|event| event.entry().key() == key && matches!(event, store::Event::Put { .. })) {
            return;
        }
    }
}

enum Refused {
    Taken(Status),
    Other(Status),
}
impl Refused {
    fn into_status(self) -> Status {
        match self {
            Refused::Taken(status) | Refused::Other(status) => status,
        }
    }
}
impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Refused::Other(status)
    }
}

async fn attempt(ask: &mut Ask<'_>, mut object: Value, owners: Owners, dry_run: bool) -> Result<Answer, Refused> {
    let hooks = ask.hooks();
    let namespace = if ask.kind.namespaced() { ask.namespace } else { "" };
    let mut view = ask.view();
    if let Some(key) = admission::service_account::awaited_default(ask.kind, namespace, &object, &*view) {
        // Whatever comes of it: admission decides on the newest state.
        let _ = tokio::time::timeout(ACCOUNT_WAIT, appeared(ask, &key, view.revision())).await;
        view = ask.view();
    }
    let versioned = !matches!(meta(&object, "resourceVersion"), "" | "0");
    object::fill_new(&mut object, namespace, ask.now);
    hooks.default(&mut object)?;
    let managed = match owners {
        Owners::Track(_) if !ask.tracked => Managed::default(),
        Owners::Track(given) => managed::created(&ask.shown(&object), given, &ask.writer(&ask.manager())),
        Owners::Known(managed) => managed,
    };
    let name = meta(&object, "name").to_owned();
    let options = admission::Options::Query(ask.query);
    let change = Change { operation: Operation::Create, name: &name, old: None, dry_run, options };
    let identity = ["uid", "creationTimestamp", "namespace"].map(|field| (field, object["metadata"][field].clone()));
    ask.mutate(change, Some(&mut object), &*view).await?;
    // A webhook may choose the name, and nothing else of what the server alone decides.
    check_namespace(ask, &object)?;
    let name = meta(&object, "name").to_owned();
    let change = Change { name: &name, ..change };
    for (field, value) in identity {
        if value.is_null() {
            meta_mut(&mut object).remove(field);
        } else {
            meta_mut(&mut object).insert(field.into(), value);
        }
    }
    custom::check_create(ask.kind, &name)?;
    hooks.default(&mut object)?;
    hooks.prepare_create(&mut object, &ask.context());
    let mut errors = hooks::metadata::validate(ask.kind, &object);
    errors.extend(hooks.validate(&object));
    errors.extend(hooks.validate_create(&object, &ask.context()));
    if !errors.is_empty() {
        return Err(Status::invalid(ask.kind, &name, &errors).into());
    }
    auth::escalation::check(&ask.shared.authorizer, ask.identity, ask.kind, &object, None, &*view)?;
    ask.warnings.extend(hooks.warnings(&object));
    ask.warnings.extend(hooks.warnings_create(&object));
    ask.validate(change, Some(&mut object), &*view).await?;
    if versioned {
        // Found out by the store upstream, after everybody else has had a say, and answered without a reason.
        let words = "resourceVersion should not be set on objects to be created";
        let status = Status::new(types::status::Reason::InternalError, words);
        return Err(Status { reason: String::new(), ..status }.into());
    }

    custom::complete(ask, &mut object);
    let key = ask.kind.store_key(namespace, &name);
    let generated = !meta(&object, "generateName").is_empty();
    let taken = || {
        let mut status = Status::already_exists(ask.kind, &name);
        if generated {
            // Source: apimachinery `pkg/api/errors` `NewGenerateNameConflict`.
            status.message.push_str(", the server was not able to generate a unique name for the object");
            status = status.retry_after(1);
        }
        Refused::Taken(status)
    };
    let reservation = if super::allocates(ask.kind) {
        Some(ask.shared.allocator.reserve_create(&mut object, &*ask.view())?)
    } else {
        None
    };
    let value = ask.to_store(&object, &managed).await?;
    if dry_run {
        if view.get(&key).is_some() {
            return Err(taken());
        }
        managed.put_into(&mut object);
        return Ok(Answer::Object { code: 201, value: object });
    }
    let key: Arc<str> = key.into();
    let written = super::reserved_write(ask, reservation, key.clone(), Expect::Absent, Op::Put(value)).await;
    let entry = written.map_err(|error| match error {
        // Another key is that of an address which somebody has taken meanwhile.
        store::Error::Precondition { key: taken_key, .. } if taken_key == key => taken(),
        other => Refused::Other(super::ask::store_error(ask.kind, &name, &other)),
    })?;
    Ok(Answer::Entry { code: 201, entry })
}

/// The namespace in the object, when there is one, is the path's.
pub fn check_namespace(ask: &Ask<'_>, object: &Value) -> Result<(), Status> {
    let own = meta(object, "namespace");
    if ask.kind.namespaced() && !own.is_empty() && own != ask.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}
