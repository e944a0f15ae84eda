//! What a pod worker knows about its pod: plain data, the `state` of [`super::step`]. Nothing here acts.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodStatus};

use super::backoff::Backoff;
use super::probes::Probes;
use crate::pod::{self, Role};

/// A point in time: the wall clock for what users see, the monotonic one (since the daemon started) for every decision.
/// Jumps of the wall clock therefore move no timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub wall: Timestamp,
    pub mono: Duration,
}

impl Now {
    /// Where a past wall time lies on the monotonic clock, as far as the wall clock can be trusted; never in the future.
    pub fn at(&self, past: Timestamp) -> Duration {
        let age = Duration::try_from(self.wall.duration_since(past)).unwrap_or(Duration::ZERO);
        self.mono.saturating_sub(age)
    }
}

/// Everything about one pod. Made once by [`State::new`], changed only by `step`.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// As the API server last showed it.
    pub pod: Arc<Pod>,
    /// Addresses of this node, the InternalIPs, in the order of its families.
    pub host_ips: Vec<String>,
    /// When this node first saw the pod; `status.startTime`.
    pub start_time: Timestamp,
    /// The same on the monotonic clock, for activeDeadlineSeconds.
    pub start_mono: Duration,
    pub sandbox: Sandbox,
    pub volumes: Volumes,
    /// Something that the volumes show changed while they were being made.
    pub volumes_stale: bool,
    /// In start order: init containers and sidecars, app containers, ephemeral ones.
    pub containers: Vec<Container>,
    /// All init containers are done in this sandbox; they are not looked at again.
    pub initialized: bool,
    pub sandbox_backoff: Backoff,
    pub volume_backoff: Backoff,
    /// How many sandboxes this pod has had here.
    pub sandbox_attempt: u32,
    /// Set once the pod is on its way out, for whatever reason. Never unset.
    pub ending: Option<Ending>,
    /// The terminal phase, once decided. Never changed.
    pub verdict: Option<Verdict>,
    pub cleanup: Cleanup,
    /// The terminal phase reached the API server, or nobody is there to be told.
    pub verdict_reported: bool,
    /// The API server knows the pod no more.
    pub gone: bool,
    /// Asked the API server to drop the object.
    pub delete_sent: bool,
    /// What an earlier daemon, or another hand, said of a pod that has ended. It is never worked out anew.
    pub last_word: Option<Box<PodStatus>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Sandbox {
    /// Not there; may be made from `retry_at` on.
    Absent {
        retry_at: Option<Duration>,
    },
    Starting,
    Up(SandboxUp),
    /// The process that held it died; what is left of it is being removed.
    Removing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxUp {
    /// Pod addresses, primary family first; the node's own for hostNetwork.
    pub ips: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Volumes {
    Absent {
        retry_at: Option<Duration>,
    },
    Preparing,
    /// Mounted. `refresh_at`: when a token in them must be renewed.
    Ready {
        refresh_at: Option<Duration>,
    },
    Refreshing,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub role: Role,
    pub spec: Arc<ContainerSpec>,
    pub stage: Stage,
    /// The instance before the present one.
    pub last: Option<Exit>,
    /// How many instances were started before the present or next one.
    pub restarts: u32,
    /// The image once resolved, for the next start and for the status.
    pub image: Option<ImageRef>,
    pub crash: Backoff,
    pub pull: Backoff,
    pub create: Backoff,
    /// The runtime's id of a dead instance that the runtime still holds.
    pub dead_id: Option<String>,
    /// What users see while it is being replaced.
    pub replaced: Option<Replaced>,
}

/// A container as it was before it was ended for another image, shown for a moment so that a replacement that succeeds at once
/// is seen as one change, not as a container that was down.
#[derive(Debug, Clone, PartialEq)]
pub struct Replaced {
    pub before: Box<Container>,
    pub until: Duration,
}

/// What the worker needs to know of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef {
    /// The name as users gave it, normalised.
    pub name: String,
    /// `repo@sha256:…`, or the image's own id.
    pub id: String,
    /// STOPSIGNAL of its configuration.
    pub stop_signal: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Not running and not being started. `until`: not before that time.
    Waiting(Waiting),
    /// Its image is being resolved or pulled.
    Pulling,
    /// The image is at hand; it starts as soon as sandbox, volumes and its turn allow.
    Pulled,
    /// The runtime was asked to start it.
    Starting,
    Running(Box<Running>),
    /// Ended, and not to be started again (`Exit` is its end).
    Exited(Exit),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    pub why: Why,
    pub message: String,
    pub until: Option<Duration>,
    /// A failed pull first shows its error; from this time on it shows the back-off.
    pub flip_at: Option<Duration>,
}

/// Reason of a waiting container, as the API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Why {
    /// Nothing has gone wrong: shown as ContainerCreating, or PodInitializing behind init containers.
    #[default]
    Turn,
    CrashLoopBackOff,
    ErrImagePull,
    ImagePullBackOff,
    ErrImageNeverPull,
    InvalidImageName,
    ImageInspectError,
    CreateContainerConfigError,
    CreateContainerError,
    RunContainerError,
    PostStartHookError,
}

impl Why {
    pub const fn reason(self) -> Option<&'static str> {
        Some(match self {
            Why::Turn => return None,
            Why::CrashLoopBackOff => "CrashLoopBackOff",
            Why::ErrImagePull => "ErrImagePull",
            Why::ImagePullBackOff => "ImagePullBackOff",
            Why::ErrImageNeverPull => "ErrImageNeverPull",
            Why::InvalidImageName => "InvalidImageName",
            Why::ImageInspectError => "ImageInspectError",
            Why::CreateContainerConfigError => "CreateContainerConfigError",
            Why::CreateContainerError => "CreateContainerError",
            Why::RunContainerError => "RunContainerError",
            Why::PostStartHookError => "PostStartHookError",
        })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    /// The runtime's id.
    pub id: String,
    pub started_at: Timestamp,
    /// The same on the monotonic clock; adoption sets it to "now less the age that the wall clock shows".
    pub started_mono: Duration,
    pub image: ImageRef,
    /// The spec's image text at the time of start: when it changes, the container is restarted.
    pub spec_image: String,
    pub post_start: Hook,
    pub probes: Probes,
    pub kill: Option<Kill>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    None,
    Running,
    Done,
}

/// A container on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    pub stage: KillStage,
    /// The end shows this message instead of none (failed probes and hooks).
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillStage {
    /// Its preStop hook runs, at most until then.
    PreStop {
        until: Duration,
    },
    /// The stop signal was sent; SIGKILL follows then.
    Signalled {
        until: Duration,
    },
    Killed,
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub id: Option<String>,
    pub image: Option<ImageRef>,
    pub code: i32,
    pub signal: Option<i32>,
    pub reason: &'static str,
    pub message: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// Why a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// deletionTimestamp is set.
    Deleted,
    /// The object is gone from the API.
    Removed,
    /// activeDeadlineSeconds are over.
    DeadlineExceeded,
    /// Every app container, or an init container that must not be retried, has ended for good.
    Finished,
    /// Put out by the node.
    Evicted,
    /// Never let in.
    Rejected,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub why: EndReason,
    /// Until then everything has stopped by itself or is killed.
    pub deadline: Duration,
}

/// The terminal phase and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// `Succeeded` or `Failed`; `None` decides by exit codes once everything has stopped.
    pub phase: Option<&'static str>,
    pub reason: String,
    pub message: String,
}

/// What of the pod is left on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    Needed {
        retry_at: Option<Duration>,
    },
    Running {
        logs: bool,
    },
    /// `logs`: the log files too, because nobody can ask for them any more.
    Done {
        logs: bool,
    },
}

impl State {
    /// A pod that this node has not seen before, and that it lets in.
    pub fn new(pod: Arc<Pod>, host_ips: Vec<String>, now: Now) -> State {
        let containers =
            pod::containers(&pod).into_iter().map(|(role, spec)| Container::new(role, Arc::new(spec))).collect();
        let start_time = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(now.wall, |t| t.0);
        let start_mono = now.at(start_time);
        State {
            pod,
            host_ips,
            start_time,
            start_mono,
            sandbox: Sandbox::Absent { retry_at: None },
            volumes: Volumes::Absent { retry_at: None },
            volumes_stale: false,
            containers,
            initialized: false,
            sandbox_backoff: Backoff::default(),
            volume_backoff: Backoff::default(),
            sandbox_attempt: 0,
            ending: None,
            verdict: None,
            cleanup: Cleanup::Needed { retry_at: None },
            verdict_reported: false,
            gone: false,
            delete_sent: false,
            last_word: None,
        }
    }

    /// A pod that does not fit this node: it fails without ever having run.
    pub fn rejected(pod: Arc<Pod>, host_ips: Vec<String>, now: Now, reason: &str, message: &str) -> State {
        let mut state = State::new(pod, host_ips, now);
        state.ending = Some(Ending { why: EndReason::Rejected, deadline: now.mono });
        state.verdict = Some(Verdict { phase: Some("Failed"), reason: reason.to_owned(), message: message.to_owned() });
        state.cleanup = Cleanup::Done { logs: true };
        state
    }

    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.spec.name == name)
    }

    pub fn container_mut(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| c.spec.name == name)
    }

    /// The container whose present instance has this id.
    pub fn running_mut(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| matches!(&c.stage, Stage::Running(r) if r.id == id))
    }

    /// Nothing runs and nothing is about to.
    pub fn stopped(&self) -> bool {
        self.containers.iter().all(|c| match c.stage {
            Stage::Waiting(_) | Stage::Exited(_) | Stage::Pulling | Stage::Pulled => true,
            Stage::Starting | Stage::Running(_) => false,
        })
    }
}

impl Container {
    pub fn new(role: Role, spec: Arc<ContainerSpec>) -> Container {
        Container {
            role,
            spec,
            stage: Stage::Waiting(Waiting::default()),
            last: None,
            restarts: 0,
            image: None,
            crash: Backoff::default(),
            pull: Backoff::default(),
            create: Backoff::default(),
            dead_id: None,
            replaced: None,
        }
    }

    pub fn running(&self) -> Option<&Running> {
        match &self.stage {
            Stage::Running(r) => Some(r),
            Stage::Waiting(_) | Stage::Pulling | Stage::Pulled | Stage::Starting | Stage::Exited(_) => None,
        }
    }

    pub fn exited(&self) -> Option<&Exit> {
        match &self.stage {
            Stage::Exited(e) => Some(e),
            Stage::Waiting(_) | Stage::Pulling | Stage::Pulled | Stage::Starting | Stage::Running(_) => None,
        }
    }

    /// Runs, and its startup probe (if any) and postStart hook are through.
    pub fn started(&self) -> bool {
        self.running().is_some_and(|r| r.probes.started() && r.post_start != Hook::Running)
    }

    /// Runs, is started, and its readiness probe (if any) says so.
    pub fn ready(&self) -> bool {
        self.running().is_some_and(|r| r.probes.started() && r.probes.ready())
    }

    /// Waits for an image that could not be had.
    pub fn lacks_image(&self) -> bool {
        match &self.stage {
            Stage::Waiting(w) => matches!(w.why, Why::ErrImagePull | Why::ImagePullBackOff | Why::ErrImageNeverPull),
            Stage::Pulling | Stage::Pulled | Stage::Starting | Stage::Running(_) | Stage::Exited(_) => false,
        }
    }

    /// As users see it: see [`Replaced`].
    pub fn shown(&self) -> &Container {
        self.replaced.as_ref().map_or(self, |r| &r.before)
    }

    /// Whether the replacement is still on its way and has met with nothing that users must know.
    pub fn being_replaced(&self) -> bool {
        match &self.stage {
            Stage::Waiting(w) => w.why == Why::Turn,
            Stage::Pulling | Stage::Pulled | Stage::Starting => true,
            Stage::Running(_) | Stage::Exited(_) => false,
        }
    }

    /// On its way up: later containers wait for it.
    pub fn in_progress(&self) -> bool {
        match &self.stage {
            Stage::Pulling | Stage::Pulled | Stage::Starting => true,
            Stage::Running(r) => r.post_start == Hook::Running,
            Stage::Waiting(_) | Stage::Exited(_) => false,
        }
    }
}
