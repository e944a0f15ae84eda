//! The benchmarks of docs/SPECIFICATION.md: builds what measures, then measures the release binary.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{cargo, dist, root, run as run_command};

/// Rooms whose benchmark is an example of their own, `<room>_bench`.
const ROOMS: &[&str] = &["store", "net", "runtime"];

/// Runs the named benchmarks (all by default) as root. `KEDGE_BIN` is measured, or what `cargo xtask dist` makes.
pub fn run(names: &[String]) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--profile", "measure", "--package", "kedge-bench", "--bins"]);
    run_command(&mut build)?;
    for room in ROOMS.iter().filter(|room| names.is_empty() || names.iter().any(|n| n == *room)) {
        let (package, example) = (format!("kedge-{room}"), format!("{room}_bench"));
        run_command(cargo().args(["build", "--profile", "measure", "--package", &package, "--example", &example]))?;
    }
    let mut bench = Command::new(root().join("target/measure/kedge-bench"));
    bench.args(names);
    if std::env::var_os("KEDGE_BIN").is_none() {
        let binary = root().join(format!("target/dist/kedge-{}", std::env::consts::ARCH));
        if !binary.exists() {
            dist::run(&[])?;
        }
        if !binary.exists() {
            bail!("{} was not made", binary.display());
        }
        bench.env("KEDGE_BIN", binary);
    }
    run_command(&mut bench)
}
