//! `patch`: changes fields of objects by a patch that the user writes.
//!
//! Source: kubectl `pkg/cmd/patch`.

use anyhow::{Context as _, Result};
use clap::Args;
use client::Patch as Body;
use serde::Deserialize as _;
use serde_json::Value;

use crate::failure::{self, usage};
use crate::manifest::Files;
use crate::output;
use crate::session::Session;
use crate::target::{self, Found, Selection};
use crate::write::{DryRun, Writing};

#[derive(Debug, Clone, Args)]
pub struct Patch {
    /// TYPE NAME… or TYPE/NAME…
    #[arg(value_name = "RESOURCE")]
    pub resources: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub writing: Writing,
    /// The patch, JSON or YAML
    #[arg(long, short = 'p', default_value = "", hide_default_value = true)]
    pub patch: String,
    /// File with the patch
    #[arg(long, value_name = "FILE")]
    pub patch_file: Option<String>,
    /// strategic, merge or json
    #[arg(long = "type", default_value = "strategic")]
    pub kind: String,
    /// A subresource of the object: status, scale
    #[arg(long, default_value = "", hide_default_value = true)]
    pub subresource: String,
}

pub async fn run(session: &Session, patch: &Patch) -> Result<()> {
    let text = match (&patch.patch_file, patch.patch.as_str()) {
        (Some(_), text) if !text.is_empty() => {
            return Err(usage("cannot specify --patch and --patch-file together"));
        }
        (None, "") => return Err(usage("must specify --patch or --patch-file containing the contents of the patch")),
        (Some(file), _) => {
            std::fs::read_to_string(file).with_context(|| format!("unable to read patch file {file}"))?
        }
        (None, text) => text.to_owned(),
    };
    let kind = patch.kind.to_lowercase();
    if !["strategic", "merge", "json"].contains(&kind.as_str()) {
        return Err(usage(format!("--type must be one of [json merge strategic], not {:?}", patch.kind)));
    }
    let document = serde_yaml_ng::Deserializer::from_str(&text);
    let body = Value::deserialize(document).map_err(|e| anyhow::anyhow!("unable to parse {text:?}: {e}"))?;
    let targets = target::resolve(session, &patch.files, &patch.resources, &Selection::default()).await?;
    if targets.iter().any(|t| t.name.is_none()) {
        return Err(usage("resource(s) were provided, but no name was specified"));
    }
    let (found, mut errors) = target::fetch(session, &targets, &Selection::default()).await;
    for one in found {
        if let Err(error) = patch_one(session, patch, &kind, &body, one).await {
            errors.push(error);
        }
    }
    failure::all(errors)
}

async fn patch_one(session: &Session, patch: &Patch, kind: &str, body: &Value, mut one: Found) -> Result<()> {
    let (format, dry_run) = (patch.writing.format()?, patch.writing.dry_run()?);
    let params = patch.writing.params("kubectl-patch")?;
    // What a patch does is known to the server only: a preview asks it too, and stores nothing.
    let params = client::WriteParams { dry_run: dry_run != DryRun::None, ..params };
    let path = match patch.subresource.as_str() {
        "" => one.path(),
        sub => format!("{}/{sub}", one.path()),
    };
    let before: Value = match patch.subresource.as_str() {
        "" => one.object.clone(),
        _ => session.client.get_path(&path).await?,
    };
    let body = match kind {
        "merge" => Body::Merge(body),
        "json" => Body::Json(body),
        _ => Body::Strategic(body),
    };
    one.object = session.client.patch_path(&path, body, &params).await?;
    let unchanged = same(&before, &one.object);
    let said = if unchanged { "patched (no change)" } else { "patched" };
    if patch.subresource == "scale" && format.is_table() {
        return session.line(format!("scale.autoscaling/{} {said}", one.name));
    }
    // kubectl does not say that it was a dry run.
    session.print(&output::outcome(&format, &one, said)?)
}

/// Whether nothing became of a patch.
fn same(before: &Value, after: &Value) -> bool {
    let version = "/metadata/resourceVersion";
    before.pointer(version) == after.pointer(version)
        && before.pointer("/metadata/managedFields") == after.pointer("/metadata/managedFields")
        && ["data", "spec", "metadata"].iter().all(|f| before.get(f) == after.get(f))
}
