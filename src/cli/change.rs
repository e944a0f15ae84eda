//! Small changes: `scale`, `label`, `annotate`, `set image`, `cordon`, `uncordon`.
//!
//! Source: kubectl `pkg/cmd/{scale,label,annotate,set,drain}`.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use client::{Patch, WriteParams};
use serde_json::{Map, Value, json};

use crate::failure::{self, usage};
use crate::manifest::Files;
use crate::output;
use crate::session::Session;
use crate::target::{self, Found, Selection};
use crate::until::{self, Verdict};
use crate::write::{DryRun, Writing};

#[derive(Debug, Clone, Args)]
pub struct Scale {
    /// TYPE NAME… or TYPE/NAME…
    #[arg(value_name = "RESOURCE")]
    pub resources: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    /// So many
    #[arg(long, allow_negative_numbers = true)]
    pub replicas: i32,
    #[command(flatten)]
    pub writing: Writing,
    /// Only if there are so many now
    #[arg(long)]
    pub current_replicas: Option<i32>,
    /// Wait so long for it to have happened
    #[arg(long, value_parser = crate::duration::parse)]
    pub timeout: Option<Duration>,
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub selector: String,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
}

/// The objects that words, files or a selector name.
async fn objects(
    session: &Session,
    files: &Files,
    words: &[String],
    selector: &str,
    all: bool,
) -> Result<(Vec<Found>, Vec<anyhow::Error>)> {
    let selection = Selection { selector: selector.to_owned(), ..Selection::default() };
    let targets = target::resolve(session, files, words, &selection).await?;
    if targets.iter().any(|t| t.name.is_none()) && !all && selector.is_empty() {
        return Err(usage("one or more resources must be specified as <resource> <name> or <resource>/<name>"));
    }
    Ok(target::fetch(session, &targets, &selection).await)
}

pub async fn scale(session: &Session, scale: &Scale) -> Result<()> {
    if scale.replicas < 0 {
        return Err(usage("The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0"));
    }
    let (format, dry_run) = (scale.writing.format()?, scale.writing.dry_run()?);
    let (found, mut errors) = objects(session, &scale.files, &scale.resources, &scale.selector, scale.all).await?;
    for one in found {
        match scale_one(session, scale, &one).await {
            Ok(()) => session.print(&output::outcome(&format, &one, &format!("scaled{}", dry_run.suffix()))?)?,
            Err(error) => errors.push(error),
        }
    }
    failure::all(errors)
}

async fn scale_one(session: &Session, scale: &Scale, one: &Found) -> Result<()> {
    let path = format!("{}/scale", one.path());
    if let Some(expected) = scale.current_replicas {
        let now: Value = session.client.get_path(&path).await?;
        let now = now["spec"]["replicas"].as_i64().unwrap_or(0);
        anyhow::ensure!(now == i64::from(expected), "Expected replicas to be {expected}, was {now}");
    }
    let patch = json!({"spec": {"replicas": scale.replicas}});
    if scale.writing.dry_run()? == DryRun::Client {
        return Ok(());
    }
    let params = scale.writing.params("kubectl-scale")?;
    let _: Value = session.client.patch_path(&path, Patch::Merge(&patch), &params).await?;
    if let Some(timeout) = scale.timeout {
        let wanted = i64::from(scale.replicas);
        let deadline = tokio::time::Instant::now() + timeout;
        until::seen(session, one, deadline, |object| match object {
            Some(o) if o["status"]["replicas"].as_i64().unwrap_or(0) == wanted => Verdict::Done(()),
            Some(_) => Verdict::Wait,
            None => Verdict::Failed(format!("{} was deleted", one.named())),
        })
        .await?;
    }
    Ok(())
}

#[derive(Debug, Clone, Args)]
pub struct Mark {
    /// TYPE NAME… or TYPE/NAME…, then KEY=VALUE… and KEY-…
    #[arg(value_name = "RESOURCE KEY=VALUE", required = true)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub writing: Writing,
    /// Change what is there already
    #[arg(long)]
    pub overwrite: bool,
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub selector: String,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
    /// Print what is there
    #[arg(long)]
    pub list: bool,
}

/// `labels` or `annotations`, and what is said when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    Labels,
    Annotations,
}

impl Marked {
    fn manager(self) -> &'static str {
        match self {
            Self::Labels => "kubectl-label",
            Self::Annotations => "kubectl-annotate",
        }
    }
    fn field(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }
}

/// What the words ask for: set (Some) or remove (None).
type Marks = Vec<(String, Option<String>)>;

/// Splits words into the resource's and the marks. A mark is `k=v` or ends in `-`.
fn split_marks(words: &[String]) -> Result<(Vec<String>, Marks)> {
    let at = words.iter().position(|w| w.contains('=') || w.ends_with('-')).unwrap_or(words.len());
    let (resources, marks) = words.split_at(at);
    let marks = marks.iter().map(|word| match (word.split_once('='), word.strip_suffix('-')) {
        (Some((key, value)), _) if !key.is_empty() => Ok((key.to_owned(), Some(value.to_owned()))),
        (None, Some(key)) if !key.is_empty() => Ok((key.to_owned(), None)),
        _ => Err(usage(format!("all resources must be specified before label changes: {word}"))),
    });
    Ok((resources.to_vec(), marks.collect::<Result<_>>()?))
}

/// The merge patch, and the word for it; an error when something would be overwritten unasked.
fn mark_patch(marked: Marked, object: &Value, marks: &Marks, overwrite: bool) -> Result<(Value, &'static str)> {
    let now = object["metadata"][marked.field()].as_object().cloned().unwrap_or_default();
    let mut patch = Map::new();
    let (mut set, mut removed) = (false, false);
    for (key, value) in marks {
        match (now.get(key).and_then(Value::as_str), value) {
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(new)) => {
                if !overwrite {
                    match marked {
                        Marked::Labels => {
                            anyhow::bail!("'{key}' already has a value ({old}), and --overwrite is false")
                        }
                        Marked::Annotations => anyhow::bail!(
                            "--overwrite is false but found the following declared annotation(s): '{key}' already has a \
                             value ({old})"
                        ),
                    }
                }
                set = true;
                patch.insert(key.clone(), new.as_str().into());
            }
            (None, Some(new)) => {
                set = true;
                patch.insert(key.clone(), new.as_str().into());
            }
            (Some(_), None) => {
                removed = true;
                patch.insert(key.clone(), Value::Null);
            }
            (None, None) => {}
        }
    }
    let word = match (marked, set, removed) {
        (Marked::Labels, false, false) => "not labeled",
        (Marked::Labels, false, true) => "unlabeled",
        (Marked::Labels, true, _) => "labeled",
        (Marked::Annotations, ..) => "annotated",
    };
    Ok((json!({"metadata": {marked.field(): patch}}), word))
}

pub async fn mark(session: &Session, mark: &Mark, marked: Marked) -> Result<()> {
    let (resources, marks) = split_marks(&mark.words)?;
    if marks.is_empty() && !mark.list {
        return Err(usage(format!("at least one {} update is required", marked.field().trim_end_matches('s'))));
    }
    let (format, dry_run, params) =
        (mark.writing.format()?, mark.writing.dry_run()?, mark.writing.params(marked.manager())?);
    let (found, mut errors) = objects(session, &mark.files, &resources, &mark.selector, mark.all).await?;
    for mut one in found {
        if mark.list {
            for (key, value) in one.object["metadata"][marked.field()].as_object().into_iter().flatten() {
                session.line(format!("{key}={}", value.as_str().unwrap_or_default()))?;
            }
            continue;
        }
        let done = async {
            if marked == Marked::Labels {
                let there = &one.object["metadata"]["labels"];
                for (key, _) in marks.iter().filter(|(k, v)| v.is_none() && there.get(k).is_none()) {
                    session.line(format!("label {key:?} not found."))?;
                }
            }
            let (patch, word) = mark_patch(marked, &one.object, &marks, mark.overwrite)?;
            if word != "not labeled" && dry_run != DryRun::Client {
                one.object = session.client.patch_path(&one.path(), Patch::Merge(&patch), &params).await?;
            }
            session.print(&output::outcome(&format, &one, &format!("{word}{}", dry_run.suffix()))?)
        };
        if let Err(error) = done.await {
            errors.push(error);
        }
    }
    failure::all(errors)
}

#[derive(Debug, Clone, Args)]
pub struct Set {
    #[command(subcommand)]
    pub what: SetWhat,
}

#[derive(Debug, Clone, Subcommand)]
pub enum SetWhat {
    /// The image of containers: TYPE/NAME CONTAINER=IMAGE…
    Image(SetImage),
}

#[derive(Debug, Clone, Args)]
pub struct SetImage {
    /// TYPE NAME or TYPE/NAME, then CONTAINER=IMAGE…; * means every container
    #[arg(value_name = "RESOURCE CONTAINER=IMAGE", required = true)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub writing: Writing,
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub selector: String,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
}

pub async fn set_image(session: &Session, set: &SetImage) -> Result<()> {
    let (resources, images) = split_marks(&set.words)?;
    if images.is_empty() {
        return Err(usage("at least one image update is required"));
    }
    let (format, dry_run, params) = (set.writing.format()?, set.writing.dry_run()?, set.writing.params("kubectl-set")?);
    let (found, mut errors) = objects(session, &set.files, &resources, &set.selector, set.all).await?;
    for mut one in found {
        let done = async {
            let Some(patch) = image_patch(&one.object, &images)? else { return Ok(()) };
            if dry_run != DryRun::Client {
                one.object = session.client.patch_path(&one.path(), Patch::Strategic(&patch), &params).await?;
            }
            session.print(&output::outcome(&format, &one, &format!("image updated{}", dry_run.suffix()))?)
        };
        if let Err(error) = done.await {
            errors.push(error);
        }
    }
    failure::all(errors)
}

/// The strategic patch for the images of a pod or of a template of pods; nothing when all are as asked.
fn image_patch(object: &Value, images: &Marks) -> Result<Option<Value>> {
    let in_template = object.pointer("/spec/template/spec").is_some();
    let pod = object.pointer("/spec/template/spec").unwrap_or(&object["spec"]);
    let mut spec = Map::new();
    for (name, image) in images {
        let Some(image) = image else { continue };
        let mut known = false;
        for list in ["containers", "initContainers"] {
            for container in pod[list].as_array().into_iter().flatten() {
                let own = container["name"].as_str().unwrap_or_default();
                if name != own && name != "*" {
                    continue;
                }
                known = true;
                if container["image"] != json!(image) {
                    let patches = spec.entry(list).or_insert_with(|| json!([]));
                    if let Some(patches) = patches.as_array_mut() {
                        patches.push(json!({"name": own, "image": image}));
                    }
                }
            }
        }
        anyhow::ensure!(known, "unable to find container named {name:?}");
    }
    if spec.is_empty() {
        return Ok(None);
    }
    let spec = json!({"spec": spec});
    Ok(Some(if in_template { json!({"spec": {"template": spec}}) } else { spec }))
}

#[derive(Debug, Clone, Args)]
pub struct Cordon {
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub selector: String,
}

pub async fn cordon(session: &Session, cordon: &Cordon, unschedulable: bool) -> Result<()> {
    if cordon.nodes.is_empty() && cordon.selector.is_empty() {
        let verb = if unschedulable { "cordon" } else { "uncordon" };
        return Err(usage(format!("USAGE: {verb} NODE [flags]\nSee 'kedge {verb} -h' for help and examples")));
    }
    let words: Vec<String> = std::iter::once("nodes".to_owned())
        .chain(cordon.nodes.iter().map(|n| n.strip_prefix("node/").unwrap_or(n).to_owned()))
        .collect();
    let (found, mut errors) = objects(session, &Files::default(), &words, &cordon.selector, false).await?;
    let word = if unschedulable { "cordoned" } else { "uncordoned" };
    for one in found {
        if one.object["spec"]["unschedulable"].as_bool().unwrap_or(false) == unschedulable {
            session.line(format!("{} already {word}", one.named()))?;
            continue;
        }
        let value = if unschedulable { Value::Bool(true) } else { Value::Null };
        let patch = json!({"spec": {"unschedulable": value}});
        match session.client.patch_path::<Value>(&one.path(), Patch::Merge(&patch), &WriteParams::default()).await {
            Ok(_) => session.line(format!("{} {word}", one.named()))?,
            Err(error) => errors.push(error.into()),
        }
    }
    failure::all(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn marks() {
        let (resources, marks) = split_marks(&words("pods a k=v gone-")).unwrap();
        assert_eq!(resources, ["pods", "a"]);
        let object = json!({"metadata": {"labels": {"k": "old", "gone": "x"}}});
        assert_eq!(
            mark_patch(Marked::Labels, &object, &marks, true).unwrap(),
            (json!({"metadata": {"labels": {"k": "v", "gone": null}}}), "labeled")
        );
        assert!(
            mark_patch(Marked::Labels, &object, &marks, false)
                .unwrap_err()
                .to_string()
                .contains("--overwrite is false")
        );
        let same = vec![("k".to_owned(), Some("old".to_owned()))];
        assert_eq!(mark_patch(Marked::Labels, &object, &same, false).unwrap().1, "not labeled");
        let less = vec![("k".to_owned(), None)];
        assert_eq!(mark_patch(Marked::Labels, &object, &less, false).unwrap().1, "unlabeled");
    }

    #[test]
    fn images() {
        let object = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}]}}}});
        let (_, images) = split_marks(&words("deploy/x a=x:2")).unwrap();
        assert_eq!(
            image_patch(&object, &images).unwrap().unwrap(),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "x:2"}]}}}})
        );
        let (_, none) = split_marks(&words("deploy/x c=x:2")).unwrap();
        assert_eq!(image_patch(&object, &none).unwrap_err().to_string(), "unable to find container named \"c\"");
        let (_, same) = split_marks(&words("deploy/x a=x:1")).unwrap();
        assert!(image_patch(&object, &same).unwrap().is_none());
    }
}
