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

mod api;
mod apply;
mod attach;
mod auth;
mod carrier;
mod change;
mod cp;
mod create;
mod create_batch;
mod create_service;
mod delete;
mod describe;
mod discovery;
mod drain;
mod duration;
mod edit;
mod events;
mod exec;
mod explain;
mod failure;
mod get;
mod image;
mod jsonpath;
mod logs;
mod manifest;
mod misuse;
mod output;
mod patch;
mod port_forward;
mod rollout;
mod session;
mod table;
mod target;
mod terminal;
mod top;
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
    /// Change fields of objects by a patch
    Patch(patch::Patch),
    /// What happened, oldest first
    Events(events::Events),
    /// The resources that the server has
    ApiResources(api::Resources),
    /// The versions of groups that the server has
    ApiVersions,
    /// Who the server takes us for, and what we may do
    Auth(auth::Auth),
    /// Print what containers wrote
    Logs(logs::Logs),
    /// Join the streams of a container
    Attach(attach::Attach),
    /// Start a pod of one container
    Run(Box<attach::Run>),
    /// Change objects in an editor
    Edit(edit::Edit),
    /// Show what apply would change
    Diff(edit::Diff),
    /// Take a node out of use and move its pods away
    Drain(drain::Drain),
    /// What nodes and pods use
    Top(top::Top),
    /// Reach a pod's port from here
    PortForward(port_forward::PortForward),
    /// What a kind and its fields mean
    Explain(explain::Explain),
    /// Copy files to and from containers
    Cp(cp::Cp),
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
    #[arg(value_parser = shell)]
    shell: clap_complete::Shell,
}

fn shell(text: &str) -> Result<clap_complete::Shell, String> {
    text.parse().map_err(|_| "the shells are bash, elvish, fish, powershell and zsh".to_owned())
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
            let about = verb.get_about().cloned().unwrap_or_default();
            // The shared flags bring a description of their own.
            let verb = Global::augment_args(verb.clone()).about(about);
            let ids: Vec<clap::Id> = Global::augment_args(Command::new("g"))
                .get_arguments()
                .map(|a| a.get_id().clone())
                .filter(|id| id.as_str() != "help")
                .collect();
            ids.into_iter().fold(verb, |verb, id| verb.mut_arg(id, |arg| arg.global(true)))
        })
        .collect();
    let about = root.get_about().cloned().unwrap_or_default();
    Global::augment_args(root).about(about).subcommands(verbs).subcommands(host_verbs)
}

/// Runs a user verb. Exit codes: 0 done, 1 the operation failed, 2 wrong usage; `exec` ends with its command's code.
pub fn run(args: &[String], host_verbs: Vec<Command>) -> ExitCode {
    let command = command(host_verbs);
    let parsed = command.clone().try_get_matches_from(args).and_then(|matches| {
        let verb = Verb::from_arg_matches(&matches)?;
        let before = Global::from_arg_matches(&matches)?.unless_shadowed(&verb);
        let after = match matches.subcommand() {
            Some((_, matches)) => Global::from_arg_matches(matches)?.unless_shadowed(&verb),
            None => Global::default(),
        };
        Ok((verb, after.or(before)))
    });
    let (verb, global) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            match misuse::text(&command, args, &error) {
                Some(text) => eprintln!("error: {text}"),
                None => drop(error.print()),
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let limit = global.request_timeout();
    let result = runtime.block_on(async {
        match limit {
            None => dispatch(verb, &global, command).await,
            Some(limit) => match tokio::time::timeout(limit, dispatch(verb.clone(), &global, command)).await {
                Ok(result) => result,
                // A watch ends when its time is up.
                Err(_) if matches!(&verb, Verb::Get(get) if get.watch || get.watch_only) => Ok(()),
                Err(_) => Err(anyhow::anyhow!("no answer within {} s (--request-timeout)", limit.as_secs_f64())),
            },
        }
    });
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
        Verb::Patch(v) => patch::run(session, v).await,
        Verb::Events(v) => events::run(session, v).await,
        Verb::ApiResources(v) => api::resources(session, v).await,
        Verb::ApiVersions => api::versions(session).await,
        Verb::Auth(v) => auth::run(session, v).await,
        Verb::Logs(v) => logs::run(session, v).await,
        Verb::Attach(v) => attach::attach(session, v).await,
        Verb::Run(v) => attach::run(session, v).await,
        Verb::Edit(v) => edit::edit(session, v).await,
        Verb::Diff(v) => edit::diff(session, v).await,
        Verb::Drain(v) => drain::run(session, v).await,
        Verb::Top(v) => top::run(session, v).await,
        Verb::PortForward(v) => port_forward::run(session, v).await,
        Verb::Explain(v) => explain::run(session, v).await,
        Verb::Cp(v) => cp::run(session, v).await,
        Verb::Exec(v) => exec::run(session, v).await,
        Verb::Version(_) | Verb::Image(_) | Verb::Completion(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_says_what_things_are() {
        let command = command(Vec::new());
        assert_eq!(command.get_about().unwrap().to_string(), "Kubernetes for the edge in one static binary");
        let image = command.find_subcommand("image").unwrap();
        for verb in image.get_subcommands() {
            for arg in verb.get_arguments() {
                assert!(arg.get_help().is_some(), "image {} {}", verb.get_name(), arg.get_id());
            }
        }
        let error = command.try_get_matches_from(["kedge", "completion", "ksh"]).unwrap_err();
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(why, "the shells are bash, elvish, fish, powershell and zsh");
    }
}
