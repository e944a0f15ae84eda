//! The pod's status as the API shows it, worked out from the worker's state. Pure.
//!
//! Source: `pkg/kubelet/kubelet_pods.go` (getPhase, generateAPIPodStatus, convertToAPIContainerStatuses),
//! `pkg/kubelet/status/generate.go`.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    PodCondition, PodIP, PodStatus, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::state::{Container, EndReason, Exit, Now, Sandbox, Stage, State};
use crate::pod::{self, Role};

/// In front of container ids: who runs them. Source: CRI, `ContainerID.String`.
pub const RUNTIME_NAME: &str = "kedge";

/// What was said of a pod that ended before this daemon started stands. `previous`: what was said before, for the times at which conditions last changed.
pub fn summary(state: &State, previous: Option<&PodStatus>, now: Now) -> PodStatus {
    if let Some(said) = &state.last_word {
        return PodStatus { observed_generation: state.pod.metadata.generation, ..(**said).clone() };
    }
    let phase = phase(state);
    let ips: Vec<String> = match &state.sandbox {
        Sandbox::Up(up) => up.ips.clone(),
        // A pod that has ended keeps showing the addresses it had.
        Sandbox::Absent { .. } | Sandbox::Starting | Sandbox::Removing => {
            let had = previous.filter(|_| state.ending.is_some()).and_then(|p| p.pod_ips.as_ref());
            had.into_iter().flatten().map(|ip| ip.ip.clone()).collect()
        }
    };
    let verdict = state.verdict.as_ref().filter(|_| terminal(phase));
    let statuses = |roles: &[Role]| -> Option<Vec<ContainerStatus>> {
        let list: Vec<_> =
            shown(state).filter(|c| roles.contains(&c.role)).map(|c| container_status(state, c)).collect();
        (!list.is_empty()).then_some(list)
    };
    let some = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
    // A pod that never entered shows no containers, as upstream has it.
    let entered = state.ending.as_ref().is_none_or(|e| e.why != EndReason::Rejected);
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: verdict.and_then(|v| some(&v.reason)),
        message: verdict.and_then(|v| some(&v.message)),
        start_time: Some(Time(whole_seconds(state.start_time))),
        host_ip: state.host_ips.first().cloned(),
        host_ips: Some(state.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        observed_generation: state.pod.metadata.generation,
        conditions: Some(conditions(state, phase, previous, now)),
        container_statuses: statuses(&[Role::App]).filter(|_| entered),
        init_container_statuses: statuses(&[Role::Init, Role::Sidecar]).filter(|_| entered),
        ephemeral_container_statuses: statuses(&[Role::Ephemeral]).filter(|_| entered),
        ..PodStatus::default()
    }
}

/// The containers as users see them.
fn shown(state: &State) -> impl Iterator<Item = &Container> {
    state.containers.iter().map(Container::shown)
}

pub fn terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// `metav1.Time` has no fractions.
fn whole_seconds(at: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Phase rules; a terminal phase only once nothing runs any more.
pub fn phase(state: &State) -> &'static str {
    if let Some(phase) = state.verdict.as_ref().and_then(|v| v.phase)
        && state.ending.is_some()
        && state.stopped()
    {
        return phase;
    }
    let apps = || shown(state).filter(|c| c.role == Role::App);
    let never_ran = |c: &Container| {
        matches!(c.stage, Stage::Waiting(_) | Stage::Pulling | Stage::Pulled | Stage::Starting) && c.last.is_none()
    };
    if !state.initialized || apps().any(never_ran) || apps().next().is_none() { "Pending" } else { "Running" }
}

fn container_status(state: &State, c: &Container) -> ContainerStatus {
    let current = match &c.stage {
        Stage::Running(r) => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(whole_seconds(r.started_at))) }),
            ..ContainerState::default()
        },
        Stage::Exited(e) => terminated(e),
        Stage::Waiting(w) => match w.why.reason() {
            Some(reason) => waiting(reason, &w.message),
            None => waiting(turn(state), ""),
        },
        Stage::Pulling | Stage::Pulled | Stage::Starting => waiting(turn(state), ""),
    };
    let id = match &c.stage {
        Stage::Running(r) => Some(r.id.clone()),
        Stage::Exited(e) => e.id.clone(),
        Stage::Waiting(_) | Stage::Pulling | Stage::Pulled | Stage::Starting => {
            c.last.as_ref().and_then(|e| e.id.clone())
        }
    };
    let image = match &c.stage {
        Stage::Running(r) => Some(&r.image),
        Stage::Exited(e) => e.image.as_ref(),
        Stage::Waiting(_) | Stage::Pulling | Stage::Pulled | Stage::Starting => {
            c.last.as_ref().and_then(|e| e.image.as_ref())
        }
    };
    let ready = match c.role {
        Role::Init => c.exited().is_some_and(|e| e.code == 0),
        Role::Sidecar | Role::App => c.ready(),
        Role::Ephemeral => false,
    };
    let resources = c.spec.resources.as_ref().filter(|_| c.running().is_some() && c.role != Role::Ephemeral);
    let mounts = c.spec.volume_mounts.iter().flatten().map(|m| VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only.filter(|r| *r),
        recursive_read_only: m.read_only.filter(|r| *r).map(|_| {
            if matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")) {
                "Enabled"
            } else {
                "Disabled"
            }
            .to_owned()
        }),
        volume_status: None,
    });
    let mounts: Vec<_> = mounts.collect();
    ContainerStatus {
        name: c.spec.name.clone(),
        state: Some(current),
        last_state: Some(c.last.as_ref().map(terminated).unwrap_or_default()),
        ready,
        restart_count: i32::try_from(shown_restarts(c)).unwrap_or(i32::MAX),
        image: image.map_or_else(|| c.spec.image.clone().unwrap_or_default(), |i| i.name.clone()),
        image_id: image.map(|i| i.id.clone()).unwrap_or_default(),
        container_id: id.map(|id| format!("{RUNTIME_NAME}://{id}")),
        started: Some(c.started()),
        allocated_resources: resources.and_then(|r| r.requests.clone()),
        resources: resources.map(|r| ResourceRequirements { claims: None, ..r.clone() }),
        volume_mounts: (!mounts.is_empty()).then_some(mounts),
        ..ContainerStatus::default()
    }
}

/// Restarts that have taken place: one that is only awaited (in its back-off, say) does not count yet.
fn shown_restarts(c: &Container) -> u32 {
    match c.stage {
        Stage::Running(_) | Stage::Exited(_) => c.restarts,
        Stage::Waiting(_) | Stage::Pulling | Stage::Pulled | Stage::Starting => {
            c.restarts.saturating_sub(u32::from(c.last.is_some()))
        }
    }
}

fn turn(state: &State) -> &'static str {
    if state.containers.iter().any(|c| matches!(c.role, Role::Init | Role::Sidecar)) {
        "PodInitializing"
    } else {
        "ContainerCreating"
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()).filter(|m| !m.is_empty()),
        }),
        ..ContainerState::default()
    }
}

fn terminated(e: &Exit) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: e.id.as_ref().map(|id| format!("{RUNTIME_NAME}://{id}")),
            exit_code: e.code,
            signal: e.signal,
            reason: Some(e.reason.to_owned()),
            message: Some(e.message.clone()).filter(|m| !m.is_empty()),
            started_at: e.started_at.map(|t| Time(whole_seconds(t))),
            finished_at: e.finished_at.map(|t| Time(whole_seconds(t))),
        }),
        ..ContainerState::default()
    }
}

/// A condition before its time is known: type, status, reason, message.
type Draft = (&'static str, bool, Option<&'static str>, Option<String>);

fn conditions(state: &State, phase: &str, previous: Option<&PodStatus>, now: Now) -> Vec<PodCondition> {
    let network = matches!(state.sandbox, Sandbox::Up(_)) && !terminal(phase);
    let containers = containers_ready(state, phase);
    let ready = match containers {
        (_, true, ..) => gates(state),
        (_, false, reason, message) => ("Ready", false, reason, message),
    };
    let mut drafts: Vec<Draft> = vec![
        ("PodReadyToStartContainers", network, None, None),
        initialized(state, phase),
        ready,
        containers_ready(state, phase),
        ("PodScheduled", true, None, None),
    ];
    if state.ending.as_ref().is_some_and(|e| e.why == EndReason::Evicted) {
        let message = state.verdict.as_ref().map(|v| v.message.clone());
        drafts.push(("DisruptionTarget", true, Some("TerminationByKubelet"), message));
    }
    let known = previous.or(state.pod.status.as_ref()).and_then(|s| s.conditions.as_ref());
    let generation = state.pod.metadata.generation;
    drafts
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let status = if status { "True" } else { "False" };
            let before = known.into_iter().flatten().find(|c| c.type_ == kind && c.status == status);
            let since = before.and_then(|c| c.last_transition_time.clone());
            PodCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: reason.map(str::to_owned),
                message,
                last_transition_time: Some(since.unwrap_or_else(|| Time(whole_seconds(now.wall)))),
                last_probe_time: None,
                observed_generation: generation,
            }
        })
        .collect()
}

fn initialized(state: &State, phase: &str) -> Draft {
    if phase == "Succeeded" {
        return ("Initialized", true, Some("PodCompleted"), None);
    }
    let incomplete: Vec<&str> = shown(state)
        .filter(|c| match c.role {
            Role::Init => c.exited().is_none_or(|e| e.code != 0),
            Role::Sidecar => !c.started(),
            Role::App | Role::Ephemeral => false,
        })
        .map(|c| c.spec.name.as_str())
        .collect();
    if state.initialized || incomplete.is_empty() {
        return ("Initialized", true, None, None);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    ("Initialized", false, Some("ContainersNotInitialized"), Some(message))
}

fn containers_ready(state: &State, phase: &str) -> Draft {
    const KIND: &str = "ContainersReady";
    match phase {
        "Succeeded" => return (KIND, false, Some("PodCompleted"), None),
        "Failed" => return (KIND, false, Some("PodFailed"), None),
        _ => {}
    }
    let unready: Vec<&str> = shown(state)
        .filter(|c| matches!(c.role, Role::Sidecar | Role::App) && !c.ready())
        .map(|c| c.spec.name.as_str())
        .collect();
    if unready.is_empty() {
        return (KIND, true, None, None);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    (KIND, false, Some("ContainersNotReady"), Some(message))
}

fn gates(state: &State) -> Draft {
    let conditions = state.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut unready = Vec::new();
    for gate in pod::spec(&state.pod).readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match conditions.into_iter().flatten().find(|c| c.type_ == *kind) {
            None => unready.push(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            Some(c) if c.status != "True" => {
                unready.push(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {}", c.status));
            }
            Some(_) => {}
        }
    }
    if unready.is_empty() {
        ("Ready", true, None, None)
    } else {
        ("Ready", false, Some("ReadinessGatesNotReady"), Some(unready.join(", ")))
    }
}
