//! The translation into OCI specs, against goldens.

use super::*;
use crate::spec::{ContainerId, Device, LogPolicy, PodId, Rlimit, Seccomp, User};

fn facts(version: Version) -> Facts {
    Facts { version, capabilities: u64::MAX, rlimits: BTreeMap::new(), apparmor: true }
}

fn pod() -> PodSpec {
    PodSpec {
        id: PodId("pod-1".into()),
        hostname: "web-1".into(),
        domainname: String::new(),
        network: NetworkNamespace::Path("/run/netns/kedge-1".into()),
        ipc: Namespace::Pod,
        uts: Namespace::Pod,
        pid: Namespace::Container,
        sysctls: BTreeMap::new(),
        cgroup: "kubepods/podpod-1".into(),
        resources: Resources::default(),
        shm_size_bytes: 64 << 20,
        labels: BTreeMap::new(),
    }
}

fn container() -> ContainerSpec {
    let rootfs = Rootfs::Overlay { lower: vec!["/l/1".into()], upper: "/s/u".into(), work: "/s/w".into() };
    ContainerSpec {
        seccomp: Seccomp::Unconfined,
        ..ContainerSpec::new("web", vec!["serve".into(), "-v".into()], rootfs)
    }
}

fn place(version: Version) -> Place {
    let controllers = match version {
        Version::V1 => {
            [("memory".to_owned(), PathBuf::from("/sys/fs/cgroup/memory/kedge/kubepods/podpod-1/web"))].into()
        }
        Version::V2 => BTreeMap::new(),
    };
    Place {
        dir: "/run/kedge/pods/pod-1/c/web".into(),
        shm: "/run/kedge/pods/pod-1/shm".into(),
        cgroup: "/kedge/kubepods/podpod-1/web".into(),
        controllers,
        ..Place::default()
    }
}

/// Compares with `oci/golden/<name>.json`; `KEDGE_GOLDEN=write` rewrites it.
fn golden(name: &str, built: &Built) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("oci/golden").join(format!("{name}.json"));
    let staged = serde_json::to_value(&built.staged).unwrap();
    let rules = serde_json::to_value(&built.device_rules).unwrap();
    let all = json!({"config": built.config, "staged": staged, "deviceRules": rules});
    let text = serde_json::to_string_pretty(&all).unwrap() + "\n";
    if std::env::var_os("KEDGE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
    // The library must take what we write.
    let spec: libcontainer::oci_spec::runtime::Spec = serde_json::from_value(built.config.clone()).unwrap();
    assert_eq!(spec.process().as_ref().unwrap().args().as_ref().unwrap()[0], "serve");
}

#[test]
fn plain_containers_are_as_pinned() {
    golden("plain-v1", &build(&pod(), &container(), &place(Version::V1), &facts(Version::V1)).unwrap());
    golden("plain-v2", &build(&pod(), &container(), &place(Version::V2), &facts(Version::V2)).unwrap());
}

#[test]
fn a_container_with_everything_is_as_pinned() {
    let mut container = container();
    container.env = vec!["PATH=/bin".into(), "A=b=c".into()];
    container.cwd = "/srv".into();
    container.user = User { uid: 1000, gid: 2000, additional_gids: vec![3000] };
    container.read_only_rootfs = true;
    container.no_new_privileges = true;
    container.tty = true;
    container.apparmor_profile = Some("kedge-default".into());
    container.capabilities = vec!["CAP_NET_ADMIN".into(), "CAP_SYS_TIME".into()];
    container.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 1024, hard: 4096 }];
    container.resources = Resources {
        memory_limit_bytes: Some(1 << 26),
        memory_and_swap_limit_bytes: Some(1 << 26),
        memory_high_bytes: Some(1 << 25),
        oom_group: Some(true),
        cpu_shares: Some(1),
        cpu_quota_us: Some(20_000),
        cpuset_cpus: Some("0".into()),
        pids_limit: Some(64),
        hugepages_bytes: [("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)].into(),
        ..Resources::default()
    };
    container.log = Some(LogPolicy { path: "/var/log/x".into(), bytes_max: 1, files_max: 2 });
    let late = Mount::bind("/host/data", "/srv/data/deep", false);
    container.mounts = vec![
        Mount { propagation: Propagation::Bidirectional, ..late },
        Mount::bind("/host/etc-hosts", "/etc/hosts", true),
        Mount { recursive_read_only: true, ..Mount::bind("/host/ro", "/ro", true) },
        Mount {
            source: MountSource::Tmpfs { size_bytes: Some(4096), mode: 0o1777 },
            ..Mount::bind("", "/dev/shm", false)
        },
        Mount { source: MountSource::Layers(vec!["/l/9".into(), "/l/8".into()]), ..Mount::bind("", "/img", true) },
    ];
    container.devices =
        vec![Device { host_path: "/dev/fuse".into(), container_path: "/dev/fuse".into(), permissions: "rw".into() }];
    let mut place = place(Version::V2);
    place.files = vec!["/host/etc-hosts".into(), "/run/message".into()];
    place.message = Some(("/run/message".into(), "/dev/termination-log".into()));
    place.devices = vec![DeviceNode {
        path: "/dev/fuse".into(),
        kind: 'c',
        major: 10,
        minor: 229,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rw".into(),
    }];
    let mut facts = facts(Version::V2);
    facts.capabilities = !(1 << 25); // CAP_SYS_TIME is not ours to give.
    facts.rlimits.insert("RLIMIT_NOFILE".into(), 512);
    let mut pod = pod();
    pod.pid = Namespace::Pod;
    pod.network = NetworkNamespace::Host;
    pod.uts = Namespace::Host;
    golden("everything-v2", &build(&pod, &container, &place, &facts).unwrap());
}

#[test]
fn privileged_containers_see_everything() {
    let container = ContainerSpec { privileged: true, ..container() };
    let built = build(&pod(), &container, &place(Version::V2), &facts(Version::V2)).unwrap();
    assert_eq!(built.device_rules, None);
    assert!(built.config["linux"].get("maskedPaths").is_none());
    assert_eq!(built.config["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
}

#[test]
fn bad_specs_are_refused() {
    let check = |change: &dyn Fn(&mut ContainerSpec), expected: &str| {
        let mut container = container();
        change(&mut container);
        let error = build(&pod(), &container, &place(Version::V1), &facts(Version::V1)).unwrap_err();
        assert_eq!(error, expected);
    };
    check(&|c| c.args.clear(), "no command specified");
    check(&|c| c.cwd = "srv".into(), "working directory \"srv\" is not absolute");
    check(&|c| c.env.push("=x".into()), "environment entry \"=x\" is not NAME=value");
    check(&|c| c.mounts.push(Mount::bind("/a", "b", false)), "mount destination \"b\" is not absolute");
    check(
        &|c| c.rootfs = Rootfs::Overlay { lower: vec![], upper: "/u".into(), work: "/w".into() },
        "root filesystem has no layers",
    );
    check(
        &|c| c.mounts.push(Mount { recursive_read_only: true, ..Mount::bind("/a", "/b", false) }),
        "mount \"/b\": recursive read-only needs read-only and no propagation",
    );
    assert_eq!(container().id, ContainerId("web".into()));
}
