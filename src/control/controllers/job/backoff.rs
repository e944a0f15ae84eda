//! How long a job waits before it replaces pods that failed: ten seconds, twice as long after each further failure, ten
//! minutes at most.
//!
//! Source: kubernetes `pkg/controller/job/backoff_utils.go`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::pods;

/// Upstream's `DefaultJobPodFailureBackOff` and `MaxJobPodFailureBackOff`.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// The failures since the last success. Kept in memory only, as upstream does: a restart forgives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    pub failures: i32,
    pub last: Option<Timestamp>,
}

impl Backoff {
    /// After more pods have ended.
    pub fn after(self, succeeded: &[&Pod], failed: &[&Pod]) -> Self {
        let success = succeeded.iter().map(|p| ended_at(p)).max();
        let failures: Vec<Timestamp> =
            failed.iter().map(|p| ended_at(p)).filter(|at| success.is_none_or(|s| *at > s)).collect();
        let known = if success.is_some() { Self::default() } else { self };
        let count = i32::try_from(failures.len()).unwrap_or(i32::MAX);
        Self { failures: known.failures.saturating_add(count), last: failures.into_iter().max().or(known.last) }
    }

    /// When pods may be created again; `None`: now.
    pub fn until(self, now: Timestamp) -> Option<Timestamp> {
        wait(self.failures, self.last?, now)
    }
}

/// Until when to wait after so many failures.
pub fn wait(failures: i32, last: Timestamp, now: Timestamp) -> Option<Timestamp> {
    if failures <= 0 {
        return None;
    }
    // From the seventh on it is the longest.
    let doubled = FIRST * 2i32.pow(u32::try_from(failures - 1).unwrap_or(0).min(6));
    Some(last + doubled.min(LONGEST)).filter(|at| *at > now)
}

/// When a pod ended: its last container, or when it was not ready any more, or when its deletion was asked for.
pub fn ended_at(pod: &Pod) -> Timestamp {
    let deleted = || {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        Some(pod.metadata.deletion_timestamp.as_ref()?.0 - SignedDuration::from_secs(grace))
    };
    let unready =
        || pods::condition(pod, "Ready").filter(|c| c.status == "False")?.last_transition_time.as_ref().map(|t| t.0);
    let created = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    containers_ended(pod).or_else(unready).or_else(deleted).unwrap_or(created)
}

/// When the last container ended, those included that run beside the others from the beginning; `None` while one has not.
fn containers_ended(pod: &Pod) -> Option<Timestamp> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let beside = |c: &&ContainerStatus| {
        let mut specs = spec.init_containers.iter().flatten();
        specs.any(|s| s.name == c.name && s.restart_policy.as_deref() == Some("Always"))
    };
    let ended = |c: &ContainerStatus| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0);
    let main = status.container_statuses.iter().flatten();
    let all = main.chain(status.init_container_statuses.iter().flatten().filter(beside));
    all.map(ended).collect::<Option<Vec<_>>>()?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }
    fn text(seconds: i64) -> Value {
        types::time::rfc3339(at(seconds)).into()
    }
    fn container(name: &str, ended: Option<i64>) -> Value {
        let state =
            ended.map_or(json!({"running": {}}), |at| json!({"terminated": {"exitCode": 1, "finishedAt": text(at)}}));
        json!({"name": name, "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state})
    }
    fn pod(ended: i64) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": []},
            "status": {"containerStatuses": [container("c", Some(ended))]}}))
        .unwrap()
    }

    #[test]
    fn waits_double() {
        for (failures, seconds) in [(1, 10), (2, 20), (3, 40), (6, 320), (7, 600), (8, 600), (1000, 600)] {
            let until = at(seconds);
            assert_eq!(wait(failures, at(0), at(seconds - 1)), Some(until), "{failures}");
            assert_eq!(wait(failures, at(0), until), None, "{failures}");
        }
        assert_eq!(wait(0, at(0), at(0)), None);
    }

    #[test]
    fn a_success_forgives_what_was_before_it() {
        let known = Backoff { failures: 2, last: Some(at(5)) };
        let after = |succeeded: &[i64], failed: &[i64]| {
            let (succeeded, failed): (Vec<Pod>, Vec<Pod>) =
                (succeeded.iter().map(|s| pod(*s)).collect(), failed.iter().map(|s| pod(*s)).collect());
            let after = known.after(&succeeded.iter().collect::<Vec<_>>(), &failed.iter().collect::<Vec<_>>());
            (after.failures, after.last.map(|t| t.as_second() - at(0).as_second()))
        };
        assert_eq!(after(&[], &[]), (2, Some(5)));
        assert_eq!(after(&[], &[9, 7]), (4, Some(9)));
        assert_eq!(after(&[10], &[]), (0, None));
        assert_eq!(after(&[10], &[9, 11, 12]), (2, Some(12)));
        assert_eq!(after(&[10], &[9, 10]), (0, None));
    }

    #[test]
    fn when_a_pod_ended() {
        let base = json!({"metadata": {"creationTimestamp": text(1)}, "spec": {"containers": [], "initContainers": [
            {"name": "log", "restartPolicy": "Always"}, {"name": "setup"}]}, "status": {}});
        type Change = fn(&mut Value);
        let rows: &[(&str, Change, i64)] = &[
            ("nothing is known", |_| (), 1),
            (
                "deleted",
                |p| {
                    p["metadata"]["deletionTimestamp"] = text(50);
                    p["metadata"]["deletionGracePeriodSeconds"] = 30.into();
                },
                20,
            ),
            (
                "not ready any more",
                |p| {
                    p["status"]["conditions"] =
                        json!([{"type": "Ready", "status": "False", "lastTransitionTime": text(7)}])
                },
                7,
            ),
            (
                "the last container",
                |p| {
                    p["status"]["containerStatuses"] = json!([container("a", Some(3)), container("b", Some(2))]);
                    p["status"]["initContainerStatuses"] = json!([container("setup", Some(9))]);
                },
                3,
            ),
            (
                "one beside the others",
                |p| {
                    p["status"]["containerStatuses"] = json!([container("a", Some(3))]);
                    p["status"]["initContainerStatuses"] = json!([container("log", Some(4))]);
                },
                4,
            ),
            (
                "one still runs",
                |p| p["status"]["containerStatuses"] = json!([container("a", Some(3)), container("b", None)]),
                1,
            ),
        ];
        for (name, change, ended) in rows {
            let mut pod = base.clone();
            change(&mut pod);
            assert_eq!(ended_at(&serde_json::from_value(pod).unwrap()), at(*ended), "{name}");
        }
    }
}
