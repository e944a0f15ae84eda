//! What an end leaves: the facts of an exit, and everything of a container or a pod that is to be taken off this host.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use runtime::{ContainerId, PodId};

use super::Shared;
use crate::pod;
use crate::translate::container as translate;
use crate::worker::adopt;
use crate::worker::input::Input;

/// End of a container's log that becomes its termination message. Source: `kuberuntime_container.go`.
const LOG_MESSAGE_LINES: usize = 80;
const LOG_MESSAGE_BYTES: usize = 2048;

pub(super) fn remove_logs(folder: &Path, restarts: u32) {
    let head = format!("{restarts}.log");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&head) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Waits for a container's end and tells it.
pub(super) async fn wait(s: Arc<Shared>, pod: Arc<Pod>, container: String, restarts: u32, id: String) {
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
pub(super) async fn clean_up(s: &Shared, pod: &Pod, logs: bool) -> anyhow::Result<()> {
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
