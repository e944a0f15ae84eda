//! What reaches a pod worker, and what it asks for: the input and output alphabets of [`super::step`].

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LifecycleHandler, Pod};

use super::probes::ProbeKind;
use super::state::{ImageRef, SandboxUp, Why};

/// A fact. Facts about instances carry the runtime's id, so that a late one about an earlier instance is ignored.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Look at the clock, and at nothing else.
    Tick,
    /// The API server shows the pod like this now.
    Pod(Arc<Pod>),
    /// The API server has the pod no more.
    Gone,
    /// A ConfigMap or Secret that the pod names has changed or appeared.
    ObjectsChanged,
    /// The node puts the pod out.
    Evict {
        message: String,
        grace: Duration,
    },
    VolumesReady {
        refresh_at: Option<Duration>,
    },
    /// Without a message: it is somebody else's turn.
    VolumesFailed {
        message: String,
    },
    SandboxReady(SandboxUp),
    SandboxFailed {
        message: String,
    },
    /// The process that held the sandbox died, and all containers with it.
    SandboxDied,
    SandboxRemoved,
    /// `took` is zero when the image was there and needed no pull.
    Pulled {
        container: String,
        image: ImageRef,
        pulled: Option<PullFacts>,
    },
    PullFailed {
        container: String,
        why: Why,
        message: String,
    },
    /// The images of these containers are here by now.
    ImagesHere {
        containers: Vec<String>,
    },
    Started {
        container: String,
        id: String,
        at: Timestamp,
    },
    StartFailed {
        container: String,
        id: String,
        failure: StartFailure,
    },
    Exited {
        id: String,
        exit: ExitFacts,
    },
    PostStartDone {
        id: String,
        result: Result<(), String>,
    },
    PreStopDone {
        id: String,
        result: Result<(), String>,
    },
    Probed {
        id: String,
        kind: ProbeKind,
        outcome: Outcome,
    },
    /// Everything of the pod is off this host.
    CleanedUp,
    CleanupFailed {
        message: String,
    },
    /// The API server has a status with a terminal phase.
    VerdictReported,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullFacts {
    pub took: Duration,
    pub waited: Duration,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFailure {
    /// Environment, mounts or user could not be worked out: nothing was made.
    Config(String),
    Create(String),
    /// Made, but its executable could not be run.
    Run(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitFacts {
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    /// The true code is not known.
    pub lost: bool,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    /// What the termination message file (or the log) said.
    pub message: String,
}

/// What is said of a container whose end nobody saw. Source: `pkg/kubelet/status/status_manager.go`.
pub const LOST: &str = "The container could not be located when the pod was terminated";
/// Its exit code, as of a process that was killed.
pub const LOST_CODE: i32 = 137;

impl ExitFacts {
    /// The end of an instance that is not there any more.
    pub fn lost(started_at: Timestamp, finished_at: Timestamp) -> ExitFacts {
        let (signal, oom_killed, message) = (None, false, String::new());
        ExitFacts { code: LOST_CODE, signal, oom_killed, lost: true, started_at, finished_at, message }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Succeeded, but something is odd: shown as an event.
    Warning(String),
    Failure(String),
    /// The probe itself could not be carried out; it counts for nothing.
    Error(String),
}

/// Something to do. Every action that takes time answers with an [`Input`].
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    PrepareVolumes,
    RefreshVolumes,
    StartSandbox {
        attempt: u32,
    },
    /// Removes what a dead sandbox left, so that a new one can be made.
    RemoveSandbox,
    Pull {
        container: String,
    },
    /// `restarts` numbers the instance (and its log file).
    Start {
        container: String,
        id: String,
        restarts: u32,
        image: ImageRef,
    },
    /// Makes the runtime forget a dead instance.
    Forget {
        id: String,
    },
    Signal {
        id: String,
        signal: Signal,
    },
    PostStart {
        container: String,
        id: String,
        hook: Box<LifecycleHandler>,
    },
    PreStop {
        container: String,
        id: String,
        hook: Box<LifecycleHandler>,
        within: Duration,
    },
    Probe {
        container: String,
        id: String,
        kind: ProbeKind,
    },
    Event {
        kind: EventKind,
        reason: &'static str,
        message: String,
        container: Option<String>,
    },
    /// Removes everything of the pod from this host, logs too if `logs`.
    CleanUp {
        logs: bool,
    },
    /// Deletes the object for good, if it still is the one with this uid.
    DeleteObject,
    /// The worker has nothing left to do.
    Exit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Normal,
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// Name or number, as images and pods give it: `SIGTERM`, `QUIT`, `15`, `RTMIN+3`.
    Stop(String),
    Kill,
}
