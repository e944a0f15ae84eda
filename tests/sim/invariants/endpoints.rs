//! A Service leads to its ready pods and to no others, once nothing changes any more.
//!
//! Source: discovery/v1 `EndpointSlice`; `pkg/controller/endpointslice`.

use std::collections::BTreeSet;

use super::Invariant;
use crate::objects::{Change, Objects, carries, is_finished, is_going, is_ready, list, name, namespace, text, uid};

#[derive(Debug)]
pub struct Endpoints;

impl Invariant for Endpoints {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn observe(&mut self, _: &Objects, _: &Change) -> Result<(), String> {
        Ok(())
    }

    fn settled(&self, objects: &Objects) -> Result<(), String> {
        for service in objects.all("services").filter(|s| s["spec"]["selector"].is_object()) {
            let selected = objects
                .all("pods")
                .filter(|pod| namespace(pod) == namespace(service) && carries(pod, &service["spec"]["selector"]));
            let ready: BTreeSet<&str> =
                selected.filter(|p| is_ready(p) && !is_going(p) && !is_finished(p)).map(uid).collect();
            let slices = objects.all("endpointslices.discovery.k8s.io").filter(|slice| {
                namespace(slice) == namespace(service)
                    && slice["metadata"]["labels"]["kubernetes.io/service-name"] == name(service)
            });
            let endpoints = slices.flat_map(|slice| list(slice, "/endpoints"));
            let led: BTreeSet<&str> =
                endpoints.filter(|e| e["conditions"]["ready"] == true).map(|e| text(e, "/targetRef/uid")).collect();
            if ready != led {
                return Err(format!("{} leads to {led:?}, ready are {ready:?}", name(service)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{History, object, ready};
    use super::*;

    #[test]
    fn a_pod_that_is_left_out_and_one_that_is_gone_are_told() {
        let mut history = History::of(Endpoints);
        let slice = |endpoints| {
            object(
                "web-1",
                json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "endpoints": endpoints}),
            )
        };
        let pod = ready(object("a", json!({"metadata": {"labels": {"app": "web"}}})), "");
        history.write("user", "services", &object("web", json!({"spec": {"selector": {"app": "web"}}})));
        history.write("kubelet/n1", "pods", &pod);
        assert_eq!(history.settled(), Err("web leads to {}, ready are {\"a-uid\"}".into()));
        let endpoint = json!([{"conditions": {"ready": true}, "targetRef": {"uid": "a-uid"}}]);
        history.write("endpointslice-controller", "endpointslices.discovery.k8s.io", &slice(endpoint));
        assert_eq!(history.settled(), Ok(()));
        history.remove("kubelet/n1", "pods", &pod);
        assert_eq!(history.settled(), Err("web leads to {\"a-uid\"}, ready are {}".into()));
    }
}
