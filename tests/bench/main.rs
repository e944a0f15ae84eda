//! `cargo xtask bench [NAME …]`: the figures of docs/SPECIFICATION.md.
//!
//! Two halves. The outer one boots a test host for each benchmark and copies the binary under measurement (`KEDGE_BIN`) and
//! itself there; the inner one (`on-host`) starts `kedge server`, loads it and prints rows, which the outer one gathers into
//! a Markdown table. Benchmarks below the API are examples of their rooms, built beside this program.
//!
//! What never lives here: an assertion about speed. Who reads the table judges it.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock and paces its clients")]

mod api;
mod daemon;
mod pods;
mod quiet;
mod report;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use harness::{Host, Switch, kedge};
use report::Row;

/// Names, and whether a name needs a server on a test host.
const BENCHMARKS: &[(&str, bool)] = &[
    ("binary", false),
    ("start", true),
    ("idle", true),
    ("creates", true),
    ("get", true),
    ("list", true),
    ("watch", true),
    ("pods", true),
    ("store", false),
    ("net", false),
    ("runtime", false),
];

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
    let mut rows = Vec::new();
    let mut failed = 0;
    for (name, hosted) in BENCHMARKS.iter().filter(|(n, _)| args.is_empty() || args.iter().any(|a| a == n)) {
        let outcome = match *name {
            _ if *hosted => hosted_benchmark(name, &mut rows),
            "binary" => binary(&mut rows),
            other => example(other, &mut rows),
        };
        if let Err(error) = outcome {
            eprintln!("{name}: unmeasured: {error:#}");
            failed += 1;
        }
    }
    println!("\n{}", report::MARKDOWN_HEAD);
    for row in &rows {
        println!("{}", row.markdown());
    }
    if failed > 0 { bail!("{failed} of the benchmarks could not be run") } else { Ok(()) }
}

fn gather(rows: &mut Vec<Row>, row: Row) {
    println!("{row}");
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
    for line in std::io::BufReader::new(output).lines() {
        let line = line?;
        match Row::parse(&line) {
            Some(row) => gather(rows, row),
            None => eprintln!("{line}"),
        }
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { bail!("{status}: {shown}") }
}

fn hosted_benchmark(name: &str, rows: &mut Vec<Row>) -> Result<()> {
    let switch = Arc::new(Switch::new()?);
    let host = Host::boot(name, &switch, [10, 99, 0, 1])?;
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

/// A benchmark of a room: `examples/<room>_bench` beside this program.
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
            "idle" => quiet::idle(cgroup).await,
            "pods" => pods::run(cgroup).await,
            other => api::run(cgroup, other).await,
        }
    })?;
    for Row { name, min, median, max, unit } in rows {
        println!("{name} {min} {median} {max} {unit}");
    }
    Ok(())
}
