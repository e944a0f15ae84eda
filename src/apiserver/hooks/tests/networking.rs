//! Errors of networking.k8s.io.

use serde_json::json;

use super::*;

const GROUP: &str = "networking.k8s.io";

#[test]
fn ingresses() {
    let path = |path: &str, kind: &str| json!({"spec": {"rules": {"0": {"http": {"paths": {"0": {"path": path, "pathType": kind}}}}}}});
    let service = |service: Value| json!({"spec": {"rules": {"0": {"http": {"paths": {"0": {"backend": {"service": service}}}}}}}});
    check(
        GROUP,
        "Ingress",
        &[
            (json!({}), &[]),
            (
                json!({"spec": {"rules": null, "tls": null}}),
                &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
            ),
            (
                json!({"spec": {"defaultBackend": {}}}),
                &["spec.defaultBackend: Invalid value: \"\": resource or service backend is required"],
            ),
            (
                json!({"spec": {"rules": {"0": {"host": "1.2.3.4"}}}}),
                &["spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"],
            ),
            (json!({"spec": {"rules": {"0": {"host": "*.example.com"}}}}), &[]),
            (
                json!({"spec": {"tls": {"0": {"hosts": ["a.*.com"]}}}}),
                &["spec.tls[0].hosts[0]: Invalid value: \"a.*.com\": a wildcard DNS-1123 subdomain must start with \
                     '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, \
                     '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation \
                     is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"],
            ),
            (path("a", "Exact"), &["spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path"]),
            (path("", "ImplementationSpecific"), &[]),
            (
                path("/a//b/..", "Prefix"),
                &[
                    "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b/..\": must not contain '//'",
                    "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b/..\": cannot end with '/..'",
                ],
            ),
            (
                path("/", "Some"),
                &["spec.rules[0].http.paths[0].pathType: Unsupported value: \"Some\": supported values: \"Exact\", \
                     \"ImplementationSpecific\", \"Prefix\""],
            ),
            (
                json!({"spec": {"rules": {"0": {"http": {"paths": {"0": {"pathType": null}}}}}}}),
                &["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"],
            ),
            (
                service(json!({"port": {"name": "http"}})),
                &["spec.rules[0].http.paths[0].backend: Invalid value: \"\": cannot set both port name & port number"],
            ),
            (
                service(json!({"port": {"number": null}})),
                &["spec.rules[0].http.paths[0].backend: Required value: port name or number is required"],
            ),
            (
                service(json!({"name": null, "port": {"number": 70000}})),
                &[
                    "spec.rules[0].http.paths[0].backend.service.name: Required value",
                    "spec.rules[0].http.paths[0].backend.service.port.number: Invalid value: 70000: must be between 1 \
                     and 65535, inclusive",
                ],
            ),
            (
                json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "other"}}}),
                &["annotations.kubernetes.io/ingress.class: Invalid value: \"other\": must match `ingressClassName` \
                     when both are specified"],
            ),
        ],
    );
    check_update(
        GROUP,
        "Ingress",
        "status",
        &[
            (json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}, {"hostname": "a.b"}]}}}), &[]),
            (
                json!({"status": {"loadBalancer": {"ingress": [{"ip": "010.0.0.1"}, {"hostname": "1.2.3.4"}]}}}),
                &[
                    "status.loadBalancer.ingress[0].ip: Invalid value: \"010.0.0.1\": must not have leading 0s",
                    "status.loadBalancer.ingress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP \
                     address",
                ],
            ),
        ],
    );
    let annotated = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "web"}}, "spec": {}});
    assert_eq!(
        (named(GROUP, "Ingress").unwrap().warnings_create)(&annotated),
        ["annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"]
    );
}

#[test]
fn ingress_classes() {
    check(
        GROUP,
        "IngressClass",
        &[
            (json!({"spec": {"controller": null}}), &["spec.controller: Required value"]),
            (
                json!({"spec": {"controller": "acme"}}),
                &["spec.controller: Invalid value: \"acme\": must be a domain-prefixed path (such as \"acme.io/foo\")"],
            ),
            (
                json!({"spec": {"parameters": {"kind": null, "scope": "Namespace"}}}),
                &[
                    "spec.parameters.kind: Required value",
                    "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
                ],
            ),
            (
                json!({"spec": {"parameters": {"namespace": "shop"}}}),
                &["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
            ),
            (
                json!({"spec": {"parameters": {"scope": "Galaxy"}}}),
                &["spec.parameters.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespace\""],
            ),
        ],
    );
    check_update(
        GROUP,
        "IngressClass",
        "",
        &[(
            json!({"spec": {"controller": "acme.io/new"}}),
            &["spec.controller: Invalid value: \"acme.io/new\": field is immutable"],
        )],
    );
}

#[test]
fn network_policies() {
    let rule = |rule: Value| json!({"spec": {"ingress": {"0": rule}}});
    check(
        GROUP,
        "NetworkPolicy",
        &[
            (rule(json!({"from": [{}]})), &["spec.ingress[0].from[0]: Required value: must specify a peer"]),
            (
                rule(json!({"from": {"1": {"podSelector": {}}}})),
                &["spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer"],
            ),
            (
                rule(json!({"from": {"1": {"ipBlock": {"except": ["10.0.0.0/8", "x"]}}}})),
                &[
                    "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset \
                     of `cidr`",
                    "spec.ingress[0].from[1].ipBlock.except[1]: Invalid value: \"x\": must be a valid CIDR value, (e.g. \
                     10.9.8.0/24 or 2001:db8::/64)",
                ],
            ),
            (
                rule(json!({"from": {"1": {"ipBlock": {"cidr": null}}}})),
                &["spec.ingress[0].from[1].ipBlock.cidr: Required value"],
            ),
            (
                rule(json!({"ports": [{"port": 90, "endPort": 80}, {"port": "http", "endPort": 80}, {"endPort": 80}]})),
                &[
                    "spec.ingress[0].ports[0].endPort: Invalid value: 90: must be greater than or equal to `port`",
                    "spec.ingress[0].ports[1].endPort: Invalid value: 80: may not be specified when `port` is \
                     non-numeric",
                    "spec.ingress[0].ports[2].endPort: Invalid value: 80: may not be specified when `port` is not \
                     specified",
                ],
            ),
            (
                rule(json!({"ports": [{"port": 0, "protocol": "ICMP"}]})),
                &[
                    "spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \
                     \"TCP\", \"UDP\"",
                    "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                json!({"spec": {"policyTypes": ["Ingress", "Sideways"]}}),
                &["spec.policyTypes[1]: Unsupported value: \"Sideways\": supported values: \"Egress\", \"Ingress\""],
            ),
            (
                json!({"spec": {"policyTypes": ["Ingress", "Egress", "Egress"]}}),
                &[
                    "spec.policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"Egress\"]: may not specify more than two \
                     policyTypes",
                ],
            ),
        ],
    );
    let mut policy = json!({"spec": {"egress": [{}]}});
    (named(GROUP, "NetworkPolicy").unwrap().default)(&mut policy);
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
}

#[test]
fn ranges_and_addresses() {
    check(
        GROUP,
        "ServiceCIDR",
        &[
            (json!({"spec": {"cidrs": null}}), &["spec.cidrs: Required value: at least one CIDR required"]),
            (json!({"spec": {"cidrs": ["10.96.0.0/16", "fd00::/112"]}}), &[]),
            (
                json!({"spec": {"cidrs": ["10.96.0.0/16", "10.97.0.0/16"]}}),
                &[
                    "spec.cidrs: Invalid value: [\"10.96.0.0/16\",\"10.97.0.0/16\"]: may specify no more than one IP for \
                     each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
                ],
            ),
            (
                json!({"spec": {"cidrs": ["10.96.0.1/16"]}}),
                &["spec.cidrs[0]: Invalid value: \"10.96.0.1/16\": must not have bits set beyond the prefix length"],
            ),
        ],
    );
    check_update(
        GROUP,
        "ServiceCIDR",
        "",
        &[
            (json!({"spec": {"cidrs": ["10.96.0.0/16", "fd00::/112"]}}), &[]),
            (
                json!({"spec": {"cidrs": ["10.97.0.0/16"]}}),
                &["spec.cidrs[0]: Invalid value: \"10.97.0.0/16\": field is immutable"],
            ),
            (json!({"spec": {"cidrs": []}}), &["spec.cidrs: Invalid value: []: field is immutable"]),
        ],
    );
    check(
        GROUP,
        "IPAddress",
        &[
            (json!({"spec": null}), &["spec.parentRef: Required value"]),
            (
                json!({"spec": {"parentRef": {"resource": null, "name": "a/b"}}}),
                &[
                    "spec.parentRef.resource: Required value",
                    "spec.parentRef.name: Invalid value: \"a/b\": may not contain '/'",
                ],
            ),
        ],
    );
    check_update(
        GROUP,
        "IPAddress",
        "",
        &[(
            json!({"spec": {"parentRef": {"name": "db"}}}),
            &["spec.parentRef: Invalid value: {\"name\":\"db\",\"resource\":\"services\"}: field is immutable"],
        )],
    );
    let name = named(GROUP, "IPAddress").unwrap().validate_name;
    assert_eq!(name("fd00::1"), Vec::<String>::new());
    assert_eq!(name("FD00::1"), ["must be in canonical form (\"fd00::1\")"]);
}
