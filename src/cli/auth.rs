//! `auth`: who the server takes us for, and what we may do.
//!
//! Source: kubectl `pkg/cmd/auth`.

use anyhow::Result;
use clap::{Args, Subcommand};
use client::WriteParams;
use serde_json::{Value, json};

use crate::describe::rules_table;
use crate::failure::{Exit, usage};
use crate::manifest::text;
use crate::output::{self, Format};
use crate::session::Session;
use crate::table::Table;

#[derive(Debug, Clone, Args)]
pub struct Auth {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// Whether an action is allowed
    CanI(CanI),
    /// Who the server takes us for
    Whoami {
        /// json or yaml
        #[arg(long, short = 'o', default_value = "", hide_default_value = true)]
        output: String,
    },
}

#[derive(Debug, Clone, Args)]
pub struct CanI {
    /// VERB, then TYPE, TYPE/NAME or a path such as /healthz
    #[arg(value_name = "VERB RESOURCE")]
    pub words: Vec<String>,
    /// In all namespaces
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Say nothing; end with 1 when it is not allowed
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// A subresource, such as log
    #[arg(long, default_value = "", hide_default_value = true)]
    pub subresource: String,
    /// List all that is allowed
    #[arg(long)]
    pub list: bool,
    /// Leave the headers out
    #[arg(long)]
    pub no_headers: bool,
}

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/";
const RESOURCE_VERBS: &[&str] = &[
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "use",
    "bind",
    "impersonate",
    "*",
    "approve",
    "sign",
    "escalate",
    "attest",
];
const URL_VERBS: &[&str] = &["get", "put", "post", "head", "options", "delete", "patch", "*"];

pub async fn run(session: &Session, auth: &Auth) -> Result<()> {
    match &auth.what {
        What::CanI(ask) if ask.list => list(session, ask).await,
        What::CanI(ask) => can_i(session, ask).await,
        What::Whoami { output } => whoami(session, output).await,
    }
}

async fn review(session: &Session, path: &str, kind: &str, spec: Value) -> client::Result<Value> {
    let (version, _) = path.trim_start_matches("/apis/").rsplit_once('/').unwrap_or_default();
    let body = json!({"apiVersion": version, "kind": kind, "spec": spec});
    session.client.create_path(path, &body, &WriteParams::default()).await
}

async fn can_i(session: &Session, ask: &CanI) -> Result<()> {
    let [verb, what] = &ask.words[..] else {
        return Err(usage(
            "you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'kedge auth can-i -h' for \
             help and examples.",
        ));
    };
    if ask.no_headers {
        return Err(usage("--no-headers cannot be set without --list specified"));
    }
    let warn = |text: String| session.note(format!("Warning: {text}\n"));
    let namespace = if ask.all_namespaces { "" } else { &session.namespace };
    let spec = if what.starts_with('/') {
        if !ask.subresource.is_empty() {
            return Err(usage("--subresource can not be used with NonResourceURL"));
        }
        if !URL_VERBS.contains(&verb.as_str()) {
            warn(format!("verb '{verb}' is not a known verb"));
        }
        json!({"nonResourceAttributes": {"verb": verb, "path": what}})
    } else {
        let (word, name) = what.split_once('/').unwrap_or((what, ""));
        let (group, resource) = match session.discovery().await?.only(word) {
            _ if word == "*" => (String::new(), "*".to_owned()),
            Ok(r) => {
                if !r.namespaced && !ask.all_namespaces {
                    let of = if r.group.is_empty() { String::new() } else { format!(" in group '{}'", r.group) };
                    warn(format!("resource '{}' is not namespace scoped{of}", r.plural));
                }
                (r.group.clone(), r.plural.clone())
            }
            Err(_) => {
                let lower = word.to_lowercase();
                if !["users", "groups"].contains(&lower.as_str()) {
                    warn(match lower.split_once('.') {
                        Some((name, group)) => {
                            format!("the server doesn't have a resource type '{name}' in group '{group}'")
                        }
                        None => format!("the server doesn't have a resource type '{lower}'"),
                    });
                }
                (String::new(), word.to_owned())
            }
        };
        if !RESOURCE_VERBS.contains(&verb.as_str()) && !ask.all_namespaces {
            warn(format!("verb '{verb}' is not a known verb"));
        }
        json!({"resourceAttributes": {"namespace": namespace, "verb": verb, "group": group, "resource": resource,
            "subresource": ask.subresource, "name": name}})
    };
    let path = format!("{REVIEWS}selfsubjectaccessreviews");
    let answer = review(session, &path, "SelfSubjectAccessReview", spec).await?;
    let allowed = answer["status"]["allowed"] == json!(true);
    let mut said = if allowed { "yes".to_owned() } else { "no".to_owned() };
    if !allowed {
        for why in ["/status/reason", "/status/evaluationError"] {
            let why = text(&answer, why);
            if !why.is_empty() {
                said += &format!(" - {why}");
            }
        }
    }
    if !ask.quiet {
        session.line(said)?;
    }
    if allowed { Ok(()) } else { Err(Exit(1).into()) }
}

async fn list(session: &Session, ask: &CanI) -> Result<()> {
    if !ask.words.is_empty() {
        return Err(usage("list option must be specified with no arguments"));
    }
    if ask.quiet || ask.all_namespaces || !ask.subresource.is_empty() {
        return Err(usage("list option can't be specified with neither quiet, all-namespaces nor subresource options"));
    }
    let path = format!("{REVIEWS}selfsubjectrulesreviews");
    let answer = review(session, &path, "SelfSubjectRulesReview", json!({"namespace": session.namespace})).await?;
    let status = &answer["status"];
    if status["incomplete"] == json!(true) {
        session.note(format!("Warning: the list may be incomplete: {}", text(status, "/evaluationError")));
    }
    let rules = ["resourceRules", "nonResourceRules"].iter().flat_map(|f| status[*f].as_array().into_iter().flatten());
    let mut rows = rules_table(&rules.cloned().collect::<Vec<_>>());
    if !ask.no_headers {
        let head = ["Resources", "Non-Resource URLs", "Resource Names", "Verbs"];
        rows.insert(0, head.map(str::to_owned).to_vec());
    }
    session.print(&Table::default().lay_out(&rows))
}

async fn whoami(session: &Session, output: &str) -> Result<()> {
    let format = Format::parse(output)?;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer: Value = session.client.create_path(path, &body, &WriteParams::default()).await?;
    match format {
        Format::Json => return session.print(&output::to_json(&answer)),
        Format::Yaml => return session.print(&crate::yaml::to_yaml(&answer)),
        _ => {}
    }
    let user = &answer["status"]["userInfo"];
    let bracketed = |list: &Value| {
        let items: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        format!("[{}]", items.join(" "))
    };
    let mut rows = vec![["ATTRIBUTE".to_owned(), "VALUE".to_owned()].to_vec()];
    for (title, field) in [("Username", "/username"), ("UID", "/uid")] {
        if !text(user, field).is_empty() {
            rows.push(vec![title.into(), text(user, field).into()]);
        }
    }
    if user["groups"].as_array().is_some_and(|g| !g.is_empty()) {
        rows.push(vec!["Groups".into(), bracketed(&user["groups"])]);
    }
    for (key, values) in user["extra"].as_object().into_iter().flatten() {
        rows.push(vec![format!("Extra: {key}"), bracketed(values)]);
    }
    session.print(&Table::default().lay_out(&rows))
}
