//! Certificate request cleaner. Requests that are done with, or that nobody ever answered, go: an hour after the answer, a
//! day after the question.
//!
//! Source: kubernetes `pkg/controller/certificates/cleaner/cleaner.go`.

use client::runner::{Controller, Plan, Seen};
use client::{DeleteParams, Key, Object as _, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::certificate::{self, Desk, is_issued, updated};
use crate::Context;
use crate::keys::Keys;

const ANSWERED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Delete { uid: String },
}

pub fn plan(request: Option<&CertificateSigningRequest>, keys: &dyn Keys, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let Some(request) = request else { return plan };
    let certificate = request.status.as_ref().and_then(|s| s.certificate.as_ref());
    let issued = is_issued(request);
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_ref()).is_some_and(|c| !c.is_empty());
    let after = |condition: &str, wait: SignedDuration| updated(request, condition).map(|at| at.0 + wait);
    let created = request.metadata.creation_timestamp.as_ref().map(|at| at.0);
    let due = [
        after("Approved", if issued { ANSWERED } else { PENDING }),
        after("Denied", ANSWERED),
        after("Failed", ANSWERED),
        created.filter(|_| !conditions).map(|at| at + PENDING),
        certificate.filter(|_| issued).and_then(|c| keys.expiry(&c.0)),
    ];
    let Some(due) = due.into_iter().flatten().min() else { return plan };
    if due < now {
        plan.push(Action::Delete { uid: request.uid().into() }, format!("it is done with since {due}"));
    } else {
        // The moment itself is not past yet.
        plan.again_at(due + SignedDuration::from_secs(1));
    }
    plan
}

struct Cleaner(Desk);

pub fn start(context: &Context) {
    certificate::start(context, Cleaner);
}

impl Controller for Cleaner {
    type Action = Action;

    fn name(&self) -> &'static str {
        "csrcleaner"
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        plan(self.0.requests.get(key).as_deref(), &*self.0.keys, now)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let Action::Delete { uid } = action;
        match self.0.client.delete::<CertificateSigningRequest>("", &key.name, &DeleteParams::uid(&uid)).await {
            Ok(_) => Ok(vec![Box::pin(self.0.requests.going(key, &uid))]),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::controllers::certificate_signing::tests::{Scripted, request};

    #[test]
    fn requests_go_when_their_time_has_come() {
        let at = |hours: i64| Timestamp::from_second(hours * 3600).unwrap();
        let aged = |condition: &str, certificate: &str| {
            let mut request = request(condition);
            request.metadata.creation_timestamp = Some(Time(at(100)));
            for condition in request.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten()) {
                condition.last_update_time = Some(Time(at(100)));
            }
            if !certificate.is_empty() {
                request.status.get_or_insert_default().certificate = Some(ByteString(certificate.into()));
            }
            request
        };
        // Name, condition, certificate (the second at which it ends), hours that it is kept.
        for (name, condition, certificate, hours) in [
            ("unanswered", "", "", 24),
            ("approved and not signed", "Approved", "", 24),
            ("signed", "Approved", "9999999", 1),
            ("denied", "Denied", "", 1),
            ("failed", "Failed", "", 1),
            ("signed for half an hour", "Approved", "361800", 0),
        ] {
            let request = aged(condition, certificate);
            let plan_at = |hours: i64| plan(Some(&request), &Scripted, at(100 + hours));
            assert!(plan_at(hours).actions.is_empty(), "{name}: too early");
            assert!(plan_at(hours).again.is_some(), "{name}");
            assert_eq!(plan_at(hours + 1).actions, [Action::Delete { uid: "1".into() }], "{name}");
        }
    }
}
