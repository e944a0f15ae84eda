//! How containers begin and end, what they may do, and what holds them.

use std::fs;

use runtime::{ContainerId, ContainerSpec, Event, Mount, Resources, Runtime as _, Seccomp, User};

use crate::bench::{Bench, logged, within};

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_signals() {
    let bench = Bench::new();
    let pod = bench.pod("exits").await;
    let mut events = bench.shims.events();
    let (status, text) = bench.run(&pod, bench.shell("seven", "echo out; echo err >&2; exit 7")).await;
    assert_eq!((status.code, status.signal, status.oom_killed, status.lost), (7, None, false, false));
    assert!(text.contains("out\n") && text.contains("err\n"), "{text:?}");
    assert!(status.started_at <= status.finished_at);
    let raw = fs::read_to_string(bench.log_path("seven")).unwrap();
    assert!(
        raw.lines().any(|l| l.ends_with("Z stdout F out")) && raw.lines().any(|l| l.ends_with("Z stderr F err")),
        "{raw}"
    );
    let seven = ContainerId("seven".into());
    assert_eq!(
        within(events.next()).await,
        Some(Event::ContainerExited { pod: pod.clone(), container: seven.clone() })
    );

    let term = bench.shell("term", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    let id = bench.shims.start_container(&pod, term).await.unwrap().id;
    logged(&bench, "term", "ready").await;
    bench.shims.signal(&pod, &id, libc::SIGTERM).await.unwrap();
    assert_eq!(within(bench.shims.wait(&pod, &id)).await.unwrap().code, 3);

    let id = bench.shims.start_container(&pod, bench.shell("kill", "sleep 1000")).await.unwrap().id;
    bench.shims.signal(&pod, &id, libc::SIGKILL).await.unwrap();
    let status = within(bench.shims.wait(&pod, &id)).await.unwrap();
    assert_eq!((status.code, status.signal), (137, Some(9)));
    bench.shims.signal(&pod, &id, libc::SIGTERM).await.unwrap();

    let names: Vec<String> = bench.shims.pod(&pod).await.unwrap().containers.iter().map(|c| c.id.0.clone()).collect();
    assert_eq!(names, ["seven", "term", "kill"]);
    bench.shims.remove_container(&pod, &seven).await.unwrap();
    bench.shims.remove_container(&pod, &seven).await.unwrap();
    assert!(bench.log_path("seven").exists());
    bench.shims.remove_pod(&pod).await.unwrap();
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_fail_say_why() {
    let bench = Bench::new();
    let pod = bench.pod("fails").await;
    let check = async |name: &str, spec: ContainerSpec, expected: &str| {
        let id = spec.id.clone();
        let error = bench.shims.start_container(&pod, spec).await.unwrap_err();
        assert_eq!(error.to_string(), expected, "{name}");
        assert_eq!(bench.leftovers_of(&pod, &id), Vec::<std::path::PathBuf>::new(), "{name}");
    };
    let start = "failed to start container: exec";
    check(
        "no such",
        bench.container("a", &["nope"]),
        &format!("{start}: \"nope\": executable file not found in $PATH"),
    )
    .await;
    check(
        "path",
        bench.container("b", &["/nope"]),
        &format!("{start}: \"/nope\": stat /nope: no such file or directory"),
    )
    .await;
    check("format", bench.container("c", &["/bin/garbage"]), &format!("{start} /bin/garbage: exec format error")).await;
    let mut other = bench.container("d", &["not-for-all"]);
    other.user = User { uid: 1000, gid: 1000, additional_gids: vec![] };
    check("denied", other, &format!("{start}: \"not-for-all\": permission denied")).await;
    let mut bad = bench.container("e", &["true"]);
    bad.mounts.push(Mount::bind("/no/such/dir", "/x", false));
    check(
        "mount",
        bad,
        "failed to create container: mount source /no/such/dir: No such file or directory (os error 2)",
    )
    .await;
    check("nothing", bench.container("f", &[]), "invalid request: no command specified").await;
    let mut terminal = bench.container("t", &["nope"]);
    terminal.tty = true;
    check("terminal", terminal, &format!("{start}: \"nope\": executable file not found in $PATH")).await;
    // The same instance may be tried again.
    check("again", bench.container("a", &["nope"]), &format!("{start}: \"nope\": executable file not found in $PATH"))
        .await;
    assert!(bench.shims.pod(&pod).await.unwrap().containers.is_empty());
    // Execute permission for the user alone is enough.
    let (status, _) = bench.run(&pod, bench.container("g", &["not-for-all"])).await;
    assert_eq!(status.code, 9);
    assert!(bench.shims.start_pod(bench.pod_spec("fails")).await.unwrap_err().to_string().contains("exists already"));
    let mut bad = bench.pod_spec("bad");
    bad.sysctls.insert("kernel.no_such".into(), "1".into());
    let error = bench.shims.start_pod(bad).await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("kernel.no_such"), "{error:?}");
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_and_confinement() {
    let bench = Bench::new();
    let mut spec = bench.pod_spec("ident");
    spec.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    spec.domainname = "example.org".into();
    let pod = bench.shims.start_pod(spec).await.unwrap().id;
    let mut plain = bench.shell(
        "plain",
        "id -u; id -G; hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/shm_rmid_forced; echo pid $$; pwd; \
         echo $HOME $HOSTNAME; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; \
         touch /x 2>&1; echo 1 2>/dev/null > /proc/sys/kernel/panic || echo ro; cat /proc/kcore | head -c 1 | wc -c 2>&1; \
         df /dev/shm | tail -1 2>&1; ls /dev",
    );
    plain.user = User { uid: 1000, gid: 1000, additional_gids: vec![2000, 3000] };
    plain.read_only_rootfs = true;
    plain.no_new_privileges = true;
    plain.cwd = "/home/web".into();
    let (status, text) = bench.run(&pod, plain).await;
    for wanted in [
        "1000\n1000 2000 3000\nhost-ident\nexample.org\n1\npid 1\n/home/web\n/home/web host-ident\n",
        "CapEff:\t0000000000000000\n",
        "CapBnd:\t00000000a80425fb\n",
        "NoNewPrivs:\t1\nSeccomp:\t2\n",
        "/x: Read-only file system",
        "\nro\n",
        "\nzero\n",
    ] {
        assert!(text.contains(wanted), "{wanted:?} in {text}");
    }
    assert_eq!(status.code, 0);

    // Without no_new_privs the filter must be there too; capabilities come as asked.
    let mut root = bench.shell(
        "root",
        "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; unshare -m true 2>/dev/null || echo denied; \
         mknod /tmp/n c 1 3 && echo made; mknod /tmp/m b 8 0 && head -c 1 /tmp/m 2>&1",
    );
    root.capabilities = runtime::capability::resolve(false, &["SYS_ADMIN".into()], &["CHOWN".into()]).unwrap();
    let (_, text) = bench.run(&pod, root).await;
    assert!(text.contains("CapEff:\t00000000a82425fa\nNoNewPrivs:\t0\nSeccomp:\t2\n"), "{text}");
    assert!(!text.contains("denied"), "CAP_SYS_ADMIN opens unshare in the default filter: {text}");
    assert!(text.contains("made\n") && text.contains("Operation not permitted"), "device allow-list: {text}");
    let (_, text) = bench
        .run(&pod, bench.shell("filtered", "grep ^Cap /proc/self/status; unshare -U true 2>&1 || echo denied"))
        .await;
    assert!(text.contains("denied"), "{text}");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(text.contains(&format!("{set}:\t00000000a80425fb\n")), "what was lent is given back: {text}");
    }
    let mut open = bench.shell("open", "grep ^Seccomp: /proc/self/status");
    open.seccomp = Seccomp::Unconfined;
    assert_eq!(bench.run(&pod, open).await.1, "Seccomp:\t0\n");
    let mut custom = bench.shell("custom", "touch /tmp/a && chmod 600 /tmp/a; echo $?");
    custom.seccomp = Seccomp::Profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}"#
            .into(),
    );
    // busybox from its own path: this shell has no chmod link.
    custom.args[2] = "touch /tmp/a; busybox chmod 600 /tmp/a 2>/dev/null || echo denied".into();
    assert_eq!(bench.run(&pod, custom).await.1, "denied\n");
    let mut privileged = bench.shell("priv", "grep ^Seccomp: /proc/self/status; mount -t tmpfs x /tmp && echo mounted");
    privileged.privileged = true;
    privileged.seccomp = Seccomp::Unconfined;
    privileged.capabilities = runtime::capability::resolve(true, &[], &[]).unwrap();
    assert_eq!(bench.run(&pod, privileged).await.1, "Seccomp:\t0\nmounted\n");
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold() {
    let bench = Bench::new();
    bench
        .shims
        .apply_cgroup("kubepods/burstable", &Resources { cpu_shares: Some(512), ..Resources::default() })
        .await
        .unwrap();
    let pod = bench.pod("limits").await;
    let mut eater = bench.shell("eater", "busybox tail /dev/zero");
    eater.resources.memory_limit_bytes = Some(32 << 20);
    let (status, _) = bench.run(&pod, eater).await;
    assert_eq!((status.code, status.oom_killed), (137, true));

    // A shell that cannot fork gives up: the inner one does, the outer one goes on.
    let script = "sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done' 2>&1; sleep 1000; :";
    let mut forks = bench.shell("forks", script);
    forks.resources = Resources { pids_limit: Some(5), cpu_quota_us: Some(50_000), ..Resources::default() };
    let id = bench.shims.start_container(&pod, forks).await.unwrap().id;
    let cgroup = format!("kubepods/burstable/podlimits/{id}");
    logged(&bench, "forks", "can't fork").await;
    // How many of the five are the script's own is the scheduler's to say: who made the container may still be among them.
    let pids = bench.shims.stats(&cgroup).await.unwrap().pids;
    assert!((2..=5).contains(&pids), "{pids} processes under a limit of 5");
    let bigger = Resources { memory_limit_bytes: Some(64 << 20), pids_limit: Some(50), ..Resources::default() };
    bench.shims.update_container(&pod, &id, &bigger).await.unwrap();
    let stats = bench.shims.stats(&cgroup).await.unwrap();
    assert_eq!(stats.memory_limit_bytes, Some(64 << 20));
    assert!(stats.memory_usage_bytes > 0 && stats.cpu_usage_ns > 0, "{stats:?}");
    assert!(bench.shims.stats("kubepods/burstable/podlimits").await.unwrap().memory_usage_bytes > 0);
    bench.shims.update_pod(&pod, &bigger).await.unwrap();
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}
