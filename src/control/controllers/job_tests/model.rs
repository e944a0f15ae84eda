//! A job in a world of its own: pods end as chance has it, plans are carried out in part, and every pod must be counted once.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

struct World {
    job: Job,
    pods: Vec<Pod>,
    backoff: Backoff,
    now: Timestamp,
    born: usize,
    /// Whose end was ever listed, by uid.
    listed: BTreeSet<String>,
    /// Called back while they ran, by uid.
    unwanted: BTreeSet<String>,
    /// What is counted and listed never becomes less.
    known: i32,
}

impl World {
    fn new(job: &Value) -> Self {
        let job: Job = serde_json::from_value(job.clone()).unwrap();
        let (listed, unwanted, backoff) = (BTreeSet::new(), BTreeSet::new(), Backoff::default());
        Self { job, pods: Vec::new(), backoff, now: now(), born: 0, listed, unwanted, known: 0 }
    }

    /// Plans, and does the first `steps` actions. Returns how many there were.
    fn act(&mut self, steps: usize) -> usize {
        let pods: Vec<Arc<Pod>> = self.pods.iter().cloned().map(Arc::new).collect();
        let observed = Observed { job: &self.job, pods: &pods, backoff: self.backoff, failed: false };
        let plan = plan(&observed, self.now);
        let count = plan.actions.len();
        for action in plan.actions.into_iter().take(steps) {
            self.apply(action);
        }
        // The longest wait for pods that failed passes.
        self.now += SignedDuration::from_secs(601);
        count
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Untrack(pods) => {
                for pod in &mut self.pods {
                    if pods.iter().any(|(k, _)| *k == pod.key()) {
                        pod.metadata.finalizers = None;
                        if pods::is_active(pod) {
                            self.unwanted.insert(pod.uid().to_owned());
                        }
                    }
                }
            }
            Action::Delete { pods, .. } => {
                let now = Some(Time(self.now));
                for pod in &mut self.pods {
                    if pods.iter().any(|(k, _)| *k == pod.key()) && !pod.is_terminating() {
                        pod.metadata.deletion_timestamp = now.clone();
                    }
                }
            }
            Action::Create { pod, slots, .. } => {
                for slot in &slots {
                    let mut new = manage::pod_of(&pod, "j", Some(slot));
                    self.born += 1;
                    new.metadata.name = Some(format!("p{}", self.born));
                    new.metadata.uid = new.metadata.name.clone();
                    new.metadata.creation_timestamp = Some(Time(self.now));
                    self.pods.push(new);
                }
                let active = self.pods.iter().filter(|p| pods::is_active(p)).count();
                let parallelism = self.job.spec.as_ref().unwrap().parallelism.unwrap();
                assert!(active <= usize::try_from(parallelism).unwrap(), "more than run at a time");
            }
            Action::Status(job, backoff) => {
                let status = job.status.as_ref().unwrap();
                let lists = status.uncounted_terminated_pods.clone().unwrap_or_default();
                let uids: Vec<String> = lists.succeeded.into_iter().chain(lists.failed).flatten().collect();
                let known =
                    status.succeeded.unwrap_or(0) + status.failed.unwrap_or(0) + i32::try_from(uids.len()).unwrap();
                assert!(known >= self.known, "something is counted no more");
                self.known = known;
                self.listed.extend(uids);
                (self.job, self.backoff) = (*job, backoff);
            }
            Action::Event { .. } => {}
            Action::Adopt { .. } | Action::Release { .. } => panic!("{action:?}"),
        }
    }

    /// Something happens to the pod at `which`.
    fn happen(&mut self, which: usize, what: u8) {
        if self.pods.is_empty() {
            return;
        }
        let at = which % self.pods.len();
        let pod = &mut self.pods[at];
        let over = pods::is_finished(pod);
        let status = pod.status.get_or_insert_default();
        match what % 4 {
            0 if !over => status.phase = Some("Succeeded".into()),
            1 if !over => status.phase = Some("Failed".into()),
            2 if !pod.is_terminating() => pod.metadata.deletion_timestamp = Some(Time(self.now)),
            // The node and the collectors are done with it.
            3 if pod.is_terminating() && pod.metadata.finalizers.is_none() => drop(self.pods.remove(at)),
            _ => {}
        }
    }

    /// No more trouble: what runs succeeds, what is deleted goes, plans are carried out whole.
    fn heal(&mut self) {
        for _ in 0..100 {
            for pod in &mut self.pods {
                if !pods::is_finished(pod) {
                    let phase = if pod.is_terminating() { "Failed" } else { "Succeeded" };
                    pod.status.get_or_insert_default().phase = Some(phase.into());
                }
            }
            while self.act(usize::MAX) > 0 {
                self.pods.retain(|p| !p.is_terminating() || p.metadata.finalizers.is_some());
            }
            if finished(&self.job).is_some() {
                return;
            }
        }
        panic!("never over: {:?}", self.job.status);
    }
}

proptest! {
    #[test]
    fn every_end_is_counted_once(
        completions in 0..6i32, parallelism in 1..4i32, one_by_one in any::<bool>(),
        story in proptest::collection::vec((any::<usize>(), any::<u8>(), 0usize..5), 0..40),
    ) {
        let mut job = job();
        job["spec"]["completions"] = completions.into();
        job["spec"]["parallelism"] = parallelism.into();
        job["spec"]["backoffLimit"] = 1000.into();
        if one_by_one {
            job["spec"]["podReplacementPolicy"] = "Failed".into();
        }
        let mut world = World::new(&job);
        for (which, what, steps) in story {
            world.happen(which, what);
            world.act(steps);
        }
        world.heal();
        let status = world.job.status.clone().unwrap();
        let counted = status.succeeded.unwrap_or(0) + status.failed.unwrap_or(0);
        prop_assert_eq!(usize::try_from(counted).unwrap(), world.listed.len());
        prop_assert_eq!(finished(&world.job).unwrap().type_.as_str(), "Complete");
        // More when one succeeds that was given up already.
        prop_assert!(status.succeeded.unwrap_or(0) >= completions);
        prop_assert!(world.pods.iter().all(|p| !is_tracked(p)));
        // Nobody was left out: whoever ended and was not called back is listed.
        for pod in world.pods.iter().filter(|p| pods::phase(p) == "Succeeded" && !p.is_terminating()) {
            let known = world.listed.contains(pod.uid()) || world.unwanted.contains(pod.uid());
            prop_assert!(known, "{} is not counted", pod.name());
        }
    }

    #[test]
    fn every_index_ends(
        completions in 1..6i32, parallelism in 1..4i32, per_index in proptest::option::of(0..3i32),
        story in proptest::collection::vec((any::<usize>(), any::<u8>(), 0usize..5), 0..40),
    ) {
        let mut job = indexed();
        job["spec"]["completions"] = completions.into();
        job["spec"]["parallelism"] = parallelism.into();
        job["spec"]["backoffLimit"] = 1000.into();
        if let Some(limit) = per_index {
            job["spec"]["backoffLimitPerIndex"] = limit.into();
        }
        let mut world = World::new(&job);
        for (which, what, steps) in story {
            world.happen(which, what);
            world.act(steps);
        }
        world.heal();
        let status = world.job.status.clone().unwrap();
        let indexes = |text: &Option<String>| indexes::Indexes::parse(text.as_deref().unwrap_or_default(), completions);
        let (done, lost) = (indexes(&status.completed_indexes), indexes(&status.failed_indexes));
        prop_assert_eq!(done.total() + lost.total(), completions);
        prop_assert_eq!(done.common(&lost), 0);
        let end = if lost.is_empty() { "Complete" } else { "Failed" };
        prop_assert_eq!(finished(&world.job).unwrap().type_.as_str(), end);
        prop_assert_eq!(status.failed.unwrap_or(0), i32::try_from(world.listed.len()).unwrap());
        prop_assert!(world.pods.iter().all(|p| !is_tracked(p)));
    }
}
