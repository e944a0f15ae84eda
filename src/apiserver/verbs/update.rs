//! Update, of an object or one of its subresources, and what patch and the other changing verbs share with it.
//!
//! Source: apiserver `pkg/endpoints/handlers/update.go`, `pkg/registry/rest/update.go`, `pkg/registry/generic/registry`.

use bytes::Bytes;
use serde_json::Value;
use store::{Entry, Expect, Op};
use types::field::{FieldError, Path};
use types::status::Status;

use super::ask::{Answer, Ask, Change, Owners};
use super::object::{self, meta, meta_mut};
use super::{create, delete, scale};
use crate::admission::{self, Operation};
use crate::managed::{self, Given, Managed};
use crate::{auth, conversion, custom, hooks};

/// A change that named no version is tried again when another one came first. Source: apiserver
/// `pkg/endpoints/handlers/patch.go` `MaxRetryWhenPatchConflicts`, etcd3 store `GuaranteedUpdate`.
pub const CONFLICT_RETRIES: usize = 5;

/// What `replace` did not do.
pub enum Unchanged {
    /// Another write came first; the caller may read again and repeat.
    Raced,
    Refused(Status),
}
impl From<Status> for Unchanged {
    fn from(status: Status) -> Self {
        Unchanged::Refused(status)
    }
}

/// PUT of the object or of a subresource that exchanges the object itself.
pub async fn update(ask: &mut Ask<'_>, body: &Bytes) -> Result<Answer, Status> {
    let dry_run = ask.dry_run("UpdateOptions")?;
    let mut object = ask.decode(body, &ask.served.gvk())?;
    let name = meta(&object, "name");
    if name.is_empty() {
        return Err(Status::bad_request("name must be provided"));
    }
    if name != ask.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            ask.name
        )));
    }
    create::check_namespace(ask, &object)?;
    let given = Given::take(&mut object);
    let hooks = ask.hooks();
    for attempt in 0.. {
        let Some(entry) = ask.find().await? else {
            if !hooks.create_on_update || !ask.subresource.is_empty() {
                return Err(Status::not_found(ask.kind, ask.name));
            }
            if !meta(&object, "uid").is_empty() {
                let why =
                    format!("Precondition failed: UID in precondition: {}, UID in object meta: ", meta(&object, "uid"));
                return Err(Status::conflict(ask.kind, ask.name, &why));
            }
            ask.may_create()?;
            let mut object = object;
            meta_mut(&mut object).remove("resourceVersion");
            return create::create_object(ask, object, Owners::Track(given), dry_run).await;
        };
        let conditional = !meta(&object, "resourceVersion").is_empty();
        if !conditional && !hooks.unconditional_update {
            let path = Path::new("metadata.resourceVersion");
            let error = FieldError {
                value: Some("0x0".into()),
                ..FieldError::invalid(&path, "", "must be specified for an update")
            };
            return Err(Status::invalid(ask.kind, ask.name, &[error]));
        }
        let live = Live::open(entry)?;
        match replace(ask, live, object.clone(), Owners::Track(given.clone()), dry_run).await {
            Ok(answer) => return Ok(answer),
            Err(Unchanged::Refused(status)) => return Err(status),
            Err(Unchanged::Raced) if !conditional && attempt < CONFLICT_RETRIES => {}
            Err(Unchanged::Raced) => break,
        }
    }
    Err(Status::conflict(ask.kind, ask.name, types::status::OBJECT_MODIFIED))
}

/// An object that is stored and will be changed.
pub struct Live {
    pub entry: Entry,
    /// Without its managed fields.
    pub object: Value,
    pub managed: Managed,
}

impl Live {
    pub fn open(entry: Entry) -> Result<Self, Status> {
        let (object, managed) = object::open(&entry)?;
        Ok(Self { entry, object, managed })
    }
}

/// Puts `new`, which is in the version that is served and holds no managed fields, in the place of the live object, through
/// defaulting, admission and validation.
pub async fn replace(
    ask: &mut Ask<'_>,
    live: Live,
    mut new: Value,
    owners: Owners,
    dry_run: bool,
) -> Result<Answer, Unchanged> {
    let Live { entry, object: old, managed: owned } = live;
    let hooks = ask.hooks();
    let view = ask.view();
    keep_system_fields(ask, &old, &mut new)?;
    new = conversion::keep(ask.served, new);
    hooks.default(&mut new)?;
    let managed = match owners {
        Owners::Track(given) => {
            managed::updated(&ask.shown(&old), &owned, &ask.shown(&new), given, &ask.writer(&ask.manager()))
        }
        Owners::Known(managed) => managed,
    };
    let options = admission::Options::Query(ask.query);
    let admitted = scale::exchanged(ask, &old)?;
    let change = Change {
        operation: Operation::Update,
        name: ask.name,
        old: Some(admitted.as_ref().unwrap_or(&old)),
        dry_run,
        options,
    };
    if let Some(mut scale) = scale::exchanged(ask, &new)? {
        ask.mutate(change, Some(&mut scale), &*view).await?;
        scale::take(ask, &mut new, &scale)?;
    } else {
        ask.mutate(change, Some(&mut new), &*view).await?;
    }
    hooks.default(&mut new)?;
    hooks.prepare_update(&mut new, &old, &ask.context());
    let mut errors = hooks::metadata::validate_update(ask.kind, &new, &old);
    if ask.subresource.is_empty() {
        errors.extend(hooks.validate(&new));
    }
    errors.extend(hooks.validate_update(&new, &old, &ask.context()));
    if !errors.is_empty() {
        return Err(Status::invalid(ask.kind, ask.name, &errors).into());
    }
    auth::escalation::check(&ask.shared.authorizer, ask.identity, ask.kind, &new, Some(&old), &*view)?;
    if ask.subresource.is_empty() {
        ask.warnings.extend(hooks.warnings(&new));
    }
    match scale::exchanged(ask, &new)? {
        Some(mut scale) => ask.validate(change, Some(&mut scale), &*view).await?,
        None => ask.validate(change, Some(&mut new), &*view).await?,
    }

    let reservation = if super::allocates(ask.kind) && ask.subresource.is_empty() {
        Some(ask.shared.allocator.reserve_update(&mut new, &old, &*ask.view())?)
    } else {
        None
    };
    if ask.subresource.is_empty() {
        custom::complete(ask, &mut new);
    }
    if new == old && managed.same_but_times(&owned) {
        // Nothing changes: no revision is spent and no watcher woken, as upstream.
        return Ok(Answer::Entry { code: 200, entry });
    }
    let done = object::is_deleting(&new) && delete::released(ask.kind, &new);
    let value = if done { None } else { Some(ask.to_store(&new, &managed).await?) };
    if dry_run {
        managed.put_into(&mut new);
        return Ok(Answer::Object { code: 200, value: new });
    }
    let Some(value) = value else {
        // The last finalizer is gone: the update completes the deletion.
        let gone = delete::remove(ask, &entry, &new).await?;
        return Ok(Answer::Entry { code: 200, entry: gone });
    };
    let expect = Expect::At(entry.modified());
    let written = super::reserved_write(ask, reservation, entry.key().into(), expect, Op::Put(value)).await;
    let entry = written.map_err(|error| match error {
        store::Error::Precondition { .. } => Unchanged::Raced,
        other => Unchanged::Refused(ask.store_error(&other)),
    })?;
    Ok(Answer::Entry { code: 200, entry })
}

/// What a client may leave out of an update and must not change, and the version that it must have seen.
fn keep_system_fields(ask: &Ask<'_>, old: &Value, new: &mut Value) -> Result<(), Status> {
    let version = meta(new, "resourceVersion");
    if !version.is_empty() && version != "0" && version != meta(old, "resourceVersion") {
        return Err(match version.parse::<u64>() {
            Ok(_) => Status::conflict(ask.kind, ask.name, types::status::OBJECT_MODIFIED),
            Err(_) => {
                let path = Path::new("metadata.resourceVersion");
                let why = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
                Status::invalid(ask.kind, ask.name, &[FieldError::invalid(&path, version, why)])
            }
        });
    }
    let uid = meta(new, "uid");
    if !uid.is_empty() && uid != meta(old, "uid") {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta(old, "uid"));
        return Err(Status::conflict(ask.kind, ask.name, &why));
    }
    let before = &old["metadata"];
    let metadata = meta_mut(new);
    metadata.insert("resourceVersion".into(), before["resourceVersion"].clone());
    for field in ["uid", "name", "namespace", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if metadata.get(field).is_none_or(Value::is_null) {
            match before.get(field) {
                Some(value) => metadata.insert(field.into(), value.clone()),
                None => metadata.remove(field),
            };
        }
    }
    // The generation is the server's alone; the kind's strategy counts it on.
    match before.get("generation") {
        Some(generation) => metadata.insert("generation".into(), generation.clone()),
        None => metadata.remove("generation"),
    };
    metadata.remove("selfLink");
    Ok(())
}
