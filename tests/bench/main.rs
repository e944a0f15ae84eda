//! `cargo xtask bench [NAME …]`: the figures of docs/SPECIFICATION.md.
//!
//! Two halves. The outer one boots a test host for each benchmark and copies the binary under measurement (`KEDGE_BIN`) and
//! itself there; the inner one (`on-host`) starts `kedge server`, loads it and prints rows, which the outer one gathers into
//! a Markdown table on standard output (how it goes is told on standard error). Benchmarks below the API are examples of
//! their rooms, built beside this program.
//!
//! What never lives here: an assertion about speed. Who reads the table judges it.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock and paces its clients")]

mod api;
mod budget;
mod daemon;
mod extend;
mod peers;
mod pods;
mod quiet;
mod report;
mod wire;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::{Host, Switch, kedge};
use report::Row;

/// Names, and whether a name needs a server on a test host.
const BENCHMARKS: &[(&str, bool)] = &[
    ("binary", false),
    ("start", true),
    ("idle", true),
    ("creates", true),
    ("memory", true),
    ("get", true),
    ("list", true),
    ("watch", true),
    ("crds", true),
    ("webhook", true),
    ("namespace", true),
    ("bound", true),
    ("rolled", true),
    ("quiet", true),
    ("pods", true),
    ("store", false),
    ("net", false),
    ("runtime", false),
    ("scheduler", false),
];

/// A benchmark that takes longer hangs; the longest is a good minute of idleness.
const DEADLINE: Duration = Duration::from_secs(150);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((verb, rest)) = args.split_first()
        && verb == "on-host"
    {
        return on_host(rest);
    }
    let known = |name: &String| BENCHMARKS.iter().any(|(n, _)| n == name);
    if let Some(wrong) = args.iter().find(|name| !known(name)) {
        let names: Vec<&str> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
        bail!("no benchmark {wrong:?}; there are: {}", names.join(" "));
    }
    let (start, load) = (Instant::now(), load_average());
    let mut rows = Vec::new();
    let mut failed = 0;
    for (name, hosted) in BENCHMARKS.iter().filter(|(n, _)| args.is_empty() || args.iter().any(|a| a == n)) {
        eprintln!("{name} …");
        let outcome = match *name {
            "idle" => idle(&mut rows),
            _ if *hosted => hosted_benchmark(name, &mut rows),
            "binary" => binary(&mut rows),
            other => example(other, &mut rows),
        };
        if let Err(error) = outcome {
            eprintln!("{name}: unmeasured: {error:#}");
            failed += 1;
        }
    }
    rows.extend(pod_to_crun(&rows));
    println!("Load average {load} before and {} after, {} s in all.\n", load_average(), start.elapsed().as_secs());
    println!("{}", report::MARKDOWN_HEAD);
    for row in &rows {
        println!("{}", row.markdown());
    }
    if failed > 0 { bail!("{failed} of the benchmarks could not be run") } else { Ok(()) }
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// A pod's way to Running against crun's start of one container (runc's where crun is not), medians of turns.
fn pod_to_crun(rows: &[Row]) -> Option<Row> {
    const NAME: &str = "pod_running_to_crun_run";
    let median = |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.median);
    let peer = ["crun_run_detached", "runc_run_detached"].into_iter().find_map(median)?;
    Some(Row::new(NAME, vec![median("pod_running")? / peer], "times"))
}

fn gather(rows: &mut Vec<Row>, row: Row) {
    eprintln!("{row}");
    rows.push(row);
}

fn binary(rows: &mut Vec<Row>) -> Result<()> {
    let path = kedge::binary();
    let bytes = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
    gather(rows, Row::new("binary_size", vec![bytes as f64 / 1024.0 / 1024.0], "MiB"));
    Ok(())
}

/// Runs a program to its end and gathers the rows that it prints; other lines are shown.
fn rows_of(command: &mut Command, rows: &mut Vec<Row>) -> Result<()> {
    use std::io::BufRead as _;
    let shown = format!("{command:?}");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| shown.clone())?;
    let output = child.stdout.take().context("a piped output")?;
    let (line_to, lines) = channel();
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(output).lines().map_while(Result::ok) {
            if line_to.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + DEADLINE;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => match Row::parse(&line) {
                Some(row) => gather(rows, row),
                None => eprintln!("{line}"),
            },
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                // What it started ends with the host.
                child.kill()?;
                child.wait()?;
                bail!("not done after {} s: {shown}", DEADLINE.as_secs());
            }
        }
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { bail!("{status}: {shown}") }
}

/// Two servers that do nothing do not disturb each other.
fn idle(rows: &mut Vec<Row>) -> Result<()> {
    let run = |name: &str| {
        let mut rows = Vec::new();
        hosted_benchmark(name, &mut rows).map(|()| rows)
    };
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| run("with_node"));
        (run("api_only"), other.join())
    });
    rows.extend(one?);
    rows.extend(other.map_err(|_| anyhow::anyhow!("a thread panicked"))??);
    Ok(())
}

fn hosted_benchmark(name: &str, rows: &mut Vec<Row>) -> Result<()> {
    let switch = Arc::new(Switch::new()?);
    // A name of a benchmark may be no name of a host.
    let host = Host::boot(&name.replace('_', "-"), &switch, [10, 99, 0, 1])?;
    fs::copy(kedge::binary(), host.shared().join("kedge"))
        .context("the kedge binary (KEDGE_BIN, or cargo xtask dist)")?;
    fs::copy(std::env::current_exe()?, host.shared().join("bench"))?;
    if name == "pods" {
        let folder = host.data().join("agent/images");
        fs::create_dir_all(&folder)?;
        let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let archive = kedge::checkout().join(format!("images/out/busybox-{arch}.tar"));
        fs::copy(&archive, folder.join("busybox.tar"))
            .with_context(|| format!("{} (cargo xtask images busybox)", archive.display()))?;
    }
    let result = rows_of(host.command("/run/shared/bench").args(["on-host", host.cgroup(), name]), rows);
    if result.is_err() {
        eprintln!("{}", fs::read_to_string(host.shared().join("daemon.log")).unwrap_or_default());
    }
    result
}

/// A benchmark of a room: `examples/<name>_bench` beside this program.
fn example(name: &str, rows: &mut Vec<Row>) -> Result<()> {
    let program = std::env::current_exe()?;
    let folder = program.parent().unwrap_or(Path::new(".")).join("examples");
    let path: PathBuf = folder.join(format!("{name}_bench"));
    rows_of(&mut Command::new(path), rows)
}

fn on_host(args: &[String]) -> Result<()> {
    let [cgroup, name] = args else { bail!("on-host CGROUP NAME") };
    let runtime = tokio::runtime::Runtime::new()?;
    let rows = runtime.block_on(async {
        match name.as_str() {
            "start" => quiet::start(cgroup).await,
            "api_only" | "with_node" => quiet::idle(cgroup, name).await,
            "pods" => pods::run(cgroup).await,
            "bound" | "rolled" | "quiet" => workloads::run(cgroup, name).await,
            "crds" | "webhook" | "namespace" => extend::run(cgroup, name).await,
            other => api::run(cgroup, other).await,
        }
    })?;
    for Row { name, min, median, max, unit } in rows {
        println!("{name} {min} {median} {max} {unit}");
    }
    Ok(())
}
