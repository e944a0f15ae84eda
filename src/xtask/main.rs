//! The developer's verbs: `cargo xtask verify | fix | dist | bench | images`.
//!
//! What never lives here: anything that the product needs at run time.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

mod bench;
mod dist;
mod images;
mod tidy;

const USAGE: &str = "usage: cargo xtask VERB

  verify            formatting, lints, licences, tidiness; reads only
  fix               formatting and the lints that can mend themselves
  dist [ARCH …]     static release binaries in target/dist (x86_64, aarch64; this machine's by default)
  bench [NAME …]    the benchmarks of docs/SPECIFICATION.md
  images [NAME …]   OCI images from Debian packages in images/out";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let done = match args.first().map(String::as_str) {
        Some("verify") => verify(),
        Some("fix") => fix(),
        Some("dist") => dist::run(rest),
        Some("bench") => bench::run(rest),
        Some("images") => images::run(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn verify() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo().args(["deny", "--offline", "check", "licenses", "bans", "sources"]))
        .context("licences (cargo-deny missing? `cargo install --locked cargo-deny`)")?;
    tidy::check(&root())
}

fn fix() -> Result<()> {
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"]))?;
    run(cargo().args(["fmt", "--all"]))
}

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("src/xtask lies two levels down").to_owned()
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs to the end; a failure names the command.
fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| shown.clone())?;
    if !status.success() {
        bail!("{status}: {shown}");
    }
    Ok(())
}
