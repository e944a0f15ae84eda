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

mod definition;
pub mod keeper;
mod kinds;
pub mod settle;
mod strategy;

use serde_json::Value;
use std::sync::Arc;
use types::field::FieldError;
use types::registry::{Kind, Verb};
use types::status::Status;

pub use definition::{Definition, GROUP, STORE_PREFIX};
pub use kinds::{Kinds, Served};

use crate::verbs::ask::Ask;

/// One served version of a custom kind, as it hangs on its [`Kind`].
pub struct Custom {
    definition: Arc<Definition>,
    /// Which of the definition's versions it is.
    at: usize,
}

/// What makes a kind a custom one; `None` for built-in ones.
pub fn of(kind: &Kind) -> Option<&Custom> {
    kind.extension.get()
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
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    fn version(&self) -> &definition::Version {
        &self.definition.versions[self.at]
    }

    fn has_status(&self) -> bool {
        self.version().subresources.status.is_some()
    }

    /// Said to everyone who uses the version; empty for one that is not deprecated.
    pub fn deprecation(&self) -> &str {
        &self.version().warning
    }

    pub fn default(&self, _object: &mut Value) {}

    pub fn prepare_create(&self, object: &mut Value) {
        strategy::prepare_create(object, self.has_status());
    }

    pub fn prepare_update(&self, new: &mut Value, old: &Value, subresource: &str) {
        strategy::prepare_update(new, old, subresource, self.has_status());
    }

    pub fn validate(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    pub fn validate_update(&self, _new: &Value, _old: &Value, _subresource: &str) -> Vec<FieldError> {
        Vec::new()
    }
}
