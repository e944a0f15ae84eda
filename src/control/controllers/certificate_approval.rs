//! Certificate approval. A node's request for its client certificate is approved when the one who sent it may have it.
//! Requests of people wait for people.
//!
//! Source: kubernetes `pkg/controller/certificates/approver/sarapprove.go`.

use client::runner::{Controller, Plan, Seen};
use client::{Key, Result, WriteParams};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};

use super::certificate::{self, Decided, Desk, KUBELET_CLIENT, has, is_issued, kubelet_client, with_condition};
use crate::Context;
use crate::keys::Keys;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// What the sender must be allowed to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// A certificate for the node that it already is.
    SelfNodeClient,
    NodeClient,
}

impl Permission {
    fn subresource(self) -> &'static str {
        match self {
            Self::SelfNodeClient => "selfnodeclient",
            Self::NodeClient => "nodeclient",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::SelfNodeClient => "Auto approving self kubelet client certificate after SubjectAccessReview.",
            Self::NodeClient => "Auto approving kubelet client certificate after SubjectAccessReview.",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Approve it for the first of these that the sender has.
    ApproveIfAllowed(Decided, Vec<Permission>),
}

pub fn plan(request: Option<&CertificateSigningRequest>, keys: &dyn Keys) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let Some(request) = request else { return plan };
    if is_issued(request) || has(request, "Approved") || has(request, "Denied") {
        return plan;
    }
    let spec = &request.spec;
    // What cannot be read is for people to deny.
    let Ok(requested) = keys.read_request(&spec.request.0) else { return plan };
    let usages = spec.usages.clone().unwrap_or_default();
    if spec.signer_name != KUBELET_CLIENT || kubelet_client(&requested, &usages).is_err() {
        return plan;
    }
    let mut permissions = vec![Permission::NodeClient];
    if spec.username.as_deref() == Some(&requested.common_name) {
        permissions.insert(0, Permission::SelfNodeClient);
    }
    plan.push(Action::ApproveIfAllowed(Decided::on(request), permissions), "a node asks for its client certificate");
    plan
}

struct Approver(Desk);

pub fn start(context: &Context) {
    certificate::start(context, Approver);
}

impl Controller for Approver {
    type Action = Action;

    fn name(&self) -> &'static str {
        "csrapproving"
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        plan(self.0.requests.get(key).as_deref(), &*self.0.keys)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let Action::ApproveIfAllowed(decided, permissions) = action;
        let Some(request) = self.0.decided(key, &decided) else { return Ok(vec![]) };
        let spec = &request.spec;
        for permission in permissions {
            let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
                "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
                "resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
                    "verb": "create", "subresource": permission.subresource(), "version": "*"}}});
            let answer: Value = self.0.client.create_path(REVIEWS, &review, &WriteParams::default()).await?;
            if answer["status"]["allowed"] != true {
                continue;
            }
            let condition = json!({"type": "Approved", "status": "True", "reason": "AutoApproved",
                "message": permission.message()});
            return self.0.update(key, "approval", &with_condition(&request, condition)).await;
        }
        tracing::debug!(%key, "a node's request for a certificate is not allowed to its sender");
        Ok(vec![])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::certificate_signing::tests::{Scripted, assert_applies_to_its_own_only, request};

    #[test]
    fn only_open_requests_of_nodes_are_looked_at() {
        let keys = Scripted;
        let approve = |permissions| vec![Action::ApproveIfAllowed(Decided::on(&request("")), permissions)];
        let both = approve(vec![Permission::SelfNodeClient, Permission::NodeClient]);
        let other = approve(vec![Permission::NodeClient]);
        type Row = (&'static str, fn(&mut CertificateSigningRequest), Vec<Action>);
        let rows: [Row; 5] = [
            ("its own", |_| (), both),
            ("another's", |r| r.spec.username = Some("system:bootstrap:abcdef".into()), other),
            ("approved", |r| *r = request("Approved"), vec![]),
            ("denied", |r| *r = request("Denied"), vec![]),
            ("another signer", |r| r.spec.signer_name = "example.com/mine".into(), vec![]),
        ];
        for (name, change, wanted) in rows {
            let mut request = request("");
            change(&mut request);
            assert_eq!(plan(Some(&request), &keys).actions, wanted, "{name}");
        }
        assert!(plan(None, &keys).actions.is_empty());
    }

    #[tokio::test]
    async fn a_decision_is_about_one_request() {
        assert_applies_to_its_own_only(Approver, |request| plan(Some(request), &Scripted).actions, &request("")).await;
    }
}
