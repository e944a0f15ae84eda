//! `create job`, `create cronjob`, `create poddisruptionbudget`.
//!
//! Source: kubectl `pkg/cmd/create/{create_job,create_cronjob,create_pdb}.go`.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::failure::{self, usage};
use crate::manifest::Files;
use crate::session::Session;
use crate::target::{self, Selection};

#[derive(Debug, Clone, Default, Args)]
pub struct Job {
    pub name: String,
    #[arg(long, default_value = "")]
    pub image: String,
    /// Run once what this cron job runs by the clock: cronjob/NAME
    #[arg(long, default_value = "")]
    pub from: String,
    #[arg(last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Clone, Default, Args)]
pub struct CronJob {
    pub name: String,
    #[arg(long, required = true)]
    pub image: String,
    /// As cron has them: minute, hour, day of the month, month, day of the week
    #[arg(long, required = true)]
    pub schedule: String,
    /// OnFailure or Never
    #[arg(long, default_value = "OnFailure")]
    pub restart: String,
    #[arg(last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Clone, Default, Args)]
pub struct Budget {
    pub name: String,
    /// Of the pods that are counted
    #[arg(long, default_value = "")]
    pub selector: String,
    /// A number or a percentage
    #[arg(long, default_value = "")]
    pub min_available: String,
    /// A number or a percentage
    #[arg(long, default_value = "")]
    pub max_unavailable: String,
}

pub async fn job(session: &Session, job: &Job) -> Result<Value> {
    if job.image.is_empty() == job.from.is_empty() {
        return Err(usage("either --image or --from must be specified"));
    }
    if job.from.is_empty() {
        let template = template(&job.name, &job.image, &job.command, "Never");
        return Ok(object("Job", json!({"name": job.name}), json!({"template": template})));
    }
    if !job.command.is_empty() {
        return Err(usage("cannot specify --from and command"));
    }
    let (files, selection) = (Files::default(), Selection::default());
    let targets = target::resolve(session, &files, std::slice::from_ref(&job.from), &selection).await?;
    let (found, errors) = target::fetch(session, &targets, &selection).await;
    failure::all(errors)?;
    match &found[..] {
        [cron] if cron.object["kind"] == "CronJob" => Ok(once(&job.name, &cron.object)),
        [other] => {
            let version = other.object["apiVersion"].as_str().unwrap_or_default();
            let kind = other.object["kind"].as_str().unwrap_or_default();
            bail!("unknown object type *{}.{kind}", version.rsplit('/').next().unwrap_or_default())
        }
        _ => bail!("from must be an existing cronjob"),
    }
}

/// The job that a cron job would make now.
fn once(name: &str, cron: &Value) -> Value {
    let template = &cron["spec"]["jobTemplate"];
    let mut annotations = json!({"cronjob.kubernetes.io/instantiate": "manual"});
    for (key, value) in template["metadata"]["annotations"].as_object().into_iter().flatten() {
        annotations[key] = value.clone();
    }
    let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": cron["metadata"]["name"],
        "uid": cron["metadata"]["uid"], "controller": true});
    let mut meta = json!({"name": name, "annotations": annotations, "ownerReferences": [owner]});
    if let Some(labels) = template["metadata"].get("labels") {
        meta["labels"] = labels.clone();
    }
    object("Job", meta, template["spec"].clone())
}

pub fn cron_job(cron: &CronJob) -> Value {
    let template = template(&cron.name, &cron.image, &cron.command, &cron.restart);
    let job = json!({"metadata": {"name": cron.name}, "spec": {"template": template}});
    object("CronJob", json!({"name": cron.name}), json!({"schedule": cron.schedule, "jobTemplate": job}))
}

fn object(kind: &str, metadata: Value, spec: Value) -> Value {
    json!({"apiVersion": "batch/v1", "kind": kind, "metadata": metadata, "spec": spec, "status": {}})
}

fn template(name: &str, image: &str, command: &[String], restart: &str) -> Value {
    let mut container = json!({"name": name, "image": image, "resources": {}});
    if !command.is_empty() {
        container["command"] = command.into();
    }
    json!({"metadata": {}, "spec": {"containers": [container], "restartPolicy": restart}})
}

pub fn budget(budget: &Budget) -> Result<Value> {
    let (min, max) = (&budget.min_available, &budget.max_unavailable);
    if budget.selector.is_empty() {
        return Err(usage("a selector must be specified"));
    }
    let (field, value) = match (min.is_empty(), max.is_empty()) {
        (true, true) => return Err(usage("one of min-available or max-unavailable must be specified")),
        (false, false) => return Err(usage("min-available and max-unavailable cannot be both specified")),
        (false, true) => ("minAvailable", min),
        (true, false) => ("maxUnavailable", max),
    };
    let value = value.parse::<i32>().map_or_else(|_| Value::from(value.as_str()), Value::from);
    let mut labels = json!({});
    for pair in budget.selector.split(',') {
        let Some((key, label)) = pair.split_once('=') else {
            return Err(usage(format!("invalid selector {pair:?}: labels are given as key=value")));
        };
        labels[key.trim()] = label.trim_start_matches('=').trim().into();
    }
    let counts = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
    Ok(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": budget.name},
        "spec": {field: value, "selector": {"matchLabels": labels}}, "status": counts}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_once_is_the_cron_jobs() {
        let cron = json!({"metadata": {"name": "tick", "uid": "u"}, "spec": {"jobTemplate": {
            "metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}}, "spec": {"template": {"spec": {}}}}}});
        assert_eq!(
            once("now", &cron),
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "now", "labels": {"a": "b"},
                "annotations": {"cronjob.kubernetes.io/instantiate": "manual", "x": "y"},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "u", "controller": true}]},
                "spec": {"template": {"spec": {}}}, "status": {}})
        );
    }

    #[test]
    fn budgets() {
        let make = |selector: &str, min: &str, max: &str| {
            budget(&Budget {
                name: "b".into(),
                selector: selector.into(),
                min_available: min.into(),
                max_unavailable: max.into(),
            })
        };
        let spec = |made: Result<Value>| made.unwrap()["spec"].clone();
        let matches = |labels: Value| json!({"matchLabels": labels});
        assert_eq!(
            spec(make("a=b", "50%", "")),
            json!({"minAvailable": "50%", "selector": matches(json!({"a": "b"}))})
        );
        assert_eq!(
            spec(make("a=b,c==d", "", "1")),
            json!({"maxUnavailable": 1, "selector": matches(json!({"a": "b", "c": "d"}))})
        );
        for (selector, min, max, why) in [
            ("", "1", "", "a selector must be specified"),
            ("a=b", "", "", "one of min-available or max-unavailable must be specified"),
            ("a=b", "1", "1", "min-available and max-unavailable cannot be both specified"),
            ("a", "1", "", "invalid selector \"a\": labels are given as key=value"),
        ] {
            assert_eq!(make(selector, min, max).unwrap_err().to_string(), why);
        }
    }
}
