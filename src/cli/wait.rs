//! `wait`: until a condition, a value, a creation or a deletion.
//!
//! Source: kubectl `pkg/cmd/wait` (observed generations, texts).

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use crate::failure::{self, usage};
use crate::jsonpath::{Template, show};
use crate::manifest::{Files, text};
use crate::session::Session;
use crate::target::{self, Found, Selection, Target};
use crate::until::{self, Verdict};

#[derive(Debug, Clone, Args)]
pub struct Wait {
    /// TYPE NAME…, TYPE/NAME…, or TYPE with --all or -l
    #[arg(value_name = "RESOURCE")]
    pub resources: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub selection: Selection,
    /// create, delete, condition=NAME[=VALUE] or jsonpath='{EXPRESSION}'[=VALUE]
    #[arg(long = "for", value_name = "WHAT")]
    pub what: Vec<String>,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
    /// How long to wait at most; 0s: look once; negative: a week
    #[arg(long, default_value = "30s", value_parser = crate::duration::parse_or_forever, allow_hyphen_values = true)]
    pub timeout: Duration,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq)]
pub enum Goal {
    Create,
    Delete,
    Condition {
        name: String,
        value: String,
    },
    /// No value: that there is one.
    Path(Template, Option<String>),
}

impl Goal {
    pub fn parse(text: &str) -> Result<Self> {
        let lower = text.to_lowercase();
        if lower == "create" {
            return Ok(Self::Create);
        }
        if lower == "delete" {
            return Ok(Self::Delete);
        }
        if let Some(rest) = text.strip_prefix("condition=") {
            let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
            return Ok(Self::Condition { name: name.to_lowercase(), value: value.to_lowercase() });
        }
        if let Some(rest) = text.strip_prefix("jsonpath=") {
            let rest = rest.trim_start_matches('\'');
            // The value's `=` is the one after the closing brace, or the first outside a filter.
            let (path, value) = match rest.rfind('}') {
                Some(at) => (&rest[..=at], rest[at + 1..].trim_start_matches('\'').strip_prefix('=')),
                None => match rest.split_once('=') {
                    Some((path, value)) => (path, Some(value)),
                    None => (rest, None),
                },
            };
            if value == Some("") {
                return Err(usage("jsonpath wait value cannot be empty"));
            }
            let template = Template::relaxed(path).map_err(|e| usage(format!("jsonpath {path:?}: {e}")))?;
            return Ok(Self::Path(template, value.map(|v| v.trim_matches(['\'', '"']).to_owned())));
        }
        Err(usage(format!("unrecognized condition: {text:?}")))
    }

    /// Whether the object is as it shall be.
    pub fn is_met(&self, object: Option<&Value>) -> bool {
        let Some(object) = object else { return *self == Self::Delete };
        match self {
            Self::Create => true,
            Self::Delete => false,
            Self::Condition { name, value } => condition(object, name, value),
            Self::Path(template, value) => match (template.values(object), value) {
                (Ok(found), None) => !found.is_empty(),
                (Ok(found), Some(value)) => {
                    matches!(found[..], [one] if !one.is_object() && !one.is_array() && show(one) == *value)
                }
                (Err(_), _) => false,
            },
        }
    }
}

/// A condition counts only when it was seen of the object's present generation.
fn condition(object: &Value, name: &str, value: &str) -> bool {
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let Some(found) = conditions.into_iter().flatten().find(|c| text(c, "/type").to_lowercase() == name) else {
        return false;
    };
    let observed = found.get("observedGeneration").or_else(|| object.pointer("/status/observedGeneration"));
    if observed.and_then(Value::as_i64).is_some_and(|o| o < generation) {
        return false;
    }
    text(found, "/status").to_lowercase() == value
}

pub async fn run(session: &Session, wait: &Wait) -> Result<()> {
    if wait.what.is_empty() {
        return Err(usage("unrecognized condition: []"));
    }
    let goals = wait.what.iter().map(|w| Goal::parse(w)).collect::<Result<Vec<_>>>()?;
    let deadline = Instant::now() + wait.timeout;
    let targets = target::resolve(session, &wait.files, &wait.resources, &wait.selection).await?;
    let whole = targets.iter().any(|t| t.name.is_none());
    if whole && !wait.all && wait.selection.is_empty() {
        return Err(usage("resource(s) were provided, but no name was specified"));
    }
    let mut waits = Vec::new();
    let mut errors = Vec::new();
    for goal in &goals {
        let found = match find(session, wait, &targets, goal).await {
            Ok(found) => found,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        waits.extend(found.into_iter().map(|one| until_met(session, wait, one, goal, deadline)));
    }
    if waits.is_empty() && errors.is_empty() {
        if goals.contains(&Goal::Delete) {
            return Ok(());
        }
        anyhow::bail!("no matching resources found");
    }
    for result in futures_util::future::join_all(waits).await {
        if let Err(error) = result {
            errors.push(error);
        }
    }
    failure::all(errors)
}

async fn find(session: &Session, wait: &Wait, targets: &[Target], goal: &Goal) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for target in targets {
        let Some(name) = &target.name else {
            let (items, _) = target::list_all(session, &target.path(), &wait.selection.params()).await?;
            found.extend(items.into_iter().map(|o| target::as_found(&target.resource, o)));
            continue;
        };
        let one = Found {
            resource: target.resource.clone(),
            namespace: target.namespace.clone(),
            name: name.clone(),
            object: Value::Null,
        };
        match session.client.get_path::<Value>(&one.path()).await {
            Ok(object) => found.push(target::as_found(&target.resource, object)),
            Err(error) if error.is_not_found() && *goal == Goal::Create => found.push(one),
            // What is not there needs no wait and no word.
            Err(error) if error.is_not_found() && *goal == Goal::Delete => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

async fn until_met(session: &Session, wait: &Wait, one: Found, goal: &Goal, deadline: Instant) -> Result<()> {
    let uid = crate::output::uid(&one.object).to_owned();
    let met = "condition met";
    if wait.timeout.is_zero() {
        let object = Some(&one.object).filter(|o| !o.is_null());
        anyhow::ensure!(
            goal.is_met(object),
            "timed out waiting for the condition on {}/{}",
            one.resource.group_resource(),
            one.name
        );
    } else if *goal == Goal::Delete {
        until::gone(session, &one, &uid, deadline).await?;
    } else {
        let named = one.named();
        until::seen(session, &one, deadline, |object| match object {
            object if goal.is_met(object) => Verdict::Done(()),
            // What was there and is gone will not meet anything.
            None if *goal != Goal::Create => Verdict::Failed(format!("{named} was deleted while waiting")),
            _ => Verdict::Wait,
        })
        .await?;
    }
    session.line(format!("{} {met}", one.named()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn goals_are_met() {
        let object = json!({
            "metadata": {"generation": 3},
            "status": {"phase": "Running", "observedGeneration": 3, "conditions": [
                {"type": "Ready", "status": "True"}, {"type": "Old", "status": "True", "observedGeneration": 2},
                {"type": "Bad", "status": "False"}]},
        });
        for (goal, met) in [
            ("condition=Ready", true),
            ("condition=ready=True", true),
            ("condition=Bad", false),
            ("condition=Bad=False", true),
            ("condition=Old", false),
            ("condition=None", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath='{.status.phase}'=Pending", false),
            ("jsonpath=.status.phase=Running", true),
            ("jsonpath={.status.phase}", true),
            ("jsonpath={.status.nothing}", false),
            ("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", true),
            ("create", true),
            ("delete", false),
        ] {
            assert_eq!(Goal::parse(goal).unwrap().is_met(Some(&object)), met, "{goal}");
        }
        assert!(Goal::parse("delete").unwrap().is_met(None));
        assert!(!Goal::parse("condition=Ready").unwrap().is_met(None));
        assert_eq!(Goal::parse("x=y").unwrap_err().to_string(), "unrecognized condition: \"x=y\"");
        let stale = json!({"metadata": {"generation": 4}, "status": {"observedGeneration": 3, "conditions": [
            {"type": "Available", "status": "True"}]}});
        assert!(!Goal::parse("condition=Available").unwrap().is_met(Some(&stale)));
    }
}
