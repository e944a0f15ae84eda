//! A device is one claim's at a time; a pod gets a node only with its devices; what nobody uses is given back.
//!
//! Source: KEP-4381 (structured parameters): a device is allocated for one claim, unless it says that it may be shared; resource/v1
//! `ResourceClaimStatus.reservedFor`: a pod that is not in the list must not be started.

use serde_json::Value;

use super::Invariant;
use crate::objects::{Change, Objects, list, name, text, uid};

const CLAIMS: &str = "resourceclaims.resource.k8s.io";

#[derive(Debug)]
pub struct Devices;

/// The devices that a claim has for itself.
fn devices(claim: &Value) -> Vec<String> {
    let own = list(claim, "/status/allocation/devices/results")
        .filter(|r| r["adminAccess"] != true && r["shareID"].is_null());
    own.map(|r| format!("{}/{}/{}", text(r, "/driver"), text(r, "/pool"), text(r, "/device"))).collect()
}

impl Invariant for Devices {
    fn name(&self) -> &'static str {
        "devices"
    }

    fn observe(&mut self, objects: &Objects, change: &Change) -> Result<(), String> {
        let Some(new) = &change.new else { return Ok(()) };
        match change.resource.as_str() {
            CLAIMS => {
                let own = devices(new);
                for other in objects.all(CLAIMS).filter(|other| uid(other) != uid(new)) {
                    if let Some(device) = devices(other).into_iter().find(|device| own.contains(device)) {
                        return Err(format!("{} gets {device}, which is {}'s", change.name, name(other)));
                    }
                }
                Ok(())
            }
            "pods" if change.becomes(|pod| !text(pod, "/spec/nodeName").is_empty()) => {
                for status in list(new, "/status/resourceClaimStatuses") {
                    let claim = text(status, "/resourceClaimName");
                    // Somebody may have deleted it meanwhile.
                    let Some(claim) = objects.get(CLAIMS, &change.namespace, claim) else { continue };
                    if !list(claim, "/status/reservedFor").any(|user| text(user, "/uid") == uid(new)) {
                        return Err(format!("{} gets a node before its claim {} is its own", change.name, name(claim)));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn settled(&self, objects: &Objects) -> Result<(), String> {
        for claim in objects.all(CLAIMS) {
            let there = |user: &&Value| objects.all("pods").any(|pod| uid(pod) == text(user, "/uid"));
            if let Some(user) = list(claim, "/status/reservedFor").find(|user| !there(user)) {
                return Err(format!("{} is reserved for {}, which is gone", name(claim), text(user, "/name")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{History, object};
    use super::*;

    fn claim(name: &str, device: &str, users: Value) -> Value {
        let results = json!([{"driver": "d.io", "pool": "n1", "device": device}]);
        object(name, json!({"status": {"allocation": {"devices": {"results": results}}, "reservedFor": users}}))
    }

    fn pod(node: &str) -> Value {
        let statuses = json!([{"name": "gpu", "resourceClaimName": "a"}]);
        object("p", json!({"spec": {"nodeName": node}, "status": {"resourceClaimStatuses": statuses}}))
    }

    #[test]
    fn what_is_given_twice_or_too_late_is_told() {
        let user = json!([{"name": "p", "uid": "p-uid"}]);
        let mut history = History::of(Devices);
        history.write("scheduler", CLAIMS, &claim("a", "0", json!([])));
        history.write("scheduler", CLAIMS, &claim("b", "1", json!([])));
        history.holds();
        history.write("scheduler", CLAIMS, &claim("b", "0", json!([])));
        history.breaks("b gets d.io/n1/0, which is a's");
        history.write("scheduler", CLAIMS, &claim("b", "1", json!([])));
        history.write("user", "pods", &pod(""));
        history.write("scheduler", "pods", &pod("n1"));
        history.breaks("p gets a node before its claim a is its own");
        history.write("user", "pods", &pod(""));
        history.write("scheduler", CLAIMS, &claim("a", "0", user));
        history.write("scheduler", "pods", &pod("n1"));
        history.holds();
        assert_eq!(history.settled(), Ok(()));
        history.remove("user", "pods", &pod("n1"));
        assert_eq!(history.settled(), Err("a is reserved for p, which is gone".to_owned()));
    }
}
