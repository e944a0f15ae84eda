//! Carries actions out: each in a task of its own that answers into the mailbox. No decisions here.

mod end;
mod start;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use runtime::{ContainerId, PodId};

use super::input::{Action, EventKind, Input, Signal};
use super::mailbox::Mailbox;
use super::state::{Sandbox, SandboxUp, Stage, State};
use crate::host::Host;
use crate::images::Image;
use crate::pod;
use crate::probe::{self, Target};
pub(crate) use end::remove_pod_logs;
use end::{clean_up, wait};
use start::{pull, start, start_sandbox};

pub struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    host: Arc<Host>,
    mailbox: Arc<Mailbox>,
    uid: String,
    /// Image of each container's next or present instance.
    images: Mutex<HashMap<String, Image>>,
    /// Runtime ids that hold a root filesystem.
    prepared: Mutex<Vec<String>>,
}

impl Executor {
    pub fn new(host: Arc<Host>, state: &State, mailbox: Arc<Mailbox>) -> Executor {
        let uid = pod::uid(&state.pod).to_owned();
        Executor {
            shared: Arc::new(Shared { host, mailbox, uid, images: Mutex::default(), prepared: Mutex::default() }),
        }
    }

    /// Begins to wait for the end of containers that were running before this worker was.
    pub fn adopted(&self, state: &State) {
        for c in &state.containers {
            if let Stage::Running(r) = &c.stage {
                self.shared.prepared.lock().push(r.id.clone());
                self.spawn(wait(
                    Arc::clone(&self.shared),
                    Arc::clone(&state.pod),
                    c.spec.name.clone(),
                    c.restarts,
                    r.id.clone(),
                ));
            }
            self.shared.prepared.lock().extend(c.dead_id.clone());
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.shared.host.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    pub fn execute(&self, state: &State, action: Action) {
        let (s, pod) = (Arc::clone(&self.shared), Arc::clone(&state.pod));
        let ips = match &state.sandbox {
            Sandbox::Up(up) => up.ips.clone(),
            Sandbox::Absent { .. } | Sandbox::Starting | Sandbox::Removing => Vec::new(),
        };
        match action {
            Action::PrepareVolumes | Action::RefreshVolumes => self.spawn(async move {
                let input = match s.host.volumes.prepare(&pod, s.host.now()).await {
                    Ok(refresh_at) => Input::VolumesReady { refresh_at },
                    Err(message) => Input::VolumesFailed { message },
                };
                s.mailbox.fact(input);
            }),
            Action::StartSandbox { .. } => self.spawn(async move {
                let input = match start_sandbox(&s, &pod).await {
                    Ok(ips) => Input::SandboxReady(SandboxUp { ips }),
                    Err(e) => Input::SandboxFailed { message: format!("{e:#}") },
                };
                s.mailbox.fact(input);
            }),
            Action::RemoveSandbox => self.spawn(async move {
                if let Err(e) = s.host.runtime.remove_pod(&PodId(s.uid.clone())).await {
                    tracing::warn!(pod = %pod::key(&pod), error = %e, "dead sandbox not removed");
                }
                s.mailbox.fact(Input::SandboxRemoved);
            }),
            Action::Pull { container } => self.spawn(async move {
                let added = s.host.images.added();
                let input = pull(&s, &pod, &container).await;
                let failed = matches!(input, Input::PullFailed { .. });
                s.mailbox.fact(input);
                // What came while the pull was failing found nobody waiting for it.
                if failed && added.has_changed().unwrap_or(false) {
                    s.mailbox.images_added();
                }
            }),
            Action::Start { container, id, restarts, image } => {
                let pid_target = pid_target(state, &container);
                self.spawn(async move {
                    match start(&s, &pod, &container, &id, restarts, image, ips, pid_target).await {
                        Ok(at) => {
                            s.mailbox.fact(Input::Started { container: container.clone(), id: id.clone(), at });
                            wait(s, pod, container, restarts, id).await;
                        }
                        Err(failure) => {
                            let _ = s.host.images.release(&id).await;
                            s.mailbox.fact(Input::StartFailed { container, id, failure });
                        }
                    }
                });
            }
            Action::Forget { id } => self.spawn(async move {
                let _ = s.host.runtime.remove_container(&PodId(s.uid.clone()), &ContainerId(id.clone())).await;
                let _ = s.host.images.release(&id).await;
                s.prepared.lock().retain(|p| *p != id);
            }),
            Action::Signal { id, signal } => self.spawn(async move {
                let number = match &signal {
                    Signal::Kill => libc::SIGKILL,
                    Signal::Stop(name) => signal_number(name).unwrap_or(libc::SIGTERM),
                };
                if let Err(e) = s.host.runtime.signal(&PodId(s.uid.clone()), &ContainerId(id), number).await {
                    tracing::debug!(pod = %pod::key(&pod), error = %e, "signal not sent");
                }
            }),
            Action::PostStart { container, id, hook } => {
                let Some(target) = self.target(state, &container, &id, ips) else { return };
                self.spawn(async move {
                    let result = probe::hook(&target, &hook).await.map_err(|e| format!("{e:#}"));
                    s.mailbox.fact(Input::PostStartDone { id, result });
                });
            }
            Action::PreStop { container, id, hook, within } => {
                let Some(target) = self.target(state, &container, &id, ips) else { return };
                self.spawn(async move {
                    let result = match tokio::time::timeout(within, probe::hook(&target, &hook)).await {
                        Ok(result) => result.map_err(|e| format!("{e:#}")),
                        Err(_) => Err("the grace period is over".into()),
                    };
                    s.mailbox.fact(Input::PreStopDone { id, result });
                });
            }
            Action::Probe { container, id, kind } => {
                let Some(target) = self.target(state, &container, &id, ips) else { return };
                self.spawn(async move {
                    let Some(spec) = kind.of(&target.spec).cloned() else { return };
                    let outcome = probe::probe(&target, &spec).await;
                    s.mailbox.fact(Input::Probed { id, kind, outcome });
                });
            }
            Action::Event { kind, reason, message, container } => {
                let mut about = client::events::reference(&*pod);
                let role = container.as_ref().and_then(|name| state.container(name)).map(|c| c.role);
                about.field_path = container.zip(role).map(|(name, role)| pod::field_path(role, &name));
                let kind = match kind {
                    EventKind::Normal => client::events::NORMAL,
                    EventKind::Warning => client::events::WARNING,
                };
                s.host.recorder.about(about, kind, reason, message);
            }
            Action::CleanUp { logs } => self.spawn(async move {
                let input = match clean_up(&s, &pod, logs).await {
                    Ok(()) => Input::CleanedUp,
                    Err(e) => Input::CleanupFailed { message: format!("{e:#}") },
                };
                s.mailbox.fact(input);
            }),
            // The loop's own.
            Action::DeleteObject | Action::Exit => {}
        }
    }

    fn target(&self, state: &State, container: &str, id: &str, ips: Vec<String>) -> Option<Target> {
        Some(Target {
            runtime: Arc::clone(&self.shared.host.runtime),
            pod: PodId(self.shared.uid.clone()),
            container: ContainerId(id.to_owned()),
            spec: Arc::clone(&state.container(container)?.spec),
            pod_ip: ips.into_iter().next().unwrap_or_default(),
        })
    }
}

fn pid_target(state: &State, container: &str) -> Option<String> {
    let wanted = pod::spec(&state.pod)
        .ephemeral_containers
        .iter()
        .flatten()
        .find(|e| e.name == container)
        .and_then(|e| e.target_container_name.clone())?;
    state.container(&wanted)?.running().map(|r| r.id.clone())
}

/// A signal by name or number. Source: moby/sys/signal (names with and without SIG, real-time ones).
pub fn signal_number(name: &str) -> Option<i32> {
    let name = name.trim();
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = bare.strip_prefix("RTMIN") {
        let plus = if rest.is_empty() { Some(0) } else { rest.strip_prefix('+').and_then(|n| n.parse::<i32>().ok()) };
        return plus.map(|n| 34 + n).filter(|n| (34..=64).contains(n));
    }
    format!("SIG{bare}").parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (name, number) in [
            ("SIGTERM", Some(15)),
            ("QUIT", Some(3)),
            ("sigint", Some(2)),
            ("9", Some(9)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMIN", Some(34)),
            ("NOPE", None),
            ("99", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }
}
