//! Security contexts: who the process is, what it may do, which profiles confine it. Pure.
//!
//! Source: `pkg/kubelet/kuberuntime/security_context.go`, `pkg/securitycontext/util.go`.

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};
use runtime::{Seccomp, User};

use crate::pod;

/// `/etc/passwd` and `/etc/group` of the image; empty where it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    pub passwd: String,
    pub group: String,
}

fn contexts<'a>(pod: &'a Pod, c: &'a Container) -> (Option<&'a PodSecurityContext>, Option<&'a SecurityContext>) {
    (pod::spec(pod).security_context.as_ref(), c.security_context.as_ref())
}

fn id(n: i64) -> u32 {
    // The API admits 0..=2^31-1.
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Who the container runs as. Errors: a name that the image does not know, or root where `runAsNonRoot` forbids it.
pub fn user(pod: &Pod, c: &Container, image_user: &str, accounts: &Accounts) -> Result<User, String> {
    let (of_pod, own) = contexts(pod, c);
    let run_as_user = own.and_then(|s| s.run_as_user).or_else(|| of_pod.and_then(|s| s.run_as_user));
    let run_as_group = own.and_then(|s| s.run_as_group).or_else(|| of_pod.and_then(|s| s.run_as_group));
    let non_root = own.and_then(|s| s.run_as_non_root).or_else(|| of_pod.and_then(|s| s.run_as_non_root)) == Some(true);
    let place = || format!("(pod: \"{}\", container: {})", pod::formatted(pod), c.name);
    if non_root {
        let name = image_user.split(':').next().unwrap_or_default();
        match (run_as_user, name, name.parse::<u32>()) {
            (Some(0), ..) => return Err(format!("container's runAsUser breaks non-root policy {}", place())),
            (Some(_), ..) => {}
            (None, "", _) | (None, _, Ok(0)) => {
                return Err(format!("container has runAsNonRoot and image will run as root {}", place()));
            }
            (None, _, Ok(_)) => {}
            (None, name, Err(_)) => {
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {}",
                    place()
                ));
            }
        }
    }
    let wanted = run_as_user.map_or_else(|| image_user.to_owned(), |uid| uid.to_string());
    let mut user = runtime::user::resolve(&wanted, &accounts.passwd, &accounts.group)?;
    // A number is a number here, even where an account is called like it.
    if let Some(uid) = run_as_user {
        user.uid = id(uid);
    }
    if let Some(gid) = run_as_group {
        user.gid = id(gid);
    }
    if of_pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict") {
        user.additional_gids.clear();
    }
    let more = of_pod.into_iter().flat_map(|s| s.supplemental_groups.iter().flatten().chain(s.fs_group.iter()));
    for gid in more.map(|g| id(*g)) {
        if !user.additional_gids.contains(&gid) {
            user.additional_gids.push(gid);
        }
    }
    Ok(user)
}

/// `CAP_…` names. Errors: an unknown one.
pub fn capabilities(c: &Container) -> Result<Vec<String>, String> {
    let own = c.security_context.as_ref();
    let capabilities = own.and_then(|s| s.capabilities.as_ref());
    let list = |l: Option<&Vec<String>>| l.cloned().unwrap_or_default();
    runtime::capability::resolve(
        privileged(c),
        &list(capabilities.and_then(|c| c.add.as_ref())),
        &list(capabilities.and_then(|c| c.drop.as_ref())),
    )
}

pub fn privileged(c: &Container) -> bool {
    c.security_context.as_ref().and_then(|s| s.privileged) == Some(true)
}

/// Which system calls are allowed. `profile` reads a `Localhost` profile by its name.
pub fn seccomp(pod: &Pod, c: &Container, profile: impl Fn(&str) -> Result<String, String>) -> Result<Seccomp, String> {
    let (of_pod, own) = contexts(pod, c);
    let chosen: Option<&SeccompProfile> =
        own.and_then(|s| s.seccomp_profile.as_ref()).or_else(|| of_pod.and_then(|s| s.seccomp_profile.as_ref()));
    if privileged(c) {
        return Ok(Seccomp::Unconfined);
    }
    match chosen.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => Ok(Seccomp::RuntimeDefault),
        Some(("Localhost", Some(name))) => profile(name).map(Seccomp::Profile),
        Some(("Localhost", None)) => Err("localhostProfile must be set if seccompProfile type is Localhost.".into()),
        // The kubelet's default, unless told otherwise by its configuration.
        Some(_) | None => Ok(Seccomp::Unconfined),
    }
}

/// Name of the AppArmor profile; `None` is unconfined.
pub fn apparmor(pod: &Pod, c: &Container) -> Option<String> {
    let (of_pod, own) = contexts(pod, c);
    let chosen =
        own.and_then(|s| s.app_armor_profile.as_ref()).or_else(|| of_pod.and_then(|s| s.app_armor_profile.as_ref()))?;
    if chosen.type_ == "Localhost" { chosen.localhost_profile.clone() } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn make(of_pod: Value, own: Value) -> (Pod, Container) {
        let c = json!({"name": "c", "securityContext": own});
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"securityContext": of_pod, "containers": [c]}}),
        )
        .unwrap();
        let c = pod.spec.as_ref().unwrap().containers[0].clone();
        (pod, c)
    }

    #[test]
    fn users() {
        let accounts = Accounts {
            passwd: "root:x:0:0::/:\nweb:x:33:34::/:\n".into(),
            group: "web:x:34:\nextra:x:50:web\n".into(),
        };
        let check = |of_pod: Value, own: Value, image: &str, expected: Result<(u32, u32, &[u32]), &str>| {
            let (pod, c) = make(of_pod.clone(), own.clone());
            let expected = expected
                .map(|(uid, gid, more)| User { uid, gid, additional_gids: more.to_vec() })
                .map_err(str::to_owned);
            assert_eq!(user(&pod, &c, image, &accounts), expected, "{of_pod} {own} {image}");
        };
        check(json!({}), json!({}), "", Ok((0, 0, &[])));
        check(json!({}), json!({}), "web", Ok((33, 34, &[50])));
        check(json!({"runAsUser": 1000}), json!({}), "web", Ok((1000, 0, &[])));
        check(json!({"runAsUser": 1000}), json!({"runAsUser": 33}), "", Ok((33, 34, &[50])));
        check(json!({"runAsGroup": 7}), json!({"runAsUser": 1}), "", Ok((1, 7, &[])));
        check(json!({"supplementalGroups": [9], "fsGroup": 10}), json!({}), "web", Ok((33, 34, &[50, 9, 10])));
        check(
            json!({"supplementalGroups": [9], "supplementalGroupsPolicy": "Strict"}),
            json!({}),
            "web",
            Ok((33, 34, &[9])),
        );
        let root = "container has runAsNonRoot and image will run as root (pod: \"p_ns(u)\", container: c)";
        check(json!({"runAsNonRoot": true}), json!({}), "", Err(root));
        check(json!({"runAsNonRoot": true}), json!({}), "0", Err(root));
        check(json!({"runAsNonRoot": true}), json!({}), "33", Ok((33, 34, &[50])));
        check(json!({"runAsNonRoot": true}), json!({"runAsUser": 5}), "", Ok((5, 0, &[])));
        check(json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), "", Ok((0, 0, &[])));
        check(
            json!({"runAsNonRoot": true}),
            json!({}),
            "web",
            Err(
                "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root (pod: \"p_ns(u)\", container: c)",
            ),
        );
        check(
            json!({}),
            json!({"runAsNonRoot": true, "runAsUser": 0}),
            "",
            Err("container's runAsUser breaks non-root policy (pod: \"p_ns(u)\", container: c)"),
        );
    }

    #[test]
    fn profiles() {
        let read = |name: &str| if name == "mine.json" { Ok("{}".to_owned()) } else { Err("no".to_owned()) };
        let check = |of_pod: Value, own: Value, expected: Result<Seccomp, String>| {
            let (pod, c) = make(of_pod, own);
            assert_eq!(seccomp(&pod, &c, read), expected);
        };
        let default = json!({"seccompProfile": {"type": "RuntimeDefault"}});
        check(json!({}), json!({}), Ok(Seccomp::Unconfined));
        check(default.clone(), json!({}), Ok(Seccomp::RuntimeDefault));
        check(default.clone(), json!({"seccompProfile": {"type": "Unconfined"}}), Ok(Seccomp::Unconfined));
        check(default, json!({"privileged": true}), Ok(Seccomp::Unconfined));
        let mine = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "mine.json"}});
        check(json!({}), mine, Ok(Seccomp::Profile("{}".into())));
    }
}
