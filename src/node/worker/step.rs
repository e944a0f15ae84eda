//! The pod worker's state machine: `step(state, input, now) -> (state, actions)`. Pure: no clock, no I/O, no await.
//!
//! ```text
//! input ──► absorb (facts into state) ──► drive (not ending) ─or─ wind down (ending) ──► actions
//! ```
//!
//! `absorb` never decides what comes next and the other two never look at the input, so that a fact that came twice, late or
//! after a restart of the daemon leads to the same place. Source: `pkg/kubelet/pod_workers.go`,
//! `kuberuntime/kuberuntime_manager.go` (computePodActions, SyncPod).

use std::time::Duration;

use super::input::{Action, Input};
use super::state::{Cleanup, KillStage, Now, Sandbox, Stage, State, Volumes};
use super::{absorb, drive, wind_down};
use crate::pod;

/// Takes one fact in and says everything that is to be done because of it.
pub fn step(mut state: State, input: Input, now: Now) -> (State, Vec<Action>) {
    let mut actions = Vec::new();
    absorb::absorb(&mut state, input, now, &mut actions);
    if state.ending.is_none() {
        drive::decide_end(&mut state, now);
    }
    if state.ending.is_none() {
        drive::drive(&mut state, now, &mut actions);
    } else {
        wind_down::wind_down(&mut state, now, &mut actions);
    }
    let ending = state.ending.is_some();
    for c in &mut state.containers {
        if c.replaced.as_ref().is_some_and(|r| ending || r.until <= now.mono) || !c.being_replaced() {
            c.replaced = None;
        }
    }
    (state, actions)
}

/// When `step` must be called with [`Input::Tick`] if nothing else happens; always later than the `now` of the last step.
pub fn next_wake(state: &State) -> Option<Duration> {
    let ending = state.ending.is_some();
    let mut wake: Option<Duration> = None;
    let mut at = |t: Option<Duration>| {
        if let Some(t) = t {
            wake = Some(wake.map_or(t, |w| w.min(t)));
        }
    };
    for c in &state.containers {
        at(c.replaced.as_ref().map(|r| r.until));
        match &c.stage {
            Stage::Running(r) => {
                at(r.probes.next_at(ending || r.kill.is_some()));
                match r.kill.as_ref().map(|k| k.stage) {
                    Some(KillStage::PreStop { until } | KillStage::Signalled { until }) => at(Some(until)),
                    Some(KillStage::Killed) | None => {}
                }
            }
            Stage::Waiting(w) if !ending => {
                at(w.until);
                at(w.flip_at);
            }
            Stage::Waiting(_) | Stage::Pulling | Stage::Pulled | Stage::Starting | Stage::Exited(_) => {}
        }
    }
    if ending {
        if let Cleanup::Needed { retry_at } = state.cleanup {
            at(retry_at);
        }
    } else {
        if let Sandbox::Absent { retry_at } = state.sandbox {
            at(retry_at);
        }
        match state.volumes {
            Volumes::Absent { retry_at } => at(retry_at),
            Volumes::Ready { refresh_at } => at(refresh_at),
            Volumes::Preparing | Volumes::Refreshing => {}
        }
        at(active_deadline(state));
    }
    wake
}

/// When activeDeadlineSeconds are over.
pub(super) fn active_deadline(state: &State) -> Option<Duration> {
    let seconds = pod::spec(&state.pod).active_deadline_seconds?;
    Some(state.start_mono + Duration::from_secs(seconds.max(0) as u64))
}
