//! Errors of certificates.k8s.io, flowcontrol.apiserver.k8s.io, admissionregistration.k8s.io and apiregistration.k8s.io.

use serde_json::json;

use super::*;

#[test]
fn signing_requests() {
    const GROUP: &str = "certificates.k8s.io";
    const KIND: &str = "CertificateSigningRequest";
    // The good one, behind words that some readers of PEM skip.
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let alone = STANDARD.decode(good(GROUP, KIND)["spec"]["request"].as_str().unwrap()).unwrap();
    let behind_words = STANDARD.encode([b"words\n", &alone[..]].concat());
    let not_alone = format!("spec.request: Invalid value: {behind_words:?}: must be one PEM block and nothing else");
    check(
        GROUP,
        KIND,
        &[
            (
                json!({"spec": {"request": "aGVsbG8="}}),
                &["spec.request: Invalid value: \"aGVsbG8=\": PEM block type must be CERTIFICATE REQUEST"],
            ),
            (json!({"spec": {"request": behind_words}}), &[not_alone.as_str()]),
            (json!({"spec": {"usages": null}}), &["spec.usages: Required value"]),
            (json!({"spec": {"usages": ["any", "any"]}}), &["spec.usages[1]: Duplicate value: \"any\""]),
            (
                json!({"spec": {"signerName": "acme"}}),
                &[
                    "spec.signerName: Invalid value: \"acme\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
                ],
            ),
            (
                json!({"spec": {"signerName": "acme/x"}}),
                &[
                    "spec.signerName: Invalid value: \"acme\": should be a domain with at least two segments separated by dots",
                ],
            ),
            (
                json!({"spec": {"signerName": "kubernetes.io/legacy-unknown"}}),
                &[
                    "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
                ],
            ),
            (
                json!({"spec": {"expirationSeconds": 60}}),
                &[
                    "spec.expirationSeconds: Invalid value: 60: may not specify a duration less than 600 seconds (10 minutes)",
                ],
            ),
        ],
    );
    let approved = json!({"type": "Approved", "status": "True"});
    check_update(
        GROUP,
        KIND,
        "approval",
        &[
            (
                json!({"status": {"conditions": [approved], "certificate": "aGVsbG8="}, "spec": {"usages": ["any"]}}),
                &[],
            ),
            (
                json!({"status": {"conditions": [approved, {"type": "Denied", "status": "False"}]}}),
                &[
                    "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
                    "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
                ],
            ),
        ],
    );
    check_update(
        GROUP,
        KIND,
        "status",
        &[
            (
                json!({"status": {"conditions": [approved]}}),
                &["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""],
            ),
            (
                json!({"status": {"certificate": "aGVsbG8="}}),
                &[
                    "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block",
                ],
            ),
        ],
    );
    // the server says who asks
    let hooks = named(GROUP, KIND).unwrap();
    let mut request = good(GROUP, KIND);
    request["spec"]["username"] = json!("root");
    request["spec"]["extra"] = json!({"a": ["b"]});
    (hooks.prepare_create)(&mut request, &context(""));
    let spec = &request["spec"];
    assert_eq!((&spec["username"], &spec["groups"]), (&json!("tester"), &json!(["system:authenticated"])));
    assert!(spec.get("extra").is_none() && spec.get("uid").is_none());
    // what was issued stays, and an approval is dated
    let mut issued = request.clone();
    issued["status"]["certificate"] = json!("eA==");
    let mut other = request.clone();
    other["status"]["certificate"] = json!("");
    let said = (hooks.validate_update)(&other, &issued, &context("status"));
    assert_eq!(
        said[0].to_string(),
        "status.certificate: Forbidden: updates may not modify existing certificate content"
    );
    let mut dated = request.clone();
    dated["status"]["conditions"] = json!([approved]);
    (hooks.prepare_update)(&mut dated, &request, &context("approval"));
    assert_eq!(dated["status"]["conditions"][0]["lastUpdateTime"], "1970-01-01T00:00:00Z");
}

#[test]
fn flows() {
    const GROUP: &str = "flowcontrol.apiserver.k8s.io";
    let rule = |rule: Value| json!({"spec": {"rules": {"0": rule}}});
    check(
        GROUP,
        "FlowSchema",
        &[
            (
                json!({"spec": {"matchingPrecedence": 1}}),
                &[
                    "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                ],
            ),
            (
                json!({"spec": {"matchingPrecedence": 10001}}),
                &["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"],
            ),
            (
                json!({"spec": {"priorityLevelConfiguration": null}}),
                &["spec.priorityLevelConfiguration.name: Required value: must reference a priority level"],
            ),
            (
                json!({"spec": {"distinguisherMethod": {"type": "ByMoon"}}}),
                &[
                    "spec.distinguisherMethod.type: Unsupported value: {\"type\":\"ByMoon\"}: supported values: \"ByNamespace\", \"ByUser\"",
                ],
            ),
            (
                rule(json!({"subjects": [], "resourceRules": null, "nonResourceRules": null})),
                &[
                    "spec.rules[0].subjects: Required value: subjects must contain at least one value",
                    "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
                ],
            ),
            (
                rule(json!({"subjects": [{"kind": "ServiceAccount", "user": {"name": "a"}}]})),
                &[
                    "spec.rules[0].subjects[0].serviceAccount: Required value: serviceAccount is required when subject kind is 'ServiceAccount'",
                    "spec.rules[0].subjects[0].user: Forbidden: user is forbidden when subject kind is not 'User'",
                ],
            ),
            (
                rule(json!({"resourceRules": {"0": {"verbs": ["get", "*"], "namespaces": null}}})),
                &[
                    "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"get\",\"*\"]: if '*' is present, must not specify other verbs",
                    "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
                ],
            ),
            (
                rule(json!({"nonResourceRules": {"0": {"nonResourceURLs": ["a", "/a*"]}}})),
                &[
                    "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
                    "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*\": wildcard can only do suffix matching",
                ],
            ),
        ],
    );
    let queuing = |queuing: Value| json!({"spec": {"limited": {"limitResponse": {"queuing": queuing}}}});
    check(
        GROUP,
        "PriorityLevelConfiguration",
        &[
            (
                json!({"spec": {"type": "Exempt", "limited": null}}),
                &["spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'"],
            ),
            (
                json!({"spec": {"limited": null}}),
                &["spec.limited: Required value: must not be empty when type is Limited"],
            ),
            (
                json!({"spec": {"limited": {"limitResponse": {"type": "Reject"}}}}),
                &[
                    "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
                ],
            ),
            (
                queuing(json!({"queues": 4})),
                &[
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: should not be greater than queues (4)",
                ],
            ),
            (
                queuing(json!({"queues": 512})),
                &[
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60",
                ],
            ),
        ],
    );
    // what every server has is valid, and stays as it is
    for mut object in flowcontrol::bootstrap::objects() {
        let hooks = named(GROUP, object["kind"].as_str().unwrap()).unwrap();
        let before = object.clone();
        (hooks.default)(&mut object);
        assert_eq!(object, before);
        assert_eq!((hooks.validate)(&object), Vec::new(), "{object}");
        assert_eq!(flowcontrol::bootstrap::reconcile(&object, &before), None);
        if object["metadata"]["name"] == "catch-all" {
            object["spec"]["marker"] = json!(1);
            let said = (hooks.validate)(&object);
            assert!(said[0].to_string().ends_with("spec of 'catch-all' must equal the fixed value"), "{said:?}");
            assert_eq!(flowcontrol::bootstrap::reconcile(&object, &before).unwrap()["spec"], before["spec"]);
        }
    }
    assert_eq!(flowcontrol::bootstrap::objects().len(), 19);
}

#[test]
fn webhooks() {
    let hook = |hook: Value| json!({"webhooks": {"0": hook}});
    check(
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        &[
            (
                hook(json!({"name": "a.b"})),
                &[
                    "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                ],
            ),
            (
                hook(json!({"sideEffects": null, "admissionReviewVersions": ["v2"]})),
                &[
                    "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
                    "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
                ],
            ),
            (
                hook(json!({"timeoutSeconds": 31, "reinvocationPolicy": "Often"})),
                &[
                    "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                    "webhooks[0].reinvocationPolicy: Unsupported value: \"Often\": supported values: \"IfNeeded\", \"Never\"",
                ],
            ),
            (
                hook(json!({"clientConfig": {"url": "https://a"}})),
                &["webhooks[0].clientConfig: Required value: exactly one of url or service is required"],
            ),
            (
                hook(json!({"clientConfig": {"service": null, "url": "http://u@a/?q#f"}})),
                &[
                    "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                    "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
                    "webhooks[0].clientConfig.url: Invalid value: \"f\": fragments are not permitted in the URL",
                    "webhooks[0].clientConfig.url: Invalid value: \"q\": query parameters are not permitted in the URL",
                ],
            ),
            // upstream swaps the two names
            (
                hook(json!({"clientConfig": {"service": {"name": null, "port": 0, "path": "/a//b"}}})),
                &[
                    "webhooks[0].clientConfig.service.namespace: Required value",
                    "webhooks[0].clientConfig.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                    "webhooks[0].clientConfig.service.path: Invalid value: \"/a//b\": segment[1] may not be empty",
                ],
            ),
            (
                hook(
                    json!({"rules": {"0": {"operations": ["*", "CREATE"], "apiVersions": [""], "resources": ["pods/*", "pods/log"]}}}),
                ),
                &[
                    "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
                    "webhooks[0].rules[0].apiVersions[0]: Required value",
                    "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
                ],
            ),
            (
                hook(
                    json!({"matchConditions": [{"name": "a", "expression": " "}, {"name": "a", "expression": "true"}]}),
                ),
                &[
                    "webhooks[0].matchConditions[0].expression: Required value",
                    "webhooks[0].matchConditions[1].name: Duplicate value: \"a\"",
                ],
            ),
        ],
    );
}

#[test]
fn admission_policies() {
    const GROUP: &str = "admissionregistration.k8s.io";
    check(
        GROUP,
        "ValidatingAdmissionPolicy",
        &[
            (json!({"spec": {"matchConstraints": null}}), &["spec.matchConstraints: Required value"]),
            (
                json!({"spec": {"matchConstraints": {"resourceRules": []}}}),
                &["spec.matchConstraints.resourceRules: Required value"],
            ),
            (
                json!({"spec": {"paramKind": {"apiVersion": "a/b/c"}}}),
                &[
                    "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                    "spec.paramKind.kind: Required value",
                ],
            ),
            (
                json!({"spec": {"variables": {"0": {"name": "in"}}}}),
                &["spec.variables[0].name: Invalid value: \"in\": must be a valid CEL identifier"],
            ),
            (
                json!({"spec": {"validations": null, "auditAnnotations": null}}),
                &[
                    "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                    "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
                ],
            ),
            (
                json!({"spec": {"validations": {"0": {"expression": "", "message": "a\nb", "reason": "Mood"}}}}),
                &[
                    "spec.validations[0].expression: Required value: expression is not specified",
                    "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
                    "spec.validations[0].reason: Unsupported value: \"Mood\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
                ],
            ),
        ],
    );
    check(
        GROUP,
        "MutatingAdmissionPolicy",
        &[
            (
                json!({"spec": {"mutations": {"0": {"patchType": "ApplyConfiguration"}}}}),
                &[
                    "spec.mutations[0].applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration",
                    "spec.mutations[0].jsonPatch: Invalid value: \"{jsonPatch}\": must not be specified when patchType is ApplyConfiguration",
                ],
            ),
            (
                json!({"spec": {"reinvocationPolicy": null, "matchConstraints": {"resourceRules": {"0": {"operations": ["DELETE"]}}}}}),
                &[
                    "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
                    "spec.reinvocationPolicy: Required value",
                ],
            ),
        ],
    );
    check(
        GROUP,
        "ValidatingAdmissionPolicyBinding",
        &[
            (
                json!({"spec": {"policyName": null, "validationActions": ["Deny", "Warn"]}}),
                &[
                    "spec.policyName: Required value",
                    "spec.validationActions: Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
                ],
            ),
            (
                json!({"spec": {"validationActions": [], "paramRef": {"selector": {}, "parameterNotFoundAction": null}}}),
                &[
                    "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                    "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                    "spec.paramRef.parameterNotFoundAction: Required value",
                    "spec.validationActions: Required value: at least one validation action is required",
                ],
            ),
        ],
    );
}

#[test]
fn api_services() {
    const GROUP: &str = "apiregistration.k8s.io";
    check(
        GROUP,
        "APIService",
        &[
            (
                json!({"spec": {"version": "v2"}}),
                &[
                    "metadata.name: Invalid value: \"v1.acme.io\": must be `spec.version+\".\"+spec.group`: \"v2.acme.io\"",
                ],
            ),
            (
                json!({"spec": {"groupPriorityMinimum": 20001, "versionPriority": 0}}),
                &[
                    "spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000",
                    "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
                ],
            ),
            (
                json!({"spec": {"service": null, "caBundle": "eHg="}}),
                &[
                    "spec.caBundle: Invalid value: \"2 bytes\": local APIServices may not have a caBundle",
                    "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
                ],
            ),
        ],
    );
    let own = apiregistration::built_in();
    let hooks = named(GROUP, "APIService").unwrap();
    for mut object in own.clone() {
        (hooks.default)(&mut object);
        (hooks.prepare_create)(&mut object, &context(""));
        assert_eq!((hooks.validate)(&object), Vec::new(), "{object}");
        assert_eq!(object["status"]["conditions"][0]["reason"], "Local");
    }
    let registers = |name: &str| own.iter().any(|o| o["metadata"]["name"] == name);
    assert!(registers("v1.") && !registers("v1.apiregistration.k8s.io"));
}
