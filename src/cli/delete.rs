//! `delete`: asks, then waits until the very objects that were deleted are gone.
//!
//! Source: kubectl `pkg/cmd/delete` (flags, texts, waiting by uid).

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use client::{DeleteParams, Propagation};
use serde_json::Value;

use crate::failure::{self, FromFile, usage};
use crate::manifest::{Files, text};
use crate::session::Session;
use crate::target::{self, Found, Selection};
use crate::until;

#[derive(Debug, Clone, Args)]
pub struct Delete {
    /// TYPE NAME…, TYPE/NAME…, or TYPE with --all or -l
    #[arg(value_name = "RESOURCE")]
    pub resources: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub selection: Selection,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
    /// Seconds given to end gracefully; -1: as the object says
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub grace_period: i64,
    /// With --grace-period=0: do not wait for the node
    #[arg(long)]
    pub force: bool,
    /// A grace period of one second
    #[arg(long)]
    pub now: bool,
    /// What becomes of dependents: background, foreground or orphan
    #[arg(long, default_value = "background", num_args = 0..=1, require_equals = true, default_missing_value = "background")]
    pub cascade: String,
    /// Return only when the objects are gone
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub wait: bool,
    /// How long to wait at most; 0s: as the grace period needs
    #[arg(long, default_value = "0s", value_parser = crate::duration::parse)]
    pub timeout: Duration,
    /// What is not there is no error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// name: print names only
    #[arg(long, short = 'o', default_value = "", hide_default_value = true)]
    pub output: String,
    /// none, client or server
    #[arg(long, default_value = "none", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub dry_run: String,
}

/// Longest wait that a command without a timeout has: upstream's week.
const FOREVER: Duration = Duration::from_secs(168 * 3600);

pub async fn run(session: &Session, delete: &Delete) -> Result<()> {
    let params = params(delete)?;
    if !matches!(delete.output.as_str(), "" | "name") {
        return Err(usage(format!("unexpected -o output mode: {}. We only support '-o name'", delete.output)));
    }
    let targets = target::resolve(session, &delete.files, &delete.resources, &delete.selection).await?;
    let whole = targets.iter().any(|t| t.name.is_none());
    if whole && !delete.all && delete.selection.is_empty() {
        return Err(usage("resource(s) were provided, but no name was specified"));
    }
    if delete.all && !whole {
        return Err(usage("name cannot be provided when a selector is specified"));
    }
    // With a selector or --all, as upstream, what is not there was not asked for.
    let ignore = delete.ignore_not_found || whole;
    let mut errors: Vec<anyhow::Error> = Vec::new();
    let mut found: Vec<Found> = Vec::new();
    for target in &targets {
        if let Some(name) = &target.name {
            found.push(Found {
                resource: target.resource.clone(),
                namespace: target.namespace.clone(),
                name: name.clone(),
                object: Value::Null,
            });
            continue;
        }
        match target::list_all(session, &target.path(), &delete.selection.params()).await {
            Ok((items, _)) => found.extend(items.into_iter().map(|o| target::as_found(&target.resource, o))),
            Err(error) => errors.push(error.into()),
        }
    }
    if found.is_empty() && errors.is_empty() {
        session.line("No resources found")?;
    }
    if delete.force && delete.grace_period == 0 {
        session.note(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. \
             The resource may continue to run on the cluster indefinitely.",
        );
    }
    let mut gone = Vec::new();
    for one in found {
        if delete.dry_run != "client" {
            match session.client.delete_path(&one.path(), &params).await {
                Ok(answer) => gone.push((one.clone(), uid_of(&answer))),
                Err(error) if ignore && error.is_not_found() => continue,
                Err(source) => {
                    errors.push(match source_of(&targets, &one) {
                        Some(file) => FromFile { doing: "deleting", file, source }.into(),
                        None => source.into(),
                    });
                    continue;
                }
            }
        }
        session.line(said(delete, &one))?;
    }
    if delete.wait && delete.dry_run == "none" {
        let timeout = if delete.timeout.is_zero() { FOREVER } else { delete.timeout };
        let deadline = tokio::time::Instant::now() + timeout;
        for (one, uid) in gone {
            if let Err(error) = until::gone(session, &one, &uid, deadline).await {
                errors.push(error);
            }
        }
    }
    failure::all(errors)
}

/// The file that an object is from.
fn source_of(targets: &[target::Target], one: &Found) -> Option<String> {
    let same = |t: &&target::Target| t.resource == one.resource && t.name.as_deref() == Some(&one.name);
    targets.iter().find(same)?.manifest.as_ref().map(|m| m.source.clone())
}

/// A DELETE answers with the object, or with a Status that names its uid.
fn uid_of(answer: &Value) -> String {
    match text(answer, "/metadata/uid") {
        "" => text(answer, "/details/uid").to_owned(),
        uid => uid.to_owned(),
    }
}

fn said(delete: &Delete, one: &Found) -> String {
    if delete.output == "name" {
        return one.named();
    }
    let how = if delete.grace_period == 0 && delete.force { "force deleted" } else { "deleted" };
    let from = if one.namespace.is_empty() { String::new() } else { format!(" from {} namespace", one.namespace) };
    let run = match delete.dry_run.as_str() {
        "client" => " (dry run)",
        "server" => " (server dry run)",
        _ => "",
    };
    format!("{} {:?} {how}{from}{run}", one.resource.type_name(), one.name)
}

fn params(delete: &Delete) -> Result<DeleteParams> {
    let propagation = match delete.cascade.as_str() {
        "background" | "true" => Propagation::Background,
        "foreground" => Propagation::Foreground,
        "orphan" | "false" => Propagation::Orphan,
        other => {
            return Err(usage(format!(
                "invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
            )));
        }
    };
    if delete.now && delete.grace_period != -1 {
        return Err(usage("--now and --grace-period cannot be specified together"));
    }
    if delete.force && delete.grace_period > 0 {
        return Err(usage("--force and --grace-period greater than 0 cannot be specified together"));
    }
    if !matches!(delete.dry_run.as_str(), "none" | "client" | "server") {
        return Err(usage(format!(
            "Invalid dry-run value ({}). Must be \"none\", \"server\", or \"client\".",
            delete.dry_run
        )));
    }
    let grace = match (delete.now, delete.force, delete.grace_period) {
        (true, _, _) => Some(1),
        (_, true, -1 | 0) => Some(0),
        // Without --force a pod still gets a second, so that it is not lost sight of.
        (_, false, 0) => Some(1),
        (_, _, n) if n < 0 => None,
        (_, _, n) => Some(n),
    };
    Ok(DeleteParams {
        grace_period_seconds: grace,
        propagation: Some(propagation),
        dry_run: delete.dry_run == "server",
        ..DeleteParams::default()
    })
}
