//! ResourceSlice: the devices that a driver has to offer.

use serde_json::{Value, json};
use types::field::{FieldError, Path};
use types::names;
use types::time::rfc3339;

use super::super::check::{self, Errors, items};
use super::super::core::pod::placement;
use super::super::json::{
    boolean, canonical_quantity, each_mut, get, has, int, list, map, map_len, object_mut, remove, set_absent, text,
};
use super::super::{Context, Hooks, strategy};
use super::{BASE, attribute, shared};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create: |slice, context| {
        prepare(slice, context);
        strategy::first_generation(slice);
    },
    prepare_update: |new, old, context| {
        prepare(new, context);
        strategy::bump_generation(new, old);
    },
    validate,
    validate_update,
    warnings_create: |slice| {
        let driver = text(get(slice, "spec"), "driver");
        if driver.chars().any(char::is_uppercase) {
            let words = "driver names should be lowercase";
            return vec![format!("spec.driver: {words}; {driver:?} contains uppercase characters")];
        }
        Vec::new()
    },
    ..BASE
};

const DEVICES_MAX: usize = 128;
/// Of devices with taints or counters, which are longer.
const LONG_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const COUNTERS_MAX: usize = 32;
const CONSUMPTIONS_MAX: usize = 2;
const ATTRIBUTES_MAX: usize = 32;
const TAINTS_MAX: usize = 16;

fn default(slice: &mut Value) {
    let Some(spec) = object_mut(slice, "spec") else { return };
    if let Some(pool) = object_mut(spec, "pool") {
        set_absent(pool, "generation", 0);
    }
    for device in each_mut(spec, "devices") {
        for (_, capacity) in device.get_mut("capacity").and_then(Value::as_object_mut).into_iter().flatten() {
            if let Some(value) = capacity.get_mut("value") {
                canonical_quantity(value);
            }
        }
        each_mut(device, "consumesCounters").for_each(default_counters);
    }
    each_mut(spec, "sharedCounters").for_each(default_counters);
}

fn default_counters(of: &mut Value) {
    for (_, counter) in of.get_mut("counters").and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(value) = counter.get_mut("value") {
            canonical_quantity(value);
        }
    }
}

/// Dates taints, and drops what needs features that are off in 1.36.
fn prepare(slice: &mut Value, context: &Context) {
    let now = rfc3339(context.now);
    let Some(spec) = object_mut(slice, "spec") else { return };
    for device in each_mut(spec, "devices") {
        remove(device, "nodeAllocatableResourceMappings");
        for (_, attribute) in device.get_mut("attributes").and_then(Value::as_object_mut).into_iter().flatten() {
            for list in ["bools", "ints", "strings", "versions"] {
                remove(attribute, list);
            }
        }
        for taint in each_mut(device, "taints") {
            set_absent(taint, "timeAdded", now.as_str());
        }
    }
}

fn validate(slice: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(slice, "spec"), Path::new("spec"));
    shared::driver(text(spec, "driver"), &path.child("driver"), &mut errors);
    let (pool, at) = (get(spec, "pool"), path.child("pool"));
    shared::pool(text(pool, "name"), &at.child("name"), &mut errors);
    let count = int(pool, "resourceSliceCount").unwrap_or(0);
    if count <= 0 {
        errors.push(FieldError::invalid(&at.child("resourceSliceCount"), count, "must be greater than zero"));
    }
    if let Some(n) = int(pool, "generation").filter(|n| *n < 0) {
        errors.push(FieldError::invalid(&at.child("generation"), n, "must be greater than or equal to zero"));
    }
    where_it_is(spec, &path, &mut errors);
    if has(spec, "sharedCounters") && has(spec, "devices") {
        errors.push(FieldError::invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let long = |device: &Value| !list(device, "taints").is_empty() || !list(device, "consumesCounters").is_empty();
    let most = if list(spec, "devices").iter().any(long) { LONG_DEVICES_MAX } else { DEVICES_MAX };
    if shared::bounded(&mut errors, spec, "devices", most, &path) {
        let apart = boolean(spec, "perDeviceNodeSelection");
        for (path, device) in items(spec, "devices", &path) {
            self::device(device, apart, &path, &mut errors);
        }
        shared::distinct_by(&mut errors, spec, "devices", "name", &path);
    }
    if shared::bounded(&mut errors, spec, "sharedCounters", COUNTER_SETS_MAX, &path) {
        for (path, set) in items(spec, "sharedCounters", &path) {
            counters(set, "name", &path, &mut errors);
        }
        shared::distinct_by(&mut errors, spec, "sharedCounters", "name", &path);
    }
    errors
}

/// The fields of these that say where devices are; one of them must.
fn said(of: &Value, fields: &[&str]) -> Vec<String> {
    let yes = |field: &str| match get(of, field) {
        Value::String(s) => !s.is_empty(),
        Value::Bool(b) => *b,
        Value::Object(_) => true,
        _ => false,
    };
    fields.iter().filter(|f| yes(f)).map(|f| format!("`{f}`")).collect()
}

fn where_it_is(spec: &Value, path: &Path, errors: &mut Errors) {
    if has(spec, "nodeName") {
        let (name, at) = (text(spec, "nodeName"), path.child("nodeName"));
        if name.is_empty() {
            errors.push(FieldError::invalid(&at, name, "must be either unset or set to a non-empty string"));
        } else {
            check::wrong(errors, &at, name, names::dns1123_subdomain(name));
        }
    }
    if has(spec, "nodeSelector") {
        let (selector, at) = (get(spec, "nodeSelector"), path.child("nodeSelector"));
        placement::node_selector(selector, &at, errors);
        if list(selector, "nodeSelectorTerms").len() != 1 {
            let (field, words) = ("nodeSelectorTerms", "must have exactly one node selector term");
            errors.push(FieldError::invalid(&at.child(field), get(selector, field), words));
        }
    }
    for field in ["allNodes", "perDeviceNodeSelection"] {
        if has(spec, field) && !boolean(spec, field) {
            let words = "must be either unset or set to true";
            errors.push(FieldError::invalid(&path.child(field), &json!(false), words));
        }
    }
    let words = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let said = said(spec, &["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"]);
    match said.len() {
        0 => errors.push(FieldError::required(path, words)),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", said.join(", "));
            errors.push(FieldError::invalid(path, &shown, format!("{words}, but multiple fields are set")));
        }
    }
}

fn device(device: &Value, apart: bool, path: &Path, errors: &mut Errors) {
    shared::label(text(device, "name"), &path.child("name"), errors);
    let total = i64::try_from(map_len(device, "attributes") + map_len(device, "capacity")).unwrap_or(i64::MAX);
    if total > ATTRIBUTES_MAX as i64 {
        let words = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}");
        errors.push(FieldError::invalid(path, total, words));
    }
    let at = path.child("attributes");
    for (name, value) in map(device, "attributes") {
        attribute::name(name, &at, errors);
        attribute::value(value, &at.key(name), errors);
    }
    let at = path.child("capacity");
    for (name, capacity) in map(device, "capacity") {
        attribute::name(name, &at, errors);
        attribute::capacity(capacity, boolean(device, "allowMultipleAllocations"), &at.key(name), errors);
    }
    if shared::bounded(errors, device, "taints", TAINTS_MAX, path) {
        items(device, "taints", path).for_each(|(path, taint)| shared::taint(taint, &path, errors));
    }
    if shared::bounded(errors, device, "consumesCounters", CONSUMPTIONS_MAX, path) {
        for (path, consumption) in items(device, "consumesCounters", path) {
            counters(consumption, "counterSet", &path, errors);
        }
        shared::distinct_by(errors, device, "consumesCounters", "counterSet", path);
    }
    where_device_is(device, apart, path, errors);
    shared::binding_conditions(device, path, errors);
}

fn where_device_is(device: &Value, apart: bool, path: &Path, errors: &mut Errors) {
    let fields = ["nodeName", "nodeSelector", "allNodes"];
    if !apart {
        if check::count(device, &fields) > 0 {
            let words = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true \
                         in the ResourceSlice spec";
            errors.push(FieldError::invalid(path, &Value::Null, words));
        }
        return;
    }
    if has(device, "nodeName") {
        let (name, at) = (text(device, "nodeName"), path.child("nodeName"));
        if name.is_empty() {
            errors.push(FieldError::invalid(&at, name, "must not be empty"));
        } else {
            check::wrong(errors, &at, name, names::dns1123_subdomain(name));
        }
    }
    if has(device, "nodeSelector") {
        placement::node_selector(get(device, "nodeSelector"), &path.child("nodeSelector"), errors);
    }
    if has(device, "allNodes") && !boolean(device, "allNodes") {
        let words = "must be either unset or set to true";
        errors.push(FieldError::invalid(&path.child("allNodes"), &json!(false), words));
    }
    let words = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to \
                 true in the ResourceSlice spec";
    let said = said(device, &fields);
    match said.len() {
        0 => errors.push(FieldError::required(path, words)),
        1 => {}
        _ => errors.push(FieldError::invalid(path, &format!("{{{}}}", said.join(", ")), words)),
    }
}

/// A set of counters, or what a device takes of one.
fn counters(of: &Value, name: &str, path: &Path, errors: &mut Errors) {
    let set = check::required(errors, of, name, path);
    if !set.is_empty() {
        shared::label(set, &path.child(name), errors);
    }
    let at = path.child("counters");
    match map_len(of, "counters") {
        0 => errors.push(FieldError::required(&at, "")),
        n if n > COUNTERS_MAX => errors.push(FieldError::too_many(&at, n, COUNTERS_MAX)),
        _ => map(of, "counters").for_each(|(name, _)| shared::label(name, &at, errors)),
    }
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Errors {
    let mut errors = Vec::new();
    let (spec, before, path) = (get(new, "spec"), get(old, "spec"), Path::new("spec"));
    check::immutable(&mut errors, get(spec, "pool"), get(before, "pool"), "name", &path.child("pool"));
    for field in ["driver", "nodeName"] {
        check::immutable(&mut errors, spec, before, field, &path);
    }
    errors
}
