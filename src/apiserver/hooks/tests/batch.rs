//! Errors of jobs, schedules and autoscalers.

use serde_json::json;

use super::*;

#[test]
fn jobs() {
    // the selector of a job that has not been created is its writer's
    let spec = |mut spec: Value| {
        spec["manualSelector"] = json!(true);
        json!({"spec": spec})
    };
    check(
        "batch",
        "Job",
        &[
            (
                spec(json!({"selector": {"matchLabels": {"app": "db"}}})),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template \
                   `labels`",
                ],
            ),
            (
                spec(json!({"selector": {}, "parallelism": -1})),
                &["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                spec(json!({"selector": {}, "template": {"spec": {"restartPolicy": "Always"}}})),
                &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
            ),
            (
                spec(json!({"selector": {}, "completionMode": "Indexed", "completions": null, "parallelism": 1})),
                &["spec.completions: Required value: when completion mode is Indexed"],
            ),
            (
                spec(json!({"selector": {}, "backoffLimitPerIndex": 1})),
                &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
            ),
            (
                spec(json!({"selector": {}, "maxFailedIndexes": 1})),
                &[
                    "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                    "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
                ],
            ),
            (
                spec(json!({"selector": {}, "podReplacementPolicy": "Maybe"})),
                &["spec.podReplacementPolicy: Unsupported value: \"Maybe\": supported values: \"Failed\", \
                   \"TerminatingOrFailed\""],
            ),
            (
                spec(json!({"selector": {}, "managedBy": "me"})),
                &["spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")"],
            ),
            (
                spec(json!({"selector": {}, "podFailurePolicy": {"rules": [{"action": "Ignore"}]}})),
                &[
                    "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is \
                   required",
                ],
            ),
            (
                spec(json!({"selector": {}, "podFailurePolicy": {"rules": [
                    {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [2, 0, 2], "containerName": "x"}},
                ]}})),
                &[
                    "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the \
                     backoffLimitPerIndex to be set",
                    "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"x\": must be one of the \
                     container or initContainer names in the pod template",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In \
                     operator",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 2",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,0,2]: must be ordered",
                ],
            ),
            (
                spec(
                    json!({"selector": {}, "completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [
                        {"succeededIndexes": "0,5"}, {"succeededIndexes": "0-1", "succeededCount": 3}, {},
                    ]}}),
                ),
                &[
                    "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0,5\": error parsing succeededIndexes: \
                     too large index: \"5\"",
                    "spec.successPolicy.rules[1].succeededCount: Invalid value: 3: must be less than or equal to 2 (the \
                     number of indexes in the specified succeededIndexes field)",
                    "spec.successPolicy.rules[2]: Required value: at least one of succeededCount or succeededIndexes must \
                     be specified",
                ],
            ),
        ],
    );
}

/// A job as it is after its creation.
fn created() -> Value {
    let hooks = named("batch", "Job").unwrap();
    let mut job = good("batch", "Job");
    (hooks.default)(&mut job);
    (hooks.prepare_create)(&mut job, &context(""));
    job
}

fn changed(kind: &str, old: &Value, change: &Value, subresource: &str) -> Vec<String> {
    let mut new = old.clone();
    merge(&mut new, change);
    let hooks = named("batch", kind).unwrap();
    (hooks.validate_update)(&new, old, &context(subresource)).iter().map(ToString::to_string).collect()
}

#[test]
fn a_job_gets_its_selector() {
    let job = created();
    assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}}));
    assert_eq!(
        job["spec"]["template"]["metadata"]["labels"],
        json!({"app": "web", "batch.kubernetes.io/controller-uid": "u1", "batch.kubernetes.io/job-name": "web",
            "controller-uid": "u1", "job-name": "web"})
    );
    assert_eq!(job["metadata"]["labels"], json!({"app": "web"}));
    assert_eq!((&job["spec"]["backoffLimit"], &job["spec"]["completions"]), (&json!(6), &json!(1)));
}

#[test]
fn what_may_change_in_a_job() {
    let mut job = created();
    assert_eq!(changed("Job", &job, &json!({"spec": {"parallelism": 3, "suspend": true}}), ""), [""; 0]);
    assert_eq!(
        changed("Job", &job, &json!({"spec": {"completions": 2}}), ""),
        ["spec.completions: Invalid value: 2: field is immutable"]
    );
    let tolerations = json!({"spec": {"template": {"spec": {"tolerations": [{"operator": "Exists"}]}}}});
    assert!(changed("Job", &job, &tolerations, "")[0].ends_with("field is immutable"));
    // a suspended job's pods may be steered and sized anew
    job["spec"]["suspend"] = json!(true);
    assert_eq!(changed("Job", &job, &tolerations, ""), [""; 0]);
    let sized = json!({"spec": {"template": {"spec": {"containers": {"0": {"resources": {"limits": {"cpu": "1"}}}}}}}});
    assert_eq!(changed("Job", &job, &sized, ""), [""; 0]);
    let image = json!({"spec": {"template": {"spec": {"containers": {"0": {"image": "other"}}}}}});
    assert!(changed("Job", &job, &image, "")[0].starts_with("spec.template.spec: Invalid value: "));
}

#[test]
fn the_status_of_a_job() {
    let job = created();
    let done = |condition: &str| json!([{"type": condition, "status": "True"}]);
    assert_eq!(
        changed("Job", &job, &json!({"status": {"conditions": done("Complete")}}), "status"),
        [
            "status.completionTime: Required value: completionTime is required for Complete jobs",
            "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true \
             condition",
            "status.startTime: Required value: startTime is required for finished job",
        ]
    );
    let mut failed = job.clone();
    failed["status"] = json!({"failed": 2, "conditions": done("Failed")});
    assert_eq!(
        changed("Job", &failed, &json!({"status": {"failed": 1, "conditions": []}}), "status"),
        [
            "status.conditions: Invalid value: cannot disable the terminal Failed=True condition",
            "status.failed: Invalid value: 1: cannot decrease the failed counter",
        ]
    );
    assert_eq!(
        changed("Job", &job, &json!({"status": {"ready": 1}}), "status"),
        ["status.ready: Invalid value: 1: cannot set more ready pods than active"]
    );
}

#[test]
fn cron_jobs() {
    let spec = |spec: Value| json!({"spec": spec});
    check(
        "batch",
        "CronJob",
        &[
            (spec(json!({"schedule": null})), &["spec.schedule: Required value"]),
            (
                spec(json!({"schedule": "* * * *"})),
                &["spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4: [* * * *]"],
            ),
            (
                spec(json!({"concurrencyPolicy": "Both"})),
                &["spec.concurrencyPolicy: Unsupported value: \"Both\": supported values: \"Allow\", \"Forbid\", \
                   \"Replace\""],
            ),
            (
                spec(json!({"jobTemplate": {"spec": {"selector": {}}}})),
                &["spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated"],
            ),
            (
                spec(json!({"failedJobsHistoryLimit": -1})),
                &["spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0"],
            ),
        ],
    );
    let mut object = good("batch", "CronJob");
    merge(
        &mut object,
        &json!({"metadata": {"name": "x".repeat(53)}, "spec": {"schedule": "TZ=UTC * * * * *", "timeZone": "Mars/X"}}),
    );
    let hooks = named("batch", "CronJob").unwrap();
    let errors: Vec<String> = (hooks.validate_create)(&object, &context("")).iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert_eq!(errors[1], "spec.timeZone: Invalid value: \"Mars/X\": unknown time zone Mars/X");
    assert!(errors[2].ends_with("must be no more than 52 characters"));
}

#[test]
fn autoscalers() {
    let spec = |spec: Value| json!({"spec": spec});
    let metric = |metric: Value| json!({"spec": {"metrics": [metric]}});
    check(
        "autoscaling",
        "HorizontalPodAutoscaler",
        &[
            (
                spec(json!({"maxReplicas": null})),
                &[
                    "spec.maxReplicas: Required value: must be set and greater than 0",
                    "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
                ],
            ),
            (spec(json!({"scaleTargetRef": {"kind": null}})), &["spec.scaleTargetRef.kind: Required value"]),
            (
                metric(json!({"type": "Pods"})),
                &["spec.metrics[0].pods: Required value: must populate information for the given metric source"],
            ),
            (
                metric(json!({"type": "Pods", "pods": {"metric": {"name": "q"},
                    "target": {"type": "AverageValue", "averageValue": "0"}}})),
                &["spec.metrics[0].pods.target.averageValue: Invalid value: \"0\": must be positive"],
            ),
            (
                metric(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Value"}}})),
                &[
                    "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value \
                   or a target utilization",
                ],
            ),
            (
                spec(json!({"behavior": {"scaleDown": {"selectPolicy": "Some", "policies": []}}})),
                &[
                    "spec.behavior.scaleDown.selectPolicy: Unsupported value: \"Some\": supported values: \"Disabled\", \
                     \"Max\", \"Min\"",
                    "spec.behavior.scaleDown.policies: Required value: must specify at least one Policy",
                ],
            ),
        ],
    );
}
