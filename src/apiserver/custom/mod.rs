//! Custom kinds: what a CustomResourceDefinition makes of the server.
//!
//! ```text
//! CustomResourceDefinition ─► hooks::apiextensions (defaults, validation) ─► settle (names, conditions) ─► store
//!        store's feed, or the write itself ─► Kinds ─► a Kind with a Custom for each served version
//! request ─► Kinds::find ─► the verbs that every kind has, with hooks::Behaviour asking the Custom
//! ```
//!
//! What never lives here: a verb, HTTP, a list of built-in kinds.
//!
//! Source: apiextensions-apiserver `pkg/apiserver`, `pkg/registry/customresource`.

mod columns;
mod convert;
mod definition;
pub mod jsonpath;
pub mod keeper;
mod kinds;
mod present;
pub mod publish;
mod scale;
pub mod schema;
pub mod settle;
mod strategy;

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use types::field::{FieldError, Path, Problem};
use types::names;
use types::registry::{Kind, KindRef, Verb};
use types::status::Status;

pub use definition::{Definition, GROUP, STORE_PREFIX};
pub use kinds::{Kinds, Served};
pub use present::{in_version, present, present_all, present_bytes, to_storage};

use crate::codec::fields;
use crate::hooks::json::{get, texts};
use crate::verbs::ask::Ask;
use schema::Schema;

/// Unknown fields that are told of one object.
const UNKNOWN_MAX: usize = 100;

/// One served version of a custom kind, as it hangs on its [`Kind`].
pub struct Custom {
    definition: Arc<Definition>,
    /// Which of the definition's versions it is.
    at: usize,
    /// Read when the first object comes: most kinds of most clusters have none.
    schema: OnceLock<Schema>,
    columns: OnceLock<Vec<columns::Column>>,
    /// Of what the OpenAPI documents say of it.
    digest: OnceLock<[u8; 64]>,
}

/// What makes a kind a custom one; `None` for built-in ones.
pub fn of(kind: &Kind) -> Option<&Custom> {
    kind.extension.get()
}

/// The other versions in which the objects of a custom kind are served; `None` of a built-in one.
pub fn others(kind: &Kind) -> Option<Vec<KindRef>> {
    let custom = of(kind)?;
    let versions = &custom.definition.versions;
    let others = (0..versions.len()).filter(|at| *at != custom.at && versions[*at].served);
    Some(others.map(|at| KindRef::Custom(Arc::new(kinds::kind_of(&custom.definition, at)))).collect())
}

/// Completes an object that is about to be stored, when it is a definition.
pub fn complete(ask: &Ask<'_>, object: &mut Value) {
    if ask.kind.group == GROUP && ask.kind.kind == "CustomResourceDefinition" {
        settle::settle(object, &ask.shared.kinds.served(), ask.now);
    }
}

/// What discovery names of objects whose definition is being deleted; they can still be changed.
const ENDING: &[Verb] = &[Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Watch];

/// The verbs of a kind, as discovery shows them.
pub fn shown_verbs(kind: &Kind) -> &[Verb] {
    if of(kind).is_some_and(|custom| custom.definition.terminating) { ENDING } else { &kind.verbs }
}

/// Whether new objects of the kind are taken.
///
/// Errors: 403 while the kind's definition is being deleted.
pub fn check_create(kind: &Kind, name: &str) -> Result<(), Status> {
    if of(kind).is_some_and(|custom| custom.definition.terminating) {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::forbidden(kind, name, why));
    }
    Ok(())
}

impl Custom {
    pub fn new(definition: Arc<Definition>, at: usize) -> Self {
        Self { definition, at, schema: OnceLock::new(), columns: OnceLock::new(), digest: OnceLock::new() }
    }

    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    pub fn version(&self) -> &definition::Version {
        &self.definition.versions[self.at]
    }

    pub fn schema(&self) -> &Schema {
        self.schema.get_or_init(|| {
            let value = serde_json::from_slice(&self.version().schema).unwrap_or_default();
            let mut schema = Schema::root(&value);
            schema.preserve_unknown |= self.definition.preserve_unknown_fields;
            schema
        })
    }

    /// The columns of the kind's tables; see [`columns`].
    fn columns(&self) -> &[columns::Column] {
        self.columns.get_or_init(|| columns::read(&self.version().columns))
    }

    /// The column definitions of a Table.
    pub fn column_definitions(&self) -> Vec<Value> {
        columns::definitions(self.columns())
    }

    /// The cells of an object.
    pub fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        columns::cells(self.columns(), object, now)
    }

    fn has_status(&self) -> bool {
        self.version().subresources.status.is_some()
    }

    /// Said to everyone who uses the version; empty for one that is not deprecated.
    pub fn deprecation(&self) -> &str {
        &self.version().warning
    }

    /// Brings a decoded object into the form in which it is kept: unknown fields are gone. Returns those when they are to be
    /// collected.
    ///
    /// Errors: upstream's text for metadata of the wrong type.
    pub fn canonicalize(&self, object: &mut Value, collect: bool) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        if let Some(metadata) = object.get_mut("metadata") {
            let unknown = fields::canonicalize_metadata(metadata, collect)?;
            found.extend(unknown.into_iter().map(|field| format!("metadata.{field}")));
        }
        let schema = self.schema();
        let limit = if collect { UNKNOWN_MAX } else { 0 };
        found.extend(schema::prune(object, schema, true, limit));
        found.extend(schema::coerce(object, schema, &Path::root(), collect)?);
        Ok(found.into_iter().map(|field| format!("unknown field {field:?}")).collect())
    }

    /// Returns whether all defaults found room: see [`schema::default`].
    pub fn default(&self, object: &mut Value) -> bool {
        schema::default(object, self.schema())
    }

    pub fn prepare_create(&self, object: &mut Value) {
        strategy::prepare_create(object, self.has_status());
    }

    pub fn prepare_update(&self, new: &mut Value, old: &Value, subresource: &str) {
        strategy::prepare_update(new, old, subresource, self.has_status());
    }

    pub fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let schema = self.schema();
        let mut errors = schema::validate(object, None, schema, &Path::root());
        errors.extend(scale::validate(&self.version().subresources, object, false));
        errors.extend(schema::embedded(object, schema, &Path::root()));
        errors.extend(schema::duplicates(object, schema, &Path::root()));
        self.rules(object, None, &mut errors);
        errors
    }

    pub fn validate_update(&self, new: &Value, old: &Value, subresource: &str) -> Vec<FieldError> {
        let (schema, root) = (self.schema(), Path::root());
        let mut errors;
        if subresource == "status" {
            errors = match (schema.property("status"), new.get("status")) {
                (Some(schema), Some(status)) => {
                    schema::validate(status, old.get("status"), schema, &Path::new("status"))
                }
                _ => Vec::new(),
            };
            errors.extend(scale::validate(&self.version().subresources, new, true));
        } else {
            errors = schema::validate(new, Some(old), schema, &root);
            errors.extend(scale::validate(&self.version().subresources, new, false));
            errors.extend(schema::embedded(new, schema, &root));
        }
        let twice = schema::duplicates(new, schema, &root);
        // What was so before may stay so.
        if !twice.is_empty() && schema::duplicates(old, schema, &root).is_empty() {
            errors.extend(twice);
        }
        self.rules(new, Some(old), &mut errors);
        errors
    }

    /// The rules of the schema, which expect what is otherwise valid.
    fn rules(&self, new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
        let schema = self.schema();
        if !schema.has_rules() {
            return;
        }
        let blocking = |error: &FieldError| {
            use Problem::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
            matches!(error.problem, NotSupported | Required | TooLong | TooMany | TypeInvalid)
        };
        if errors.iter().any(blocking) {
            let words = "some validation rules were not checked because the object was invalid; correct the existing \
                         errors to complete validation";
            errors.push(FieldError::invalid(&Path::root(), &Value::Null, words));
            return;
        }
        errors.extend(schema::rules::check(new, old, schema));
    }

    /// Texts for `Warning` headers about a new object. Source: `validateKubeFinalizerName`.
    pub fn warnings_create(&self, object: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        for name in texts(get(object, "metadata"), "finalizers") {
            let say = |why: &str| format!("metadata.finalizers: {name:?}: {why}");
            warnings.extend(names::qualified_name(name).iter().map(|why| say(why)));
            if !name.contains('/') && !matches!(name, "orphan" | "foregroundDeletion" | "kubernetes") {
                let path = if name.contains('.') { " including a path (/)" } else { "" };
                warnings.push(say(&format!(
                    "prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
                )));
            }
        }
        warnings
    }

    /// The Scale of an object.
    ///
    /// Errors: 400 when the object's counts are none.
    pub fn scale_of(&self, object: &Value) -> Result<Value, Status> {
        scale::scale_of(&self.version().subresources, object).map_err(Status::bad_request)
    }

    /// Writes the replicas of a Scale into the object.
    pub fn apply_scale(&self, object: &mut Value, scale: &Value) {
        scale::apply(&self.version().subresources, object, scale);
    }

    /// The path of the replicas, for the owners of a Scale's field.
    pub fn replicas_path(&self) -> Vec<&str> {
        scale::path(&self.version().subresources)
    }
}
