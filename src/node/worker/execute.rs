//! Carries actions out: each in a task of its own that answers into the mailbox. No decisions here.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::object::Key;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;
use runtime::{ContainerId, LogPolicy, NetworkNamespace, PodId};

use super::adopt;
use super::input::{Action, EventKind, Input, PullFacts, Signal, StartFailure};
use super::mailbox::Mailbox;
use super::state::{ImageRef, Sandbox, SandboxUp, Stage, State, Why};
use crate::host::Host;
use crate::images::{Image, PullError};
use crate::pod::{self, Role};
use crate::probe::{self, Target};
use crate::translate::{container as translate, env, files, security};
use crate::volume::objects::pull_credentials;

/// End of a container's log that becomes its termination message. Source: `kuberuntime_container.go`.
const LOG_MESSAGE_LINES: usize = 80;
const LOG_MESSAGE_BYTES: usize = 2048;

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
                let input = pull(&s, &pod, &container).await;
                s.mailbox.fact(input);
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

async fn start_sandbox(s: &Shared, pod: &Pod) -> anyhow::Result<Vec<String>> {
    let name = files::hostname(pod, &s.host.config.cluster_domain).map_err(anyhow::Error::msg)?;
    let (network, ips) = if pod::host_network(pod) {
        (NetworkNamespace::Host, s.host.host_ips())
    } else {
        let net = s.host.network.add_pod(crate::services::pod_network(pod)).await?;
        (NetworkNamespace::Path(net.netns), net.ips.iter().map(ToString::to_string).collect())
    };
    let spec = translate::pod_spec(pod, &name, network);
    match s.host.runtime.start_pod(spec.clone()).await {
        Ok(_) => Ok(ips),
        // An attempt that an earlier daemon began and could not tell of.
        Err(runtime::Error::AlreadyExists(_)) => {
            s.host.runtime.remove_pod(&spec.id).await?;
            s.host.runtime.start_pod(spec).await?;
            Ok(ips)
        }
        Err(e) => Err(e.into()),
    }
}

async fn pull(s: &Shared, pod: &Pod, container: &str) -> Input {
    let name = container.to_owned();
    let Some((_, spec)) = pod::container(pod, container) else {
        return Input::PullFailed { container: name, why: Why::InvalidImageName, message: "no such container".into() };
    };
    let reference = spec.image.clone().unwrap_or_default();
    let failed = |why: Why, message: String| Input::PullFailed { container: name.clone(), why, message };
    let present = match s.host.images.resolve(&reference).await {
        Ok(present) => present,
        Err(e @ PullError::InvalidName { .. }) => return failed(Why::InvalidImageName, e.to_string()),
        Err(e @ PullError::Failed(_)) => return failed(Why::ImageInspectError, e.to_string()),
    };
    let policy = spec.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    let (image, facts) = match (present, policy) {
        (Some(image), "IfNotPresent" | "Never") => (image, None),
        (None, "Never") => return failed(Why::ErrImageNeverPull, String::new()),
        (_, _) => {
            let mut about = client::events::reference(pod);
            let role = pod::container(pod, container).map_or(Role::App, |(role, _)| role);
            about.field_path = Some(pod::field_path(role, container));
            s.host.recorder.about(about, client::events::NORMAL, "Pulling", format!("Pulling image \"{reference}\""));
            let secrets = s.host.volumes.objects.fetch(pod).await.map(|f| f.secrets).unwrap_or_default();
            let names: Vec<String> =
                pod::spec(pod).image_pull_secrets.iter().flatten().map(|r| r.name.clone()).collect();
            let begun = s.host.clock.monotonic();
            match s.host.images.pull(&reference, &pull_credentials(&secrets, &names)).await {
                Ok(image) => {
                    let facts =
                        PullFacts { took: begun.elapsed(), waited: Duration::ZERO, size_bytes: image.size_bytes };
                    (image, Some(facts))
                }
                Err(e @ PullError::InvalidName { .. }) => return failed(Why::InvalidImageName, e.to_string()),
                Err(PullError::Failed(why)) => return failed(Why::ErrImagePull, why),
            }
        }
    };
    let reference = ImageRef {
        name: reference,
        id: image.digests.first().cloned().unwrap_or_else(|| image.id.clone()),
        stop_signal: image.config.stop_signal.clone(),
    };
    s.images.lock().insert(name.clone(), image);
    Input::Pulled { container: name, image: reference, pulled: facts }
}

#[expect(clippy::too_many_arguments, reason = "one start has that many facts; a struct would be used once")]
async fn start(
    s: &Shared,
    pod: &Arc<Pod>,
    container: &str,
    id: &str,
    restarts: u32,
    image_ref: ImageRef,
    ips: Vec<String>,
    pid_target: Option<String>,
) -> Result<jiff::Timestamp, StartFailure> {
    let config = StartFailure::Config;
    let create = |e: anyhow::Error| StartFailure::Create(format!("{e:#}"));
    let (role, spec) = pod::container(pod, container).ok_or_else(|| config("no such container".into()))?;
    let image = s.images.lock().get(container).cloned().ok_or_else(|| config("its image is not known".into()))?;
    let objects = s.host.volumes.objects.fetch(pod).await.map_err(config)?;
    let services = services(&s.host, pod);
    let context = env::Context {
        objects,
        services: &services,
        pod_ips: ips.clone(),
        host_ips: s.host.host_ips(),
        allocatable: s.host.allocatable,
    };
    let env = env::environment(pod, &spec, &context).map_err(config)?;
    let accounts = security::Accounts {
        passwd: s.host.images.read_file(&image.id, "/etc/passwd").await.map_err(create)?.unwrap_or_default(),
        group: s.host.images.read_file(&image.id, "/etc/group").await.map_err(create)?.unwrap_or_default(),
    };
    let user = security::user(pod, &spec, &image.config.user, &accounts).map_err(config)?;
    let profiles = s.host.config.data_dir.join("seccomp");
    let seccomp = security::seccomp(pod, &spec, |name| {
        let path = profiles.join(name.trim_start_matches('/'));
        fs::read_to_string(&path).map_err(|e| format!("cannot load seccomp profile \"{}\": {e}", path.display()))
    })
    .map_err(config)?;
    let rootfs = s.host.images.prepare(&image.id, id).await.map_err(create)?;
    s.prepared.lock().push(id.to_owned());
    let logs = s.host.config.pod_logs_dir.join(translate::log_folder(pod)).join(container);
    let log_path = logs.join(format!("{restarts}.log"));
    // Files and mounts touch the disk: off the async threads.
    let prepared = {
        let (host, pod, spec, env, logs) = (Arc::clone(&s.host), Arc::clone(pod), spec.clone(), env.clone(), logs);
        let task = tokio::task::spawn_blocking(move || -> Result<_, StartFailure> {
            let mounts = host.volumes.mounts(&pod, &spec, &env, restarts).map_err(StartFailure::Config)?;
            let files = write_files(&host, &pod, &ips).map_err(|e| StartFailure::Create(format!("{e:#}")))?;
            fs::create_dir_all(&logs).map_err(|e| StartFailure::Create(e.to_string()))?;
            // The present and the previous instance's log are kept.
            if let Some(old) = restarts.checked_sub(2) {
                remove_logs(&logs, old);
            }
            Ok((mounts, files))
        });
        task.await.map_err(|e| StartFailure::Create(e.to_string()))??
    };
    let (mounts, files) = prepared;
    let runtime_spec = translate::container_spec(translate::Inputs {
        pod,
        container: &spec,
        role,
        id: id.to_owned(),
        restarts,
        image: &image_ref,
        image_config: &image.config,
        rootfs,
        user,
        seccomp,
        env,
        mounts,
        files,
        log: LogPolicy {
            path: log_path.clone(),
            bytes_max: s.host.config.log_bytes_max,
            files_max: s.host.config.log_files_max,
        },
        node_memory_bytes: s.host.memory_bytes,
        pid_target,
    })
    .map_err(config)?;
    let started = s.host.runtime.start_container(&PodId(s.uid.clone()), runtime_spec).await;
    match started {
        Ok(info) => {
            let link = s.host.config.container_logs_dir.join(format!(
                "{}_{}_{container}-{id}.log",
                pod::name(pod),
                pod::namespace(pod)
            ));
            // A convenience for log shippers; nothing depends on it.
            let _ = fs::create_dir_all(&s.host.config.container_logs_dir).and_then(|()| symlink(&log_path, link));
            Ok(info.started_at)
        }
        Err(e @ runtime::Error::Start { .. }) => Err(StartFailure::Run(e.to_string())),
        Err(e) => Err(StartFailure::Create(format!("{:#}", anyhow::Error::from(e)))),
    }
}

/// Services that link into the pod's environment.
fn services(host: &Host, pod: &Pod) -> Vec<Arc<Service>> {
    let mut list = host.services.in_namespace(pod::namespace(pod));
    if pod::namespace(pod) != "default" {
        list.extend(host.services.get(&Key::new("default", "kubernetes")));
    }
    list
}

/// Host name, hosts and resolver files of a pod, and where they belong in its containers.
fn write_files(host: &Host, pod: &Pod, ips: &[String]) -> anyhow::Result<Vec<(PathBuf, PathBuf)>> {
    let dir = host.config.run_dir.join("volumes").join(pod::uid(pod)).join(".files");
    fs::create_dir_all(&dir)?;
    let name = files::hostname(pod, &host.config.cluster_domain).map_err(anyhow::Error::msg)?;
    let own_hosts =
        if pod::host_network(pod) { fs::read_to_string("/etc/hosts").unwrap_or_default() } else { String::new() };
    let dns: Vec<String> = host.config.cluster_dns.iter().map(ToString::to_string).collect();
    let host_resolver = fs::read_to_string(&host.config.host_resolv_conf).unwrap_or_default();
    let (resolver, left_out) = files::resolver(pod, &dns, &host.config.cluster_domain, &host_resolver);
    if let Some(text) = left_out {
        host.recorder.warning(pod, "DNSConfigForming", text);
    }
    let texts = [
        ("hosts", files::hosts(pod, ips, &name, &own_hosts)),
        ("resolv.conf", resolver),
        ("hostname", format!("{}\n", name.kernel)),
    ];
    let mut written = Vec::new();
    for (file, text) in texts {
        let path = dir.join(file);
        // Written in place: running containers have this very file mounted.
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            fs::write(&path, text)?;
        }
        written.push((path, Path::new("/etc").join(file)));
    }
    Ok(written)
}

fn remove_logs(folder: &Path, restarts: u32) {
    let head = format!("{restarts}.log");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&head) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Waits for a container's end and tells it.
async fn wait(s: Arc<Shared>, pod: Arc<Pod>, container: String, restarts: u32, id: String) {
    let exit = s.host.runtime.wait(&PodId(s.uid.clone()), &ContainerId(id.clone())).await;
    let mut facts = match exit {
        Ok(status) => adopt::facts(&status),
        // The shim is gone: the pod's event leads to a look at everything.
        Err(_) => {
            s.mailbox.look();
            return;
        }
    };
    let policy = pod::container(&pod, &container).and_then(|(_, c)| c.termination_message_policy);
    if policy.as_deref() == Some("FallbackToLogsOnError") && facts.code != 0 && facts.message.is_empty() {
        let path = s
            .host
            .config
            .pod_logs_dir
            .join(translate::log_folder(&pod))
            .join(&container)
            .join(format!("{restarts}.log"));
        facts.message =
            tokio::task::spawn_blocking(move || log_end(&path)).await.ok().and_then(Result::ok).unwrap_or_default();
    }
    s.mailbox.fact(Input::Exited { id, exit: facts });
}

/// The last lines of a log, as text.
fn log_end(path: &Path) -> io::Result<String> {
    let lines = crate::http::logs::last_lines(path, LOG_MESSAGE_LINES)?;
    let mut text = String::from_utf8_lossy(&lines).into_owned();
    if text.len() > LOG_MESSAGE_BYTES {
        let cut =
            (text.len() - LOG_MESSAGE_BYTES..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
        text = text.split_off(cut);
    }
    Ok(text)
}

/// Takes everything of the pod off this host; tries every part, reports the first failure.
async fn clean_up(s: &Shared, pod: &Pod, logs: bool) -> anyhow::Result<()> {
    let id = PodId(s.uid.clone());
    let mut first: Option<anyhow::Error> = None;
    let mut note = |result: anyhow::Result<()>| {
        if let Err(e) = result {
            first.get_or_insert(e);
        }
    };
    note(s.host.runtime.remove_pod(&id).await.map_err(Into::into));
    if !pod::host_network(pod) {
        note(s.host.network.del_pod(&s.uid).await);
    }
    let prepared = std::mem::take(&mut *s.prepared.lock());
    for container in prepared {
        if let Err(e) = s.host.images.release(&container).await {
            note(Err(e));
            s.prepared.lock().push(container);
        }
    }
    note(s.host.volumes.remove(&s.uid).await.map_err(Into::into));
    if logs {
        let (folder, links) =
            (s.host.config.pod_logs_dir.join(translate::log_folder(pod)), s.host.config.container_logs_dir.clone());
        let removed = tokio::task::spawn_blocking(move || remove_pod_logs(&folder, &links)).await;
        note(removed.map_err(Into::into).and_then(|r| r.map_err(Into::into)));
    }
    match first {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

pub(crate) fn remove_pod_logs(folder: &Path, links: &Path) -> io::Result<()> {
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(folder)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
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
