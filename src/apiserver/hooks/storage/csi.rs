//! CSIDriver and CSINode: which drivers there are, and on which nodes.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::names;

use super::super::check::{self, Errors, IMMUTABLE, items, one_of};
use super::super::json::{ensure_object, get, has, int, is_empty, list, remove, same, set, set_absent, text, texts};
use super::super::{Context, Hooks, strategy};
use super::driver_name;

pub static DRIVER: Hooks = Hooks {
    default,
    prepare_create: |driver, _| drop_gated(driver),
    prepare_update: |new, old, _| {
        drop_gated(new);
        // a driver has no generation before its first change
        if !same(get(new, "spec"), get(old, "spec")) {
            strategy::bump_generation(new, old);
        }
    },
    validate,
    validate_update,
    warnings_create,
    unconditional_update: false,
    delete_returns_object: true,
    ..Hooks::NEUTRAL
};

pub static NODE: Hooks = Hooks {
    validate: validate_node,
    validate_update: validate_node_update,
    unconditional_update: false,
    delete_returns_object: true,
    ..Hooks::NEUTRAL
};

const NODE_ID_MAX: usize = 256;
const UPDATE_SECONDS_MIN: i64 = 10;
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const MODES: &[&str] = &["Ephemeral", "Persistent"];

fn default(driver: &mut Value) {
    let Some(spec) = ensure_object(driver, "spec") else { return };
    set_absent(spec, "attachRequired", true);
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        set_absent(spec, field, false);
    }
    set_absent(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if is_empty(get(spec, "volumeLifecycleModes")) {
        set(spec, "volumeLifecycleModes", json!(["Persistent"]));
    }
}

/// A field whose feature is off in 1.36.
fn drop_gated(driver: &mut Value) {
    if let Some(spec) = driver.get_mut("spec") {
        remove(spec, "preventPodSchedulingIfMissing");
    }
}

fn validate(driver: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(driver, "spec"), Path::new("spec"));
    one_of(&mut errors, spec, "fsGroupPolicy", &path, &["File", "None", "ReadWriteOnceWithFSType"]);
    let requests = list(spec, "tokenRequests");
    for (i, (path, request)) in items(spec, "tokenRequests", &path).enumerate() {
        let audience = text(request, "audience");
        if requests[..i].iter().any(|other| text(other, "audience") == audience) {
            errors.push(FieldError::duplicate(&path.child("audience"), audience));
            continue;
        }
        let at = path.child("expirationSeconds");
        match int(request, "expirationSeconds") {
            Some(n) if n < TOKEN_SECONDS_MIN => {
                errors.push(FieldError::invalid(&at, n, "may not specify a duration less than 10 minutes"));
            }
            Some(n) if n > TOKEN_SECONDS_MAX => {
                errors.push(FieldError::invalid(&at, n, "may not specify a duration larger than 2^32 seconds"));
            }
            _ => {}
        }
    }
    for mode in texts(spec, "volumeLifecycleModes").filter(|mode| !MODES.contains(mode)) {
        errors.push(FieldError::not_supported(&path.child("volumeLifecycleModes"), mode, MODES));
    }
    if let Some(n) = int(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|n| *n < UPDATE_SECONDS_MIN) {
        let words = "must be greater than or equal to 10 seconds";
        errors.push(FieldError::invalid(&path.child("nodeAllocatableUpdatePeriodSeconds"), n, words));
    }
    if has(spec, "serviceAccountTokenInSecrets") && requests.is_empty() {
        let words = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        let field = "serviceAccountTokenInSecrets";
        errors.push(FieldError::invalid(&path.child(field), get(spec, field), words));
    }
    errors
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Errors {
    let mut errors = Vec::new();
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    // Upstream calls the first by another name.
    for (field, said) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
        if !same(get(spec, field), get(before, field)) {
            errors.push(FieldError::invalid(&Path::new("spec").child(said), get(spec, field), IMMUTABLE));
        }
    }
    errors
}

fn warnings_create(driver: &Value) -> Vec<String> {
    let spec = get(driver, "spec");
    if list(spec, "tokenRequests").is_empty() || has(spec, "serviceAccountTokenInSecrets") {
        return Vec::new();
    }
    vec![
        "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible \
         logging of tokens in volume attributes"
            .to_owned(),
    ]
}

fn validate_node(node: &Value) -> Errors {
    let mut errors = Vec::new();
    let spec = get(node, "spec");
    let drivers = list(spec, "drivers");
    for (i, (path, driver)) in items(spec, "drivers", &Path::new("spec")).enumerate() {
        let name = driver_name(&mut errors, driver, "name", &path);
        let id = check::required(&mut errors, driver, "nodeID", &path);
        if id.len() > NODE_ID_MAX {
            let words = format!("must be {NODE_ID_MAX} characters or less");
            errors.push(FieldError::invalid(&path.child("nodeID"), id, words));
        }
        check::not_negative(&mut errors, get(driver, "allocatable"), "count", &path.child("allocatable"));
        if drivers[..i].iter().any(|other| text(other, "name") == name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        let keys: Vec<&str> = texts(driver, "topologyKeys").collect();
        for (j, key) in keys.iter().enumerate() {
            if key.is_empty() {
                errors.push(FieldError::required(&path, ""));
            }
            if keys[..j].contains(key) {
                errors.push(FieldError::duplicate(&path, *key));
            }
            check::wrong(&mut errors, &path, key, names::qualified_name(key));
        }
    }
    errors
}

/// A driver that is there stays what it is, but for how much it can take.
fn validate_node_update(new: &Value, old: &Value, _: &Context) -> Errors {
    let mut errors = Vec::new();
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        remove(&mut driver, "allocatable");
        driver
    };
    for before in list(get(old, "spec"), "drivers") {
        for now in list(get(new, "spec"), "drivers").iter().filter(|now| text(now, "name") == text(before, "name")) {
            let now = fixed(now);
            if !same(&now, &fixed(before)) {
                errors.push(FieldError::invalid(&Path::new("spec.drivers"), &now, IMMUTABLE));
            }
        }
    }
    errors
}
