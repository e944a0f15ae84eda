//! The first half of [`super::step`]: takes facts into the state. It begins kills and ends where a fact demands one, and says
//! with events what happened; it starts nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::backoff::{self, Backoff};
use super::input::{Action, EventKind, ExitFacts, Input, Outcome, PullFacts, StartFailure};
use super::probes::{self, Probes};
use super::restart;
use super::state::{
    Cleanup, Container, EndReason, Exit, Hook, KillStage, Now, Running, Sandbox, Stage, State, Verdict, Volumes,
    Waiting, Why,
};
use super::wind_down::{begin_end, begin_kill, signal_now};
use crate::pod::{self, Role};

/// How long a failed pull shows its error before it shows the back-off: long enough for a watcher to see both.
const IMAGE_ERROR_SHOWN: Duration = Duration::from_secs(2);

/// Exit code of a container whose executable could not be run. Source: containerd, CRI-O (`StartError`).
const START_ERROR_CODE: i32 = 128;

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
            event(out, EventKind::Warning, "FailedMount", message, None);
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
    let lost = |started_at: Timestamp| ExitFacts {
        code: 137,
        signal: None,
        oom_killed: false,
        lost: true,
        started_at,
        finished_at: now.wall,
        message: String::new(),
    };
    for index in 0..state.containers.len() {
        let c = &mut state.containers[index];
        match &c.stage {
            Stage::Running(r) => {
                let (id, at) = (r.id.clone(), r.started_at);
                exited(state, &id, lost(at), now, out);
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

fn pulled_text(image: &str, pulled: &Option<PullFacts>) -> String {
    match pulled {
        None => format!("Container image \"{image}\" already present on machine and can be accessed by the pod"),
        Some(p) => format!(
            "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
            millis(p.took),
            millis(p.took + p.waited),
            p.size_bytes
        ),
    }
}

/// Milliseconds as Go shows them: `3ms`, `1.234s`, `1m2.5s`.
fn millis(d: Duration) -> String {
    let ms = d.as_millis();
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let seconds = format!("{}.{:03}", ms / 1000 % 60, ms % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    if ms < 60_000 { format!("{seconds}s") } else { format!("{}m{seconds}s", ms / 60_000) }
}

fn pull_failed(state: &mut State, name: &str, why: Why, message: String, now: Now, out: &mut Vec<Action>) {
    let Some(c) = state.container_mut(name) else { return };
    if !matches!(c.stage, Stage::Pulling) {
        return;
    }
    let image = c.spec.image.clone().unwrap_or_default();
    let (reason, text) = match why {
        Why::ErrImageNeverPull => {
            ("ErrImageNeverPull", format!("Container image \"{image}\" is not present with pull policy of Never"))
        }
        Why::InvalidImageName => ("InspectFailed", format!("Failed to apply default image tag \"{image}\": {message}")),
        Why::ImageInspectError => ("InspectFailed", format!("Failed to inspect image \"{image}\": {message}")),
        Why::Turn
        | Why::CrashLoopBackOff
        | Why::ErrImagePull
        | Why::ImagePullBackOff
        | Why::CreateContainerConfigError
        | Why::CreateContainerError
        | Why::RunContainerError
        | Why::PostStartHookError => ("Failed", format!("Failed to pull image \"{image}\": {message}")),
    };
    let shown = if why == Why::ErrImagePull { message } else { text.clone() };
    event(out, EventKind::Warning, reason, text, Some(name));
    event(out, EventKind::Warning, "Failed", format!("Error: {}", why.reason().unwrap_or_default()), Some(name));
    let until = c.pull.after_failure(backoff::CRASH, now.mono);
    let flip_at = (why == Why::ErrImagePull).then_some(now.mono + IMAGE_ERROR_SHOWN);
    c.stage = Stage::Waiting(Waiting { why, message: shown, until: Some(until), flip_at });
}

fn started(state: &mut State, name: &str, id: String, at: Timestamp, now: Now, out: &mut Vec<Action>) {
    let Some(c) = state.container_mut(name) else { return };
    if !matches!(c.stage, Stage::Starting) {
        return;
    }
    event(out, EventKind::Normal, "Created", "Container created".into(), Some(name));
    event(out, EventKind::Normal, "Started", "Container started".into(), Some(name));
    c.create.reset();
    let hook = c.spec.lifecycle.as_ref().and_then(|l| l.post_start.clone()).filter(|_| c.role != Role::Ephemeral);
    if let Some(hook) = &hook {
        out.push(Action::PostStart { container: name.to_owned(), id: id.clone(), hook: Box::new(hook.clone()) });
    }
    let image = c.image.clone().unwrap_or_else(|| super::state::ImageRef {
        name: c.spec.image.clone().unwrap_or_default(),
        id: String::new(),
        stop_signal: None,
    });
    c.stage = Stage::Running(Box::new(Running {
        id,
        started_at: at,
        started_mono: now.mono,
        image,
        spec_image: c.spec.image.clone().unwrap_or_default(),
        post_start: if hook.is_some() { Hook::Running } else { Hook::None },
        probes: Probes::new(&c.spec, now.mono, now.mono),
        kill: None,
    }));
}

fn start_failed(state: &mut State, name: &str, id: String, failure: StartFailure, now: Now, out: &mut Vec<Action>) {
    let ending = state.ending.is_some();
    let Some(index) = state.containers.iter().position(|c| c.spec.name == name) else { return };
    let c = &mut state.containers[index];
    if !matches!(c.stage, Stage::Starting) {
        return;
    }
    let (why, message) = match failure {
        StartFailure::Config(message) => (Why::CreateContainerConfigError, message),
        StartFailure::Create(message) => (Why::CreateContainerError, message),
        StartFailure::Run(message) => {
            event(out, EventKind::Normal, "Created", "Container created".into(), Some(name));
            event(out, EventKind::Warning, "Failed", format!("Error: {message}"), Some(name));
            let exit = Exit {
                id: Some(id),
                image: c.image.clone(),
                code: START_ERROR_CODE,
                signal: None,
                reason: "StartError",
                message,
                started_at: None,
                finished_at: Some(now.wall),
            };
            settle(state, index, exit, now, out);
            return;
        }
    };
    event(out, EventKind::Warning, "Failed", format!("Error: {message}"), Some(name));
    let until = (!ending).then(|| c.create.after_failure(backoff::CREATE, now.mono));
    c.stage = Stage::Waiting(Waiting { why, message, until, flip_at: None });
}

fn exited(state: &mut State, id: &str, facts: ExitFacts, now: Now, out: &mut Vec<Action>) {
    let Some(index) = index_of(state, id) else { return };
    let c = &mut state.containers[index];
    let Stage::Running(running) = &c.stage else { return };
    let reason = match (facts.oom_killed, facts.lost, facts.code) {
        (true, _, _) => "OOMKilled",
        (false, true, _) => "ContainerStatusUnknown",
        (false, false, 0) => "Completed",
        (false, false, _) => "Error",
    };
    let message = if facts.lost && facts.message.is_empty() {
        "The container could not be located when the pod was terminated".to_owned()
    } else {
        facts.message
    };
    let exit = Exit {
        id: Some(id.to_owned()),
        image: Some(running.image.clone()),
        code: facts.code,
        signal: facts.signal,
        reason,
        message,
        started_at: Some(facts.started_at),
        finished_at: Some(facts.finished_at),
    };
    settle(state, index, exit, now, out);
}

/// An instance is over: it is started again after its back-off, or that was its end.
fn settle(state: &mut State, index: usize, exit: Exit, now: Now, out: &mut Vec<Action>) {
    let restart = state.ending.is_none() && restart::wanted(&state.pod, &state.containers[index], exit.code);
    let formatted = pod::formatted(&state.pod);
    let c = &mut state.containers[index];
    // One dead instance is kept, for `lastState` and the previous log; the one before it goes.
    if exit.id.is_some()
        && let Some(old) = std::mem::replace(&mut c.dead_id, exit.id.clone())
        && c.dead_id.as_deref() != Some(old.as_str())
    {
        out.push(Action::Forget { id: old });
    }
    if !restart {
        if let Stage::Exited(e) = std::mem::replace(&mut c.stage, Stage::Exited(exit)) {
            c.last = Some(e);
        }
        return;
    }
    let name = c.spec.name.clone();
    let start_error = exit.reason == "StartError";
    let why_failed = exit.message.clone();
    c.last = Some(exit);
    c.restarts = c.restarts.saturating_add(1);
    let until = c.crash.after_crash(backoff::CRASH, now.mono);
    let waiting = match until {
        None => Waiting {
            why: if start_error { Why::RunContainerError } else { Why::Turn },
            message: why_failed,
            ..Waiting::default()
        },
        Some(until) => {
            event(
                out,
                EventKind::Warning,
                "BackOff",
                format!("Back-off restarting failed container {name} in pod {formatted}"),
                Some(&name),
            );
            let message = format!(
                "back-off {} restarting failed container={name} pod={formatted}",
                backoff::shown(c.crash.delay())
            );
            Waiting { why: Why::CrashLoopBackOff, message, until: Some(until), flip_at: None }
        }
    };
    c.stage = Stage::Waiting(waiting);
}

fn post_start_done(state: &mut State, id: &str, result: Result<(), String>, now: Now, out: &mut Vec<Action>) {
    let Some(index) = index_of(state, id) else { return };
    let grace = pod_grace(&state.pod);
    let c = &mut state.containers[index];
    let name = c.spec.name.clone();
    let Stage::Running(r) = &mut c.stage else { return };
    r.post_start = Hook::Done;
    if let Err(why) = result {
        tracing::debug!(container = %name, why, "postStart hook failed");
        event(out, EventKind::Warning, "FailedPostStartHook", "PostStartHook failed".into(), Some(&name));
        if r.kill.is_none() {
            begin_kill(c, grace, "FailedPostStartHook".into(), now, out);
        }
    }
}

fn probed(state: &mut State, id: &str, kind: probes::ProbeKind, outcome: &Outcome, now: Now, out: &mut Vec<Action>) {
    let Some(index) = index_of(state, id) else { return };
    let grace = pod_grace(&state.pod);
    let ending = state.ending.is_some();
    let c = &mut state.containers[index];
    let name = c.spec.name.clone();
    match outcome {
        Outcome::Success => {}
        Outcome::Warning(text) => {
            event(
                out,
                EventKind::Warning,
                "ProbeWarning",
                format!("{} probe warning: {text}", kind.shown()),
                Some(&name),
            );
        }
        Outcome::Failure(text) => {
            event(out, EventKind::Warning, "Unhealthy", format!("{} probe failed: {text}", kind.shown()), Some(&name));
        }
        Outcome::Error(text) => event(
            out,
            EventKind::Warning,
            "Unhealthy",
            format!("{} probe errored and resulted in unknown state: {text}", kind.shown()),
            Some(&name),
        ),
    }
    let own_grace = kind.of(&c.spec).and_then(|p| p.termination_grace_period_seconds);
    let Stage::Running(r) = &mut c.stage else { return };
    if r.probes.absorb(kind, outcome, now.mono) == probes::Verdict::Kill && r.kill.is_none() && !ending {
        let grace = own_grace.map_or(grace, |s| Duration::from_secs(s.max(0) as u64));
        let message = format!("Container {name} failed {} probe, will be restarted", kind.lower());
        begin_kill(c, grace, message, now, out);
    }
}

/// A container that runs again after having been through a crash counts its back-off from the start of this attempt.
pub(super) fn raise(crash: &mut Backoff, now: Now) {
    crash.raise(backoff::CRASH, now.mono);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_pull_events() {
        for (ms, text) in [(3, "3ms"), (1234, "1.234s"), (2000, "2s"), (62_500, "1m2.5s")] {
            assert_eq!(millis(Duration::from_millis(ms)), text);
        }
    }
}
