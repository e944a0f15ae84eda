//! StorageClass and VolumeAttributesClass.

use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors, items, one_of, required_one_of};
use super::super::core::pod::warnings;
use super::super::json::{get, list, map, map_len, same, set_absent, text};
use super::super::{Context, Hooks};

pub static STORAGE_CLASS: Hooks = Hooks {
    default: |class| {
        set_absent(class, "reclaimPolicy", "Delete");
        set_absent(class, "volumeBindingMode", "Immediate");
    },
    validate,
    validate_update,
    warnings: old_labels,
    delete_returns_object: true,
    ..Hooks::NEUTRAL
};

pub static ATTRIBUTES_CLASS: Hooks = Hooks {
    validate: |class| {
        let mut errors = Vec::new();
        driver(&mut errors, class, "driverName");
        parameters(&mut errors, class);
        if map_len(class, "parameters") == 0 {
            let words = "must contain at least one key/value pair";
            errors.push(FieldError::required(&Path::new("parameters"), words));
        }
        errors
    },
    validate_update: |new, old, _| {
        let mut errors = Vec::new();
        for field in ["driverName", "parameters"] {
            if !same(get(new, field), get(old, field)) {
                errors.push(FieldError::forbidden(&Path::new(field), format!("updates to {field} are forbidden.")));
            }
        }
        errors
    },
    delete_returns_object: true,
    ..Hooks::NEUTRAL
};

/// Parameters are for the driver to read; so many and so much of them fit into its calls.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;

fn validate(class: &Value) -> Errors {
    let mut errors = Vec::new();
    let root = Path::root();
    driver(&mut errors, class, "provisioner");
    parameters(&mut errors, class);
    one_of(&mut errors, class, "reclaimPolicy", &root, &["Delete", "Retain"]);
    required_one_of(&mut errors, class, "volumeBindingMode", &root, &["Immediate", "WaitForFirstConsumer"]);
    let terms = list(class, "allowedTopologies");
    for (i, (path, term)) in items(class, "allowedTopologies", &root).enumerate() {
        topology(term, &path, &mut errors);
        if terms[..i].iter().any(|other| same(other, term)) {
            errors.push(FieldError::duplicate(&path.child("matchLabelExpressions"), ""));
        }
    }
    errors
}

fn driver(errors: &mut Errors, class: &Value, field: &str) {
    let name = check::required(errors, class, field, &Path::root()).to_lowercase();
    if !name.is_empty() {
        check::wrong(errors, &Path::new(field), &name, names::qualified_name(&name));
    }
}

fn parameters(errors: &mut Errors, class: &Value) {
    let path = Path::new("parameters");
    if map_len(class, "parameters") > PARAMETERS_MAX {
        errors.push(FieldError::too_long(&path, PARAMETERS_MAX));
        return;
    }
    let mut bytes = 0;
    for (key, value) in map(class, "parameters") {
        if key.is_empty() {
            errors.push(FieldError::invalid(&path, key, "field can not be empty."));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > PARAMETERS_MAX_BYTES {
        errors.push(FieldError::too_long(&path, PARAMETERS_MAX_BYTES));
    }
}

fn topology(term: &Value, path: &Path, errors: &mut Errors) {
    let all = list(term, "matchLabelExpressions");
    for (i, (path, expression)) in items(term, "matchLabelExpressions", path).enumerate() {
        let (key, values) = (text(expression, "key"), list(expression, "values"));
        if values.is_empty() {
            errors.push(FieldError::required(&path.child("values"), ""));
        }
        for (j, value) in values.iter().enumerate() {
            if values[..j].contains(value) {
                errors.push(FieldError::duplicate(&path.child("values").index(j), value.as_str().unwrap_or_default()));
            }
        }
        check::wrong(errors, &path.child("key"), key, names::qualified_name(key));
        if all[..i].iter().any(|other| text(other, "key") == key) {
            errors.push(FieldError::duplicate(&path.child("key"), key));
        }
    }
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Errors {
    let mut errors = Vec::new();
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        check::immutable(&mut errors, new, old, field, &Path::root());
    }
    errors
}

fn old_labels(class: &Value) -> Vec<String> {
    let mut said = Vec::new();
    for (path, term) in items(class, "allowedTopologies", &Path::root()) {
        for (path, expression) in items(term, "matchLabelExpressions", &path) {
            if let Some(words) = warnings::old_node_label(text(expression, "key")) {
                said.push(format!("{}: {words}", path.child("key")));
            }
        }
    }
    said
}
