//! The user's verbs: what people type, and what is printed. Speaks HTTP only.
//!
//! What never lives here: anything that runs on the host rather than against an API.

use std::process::ExitCode;

use clap::Command;

/// The program as people see it: the user's verbs and `host_verbs`, which the caller runs itself.
pub fn command(host_verbs: Vec<Command>) -> Command {
    Command::new("kedge")
        .about("Kubernetes for the edge in one static binary")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("version").about("Print the version"))
        .subcommands(host_verbs)
}

/// Runs a user verb. Exit codes: 0 done, 1 the operation failed, 2 wrong usage.
pub fn run(args: &[String], host_verbs: Vec<Command>) -> ExitCode {
    match command(host_verbs).try_get_matches_from(args) {
        Ok(matches) => match matches.subcommand_name() {
            Some("version") => {
                println!("kedge {}", env!("CARGO_PKG_VERSION"));
                ExitCode::SUCCESS
            }
            _ => ExitCode::from(2),
        },
        Err(error) => {
            let code = error.exit_code();
            let _ = error.print();
            ExitCode::from(u8::try_from(code).unwrap_or(2))
        }
    }
}
