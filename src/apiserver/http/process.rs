//! The process as dashboards see every process. Read from the kernel when it is asked for.
//!
//! Source: Prometheus, "Writing client libraries", standard process metrics; proc(5).

use std::fmt::Write as _;

/// Ticks of a second in `/proc/self/stat`; the same on every Linux that programs see.
const TICKS: f64 = 100.0;

/// Appends what the kernel says; what it does not say is left out.
pub fn write(text: &mut String, started_seconds: i64) {
    let mut gauge = |name: &str, kind: &str, value: f64| {
        // Writing to memory does not fail.
        let total = if kind == "counter" { "_total" } else { "" };
        let _ = writeln!(text, "# TYPE {name} {kind}\n{name}{total} {value}");
    };
    gauge("process_start_time_seconds", "gauge", started_seconds as f64);
    if let Some(seconds) = read("/proc/self/stat").as_deref().and_then(cpu_seconds) {
        gauge("process_cpu_seconds", "counter", seconds);
    }
    let status = read("/proc/self/status").unwrap_or_default();
    for (name, line) in [("process_resident_memory_bytes", "VmRSS:"), ("process_virtual_memory_bytes", "VmSize:")] {
        if let Some(kib) = status.lines().find_map(|l| l.strip_prefix(line)).and_then(|v| v.split_whitespace().next()) {
            gauge(name, "gauge", kib.parse::<f64>().unwrap_or_default() * 1024.0);
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge("process_open_fds", "gauge", open.count() as f64);
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Fields 14 and 15, counted from behind the name, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_dashboards_want() {
        assert_eq!(cpu_seconds("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0"), Some(2.0));
        let mut text = String::new();
        write(&mut text, 5);
        for name in [
            "process_start_time_seconds 5\n",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
        ] {
            assert!(text.contains(name), "{name}: {text}");
        }
    }
}
