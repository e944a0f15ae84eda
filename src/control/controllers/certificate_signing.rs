//! Certificate signing. An approved request of one of the cluster's own signers gets its certificate, or the reason why it
//! never will.
//!
//! Source: kubernetes `pkg/controller/certificates/signer/signer.go`.

use client::runner::{Controller, Plan, Seen};
use client::{Key, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};

use super::certificate::{
    self, API_CLIENT, Decided, Desk, KUBELET_CLIENT, KUBELET_SERVING, check, has, is_issued, with_condition,
};
use crate::Context;
use crate::keys::Keys;

/// Longest life of a certificate, and what it has when nothing is asked for. Source: `--cluster-signing-duration`.
const LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Nobody can renew in less.
const LIFETIME_MIN: SignedDuration = SignedDuration::from_mins(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Issue(Decided, String),
    /// It never will be signed; the message says why.
    Fail(Decided, String),
}

pub fn plan(request: Option<&CertificateSigningRequest>, keys: &dyn Keys, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let Some(request) = request else { return plan };
    let spec = &request.spec;
    let ours = [API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING].contains(&spec.signer_name.as_str());
    if !ours || !has(request, "Approved") || has(request, "Denied") || has(request, "Failed") || is_issued(request) {
        return plan;
    }
    let usages = spec.usages.clone().unwrap_or_default();
    let signed = keys.read_request(&spec.request.0).and_then(|requested| {
        check(&spec.signer_name, &requested, &usages)?;
        let asked = spec.expiration_seconds.map(|s| SignedDuration::from_secs(s.into()));
        let lifetime = asked.map_or(LIFETIME, |asked| asked.clamp(LIFETIME_MIN, LIFETIME));
        keys.sign_request(&spec.request.0, &usages, lifetime, now)
    });
    let decided = Decided::on(request);
    match signed {
        Ok(certificate) => plan.push(Action::Issue(decided, certificate), "it is approved"),
        Err(why) => {
            plan.why.push(why.clone());
            plan.actions.push(Action::Fail(decided, why));
        }
    }
    plan
}

struct Signer(Desk);

pub fn start(context: &Context) {
    certificate::start(context, Signer);
}

impl Controller for Signer {
    type Action = Action;

    fn name(&self) -> &'static str {
        "csrsigning"
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        plan(self.0.requests.get(key).as_deref(), &*self.0.keys, now)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let (Action::Issue(decided, _) | Action::Fail(decided, _)) = &action;
        let Some(request) = self.0.decided(key, decided) else { return Ok(vec![]) };
        let object: Value = match action {
            Action::Issue(_, certificate) => {
                let mut request = (*request).clone();
                request.status.get_or_insert_default().certificate = Some(ByteString(certificate.into_bytes()));
                serde_json::to_value(&request).unwrap_or_default()
            }
            Action::Fail(_, why) => {
                let condition =
                    json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why});
                with_condition(&request, condition)
            }
        };
        self.0.update(key, "status", &object).await
    }
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;

    use client::fake::Fake;
    use client::reflector::Sink as _;
    use client::{Cache, Clock, Object as _};

    use super::*;
    use crate::keys::{Account, Requested};

    /// Reads every request as that of a node and signs with how long it signs for.
    #[derive(Debug, Default)]
    pub struct Scripted;

    impl Keys for Scripted {
        fn read_request(&self, _: &[u8]) -> std::result::Result<Requested, String> {
            let (common_name, organizations) = ("system:node:n1".into(), vec!["system:nodes".into()]);
            Ok(Requested { common_name, organizations, ..Requested::default() })
        }
        fn sign_request(
            &self,
            _: &[u8],
            _: &[String],
            lifetime: SignedDuration,
            _: Timestamp,
        ) -> std::result::Result<String, String> {
            Ok(lifetime.as_secs().to_string())
        }
        fn expiry(&self, certificate: &[u8]) -> Option<Timestamp> {
            Timestamp::from_second(std::str::from_utf8(certificate).ok()?.parse().ok()?).ok()
        }
        fn account_token(&self, account: &Account, secret: &str) -> std::result::Result<String, String> {
            Ok(format!("{} {secret}", account.name))
        }
    }

    /// The request of a node, with this condition unless it is empty.
    pub fn request(condition: &str) -> CertificateSigningRequest {
        let mut request = json!({"metadata": {"name": "r", "uid": "1"}, "spec": {"request": "", "username": "system:node:n1",
            "signerName": KUBELET_CLIENT, "usages": ["digital signature", "client auth"]}});
        if !condition.is_empty() {
            request["status"]["conditions"] = json!([{"type": condition, "status": "True"}]);
        }
        serde_json::from_value(request).unwrap()
    }

    /// Applies what was planned for `request` to it, to a later version and to another of its name: the first alone is
    /// written to.
    pub async fn assert_applies_to_its_own_only<C: Controller>(
        controller: impl Fn(Desk) -> C,
        plan: impl Fn(&CertificateSigningRequest) -> Vec<C::Action>,
        request: &CertificateSigningRequest,
    ) {
        type Change = fn(&mut CertificateSigningRequest);
        let rows: [(&str, Change, bool); 3] = [
            ("the same", |_| (), true),
            ("a later version", |r| r.metadata.resource_version = Some("8".into()), false),
            ("another of its name", |r| r.metadata.uid = Some("2".into()), false),
        ];
        for (name, change, wanted) in rows {
            let mut stored = request.clone();
            stored.metadata.resource_version = Some("7".into());
            let actions = plan(&stored);
            change(&mut stored);
            let requests = Arc::new(Cache::default());
            requests.upsert(&serde_json::to_string(&stored).unwrap()).unwrap();
            let fake = Fake::new(Clock::fake(Timestamp::UNIX_EPOCH));
            let controller = controller(Desk { client: fake.client(), requests, keys: Arc::new(Scripted) });
            for action in actions {
                // The server knows nothing of it, so every write is answered with 404; that it came is what counts.
                let _ = controller.apply(&stored.key(), action).await;
            }
            assert_eq!(!fake.take_writes().is_empty(), wanted, "{name}");
        }
    }

    #[tokio::test]
    async fn a_decision_is_about_one_request() {
        assert_applies_to_its_own_only(
            Signer,
            |request| plan(Some(request), &Scripted, Timestamp::UNIX_EPOCH).actions,
            &request("Approved"),
        )
        .await;
    }

    #[test]
    fn approved_requests_are_signed_once() {
        let issue = |seconds: i64| vec![Action::Issue(Decided::on(&request("")), seconds.to_string())];
        let fail = |why: &str| vec![Action::Fail(Decided::on(&request("")), why.into())];
        type Row = (&'static str, fn(&mut CertificateSigningRequest), Vec<Action>);
        let usages = "usages did not match [client auth digital signature key encipherment]";
        let rows: [Row; 8] = [
            ("approved", |_| (), issue(31_536_000)),
            ("a day", |r| r.spec.expiration_seconds = Some(86_400), issue(86_400)),
            ("a moment", |r| r.spec.expiration_seconds = Some(1), issue(600)),
            ("for ever", |r| r.spec.expiration_seconds = Some(i32::MAX), issue(31_536_000)),
            ("open", |r| *r = request(""), vec![]),
            ("signed", |r| r.status.as_mut().unwrap().certificate = Some(ByteString(vec![1])), vec![]),
            ("another signer", |r| r.spec.signer_name = "example.com/mine".into(), vec![]),
            ("wrong use", |r| r.spec.usages = Some(vec!["server auth".into()]), fail(usages)),
        ];
        for (name, change, wanted) in rows {
            let mut request = request("Approved");
            change(&mut request);
            assert_eq!(plan(Some(&request), &Scripted, Timestamp::UNIX_EPOCH).actions, wanted, "{name}");
        }
    }
}
