//! Pods and containers from their start to their removal: what the daemon does around a shim, in which order, and what it takes
//! back when a step fails.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::link::Gone;
use super::pod::{ContainerFile, Pod};
use super::{INIT_CGROUP, SHIMS_CGROUP, Shims, blocking, now, refused};
use crate::api::{ContainerInfo, ContainerState, PodInfo, protocol};
use crate::shim::protocol::{Reply, Verb};
use crate::shim::sys;
use crate::spec::{ContainerId, ContainerSpec, Namespace, PodId, PodSpec, valid_id};
use crate::{Error, Result};

/// Labels are for names and hashes; more is somebody's mistake.
const LABELS_BYTES_MAX: usize = 256 << 10;
/// How long a shim may take to kill its pod before it is killed itself: processes in uninterruptible sleep take seconds.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// The kernel tells nobody when a v1 cgroup has emptied: look again this often, this many times (10 s).
const EMPTY_LOOK: Duration = Duration::from_millis(5);
const EMPTY_LOOKS_MAX: u32 = 2000;

impl Shims {
    pub(super) async fn start_pod_now(self, spec: PodSpec) -> Result<PodInfo> {
        check_pod(&spec)?;
        self.adopted().await;
        let dir = self.inner.config.run_dir.join("pods").join(&spec.id.0);
        let pod = Arc::new(Pod::new(Arc::new(spec), dir, now()));
        {
            let mut pods = self.inner.pods.lock();
            if pods.contains_key(&pod.spec.id) {
                return Err(Error::AlreadyExists(format!("pod {}", pod.spec.id)));
            }
            pods.insert(pod.spec.id.clone(), pod.clone());
        }
        let started = async {
            let (this, made) = (self.clone(), pod.clone());
            blocking(move || this.inner.prepare_pod(&made)).await?;
            self.connect(&pod).await
        };
        match started.await {
            Ok(_) => Ok(pod.info()),
            Err(error) => {
                pod.removing.store(true, Ordering::Release);
                if let Err(error) = self.sweep(&pod).await {
                    tracing::warn!(pod = %pod.spec.id, %error, "remains of a pod that did not start");
                }
                self.inner.pods.lock().remove(&pod.spec.id);
                Err(error)
            }
        }
    }

    pub(super) async fn remove_pod_now(self, id: PodId) -> Result<()> {
        self.adopted().await;
        let Some(pod) = self.inner.pods.lock().get(&id).cloned() else { return Ok(()) };
        pod.removing.store(true, Ordering::Release);
        if let Ok(link) = pod.link() {
            let end = async {
                let _ = link.call(Verb::Shutdown).await;
                link.closed().await;
            };
            if tokio::time::timeout(SHUTDOWN_MAX, end).await.is_err() {
                tracing::warn!(pod = %id, "shim did not end its pod in time");
            }
            if !link.is_closed()
                && let Some(pid) = *pod.shim_pid.lock()
            {
                let _ = sys::kill(pid as i32, libc::SIGKILL);
            }
        }
        self.sweep(&pod).await?;
        pod.died(now());
        self.inner.pods.lock().remove(&id);
        Ok(())
    }

    /// Removes every trace of a pod whose shim is gone.
    pub(super) async fn sweep(&self, pod: &Arc<Pod>) -> Result<()> {
        let mut looks = 0;
        loop {
            self.inner.driver.kill(&pod.spec.cgroup)?;
            match self.inner.driver.remove(&pod.spec.cgroup) {
                Ok(()) => break,
                Err(_) if looks < EMPTY_LOOKS_MAX => {
                    looks += 1;
                    tokio::time::sleep(EMPTY_LOOK).await;
                }
                Err(error) => return Err(error),
            }
        }
        let dir = pod.dir.clone();
        blocking(move || {
            let _ = nix::mount::umount2(&dir.join("shm"), nix::mount::MntFlags::MNT_DETACH);
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &dir)(error)),
                _ => Ok(()),
            }
        })
        .await
    }

    pub(super) async fn start_container_now(self, pod: PodId, spec: ContainerSpec) -> Result<ContainerInfo> {
        let pod = self.found(&pod).await?;
        if !valid_id(&spec.id.0) || spec.id.0 == INIT_CGROUP {
            return Err(Error::Invalid(format!("container id {:?}", spec.id.0)));
        }
        check_labels(&spec.labels)?;
        let pid_target = match &spec.pid_target {
            Some(target) => match pod.container(target)?.state {
                ContainerState::Running { pid } => Some(pid),
                ContainerState::Exited(_) => return Err(Error::NotRunning(target.clone())),
            },
            None => None,
        };
        let link = pod.link()?;
        let sequence = pod.reserve(&spec)?;
        let id = spec.id.clone();
        let file = ContainerFile { spec, sequence };
        let (this, made) = (self.clone(), pod.clone());
        let started = async {
            let start = blocking(move || this.inner.prepare_container(&made, &file, pid_target)).await?;
            match link.call(Verb::Start(Box::new(start))).await {
                Ok(Ok((Reply::Started { pid, started_at_ns }, _))) => pod.started(&id, pid, started_at_ns),
                Ok(Ok(_)) => Err(protocol(&pod.spec.id, "start was not answered")),
                Ok(Err(refusal)) => Err(refused(&id, refusal)),
                Err(Gone) => Err(pod.gone()),
            }
        };
        let started = started.await;
        if started.is_err() {
            pod.forget(&id);
            let _ = fs::remove_dir_all(pod.container_dir(&id));
        }
        started
    }

    pub(super) async fn remove_container_now(self, pod: PodId, container: ContainerId) -> Result<()> {
        let pod = match self.found(&pod).await {
            Ok(pod) => pod,
            Err(Error::PodNotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.ask(&pod, &container, Verb::Remove { container: container.0.clone() }).await {
            Ok(_) | Err(Error::ContainerNotFound(_) | Error::ShimGone(_)) => {}
            Err(error) => return Err(error),
        }
        pod.forget(&container);
        let dir = pod.container_dir(&container);
        blocking(move || match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &dir)(error)),
            _ => Ok(()),
        })
        .await
    }
}

fn check_pod(spec: &PodSpec) -> Result<()> {
    if !valid_id(&spec.id.0) {
        return Err(Error::Invalid(format!("pod id {:?}", spec.id.0)));
    }
    if spec.hostname.len() > 64 || spec.domainname.len() > 64 {
        return Err(Error::Invalid("host and domain name have at most 64 bytes".into()));
    }
    if spec.ipc == Namespace::Container || spec.uts == Namespace::Container {
        return Err(Error::Invalid("only the process namespace can be a container's own".into()));
    }
    if spec.cgroup.is_empty() || spec.cgroup == SHIMS_CGROUP {
        return Err(Error::Invalid(format!("cgroup {:?}", spec.cgroup)));
    }
    check_labels(&spec.labels)
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > LABELS_BYTES_MAX {
        return Err(Error::Invalid(format!("labels of {bytes} bytes; at most {LABELS_BYTES_MAX}")));
    }
    Ok(())
}
