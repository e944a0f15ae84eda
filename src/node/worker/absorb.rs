//! The first half of [`super::step`]: takes facts into the state. It begins kills and ends where a fact demands one, and says
//! with events what happened; it starts nothing.

mod container;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::backoff::{self, Backoff};
use super::input::{Action, EventKind, ExitFacts, Input};
use super::state::{
    Cleanup, Container, EndReason, KillStage, Now, Sandbox, Stage, State, Verdict, Volumes, Waiting, Why,
};
use super::wind_down::{begin_end, begin_kill, signal_now};
use crate::pod::{self, Role};
use container::{exited, post_start_done, probed, pull_failed, pulled_text, start_failed, started};

pub(super) fn absorb(state: &mut State, input: Input, now: Now, out: &mut Vec<Action>) {
    match input {
        Input::Tick => {}
        Input::Pod(pod) => new_pod(state, pod, now, out),
        Input::Gone => {
            state.gone = true;
            begin_end(state, EndReason::Removed, Duration::ZERO, None, now);
            ask_cleanup_again(state);
        }
        Input::ObjectsChanged => {
            retry_configuration(state);
            refresh_volumes(state, now);
        }
        Input::Evict { message, grace } => {
            let verdict = Verdict { phase: Some("Failed"), reason: "Evicted".into(), message };
            begin_end(state, EndReason::Evicted, grace, Some(verdict), now);
        }
        Input::VolumesReady { refresh_at } => {
            let stale = std::mem::take(&mut state.volumes_stale);
            state.volumes = Volumes::Ready { refresh_at: if stale { Some(now.mono) } else { refresh_at } };
            state.volume_backoff.reset();
        }
        Input::VolumesFailed { message } => {
            // Devices have a reason of their own; who waits for others says nothing.
            let reason = if message.starts_with("MapVolume.") { "FailedMapVolume" } else { "FailedMount" };
            if !message.is_empty() {
                event(out, EventKind::Warning, reason, message, None);
            }
            let retry_at = state.volume_backoff.after_failure(backoff::VOLUME, now.mono);
            state.volumes = match state.volumes {
                // What is mounted stays as it is; only its renewal is late.
                Volumes::Refreshing | Volumes::Ready { .. } => Volumes::Ready { refresh_at: Some(retry_at) },
                Volumes::Absent { .. } | Volumes::Preparing => Volumes::Absent { retry_at: Some(retry_at) },
            };
        }
        Input::SandboxReady(up) => {
            state.sandbox = Sandbox::Up(up);
            state.sandbox_backoff.reset();
        }
        Input::SandboxFailed { message } => {
            event(
                out,
                EventKind::Warning,
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {message}"),
                None,
            );
            let retry_at = state.sandbox_backoff.after_failure(backoff::CREATE, now.mono);
            state.sandbox = Sandbox::Absent { retry_at: Some(retry_at) };
        }
        Input::SandboxDied => sandbox_died(state, now, out),
        Input::SandboxRemoved => {
            let retry_at = state.sandbox_backoff.after_failure(backoff::CREATE, now.mono);
            state.sandbox = Sandbox::Absent { retry_at: Some(retry_at) };
        }
        Input::Pulled { container, image, pulled } => {
            if let Some(c) = state.container_mut(&container)
                && matches!(c.stage, Stage::Pulling)
            {
                event(out, EventKind::Normal, "Pulled", pulled_text(&image.name, &pulled), Some(&container));
                c.image = Some(image);
                c.pull.reset();
                c.stage = Stage::Pulled;
            }
        }
        Input::PullFailed { container, why, message } => pull_failed(state, &container, why, message, now, out),
        Input::ImagesHere { containers } => {
            for name in containers {
                if let Some(c) = state.container_mut(&name).filter(|c| c.lacks_image()) {
                    c.pull.reset();
                    c.stage = Stage::Waiting(Waiting::default());
                }
            }
        }
        Input::Started { container, id, at } => started(state, &container, id, at, now, out),
        Input::StartFailed { container, id, failure } => start_failed(state, &container, id, failure, now, out),
        Input::Exited { id, exit } => exited(state, &id, exit, now, out),
        Input::PostStartDone { id, result } => post_start_done(state, &id, result, now, out),
        Input::PreStopDone { id, result } => {
            if let Some(index) = index_of(state, &id) {
                let c = &mut state.containers[index];
                let name = c.spec.name.clone();
                if let Stage::Running(r) = &mut c.stage
                    && let Some(kill) = &mut r.kill
                    && let KillStage::PreStop { until } = kill.stage
                {
                    if result.is_err() {
                        event(out, EventKind::Warning, "FailedPreStopHook", "PreStopHook failed".into(), Some(&name));
                    }
                    signal_now(c, until, now, out);
                }
            }
        }
        Input::Probed { id, kind, outcome } => probed(state, &id, kind, &outcome, now, out),
        Input::CleanedUp => {
            // The logs went with the rest exactly when the object was on its way out as the cleaning began.
            if let Cleanup::Running { logs } = state.cleanup {
                state.cleanup = Cleanup::Done { logs };
            }
            state.sandbox = Sandbox::Absent { retry_at: None };
            state.volumes = Volumes::Absent { retry_at: None };
            ask_cleanup_again(state);
        }
        Input::CleanupFailed { message } => {
            event(out, EventKind::Warning, "FailedKillPod", format!("error killing pod: {message}"), None);
            let retry_at = state.sandbox_backoff.after_failure(backoff::CREATE, now.mono);
            state.cleanup = Cleanup::Needed { retry_at: Some(retry_at) };
        }
        Input::VerdictReported => state.verdict_reported = true,
    }
}

pub(super) fn event(
    out: &mut Vec<Action>,
    kind: EventKind,
    reason: &'static str,
    message: String,
    container: Option<&str>,
) {
    out.push(Action::Event { kind, reason, message, container: container.map(str::to_owned) });
}

fn index_of(state: &State, id: &str) -> Option<usize> {
    state.containers.iter().position(|c| c.running().is_some_and(|r| r.id == id))
}

/// A finished pod keeps its logs until its object goes; then they are to be removed too.
fn ask_cleanup_again(state: &mut State) {
    if state.cleanup == (Cleanup::Done { logs: false }) && (state.gone || pod::deleting(&state.pod)) {
        state.cleanup = Cleanup::Needed { retry_at: None };
    }
}

/// What volumes show has changed: they are brought up to date, at once or after what is under way.
fn refresh_volumes(state: &mut State, now: Now) {
    match &mut state.volumes {
        Volumes::Ready { refresh_at } => *refresh_at = Some(now.mono),
        Volumes::Preparing | Volumes::Refreshing => state.volumes_stale = true,
        Volumes::Absent { .. } => {}
    }
}

/// Whatever waits for the user to correct something looks again.
fn retry_configuration(state: &mut State) {
    for c in &mut state.containers {
        if let Stage::Waiting(w) = &mut c.stage
            && matches!(w.why, Why::CreateContainerConfigError | Why::CreateContainerError)
        {
            w.until = None;
        }
    }
    if let Volumes::Absent { retry_at } = &mut state.volumes {
        *retry_at = None;
    }
}

fn new_pod(state: &mut State, pod: Arc<Pod>, now: Now, out: &mut Vec<Action>) {
    let metadata_changed =
        pod::labels(&pod) != pod::labels(&state.pod) || pod::annotations(&pod) != pod::annotations(&state.pod);
    let spec_changed = pod.spec != state.pod.spec;
    state.pod = pod;
    if metadata_changed || spec_changed {
        retry_configuration(state);
    }
    // downwardAPI files show labels and annotations.
    if metadata_changed {
        refresh_volumes(state, now);
    }
    if spec_changed {
        new_spec(state, now, out);
    }
    if pod::deleting(&state.pod) {
        let seconds = state.pod.metadata.deletion_grace_period_seconds.unwrap_or(0).max(0);
        begin_end(state, EndReason::Deleted, Duration::from_secs(seconds as u64), None, now);
        ask_cleanup_again(state);
    }
}

fn new_spec(state: &mut State, now: Now, out: &mut Vec<Action>) {
    for (role, spec) in pod::containers(&state.pod) {
        match state.containers.iter().position(|c| c.spec.name == spec.name) {
            None if role == Role::Ephemeral => state.containers.push(Container::new(role, Arc::new(spec))),
            // The API allows no other additions.
            None => {}
            Some(index) => {
                let c = &mut state.containers[index];
                let other_image = c.spec.image != spec.image;
                c.spec = Arc::new(spec);
                if !other_image || role == Role::Ephemeral {
                    continue;
                }
                c.pull.reset();
                match &c.stage {
                    Stage::Waiting(_) | Stage::Pulling | Stage::Pulled => c.stage = Stage::Waiting(Waiting::default()),
                    Stage::Running(r) if r.kill.is_none() => {
                        let message = format!("Container {} definition changed, will be restarted", c.spec.name);
                        let grace = pod_grace(&state.pod);
                        begin_kill(&mut state.containers[index], grace, message, now, out);
                    }
                    Stage::Running(_) | Stage::Starting | Stage::Exited(_) => {}
                }
            }
        }
    }
}

pub(super) fn pod_grace(pod: &Pod) -> Duration {
    Duration::from_secs(pod::spec(pod).termination_grace_period_seconds.unwrap_or(30).max(0) as u64)
}

fn sandbox_died(state: &mut State, now: Now, out: &mut Vec<Action>) {
    for index in 0..state.containers.len() {
        let c = &mut state.containers[index];
        match &c.stage {
            Stage::Running(r) => {
                let (id, at) = (r.id.clone(), r.started_at);
                exited(state, &id, ExitFacts::lost(at, now.wall), now, out);
            }
            Stage::Starting => c.stage = Stage::Waiting(Waiting::default()),
            Stage::Waiting(_) | Stage::Pulling | Stage::Pulled | Stage::Exited(_) => {}
        }
    }
    if state.ending.is_some() || matches!(state.sandbox, Sandbox::Absent { .. } | Sandbox::Removing) {
        return;
    }
    // Where nothing is to run again no new sandbox is made; the pod's end removes the old one.
    if state.initialized && state.containers.iter().all(|c| c.role != Role::App || c.exited().is_some()) {
        return;
    }
    state.initialized = false;
    for c in state.containers.iter_mut().filter(|c| c.role == Role::Init) {
        // All init containers run again in the new sandbox.
        if let Stage::Exited(e) = &c.stage
            && e.code == 0
        {
            c.last = Some(e.clone());
            c.restarts += 1;
            c.stage = Stage::Waiting(Waiting::default());
        }
    }
    event(
        out,
        EventKind::Normal,
        "SandboxChanged",
        "Pod sandbox changed, it will be killed and re-created.".into(),
        None,
    );
    state.sandbox = Sandbox::Removing;
    // Mounts of a dead pod may be half gone; setting them up again changes nothing that is right.
    state.volumes = Volumes::Absent { retry_at: None };
    out.push(Action::RemoveSandbox);
}

/// A container that runs again after having been through a crash counts its back-off from the start of this attempt.
pub(super) fn raise(crash: &mut Backoff, now: Now) {
    crash.raise(backoff::CRASH, now.mono);
}
