//! Tables for [`super::step`]: a pod, a script of inputs with the actions each must lead to.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;

use super::input::{Action, ExitFacts, Input, Outcome, Signal, StartFailure};
use super::probes::ProbeKind;
use super::state::{ImageRef, Now, SandboxUp, Stage, State, Why};
use super::step::{next_wake, step};
use super::summary::summary;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u1", "generation": 1},
        "spec": spec,
    }))
    .unwrap()
}

fn one(policy: &str) -> Pod {
    pod(
        json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 30, "containers": [{"name": "main", "image": "img"}]}),
    )
}

/// Drives one state; remembers time and the pod's containers' present ids.
struct Script {
    state: State,
    now: Now,
}

/// Actions in short: what a table row says.
fn short(action: &Action) -> String {
    match action {
        Action::PrepareVolumes => "volumes".into(),
        Action::RefreshVolumes => "refresh".into(),
        Action::StartSandbox { attempt } => format!("sandbox {attempt}"),
        Action::RemoveSandbox => "remove sandbox".into(),
        Action::Pull { container } => format!("pull {container}"),
        Action::Start { container, restarts, .. } => format!("start {container} {restarts}"),
        Action::Forget { .. } => "forget".into(),
        Action::Signal { signal: Signal::Stop(name), .. } => format!("signal {name}"),
        Action::Signal { signal: Signal::Kill, .. } => "kill".into(),
        Action::PostStart { container, .. } => format!("postStart {container}"),
        Action::PreStop { container, within, .. } => format!("preStop {container} {}", within.as_secs()),
        Action::Probe { container, kind, .. } => format!("probe {container} {}", kind.lower()),
        Action::Event { reason, .. } => format!("event {reason}"),
        Action::CleanUp { logs } => format!("clean up{}", if *logs { " with logs" } else { "" }),
        Action::DeleteObject => "delete object".into(),
        Action::Exit => "exit".into(),
    }
}

fn image() -> ImageRef {
    ImageRef { name: "img".into(), id: "sha256:1".into(), stop_signal: None }
}

impl Script {
    fn new(pod: Pod) -> Script {
        let now = Now { wall: "2026-01-01T00:00:00Z".parse().unwrap(), mono: Duration::from_secs(1000) };
        Script { state: State::new(Arc::new(pod), vec!["10.0.0.1".into()], now), now }
    }

    fn wait(&mut self, seconds: u64) -> &mut Script {
        self.now.mono += Duration::from_secs(seconds);
        self.now.wall += Duration::from_secs(seconds);
        self
    }

    fn raw(&mut self, input: Input) -> Vec<Action> {
        let (state, actions) = step(self.state.clone(), input, self.now);
        self.state = state;
        if let Some(wake) = next_wake(&self.state) {
            assert!(wake > self.now.mono, "would spin: wake {wake:?} at {:?} in {:?}", self.now.mono, self.state);
        }
        actions
    }

    fn then(&mut self, input: Input, expected: &[&str]) -> &mut Script {
        let shown = format!("{input:?}");
        let actions: Vec<String> = self.raw(input).iter().map(short).collect();
        assert_eq!(actions, expected, "after {shown}");
        self
    }

    fn id(&self, container: &str) -> String {
        let c = self.state.container(container).unwrap();
        super::container_id("u1", container, c.restarts)
    }

    fn set_up(&mut self) -> &mut Script {
        self.then(Input::SandboxReady(SandboxUp { ips: vec!["10.42.0.5".into()] }), &[]);
        self.then(Input::VolumesReady { refresh_at: None }, &[])
    }

    fn pulled(&mut self, container: &str, expected: &[&str]) -> &mut Script {
        self.then(Input::Pulled { container: container.into(), image: image(), pulled: None }, expected)
    }

    fn started(&mut self, container: &str, expected: &[&str]) -> &mut Script {
        let (id, at) = (self.id(container), self.now.wall);
        self.then(Input::Started { container: container.into(), id, at }, expected)
    }

    fn exits(&mut self, container: &str, code: i32, expected: &[&str]) -> &mut Script {
        let id = self.id(container);
        let exit = self.facts(code);
        self.then(Input::Exited { id, exit }, expected)
    }

    fn facts(&self, code: i32) -> ExitFacts {
        ExitFacts {
            code,
            signal: None,
            oom_killed: false,
            lost: false,
            started_at: self.now.wall,
            finished_at: self.now.wall,
            message: String::new(),
        }
    }

    fn deleted(&self, grace: i64) -> Input {
        let mut pod = (*self.state.pod).clone();
        pod.metadata.deletion_timestamp = Some(Time(self.now.wall));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        Input::Pod(Arc::new(pod))
    }

    fn verdict(&self) -> Option<&'static str> {
        self.state.verdict.as_ref().and_then(|v| v.phase)
    }

    fn why(&self, container: &str) -> Why {
        match &self.state.container(container).unwrap().stage {
            Stage::Waiting(w) => w.why,
            other => panic!("{container} does not wait: {other:?}"),
        }
    }
}

/// A pod with one container that runs.
fn running(pod: Pod) -> Script {
    let mut s = Script::new(pod);
    s.then(Input::Tick, &["volumes", "sandbox 0", "pull main"]).set_up();
    s.pulled("main", &["event Pulled", "start main 0"]);
    s.started("main", &["event Created", "event Started"]);
    s
}

#[test]
fn a_pod_with_devices_waits_for_their_driver() {
    let mut s = Script::new(pod(json!({"restartPolicy": "Always", "containers": [{"name": "main", "image": "img"}],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]})));
    s.then(Input::Tick, &["event FailedPrepareDynamicResources", "pull main"]);
    s.pulled("main", &["event Pulled"]);
    s.then(Input::Tick, &[]);
    s.wait(1).then(Input::Tick, &["event FailedPrepareDynamicResources"]);
}

#[test]
fn all_well_no_action() {
    let mut s = running(one("Always"));
    for input in [
        Input::Tick,
        Input::VolumesReady { refresh_at: None },
        Input::Pod(Arc::clone(&s.state.pod)),
        Input::VerdictReported,
    ] {
        s.then(input, &[]);
    }
    assert_eq!(next_wake(&s.state), None, "a healthy pod without probes sets no timer");
}

#[test]
fn order_of_sandbox_volumes_and_image_does_not_matter() {
    let steps = || {
        [
            Input::SandboxReady(SandboxUp { ips: vec![] }),
            Input::VolumesReady { refresh_at: None },
            Input::Pulled { container: "main".into(), image: image(), pulled: None },
        ]
    };
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut s = Script::new(one("Always"));
        s.raw(Input::Tick);
        let starts: Vec<bool> = order
            .iter()
            .map(|i| s.raw(steps()[*i].clone()).iter().any(|a| matches!(a, Action::Start { .. })))
            .collect();
        assert_eq!(starts, [false, false, true], "{order:?}");
    }
}

#[test]
fn crashes_back_off_and_long_runs_forget() {
    let mut s = running(one("Always"));
    s.exits("main", 1, &["pull main"]);
    s.pulled("main", &["event Pulled", "start main 1"]);
    s.started("main", &["event Created", "event Started"]).wait(1);
    s.exits("main", 1, &["forget", "event BackOff"]);
    assert_eq!(s.why("main"), Why::CrashLoopBackOff);
    s.wait(9).then(Input::Tick, &[]);
    s.wait(1).then(Input::Tick, &["pull main"]);
    s.pulled("main", &["event Pulled", "start main 2"]);
    s.started("main", &["event Created", "event Started"]).wait(700);
    s.exits("main", 0, &["forget", "pull main"]);
    assert_eq!(s.state.container("main").unwrap().restarts, 3);
}

#[test]
fn phases_by_policy() {
    for (policy, code, ends) in [
        ("Never", 0, Some("Succeeded")),
        ("Never", 3, Some("Failed")),
        ("OnFailure", 0, Some("Succeeded")),
        ("OnFailure", 1, None),
        ("Always", 0, None),
    ] {
        let mut s = running(one(policy));
        let id = s.id("main");
        let exit = s.facts(code);
        s.raw(Input::Exited { id, exit });
        assert_eq!(s.verdict(), ends, "{policy} {code}");
        if ends.is_some() {
            // Nothing is removed before the API knows how it ended.
            s.then(Input::Tick, &[]);
            s.then(Input::VerdictReported, &["clean up"]);
            s.then(Input::CleanedUp, &[]);
            let deleted = s.deleted(0);
            s.then(deleted, &["clean up with logs"]);
            s.then(Input::CleanedUp, &["delete object"]);
            s.then(Input::Gone, &["exit"]);
        }
    }
}

#[test]
fn init_containers_run_one_by_one_and_sidecars_beside() {
    let spec = json!({"restartPolicy": "Always",
        "initContainers": [{"name": "a"}, {"name": "side", "restartPolicy": "Always"}, {"name": "b"}],
        "containers": [{"name": "x"}, {"name": "y"}]});
    let mut s = Script::new(pod(spec));
    s.then(Input::Tick, &["volumes", "sandbox 0", "pull a"]).set_up();
    s.pulled("a", &["event Pulled", "start a 0"]).started("a", &["event Created", "event Started"]);
    s.exits("a", 1, &["pull a"]);
    s.pulled("a", &["event Pulled", "start a 1"]).started("a", &["event Created", "event Started"]);
    s.exits("a", 0, &["forget", "pull side"]);
    s.pulled("side", &["event Pulled", "start side 0"]);
    s.started("side", &["event Created", "event Started", "pull b"]);
    s.pulled("b", &["event Pulled", "start b 0"]).started("b", &["event Created", "event Started"]);
    // a sidecar that dies comes back, and holds nothing up
    s.exits("side", 0, &["pull side"]);
    s.exits("b", 0, &["pull x", "pull y"]);
    s.pulled("y", &["event Pulled"]);
    s.pulled("x", &["event Pulled", "start x 0"]);
    s.started("x", &["event Created", "event Started", "start y 0"]);
}

#[test]
fn an_init_container_that_may_not_be_retried_fails_the_pod() {
    let mut s = Script::new(pod(
        json!({"restartPolicy": "Never", "initContainers": [{"name": "a"}], "containers": [{"name": "x"}]}),
    ));
    s.raw(Input::Tick);
    s.set_up().pulled("a", &["event Pulled", "start a 0"]).started("a", &["event Created", "event Started"]);
    s.exits("a", 1, &[]);
    assert_eq!(s.verdict(), Some("Failed"));
    assert_eq!(s.why("x"), Why::Turn);
}

#[test]
fn deletion_runs_the_hook_inside_the_grace() {
    let spec = json!({"containers": [{"name": "main", "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}]});
    let mut s = running(pod(spec));
    let deleted = s.deleted(30);
    s.then(deleted, &["event Killing", "preStop main 30"]);
    let id = s.id("main");
    s.wait(10).then(Input::PreStopDone { id, result: Ok(()) }, &["signal SIGTERM"]);
    s.wait(19).then(Input::Tick, &[]);
    s.wait(1).then(Input::Tick, &["kill"]);
    s.exits("main", 137, &["clean up with logs"]);
    s.then(Input::CleanedUp, &["delete object"]).then(Input::Gone, &["exit"]);
    assert_eq!(s.verdict(), Some("Failed"));
}

#[test]
fn a_hook_that_outlives_the_grace_leaves_two_seconds() {
    let spec = json!({"containers": [{"name": "main", "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}]});
    let mut s = running(pod(spec));
    let deleted = s.deleted(5);
    s.then(deleted, &["event Killing", "preStop main 5"]);
    s.wait(5).then(Input::Tick, &["signal SIGTERM"]);
    s.wait(1).then(Input::Tick, &[]);
    s.wait(1).then(Input::Tick, &["kill"]);
}

#[test]
fn a_shorter_grace_is_honoured_and_force_too() {
    let mut s = running(one("Always"));
    let deleted = s.deleted(300);
    s.then(deleted, &["event Killing", "signal SIGTERM"]);
    let deleted = s.deleted(10);
    s.then(deleted, &[]);
    s.wait(9).then(Input::Tick, &[]).wait(1).then(Input::Tick, &["kill"]);

    let mut s = running(one("Always"));
    s.then(Input::Gone, &["event Killing", "signal SIGTERM"]);
    s.wait(2).then(Input::Tick, &["kill"]);
    s.exits("main", 137, &["clean up with logs"]);
    s.then(Input::CleanedUp, &["exit"]);
}

#[test]
fn sidecars_stop_last_in_reverse() {
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 30,
        "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "x"}]});
    let mut s = Script::new(pod(spec));
    s.raw(Input::Tick);
    s.set_up();
    for (name, next) in [("s1", Some("pull s2")), ("s2", Some("pull x")), ("x", None)] {
        s.pulled(name, &["event Pulled", &format!("start {name} 0")]);
        let mut expected = vec!["event Created", "event Started"];
        expected.extend(next);
        s.started(name, &expected);
    }
    s.exits("x", 0, &["event Killing", "signal SIGTERM"]);
    s.exits("s2", 0, &["event Killing", "signal SIGTERM"]);
    s.exits("s1", 143, &[]);
    assert_eq!(s.verdict(), Some("Succeeded"));
}

#[test]
fn failing_liveness_restarts_and_readiness_does_not() {
    let spec = json!({"terminationGracePeriodSeconds": 30, "containers": [{"name": "main",
        "livenessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 7},
        "readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1}}]});
    let mut s = Script::new(pod(spec));
    s.raw(Input::Tick);
    s.set_up().pulled("main", &["event Pulled", "start main 0"]);
    s.started("main", &["event Created", "event Started", "probe main liveness", "probe main readiness"]);
    assert!(!s.state.container("main").unwrap().ready());
    let id = s.id("main");
    s.then(Input::Probed { id: id.clone(), kind: ProbeKind::Readiness, outcome: Outcome::Success }, &[]);
    assert!(s.state.container("main").unwrap().ready());
    s.wait(1).then(Input::Tick, &["probe main readiness"]);
    s.then(
        Input::Probed { id: id.clone(), kind: ProbeKind::Readiness, outcome: Outcome::Failure("no".into()) },
        &["event Unhealthy"],
    );
    assert!(!s.state.container("main").unwrap().ready());
    s.then(
        Input::Probed { id, kind: ProbeKind::Liveness, outcome: Outcome::Failure("no".into()) },
        &["event Unhealthy", "event Killing", "signal SIGTERM"],
    );
    s.wait(7).then(Input::Tick, &["kill", "probe main readiness"]);
    s.exits("main", 137, &["pull main"]);
}

#[test]
fn pulls_that_fail_show_the_error_then_the_back_off() {
    let mut s = Script::new(one("Always"));
    s.raw(Input::Tick);
    s.set_up();
    let failed = || Input::PullFailed { container: "main".into(), why: Why::ErrImagePull, message: "not found".into() };
    s.then(failed(), &["event Failed", "event Failed"]);
    assert_eq!(s.why("main"), Why::ErrImagePull);
    s.wait(2).then(Input::Tick, &["event BackOff", "event Failed"]);
    assert_eq!(s.why("main"), Why::ImagePullBackOff);
    s.wait(8).then(Input::Tick, &["pull main"]);
    s.then(failed(), &["event Failed", "event Failed"]);
    s.wait(2).then(Input::Tick, &["event BackOff", "event Failed"]).wait(17).then(Input::Tick, &[]);
    s.wait(1).then(Input::Tick, &["pull main"]);
}

#[test]
fn who_waits_for_an_image_tries_again_when_it_comes() {
    let failed = |why: Why| Input::PullFailed { container: "main".into(), why, message: "not found".into() };
    let here = || Input::ImagesHere { containers: vec!["main".into()] };
    for (why, shown_for, expected) in [
        (Why::ErrImagePull, 0, vec!["pull main"]),
        // by then it shows the back-off
        (Why::ErrImagePull, 5, vec!["pull main"]),
        (Why::ErrImageNeverPull, 0, vec!["pull main"]),
        (Why::InvalidImageName, 0, vec![]),
        (Why::ImageInspectError, 0, vec![]),
    ] {
        let mut s = Script::new(one("Always"));
        s.raw(Input::Tick);
        s.set_up();
        for wait in [10, 20, 40] {
            s.raw(failed(why));
            s.wait(wait).then(Input::Tick, &["pull main"]);
        }
        s.raw(failed(why));
        s.wait(shown_for).raw(Input::Tick);
        s.then(Input::ImagesHere { containers: vec!["other".into()] }, &[]);
        s.then(here(), &expected);
        if !expected.is_empty() {
            // The back-off begins anew, and what is late changes nothing.
            s.then(here(), &[]);
            s.raw(failed(why));
            s.wait(10).then(Input::Tick, &["pull main"]);
            s.pulled("main", &["event Pulled", "start main 0"]);
            s.then(here(), &[]);
        }
    }
    // The pod ends: nothing is tried.
    let mut s = Script::new(one("Always"));
    s.raw(Input::Tick);
    s.set_up();
    s.raw(failed(Why::ErrImagePull));
    s.raw(Input::Gone);
    s.then(here(), &[]);
}

#[test]
fn configuration_errors_are_retried_when_something_changes() {
    let mut s = Script::new(one("Always"));
    s.raw(Input::Tick);
    s.set_up().pulled("main", &["event Pulled", "start main 0"]);
    let id = s.id("main");
    let failure = StartFailure::Config("configmap \"c\" not found".into());
    s.then(Input::StartFailed { container: "main".into(), id, failure }, &["event Failed"]);
    assert_eq!(s.why("main"), Why::CreateContainerConfigError);
    s.then(Input::ObjectsChanged, &["refresh", "pull main"]);
    assert_eq!(s.state.container("main").unwrap().restarts, 0);
}

#[test]
fn an_executable_that_cannot_run_counts_as_a_crash() {
    let mut s = Script::new(one("Never"));
    s.raw(Input::Tick);
    s.set_up().pulled("main", &["event Pulled", "start main 0"]);
    let id = s.id("main");
    let failure = StartFailure::Run("exec: \"x\": not found".into());
    s.then(Input::StartFailed { container: "main".into(), id, failure }, &["event Created", "event Failed"]);
    assert_eq!(s.state.container("main").unwrap().exited().unwrap().reason, "StartError");
    assert_eq!(s.verdict(), Some("Failed"));
}

#[test]
fn the_deadline_kills_and_fails() {
    let mut p = one("Always");
    p.spec.as_mut().unwrap().active_deadline_seconds = Some(60);
    let mut s = running(p);
    s.wait(59).then(Input::Tick, &[]);
    s.wait(1).then(Input::Tick, &["event Killing", "signal SIGTERM"]);
    s.exits("main", 0, &[]);
    assert_eq!(s.verdict(), Some("Failed"));
    assert_eq!(s.state.verdict.as_ref().unwrap().reason, "DeadlineExceeded");
}

#[test]
fn post_start_holds_the_next_container_and_its_failure_kills() {
    let spec = json!({"terminationGracePeriodSeconds": 30, "containers": [
        {"name": "main", "lifecycle": {"postStart": {"exec": {"command": ["hi"]}}}}, {"name": "second"}]});
    let mut s = Script::new(pod(spec));
    s.then(Input::Tick, &["volumes", "sandbox 0", "pull main", "pull second"]).set_up();
    s.pulled("second", &["event Pulled"]);
    s.pulled("main", &["event Pulled", "start main 0"]);
    s.started("main", &["event Created", "event Started", "postStart main"]);
    let id = s.id("main");
    s.then(
        Input::PostStartDone { id, result: Err("exit 1".into()) },
        &["event FailedPostStartHook", "event Killing", "signal SIGTERM", "start second 0"],
    );
}

#[test]
fn a_dead_sandbox_is_made_anew() {
    let mut s = running(one("Always"));
    s.then(Input::SandboxDied, &["event SandboxChanged", "remove sandbox", "volumes", "pull main"]);
    s.then(Input::SandboxRemoved, &[]);
    s.wait(1).then(Input::Tick, &["sandbox 1"]);
    let mut s = running(one("Never"));
    s.then(Input::SandboxDied, &[]);
    assert_eq!(s.verdict(), Some("Failed"));
}

#[test]
fn a_changed_image_restarts_the_container() {
    let mut s = running(one("Always"));
    let mut p = (*s.state.pod).clone();
    p.spec.as_mut().unwrap().containers[0].image = Some("img:2".into());
    s.then(Input::Pod(Arc::new(p)), &["event Killing", "signal SIGTERM"]);
    s.exits("main", 0, &["pull main"]);
}

#[test]
fn a_container_that_is_replaced_at_once_is_never_shown_down() {
    let patched = || {
        let mut s = running(one("Always"));
        let mut p = (*s.state.pod).clone();
        p.spec.as_mut().unwrap().containers[0].image = Some("img:2".into());
        s.then(Input::Pod(Arc::new(p)), &["event Killing", "signal SIGTERM"]);
        s
    };
    // What a client reads: Ready, ContainersReady, the container's own, its restarts, and what it waits for.
    let read = |s: &Script| {
        let status = summary(&s.state, None, s.now);
        let condition = |kind: &str| {
            let found = status.conditions.iter().flatten().find(|c| c.type_ == kind);
            found.is_some_and(|c| c.status == "True")
        };
        let c = &status.container_statuses.as_ref().unwrap()[0];
        let waits = c.state.clone().unwrap().waiting.and_then(|w| w.reason).unwrap_or_default();
        (condition("Ready"), condition("ContainersReady"), c.ready, c.restart_count, waits)
    };
    let up = |restarts: i32| (true, true, true, restarts, String::new());
    let down = |why: &str| (false, false, false, 0, why.to_owned());

    let mut s = patched();
    assert_eq!(read(&s), up(0), "the signal was sent");
    s.exits("main", 0, &["pull main"]);
    assert_eq!(read(&s), up(0), "it has ended");
    assert_eq!(next_wake(&s.state), Some(s.now.mono + Duration::from_secs(1)));
    s.pulled("main", &["event Pulled", "start main 1"]);
    assert_eq!(read(&s), up(0), "the other one starts");
    s.started("main", &["event Created", "event Started"]);
    assert_eq!(read(&s), up(1), "the other one runs");
    assert_eq!(next_wake(&s.state), None);

    // No longer than a second, and not when it cannot be replaced or is not to be.
    let mut s = patched();
    s.exits("main", 0, &["pull main"]);
    s.wait(1).then(Input::Tick, &[]);
    assert_eq!((read(&s), next_wake(&s.state)), (down("ContainerCreating"), None));
    let mut s = patched();
    s.exits("main", 0, &["pull main"]);
    s.raw(Input::PullFailed { container: "main".into(), why: Why::ErrImagePull, message: "m".into() });
    assert_eq!(read(&s), down("ErrImagePull"));
    let mut s = patched();
    s.exits("main", 0, &["pull main"]);
    s.raw(Input::Gone);
    assert!(!read(&s).0);
    // One that ends by itself is shown at once.
    let mut s = running(one("Always"));
    s.exits("main", 1, &["pull main"]);
    assert_eq!(read(&s), down("ContainerCreating"));
}

/// While the init containers run again in a new sandbox, what the others wait for may come and go.
#[test]
fn back_offs_that_end_before_their_turn_do_not_spin() {
    let spec = json!({"restartPolicy": "Always", "initContainers": [{"name": "i"}], "containers": [{"name": "main"}]});
    for failed in [false, true] {
        let mut s = Script::new(pod(spec.clone()));
        s.raw(Input::Tick);
        s.set_up().pulled("i", &["event Pulled", "start i 0"]).started("i", &["event Created", "event Started"]);
        s.exits("i", 0, &["pull main"]);
        if failed {
            s.raw(Input::PullFailed { container: "main".into(), why: Why::ErrImagePull, message: "m".into() });
        } else {
            for restarts in [0, 1] {
                s.pulled("main", &["event Pulled", &format!("start main {restarts}")]);
                s.started("main", &["event Created", "event Started"]);
                let (id, exit) = (s.id("main"), s.facts(1));
                s.raw(Input::Exited { id, exit });
            }
        }
        s.raw(Input::SandboxDied);
        s.raw(Input::SandboxRemoved);
        for wait in [1, 2, 30] {
            s.wait(wait).raw(Input::Tick);
        }
        s.set_up().pulled("i", &["event Pulled", "start i 1"]).started("i", &["event Created", "event Started"]);
        s.exits("i", 0, &["forget", "pull main"]);
    }
}

#[test]
fn a_change_during_a_refresh_is_not_lost() {
    let mut s = running(one("Always"));
    s.then(Input::ObjectsChanged, &["refresh"]);
    s.then(Input::ObjectsChanged, &[]);
    s.then(Input::VolumesReady { refresh_at: None }, &["refresh"]);
    s.then(Input::VolumesReady { refresh_at: None }, &[]);
}

#[test]
fn a_clean_up_waits_for_what_is_still_being_made() {
    let mut s = Script::new(one("Always"));
    s.raw(Input::Tick);
    s.then(Input::Gone, &[]);
    s.then(Input::VolumesReady { refresh_at: None }, &[]);
    s.then(Input::SandboxReady(SandboxUp { ips: vec![] }), &["clean up with logs"]);
    s.then(Input::CleanedUp, &["exit"]);
}

#[test]
fn rejected_pods_never_touch_the_host() {
    let now = Now { wall: Timestamp::UNIX_EPOCH, mono: Duration::from_secs(5) };
    let state = State::rejected(Arc::new(one("Always")), vec![], now, "OutOfcpu", "no");
    let mut s = Script { state, now };
    s.then(Input::Tick, &[]).then(Input::VerdictReported, &[]);
    let deleted = s.deleted(0);
    s.then(deleted, &["delete object"]).then(Input::Gone, &["exit"]);
}

fn arbitrary_input() -> impl Strategy<Value = u8> {
    0u8..19
}

/// A status as an earlier boot left it: one app container in `state`.
fn left_by_an_earlier_boot(policy: &str, state: serde_json::Value) -> Option<Script> {
    let mut pod = one(policy);
    let container = json!({"name": "main", "image": "img", "imageID": "sha256:1", "containerID": "kedge://old", "ready": true,
        "restartCount": 4, "state": state,
        "lastState": {"terminated": {"exitCode": 1, "containerID": "kedge://older", "reason": "Error"}}});
    pod.status = serde_json::from_value(json!({"phase": "Running", "containerStatuses": [container]})).unwrap();
    let mut script = Script::new(one(policy));
    script.state = super::adopt::forgotten(&Arc::new(pod), &["10.0.0.1".into()], script.now)?;
    Some(script)
}

#[test]
fn a_machine_that_was_restarted_runs_its_pods_again() {
    let mut s = left_by_an_earlier_boot("Always", json!({"running": {"startedAt": "2025-12-31T00:00:00Z"}})).unwrap();
    let actions = ["event SandboxChanged", "remove sandbox", "volumes", "pull main"];
    s.then(Input::SandboxDied, &actions);
    let c = s.state.container("main").unwrap();
    let last = c.last.as_ref().unwrap();
    assert_eq!((c.restarts, last.code, last.reason), (5, 137, "ContainerStatusUnknown"));
    s.pulled("main", &["event Pulled"]).then(Input::SandboxRemoved, &[]);
    s.wait(1).then(Input::Tick, &["sandbox 1"]).then(Input::VolumesReady { refresh_at: None }, &[]);
    s.then(Input::SandboxReady(SandboxUp { ips: vec!["10.42.0.5".into()] }), &["start main 5"]);
}

#[test]
fn what_waited_for_its_restart_is_restarted_once_after_a_restart_of_the_machine() {
    let mut s = left_by_an_earlier_boot("Always", json!({"waiting": {"reason": "CrashLoopBackOff"}})).unwrap();
    s.raw(Input::SandboxDied);
    let c = s.state.container("main").unwrap();
    assert_eq!((c.restarts, c.last.as_ref().unwrap().code), (5, 1));
}

#[test]
fn what_must_not_run_twice_does_not_after_a_restart_of_the_machine() {
    let mut s = left_by_an_earlier_boot("Never", json!({"running": {"startedAt": "2025-12-31T00:00:00Z"}})).unwrap();
    s.raw(Input::SandboxDied);
    assert_eq!(s.state.verdict.as_ref().unwrap().phase, Some("Failed"));
    assert_eq!(super::summary::phase(&s.state), "Failed");
    let done = json!({"terminated": {"exitCode": 0, "reason": "Completed", "containerID": "kedge://old"}});
    let mut s = left_by_an_earlier_boot("OnFailure", done).unwrap();
    s.raw(Input::SandboxDied);
    assert_eq!(super::summary::phase(&s.state), "Succeeded");
}

fn ended(code: i32, reason: &str, id: &str) -> serde_json::Value {
    json!({"terminated": {"exitCode": code, "reason": reason, "message": "why", "containerID": format!("kedge://{id}"),
        "startedAt": "2025-12-31T00:00:00Z", "finishedAt": "2025-12-31T00:00:05Z"}})
}

fn said(name: &str, id: &str, restarts: i32, state: serde_json::Value, last: serde_json::Value) -> serde_json::Value {
    json!({"name": name, "image": "img", "imageID": "sha256:1", "containerID": format!("kedge://{id}"), "ready": false,
        "started": false, "restartCount": restarts, "state": state, "lastState": last})
}

/// The containers of a pod as a list of the runtime has them: name, id, restarts, state.
fn known_to_the_runtime(list: &[(&str, &str, u32, runtime::ContainerState)]) -> runtime::PodInfo {
    use crate::translate::container::labels;
    let containers = list.iter().map(|(name, id, restarts, state)| runtime::ContainerInfo {
        id: runtime::ContainerId((*id).into()),
        state: state.clone(),
        labels: [
            (labels::CONTAINER.to_owned(), (*name).to_owned()),
            (labels::RESTARTS.to_owned(), restarts.to_string()),
            (labels::IMAGE_NAME.to_owned(), "img".to_owned()),
            (labels::IMAGE_ID.to_owned(), "sha256:1".to_owned()),
            (labels::SPEC_IMAGE.to_owned(), "img".to_owned()),
        ]
        .into(),
        started_at: "2025-12-31T00:00:00Z".parse().unwrap(),
        tty: false,
        stdin: false,
    });
    let spec = runtime::PodSpec {
        id: runtime::PodId("u1".into()),
        hostname: "web".into(),
        domainname: String::new(),
        network: runtime::NetworkNamespace::Host,
        ipc: runtime::Namespace::Pod,
        uts: runtime::Namespace::Pod,
        pid: runtime::Namespace::Container,
        sysctls: Default::default(),
        cgroup: "podu1".into(),
        resources: Default::default(),
        shm_size_bytes: 0,
        labels: Default::default(),
    };
    runtime::PodInfo {
        id: spec.id.clone(),
        state: runtime::PodState::Ready,
        labels: Default::default(),
        spec: Arc::new(spec),
        created_at: "2025-12-31T00:00:00Z".parse().unwrap(),
        containers: containers.collect(),
    }
}

fn exit_of(code: i32) -> runtime::ContainerState {
    runtime::ContainerState::Exited(runtime::ExitStatus {
        code,
        signal: None,
        oom_killed: false,
        lost: false,
        started_at: "2025-12-31T00:00:00Z".parse().unwrap(),
        finished_at: "2025-12-31T00:00:05Z".parse().unwrap(),
        message: String::new(),
    })
}

#[test]
fn what_was_said_of_a_finished_pod_stands_after_a_restart_of_the_daemon() {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"});
    for status in [
        json!({"phase": "Failed", "containerStatuses": [said("main", "i2", 2, ended(4, "Error", "i2"), ended(3, "OOMKilled", "i1"))]}),
        json!({"phase": "Succeeded", "containerStatuses": [said("main", "i0", 0, ended(0, "Completed", "i0"), json!({}))]}),
        json!({"phase": "Failed", "reason": "Evicted", "message": "disk", "conditions": [condition],
            "containerStatuses": [said("main", "i0", 0, json!({"waiting": {"reason": "ImagePullBackOff"}}), json!({}))]}),
        // Never let in.
        json!({"phase": "Failed", "reason": "NodeAffinity"}),
    ] {
        let mut pod = one("Never");
        pod.status = serde_json::from_value(status).unwrap();
        let mut expected = pod.status.clone().unwrap();
        expected.observed_generation = Some(1);
        let mut s = Script::new(one("Never"));
        s.state = super::adopt::finished(Arc::new(pod.clone()), vec!["10.0.0.1".into()], s.now);
        assert_eq!(summary(&s.state, pod.status.as_ref(), s.now), expected);
        s.then(Input::Tick, &["clean up"]).then(Input::CleanedUp, &[]);
        assert_eq!(summary(&s.state, pod.status.as_ref(), s.now), expected);
        let restarts = expected.container_statuses.iter().flatten().map(|c| c.restart_count as u32).next();
        assert_eq!(s.state.container("main").unwrap().restarts, restarts.unwrap_or(0));
    }
}

#[test]
fn a_container_of_a_pod_that_another_hand_ended_is_said_to_be_lost() {
    let mut pod = one("Always");
    let running = json!({"running": {"startedAt": "2025-12-31T00:00:00Z"}});
    pod.status = serde_json::from_value(
        json!({"phase": "Failed", "containerStatuses": [said("main", "i0", 0, running, json!({}))]}),
    )
    .unwrap();
    let mut s = Script::new(one("Always"));
    s.state = super::adopt::finished(Arc::new(pod), Vec::new(), s.now);
    s.then(Input::Tick, &["clean up"]);
    let status = summary(&s.state, None, s.now).container_statuses.unwrap().remove(0);
    let end = status.state.unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
}

#[test]
fn containers_that_ended_keep_their_end_when_the_daemon_restarts() {
    let running = || json!({"running": {"startedAt": "2025-12-31T00:00:00Z"}});
    let up = || runtime::ContainerState::Running { pid: 7 };
    let mut pod =
        pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "init", "image": "img"}], "containers": [
        {"name": "main", "image": "img"}, {"name": "done", "image": "img"}, {"name": "unstartable", "image": "img"},
        {"name": "before", "image": "img"}]}));
    let statuses = [
        said("main", "m0", 0, running(), json!({})),
        said("done", "d0", 0, ended(4, "Error", "d0"), json!({})),
        said("unstartable", "u0", 0, ended(128, "StartError", "u0"), json!({})),
        said("before", "b1", 1, running(), ended(9, "ContainerStatusUnknown", "b0")),
    ];
    pod.status = serde_json::from_value(json!({"phase": "Running", "containerStatuses": statuses,
        "initContainerStatuses": [said("init", "i0", 0, ended(0, "Completed", "i0"), json!({}))]}))
    .unwrap();
    // What could not be started, and what ended in an earlier sandbox, the runtime does not know.
    for (init, done) in [(true, true), (false, false)] {
        let mut list = vec![("main", "m0", 0, up()), ("before", "b1", 1, up())];
        list.extend(init.then(|| ("init", "i0", 0, exit_of(0))));
        list.extend(done.then(|| ("done", "d0", 0, exit_of(4))));
        let info = known_to_the_runtime(&list);
        let mut s = Script::new(one("Never"));
        let (state, exits) = super::adopt::adopt(Arc::new(pod.clone()), &info, Vec::new(), Vec::new(), s.now);
        s.state = state;
        assert_eq!(exits, []);
        s.then(Input::Tick, &["volumes"]);
        let status = summary(&s.state, pod.status.as_ref(), s.now);
        let was = pod.status.as_ref().unwrap();
        let both = |s: &k8s_openapi::api::core::v1::PodStatus| -> Vec<_> {
            let lists = [s.init_container_statuses.clone(), s.container_statuses.clone()];
            let all = lists.into_iter().flatten().flatten();
            all.map(|c| (c.name, c.state, c.last_state, c.container_id, c.image_id, c.restart_count)).collect()
        };
        assert_eq!(both(&status), both(was), "{init} {done}");
    }
}

#[test]
fn a_pod_of_which_nothing_ever_ran_is_new() {
    let now = Script::new(one("Always")).now;
    assert!(super::adopt::forgotten(&Arc::new(one("Always")), &[], now).is_none());
}

proptest! {
    /// Whatever happens in whatever order: no spin, restarts never fall, a terminal phase never changes, and a pod that is
    /// deleted and whose containers die comes to its exit.
    #[test]
    fn any_order_of_facts_is_survived(inputs in proptest::collection::vec((arbitrary_input(), 0u64..40), 0..60), policy in 0usize..3) {
        let policy = ["Always", "OnFailure", "Never"][policy];
        let spec = json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 5,
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "main", "livenessProbe": {"tcpSocket": {"port": 1}}}, {"name": "other"}]});
        let mut s = Script::new(pod(spec));
        s.raw(Input::Tick);
        let mut verdict = None;
        for (n, wait) in inputs {
            s.wait(wait);
            let name = ["i", "s", "main", "other"][usize::from(n) % 4];
            let restarts = s.state.container(name).unwrap().restarts;
            let id = s.id(name);
            let input = match n {
                0 => Input::Tick,
                1 => Input::ObjectsChanged,
                2 => Input::VolumesReady { refresh_at: Some(s.now.mono + Duration::from_secs(9)) },
                3 => Input::VolumesFailed { message: "m".into() },
                4 => Input::SandboxReady(SandboxUp { ips: vec![] }),
                5 => Input::SandboxFailed { message: "m".into() },
                6 => Input::SandboxDied,
                7 => Input::SandboxRemoved,
                8 | 9 => Input::Pulled { container: name.into(), image: image(), pulled: None },
                10 => Input::PullFailed { container: name.into(), why: Why::ErrImagePull, message: "m".into() },
                11 | 12 => Input::Started { container: name.into(), id, at: s.now.wall },
                13 => Input::StartFailed { container: name.into(), id, failure: StartFailure::Run("m".into()) },
                14 => Input::Exited { id, exit: s.facts(1) },
                15 => Input::Exited { id, exit: s.facts(0) },
                16 => Input::Probed { id, kind: ProbeKind::Liveness, outcome: Outcome::Failure("m".into()) },
                17 => Input::ImagesHere { containers: vec![name.into()] },
                _ => Input::VerdictReported,
            };
            // A volume or sandbox answer only comes when it was asked for.
            s.raw(input);
            prop_assert!(s.state.container(name).unwrap().restarts >= restarts);
            if verdict.is_some() {
                prop_assert_eq!(s.verdict(), verdict);
            }
            verdict = s.verdict();
        }
        s.raw(Input::Gone);
        let mut done = false;
        for _ in 0..100 {
            s.wait(3);
            for name in ["i", "s", "main", "other"] {
                let id = s.id(name);
                s.raw(Input::Started { container: name.into(), id: id.clone(), at: s.now.wall });
                let exit = s.facts(137);
                s.raw(Input::Exited { id, exit });
            }
            s.raw(Input::VolumesReady { refresh_at: None });
            s.raw(if matches!(s.state.sandbox, super::state::Sandbox::Removing) {
                Input::SandboxRemoved
            } else {
                Input::SandboxReady(SandboxUp { ips: vec![] })
            });
            done |= s.raw(Input::CleanedUp).contains(&Action::Exit);
        }
        prop_assert!(done, "{:?}", s.state);
    }
}
