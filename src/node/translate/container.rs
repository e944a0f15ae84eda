//! Pod and Container into the runtime's specs. Pure: everything that had to be looked up comes in as values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::{
    ContainerId, ContainerSpec, Device, LogPolicy, Mount, Namespace, NetworkNamespace, PodId, PodSpec, Propagation,
    Rootfs, Seccomp, User,
};

use super::expand::expand;
use super::files::Hostname;
use super::{resources, security};
use crate::images::ImageConfig;
use crate::pod::{self, Role};
use crate::worker::state::ImageRef;

/// Labels by which a container or pod in the runtime is recognised again; log shippers and monitors read the first five.
/// Source: `pkg/kubelet/types/labels.go`.
pub mod labels {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER: &str = "io.kubernetes.container.name";
    pub const RESTARTS: &str = "io.kubernetes.container.restartCount";
    pub const IMAGE_NAME: &str = "kedge.io/image";
    pub const IMAGE_ID: &str = "kedge.io/image-id";
    pub const STOP_SIGNAL: &str = "kedge.io/stop-signal";
    /// The image as the spec had it at the start.
    pub const SPEC_IMAGE: &str = "kedge.io/spec-image";
}

/// `safe.sysctls` of the network belong to whoever makes the network namespace; the others to the pod's.
pub fn sysctls(pod: &Pod) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let all = pod::spec(pod).security_context.as_ref().and_then(|s| s.sysctls.as_ref());
    let all = all.into_iter().flatten().map(|s| (s.name.replace('/', "."), s.value.clone()));
    all.partition(|(name, _)| name.starts_with("net."))
}

/// What the pod's containers share.
pub fn pod_spec(pod: &Pod, name: &Hostname, network: NetworkNamespace) -> PodSpec {
    let spec = pod::spec(pod);
    let host = pod::host_network(pod);
    let qos = resources::qos(pod);
    let uid = pod::uid(pod);
    let labels =
        [(labels::POD_NAME, pod::name(pod)), (labels::POD_NAMESPACE, pod::namespace(pod)), (labels::POD_UID, uid)];
    PodSpec {
        id: PodId(uid.to_owned()),
        hostname: name.kernel.clone(),
        domainname: String::new(),
        network,
        ipc: if spec.host_ipc == Some(true) { Namespace::Host } else { Namespace::Pod },
        uts: if host { Namespace::Host } else { Namespace::Pod },
        pid: if spec.host_pid == Some(true) {
            Namespace::Host
        } else if spec.share_process_namespace == Some(true) {
            Namespace::Pod
        } else {
            Namespace::Container
        },
        sysctls: sysctls(pod).1,
        cgroup: format!("{}/pod{uid}", qos.cgroup()),
        resources: resources::pod(pod),
        shm_size_bytes: runtime::spec::default_shm_size_bytes(),
        labels: labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
    }
}

/// What was looked up for a container before its spec can be made.
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub role: Role,
    pub id: String,
    pub restarts: u32,
    pub image: &'a ImageRef,
    pub image_config: &'a ImageConfig,
    pub rootfs: Rootfs,
    pub user: User,
    pub seccomp: Seccomp,
    /// From [`super::env::environment`].
    pub env: Vec<(String, String)>,
    /// Volume mounts, each with its source on the host already found.
    pub mounts: Vec<Mount>,
    /// Block devices that are volumes.
    pub devices: Vec<Device>,
    /// Files that the node manages: path on the host to path in the container. Left out where a volume is mounted there.
    pub files: Vec<(PathBuf, PathBuf)>,
    pub log: LogPolicy,
    pub node_memory_bytes: i64,
    /// Runtime id of the container whose processes an ephemeral one wants to see.
    pub pid_target: Option<String>,
}

/// Errors: what the waiting container shows with CreateContainerConfigError.
pub fn container_spec(i: Inputs<'_>) -> Result<ContainerSpec, String> {
    let c = i.container;
    let lookup = |name: &str| i.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, lookup)).collect()
    };
    let (command, args) = (expanded(&c.command), expanded(&c.args));
    let args = match (command.is_empty(), args.is_empty()) {
        (false, _) => [command, args].concat(),
        (true, false) => [i.image_config.entrypoint.clone(), args].concat(),
        (true, true) => [i.image_config.entrypoint.clone(), i.image_config.cmd.clone()].concat(),
    };
    if args.is_empty() {
        return Err(format!("no command specified for container {} and none in its image", c.name));
    }
    let mut mounts = i.mounts;
    for (source, destination) in i.files {
        if !mounts.iter().any(|m| m.destination == destination) {
            mounts.push(Mount::bind(source, destination, false));
        }
    }
    mounts.sort_by_key(|m| m.destination.components().count());
    let context = c.security_context.as_ref();
    let working_dir =
        c.working_dir.clone().filter(|d| !d.is_empty()).unwrap_or_else(|| i.image_config.working_dir.clone());
    let pod = i.pod;
    let labels = [
        (labels::POD_NAME, pod::name(pod).to_owned()),
        (labels::POD_NAMESPACE, pod::namespace(pod).to_owned()),
        (labels::POD_UID, pod::uid(pod).to_owned()),
        (labels::CONTAINER, c.name.clone()),
        (labels::RESTARTS, i.restarts.to_string()),
        (labels::IMAGE_NAME, i.image.name.clone()),
        (labels::IMAGE_ID, i.image.id.clone()),
        (labels::STOP_SIGNAL, i.image.stop_signal.clone().unwrap_or_default()),
        (labels::SPEC_IMAGE, c.image.clone().unwrap_or_default()),
    ];
    let privileged = security::privileged(c);
    Ok(ContainerSpec {
        id: ContainerId(i.id),
        args,
        env: merge_env(&i.image_config.env, &i.env),
        cwd: PathBuf::from(working_dir),
        user: i.user,
        rootfs: i.rootfs,
        read_only_rootfs: context.and_then(|s| s.read_only_root_filesystem) == Some(true),
        mounts,
        devices: i.devices,
        capabilities: security::capabilities(c)?,
        privileged,
        no_new_privileges: context.and_then(|s| s.allow_privilege_escalation) == Some(false),
        seccomp: i.seccomp,
        mask_proc: !privileged && context.and_then(|s| s.proc_mount.as_deref()) != Some("Unmasked"),
        apparmor_profile: security::apparmor(pod, c),
        rlimits: Vec::new(),
        resources: resources::container(c),
        oom_score_adj: Some(resources::oom_score_adj(pod, c, i.role, i.node_memory_bytes)),
        tty: c.tty == Some(true),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        log: Some(i.log),
        termination_message_path: c.termination_message_path.clone().filter(|p| !p.is_empty()).map(PathBuf::from),
        pid_target: i.pid_target.map(ContainerId),
        labels: labels.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
    })
}

/// The image's environment below the pod's: a name set by both has the pod's value.
fn merge_env(image: &[String], own: &[(String, String)]) -> Vec<String> {
    let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
    let kept = image.iter().filter(|text| !own.iter().any(|(n, _)| *n == name(text))).cloned();
    kept.chain(own.iter().map(|(n, v)| format!("{n}={v}"))).collect()
}

/// How a mount travels. Source: core/v1 `MountPropagationMode`.
pub fn propagation(mode: Option<&str>) -> Propagation {
    match mode {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        Some(_) | None => Propagation::Private,
    }
}

/// `<ns>_<name>_<uid>`: the folder of a pod's logs.
pub fn log_folder(pod: &Pod) -> String {
    format!("{}_{}_{}", pod::namespace(pod), pod::name(pod), pod::uid(pod))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::translate::{files, golden};

    fn rich() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "ns", "uid": "uid-1"},
            "spec": {
                "hostname": "h", "subdomain": "s", "shareProcessNamespace": true,
                "securityContext": {"runAsUser": 1000, "fsGroup": 2000, "seccompProfile": {"type": "RuntimeDefault"},
                    "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "0"}, {"name": "kernel.shm_rmid_forced", "value": "1"}]},
                "containers": [{
                    "name": "main", "image": "web:1", "command": ["/bin/$(WHO)"], "args": ["--x=$(WHO)", "$(NO)", "$$(WHO)"],
                    "workingDir": "/srv", "tty": true, "stdin": true, "terminationMessagePath": "/dev/termination-log",
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                    "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}
                }]
            }}))
        .unwrap()
    }

    fn inputs<'a>(pod: &'a Pod, c: &'a Container, image: &'a ImageRef, config: &'a ImageConfig) -> Inputs<'a> {
        Inputs {
            pod,
            container: c,
            role: Role::App,
            id: "c0ffee".into(),
            restarts: 2,
            image,
            image_config: config,
            rootfs: Rootfs::Directory("/rootfs".into()),
            user: User { uid: 1000, gid: 0, additional_gids: vec![2000] },
            seccomp: Seccomp::RuntimeDefault,
            env: vec![("WHO".into(), "me".into()), ("PATH".into(), "/mine".into())],
            mounts: vec![Mount::bind("/v/deep", "/data/deep", true), Mount::bind("/v/hosts", "/etc/hosts", false)],
            devices: vec![Device {
                host_path: "/dev/sdb".into(),
                container_path: "/dev/data".into(),
                permissions: "r".into(),
            }],
            files: vec![
                ("/pods/hosts".into(), "/etc/hosts".into()),
                ("/pods/resolv.conf".into(), "/etc/resolv.conf".into()),
            ],
            log: LogPolicy { path: "/var/log/pods/x/main/2.log".into(), bytes_max: 10, files_max: 5 },
            node_memory_bytes: 8 << 30,
            pid_target: None,
        }
    }

    #[test]
    fn a_rich_pod() {
        let pod = rich();
        let c = pod.spec.as_ref().unwrap().containers[0].clone();
        let image = ImageRef {
            name: "docker.io/library/web:1".into(),
            id: "sha256:1".into(),
            stop_signal: Some("SIGQUIT".into()),
        };
        let config = ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["cmd".into()],
            env: vec!["PATH=/bin".into(), "LANG=C".into()],
            working_dir: "/image".into(),
            ..ImageConfig::default()
        };
        let spec = container_spec(inputs(&pod, &c, &image, &config)).unwrap();
        golden::check("container/rich.json", &(serde_json::to_string_pretty(&spec).unwrap() + "\n"));
        let name = files::hostname(&pod, "cluster.local").unwrap();
        let spec = pod_spec(&pod, &name, NetworkNamespace::Path("/run/netns/kedge-uid-1".into()));
        golden::check("container/rich_pod.json", &(serde_json::to_string_pretty(&spec).unwrap() + "\n"));
        assert_eq!(sysctls(&pod).0.keys().collect::<Vec<_>>(), ["net.ipv4.tcp_syncookies"]);
    }

    #[test]
    fn commands_and_arguments_replace_the_images() {
        let image = ImageRef { name: String::new(), id: String::new(), stop_signal: None };
        let config =
            ImageConfig { entrypoint: vec!["entry".into()], cmd: vec!["cmd".into()], ..ImageConfig::default() };
        let pod = rich();
        let check = |command: Option<&str>, args: Option<&str>, expected: &[&str]| {
            let list = |t: Option<&str>| t.map(|t| vec![t.to_owned()]);
            let c = Container { command: list(command), args: list(args), ..Container::default() };
            assert_eq!(container_spec(inputs(&pod, &c, &image, &config)).unwrap().args, expected);
        };
        check(None, None, &["entry", "cmd"]);
        check(Some("x"), None, &["x"]);
        check(None, Some("y"), &["entry", "y"]);
        check(Some("x"), Some("y"), &["x", "y"]);
        let c = Container::default();
        let nothing = ImageConfig::default();
        assert!(container_spec(inputs(&pod, &c, &image, &nothing)).is_err());
    }
}
