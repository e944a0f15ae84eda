//! What a daemon that starts makes of the pods that an earlier one left running. Pure: the runtime's and the API's view in, a
//! [`State`] out. Containers that run go on running; nothing is restarted because of a restart of the daemon.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use runtime::{ContainerInfo, ContainerState, ExitStatus, PodInfo, PodState};

use super::input::{ExitFacts, LOST, LOST_CODE};
use super::probes::Probes;
use super::restart;
use super::state::{
    Cleanup, Container, EndReason, Ending, Exit, Hook, ImageRef, Now, Running, Sandbox, SandboxUp, Stage, State,
    Verdict, Volumes,
};
use crate::pod::{self, Role};
use crate::translate::container::labels;

pub fn facts(exit: &ExitStatus) -> ExitFacts {
    ExitFacts {
        code: exit.code,
        signal: exit.signal,
        oom_killed: exit.oom_killed,
        lost: exit.lost,
        started_at: exit.started_at,
        finished_at: exit.finished_at,
        message: exit.message.clone(),
    }
}

fn label<'a>(info: &'a ContainerInfo, name: &str) -> &'a str {
    info.labels.get(name).map(String::as_str).unwrap_or_default()
}

fn image(info: &ContainerInfo) -> ImageRef {
    ImageRef {
        name: label(info, labels::IMAGE_NAME).to_owned(),
        id: label(info, labels::IMAGE_ID).to_owned(),
        stop_signal: Some(label(info, labels::STOP_SIGNAL)).filter(|s| !s.is_empty()).map(str::to_owned),
    }
}

fn exit(info: &ContainerInfo, status: &ExitStatus) -> Exit {
    Exit {
        id: Some(info.id.0.clone()),
        image: Some(image(info)),
        code: status.code,
        signal: status.signal,
        reason: match (status.oom_killed, status.lost, status.code) {
            (true, ..) => "OOMKilled",
            (false, true, _) => "ContainerStatusUnknown",
            (false, false, 0) => "Completed",
            (false, false, _) => "Error",
        },
        message: status.message.clone(),
        started_at: Some(status.started_at),
        finished_at: Some(status.finished_at),
    }
}

/// `ips`: what the network says this pod has. Containers that have exited meanwhile are put in as running; the caller hands in
/// their exits as facts, so that restarts are decided in one place.
pub fn adopt(
    pod: Arc<Pod>,
    info: &PodInfo,
    ips: Vec<String>,
    host_ips: Vec<String>,
    now: Now,
) -> (State, Vec<(String, ExitFacts)>) {
    let mut state = State::new(pod, host_ips, now);
    let mut exits = Vec::new();
    state.sandbox = match info.state {
        PodState::Ready => Sandbox::Up(SandboxUp { ips }),
        // The first step finds it dead and makes a new one.
        PodState::Dead => Sandbox::Up(SandboxUp { ips }),
    };
    state.sandbox_attempt = 1;
    state.volumes = Volumes::Absent { retry_at: None };
    state.cleanup = Cleanup::Needed { retry_at: None };
    let pod = Arc::clone(&state.pod);
    let known = said(&pod);
    let of = |i: &ContainerInfo, c: &Container| label(i, labels::CONTAINER) == c.spec.name;
    // App containers only ever start after the init containers.
    let app_started = state.containers.iter().any(|c| c.role == Role::App && info.containers.iter().any(|i| of(i, c)));
    for c in &mut state.containers {
        let mut instances: Vec<&ContainerInfo> = info.containers.iter().filter(|i| of(i, c)).collect();
        instances.sort_by_key(|i| label(i, labels::RESTARTS).parse::<u32>().unwrap_or(0));
        let said = known.iter().find(|s| s.name == c.spec.name);
        let restarts = |i: &ContainerInfo| label(i, labels::RESTARTS).parse::<i32>().unwrap_or(0);
        // An instance that could not be started, or ended in an earlier sandbox, is none that the runtime knows.
        let present = |i: &&&ContainerInfo| {
            matches!(i.state, ContainerState::Running { .. }) || said.is_none_or(|s| s.restart_count <= restarts(i))
        };
        let Some(latest) = instances.last().filter(present) else {
            let succeeded = |s: &ContainerStatus| {
                s.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0)
            };
            match said {
                // In a new sandbox the init containers run again.
                Some(s) if c.role != Role::Init || app_started || !succeeded(s) => {
                    let lost = recall(c, &pod, s, now);
                    exits.extend(lost);
                }
                _ => c.restarts = said.map_or(0, |s| s.restart_count.max(0) as u32),
            }
            continue;
        };
        c.restarts = label(latest, labels::RESTARTS).parse().unwrap_or(0);
        c.image = Some(image(latest));
        if let [.., before, _] = instances[..]
            && let ContainerState::Exited(status) = &before.state
        {
            c.last = Some(exit(before, status));
            c.dead_id = Some(before.id.0.clone());
        }
        let own = said.filter(|s| bare_id(s.container_id.as_deref()) == latest.id.0);
        if let (None, Some(t)) = (&c.last, own.and_then(|s| s.last_state.as_ref()?.terminated.as_ref())) {
            c.last = Some(exit_said(t, &image(latest)));
        }
        // What was said of its end may hold more than the runtime knows.
        let ended = own.and_then(|s| s.state.as_ref()?.terminated.as_ref());
        if let (ContainerState::Exited(_), Some(t)) = (&latest.state, ended)
            && !restart::wanted(&pod, c, t.exit_code)
        {
            c.dead_id = Some(latest.id.0.clone());
            c.stage = Stage::Exited(exit_said(t, &image(latest)));
            continue;
        }
        let started_mono = now.at(latest.started_at);
        let mut probes = Probes::new(&c.spec, started_mono, now.mono);
        probes.assume(said.is_some_and(|s| s.started == Some(true)), said.is_some_and(|s| s.ready));
        // An init container that succeeded is done; that must not look like a restart.
        if let (ContainerState::Exited(status), Role::Init) = (&latest.state, c.role)
            && status.code == 0
        {
            c.dead_id = Some(latest.id.0.clone());
            c.stage = Stage::Exited(exit(latest, status));
            continue;
        }
        c.stage = Stage::Running(Box::new(Running {
            id: latest.id.0.clone(),
            started_at: latest.started_at,
            started_mono,
            image: image(latest),
            spec_image: label(latest, labels::SPEC_IMAGE).to_owned(),
            // Whether a hook of the earlier daemon came to its end nobody knows; it is not run twice.
            post_start: Hook::None,
            probes,
            kill: None,
        }));
        if let ContainerState::Exited(status) = &latest.state {
            exits.push((latest.id.0.clone(), facts(status)));
        }
    }
    state.initialized = initialized(&state);
    (state, exits)
}

fn initialized(state: &State) -> bool {
    let ran = |c: &Container| c.restarts > 0 || matches!(c.stage, Stage::Running(_) | Stage::Exited(_));
    state.containers.iter().any(|c| c.role == Role::App && ran(c))
        || state.containers.iter().all(|c| !matches!(c.role, Role::Init | Role::Sidecar))
}

fn said(pod: &Pod) -> Vec<ContainerStatus> {
    let status = pod.status.clone().unwrap_or_default();
    [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
        .collect()
}

/// Puts a container that the runtime does not know in the place where its status has it. One that is said to run is put in as
/// running; its loss, which the caller is to hand in, is the answer.
fn recall(c: &mut Container, pod: &Pod, s: &ContainerStatus, now: Now) -> Option<(String, ExitFacts)> {
    let image = ImageRef { name: s.image.clone(), id: s.image_id.clone(), stop_signal: None };
    c.restarts = s.restart_count.max(0) as u32;
    c.last = s.last_state.as_ref().and_then(|l| l.terminated.as_ref()).map(|t| exit_said(t, &image));
    let present = s.state.clone().unwrap_or_default();
    if let Some(running) = present.running {
        let started_at = running.started_at.map_or(now.wall, |t| t.0);
        let id = bare_id(s.container_id.as_deref());
        c.stage = Stage::Running(Box::new(Running {
            id: id.clone(),
            started_at,
            started_mono: now.at(started_at),
            spec_image: c.spec.image.clone().unwrap_or_default(),
            image,
            post_start: Hook::None,
            probes: Probes::new(&c.spec, now.at(started_at), now.mono),
            kill: None,
        }));
        return Some((id, ExitFacts::lost(started_at, now.wall)));
    }
    if let Some(ended) = present.terminated {
        let exit = exit_said(&ended, &image);
        // Ended with its pod, whose end was not decided after all.
        if !pod::deleting(pod) && !pod::terminal(pod) && restart::wanted(pod, c, exit.code) {
            c.last = Some(exit);
            c.restarts += 1;
        } else {
            c.stage = Stage::Exited(exit);
        }
    } else if c.last.is_some() {
        // It was waiting for its next start.
        c.restarts += 1;
    }
    None
}

/// A pod whose terminal phase the API server knows already: nothing runs, but leftovers are cleaned. Its status stays as it is,
/// whoever wrote it; only a container that was to run, of a pod that another hand has ended, is said to be lost. Source:
/// `pkg/kubelet/status/status_manager.go` (TerminatePod).
pub fn finished(pod: Arc<Pod>, host_ips: Vec<String>, now: Now) -> State {
    let mut status = pod.status.clone().unwrap_or_default();
    let mut state = State::new(Arc::clone(&pod), host_ips, now);
    state.ending = Some(Ending { why: EndReason::Finished, deadline: now.mono });
    let phase = if status.phase.as_deref() == Some("Succeeded") { "Succeeded" } else { "Failed" };
    state.verdict = Some(Verdict {
        phase: Some(phase),
        reason: status.reason.clone().unwrap_or_default(),
        message: status.message.clone().unwrap_or_default(),
    });
    state.verdict_reported = true;
    end_running(&mut status);
    let known = said(&Pod { status: Some(status.clone()), ..Pod::default() });
    for c in &mut state.containers {
        if let Some(s) = known.iter().find(|s| s.name == c.spec.name) {
            recall(c, &pod, s, now);
        }
    }
    state.initialized = initialized(&state);
    state.last_word = Some(Box::new(status));
    state
}

fn end_running(status: &mut PodStatus) {
    let lists =
        [&mut status.init_container_statuses, &mut status.container_statuses, &mut status.ephemeral_container_statuses];
    for s in lists.into_iter().flatten().flatten() {
        let Some(state) = s.state.as_mut() else { continue };
        let Some(running) = state.running.take() else { continue };
        state.terminated = Some(ContainerStateTerminated {
            container_id: s.container_id.clone(),
            exit_code: LOST_CODE,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(LOST.into()),
            started_at: running.started_at,
            ..ContainerStateTerminated::default()
        });
        (s.ready, s.started) = (false, Some(false));
    }
}

/// A pod that ran here by what the API server says and of which the runtime knows nothing: the machine was restarted. What the
/// status calls running is put in as running; the caller hands in [`Input::SandboxDied`](super::input::Input::SandboxDied), so
/// that restarts are decided in one place: a pod that must not run twice does not. `None`: nothing of it ever ran.
pub fn forgotten(pod: &Arc<Pod>, host_ips: &[String], now: Now) -> Option<State> {
    let said = said(pod);
    if said.iter().all(|s| s.container_id.is_none()) {
        return None;
    }
    let mut state = State::new(Arc::clone(pod), host_ips.to_vec(), now);
    state.sandbox = Sandbox::Up(SandboxUp { ips: Vec::new() });
    state.sandbox_attempt = 1;
    for c in &mut state.containers {
        let Some(s) = said.iter().find(|s| s.name == c.spec.name && s.container_id.is_some()) else { continue };
        recall(c, pod, s, now);
    }
    state.initialized = initialized(&state);
    Some(state)
}

fn bare_id(id: Option<&str>) -> String {
    let id = id.unwrap_or_default();
    id.split_once("://").map_or(id, |(_, bare)| bare).to_owned()
}

fn exit_said(said: &ContainerStateTerminated, image: &ImageRef) -> Exit {
    Exit {
        id: Some(bare_id(said.container_id.as_deref())),
        image: Some(image.clone()),
        code: said.exit_code,
        signal: said.signal,
        reason: match said.reason.as_deref() {
            Some("Completed") => "Completed",
            Some("OOMKilled") => "OOMKilled",
            Some("StartError") => "StartError",
            Some("ContainerStatusUnknown") => "ContainerStatusUnknown",
            Some(_) | None => "Error",
        },
        message: said.message.clone().unwrap_or_default(),
        started_at: said.started_at.as_ref().map(|t| t.0),
        finished_at: said.finished_at.as_ref().map(|t| t.0),
    }
}

/// A pod that the API server has no more, from what the runtime remembers of it: enough to end it in order.
pub fn orphan(info: &PodInfo) -> Pod {
    let text = |name: &str| info.labels.get(name).cloned();
    let mut pod = Pod::default();
    pod.metadata.uid = Some(info.id.0.clone());
    pod.metadata.name = text(labels::POD_NAME);
    pod.metadata.namespace = text(labels::POD_NAMESPACE);
    let mut names: Vec<&str> = info.containers.iter().map(|c| label(c, labels::CONTAINER)).collect();
    names.sort_unstable();
    names.dedup();
    let containers = names
        .into_iter()
        .map(|name| k8s_openapi::api::core::v1::Container { name: name.to_owned(), ..Default::default() });
    pod.spec = Some(k8s_openapi::api::core::v1::PodSpec {
        containers: containers.collect(),
        host_network: Some(info.spec.network == runtime::NetworkNamespace::Host),
        restart_policy: Some("Never".into()),
        ..Default::default()
    });
    pod
}

/// The grace of an orphan: nobody is left to ask for more. Source: `pkg/kubelet/kubelet_pods.go` (runtime-only pods get 1 s).
pub const ORPHAN_GRACE: Duration = Duration::from_secs(1);
