//! What facts make of one container: its image is there or not, it started, failed to, ended, was probed.

use std::time::Duration;

use jiff::Timestamp;

use super::{event, index_of, pod_grace};
use crate::pod::{self, Role};
use crate::worker::backoff;
use crate::worker::input::{Action, EventKind, ExitFacts, LOST, Outcome, PullFacts, StartFailure};
use crate::worker::probes::{self, Probes};
use crate::worker::restart;
use crate::worker::state::{Exit, Hook, ImageRef, Now, Replaced, Running, Stage, State, Waiting, Why};
use crate::worker::wind_down::begin_kill;

/// How long a failed pull shows its error before it shows the back-off: long enough for a watcher to see both.
const IMAGE_ERROR_SHOWN: Duration = Duration::from_secs(2);

/// How long a container that ended for another image is still shown as it was: the kubelet looks at the runtime once a second
/// and has put the new one in its place by then. Source: `pkg/kubelet/kubelet.go` (genericPlegRelistPeriod).
const REPLACED_SHOWN: Duration = Duration::from_secs(1);

/// Exit code of a container whose executable could not be run. Source: containerd, CRI-O (`StartError`).
const START_ERROR_CODE: i32 = 128;

pub(super) fn pulled_text(image: &str, pulled: &Option<PullFacts>) -> String {
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

pub(super) fn pull_failed(state: &mut State, name: &str, why: Why, message: String, now: Now, out: &mut Vec<Action>) {
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

pub(super) fn started(state: &mut State, name: &str, id: String, at: Timestamp, now: Now, out: &mut Vec<Action>) {
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
    let image = c.image.clone().unwrap_or_else(|| ImageRef {
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

pub(super) fn start_failed(
    state: &mut State,
    name: &str,
    id: String,
    failure: StartFailure,
    now: Now,
    out: &mut Vec<Action>,
) {
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

pub(super) fn exited(state: &mut State, id: &str, facts: ExitFacts, now: Now, out: &mut Vec<Action>) {
    let Some(index) = index_of(state, id) else { return };
    let c = &mut state.containers[index];
    let Stage::Running(running) = &c.stage else { return };
    let replaced = (c.spec.image.as_deref() != Some(running.spec_image.as_str()))
        .then(|| Replaced { before: Box::new(c.clone()), until: now.mono + REPLACED_SHOWN });
    let reason = match (facts.oom_killed, facts.lost, facts.code) {
        (true, _, _) => "OOMKilled",
        (false, true, _) => "ContainerStatusUnknown",
        (false, false, 0) => "Completed",
        (false, false, _) => "Error",
    };
    let message = if facts.lost && facts.message.is_empty() { LOST.to_owned() } else { facts.message };
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
    state.containers[index].replaced = replaced;
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

pub(super) fn post_start_done(
    state: &mut State,
    id: &str,
    result: Result<(), String>,
    now: Now,
    out: &mut Vec<Action>,
) {
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

pub(super) fn probed(
    state: &mut State,
    id: &str,
    kind: probes::ProbeKind,
    outcome: &Outcome,
    now: Now,
    out: &mut Vec<Action>,
) {
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
