//! Usage of one cgroup, from the files of either version.

use super::Version;
use crate::api::Stats;

/// `read` gives a file's text, or nothing when the kernel does not have it.
pub fn read(version: Version, read: &dyn Fn(&str, &str) -> Option<String>) -> Stats {
    let number = |controller: &str, file: &str| -> u64 {
        read(controller, file).and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    let keyed = |controller: &str, file: &str| {
        let text = read(controller, file).unwrap_or_default();
        move |key: &str| -> u64 {
            text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
        }
    };
    match version {
        Version::V2 => {
            let (cpu, memory, events) =
                (keyed("cpu", "cpu.stat"), keyed("memory", "memory.stat"), keyed("memory", "memory.events"));
            let usage = number("memory", "memory.current");
            Stats {
                cpu_usage_ns: cpu("usage_usec") * 1000,
                cpu_throttled_periods: cpu("nr_throttled"),
                cpu_periods: cpu("nr_periods"),
                memory_usage_bytes: usage,
                memory_working_set_bytes: usage.saturating_sub(memory("inactive_file")),
                memory_rss_bytes: memory("anon"),
                memory_cache_bytes: memory("file"),
                memory_limit_bytes: read("memory", "memory.max").and_then(|text| text.trim().parse().ok()),
                swap_usage_bytes: number("memory", "memory.swap.current"),
                page_faults: memory("pgfault"),
                major_page_faults: memory("pgmajfault"),
                pids: number("pids", "pids.current"),
                oom_kills: events("oom_kill"),
            }
        }
        Version::V1 => {
            let (cpu, memory, oom) =
                (keyed("cpu", "cpu.stat"), keyed("memory", "memory.stat"), keyed("memory", "memory.oom_control"));
            let usage = number("memory", "memory.usage_in_bytes");
            // "No limit" is the largest page-aligned i64; anything near it means nothing.
            let limit = number("memory", "memory.limit_in_bytes");
            let both = number("memory", "memory.memsw.usage_in_bytes");
            Stats {
                cpu_usage_ns: number("cpuacct", "cpuacct.usage"),
                cpu_throttled_periods: cpu("nr_throttled"),
                cpu_periods: cpu("nr_periods"),
                memory_usage_bytes: usage,
                memory_working_set_bytes: usage.saturating_sub(memory("total_inactive_file")),
                memory_rss_bytes: memory("total_rss"),
                memory_cache_bytes: memory("total_cache"),
                memory_limit_bytes: (limit > 0 && limit < 1 << 62).then_some(limit),
                swap_usage_bytes: both.saturating_sub(usage),
                page_faults: memory("total_pgfault"),
                major_page_faults: memory("total_pgmajfault"),
                pids: number("pids", "pids.current"),
                oom_kills: oom("oom_kill"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_figures() {
        let v2 = |_: &str, file: &str| {
            let text = match file {
                "memory.current" => "1000\n",
                "memory.max" => "max\n",
                "memory.stat" => "anon 400\nfile 500\ninactive_file 300\n",
                "cpu.stat" => "usage_usec 7\nuser_usec 5\n",
                "memory.events" => "oom 2\noom_kill 1\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let stats = read(Version::V2, &v2);
        assert_eq!((stats.cpu_usage_ns, stats.memory_working_set_bytes, stats.oom_kills), (7000, 700, 1));
        assert_eq!((stats.memory_limit_bytes, stats.pids), (None, 0));
        let v1 = |_: &str, file: &str| {
            let text = match file {
                "memory.usage_in_bytes" => "1000",
                "memory.limit_in_bytes" => "9223372036854771712",
                "memory.stat" => "inactive_file 1\ntotal_inactive_file 100\ntotal_rss 5\n",
                "cpuacct.usage" => "99\n",
                "pids.current" => "3\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let stats = read(Version::V1, &v1);
        assert_eq!((stats.cpu_usage_ns, stats.memory_working_set_bytes, stats.pids), (99, 900, 3));
        assert_eq!(stats.memory_limit_bytes, None);
    }
}
