//! `create`: from files, or of the kinds that are quickly said.
//!
//! Source: kubectl `pkg/cmd/create` (flags and the objects that are made).

use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use client::apply::annotated;
use serde_json::{Map, Value, json};

use crate::failure::{self, FromFile, usage};
use crate::manifest::{Files, Manifest, text};
use crate::output;
use crate::session::Session;
use crate::target;
use crate::write::{DryRun, Writing};

#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = false, subcommand_negates_reqs = true)]
pub struct Create {
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub writing: Writing,
    /// Keep what was applied in an annotation, for later applies
    #[arg(long, global = true)]
    pub save_config: bool,
    #[command(subcommand)]
    pub what: Option<What>,
}

#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// A namespace
    #[command(visible_alias = "ns")]
    Namespace { name: String },
    /// A config map from files, folders, env files and literals
    #[command(visible_alias = "cm")]
    Configmap {
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// A secret
    Secret {
        #[command(subcommand)]
        what: Secret,
    },
    /// A service account
    #[command(visible_alias = "sa")]
    Serviceaccount { name: String },
    /// A deployment of one image or several
    #[command(visible_alias = "deploy")]
    Deployment {
        name: String,
        #[arg(long, required = true)]
        image: Vec<String>,
        #[arg(long, short = 'r', default_value_t = 1)]
        replicas: i32,
        #[arg(long)]
        port: Option<u16>,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// A job of one image, or of a cron job
    Job(crate::create_batch::Job),
    /// A cron job of one image
    #[command(visible_alias = "cj")]
    Cronjob(crate::create_batch::CronJob),
    /// A pod disruption budget
    #[command(visible_alias = "pdb")]
    Poddisruptionbudget(crate::create_batch::Budget),
    /// A role
    Role {
        name: String,
        #[command(flatten)]
        rule: Rule,
    },
    /// A cluster role
    Clusterrole {
        name: String,
        #[command(flatten)]
        rule: Rule,
    },
    /// A binding of a role
    Rolebinding {
        name: String,
        #[command(flatten)]
        binding: Binding,
    },
    /// A binding of a cluster role
    Clusterrolebinding {
        name: String,
        #[command(flatten)]
        binding: Binding,
    },
    /// A service
    #[command(visible_alias = "svc")]
    Service {
        #[command(subcommand)]
        what: crate::create_service::Service,
    },
    /// A priority class
    #[command(visible_alias = "pc")]
    Priorityclass {
        name: String,
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        value: i32,
        #[arg(long)]
        global_default: bool,
        #[arg(long, default_value = "")]
        description: String,
        #[arg(long, default_value = "PreemptLowerPriority")]
        preemption_policy: String,
    },
    /// A token of a service account, printed
    Token {
        name: String,
        #[arg(long, value_parser = crate::duration::parse)]
        duration: Option<std::time::Duration>,
        #[arg(long)]
        audience: Vec<String>,
    },
}

/// In Go's words, without the number.
fn unreadable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    anyhow::anyhow!("error reading {}: {text}", path.display())
}

#[derive(Debug, Clone, Subcommand)]
pub enum Secret {
    /// From files, folders, env files and literals
    Generic {
        name: String,
        #[command(flatten)]
        data: Data,
        #[arg(long = "type", default_value = "Opaque")]
        kind: String,
    },
    /// A certificate and its key
    Tls {
        name: String,
        #[arg(long)]
        cert: String,
        #[arg(long)]
        key: String,
    },
    /// For pulling images
    DockerRegistry {
        name: String,
        #[arg(long, default_value = "https://index.docker.io/v1/")]
        docker_server: String,
        #[arg(long)]
        docker_username: String,
        #[arg(long)]
        docker_password: String,
        #[arg(long, default_value = "")]
        docker_email: String,
    },
}

#[derive(Debug, Clone, Default, Args)]
pub struct Data {
    /// KEY=VALUE
    #[arg(long)]
    pub from_literal: Vec<String>,
    /// FILE, KEY=FILE or FOLDER
    #[arg(long)]
    pub from_file: Vec<String>,
    /// File of KEY=VALUE lines
    #[arg(long)]
    pub from_env_file: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct Rule {
    #[arg(long, value_delimiter = ',')]
    pub verb: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub resource: Vec<String>,
    /// For cluster roles: URLs that are no resources
    #[arg(long, value_delimiter = ',')]
    pub non_resource_url: Vec<String>,
    #[arg(long)]
    pub resource_name: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct Binding {
    #[arg(long, default_value = "")]
    pub role: String,
    #[arg(long, default_value = "")]
    pub clusterrole: String,
    #[arg(long)]
    pub user: Vec<String>,
    #[arg(long)]
    pub group: Vec<String>,
    /// NAMESPACE:NAME
    #[arg(long)]
    pub serviceaccount: Vec<String>,
}

impl Create {
    /// Whether `--user` names a subject rather than who connects.
    pub fn names_users(&self) -> bool {
        matches!(self.what, Some(What::Rolebinding { .. } | What::Clusterrolebinding { .. }))
    }
}

pub async fn run(session: &Session, create: &Create) -> Result<()> {
    match &create.what {
        None if create.files.is_empty() => Err(usage("must specify one of -f and -k")),
        None => {
            let mut errors = Vec::new();
            for manifest in create.files.read()? {
                if let Err(error) = make(session, &create.writing, create.save_config, manifest).await {
                    errors.push(error);
                }
            }
            failure::all(errors)
        }
        Some(What::Token { name, duration, audience }) => token(session, name, *duration, audience).await,
        Some(what) => {
            let object = object(session, what).await?;
            make(session, &create.writing, create.save_config, Manifest { object, source: String::new() }).await
        }
    }
}

/// Creates one object and says so.
pub async fn make(session: &Session, writing: &Writing, save: bool, manifest: Manifest) -> Result<()> {
    let format = writing.format()?;
    let dry_run = writing.dry_run()?;
    let params = writing.params("kubectl-create")?;
    let target = target::of_manifest(session, session.discovery().await?, manifest)?;
    let Some(manifest) = &target.manifest else { return Ok(()) };
    let mut object = if save { annotated(&manifest.object) } else { manifest.object.clone() };
    if dry_run != DryRun::Client {
        if !target.namespace.is_empty() {
            object["metadata"]["namespace"] = target.namespace.as_str().into();
        }
        let failed = |source| -> anyhow::Error {
            if manifest.source.is_empty() {
                match &source {
                    // kubectl gives these one line without the server's reason.
                    client::Error::Status(status) if !status.reason.is_empty() && !is_bare(manifest) => {
                        anyhow::anyhow!("failed to create {}: {}", said(manifest), status.message)
                    }
                    _ => source.into(),
                }
            } else {
                FromFile { doing: "creating", file: manifest.source.clone(), source }.into()
            }
        };
        let collection = target.resource.path(&target.namespace);
        object = session.client.create_path(&collection, &object, &params).await.map_err(failed)?;
    } else if session.namespace_given && !target.namespace.is_empty() {
        object["metadata"]["namespace"] = target.namespace.as_str().into();
    }
    let found = target::as_found(&target.resource, object);
    session.print(&output::outcome(&format, &found, &format!("created{}", dry_run.suffix()))?)
}

/// Kinds whose refusal kubectl passes on as it came.
fn is_bare(manifest: &Manifest) -> bool {
    ["Namespace", "Pod"].contains(&manifest.text("/kind"))
}

/// How kubectl names what it could not make.
fn said(manifest: &Manifest) -> String {
    match (manifest.text("/kind"), manifest.text("/spec/type")) {
        ("Service", kind) => format!("{kind} service"),
        ("PodDisruptionBudget", _) => "poddisruptionbudgets".into(),
        (kind, _) => kind.to_lowercase(),
    }
}

async fn token(
    session: &Session,
    name: &str,
    duration: Option<std::time::Duration>,
    audiences: &[String],
) -> Result<()> {
    let accounts = session.discovery().await?.only("serviceaccounts")?;
    let path = format!("{}/token", accounts.object_path(&session.namespace, name));
    let mut request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    if let Some(duration) = duration {
        request["spec"]["expirationSeconds"] = duration.as_secs().into();
    }
    if !audiences.is_empty() {
        request["spec"]["audiences"] = audiences.into();
    }
    let answer = session.client.create_path(&path, &request, &client::WriteParams::default()).await;
    let answer: Value = answer.map_err(|e: client::Error| match e.status() {
        Some(status) => anyhow::anyhow!("failed to create token: {}", status.message),
        None => e.into(),
    })?;
    session.line(text(&answer, "/status/token"))
}

async fn object(session: &Session, what: &What) -> Result<Value> {
    let head = |api: &str, kind: &str, name: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}});
    Ok(match what {
        What::Namespace { name } => {
            let mut object = head("v1", "Namespace", name);
            object["spec"] = json!({});
            object["status"] = json!({});
            object
        }
        What::Serviceaccount { name } => head("v1", "ServiceAccount", name),
        What::Configmap { name, data } => {
            let mut object = head("v1", "ConfigMap", name);
            for (key, bytes) in data.read()? {
                match String::from_utf8(bytes) {
                    Ok(text) => object["data"][key] = text.into(),
                    Err(not) => object["binaryData"][key] = STANDARD.encode(not.as_bytes()).into(),
                }
            }
            object
        }
        What::Secret { what } => secret(what, head)?,
        What::Deployment { name, image, replicas, port, command } => {
            if image.len() > 1 && !command.is_empty() {
                return Err(usage(format!(
                    "cannot specify multiple --image options and command, found {} images",
                    image.len()
                )));
            }
            let labels = json!({"app": name});
            let containers: Vec<Value> = image.iter().map(|i| container(i, *port, command, image.len())).collect();
            let mut object = head("apps/v1", "Deployment", name);
            object["metadata"]["labels"] = labels.clone();
            object["spec"] = json!({"replicas": replicas, "selector": {"matchLabels": labels},
                "strategy": {},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}});
            object["status"] = json!({});
            object
        }
        What::Job(job) => crate::create_batch::job(session, job).await?,
        What::Cronjob(cron) => crate::create_batch::cron_job(cron),
        What::Poddisruptionbudget(budget) => crate::create_batch::budget(budget)?,
        What::Role { name, rule } => {
            let mut object = head("rbac.authorization.k8s.io/v1", "Role", name);
            object["rules"] = rules(session, rule).await?;
            object
        }
        What::Clusterrole { name, rule } => {
            let mut object = head("rbac.authorization.k8s.io/v1", "ClusterRole", name);
            object["rules"] = rules(session, rule).await?;
            object
        }
        What::Rolebinding { name, binding } => {
            let mut object = head("rbac.authorization.k8s.io/v1", "RoleBinding", name);
            bind(&mut object, binding)?;
            object
        }
        What::Clusterrolebinding { name, binding } => {
            let mut object = head("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", name);
            bind(&mut object, binding)?;
            object
        }
        What::Service { what } => crate::create_service::object(what)?,
        What::Priorityclass { name, value, global_default, description, preemption_policy } => {
            let mut object = head("scheduling.k8s.io/v1", "PriorityClass", name);
            object["value"] = (*value).into();
            if *global_default {
                object["globalDefault"] = true.into();
            }
            if !description.is_empty() {
                object["description"] = description.as_str().into();
            }
            object["preemptionPolicy"] = preemption_policy.as_str().into();
            object
        }
        What::Token { .. } => Value::Null,
    })
}

fn container(image: &str, port: Option<u16>, command: &[String], of: usize) -> Value {
    let base = image.rsplit('/').next().unwrap_or(image);
    let base = base.split([':', '@']).next().unwrap_or(base);
    let mut name: String =
        base.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    if of > 1 {
        name = format!("{name}-{}", types::random::suffix(5));
    }
    let mut container = json!({"name": name, "image": image, "resources": {}});
    if let Some(port) = port {
        container["ports"] = json!([{"containerPort": port}]);
    }
    if !command.is_empty() {
        container["command"] = command.into();
    }
    container
}

fn secret(what: &Secret, head: impl Fn(&str, &str, &str) -> Value) -> Result<Value> {
    let read = |path: &str| std::fs::read(path).with_context(|| format!("read {path}"));
    let (name, kind, data) = match what {
        Secret::Generic { name, data, kind } => (name, kind.as_str(), data.read()?),
        Secret::Tls { name, cert, key } => {
            (name, "kubernetes.io/tls", vec![("tls.crt".to_owned(), read(cert)?), ("tls.key".to_owned(), read(key)?)])
        }
        Secret::DockerRegistry { name, docker_server, docker_username, docker_password, docker_email } => {
            // In the order in which kubectl writes the fields, so that both make the same bytes.
            let q = |text: &str| Value::from(text).to_string();
            let auth = STANDARD.encode(format!("{docker_username}:{docker_password}"));
            let email = if docker_email.is_empty() { String::new() } else { format!("\"email\":{},", q(docker_email)) };
            let config = format!(
                "{{\"auths\":{{{}:{{\"username\":{},\"password\":{},{email}\"auth\":{}}}}}}}",
                q(docker_server),
                q(docker_username),
                q(docker_password),
                q(&auth)
            );
            (name, "kubernetes.io/dockerconfigjson", vec![(".dockerconfigjson".to_owned(), config.into_bytes())])
        }
    };
    let mut object = head("v1", "Secret", name);
    object["type"] = kind.into();
    for (key, bytes) in data {
        object["data"][key] = STANDARD.encode(bytes).into();
    }
    Ok(object)
}

impl Data {
    /// Keys and contents, in the order given.
    pub fn read(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        let mut add = |key: &str, bytes: Vec<u8>| -> Result<()> {
            if all.iter().any(|(k, _)| k == key) {
                anyhow::bail!("cannot add key {key:?}, another key by that name already exists in data");
            }
            all.push((key.to_owned(), bytes));
            Ok(())
        };
        for literal in &self.from_literal {
            match literal.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    let value = value.trim_matches(['"', '\'']);
                    add(key, value.as_bytes().to_vec())?;
                }
                _ => return Err(usage(format!("invalid literal source {literal}, expected key=value"))),
            }
        }
        for source in &self.from_file {
            let (key, path) = match source.split_once('=') {
                Some((key, path)) => (Some(key), path),
                None => (None, source.as_str()),
            };
            let path = Path::new(path);
            let meta = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
            let base = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let read = |p: &Path| std::fs::read(p).with_context(|| format!("read {}", p.display()));
            if !meta.is_dir() {
                add(&key.map_or_else(|| base(path), str::to_owned), read(path)?)?;
                continue;
            }
            if key.is_some() {
                return Err(usage("cannot give a key name for a directory path"));
            }
            let mut entries =
                std::fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()?;
            entries.sort();
            for entry in entries.into_iter().filter(|e| e.is_file()) {
                add(&base(&entry), read(&entry)?)?;
            }
        }
        for path in &self.from_env_file {
            let content = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
            for line in content.lines().map(str::trim_start).filter(|l| !l.is_empty() && !l.starts_with('#')) {
                let (key, value) = match line.split_once('=') {
                    Some((key, value)) => (key, value.to_owned()),
                    None => (line, std::env::var(line).unwrap_or_default()),
                };
                add(key, value.into_bytes())?;
            }
        }
        Ok(all)
    }
}

/// Verbs that the API has; others are told of, as in kubectl.
const VERBS: &[&str] = &[
    "*",
    "get",
    "delete",
    "list",
    "create",
    "update",
    "patch",
    "watch",
    "proxy",
    "deletecollection",
    "use",
    "bind",
    "escalate",
    "impersonate",
];

async fn rules(session: &Session, rule: &Rule) -> Result<Value> {
    if rule.verb.is_empty() {
        return Err(usage("at least one verb must be specified"));
    }
    if rule.resource.is_empty() && rule.non_resource_url.is_empty() {
        return Err(usage("at least one resource must be specified"));
    }
    for verb in rule.verb.iter().filter(|v| !VERBS.contains(&v.as_str())) {
        session.note(format!("Warning: '{verb}' is not a standard resource verb"));
    }
    if !rule.non_resource_url.is_empty() {
        return Ok(json!([{"nonResourceURLs": rule.non_resource_url, "verbs": rule.verb}]));
    }
    let discovery = session.discovery().await?;
    // One rule per group, as kubectl makes them.
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for word in &rule.resource {
        let (word, sub) = word.split_once('/').unwrap_or((word, ""));
        let (group, mut name) = if word == "*" {
            (String::new(), "*".to_owned())
        } else {
            let resource = discovery.only(word)?;
            (resource.group.clone(), resource.plural.clone())
        };
        if !sub.is_empty() {
            name = format!("{name}/{sub}");
        }
        match groups.iter_mut().find(|(g, _)| *g == group) {
            Some((_, names)) => names.push(name),
            None => groups.push((group, vec![name])),
        }
    }
    let rules = groups.into_iter().map(|(group, resources)| {
        let mut one = Map::new();
        one.insert("apiGroups".into(), json!([group]));
        one.insert("resources".into(), resources.into());
        one.insert("verbs".into(), rule.verb.clone().into());
        if !rule.resource_name.is_empty() {
            one.insert("resourceNames".into(), rule.resource_name.clone().into());
        }
        Value::Object(one)
    });
    Ok(rules.collect())
}

fn bind(object: &mut Value, binding: &Binding) -> Result<()> {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let (kind, name) = match (binding.role.as_str(), binding.clusterrole.as_str()) {
        ("", "") => return Err(usage("exactly one of clusterrole or role must be specified")),
        ("", name) => ("ClusterRole", name),
        (name, "") => ("Role", name),
        _ => return Err(usage("exactly one of clusterrole or role must be specified")),
    };
    object["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": name});
    let mut subjects = Vec::new();
    for (kind, names) in [("User", &binding.user), ("Group", &binding.group)] {
        subjects.extend(names.iter().map(|name| json!({"apiGroup": GROUP, "kind": kind, "name": name})));
    }
    for account in &binding.serviceaccount {
        let Some((namespace, name)) = account.split_once(':') else {
            return Err(usage("serviceaccount must be <namespace>:<name>"));
        };
        subjects.push(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}));
    }
    object["subjects"] = subjects.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_read_from_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("a.txt"), "A").unwrap();
        std::fs::write(path("env"), "# c\nX=1\n\nY=a=b\n").unwrap();
        let data = Data {
            from_literal: vec!["k=v=w".into(), "q='x'".into()],
            from_file: vec![path("a.txt"), format!("b={}", path("a.txt"))],
            from_env_file: vec![path("env")],
        };
        let read: Vec<_> = data.read().unwrap().into_iter().map(|(k, v)| (k, String::from_utf8(v).unwrap())).collect();
        let expected = [("k", "v=w"), ("q", "x"), ("a.txt", "A"), ("b", "A"), ("X", "1"), ("Y", "a=b")];
        assert_eq!(read, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let twice = Data { from_literal: vec!["a=1".into(), "a=2".into()], ..Data::default() };
        assert!(twice.read().unwrap_err().to_string().contains("another key by that name"));
        assert_eq!(container("docker.io/library/nginx:1.2", None, &[], 1)["name"], "nginx");
    }
}
