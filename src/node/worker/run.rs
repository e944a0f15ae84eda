//! The loop around [`super::step`]: mail and the one timer in, actions out, status to the reporter.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::RwLock;
use runtime::PodState;

use super::execute::Executor;
use super::input::{Action, Input};
use super::mailbox::{Mailbox, Taken};
use super::state::State;
use super::step::{next_wake, step};
use super::summary::summary;
use crate::host::Host;
use crate::pod;
use crate::status::{Reporter, Told};

/// What the node's HTTP server and admission may know of a pod.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub pod: Arc<Pod>,
    pub status: PodStatus,
    /// Container name, runtime id and restart count of what runs now.
    pub running: Vec<(String, String, u32)>,
    /// Container name and how often it was restarted, for finding its logs.
    pub restarts: Vec<(String, u32)>,
    /// It holds no resources any more.
    pub ended: bool,
}

/// A worker as others see it.
#[derive(Clone)]
pub struct Handle {
    pub uid: String,
    pub mailbox: Arc<Mailbox>,
    pub snapshot: Arc<RwLock<Snapshot>>,
}

/// Starts the worker; `first` is what it hears before all else, `done` is called with the pod's uid when it has nothing left to do.
pub fn start(host: Arc<Host>, state: State, first: Input, done: impl FnOnce(&str) + Send + 'static) -> Handle {
    let mailbox = Arc::new(Mailbox::default());
    let uid = pod::uid(&state.pod).to_owned();
    let status = state.pod.status.clone().unwrap_or_default();
    let snapshot = Arc::new(RwLock::new(snapshot(&state, status)));
    let handle = Handle { uid: uid.clone(), mailbox: Arc::clone(&mailbox), snapshot: Arc::clone(&snapshot) };
    tokio::spawn(async move {
        let stop = host.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = run(host, state, first, mailbox, snapshot) => {}
        }
        done(&uid);
    });
    handle
}

fn snapshot(state: &State, status: PodStatus) -> Snapshot {
    let running = state
        .containers
        .iter()
        .filter_map(|c| c.running().map(|r| (c.spec.name.clone(), r.id.clone(), c.restarts)))
        .collect();
    let restarts = state.containers.iter().map(|c| (c.spec.name.clone(), c.restarts)).collect();
    Snapshot {
        pod: Arc::clone(&state.pod),
        status,
        running,
        restarts,
        ended: state.ending.is_some() && state.stopped() && state.verdict.is_some(),
    }
}

async fn run(host: Arc<Host>, mut state: State, first: Input, mailbox: Arc<Mailbox>, shared: Arc<RwLock<Snapshot>>) {
    let told = Arc::clone(&mailbox);
    let reporter = Reporter::start(host.client.clone(), &state.pod, move |what| match what {
        Told::Verdict => told.fact(Input::VerdictReported),
        Told::Gone => told.gone(),
    });
    let executor = Executor::new(Arc::clone(&host), &state, Arc::clone(&mailbox));
    executor.adopted(&state);
    // What the API server shows already need not be said again.
    let mut said = state.pod.status.clone().filter(|s| s.phase.is_some());
    let mut input = first;
    loop {
        let before_pod = Arc::clone(&state.pod);
        if let Input::Pod(pod) = &input {
            reporter.shown(Arc::clone(pod));
        }
        let (next, actions) = step(state, input, host.now());
        state = next;
        // A pod that ends needs nothing new; what it holds is given back with its volumes.
        if !Arc::ptr_eq(&before_pod, &state.pod) && state.ending.is_none() {
            host.volumes.objects.hold(&state.pod);
        }
        let mut exit = false;
        for action in actions {
            match action {
                Action::DeleteObject => {
                    report(&host, &state, &reporter, &mut said, &shared);
                    reporter.delete();
                }
                Action::Exit => exit = true,
                other => executor.execute(&state, other),
            }
        }
        if exit {
            return;
        }
        input = loop {
            match mailbox.take() {
                Taken::Input(input) => break input,
                Taken::Look => look(&host, &state, &mailbox).await,
                Taken::ImagesAdded => {
                    if let Some(input) = images_here(&host, &state).await {
                        break input;
                    }
                }
                Taken::Nothing => {
                    // Only when nothing is queued: steps that follow each other at once make one status.
                    report(&host, &state, &reporter, &mut said, &shared);
                    match next_wake(&state) {
                        Some(at) => tokio::select! {
                            () = mailbox.arrived() => {}
                            () = tokio::time::sleep_until(host.instant(at)) => break Input::Tick,
                        },
                        None => mailbox.arrived().await,
                    }
                }
            }
        };
    }
}

fn report(host: &Host, state: &State, reporter: &Reporter, said: &mut Option<PodStatus>, shared: &RwLock<Snapshot>) {
    let status = summary(state, said.as_ref(), host.now());
    *shared.write() = snapshot(state, status.clone());
    if !state.gone && said.as_ref() != Some(&status) {
        reporter.status(status.clone());
        *said = Some(status);
    }
}

/// Which of the images that containers wait for are here by now.
async fn images_here(host: &Host, state: &State) -> Option<Input> {
    let mut containers = Vec::new();
    for c in state.containers.iter().filter(|c| c.lacks_image()) {
        let reference = c.spec.image.as_deref().unwrap_or_default();
        if let Ok(Some(_)) = host.images.resolve(reference).await {
            containers.push(c.spec.name.clone());
        }
    }
    (!containers.is_empty()).then_some(Input::ImagesHere { containers })
}

/// Compares with the runtime, after it said that something happened which no waiting task will tell.
async fn look(host: &Host, state: &State, mailbox: &Mailbox) {
    let id = runtime::PodId(pod::uid(&state.pod).to_owned());
    let Ok(info) = host.runtime.pod(&id).await else { return };
    if info.state == PodState::Dead {
        for c in &info.containers {
            if let runtime::ContainerState::Exited(exit) = &c.state {
                mailbox.fact(Input::Exited { id: c.id.0.clone(), exit: super::adopt::facts(exit) });
            }
        }
        mailbox.fact(Input::SandboxDied);
    }
}
