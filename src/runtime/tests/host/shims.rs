//! The processes that own the pods: daemons come and go, shims are killed, many are small.

use std::fs;

use runtime::{ContainerId, ContainerState, Event, PodState, Runtime as _};

use crate::bench::{Bench, exec, logged, output, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_daemon_adopts() {
    let bench = Bench::new();
    let pod = bench.pod("adopt").await;
    let spec = bench.shell("runs", "while :; do echo tick; sleep 0.05; done");
    let ContainerState::Running { pid } = bench.shims.start_container(&pod, spec).await.unwrap().state else {
        panic!()
    };
    let (ended, _) = bench.run(&pod, bench.shell("ended", "exit 5")).await;
    let before = bench.shims.pod(&pod).await.unwrap();
    let next = bench.reopen();
    let after = next.list().await.unwrap();
    assert_eq!(after, [before]);
    assert_eq!(after[0].labels["app"], "adopt");
    assert_eq!(after[0].containers[0].state, ContainerState::Running { pid });
    assert_eq!(after[0].containers[1].state, ContainerState::Exited(ended));
    logged(&bench, "runs", "tick\n").await;
    let id = ContainerId("runs".into());
    let (code, out, _) = output(next.exec(&pod, &id, exec("echo in")).await.unwrap()).await;
    assert_eq!((code, out.as_str()), (0, "in\n"));
    next.signal(&pod, &id, libc::SIGKILL).await.unwrap();
    assert_eq!(within(next.wait(&pod, &id)).await.unwrap().code, 137);
    next.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_is_a_dead_pod() {
    let bench = Bench::new();
    let pod = bench.pod("dead").await;
    let mut events = bench.shims.events();
    let id = bench.shims.start_container(&pod, bench.shell("orphan", "sleep 1000")).await.unwrap().id;
    let ContainerState::Running { pid } = bench.shims.pod(&pod).await.unwrap().containers[0].state else { panic!() };
    let shim = shim_of(pid);
    assert_ne!(shim, std::process::id());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim as i32), nix::sys::signal::SIGKILL).unwrap();
    assert_eq!(within(events.next()).await, Some(Event::PodDied { pod: pod.clone() }));
    let info = bench.shims.pod(&pod).await.unwrap();
    assert_eq!(info.state, PodState::Dead);
    let status = within(bench.shims.wait(&pod, &id)).await.unwrap();
    assert_eq!((status.code, status.lost), (137, true));
    let error = bench.shims.start_container(&pod, bench.shell("late", "true")).await.unwrap_err();
    assert!(matches!(error, runtime::Error::ShimGone(_)), "{error}");
    // The same to a daemon that was away when it happened.
    let next = bench.reopen();
    assert_eq!(next.list().await.unwrap()[0].state, PodState::Dead);
    next.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_without_its_socket_is_ended() {
    let bench = Bench::new();
    let pod = bench.pod("mute").await;
    bench.shims.start_container(&pod, bench.shell("runs", "sleep 1000")).await.unwrap();
    let ContainerState::Running { pid } = bench.shims.pod(&pod).await.unwrap().containers[0].state else { panic!() };
    let mut events = bench.shims.events();
    let shim = shim_of(pid);
    let socket = bench.dir.path().join("run/pods/mute/shim.sock");
    fs::remove_file(&socket).unwrap();
    let next = bench.reopen();
    assert_eq!(next.list().await.unwrap()[0].state, PodState::Dead);
    // The daemon of before sees its connection close: the shim itself is gone, not only its pod.
    assert_eq!(within(events.next()).await, Some(Event::PodDied { pod: pod.clone() }), "shim {shim} lives");
    next.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_four_pods_at_once() {
    let bench = Bench::new();
    let starts = (0..24).map(|n| {
        let shims = bench.shims.clone();
        let (pod, container) =
            (bench.pod_spec(&format!("p{n}")), bench.shell(&format!("c{n}"), &format!("sleep 0.1; exit {n}")));
        tokio::spawn(async move {
            let id = container.id.clone();
            let pod = shims.start_pod(pod).await.unwrap().id;
            shims.start_container(&pod, container).await.unwrap();
            let status = shims.wait(&pod, &id).await.unwrap();
            shims.remove_pod(&pod).await.unwrap();
            status.code
        })
    });
    for (n, code) in within(futures_util::future::join_all(starts)).await.into_iter().enumerate() {
        assert_eq!(code.unwrap(), n as i32);
    }
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_is_small() {
    let bench = Bench::new();
    let pod = bench.pod("small").await;
    let id = bench.shims.start_container(&pod, bench.shell("c", "sleep 1000")).await.unwrap().id;
    for _ in 0..20 {
        assert_eq!(output(bench.shims.exec(&pod, &id, exec("true")).await.unwrap()).await.0, 0);
    }
    let ContainerState::Running { pid } = bench.shims.pod(&pod).await.unwrap().containers[0].state else { panic!() };
    let shim = shim_of(pid);
    let fds = fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    assert!(fds <= 14, "{fds} descriptors are open in the shim");
    let threads = fs::read_dir(format!("/proc/{shim}/task")).unwrap().count();
    assert_eq!(threads, 1);
    bench.shims.remove_pod(&pod).await.unwrap();
}

/// The shim of a container's first process: the leader of its parent's session. The parent itself may still be the creator,
/// which has answered and is about to end.
fn shim_of(pid: u32) -> u32 {
    let field = |pid: u32, at: usize| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(at)?.parse().ok()
    };
    loop {
        if let Some(session) = field(pid, 1).and_then(|parent| field(parent, 3)) {
            return session;
        }
    }
}
