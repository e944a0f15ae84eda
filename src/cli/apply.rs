//! `apply`: makes objects as files say; client-side by three-way patch, or server-side.
//!
//! Source: kubectl `pkg/cmd/apply`. The patch itself is `client::apply`'s.

use anyhow::Result;
use clap::Args;
use client::apply::{self as three_way, Outcome, Schemas};
use client::{Patch, WriteParams};
use serde_json::Value;

use crate::failure::{self, FromFile, usage};
use crate::manifest::{Files, Manifest};
use crate::output;
use crate::session::Session;
use crate::target::{self, Target};
use crate::write::{DryRun, Writing};

#[derive(Debug, Clone, Args)]
pub struct Apply {
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub writing: Writing,
    /// Only the objects with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Let the server merge, and keep account of who owns which field
    #[arg(long)]
    pub server_side: bool,
    /// With --server-side: take over fields that others own
    #[arg(long)]
    pub force_conflicts: bool,
}

pub async fn run(session: &Session, apply: &Apply) -> Result<()> {
    if apply.files.is_empty() {
        return Err(usage("must specify one of -f and -k"));
    }
    if apply.force_conflicts && !apply.server_side {
        return Err(usage("--force-conflicts only works with --server-side"));
    }
    let selector = types::selector::LabelSelector::parse(&apply.selector).map_err(|e| usage(e.0))?;
    let manager = if apply.server_side { "kubectl" } else { "kubectl-client-side-apply" };
    let params = apply.writing.params(manager)?;
    let format = apply.writing.format()?;
    let (mut errors, mut done) = (Vec::new(), Vec::new());
    let mut schemas = Schemas::default();
    for manifest in apply.files.read()? {
        if !selector.matches(&manifest.object["metadata"]["labels"]) {
            continue;
        }
        match one(session, apply, &params, &mut schemas, manifest).await {
            Ok((found, what)) => {
                if format.is_table() {
                    session.print(&output::outcome(&format, &found, &what)?)?;
                } else {
                    done.push(found);
                }
            }
            Err(error) => errors.push(error),
        }
    }
    if !done.is_empty() {
        session.print(&output::objects(&format, &done, false, false)?)?;
    }
    failure::all(errors)
}

async fn one(
    session: &Session,
    apply: &Apply,
    params: &WriteParams,
    schemas: &mut Schemas,
    manifest: Manifest,
) -> Result<(target::Found, String)> {
    let target = target::of_manifest(session, session.discovery().await?, manifest)?;
    let (Some(name), Some(manifest)) = (&target.name, &target.manifest) else {
        let kind = target.manifest.as_ref().map(|m| m.text("/kind").to_owned()).unwrap_or_default();
        let (resource, manifest) = (&target.resource, target.manifest.as_ref());
        anyhow::bail!(
            "error when retrieving current configuration of:\nResource: \"{0}/{1}, Resource={2}\", GroupVersionKind: \
             \"{0}/{1}, Kind={kind}\"\nName: \"\", Namespace: {3:?}\nfrom server for: {4:?}: resource name may not be empty",
            resource.group,
            resource.version,
            resource.plural,
            target.namespace,
            manifest.map(|m| m.source.as_str()).unwrap_or_default()
        );
    };
    let mut object = manifest.object.clone();
    if !target.namespace.is_empty() {
        object["metadata"]["namespace"] = target.namespace.as_str().into();
    }
    let refused = |source: client::Error| -> anyhow::Error {
        match source.status() {
            Some(status) if status.code == 415 => {
                anyhow::anyhow!("Server-side apply not available on the server: ({})", status.message)
            }
            _ => FromFile { doing: doing(&source), file: manifest.source.clone(), source }.into(),
        }
    };
    let failed = |source| FromFile { doing: doing(&source), file: manifest.source.clone(), source };
    let dry_run = apply.writing.dry_run()?;
    let collection = target.resource.path(&target.namespace);
    let as_found = |object| target::as_found(&target.resource, object);
    if apply.server_side {
        let params = WriteParams { force: apply.force_conflicts, ..params.clone() };
        let object: Value =
            session.client.patch_path(&target.path(), Patch::Apply(&object), &params).await.map_err(refused)?;
        return Ok((as_found(object), format!("serverside-applied{}", dry_run.suffix())));
    }
    if dry_run == DryRun::Client {
        return preview(session, &target, &object).await;
    }
    let applied =
        three_way::apply(&session.client, schemas, &collection, name, &object, params).await.map_err(failed)?;
    if applied.was_foreign && applied.outcome != Outcome::Created {
        session.note(format!(
            "Warning: resource {} is missing the {} annotation which is required by kedge apply. kedge apply should only \
             be used on resources created declaratively by either kedge create --save-config or kedge apply. The missing \
             annotation will be patched automatically.",
            target.named_plural(),
            three_way::LAST_APPLIED,
        ));
    }
    Ok((as_found(applied.object), format!("{}{}", applied.outcome.as_str(), dry_run.suffix())))
}

/// kubectl's words depend on what failed; an invalid object fails alike in both.
fn doing(error: &client::Error) -> &'static str {
    if error.is_conflict() { "applying patch from" } else { "creating" }
}

/// What a dry run by the client can know: whether the object is there.
async fn preview(session: &Session, target: &Target, object: &Value) -> Result<(target::Found, String)> {
    let there: Option<Value> = match session.client.get_path(&target.path()).await {
        Ok(current) => Some(current),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let what = match &there {
        None => "created",
        // What the server holds already has every field that is asked for.
        Some(now) if contains(now, object) => "unchanged",
        Some(_) => "configured",
    };
    let object = there.unwrap_or_else(|| three_way::annotated(object));
    Ok((target::as_found(&target.resource, object), format!("{what}{}", DryRun::Client.suffix())))
}

/// Whether an object has all that another says.
fn contains(now: &Value, wanted: &Value) -> bool {
    match (now, wanted) {
        (Value::Object(now), Value::Object(wanted)) => {
            wanted.iter().all(|(k, v)| v.is_null() || now.get(k).is_some_and(|n| contains(n, v)))
        }
        (Value::Array(now), Value::Array(wanted)) => {
            now.len() == wanted.len() && now.iter().zip(wanted).all(|(n, w)| contains(n, w))
        }
        (now, wanted) => now == wanted,
    }
}

impl Target {
    /// `deployments/x`, as kubectl's warnings have it.
    fn named_plural(&self) -> String {
        format!("{}/{}", self.resource.plural, self.name.as_deref().unwrap_or_default())
    }
}
