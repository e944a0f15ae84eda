//! When a running container is probed and what the outcomes mean. Pure: the I/O of a probe is in [`crate::probe`].
//!
//! Source: `pkg/kubelet/prober/worker.go`, `prober_manager.go`.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

use super::input::Outcome;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

    /// As events begin: `Liveness probe failed: …`.
    pub const fn shown(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }

    /// As the kill message says: `failed liveness probe`.
    pub const fn lower(self) -> &'static str {
        match self {
            ProbeKind::Startup => "startup",
            ProbeKind::Liveness => "liveness",
            ProbeKind::Readiness => "readiness",
        }
    }

    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// The probes of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probes {
    startup: Option<Schedule>,
    liveness: Option<Schedule>,
    readiness: Option<Schedule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Schedule {
    next_at: Duration,
    period: Duration,
    success_threshold: u32,
    failure_threshold: u32,
    in_flight: bool,
    /// The last outcome and how often it came in a row.
    run: Option<(bool, u32)>,
    /// What the thresholds made of it; `None` until then.
    settled: Option<bool>,
}

/// What a probe's outcome leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Nothing,
    /// Readiness or startedness is another one now.
    Changed,
    /// The container is to be killed.
    Kill,
}

impl Probes {
    /// The probes of an instance that started at `started`. `now` is later than that for adopted ones, which have had
    /// their initial delay.
    pub fn new(container: &Container, started: Duration, now: Duration) -> Probes {
        let schedule = |kind: ProbeKind| {
            kind.of(container).map(|p| {
                let seconds =
                    |n: Option<i32>, least: u32, default: u32| n.map_or(default, |n| (n.max(0) as u32).max(least));
                let delay = Duration::from_secs(u64::from(seconds(p.initial_delay_seconds, 0, 0)));
                Schedule {
                    next_at: (started + delay).max(now),
                    period: Duration::from_secs(u64::from(seconds(p.period_seconds, 1, 10))),
                    success_threshold: seconds(p.success_threshold, 1, 1),
                    failure_threshold: seconds(p.failure_threshold, 1, 3),
                    in_flight: false,
                    run: None,
                    settled: None,
                }
            })
        };
        Probes {
            startup: schedule(ProbeKind::Startup),
            liveness: schedule(ProbeKind::Liveness),
            readiness: schedule(ProbeKind::Readiness),
        }
    }

    /// For an adopted instance: what its status said before the daemon went away still holds until probed again.
    pub fn assume(&mut self, started: bool, ready: bool) {
        if started && let Some(s) = &mut self.startup {
            s.settled = Some(true);
        }
        if let Some(r) = &mut self.readiness {
            r.settled = Some(ready);
        }
    }

    fn get_mut(&mut self, kind: ProbeKind) -> Option<&mut Schedule> {
        match kind {
            ProbeKind::Startup => self.startup.as_mut(),
            ProbeKind::Liveness => self.liveness.as_mut(),
            ProbeKind::Readiness => self.readiness.as_mut(),
        }
    }

    fn get(&self, kind: ProbeKind) -> Option<&Schedule> {
        match kind {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
        }
    }

    /// No startup probe, or it has succeeded.
    pub fn started(&self) -> bool {
        self.startup.as_ref().is_none_or(|s| s.settled == Some(true))
    }

    /// No readiness probe, or it succeeds.
    pub fn ready(&self) -> bool {
        self.readiness.as_ref().is_none_or(|s| s.settled == Some(true))
    }

    /// Startup first; liveness and readiness wait for it. A pod that ends keeps only its readiness probes.
    fn active(&self, kind: ProbeKind, ending: bool) -> bool {
        match kind {
            ProbeKind::Startup => !ending && !self.started(),
            ProbeKind::Liveness => !ending && self.started(),
            ProbeKind::Readiness => self.started(),
        }
    }

    /// The probes to carry out now; they count as begun.
    pub fn due(&mut self, now: Duration, ending: bool) -> Vec<ProbeKind> {
        let mut due = Vec::new();
        for kind in ProbeKind::ALL {
            let active = self.active(kind, ending);
            if let Some(s) = self.get_mut(kind)
                && active
                && !s.in_flight
                && s.next_at <= now
            {
                s.in_flight = true;
                due.push(kind);
            }
        }
        due
    }

    /// When `due` has something next.
    pub fn next_at(&self, ending: bool) -> Option<Duration> {
        ProbeKind::ALL
            .into_iter()
            .filter(|kind| self.active(*kind, ending))
            .filter_map(|kind| self.get(kind))
            .filter(|s| !s.in_flight)
            .map(|s| s.next_at)
            .min()
    }

    /// Takes an outcome in.
    pub fn absorb(&mut self, kind: ProbeKind, outcome: &Outcome, now: Duration) -> Verdict {
        let Some(s) = self.get_mut(kind) else { return Verdict::Nothing };
        s.in_flight = false;
        // The period runs from the last start, as a ticker would; a probe slower than its period is not made up for.
        s.next_at = (s.next_at + s.period).max(now);
        let success = match outcome {
            Outcome::Success | Outcome::Warning(_) => true,
            Outcome::Failure(_) => false,
            Outcome::Error(_) => return Verdict::Nothing,
        };
        let count = match s.run {
            Some((last, n)) if last == success => n.saturating_add(1),
            Some(_) | None => 1,
        };
        s.run = Some((success, count));
        let threshold = if success { s.success_threshold } else { s.failure_threshold };
        if count < threshold {
            return Verdict::Nothing;
        }
        let before = s.settled;
        s.settled = Some(success);
        match (kind, success) {
            (ProbeKind::Startup | ProbeKind::Liveness, false) => Verdict::Kill,
            (ProbeKind::Startup, true) => {
                // The others begin at once, not a period later.
                for other in [&mut self.liveness, &mut self.readiness].into_iter().flatten() {
                    other.next_at = other.next_at.min(now);
                }
                Verdict::Changed
            }
            (ProbeKind::Liveness, true) => Verdict::Nothing,
            (ProbeKind::Readiness, _) if before == Some(success) => Verdict::Nothing,
            (ProbeKind::Readiness, _) => Verdict::Changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn container(startup: bool) -> Container {
        let probe = Probe { period_seconds: Some(5), initial_delay_seconds: Some(2), ..Probe::default() };
        Container {
            liveness_probe: Some(probe.clone()),
            readiness_probe: Some(Probe { success_threshold: Some(2), failure_threshold: Some(1), ..probe.clone() }),
            startup_probe: startup.then_some(probe),
            ..Container::default()
        }
    }

    #[test]
    fn without_probes_a_container_is_started_and_ready() {
        let mut p = Probes::new(&Container::default(), s(1), s(1));
        assert!(p.started() && p.ready());
        assert!(p.due(s(100), false).is_empty());
        assert_eq!(p.next_at(false), None);
    }

    #[test]
    fn startup_gates_the_others_and_releases_them_at_once() {
        let mut p = Probes::new(&container(true), s(10), s(10));
        assert!(!p.started() && !p.ready());
        assert_eq!(p.next_at(false), Some(s(12)));
        assert!(p.due(s(11), false).is_empty());
        assert_eq!(p.due(s(12), false), [ProbeKind::Startup]);
        assert!(p.due(s(12), false).is_empty(), "one at a time");
        assert_eq!(p.absorb(ProbeKind::Startup, &Outcome::Success, s(13)), Verdict::Changed);
        assert!(p.started());
        assert_eq!(p.due(s(13), false), [ProbeKind::Liveness, ProbeKind::Readiness]);
    }

    #[test]
    fn thresholds_count_outcomes_in_a_row() {
        let mut p = Probes::new(&container(false), s(0), s(0));
        let fail = Outcome::Failure("no".into());
        // liveness: three failures in a row
        assert_eq!(p.absorb(ProbeKind::Liveness, &fail, s(2)), Verdict::Nothing);
        assert_eq!(p.absorb(ProbeKind::Liveness, &fail, s(7)), Verdict::Nothing);
        assert_eq!(p.absorb(ProbeKind::Liveness, &Outcome::Success, s(12)), Verdict::Nothing);
        assert_eq!(p.absorb(ProbeKind::Liveness, &fail, s(17)), Verdict::Nothing);
        assert_eq!(
            p.absorb(ProbeKind::Liveness, &Outcome::Error("x".into()), s(20)),
            Verdict::Nothing,
            "counts for nothing"
        );
        assert_eq!(p.absorb(ProbeKind::Liveness, &fail, s(22)), Verdict::Nothing);
        assert_eq!(p.absorb(ProbeKind::Liveness, &fail, s(27)), Verdict::Kill);
        // readiness: two successes make it ready, one failure undoes it
        assert_eq!(p.absorb(ProbeKind::Readiness, &Outcome::Success, s(2)), Verdict::Nothing);
        assert_eq!(p.absorb(ProbeKind::Readiness, &Outcome::Success, s(7)), Verdict::Changed);
        assert!(p.ready());
        assert_eq!(p.absorb(ProbeKind::Readiness, &Outcome::Success, s(12)), Verdict::Nothing);
        assert_eq!(p.absorb(ProbeKind::Readiness, &fail, s(17)), Verdict::Changed);
        assert!(!p.ready());
    }

    #[test]
    fn a_pod_that_ends_keeps_its_readiness_probes_only() {
        let mut p = Probes::new(&container(false), s(0), s(0));
        assert_eq!(p.due(s(5), true), [ProbeKind::Readiness]);
        let mut p = Probes::new(&container(true), s(0), s(0));
        assert!(p.due(s(5), true).is_empty());
    }
}
