//! The status of a ResourceClaim: what was allocated, for whom, and what drivers say of it.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::super::addresses;
use super::super::check::{self, Errors, IMMUTABLE, items};
use super::super::conditions;
use super::super::core::pod::placement;
use super::super::json::{get, has, list, remove, same, set, text};
use super::claim;
use super::shared::{self, CONFIG_MAX};

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;
const DATA_MAX_BYTES: usize = 10 * 1024;
const IPS_MAX: usize = 16;
const INTERFACE_NAME_MAX: usize = 256;
const HARDWARE_ADDRESS_MAX: usize = 128;

/// Driver, pool, device and share of an allocated device.
fn identity(of: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| text(of, field))
}

fn results(claim: &Value) -> &[Value] {
    list(get(get(get(claim, "status"), "allocation"), "devices"), "results")
}

/// What drivers said of devices that are given back goes with them.
pub fn forget_deallocated(new: &mut Value, old: &Value) {
    let kept: Vec<Value> = {
        let gone = |device: &Value| {
            let is = |result: &&Value| identity(result) == identity(device);
            results(old).iter().any(|r| is(&r)) && !results(new).iter().any(|r| is(&r))
        };
        list(get(new, "status"), "devices").iter().filter(|device| !gone(device)).cloned().collect()
    };
    if let Some(status) = new.get_mut("status").filter(|s| has(s, "devices")) {
        if kept.is_empty() {
            remove(status, "devices");
        } else {
            set(status, "devices", Value::Array(kept));
        }
    }
}

/// Source: `validateResourceClaimStatusUpdate`.
pub fn validate_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let (status, before, path) = (get(new, "status"), get(old, "status"), Path::new("status"));
    if shared::bounded(&mut errors, status, "reservedFor", RESERVED_MAX, &path) {
        for (path, consumer) in items(status, "reservedFor", &path) {
            for field in ["resource", "name", "uid"] {
                check::required(&mut errors, consumer, field, &path);
            }
        }
        shared::distinct_by(&mut errors, status, "reservedFor", "uid", &path);
    }
    let devices = list(status, "devices");
    for (i, (path, device)) in items(status, "devices", &path).enumerate() {
        self::device(device, results(new), &path, &mut errors);
        if devices[..i].iter().any(|other| identity(other) == identity(device)) {
            errors.push(FieldError::duplicate(&path, shown(device).as_str()));
        }
    }
    let (allocation, was) = (get(status, "allocation"), get(before, "allocation"));
    let reserved = list(status, "reservedFor");
    if !reserved.is_empty() {
        let path = path.child("reservedFor");
        if allocation.is_null() {
            errors.push(FieldError::forbidden(&path, "may not be specified when `allocated` is not set"));
        } else if has(get(new, "metadata"), "deletionTimestamp")
            && reserved.iter().any(|one| !list(before, "reservedFor").contains(one))
        {
            let words = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(FieldError::forbidden(&path, words));
        }
    }
    let path = path.child("allocation");
    if was.is_null() {
        self::allocation(allocation, get(get(new, "spec"), "devices"), &path.child("devices"), &mut errors);
        if has(allocation, "nodeSelector") {
            placement::node_selector(get(allocation, "nodeSelector"), &path.child("nodeSelector"), &mut errors);
        }
    } else if !allocation.is_null() && !same(allocation, was) {
        errors.push(FieldError::invalid(&path, allocation, IMMUTABLE));
    }
    errors
}

fn shown(device: &Value) -> String {
    let [driver, pool, device, share] = identity(device);
    let whole = format!("{driver}/{pool}/{device}");
    if share.is_empty() { whole } else { format!("{whole}/{share}") }
}

fn allocation(allocation: &Value, requested: &Value, path: &Path, errors: &mut Errors) {
    let devices = get(allocation, "devices");
    if shared::bounded(errors, devices, "results", RESULTS_MAX, path) {
        for (path, result) in items(devices, "results", path) {
            claim::reference(text(result, "request"), requested, &path.child("request"), errors);
            place(result, &path, errors);
            shared::binding_conditions(result, &path, errors);
            share(result, &path, errors);
        }
    }
    if shared::bounded(errors, devices, "config", 2 * CONFIG_MAX, path) {
        for (path, config) in items(devices, "config", path) {
            check::required_one_of(errors, config, "source", &path, &["FromClaim", "FromClass"]);
            claim::references(config, requested, &path, errors);
            shared::configuration(config, &path, errors);
        }
    }
}

/// Driver, pool and device.
fn place(of: &Value, path: &Path, errors: &mut Errors) {
    shared::driver(text(of, "driver"), &path.child("driver"), errors);
    shared::pool(text(of, "pool"), &path.child("pool"), errors);
    shared::label(text(of, "device"), &path.child("device"), errors);
}

fn share(of: &Value, path: &Path, errors: &mut Errors) {
    if !has(of, "shareID") {
        return;
    }
    let id = text(of, "shareID");
    let normal = id.len() == 36
        && id.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        });
    if !normal {
        let words = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                     hexadecimal characters";
        errors.push(FieldError::invalid(&path.child("shareID"), id, words));
    }
}

fn device(device: &Value, allocated: &[Value], path: &Path, errors: &mut Errors) {
    place(device, path, errors);
    share(device, path, errors);
    if !allocated.iter().any(|result| identity(result) == identity(device)) {
        let words = "must be an allocated device in the claim";
        errors.push(FieldError::invalid(path, shown(device).as_str(), words));
    }
    shared::bounded(errors, device, "conditions", CONDITIONS_MAX, path);
    conditions::validate(device, path, errors);
    if has(device, "data") {
        shared::raw(get(device, "data"), DATA_MAX_BYTES, &path.child("data"), errors);
    }
    let (network, path) = (get(device, "networkData"), path.child("networkData"));
    for (field, max) in [("interfaceName", INTERFACE_NAME_MAX), ("hardwareAddress", HARDWARE_ADDRESS_MAX)] {
        if text(network, field).len() > max {
            errors.push(FieldError::too_long(&path.child(field), max));
        }
    }
    if shared::bounded(errors, network, "ips", IPS_MAX, &path) {
        for (path, address) in items(network, "ips", &path) {
            addresses::interface(address.as_str().unwrap_or_default(), &path, errors);
        }
        shared::distinct(errors, network, "ips", &path);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_drivers_say_goes_with_the_device() {
        let device = json!({"driver": "a.io", "pool": "p", "device": "d"});
        let old = json!({"status": {"allocation": {"devices": {"results": [device]}}, "devices": [device]}});
        let mut new = json!({"status": {"devices": [device]}});
        forget_deallocated(&mut new, &old);
        assert_eq!(new, json!({"status": {}}));
        let mut new = old.clone();
        forget_deallocated(&mut new, &old);
        assert_eq!(new, old);
    }
}
