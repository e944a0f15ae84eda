//! The second half of [`super::step`] for a pod that is to run: brings what is wanted and not there a step closer.

use std::time::Duration;

use super::absorb::{event, pod_grace, raise};
use super::backoff;
use super::input::{Action, EventKind};
use super::state::{EndReason, Now, Sandbox, Stage, State, Verdict, Volumes, Why};
use super::step::active_deadline;
use super::wind_down::{begin_end, tick_kills};
use crate::pod::{self, Role};

/// Whether the pod's time or work is over.
pub(super) fn decide_end(state: &mut State, now: Now) {
    if active_deadline(state).is_some_and(|at| at <= now.mono) {
        let verdict = Verdict {
            phase: Some("Failed"),
            reason: "DeadlineExceeded".into(),
            message: "Pod was active on the node longer than the specified deadline".into(),
        };
        begin_end(state, EndReason::DeadlineExceeded, pod_grace(&state.pod), Some(verdict), now);
        return;
    }
    let init_failed = state.containers.iter().any(|c| c.role == Role::Init && c.exited().is_some_and(|e| e.code != 0));
    let apps = || state.containers.iter().filter(|c| c.role == Role::App);
    let done = state.initialized && apps().next().is_some() && apps().all(|c| c.exited().is_some());
    if init_failed || done {
        begin_end(state, EndReason::Finished, pod_grace(&state.pod), None, now);
    }
}

pub(super) fn drive(state: &mut State, now: Now, out: &mut Vec<Action>) {
    match state.volumes {
        Volumes::Absent { retry_at } if due(retry_at, now) && claims_devices(state) => {
            let message = "Failed to prepare dynamic resources: no DRA driver is registered on this node".to_owned();
            event(out, EventKind::Warning, "FailedPrepareDynamicResources", message, None);
            let retry_at = state.volume_backoff.after_failure(backoff::VOLUME, now.mono);
            state.volumes = Volumes::Absent { retry_at: Some(retry_at) };
        }
        Volumes::Absent { retry_at } if due(retry_at, now) => {
            state.volumes = Volumes::Preparing;
            out.push(Action::PrepareVolumes);
        }
        Volumes::Ready { refresh_at: Some(at) } if at <= now.mono => {
            state.volumes = Volumes::Refreshing;
            out.push(Action::RefreshVolumes);
        }
        Volumes::Absent { .. } | Volumes::Ready { .. } | Volumes::Preparing | Volumes::Refreshing => {}
    }
    match state.sandbox {
        Sandbox::Absent { retry_at } if due(retry_at, now) && !claims_devices(state) => {
            state.sandbox = Sandbox::Starting;
            out.push(Action::StartSandbox { attempt: state.sandbox_attempt });
            state.sandbox_attempt += 1;
        }
        Sandbox::Absent { .. } | Sandbox::Starting | Sandbox::Up(_) | Sandbox::Removing => {}
    }
    tick_waits(state, now, out);
    for index in wanted(state) {
        bring_up(state, index, now, out);
    }
    tick_kills(state, now, out);
    probe(state, now, out);
}

/// Whether the pod needs what only the driver of a device can get ready. No driver is served yet: the pod waits, as it does
/// upstream for a driver that has not come, and is never run without its devices.
fn claims_devices(state: &State) -> bool {
    let extended = state.pod.status.as_ref().is_some_and(|s| s.extended_resource_claim_status.is_some());
    extended || pod::spec(&state.pod).resource_claims.as_ref().is_some_and(|claims| !claims.is_empty())
}

fn due(at: Option<Duration>, now: Now) -> bool {
    at.is_none_or(|at| at <= now.mono)
}

/// Ends the waits whose time has come, also of those whose turn it is not yet: a time in the past would wake the worker forever.
fn tick_waits(state: &mut State, now: Now, out: &mut Vec<Action>) {
    for c in &mut state.containers {
        let Stage::Waiting(w) = &mut c.stage else { continue };
        if due(w.until, now) {
            (w.until, w.flip_at) = (None, None);
        } else if w.flip_at.is_some_and(|at| at <= now.mono) {
            w.flip_at = None;
            let (name, image) = (&c.spec.name, c.spec.image.clone().unwrap_or_default());
            w.message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", w.message);
            w.why = Why::ImagePullBackOff;
            event(out, EventKind::Normal, "BackOff", format!("Back-off pulling image \"{image}\""), Some(name));
            event(out, EventKind::Warning, "Failed", "Error: ImagePullBackOff".into(), Some(name));
        }
    }
}

/// The containers that should run now, in start order. Marks the pod initialized when its init containers are through.
fn wanted(state: &mut State) -> Vec<usize> {
    let mut wanted = Vec::new();
    let inits = || state.containers.iter().enumerate().filter(|(_, c)| matches!(c.role, Role::Init | Role::Sidecar));
    if !state.initialized {
        let mut through = true;
        for (index, c) in inits() {
            match c.role {
                Role::Init if c.exited().is_some() => continue,
                // One that has run before comes back beside the others; the first time it is waited for.
                Role::Sidecar if c.started() => continue,
                Role::Sidecar if c.last.is_some() && c.running().is_none() => {
                    wanted.push(index);
                    continue;
                }
                Role::Init | Role::Sidecar | Role::App | Role::Ephemeral => {}
            }
            wanted.push(index);
            through = false;
            break;
        }
        state.initialized = through;
    }
    if state.initialized {
        for (index, c) in state.containers.iter().enumerate() {
            if matches!(c.role, Role::Sidecar | Role::App) && !wanted.contains(&index) {
                wanted.push(index);
            }
        }
    }
    let ephemeral = state.containers.iter().enumerate().filter(|(_, c)| c.role == Role::Ephemeral).map(|(i, _)| i);
    wanted.extend(ephemeral);
    wanted
}

fn bring_up(state: &mut State, index: usize, now: Now, out: &mut Vec<Action>) {
    // App containers start one after the other, each after the postStart hook of the one before: people rely on it.
    let earlier_in_progress = state.containers[index].role == Role::App
        && state.containers[..index].iter().any(|c| c.role == Role::App && c.in_progress());
    let ready =
        matches!(state.sandbox, Sandbox::Up(_)) && matches!(state.volumes, Volumes::Ready { .. } | Volumes::Refreshing);
    let uid = crate::pod::uid(&state.pod).to_owned();
    let c = &mut state.containers[index];
    let name = c.spec.name.clone();
    if let Stage::Waiting(w) = &c.stage {
        if w.until.is_some() {
            return;
        }
        c.stage = Stage::Pulling;
        out.push(Action::Pull { container: name.clone() });
    }
    if matches!(c.stage, Stage::Pulled)
        && ready
        && !earlier_in_progress
        && let Some(image) = c.image.clone()
    {
        c.stage = Stage::Starting;
        // The first start is no retry; its crash is forgiven at once.
        if c.restarts > 0 {
            raise(&mut c.crash, now);
        }
        let id = container_id(&uid, &name, c.restarts);
        out.push(Action::Start { container: name, id, restarts: c.restarts, image });
    }
}

/// The runtime's id of an instance: 64 hex digits like everybody's, and the same one each time it is worked out, so that an
/// attempt that a dying daemon made is recognised.
pub fn container_id(pod_uid: &str, container: &str, restarts: u32) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("{pod_uid}/{container}/{restarts}"));
    digest.iter().fold(String::with_capacity(64), |mut text, b| {
        for nibble in [b >> 4, b & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
        text
    })
}

/// Begins the probes that are due.
pub(super) fn probe(state: &mut State, now: Now, out: &mut Vec<Action>) {
    let ending = state.ending.is_some();
    for c in &mut state.containers {
        if let Stage::Running(r) = &mut c.stage {
            let dying = ending || r.kill.is_some();
            for kind in r.probes.due(now.mono, dying) {
                out.push(Action::Probe { container: c.spec.name.clone(), id: r.id.clone(), kind });
            }
        }
    }
}
