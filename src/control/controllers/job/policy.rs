//! What a job's policies say of pods that failed and of indexes that succeeded.
//!
//! Source: kubernetes `pkg/controller/job/{pod_failure_policy,success_policy}.go`, KEP-3329, KEP-3998.

use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;

/// What becomes of a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Counts towards the limits; so does whatever no rule matches.
    Count,
    /// Its index fails whatever its limit.
    FailIndex,
    /// As if it had not been.
    Ignore,
    /// The job fails, with this message.
    FailJob(String),
}

impl Verdict {
    pub fn counts(&self) -> bool {
        *self != Verdict::Ignore
    }
}

/// The first rule that matches decides.
pub fn verdict(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    for (at, rule) in policy.into_iter().flat_map(|p| &p.rules).enumerate() {
        let why = if let Some(codes) = &rule.on_exit_codes {
            exited(pod, codes).map(|(name, code)| {
                format!("Container {name} for pod {} failed with exit code {code}", client::Object::key(pod))
            })
        } else {
            let status = pod.status.as_ref();
            let mut conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
            let patterns = || rule.on_pod_conditions.iter().flatten();
            conditions
                .find(|c| patterns().any(|p| p.type_ == c.type_ && p.status.as_deref().unwrap_or("True") == c.status))
                .map(|c| format!("Pod {} has condition {}", client::Object::key(pod), c.type_))
        };
        let Some(why) = why else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" => return Verdict::FailIndex,
            "Count" => return Verdict::Count,
            "FailJob" => return Verdict::FailJob(format!("{why} matching FailJob rule at index {at}")),
            // A rule of the future is as if it were not there.
            _ => {}
        }
    }
    Verdict::Count
}

/// The first container whose failure the rule is about, and its exit code.
fn exited<'a>(pod: &'a Pod, rule: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let code = |c: &'a ContainerStatus| Some((c.name.as_str(), c.state.as_ref()?.terminated.as_ref()?.exit_code));
    let mut all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.find_map(|c| {
        code(c).filter(|(name, code)| {
            let listed = rule.values.contains(code);
            rule.container_name.as_deref().is_none_or(|wanted| wanted == *name)
                && *code != 0
                && match rule.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    _ => false,
                }
        })
    })
}

/// Why the job has succeeded already, if it has.
pub fn success(policy: Option<&SuccessPolicy>, completions: i32, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let at = policy?.rules.iter().position(|rule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Indexes::parse(text, completions);
            let have = wanted.common(succeeded);
            !wanted.is_empty() && (have == wanted.total() || rule.succeeded_count.is_some_and(|count| have >= count))
        }
        None => rule.succeeded_count.is_some_and(|count| succeeded.total() >= count),
    })?;
    Some(format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop"}, "status": status})).unwrap()
    }

    #[test]
    fn verdicts() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [43]}},
            {"action": "Count", "onExitCodes": {"operator": "In", "values": [44]}},
            {"action": "FailJob", "onPodConditions": [{"type": "ConfigIssue", "status": "True"}]},
            {"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}}]}))
        .unwrap();
        let exit = |name: &str, code: i32| {
            json!({"containerStatuses": [{"name": name, "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"terminated": {"exitCode": code}}}]})
        };
        let condition = |type_: &str, status: &str| json!({"conditions": [{"type": type_, "status": status}]});
        let fails = |text: &str| Verdict::FailJob(text.into());
        for (status, verdict_) in [
            (json!({}), Verdict::Count),
            (condition("DisruptionTarget", "True"), Verdict::Ignore),
            (condition("DisruptionTarget", "False"), Verdict::Count),
            (
                exit("main", 42),
                fails("Container main for pod shop/p failed with exit code 42 matching FailJob rule at index 1"),
            ),
            (exit("other", 42), Verdict::Ignore),
            (exit("other", 43), Verdict::FailIndex),
            (exit("other", 44), Verdict::Count),
            (exit("other", 1), Verdict::Count),
            (exit("other", 0), Verdict::Count),
            (
                condition("ConfigIssue", "True"),
                fails("Pod shop/p has condition ConfigIssue matching FailJob rule at index 4"),
            ),
        ] {
            assert_eq!(verdict(Some(&policy), &pod(status.clone())), verdict_, "{status}");
        }
        assert_eq!(verdict(None, &pod(exit("main", 42))), Verdict::Count);
    }

    #[test]
    fn successes() {
        let rules = |rules: Value| serde_json::from_value::<SuccessPolicy>(json!({"rules": rules})).unwrap();
        for (policy, succeeded, met) in [
            (json!([{"succeededCount": 2}]), "0", None),
            (json!([{"succeededCount": 2}]), "0,4", Some(0)),
            (json!([{"succeededIndexes": "1,3-5"}]), "1-4", None),
            (json!([{"succeededIndexes": "1,3-5"}]), "0-5", Some(0)),
            (json!([{"succeededIndexes": "9"}, {"succeededIndexes": "1,3-5", "succeededCount": 2}]), "0-3", Some(1)),
            (json!([{"succeededIndexes": "1,3-5", "succeededCount": 2}]), "0,1,2", None),
            (json!([{"succeededCount": 0}]), "", None),
        ] {
            let message = success(Some(&rules(policy.clone())), 10, &Indexes::parse(succeeded, 10));
            assert_eq!(message, met.map(|at: i32| format!("Matched rules at index {at}")), "{policy} {succeeded}");
        }
        assert_eq!(success(None, 10, &Indexes::parse("0-9", 10)), None);
    }
}
