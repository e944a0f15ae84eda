//! The verbs that run on this host rather than against an API: `server`, `agent`, `check`, `reset`, `unit`.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args as _, Command};

use crate::config::{self, ConfigError};
use crate::lock::Held;
use crate::places::{self, Place};
use crate::settled::Collect;
use crate::{check, log, reset, server, settled, unit};

const VERBS: &[&str] = &["server", "agent", "check", "reset", "unit"];
const NO_AGENTS: &str = "joining a server is not served by this version: run `kedge server`";

/// Whether `verb` is one of this room's.
pub fn owns(verb: &str) -> bool {
    VERBS.contains(&verb)
}

/// The verbs as commands, for the program's help and completion.
pub fn commands() -> Vec<Command> {
    vec![config::server_command(), config::agent_command(), check_command(), reset_command(), unit_command()]
}

fn check_command() -> Command {
    check::Check::augment_args(
        Command::new("check")
            .bin_name("kedge check")
            .about("Check whether this host can run Kedge, and say what to do"),
    )
}

fn reset_command() -> Command {
    reset::Reset::augment_args(
        Command::new("reset")
            .bin_name("kedge reset")
            .about("Stop everything of Kedge on this host and remove every trace"),
    )
}

fn unit_command() -> Command {
    unit::Unit::augment_args(Command::new("unit").bin_name("kedge unit").about("Print a service file").hide(true))
}

/// Runs the verb `args[1]`. Exit codes: 0 done, 1 the operation failed, 2 wrong usage.
/// `collect`: gives back what the allocator keeps for the calling thread.
pub fn run(args: &[String], collect: Collect) -> ExitCode {
    let named: Vec<String> = args[1..].to_vec();
    match args[1].as_str() {
        "check" => match parse::<check::Check>(check_command(), &named) {
            Ok(check) if check::run(&check) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(code) => code,
        },
        "reset" => match reset::Reset::parse(reset_command(), &named).map(|reset| reset::run(&reset)) {
            Ok(Ok(())) => ExitCode::SUCCESS,
            Ok(Err(error)) => fail("kedge reset", format!("{error:#}")),
            Err(error) => usage(&error),
        },
        "unit" => match parse::<unit::Unit>(unit_command(), &named) {
            // asked by install.sh before it changes anything
            Ok(unit) if unit.exec.split_whitespace().next() == Some("agent") => fail("kedge agent", NO_AGENTS),
            Ok(unit) => {
                print!("{}", unit::render(&unit));
                ExitCode::SUCCESS
            }
            Err(code) => code,
        },
        "agent" => match config::agent(&named) {
            Ok(_) => fail("kedge agent", NO_AGENTS),
            Err(error) => usage(&error),
        },
        _ => match config::server(&named) {
            Ok(server) => serve(server, collect),
            Err(error) => usage(&error),
        },
    }
}

/// Runs a server in a runtime of its own until it is asked to stop.
fn serve(config: config::Server, collect: Collect) -> ExitCode {
    if let Err(error) = log::start(&config.common.log_level, config.common.log_format) {
        return usage(&error);
    }
    let run = || -> anyhow::Result<()> {
        server::preflight()?;
        // dropped after the runtime: nothing uses the host any more when another may
        let held = Held::take(&config.common.run_dir, !config.disable_agent)?;
        if let Err(error) = places::note(Path::new(places::FOLDER), &Place::of(&config.common)) {
            tracing::warn!("kedge reset will have to be told of this server's folders: {error:#}");
        }
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.enable_all().on_thread_park(move || settled::idle(collect)).build()?;
        runtime.block_on(server::run(config, &held, collect))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail("kedge server", format!("{error:#}")),
    }
}

fn parse<T: clap::FromArgMatches>(command: Command, args: &[String]) -> Result<T, ExitCode> {
    command.try_get_matches_from(args).and_then(|m| T::from_arg_matches(&m)).map_err(|e| {
        let code = e.exit_code();
        let _ = e.print();
        ExitCode::from(u8::try_from(code).unwrap_or(2))
    })
}

/// Help and version requests are printed and succeed; the rest is wrong usage.
fn usage(error: &ConfigError) -> ExitCode {
    if let ConfigError::Usage(error) = error {
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    eprintln!("kedge: {error}");
    ExitCode::from(2)
}

fn fail(verb: &str, why: impl std::fmt::Display) -> ExitCode {
    eprintln!("{verb}: {why}");
    ExitCode::FAILURE
}
