//! PodTemplate. Source: `ValidatePodTemplate`, `pkg/registry/core/podtemplate/strategy.go`.

use serde_json::{Value, json};
use types::field::Path;

use super::super::check::Errors;
use super::super::json::{ensure_object, get, int, same, set};
use super::super::strategy::first_generation;
use super::super::{Context, Hooks};
use super::pod::{defaults, validate as pod, warnings};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create: |object, _| first_generation(object),
    prepare_update,
    validate,
    delete_returns_object: true,
    warnings: |object| {
        let mut said = Vec::new();
        warnings::template_at(get(object, "template"), &Path::new("template"), &mut said);
        said
    },
    ..Hooks::NEUTRAL
};

fn default(object: &mut Value) {
    defaults::template_in(object);
}

fn prepare_update(new: &mut Value, old: &Value, _: &Context) {
    let changed = !same(get(new, "template"), get(old, "template"));
    let before = int(get(old, "metadata"), "generation").unwrap_or(0);
    if let Some(meta) = ensure_object(new, "metadata") {
        set(meta, "generation", json!(before + i64::from(changed)));
    }
}

fn validate(object: &Value) -> Errors {
    let mut errors = Vec::new();
    pod::template(get(object, "template"), &Path::new("template"), &mut errors);
    errors
}
