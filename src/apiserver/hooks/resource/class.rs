//! DeviceClass.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::Hooks;
use super::super::check::{Errors, items};
use super::super::json::{get, has, text};
use super::GENERATED;
use super::shared::{self, CONFIG_MAX};

pub static HOOKS: Hooks = Hooks { validate, ..GENERATED };

fn validate(class: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(class, "spec"), Path::new("spec"));
    shared::selectors(spec, &path, &mut errors);
    if shared::bounded(&mut errors, spec, "config", CONFIG_MAX, &path) {
        for (path, config) in items(spec, "config", &path) {
            shared::configuration(config, &path, &mut errors);
        }
    }
    let name = text(spec, "extendedResourceName");
    if has(spec, "extendedResourceName") && !is_extended_resource(name) {
        let words = "must be a valid extended resource name";
        errors.push(FieldError::invalid(&path.child("extendedResourceName"), name, words));
    }
    errors
}

/// Source: `IsExtendedResourceName`: a name in somebody's own domain that a quota can be written for.
fn is_extended_resource(name: &str) -> bool {
    let domain = name.split('/').next().unwrap_or_default();
    name.contains('/')
        && domain != "kubernetes.io"
        && !domain.ends_with(".kubernetes.io")
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}
