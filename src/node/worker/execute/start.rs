//! Bringing things up: the sandbox, images, and containers with all that must be read and written before one can start.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::object::Key;
use k8s_openapi::api::core::v1::{Pod, Service};
use runtime::{LogPolicy, NetworkNamespace, PodId};

use super::Shared;
use super::end::remove_logs;
use crate::host::Host;
use crate::images::PullError;
use crate::pod::{self, Role};
use crate::translate::{container as translate, env, files, security};
use crate::volume::objects::pull_credentials;
use crate::worker::input::{Input, PullFacts, StartFailure};
use crate::worker::state::{ImageRef, Why};

pub(super) async fn start_sandbox(s: &Shared, pod: &Pod) -> anyhow::Result<Vec<String>> {
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

pub(super) async fn pull(s: &Shared, pod: &Pod, container: &str) -> Input {
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
pub(super) async fn start(
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
            let devices = host.volumes.devices(&pod, &spec).map_err(StartFailure::Config)?;
            let files = write_files(&host, &pod, &ips).map_err(|e| StartFailure::Create(format!("{e:#}")))?;
            fs::create_dir_all(&logs).map_err(|e| StartFailure::Create(e.to_string()))?;
            // The present and the previous instance's log are kept.
            if let Some(old) = restarts.checked_sub(2) {
                remove_logs(&logs, old);
            }
            Ok((mounts, devices, files))
        });
        task.await.map_err(|e| StartFailure::Create(e.to_string()))??
    };
    let (mounts, devices, files) = prepared;
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
        devices,
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
