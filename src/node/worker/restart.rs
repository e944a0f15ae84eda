//! Whether a container that has ended is started again. Pure.

use k8s_openapi::api::core::v1::Pod;

use super::state::Container;
use crate::pod::{self, Role};

/// Source: `pkg/kubelet/container/helpers.go` ShouldContainerBeRestarted; KEP-753 (sidecars), KEP-5307 (rules).
pub(super) fn wanted(pod: &Pod, container: &Container, code: i32) -> bool {
    match container.role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::App => {}
    }
    for rule in container.spec.restart_policy_rules.iter().flatten() {
        if let Some(codes) = &rule.exit_codes {
            let listed = codes.values.iter().flatten().any(|v| *v == code);
            let matches = match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            };
            if matches && rule.action == "Restart" {
                return true;
            }
        }
    }
    let pod_policy = pod::spec(pod).restart_policy.as_deref().unwrap_or("Always");
    let policy = container.spec.restart_policy.as_deref().unwrap_or(pod_policy);
    match (policy, container.role) {
        ("Never", _) => false,
        // An init container that succeeded is done, whatever the policy.
        ("OnFailure", _) | (_, Role::Init) => code != 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{
        Container as Spec, ContainerRestartRule, ContainerRestartRuleOnExitCodes, PodSpec,
    };

    use super::*;

    #[test]
    fn policies() {
        let check = |pod_policy: &str, role: Role, code: i32, expected: bool| {
            let pod = Pod {
                spec: Some(PodSpec { restart_policy: Some(pod_policy.into()), ..PodSpec::default() }),
                ..Pod::default()
            };
            let c = Container::new(role, Arc::new(Spec::default()));
            assert_eq!(wanted(&pod, &c, code), expected, "{pod_policy} {role:?} {code}");
        };
        for code in [0, 1] {
            check("Always", Role::App, code, true);
            check("Never", Role::App, code, false);
            check("OnFailure", Role::App, code, code != 0);
            check("Always", Role::Init, code, code != 0);
            check("OnFailure", Role::Init, code, code != 0);
            check("Never", Role::Init, code, false);
            check("Never", Role::Sidecar, code, true);
            check("Always", Role::Ephemeral, code, false);
        }
    }

    #[test]
    fn rules_and_container_policy_win() {
        let pod = Pod {
            spec: Some(PodSpec { restart_policy: Some("Never".into()), ..PodSpec::default() }),
            ..Pod::default()
        };
        let spec = Spec {
            restart_policy: Some("Never".into()),
            restart_policy_rules: Some(vec![ContainerRestartRule {
                action: "Restart".into(),
                exit_codes: Some(ContainerRestartRuleOnExitCodes { operator: "In".into(), values: Some(vec![42]) }),
            }]),
            ..Spec::default()
        };
        let c = Container::new(Role::App, Arc::new(spec));
        assert!(wanted(&pod, &c, 42));
        assert!(!wanted(&pod, &c, 1));
        let c =
            Container::new(Role::App, Arc::new(Spec { restart_policy: Some("OnFailure".into()), ..Spec::default() }));
        assert!(wanted(&pod, &c, 1));
    }
}
