//! A runtime for tests of those who call this room: it runs nothing, remembers everything, and does what it is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::api::{
    ContainerInfo, ContainerState, Event, Events, ExitStatus, PodInfo, PodState, Runtime, Session, Stats,
};
use crate::spec::{AttachSpec, ContainerId, ContainerSpec, ExecSpec, PodId, PodSpec, Resources};
use crate::{Error, Result};

/// Events kept for a slow subscriber, in tests.
const EVENTS_MAX: usize = 1024;

/// Clones share one state.
#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<Event>,
}

/// Answers to a scripted exec: exit code and what appears on stdout.
pub type ExecAnswer = Result<(i32, Vec<u8>)>;

#[derive(Default)]
struct State {
    pods: BTreeMap<PodId, PodInfo>,
    specs: BTreeMap<ContainerId, ContainerSpec>,
    calls: Vec<String>,
    fail_next: VecDeque<(String, Error)>,
    exec: BTreeMap<ContainerId, VecDeque<ExecAnswer>>,
    stats: BTreeMap<String, Stats>,
    now: Timestamp,
    pid: u32,
}

impl Default for Fake {
    fn default() -> Self {
        Fake::new()
    }
}

impl Fake {
    pub fn new() -> Fake {
        Fake { state: Arc::default(), events: broadcast::channel(EVENTS_MAX).0 }
    }

    /// The time that start and exit are stamped with; starts at the epoch.
    pub fn set_now(&self, now: Timestamp) {
        self.state.lock().now = now;
    }

    /// Every call so far, oldest first: verb, then ids (`start_container pod web-1`). `list`, `pod`, `events` are not kept.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// Forgets the calls so far and hands them out.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().calls)
    }

    /// The next call of `verb` fails with `error`; several for one verb are used in order.
    pub fn fail_next(&self, verb: &str, error: Error) {
        self.state.lock().fail_next.push_back((verb.to_owned(), error));
    }

    /// The spec that a container was started with.
    pub fn container_spec(&self, container: &ContainerId) -> Option<ContainerSpec> {
        self.state.lock().specs.get(container).cloned()
    }

    /// What the next exec in `container` answers; without a script it exits 0 and prints nothing.
    pub fn script_exec(&self, container: &ContainerId, answer: ExecAnswer) {
        self.state.lock().exec.entry(container.clone()).or_default().push_back(answer);
    }

    /// What `stats` answers for a cgroup.
    pub fn set_stats(&self, cgroup: &str, stats: Stats) {
        self.state.lock().stats.insert(cgroup.to_owned(), stats);
    }

    /// Ends a container as if its process had exited.
    pub fn exit(&self, container: &ContainerId, code: i32) {
        self.exit_with(container, |status| status.code = code);
    }

    /// Ends a container; `change` edits its exit status (code 0, no message).
    pub fn exit_with(&self, container: &ContainerId, change: impl FnOnce(&mut ExitStatus)) {
        let mut state = self.state.lock();
        let now = state.now;
        let found = state.pods.values_mut().find_map(|pod| {
            let id = pod.id.clone();
            pod.containers.iter_mut().find(|c| c.id == *container).map(|c| (id, c))
        });
        if let Some((pod, info)) = found {
            finish(info, now, change);
            drop(state);
            let _ = self.events.send(Event::ContainerExited { pod, container: container.clone() });
        }
    }

    /// Loses a pod's shim, and with it the containers.
    pub fn kill_shim(&self, pod: &PodId) {
        let mut state = self.state.lock();
        let now = state.now;
        if let Some(info) = state.pods.get_mut(pod) {
            info.state = PodState::Dead;
            for container in &mut info.containers {
                finish(container, now, |status| (status.code, status.lost) = (137, true));
            }
            drop(state);
            let _ = self.events.send(Event::PodDied { pod: pod.clone() });
        }
    }

    fn call(&self, verb: &str, ids: &[&str]) -> Result<()> {
        let mut state = self.state.lock();
        state.calls.push(std::iter::once(verb).chain(ids.iter().copied()).collect::<Vec<_>>().join(" "));
        match state.fail_next.iter().position(|(v, _)| v == verb) {
            Some(at) => {
                Err(state.fail_next.remove(at).map_or_else(|| Error::Invalid(String::new()), |(_, error)| error))
            }
            None => Ok(()),
        }
    }

    fn find(&self, pod: &PodId, container: &ContainerId) -> Result<ContainerInfo> {
        let state = self.state.lock();
        let info = state.pods.get(pod).ok_or_else(|| Error::PodNotFound(pod.clone()))?;
        let found = info.containers.iter().find(|c| c.id == *container);
        found.cloned().ok_or_else(|| Error::ContainerNotFound(container.clone()))
    }
}

fn finish(info: &mut ContainerInfo, now: Timestamp, change: impl FnOnce(&mut ExitStatus)) {
    if let ContainerState::Running { .. } = info.state {
        let mut status = ExitStatus {
            code: 0,
            signal: None,
            oom_killed: false,
            lost: false,
            started_at: info.started_at,
            finished_at: now,
            message: String::new(),
        };
        change(&mut status);
        info.state = ContainerState::Exited(status);
    }
}

impl Runtime for Fake {
    fn list(&self) -> BoxFuture<'_, Result<Vec<PodInfo>>> {
        async { Ok(self.state.lock().pods.values().cloned().collect()) }.boxed()
    }

    fn pod<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<PodInfo>> {
        async { self.state.lock().pods.get(pod).cloned().ok_or_else(|| Error::PodNotFound(pod.clone())) }.boxed()
    }

    fn apply_cgroup<'a>(&'a self, path: &'a str, _: &'a Resources) -> BoxFuture<'a, Result<()>> {
        async move { self.call("apply_cgroup", &[path]) }.boxed()
    }

    fn start_pod(&self, spec: PodSpec) -> BoxFuture<'_, Result<PodInfo>> {
        async move {
            self.call("start_pod", &[&spec.id.0])?;
            let mut state = self.state.lock();
            if state.pods.contains_key(&spec.id) {
                return Err(Error::AlreadyExists(format!("pod {}", spec.id)));
            }
            let info = PodInfo {
                id: spec.id.clone(),
                state: PodState::Ready,
                labels: spec.labels.clone(),
                created_at: state.now,
                containers: Vec::new(),
                spec: Arc::new(spec),
            };
            state.pods.insert(info.id.clone(), info.clone());
            Ok(info)
        }
        .boxed()
    }

    fn update_pod<'a>(&'a self, pod: &'a PodId, _: &'a Resources) -> BoxFuture<'a, Result<()>> {
        async move {
            self.call("update_pod", &[&pod.0])?;
            self.pod(pod).await.map(drop)
        }
        .boxed()
    }

    fn remove_pod<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<()>> {
        async move {
            self.call("remove_pod", &[&pod.0])?;
            self.state.lock().pods.remove(pod);
            Ok(())
        }
        .boxed()
    }

    fn start_container(&self, pod: &PodId, spec: ContainerSpec) -> BoxFuture<'_, Result<ContainerInfo>> {
        let pod = pod.clone();
        async move {
            self.call("start_container", &[&pod.0, &spec.id.0])?;
            let mut state = self.state.lock();
            state.pid += 1;
            let info = ContainerInfo {
                id: spec.id.clone(),
                state: ContainerState::Running { pid: state.pid },
                labels: spec.labels.clone(),
                started_at: state.now,
                tty: spec.tty,
                stdin: spec.stdin,
            };
            let found = state.pods.get_mut(&pod).ok_or_else(|| Error::PodNotFound(pod.clone()))?;
            if found.state == PodState::Dead {
                return Err(Error::ShimGone(pod.clone()));
            }
            if found.containers.iter().any(|c| c.id == spec.id) {
                return Err(Error::AlreadyExists(format!("container {}", spec.id)));
            }
            found.containers.push(info.clone());
            state.specs.insert(spec.id.clone(), spec);
            Ok(info)
        }
        .boxed()
    }

    fn update_container<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerId,
        _: &'a Resources,
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            self.call("update_container", &[&pod.0, &container.0])?;
            self.find(pod, container).map(drop)
        }
        .boxed()
    }

    /// Any signal that would end a process ends the container at once with 128 + signal; script `fail_next("signal", …)`
    /// and `exit` for processes that take their time.
    fn signal<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId, signal: i32) -> BoxFuture<'a, Result<()>> {
        async move {
            self.call("signal", &[&pod.0, &container.0, &signal.to_string()])?;
            self.find(pod, container)?;
            if matches!(signal, libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGQUIT | libc::SIGHUP) {
                self.exit_with(container, |status| (status.code, status.signal) = (128 + signal, Some(signal)));
            }
            Ok(())
        }
        .boxed()
    }

    fn wait<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId) -> BoxFuture<'a, Result<ExitStatus>> {
        async move {
            let mut events = self.events();
            loop {
                if let ContainerState::Exited(status) = self.find(pod, container)?.state {
                    return Ok(status);
                }
                if events.next().await.is_none() {
                    return Err(Error::ShimGone(pod.clone()));
                }
            }
        }
        .boxed()
    }

    fn remove_container<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        async move {
            self.call("remove_container", &[&pod.0, &container.0])?;
            if let Some(info) = self.state.lock().pods.get_mut(pod) {
                info.containers.retain(|c| c.id != *container);
            }
            Ok(())
        }
        .boxed()
    }

    fn exec<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerId,
        spec: ExecSpec,
    ) -> BoxFuture<'a, Result<Session>> {
        async move {
            self.call("exec", &[&pod.0, &container.0, &spec.args.join(" ")])?;
            if let ContainerState::Exited(_) = self.find(pod, container)?.state {
                return Err(Error::NotRunning(container.clone()));
            }
            let answer = self.state.lock().exec.get_mut(container).and_then(VecDeque::pop_front);
            let (code, output) = answer.unwrap_or(Ok((0, Vec::new())))?;
            session(code, &output)
        }
        .boxed()
    }

    fn attach<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerId,
        _: AttachSpec,
    ) -> BoxFuture<'a, Result<Session>> {
        async move {
            self.call("attach", &[&pod.0, &container.0])?;
            self.find(pod, container)?;
            session(0, &[])
        }
        .boxed()
    }

    fn reopen_log<'a>(&'a self, pod: &'a PodId, container: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        async move { self.call("reopen_log", &[&pod.0, &container.0]) }.boxed()
    }

    fn stats<'a>(&'a self, cgroup: &'a str) -> BoxFuture<'a, Result<Stats>> {
        async move { Ok(self.state.lock().stats.get(cgroup).cloned().unwrap_or_default()) }.boxed()
    }

    fn events(&self) -> Events {
        Events::new(self.events.subscribe())
    }
}

/// A finished session: `output` (up to a pipe's 64 KiB) waits on stdout.
fn session(code: i32, output: &[u8]) -> Result<Session> {
    use std::io::Write as _;
    let fault = |source| Error::Io { what: "pipe", path: Default::default(), source };
    let (reader, mut writer) = std::io::pipe().map_err(fault)?;
    writer.write_all(output).map_err(fault)?;
    Ok(Session {
        stdin: None,
        stdout: Some(crate::Reader::new(reader.into()).map_err(fault)?),
        stderr: None,
        resizer: None,
        exit: async move { Ok(code) }.boxed(),
        killer: Arc::new(|_| async { Ok(()) }.boxed()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Rootfs;
    use tokio::io::AsyncReadExt;

    fn pod(id: &str) -> PodSpec {
        PodSpec {
            id: PodId(id.into()),
            hostname: id.into(),
            domainname: String::new(),
            network: Default::default(),
            ipc: Default::default(),
            uts: Default::default(),
            pid: crate::Namespace::Container,
            sysctls: Default::default(),
            cgroup: format!("kubepods/pod{id}"),
            resources: Default::default(),
            shm_size_bytes: 64 << 20,
            labels: Default::default(),
        }
    }

    #[tokio::test]
    async fn follows_its_script() {
        let fake = Fake::new();
        let mut events = fake.events();
        let info = fake.start_pod(pod("a")).await.unwrap();
        let web = ContainerSpec::new("web", vec!["x".into()], Rootfs::Directory("/".into()));
        fake.fail_next("start_container", Error::Invalid("no".into()));
        assert!(fake.start_container(&info.id, web.clone()).await.is_err());
        let web = fake.start_container(&info.id, web).await.unwrap();
        fake.script_exec(&web.id, Ok((3, b"hi".to_vec())));
        let mut session = fake.exec(&info.id, &web.id, ExecSpec::new(vec!["id".into()])).await.unwrap();
        let mut text = String::new();
        session.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), session.exit.await.unwrap()), ("hi", 3));
        fake.exit(&web.id, 7);
        assert_eq!(fake.wait(&info.id, &web.id).await.unwrap().code, 7);
        assert_eq!(
            events.next().await,
            Some(Event::ContainerExited { pod: info.id.clone(), container: web.id.clone() })
        );
        fake.kill_shim(&info.id);
        assert_eq!(fake.pod(&info.id).await.unwrap().state, PodState::Dead);
        assert_eq!(fake.calls().len(), 4);
    }
}
