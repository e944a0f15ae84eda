//! What the pods and the host use: counters of the cgroups, and the rate between two looks at them.
//!
//! Nothing is measured until somebody asks. The rate is taken since the last time that somebody did; when that is too long ago,
//! two looks are taken a second apart. The first look at an instance may be its start, when its counter stood at nothing.
//!
//! Source: metrics-server `pkg/storage` (what a rate is taken of, and from when on), cadvisor `container/common` for the host's
//! memory.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use runtime::{ContainerState, PodInfo, Stats};
use tokio::sync::Mutex;

use crate::agent::Workers;
use crate::host::Host;
use crate::pod;

/// Whoever asks again within this gets the same answer: a rate over less says more of the scheduler than of the program, and
/// many askers cost no more than one.
const FRESH: Duration = Duration::from_secs(5);
/// A look from longer ago tells of other times. Source: metrics-server's default resolution, four of which are missed.
const WINDOW_MAX: Duration = Duration::from_secs(60);
/// Between the two looks when there is no earlier one: a hundred ticks of the coarsest counter there is.
const PAIR: Duration = Duration::from_secs(1);
/// How old an instance must be for its start to be its first look. Source: `freshContainerMinMetricsResolution`.
const FROM_START_MIN: Duration = Duration::from_secs(10);
/// The host as a whole, where cgroups have their paths.
const MACHINE: &str = "/";
/// The unit of /proc/stat. Source: proc_stat(5); `USER_HZ` is 100 in the kernel's interface of every architecture we build for.
const TICK_NS: u64 = 10_000_000;

/// One look at the counters of a cgroup.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// When, by the monotonic clock and by the wall's.
    pub mono: Duration,
    pub at: Timestamp,
    pub stats: Stats,
}

/// What was used at one time, and at which rate until then.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    pub at: Timestamp,
    pub stats: Stats,
    pub rate: Option<Rate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds of CPU time a second.
    pub nano_cores: u64,
    pub window: Duration,
}

#[derive(Debug)]
pub struct ContainerUsage {
    pub name: String,
    pub started_at: Timestamp,
    pub usage: Usage,
}

#[derive(Debug)]
pub struct PodUsage {
    pub pod: Arc<Pod>,
    pub started_at: Timestamp,
    pub usage: Usage,
    /// Those that run, in the order of the pod's workers.
    pub containers: Vec<ContainerUsage>,
}

#[derive(Debug)]
pub struct Sample {
    pub node: Usage,
    pub pods: Vec<PodUsage>,
}

type Looks = BTreeMap<String, Look>;

/// Remembers the last look. One measure at a time; others wait for its answer.
#[derive(Default)]
pub struct Meter(Mutex<Last>);

#[derive(Default)]
struct Last {
    looks: Looks,
    sample: Option<(Duration, Arc<Sample>)>,
}

/// A pod that runs, where its counters are, and what its containers are called.
struct Place {
    pod: Arc<Pod>,
    info: PodInfo,
    names: BTreeMap<String, String>,
}

impl Place {
    fn cgroup(&self) -> &str {
        &self.info.spec.cgroup
    }

    /// The containers that run: name, cgroup and start.
    fn containers(&self) -> impl Iterator<Item = (&str, String, Timestamp)> {
        let running = self.info.containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
        running.filter_map(|c| {
            let name = self.names.get(&c.id.0)?;
            Some((name.as_str(), format!("{}/{}", self.cgroup(), c.id.0), c.started_at))
        })
    }

    /// Every counter of the pod and when it began.
    fn counters(&self) -> impl Iterator<Item = (String, Timestamp)> {
        let own = (self.cgroup().to_owned(), self.info.created_at);
        std::iter::once(own).chain(self.containers().map(|(_, cgroup, started)| (cgroup, started)))
    }
}

impl Meter {
    /// What is used now. Takes up to a second, unless somebody asked within the last minute.
    ///
    /// # Errors
    /// The runtime does not answer. A counter that cannot be read is left out.
    pub async fn measure(&self, host: &Host, workers: &Workers) -> runtime::Result<Arc<Sample>> {
        let mut last = self.0.lock().await;
        let now = host.now().mono;
        if let Some((taken, sample)) = &last.sample
            && now.saturating_sub(*taken) < FRESH
        {
            return Ok(Arc::clone(sample));
        }
        let mut places = places(host, workers).await?;
        let mut looks = look(host, &places).await;
        let mut bases = bases(&last.looks, &looks, &places);
        if bases.len() < looks.len() {
            tokio::time::sleep(PAIR).await;
            let first = looks;
            places = self::places(host, workers).await?;
            looks = look(host, &places).await;
            for (cgroup, look) in first {
                bases.entry(cgroup).or_insert(look);
            }
        }
        let sample = Arc::new(sample(&places, &looks, &bases));
        *last = Last { looks, sample: Some((host.now().mono, Arc::clone(&sample))) };
        Ok(sample)
    }
}

async fn places(host: &Host, workers: &Workers) -> runtime::Result<Vec<Place>> {
    let mut infos: BTreeMap<String, PodInfo> =
        host.runtime.list().await?.into_iter().map(|i| (i.id.0.clone(), i)).collect();
    let snapshots = workers.snapshots().into_iter();
    Ok(snapshots
        .filter_map(|s| {
            let info = infos.remove(pod::uid(&s.pod))?;
            let names = s.running.into_iter().map(|(name, id, _)| (id, name)).collect();
            Some(Place { pod: s.pod, info, names })
        })
        .collect())
}

async fn look(host: &Host, places: &[Place]) -> Looks {
    let mut looks = Looks::new();
    let mut put = |cgroup: String, stats: Stats| {
        let now = host.now();
        looks.insert(cgroup, Look { mono: now.mono, at: now.wall, stats });
    };
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    put(MACHINE.to_owned(), machine(&read("/proc/stat"), &read("/proc/meminfo")));
    for place in places {
        for (cgroup, _) in place.counters() {
            if let Ok(stats) = host.runtime.stats(&cgroup).await {
                put(cgroup, stats);
            }
        }
        // Some hundred small files are read for a full node: others may be served between.
        tokio::task::yield_now().await;
    }
    looks
}

/// From where on the rates of these looks are taken; missing is what is known of for too short a time.
fn bases(earlier: &Looks, looks: &Looks, places: &[Place]) -> Looks {
    let starts: BTreeMap<String, Timestamp> = places.iter().flat_map(Place::counters).collect();
    let base = |cgroup: &String, look: &Look| {
        if let Some(base) = earlier.get(cgroup).filter(|base| look.mono.saturating_sub(base.mono) <= WINDOW_MAX) {
            return Some(base.clone());
        }
        let at = *starts.get(cgroup)?;
        let age = Duration::try_from(look.at.duration_since(at)).ok()?;
        let fits = (FROM_START_MIN..=WINDOW_MAX).contains(&age);
        fits.then(|| Look { mono: look.mono.saturating_sub(age), at, stats: Stats::default() })
    };
    looks.iter().filter_map(|(cgroup, look)| Some((cgroup.clone(), base(cgroup, look)?))).collect()
}

/// The rate from one look to a later one; `None` when the counter began anew between them.
fn rate(base: &Look, look: &Look) -> Option<Rate> {
    let window = look.mono.checked_sub(base.mono).filter(|w| !w.is_zero())?;
    let used = look.stats.cpu_usage_ns.checked_sub(base.stats.cpu_usage_ns)?;
    let nano_cores = u128::from(used) * 1_000_000_000 / window.as_nanos();
    Some(Rate { nano_cores: u64::try_from(nano_cores).ok()?, window })
}

fn sample(places: &[Place], looks: &Looks, bases: &Looks) -> Sample {
    let usage = |cgroup: &str| {
        let look = looks.get(cgroup)?;
        let rate = bases.get(cgroup).and_then(|base| rate(base, look));
        Some(Usage { at: look.at, stats: look.stats.clone(), rate })
    };
    let of_pod = |place: &Place| {
        let containers = place.containers().filter_map(|(name, cgroup, started_at)| {
            Some(ContainerUsage { name: name.to_owned(), started_at, usage: usage(&cgroup)? })
        });
        Some(PodUsage {
            pod: Arc::clone(&place.pod),
            started_at: place.info.created_at,
            usage: usage(place.cgroup())?,
            containers: containers.collect(),
        })
    };
    let nothing = || Usage { at: Timestamp::UNIX_EPOCH, stats: Stats::default(), rate: None };
    Sample { node: usage(MACHINE).unwrap_or_else(nothing), pods: places.iter().filter_map(of_pod).collect() }
}

/// The host as a whole: all CPU time that was not idle, and memory less what the kernel could drop at once.
///
/// Source: proc_stat(5), proc_meminfo(5).
fn machine(stat: &str, meminfo: &str) -> Stats {
    let times = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = times.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    // user, nice, system, irq, softirq and steal; guests are in user's already.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|i| ticks.get(*i)).sum();
    let bytes = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let total = bytes("MemTotal");
    let usage = total.saturating_sub(bytes("MemFree"));
    Stats {
        cpu_usage_ns: busy.saturating_mul(TICK_NS),
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(bytes("Inactive(file)")),
        memory_rss_bytes: bytes("AnonPages"),
        memory_cache_bytes: bytes("Cached"),
        memory_limit_bytes: Some(total),
        swap_usage_bytes: bytes("SwapTotal").saturating_sub(bytes("SwapFree")),
        ..Stats::default()
    }
}

impl Usage {
    /// When the window of its rate began.
    pub fn since(&self) -> Timestamp {
        let window = self.rate.map_or(Duration::ZERO, |r| r.window);
        self.at - SignedDuration::try_from(window).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(mono_ms: u64, cpu_ns: u64) -> Look {
        let at = Timestamp::from_millisecond(mono_ms as i64).unwrap();
        Look { mono: Duration::from_millis(mono_ms), at, stats: Stats { cpu_usage_ns: cpu_ns, ..Stats::default() } }
    }

    #[test]
    fn a_rate_is_what_was_used_over_how_long_it_took() {
        for (name, base, later, expected) in [
            ("half a core", look(0, 0), look(2000, 1_000_000_000), Some((500_000_000, 2000))),
            ("idle", look(1000, 7), look(2000, 7), Some((0, 1000))),
            ("the counter began anew", look(1000, 7), look(2000, 6), None),
            ("no time went by", look(1000, 7), look(1000, 8), None),
            ("the clock of another", look(2000, 7), look(1000, 8), None),
        ] {
            let expected = expected.map(|(nano_cores, ms)| Rate { nano_cores, window: Duration::from_millis(ms) });
            assert_eq!(rate(&base, &later), expected, "{name}");
        }
    }

    #[test]
    fn the_host_is_read_from_proc() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 2 3 4\n";
        let meminfo = "MemTotal:       1000 kB\nMemFree:         300 kB\nInactive(file):   50 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n";
        let stats = machine(stat, meminfo);
        assert_eq!(stats.cpu_usage_ns, 171 * 10_000_000);
        assert_eq!((stats.memory_usage_bytes, stats.memory_working_set_bytes), (700 * 1024, 650 * 1024));
        assert_eq!(stats.swap_usage_bytes, 6 * 1024);
        assert_eq!(machine("", "nothing").cpu_usage_ns, 0);
    }
}
