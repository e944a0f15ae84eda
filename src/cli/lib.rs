//! The user's verbs: what people type, and what is printed. Speaks HTTP only.
//!
//! ```text
//! command line ── verb (one file each) ── Session (client, namespace, discovery, output)
//!                    │                        │
//!                    ├─ target: words, files and selectors become resources and names
//!                    ├─ output, table, yaml, jsonpath: how things are shown
//!                    └─ failure: how things that fail are told, and the exit code
//! ```
//!
//! What never lives here: anything that runs on the host rather than against an API.

use std::process::ExitCode;

use clap::{Args as _, Command, FromArgMatches as _, Subcommand};

mod apply;
mod change;
mod create;
mod delete;
mod describe;
mod discovery;
mod duration;
mod exec;
mod failure;
mod get;
mod image;
mod jsonpath;
mod logs;
mod manifest;
mod output;
mod rollout;
mod session;
mod table;
mod target;
mod terminal;
mod until;
mod version;
mod wait;
mod write;
mod yaml;

use session::{Global, Session};

/// The user's verbs.
#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// Show objects
    Get(get::Get),
    /// Show objects with their relatives and events
    Describe(describe::Describe),
    /// Make objects as files say
    Apply(apply::Apply),
    /// Delete objects and wait until they are gone
    Delete(delete::Delete),
    /// Wait for a condition of objects
    Wait(wait::Wait),
    /// Make objects, which must not be there yet
    Create(Box<create::Create>),
    /// Change how many of a workload there are
    Scale(change::Scale),
    /// See and steer the roll-out of a workload
    Rollout(rollout::Rollout),
    /// Set and remove labels
    Label(change::Mark),
    /// Set and remove annotations
    Annotate(change::Mark),
    /// Change a field
    Set(change::Set),
    /// Place no more pods on nodes
    Cordon(change::Cordon),
    /// Place pods on nodes again
    Uncordon(change::Cordon),
    /// Print what containers wrote
    Logs(logs::Logs),
    /// Run a command in a container
    Exec(exec::Exec),
    /// The image store of this host
    Image(image::Image),
    /// Print the version of this program and of the server
    Version(version::Version),
    /// Print a completion script for a shell
    Completion(Completion),
}

#[derive(Debug, Clone, clap::Args)]
struct Completion {
    /// bash, zsh or fish
    shell: clap_complete::Shell,
}

/// The program as people see it: the user's verbs and `host_verbs`, which the caller runs itself.
pub fn command(host_verbs: Vec<Command>) -> Command {
    let root = Command::new("kedge")
        .about("Kubernetes for the edge in one static binary")
        .version(version::OURS)
        .subcommand_required(true)
        .arg_required_else_help(true);
    // The connection's flags may stand before the verb and after it, but are no business of the host's verbs: they are
    // arguments of the root and, again, of each user's verb and what is below it.
    let verbs = Verb::augment_subcommands(Command::new("verbs"));
    let verbs: Vec<Command> = verbs
        .get_subcommands()
        .map(|verb| {
            let verb = Global::augment_args(verb.clone());
            let ids: Vec<clap::Id> = Global::augment_args(Command::new("g"))
                .get_arguments()
                .map(|a| a.get_id().clone())
                .filter(|id| id.as_str() != "help")
                .collect();
            ids.into_iter().fold(verb, |verb, id| verb.mut_arg(id, |arg| arg.global(true)))
        })
        .collect();
    Global::augment_args(root).subcommands(verbs).subcommands(host_verbs)
}

/// Runs a user verb. Exit codes: 0 done, 1 the operation failed, 2 wrong usage; `exec` ends with its command's code.
pub fn run(args: &[String], host_verbs: Vec<Command>) -> ExitCode {
    let command = command(host_verbs);
    let parsed = command.clone().try_get_matches_from(args).and_then(|matches| {
        let verb = Verb::from_arg_matches(&matches)?;
        let before = Global::from_arg_matches(&matches)?;
        let after = match matches.subcommand() {
            Some((_, matches)) => Global::from_arg_matches(matches)?,
            None => Global::default(),
        };
        Ok((verb, after.or(before)))
    });
    let (verb, global) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let code = error.exit_code();
            let _ = error.print();
            return ExitCode::from(u8::try_from(code).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(dispatch(verb, &global, command));
    // A read of standard input that blocks must not hold the end back.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (lines, code) = failure::report(&error);
            for line in lines {
                eprintln!("{line}");
            }
            ExitCode::from(code)
        }
    }
}

async fn dispatch(verb: Verb, global: &Global, mut command: Command) -> anyhow::Result<()> {
    match &verb {
        Verb::Version(v) => return version::run(global, v).await,
        Verb::Completion(c) => {
            let mut script = Vec::new();
            clap_complete::generate(c.shell, &mut command, "kedge", &mut script);
            std::io::Write::write_all(&mut std::io::stdout(), &script)?;
            return Ok(());
        }
        Verb::Image(v) => return image::run(v).await,
        _ => {}
    }
    let session = &Session::open(global)?;
    match &verb {
        Verb::Get(v) => get::run(session, v).await,
        Verb::Describe(v) => describe::run(session, v).await,
        Verb::Apply(v) => apply::run(session, v).await,
        Verb::Delete(v) => delete::run(session, v).await,
        Verb::Wait(v) => wait::run(session, v).await,
        Verb::Create(v) => create::run(session, v).await,
        Verb::Scale(v) => change::scale(session, v).await,
        Verb::Rollout(v) => rollout::run(session, v).await,
        Verb::Label(v) => change::mark(session, v, change::Marked::Labels).await,
        Verb::Annotate(v) => change::mark(session, v, change::Marked::Annotations).await,
        Verb::Set(change::Set { what: change::SetWhat::Image(v) }) => change::set_image(session, v).await,
        Verb::Cordon(v) => change::cordon(session, v, true).await,
        Verb::Uncordon(v) => change::cordon(session, v, false).await,
        Verb::Logs(v) => logs::run(session, v).await,
        Verb::Exec(v) => exec::run(session, v).await,
        Verb::Version(_) | Verb::Image(_) | Verb::Completion(_) => Ok(()),
    }
}
