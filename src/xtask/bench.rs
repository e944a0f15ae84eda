//! The benchmarks of docs/SPECIFICATION.md: builds what measures, then measures the release binary.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{cargo, dist, root, run as run_command};

/// Benchmarks that are an example of a room, `<benchmark>_bench`.
const EXAMPLES: &[(&str, &str)] =
    &[("store", "store"), ("net", "net"), ("runtime", "runtime"), ("control", "scheduler")];

/// Runs the named benchmarks (all by default) as root. `KEDGE_BIN` is measured, or what `cargo xtask dist` makes; `--no-run`
/// only builds, so that nothing else runs when it is measured.
pub fn run(args: &[String]) -> Result<()> {
    let (flags, names): (Vec<&String>, Vec<&String>) = args.iter().partition(|arg| arg.starts_with('-'));
    if let Some(unknown) = flags.iter().find(|flag| **flag != "--no-run") {
        bail!("unknown flag {unknown}: there is --no-run");
    }
    build()?;
    let binary = match std::env::var_os("KEDGE_BIN") {
        Some(given) => given.into(),
        None => root().join(format!("target/dist/kedge-{}", std::env::consts::ARCH)),
    };
    if !binary.exists() && std::env::var_os("KEDGE_BIN").is_none() {
        dist::run(&[])?;
    }
    if !binary.exists() {
        bail!("{} is not there", binary.display());
    }
    if !flags.is_empty() {
        return Ok(());
    }
    run_command(Command::new(root().join("target/measure/kedge-bench")).args(names).env("KEDGE_BIN", binary))
}

/// All of it in one call, so that every part sees the same features and nothing is built twice.
fn build() -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--profile", "measure", "--package", "kedge-bench", "--bin", "kedge-bench"]);
    for (room, benchmark) in EXAMPLES {
        build.args(["--package", &format!("kedge-{room}"), "--example", &format!("{benchmark}_bench")]);
    }
    run_command(&mut build)
}
