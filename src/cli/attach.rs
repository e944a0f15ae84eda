//! `attach` and `run`: a container's own streams, and pods that are quickly said.
//!
//! Source: kubectl `pkg/cmd/{attach,run}`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use client::DeleteParams;
use client::api::Query;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::exec::{self, Ask, Ends};
use crate::failure::{Exit, usage};
use crate::manifest::{Manifest, text};
use crate::session::Session;
use crate::target::{self, Found};
use crate::until::{self, Verdict};
use crate::write::{DryRun, Writing};
use crate::{create, logs};

/// Longest wait for a pod that is attached to, as kubectl's.
const STARTED: Duration = Duration::from_secs(60);
/// Longest wait for what was written before that, as kubectl's.
const LOGGED: Duration = Duration::from_secs(5);
const PROMPT: &str = "All commands and output from this session will be recorded in container logs, including credentials and \
                      sensitive information passed through the command prompt.\nIf you don't see a command prompt, try \
                      pressing enter.";

#[derive(Debug, Clone, Args)]
pub struct Attach {
    /// POD or TYPE/NAME
    #[arg(value_name = "POD")]
    pub pod: Option<String>,
    /// This container
    #[arg(long, short = 'c', default_value = "", hide_default_value = true)]
    pub container: String,
    /// Pass standard input on
    #[arg(long, short = 'i')]
    pub stdin: bool,
    /// Standard input is a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Print only what the container writes
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

pub async fn attach(session: &Session, attach: &Attach) -> Result<()> {
    let Some(word) = &attach.pod else {
        return Err(usage("at least 1 argument is required for attach"));
    };
    let (pod, _) = logs::one_pod(session, word, logs::ATTACH).await?;
    let phase = text(&pod.object, "/status/phase");
    anyhow::ensure!(
        !["Succeeded", "Failed"].contains(&phase),
        "cannot attach a container in a completed pod; current phase is {phase}"
    );
    let container = match attach.container.as_str() {
        "" => logs::default_container(session, &pod, attach.quiet),
        named if logs::container_names(&pod.object).iter().any(|n| n == named) => named.to_owned(),
        named => anyhow::bail!("cannot attach to the container: {}", logs::no_container(&pod, named)),
    };
    join(session, &pod, &container, attach.stdin, attach.tty, attach.quiet).await
}

async fn join(session: &Session, pod: &Found, container: &str, stdin: bool, tty: bool, quiet: bool) -> Result<()> {
    let own = pod.object["spec"]["containers"].as_array().into_iter().flatten().find(|c| text(c, "/name") == container);
    let has_tty = own.is_some_and(|c| c["tty"] == json!(true));
    if tty && !has_tty && !quiet {
        session.note(format!("error: Unable to use a TTY - container {container} did not allocate one"));
    }
    let ask = Ask::of(session, stdin, tty && has_tty);
    if !quiet {
        session.note(PROMPT);
    }
    let mut query = Query::default();
    query.push("container", container);
    let status = exec::stream(session, &format!("{}/attach", pod.path()), query, ask, Ends::default()).await?;
    let restarts = text(&pod.object, "/spec/restartPolicy") == "Always";
    if stdin && ask.is_interactive() && restarts && !quiet {
        let (name, space) = (&pod.name, &pod.namespace);
        session.note(format!(
            "Session ended, resume using 'kedge attach {name} -c {container} -i -t' command when the pod is running in \
             namespace {space}"
        ));
    }
    exec::finish(session, &status)
}

#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command")]
pub struct Run {
    /// The pod's name
    pub name: Option<String>,
    #[arg(long, default_value = "", hide_default_value = true)]
    pub image: String,
    /// Always, Never or IfNotPresent
    #[arg(long, default_value = "", hide_default_value = true)]
    pub image_pull_policy: String,
    /// Always, OnFailure or Never
    #[arg(long, default_value = "Always")]
    pub restart: String,
    /// NAME=VALUE
    #[arg(long)]
    pub env: Vec<String>,
    /// KEY=VALUE,…
    #[arg(long, short = 'l', value_delimiter = ',')]
    pub labels: Vec<String>,
    #[arg(long)]
    pub annotations: Vec<String>,
    #[arg(long)]
    pub port: Option<u16>,
    /// The words are the command rather than its arguments
    #[arg(long)]
    pub command: bool,
    #[arg(long)]
    pub privileged: bool,
    /// Pass standard input on
    #[arg(long, short = 'i')]
    pub stdin: bool,
    /// Give the container a terminal
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Attach to the pod when it runs
    #[arg(long)]
    pub attach: bool,
    /// Delete the pod at the end
    #[arg(long)]
    pub rm: bool,
    /// Print only what the container writes
    #[arg(long, short = 'q')]
    pub quiet: bool,
    #[command(flatten)]
    pub writing: Writing,
    #[arg(last = true)]
    pub words: Vec<String>,
}

pub async fn run(session: &Session, run: &Run) -> Result<()> {
    let Some(name) = &run.name else { return Err(usage("NAME is required for run")) };
    if run.image.is_empty() {
        return Err(usage("required flag(s) \"image\" not set"));
    }
    let attaches = run.attach || run.stdin || run.tty;
    if run.rm && !attaches {
        return Err(usage("--rm should only be used for attached containers"));
    }
    if run.tty && !run.stdin {
        return Err(usage("-i/--stdin is required for containers with -t/--tty=true"));
    }
    if !["Always", "OnFailure", "Never"].contains(&run.restart.as_str()) {
        return Err(usage(format!("invalid restart policy: {}", run.restart)));
    }
    let object = pod(run, name)?;
    let preview = run.writing.dry_run()? != DryRun::None;
    if !attaches || preview {
        let writing = run.writing.clone().managed_by("kubectl-run");
        return create::make(session, &writing, false, Manifest { object, source: String::new() }).await;
    }
    let pods = session.discovery().await?.only("pods")?;
    let params = run.writing.params("kubectl-run")?;
    let made: Value = session.client.create_path(&pods.path(&session.namespace), &object, &params).await?;
    let one = target::as_found(&pods, made);
    let result = attached(session, run, &one).await;
    if run.rm {
        session.client.delete_path(&one.path(), &DeleteParams::default()).await?;
        if !run.quiet {
            session.line(format!("pod {:?} deleted from {} namespace", one.name, one.namespace))?;
        }
    }
    result
}

/// Attaches to a pod that was just made, and ends as its container does. One that ended before shows its log.
async fn attached(session: &Session, run: &Run, one: &Found) -> Result<()> {
    let deadline = Instant::now() + STARTED;
    let now: Value = until::seen(session, one, deadline, |object| match object {
        None => Verdict::Failed(format!("pod {} was deleted", one.name)),
        Some(o) if text(o, "/status/phase") == "Pending" => Verdict::Wait,
        Some(o) => Verdict::Done(o.clone()),
    })
    .await?;
    let pod = target::as_found(&one.resource, now);
    let ended = ["Succeeded", "Failed"].contains(&text(&pod.object, "/status/phase"));
    if !ended {
        let known = written_before(session, &pod, &one.name).await;
        match join(session, &pod, &one.name, run.stdin, run.tty, run.quiet).await {
            Ok(()) => {}
            // It ended while the connection was made.
            Err(_) if run.restart == "Never" => drop(logs::print_from(session, &pod, &one.name, known).await?),
            Err(error) => return Err(error),
        }
    } else {
        logs::print_from(session, &pod, &one.name, 0).await?;
    }
    if run.restart == "Always" {
        return Ok(());
    }
    let code = until::seen(session, one, Instant::now() + STARTED, |object| match object {
        None => Verdict::Done(0),
        Some(o) => match o.pointer("/status/containerStatuses/0/state/terminated/exitCode").and_then(Value::as_i64) {
            Some(code) => Verdict::Done(code),
            None => Verdict::Wait,
        },
    })
    .await?;
    match code {
        0 => Ok(()),
        code => {
            session.note(format!("pod {}/{} terminated (Error)", one.namespace, one.name));
            Err(Exit(u8::try_from(code).unwrap_or(1)).into())
        }
    }
}

/// Prints what a container wrote before anybody was attached; how many bytes that is. Without it what is yet to come is still worth
/// having.
async fn written_before(session: &Session, pod: &Found, container: &str) -> usize {
    match tokio::time::timeout(LOGGED, logs::print_from(session, pod, container, 0)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            session.note(format!("warning: couldn't fetch pre-attach logs: {error:#}"));
            0
        }
        Err(_) => {
            session.note("warning: couldn't fetch pre-attach logs: context deadline exceeded");
            0
        }
    }
}

fn pod(run: &Run, name: &str) -> Result<Value> {
    let pairs = |list: &[String], what: &str| {
        let split = |p: &String| match p.split_once('=') {
            Some((k, v)) if !k.is_empty() => Ok((k.to_owned(), Value::from(v))),
            _ => Err(usage(format!("invalid {what}: {p}"))),
        };
        list.iter().map(split).collect::<Result<serde_json::Map<_, _>>>()
    };
    let labels = if run.labels.is_empty() { json!({"run": name}) } else { pairs(&run.labels, "label spec")?.into() };
    let mut container = json!({"name": name, "image": run.image, "resources": {}});
    if !run.env.is_empty() {
        let env = pairs(&run.env, "env")?;
        container["env"] = env.into_iter().map(|(k, v)| json!({"name": k, "value": v})).collect();
    }
    if !run.words.is_empty() {
        container[if run.command { "command" } else { "args" }] = run.words.clone().into();
    }
    if let Some(port) = run.port {
        container["ports"] = json!([{"containerPort": port}]);
    }
    if !run.image_pull_policy.is_empty() {
        container["imagePullPolicy"] = run.image_pull_policy.as_str().into();
    }
    if run.privileged {
        container["securityContext"] = json!({"privileged": true});
    }
    for (flag, field) in [(run.stdin, "stdin"), (run.stdin, "stdinOnce"), (run.tty, "tty")] {
        if flag {
            container[field] = true.into();
        }
    }
    let mut metadata = json!({"name": name, "labels": labels});
    if !run.annotations.is_empty() {
        metadata["annotations"] = pairs(&run.annotations, "annotation")?.into();
    }
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": run.restart}, "status": {}}))
}
