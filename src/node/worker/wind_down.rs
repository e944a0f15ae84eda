//! The second half of [`super::step`] for a pod that ends, and how a single container is killed.
//!
//! Order: app, init and ephemeral containers at once (preStop hook, stop signal, after the grace SIGKILL), then sidecars in
//! reverse order within what is left of the grace; then the verdict; then everything of the pod off this host; then the
//! object. Source: `pkg/kubelet/kuberuntime/kuberuntime_container.go` (killContainer), `_termination_order.go`.

use std::time::Duration;

use super::absorb::event;
use super::drive::probe;
use super::input::{Action, EventKind, Signal};
use super::state::{
    Cleanup, Container, EndReason, Ending, Kill, KillStage, Now, Sandbox, Stage, State, Verdict, Volumes,
};
use crate::pod::{self, Role};

/// What a container always gets between its stop signal and SIGKILL. Source: `minimumGracePeriodInSeconds`.
const GRACE_LEAST: Duration = Duration::from_secs(2);

/// The pod is to end within `grace`. A later, shorter demand shortens what is under way; the first verdict stands.
pub(super) fn begin_end(state: &mut State, why: EndReason, grace: Duration, verdict: Option<Verdict>, now: Now) {
    let deadline = now.mono + grace;
    match &mut state.ending {
        None => state.ending = Some(Ending { why, deadline }),
        Some(ending) => ending.deadline = ending.deadline.min(deadline),
    }
    if state.verdict.is_none() {
        state.verdict = verdict;
    }
}

/// Puts a running container on its way out; `why` is the event's text (empty for the ordinary one).
pub(super) fn begin_kill(c: &mut Container, grace: Duration, why: String, now: Now, out: &mut Vec<Action>) {
    let name = c.spec.name.clone();
    let hook = c.spec.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
    let Stage::Running(r) = &mut c.stage else { return };
    let text = if why.is_empty() { format!("Stopping container {name}") } else { why.clone() };
    event(out, EventKind::Normal, "Killing", text, Some(&name));
    let until = now.mono + grace;
    match hook {
        Some(hook) if !grace.is_zero() => {
            out.push(Action::PreStop { container: name, id: r.id.clone(), hook: Box::new(hook), within: grace });
            r.kill = Some(Kill { stage: KillStage::PreStop { until }, message: why });
        }
        Some(_) | None => {
            r.kill = Some(Kill { stage: KillStage::PreStop { until }, message: why });
            signal_now(c, until, now, out);
        }
    }
}

/// The hook is over (or there is none): the stop signal, and SIGKILL at `until` but not before the least grace.
pub(super) fn signal_now(c: &mut Container, until: Duration, now: Now, out: &mut Vec<Action>) {
    let own = c.spec.lifecycle.as_ref().and_then(|l| l.stop_signal.clone());
    let Stage::Running(r) = &mut c.stage else { return };
    let signal = own.or_else(|| r.image.stop_signal.clone()).unwrap_or_else(|| "SIGTERM".into());
    out.push(Action::Signal { id: r.id.clone(), signal: Signal::Stop(signal) });
    if let Some(kill) = &mut r.kill {
        kill.stage = KillStage::Signalled { until: until.max(now.mono + GRACE_LEAST) };
    }
}

/// Moves kills on whose time has come.
pub(super) fn tick_kills(state: &mut State, now: Now, out: &mut Vec<Action>) {
    for c in &mut state.containers {
        let Stage::Running(r) = &mut c.stage else { continue };
        match r.kill.as_mut().map(|k| &mut k.stage) {
            Some(KillStage::PreStop { until }) if *until <= now.mono => {
                let until = *until;
                signal_now(c, until, now, out);
            }
            Some(stage @ KillStage::Signalled { .. }) => {
                if matches!(stage, KillStage::Signalled { until } if *until <= now.mono) {
                    *stage = KillStage::Killed;
                    out.push(Action::Signal { id: r.id.clone(), signal: Signal::Kill });
                }
            }
            Some(KillStage::PreStop { .. } | KillStage::Killed) | None => {}
        }
    }
}

pub(super) fn wind_down(state: &mut State, now: Now, out: &mut Vec<Action>) {
    let Some(ending) = state.ending.clone() else { return };
    let grace = ending.deadline.saturating_sub(now.mono);
    for c in &mut state.containers {
        // Kills that were under way keep the shorter of their own and the pod's time.
        if let Stage::Running(r) = &mut c.stage
            && let Some(kill) = &mut r.kill
        {
            match &mut kill.stage {
                KillStage::PreStop { until } => *until = (*until).min(ending.deadline),
                KillStage::Signalled { until } => *until = (*until).min(ending.deadline.max(now.mono + GRACE_LEAST)),
                KillStage::Killed => {}
            }
        }
        match c.stage {
            // Never to be started now; a pull's or a volume's late answer finds nobody waiting.
            Stage::Pulling | Stage::Pulled => c.stage = Stage::Waiting(Default::default()),
            Stage::Running(_) if c.role != Role::Sidecar && c.running().is_some_and(|r| r.kill.is_none()) => {
                begin_kill(c, grace, String::new(), now, out);
            }
            Stage::Running(_) | Stage::Waiting(_) | Stage::Starting | Stage::Exited(_) => {}
        }
    }
    let others_up = state
        .containers
        .iter()
        .any(|c| c.role != Role::Sidecar && matches!(c.stage, Stage::Running(_) | Stage::Starting));
    if !others_up {
        // The last of the sidecars that is up; the one before it follows when it has stopped.
        let last = state
            .containers
            .iter_mut()
            .rev()
            .find(|c| c.role == Role::Sidecar && matches!(c.stage, Stage::Running(_) | Stage::Starting));
        if let Some(c) = last
            && c.running().is_some_and(|r| r.kill.is_none())
        {
            begin_kill(c, grace, String::new(), now, out);
        }
    }
    tick_kills(state, now, out);
    probe(state, now, out);
    if state.stopped() {
        decide_verdict(state);
        if settled(state) {
            clean_up(state, now, out);
        }
    }
}

/// Nothing is being made any more that a clean-up would miss. Its answer always comes.
fn settled(state: &State) -> bool {
    let sandbox = match state.sandbox {
        Sandbox::Absent { .. } | Sandbox::Up(_) => true,
        Sandbox::Starting | Sandbox::Removing => false,
    };
    let volumes = match state.volumes {
        Volumes::Absent { .. } | Volumes::Ready { .. } => true,
        Volumes::Preparing | Volumes::Refreshing => false,
    };
    sandbox && volumes
}

/// The terminal phase by exit codes, where nothing else has fixed it.
fn decide_verdict(state: &mut State) {
    let verdict = state.verdict.get_or_insert_default();
    if verdict.phase.is_some() {
        return;
    }
    let failed = |c: &Container| match (&c.stage, &c.last) {
        (Stage::Exited(e), _) | (_, Some(e)) => e.code != 0,
        (_, None) => true,
    };
    let app_failed = state.containers.iter().any(|c| c.role == Role::App && failed(c));
    let init_failed = state.containers.iter().any(|c| c.role == Role::Init && c.exited().is_some_and(|e| e.code != 0));
    verdict.phase = Some(if app_failed || init_failed { "Failed" } else { "Succeeded" });
}

fn clean_up(state: &mut State, now: Now, out: &mut Vec<Action>) {
    let leaving = state.gone || pod::deleting(&state.pod);
    match state.cleanup {
        // A daemon that dies between the end and the report must find the exit codes again, so the report comes first.
        Cleanup::Needed { retry_at } if leaving || state.verdict_reported => {
            if retry_at.is_none_or(|at| at <= now.mono) {
                state.cleanup = Cleanup::Running { logs: leaving };
                out.push(Action::CleanUp { logs: leaving });
            }
        }
        Cleanup::Needed { .. } | Cleanup::Running { .. } => {}
        Cleanup::Done { .. } if state.gone => out.push(Action::Exit),
        Cleanup::Done { .. } if leaving && !state.delete_sent => {
            state.delete_sent = true;
            out.push(Action::DeleteObject);
        }
        Cleanup::Done { .. } => {}
    }
}
