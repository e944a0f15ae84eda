//! One pod as the daemon sees it: what was asked for, what runs, who waits.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::link::Link;
use crate::api::{ContainerInfo, ContainerState, ExitStatus, PodInfo, PodState};
use crate::shim::protocol::{CONTAINER_FILE, CONTAINERS_DIR, EXIT_FILE, Exit, MESSAGE_FILE};
use crate::spec::{ContainerId, ContainerSpec, PodSpec};
use crate::{Error, Result};

/// Longest termination message that is kept. Source: pkg/kubelet/container MaxContainerTerminationMessageLength.
const MESSAGE_BYTES_MAX: u64 = 4096;

/// `pod.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFile {
    pub spec: PodSpec,
    pub created_at_ns: i64,
}

/// `container.json`: what adoption needs to know again.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerFile {
    pub spec: ContainerSpec,
    /// Counts the pod's containers: the order in which they were started.
    pub sequence: u64,
}

pub struct Pod {
    pub spec: Arc<PodSpec>,
    pub dir: PathBuf,
    pub created_at: Timestamp,
    state: Mutex<State>,
    /// Counts changes, for those who wait for one.
    changed: watch::Sender<u64>,
    /// Being removed: its end is nobody's news.
    pub removing: AtomicBool,
    /// One start, removal or update of this pod's set of containers at a time where order matters.
    pub shim_pid: Mutex<Option<u32>>,
}

struct State {
    link: Option<Link>,
    dead: bool,
    sequence: u64,
    containers: BTreeMap<ContainerId, Container>,
}

struct Container {
    info: ContainerInfo,
    sequence: u64,
    /// Shown once it has started.
    shown: bool,
}

impl Pod {
    pub fn new(spec: Arc<PodSpec>, dir: PathBuf, created_at: Timestamp) -> Pod {
        let state = State { link: None, dead: false, sequence: 0, containers: BTreeMap::new() };
        Pod {
            spec,
            dir,
            created_at,
            state: Mutex::new(state),
            changed: watch::channel(0).0,
            removing: AtomicBool::new(false),
            shim_pid: Mutex::new(None),
        }
    }

    pub fn set_link(&self, link: Link) {
        self.state.lock().link = Some(link);
    }

    /// The way to the shim. Errors: it is gone.
    pub fn link(&self) -> Result<Link> {
        let state = self.state.lock();
        match &state.link {
            Some(link) if !state.dead => Ok(link.clone()),
            _ => Err(self.gone()),
        }
    }

    pub fn gone(&self) -> Error {
        Error::ShimGone(self.spec.id.clone())
    }

    pub fn info(&self) -> PodInfo {
        let state = self.state.lock();
        let mut shown: Vec<&Container> = state.containers.values().filter(|c| c.shown).collect();
        shown.sort_by_key(|c| c.sequence);
        PodInfo {
            id: self.spec.id.clone(),
            state: if state.dead { PodState::Dead } else { PodState::Ready },
            labels: self.spec.labels.clone(),
            spec: self.spec.clone(),
            created_at: self.created_at,
            containers: shown.into_iter().map(|c| c.info.clone()).collect(),
        }
    }

    pub fn container(&self, id: &ContainerId) -> Result<ContainerInfo> {
        let state = self.state.lock();
        let found = state.containers.get(id).filter(|c| c.shown);
        found.map(|c| c.info.clone()).ok_or_else(|| Error::ContainerNotFound(id.clone()))
    }

    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.dir.join(CONTAINERS_DIR).join(&id.0)
    }

    /// The cgroup of a container, below the root.
    pub fn container_cgroup(&self, id: &ContainerId) -> String {
        format!("{}/{id}", self.spec.cgroup)
    }

    /// Takes the name for a container about to start. Errors: `AlreadyExists`.
    pub fn reserve(&self, spec: &ContainerSpec) -> Result<u64> {
        let mut state = self.state.lock();
        if state.containers.contains_key(&spec.id) {
            return Err(Error::AlreadyExists(format!("container {}", spec.id)));
        }
        state.sequence += 1;
        let sequence = state.sequence;
        state.containers.insert(spec.id.clone(), Container { info: info(spec), sequence, shown: false });
        Ok(sequence)
    }

    pub fn forget(&self, id: &ContainerId) {
        self.state.lock().containers.remove(id);
        self.tell();
    }

    /// Drops adopted records of containers that the shim does not have: their start never reached it.
    pub fn forget_unstarted(&self) {
        self.state.lock().containers.retain(|_, container| container.shown);
        self.tell();
    }

    /// Puts an adopted container in place.
    pub fn adopt(&self, file: &ContainerFile) {
        let mut state = self.state.lock();
        state.sequence = state.sequence.max(file.sequence);
        let container = Container { info: info(&file.spec), sequence: file.sequence, shown: false };
        state.containers.insert(file.spec.id.clone(), container);
    }

    /// The shim has started it. Its end may have been told before.
    pub fn started(&self, id: &ContainerId, pid: u32, started_at_ns: i64) -> Result<ContainerInfo> {
        let mut state = self.state.lock();
        let found = state.containers.get_mut(id).ok_or_else(|| Error::ContainerNotFound(id.clone()))?;
        found.shown = true;
        found.info.started_at = timestamp(started_at_ns);
        if let ContainerState::Running { pid: known } = &mut found.info.state {
            *known = pid;
        }
        let info = found.info.clone();
        drop(state);
        self.tell();
        Ok(info)
    }

    pub fn exited(&self, id: &ContainerId, exit: &Exit) {
        let message = read_message(&self.container_dir(id).join(MESSAGE_FILE));
        let mut state = self.state.lock();
        if let Some(found) = state.containers.get_mut(id) {
            found.shown = true;
            found.info.started_at = timestamp(exit.started_at_ns);
            found.info.state = ContainerState::Exited(ExitStatus {
                code: exit.code,
                signal: exit.signal,
                oom_killed: exit.oom_killed,
                lost: false,
                started_at: timestamp(exit.started_at_ns),
                finished_at: timestamp(exit.finished_at_ns),
                message,
            });
        }
        drop(state);
        self.tell();
    }

    /// The shim is gone: what it could not tell any more is on disk or lost.
    pub fn died(&self, now: Timestamp) {
        let mut state = self.state.lock();
        state.dead = true;
        state.link = None;
        let running: Vec<ContainerId> = state
            .containers
            .iter()
            .filter(|(_, c)| matches!(c.info.state, ContainerState::Running { .. }))
            .map(|(id, _)| id.clone())
            .collect();
        drop(state);
        for id in running {
            let dir = self.container_dir(&id);
            let known =
                fs::read(dir.join(EXIT_FILE)).ok().and_then(|bytes| serde_json::from_slice::<Exit>(&bytes).ok());
            match known {
                Some(exit) => self.exited(&id, &exit),
                None => {
                    let message = read_message(&dir.join(MESSAGE_FILE));
                    if let Some(found) = self.state.lock().containers.get_mut(&id) {
                        found.shown = true;
                        let started_at = found.info.started_at;
                        found.info.state = ContainerState::Exited(ExitStatus {
                            code: 128 + libc::SIGKILL,
                            signal: Some(libc::SIGKILL),
                            oom_killed: false,
                            lost: true,
                            started_at,
                            finished_at: now,
                            message,
                        });
                    }
                }
            }
        }
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Waits until the container has exited.
    pub async fn wait(&self, id: &ContainerId) -> Result<ExitStatus> {
        let mut changed = self.changed.subscribe();
        loop {
            if let ContainerState::Exited(status) = self.container(id)?.state {
                return Ok(status);
            }
            if changed.changed().await.is_err() {
                return Err(self.gone());
            }
        }
    }

    pub fn is_removing(&self) -> bool {
        self.removing.load(Ordering::Acquire)
    }
}

fn info(spec: &ContainerSpec) -> ContainerInfo {
    ContainerInfo {
        id: spec.id.clone(),
        state: ContainerState::Running { pid: 0 },
        labels: spec.labels.clone(),
        started_at: Timestamp::UNIX_EPOCH,
        tty: spec.tty,
        stdin: spec.stdin,
    }
}

pub fn timestamp(unix_ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn read_message(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is on disk about a pod's containers, in the order in which they were started.
pub fn read_containers(dir: &Path) -> Vec<ContainerFile> {
    let Ok(entries) = fs::read_dir(dir.join(CONTAINERS_DIR)) else { return Vec::new() };
    let mut files: Vec<ContainerFile> = entries
        .filter_map(|entry| fs::read(entry.ok()?.path().join(CONTAINER_FILE)).ok())
        .filter_map(|bytes| serde_json::from_slice(&bytes).ok())
        .collect();
    files.sort_by_key(|file| file.sequence);
    files
}
