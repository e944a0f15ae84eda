//! `edit` and `diff`: programs of the user's choice look at objects.
//!
//! Source: kubectl `pkg/cmd/{util/editor,diff}`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use clap::Args;
use client::WriteParams;
use client::apply::{self as three_way, Schemas};
use serde::Deserialize as _;
use serde_json::Value;

use crate::failure::{self, Exit, FromFile, usage};
use crate::manifest::Files;
use crate::output::without_managed_fields;
use crate::session::Session;
use crate::target::{self, Found, Selection};
use crate::yaml::to_yaml;

const HEAD: &str = "# Please edit the object below. Lines beginning with a '#' will be ignored,\n# and an empty file will abort \
                    the edit.\n#\n";

#[derive(Debug, Clone, Args)]
pub struct Edit {
    /// TYPE NAME… or TYPE/NAME…
    #[arg(value_name = "RESOURCE")]
    pub resources: Vec<String>,
    #[command(flatten)]
    pub files: Files,
}

/// A folder that is gone when this is.
struct Scratch(PathBuf);

impl Scratch {
    fn new(what: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("kedge-{what}-{}", types::random::suffix(10)));
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700).create(&path).context("make a temporary folder")?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub async fn edit(session: &Session, edit: &Edit) -> Result<()> {
    let targets = target::resolve(session, &edit.files, &edit.resources, &Selection::default()).await?;
    let (found, mut errors) = target::fetch(session, &targets, &Selection::default()).await;
    for one in found {
        if let Err(error) = edit_one(session, one).await {
            errors.push(error);
        }
    }
    failure::all(errors)
}

async fn edit_one(session: &Session, one: Found) -> Result<()> {
    let scratch = Scratch::new("edit")?;
    let file = scratch.0.join(format!("{}.yaml", one.resource.type_name()));
    let before = without_managed_fields(one.object.clone());
    std::fs::write(&file, format!("{HEAD}{}", to_yaml(&before)))?;
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let editor = var("KUBE_EDITOR").or_else(|| var("EDITOR")).unwrap_or_else(|| "vi".into());
    // As a shell reads it, so that the editor may have arguments.
    let status = Command::new("sh").args(["-c", &format!("{editor} \"$0\"")]).arg(&file).status()?;
    anyhow::ensure!(status.success(), "there was a problem with the editor {editor:?}");
    let text = std::fs::read_to_string(&file)?;
    let document = serde_yaml_ng::Deserializer::from_str(&text);
    let mut after =
        Value::deserialize(document).map_err(|e| anyhow::anyhow!("the edited file could not be read: {e}"))?;
    if after.is_null() || after == before {
        session.note("Edit cancelled, no changes made.");
        return Ok(());
    }
    if let Some(fields) = one.object.pointer("/metadata/managedFields") {
        after["metadata"]["managedFields"] = fields.clone();
    }
    let params = WriteParams { field_manager: "kubectl-edit".into(), ..WriteParams::default() };
    let kept = || {
        let keep = std::env::temp_dir().join(format!("kedge-edit-{}.yaml", types::random::suffix(10)));
        std::fs::write(&keep, &text).map(|()| keep)
    };
    match session.client.update_path::<Value>(&one.path(), &after, &params).await {
        Ok(_) => session.line(format!("{} edited", one.named())),
        Err(error) => {
            if let Ok(path) = kept() {
                session.note(format!("A copy of your changes has been stored to {:?}", path.display().to_string()));
            }
            Err(error.into())
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct Diff {
    #[command(flatten)]
    pub files: Files,
}

/// An object without what is no difference to people.
fn compared(object: Value) -> Value {
    let mut object = without_managed_fields(object);
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(three_way::LAST_APPLIED);
    }
    object
}

/// Ends with 0 when there is no difference, 1 when there is one, and more than 1 when something failed.
pub async fn diff(session: &Session, diff: &Diff) -> Result<()> {
    if diff.files.is_empty() {
        return Err(usage("must specify one of -f and -k"));
    }
    let scratch = Scratch::new("diff")?;
    let (live, merged) = (scratch.0.join("LIVE"), scratch.0.join("MERGED"));
    std::fs::create_dir(&live)?;
    std::fs::create_dir(&merged)?;
    let mut schemas = Schemas::default();
    let params =
        WriteParams { dry_run: true, field_manager: "kubectl-client-side-apply".into(), ..WriteParams::default() };
    for manifest in diff.files.read()? {
        let target = target::of_manifest(session, session.discovery().await?, manifest)?;
        let (Some(name), Some(manifest)) = (&target.name, &target.manifest) else { continue };
        let now: Option<Value> = match session.client.get_path(&target.path()).await {
            Ok(now) => Some(now),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let mut object = manifest.object.clone();
        if !target.namespace.is_empty() {
            object["metadata"]["namespace"] = target.namespace.as_str().into();
        }
        let collection = target.resource.path(&target.namespace);
        let failed = |source| FromFile { doing: "creating", file: manifest.source.clone(), source };
        let would = three_way::apply(&session.client, &mut schemas, &collection, name, &object, &params).await;
        let would = would.map_err(failed)?;
        let r = &target.resource;
        let group = if r.group.is_empty() { String::new() } else { format!("{}.", r.group) };
        let file = format!("{group}{}.{}.{}.{name}", r.version, r.kind, target.namespace);
        if let Some(now) = now {
            std::fs::write(live.join(&file), to_yaml(&compared(now)))?;
        }
        std::fs::write(merged.join(&file), to_yaml(&compared(would.object)))?;
    }
    let program = std::env::var("KUBECTL_EXTERNAL_DIFF").ok().filter(|v| !v.is_empty());
    let mut words = program.as_deref().unwrap_or("diff -u -N").split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("diff"));
    let output = command.args(words).arg(&live).arg(&merged).stdin(Stdio::null()).output();
    let output = output.context("run the program that shows differences (KUBECTL_EXTERNAL_DIFF, else diff)")?;
    session.print_bytes(&output.stdout)?;
    session.note_bytes(&output.stderr);
    match output.status.code() {
        Some(0) => Ok(()),
        code => Err(Exit(u8::try_from(code.unwrap_or(2)).unwrap_or(2)).into()),
    }
}
