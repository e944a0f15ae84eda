//! What containers see of the host and of each other: mounts and namespaces.

use std::fs;

use runtime::{Mount, Namespace, NetworkNamespace, Runtime as _, Seccomp};

use crate::bench::{Bench, logged, within};

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_as_asked() {
    let bench = Bench::new();
    let pod = bench.pod("mounts").await;
    let volume = bench.dir.path().join("volume");
    fs::create_dir_all(volume.join("deep")).unwrap();
    fs::write(volume.join("file"), "content\n").unwrap();
    let mut spec = bench.shell(
        "mounts",
        "cat /data/file /one; echo x 2>/dev/null > /data/file || echo read-only; echo y > /rw/new && cat /rw/new; \
         echo z 2>/dev/null > /ro/deep/z || echo recursive; df -m /mem | tail -1 | busybox awk '{print $2}'; echo bye > /dev/end; \
         cat /img/marker",
    );
    let image = [bench.dir.path().join("l1"), bench.dir.path().join("l2")];
    for layer in &image {
        fs::create_dir_all(layer).unwrap();
        fs::write(layer.join("marker"), layer.file_name().unwrap().to_str().unwrap()).unwrap();
    }
    spec.mounts = vec![
        Mount::bind(&volume, "/data", true),
        Mount::bind(volume.join("file"), "/one", true),
        Mount::bind(&volume, "/rw", false),
        Mount { recursive_read_only: true, ..Mount::bind(&volume, "/ro", true) },
        Mount {
            source: runtime::MountSource::Tmpfs { size_bytes: Some(5 << 20), mode: 0o700 },
            ..Mount::bind("", "/mem", false)
        },
        Mount { source: runtime::MountSource::Layers(image.to_vec()), ..Mount::bind("", "/img", true) },
    ];
    spec.termination_message_path = Some("/dev/end".into());
    let (status, text) = bench.run(&pod, spec).await;
    assert_eq!(text, "content\ncontent\nread-only\ny\nrecursive\n5\nl1", "{status:?}");
    assert_eq!((status.code, status.message.as_str()), (0, "bye\n"));
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "y\n");
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_propagate_as_asked() {
    let bench = Bench::new();
    let pod = bench.pod("propagate").await;
    let shared = bench.dir.path().join("shared");
    fs::create_dir_all(shared.join("later")).unwrap();
    let mount = |args: &[&str]| {
        assert!(std::process::Command::new("mount").args(args).status().unwrap().success(), "{args:?}");
    };
    let path = shared.to_str().unwrap();
    mount(&["--bind", path, path]);
    mount(&["--make-rshared", path]);
    let with = |propagation| Mount { propagation, ..Mount::bind(&shared, "/shared", false) };
    let wait =
        "while ! test -e /shared/go; do sleep 0.01; done; test -e /shared/later/seen && echo seen || echo unseen";
    let mut ids = Vec::new();
    for (name, propagation) in
        [("private", runtime::Propagation::Private), ("slave", runtime::Propagation::HostToContainer)]
    {
        let mut spec = bench.shell(name, wait);
        spec.mounts.push(with(propagation));
        ids.push(bench.shims.start_container(&pod, spec).await.unwrap().id);
    }
    let later = shared.join("later");
    mount(&["-t", "tmpfs", "kedge-test", later.to_str().unwrap()]);
    fs::write(later.join("seen"), "").unwrap();
    fs::write(shared.join("go"), "").unwrap();
    for id in &ids {
        within(bench.shims.wait(&pod, id)).await.unwrap();
    }
    assert_eq!((bench.text("private").as_str(), bench.text("slave").as_str()), ("unseen\n", "seen\n"));

    // A mount made in the container arrives on the host only when that was asked for.
    for (name, propagation, arrives) in [
        ("from-slave", runtime::Propagation::HostToContainer, false),
        ("from-shared", runtime::Propagation::Bidirectional, true),
    ] {
        let mut spec =
            bench.shell(name, &format!("busybox mkdir /shared/{name} && mount -t tmpfs x /shared/{name} && echo ok"));
        spec.mounts.push(with(propagation));
        (spec.privileged, spec.seccomp) = (true, Seccomp::Unconfined);
        spec.capabilities = runtime::capability::resolve(true, &[], &[]).unwrap();
        assert_eq!(bench.run(&pod, spec).await.1, "ok\n");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(mounts.contains(&format!("{path}/{name} ")), arrives, "{name}");
    }
    assert!(std::process::Command::new("umount").args(["-R", path]).status().unwrap().success());
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_joined_or_the_hosts() {
    let bench = Bench::new();
    // A network namespace of the test's own, pinned like the network room pins them.
    let netns = bench.dir.path().join("netns");
    fs::write(&netns, "").unwrap();
    let pin = format!("--net={}", netns.display());
    assert!(std::process::Command::new("unshare").args([&pin, "true"]).status().unwrap().success());
    let mut spec = bench.pod_spec("joined");
    spec.network = NetworkNamespace::Path(netns.clone());
    spec.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "7".into());
    let pod = bench.shims.start_pod(spec).await.unwrap().id;
    let (_, text) = bench
        .run(&pod, bench.shell("net", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /sys/class/net"))
        .await;
    assert_eq!(text, "7\nlo\n");
    let here = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_ne!(here, "7\n", "the host's own stays as it is");
    bench.shims.remove_pod(&pod).await.unwrap();

    let mut spec = bench.pod_spec("host");
    (spec.pid, spec.ipc, spec.uts) = (Namespace::Host, Namespace::Host, Namespace::Host);
    let pod = bench.shims.start_pod(spec).await.unwrap().id;
    let probe = "for n in pid ipc uts net; do busybox readlink /proc/self/ns/$n; done; hostname";
    let (_, text) = bench.run(&pod, bench.shell("ns", probe)).await;
    let mut wanted = String::new();
    for name in ["pid", "ipc", "uts", "net"] {
        wanted += &format!("{}\n", fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display());
    }
    assert_eq!(text, wanted + &fs::read_to_string("/proc/sys/kernel/hostname").unwrap());
    // Nothing of a container outlives it, although the process namespace does.
    let id = bench.shims.start_container(&pod, bench.shell("left", "sleep 1234 & echo $!; exit 0")).await.unwrap().id;
    within(bench.shims.wait(&pod, &id)).await.unwrap();
    let left: u32 = bench.text("left").trim().parse().unwrap();
    within(async {
        while fs::read_to_string(format!("/proc/{left}/cmdline")).is_ok_and(|line| line.contains("1234")) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    bench.shims.remove_pod(&pod).await.unwrap();
    let _ = nix::mount::umount(&netns);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share() {
    let bench = Bench::new();
    let mut spec = bench.pod_spec("shared");
    spec.pid = Namespace::Pod;
    let pod = bench.shims.start_pod(spec).await.unwrap().id;
    let first = bench.shell("first", "echo shm > /dev/shm/x; echo ready; sleep 1000 & sleep 1000");
    let first = bench.shims.start_container(&pod, first).await.unwrap().id;
    logged(&bench, "first", "ready").await;
    let (_, text) = bench.run(&pod, bench.shell("second", "cat /dev/shm/x; hostname; ps")).await;
    assert!(text.starts_with("shm\nhost-shared\n"), "{text}");
    assert!(text.contains("sleep 1000") && text.contains("    1 "), "{text}");
    bench.shims.signal(&pod, &first, libc::SIGKILL).await.unwrap();
    within(bench.shims.wait(&pod, &first)).await.unwrap();
    let (_, text) = bench.run(&pod, bench.shell("third", "ps")).await;
    assert!(!text.contains("sleep 1000"), "the killed container's other processes are gone: {text}");
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}
