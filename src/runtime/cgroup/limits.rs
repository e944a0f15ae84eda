//! From limits to what is written into which file. Pure.

use super::Version;
use crate::spec::Resources;

/// One write: v1 hierarchy that owns the file, file name, text. `optional`: the file may be missing (kernel option).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub controller: &'static str,
    pub file: String,
    pub value: String,
    pub optional: bool,
}

/// CPU weight (1..=10000) that stands for v1 shares on v2, at pod and class level.
///
/// Source: pkg/kubelet/cm/cgroup_manager_linux.go CPUSharesToCPUWeight
pub fn pod_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// The writes that bring a cgroup to `resources`, in order.
pub fn writes(version: Version, resources: &Resources) -> Vec<Write> {
    let mut out = Vec::new();
    let mut add = |controller, file: &str, value: String, optional| {
        out.push(Write { controller, file: file.to_owned(), value, optional });
    };
    let period = resources.cpu_period_us.unwrap_or(100_000);
    let or_max = |n: i64| if n < 0 { "max".to_owned() } else { n.to_string() };
    match version {
        Version::V1 => {
            if let Some(shares) = resources.cpu_shares {
                add("cpu", "cpu.shares", shares.clamp(2, 262_144).to_string(), false);
            }
            if let Some(quota) = resources.cpu_quota_us {
                add("cpu", "cpu.cfs_period_us", period.to_string(), true);
                add("cpu", "cpu.cfs_quota_us", quota.max(-1).to_string(), true);
            }
            if let Some(cpus) = &resources.cpuset_cpus {
                add("cpuset", "cpuset.cpus", cpus.clone(), false);
            }
            if let Some(mems) = &resources.cpuset_mems {
                add("cpuset", "cpuset.mems", mems.clone(), false);
            }
            if let Some(bytes) = resources.memory_limit_bytes {
                add("memory", "memory.limit_in_bytes", bytes.max(-1).to_string(), false);
            }
            if let Some(bytes) = resources.memory_and_swap_limit_bytes {
                add("memory", "memory.memsw.limit_in_bytes", bytes.max(-1).to_string(), true);
            }
            if let Some(pids) = resources.pids_limit {
                add("pids", "pids.max", or_max(pids), false);
            }
            for (size, bytes) in &resources.hugepages_bytes {
                add("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"), bytes.to_string(), *bytes == 0);
            }
        }
        Version::V2 => {
            if let Some(shares) = resources.cpu_shares {
                add("cpu", "cpu.weight", pod_weight(shares).to_string(), false);
            }
            if let Some(quota) = resources.cpu_quota_us {
                add("cpu", "cpu.max", format!("{} {period}", or_max(quota)), false);
            }
            if let Some(cpus) = &resources.cpuset_cpus {
                add("cpuset", "cpuset.cpus", cpus.clone(), false);
            }
            if let Some(mems) = &resources.cpuset_mems {
                add("cpuset", "cpuset.mems", mems.clone(), false);
            }
            if let Some(bytes) = resources.memory_min_bytes {
                add("memory", "memory.min", bytes.to_string(), false);
            }
            if let Some(bytes) = resources.memory_high_bytes {
                add("memory", "memory.high", bytes.to_string(), false);
            }
            if let Some(bytes) = resources.memory_limit_bytes {
                add("memory", "memory.max", or_max(bytes), false);
            }
            if let Some(both) = resources.memory_and_swap_limit_bytes {
                // v2 counts swap alone.
                let swap = match (both, resources.memory_limit_bytes) {
                    (both, _) if both < 0 => "max".to_owned(),
                    (both, Some(memory)) if memory >= 0 => (both - memory).max(0).to_string(),
                    (both, _) => both.to_string(),
                };
                add("memory", "memory.swap.max", swap, true);
            }
            if let Some(group) = resources.oom_group {
                add("memory", "memory.oom.group", u8::from(group).to_string(), true);
            }
            if let Some(pids) = resources.pids_limit {
                add("pids", "pids.max", or_max(pids), false);
            }
            for (size, bytes) in &resources.hugepages_bytes {
                add("hugetlb", &format!("hugetlb.{size}.max"), bytes.to_string(), *bytes == 0);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(version: Version, resources: &Resources) -> Vec<String> {
        writes(version, resources).into_iter().map(|w| format!("{}={}", w.file, w.value)).collect()
    }

    #[test]
    fn limits_become_writes() {
        let resources = Resources {
            memory_limit_bytes: Some(64 << 20),
            memory_and_swap_limit_bytes: Some(64 << 20),
            oom_group: Some(true),
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            pids_limit: Some(-1),
            hugepages_bytes: [("2MB".to_owned(), 0)].into(),
            ..Resources::default()
        };
        assert_eq!(
            lines(Version::V1, &resources),
            [
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=67108864",
                "pids.max=max",
                "hugetlb.2MB.limit_in_bytes=0"
            ]
        );
        assert_eq!(
            lines(Version::V2, &resources),
            [
                "cpu.weight=20",
                "cpu.max=50000 100000",
                "memory.max=67108864",
                "memory.swap.max=0",
                "memory.oom.group=1",
                "pids.max=max",
                "hugetlb.2MB.max=0"
            ]
        );
        let none = Resources { memory_limit_bytes: Some(-1), cpu_quota_us: Some(-1), ..Resources::default() };
        assert_eq!(lines(Version::V2, &none), ["cpu.max=max 100000", "memory.max=max"]);
        assert_eq!(
            lines(Version::V1, &none),
            ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=-1", "memory.limit_in_bytes=-1"]
        );
        assert!(lines(Version::V2, &Resources::default()).is_empty());
    }

    #[test]
    fn weights_are_upstreams() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(pod_weight(shares), weight, "{shares}");
        }
    }
}
