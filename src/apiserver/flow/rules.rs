//! Which schema, level and flow a request belongs to: FlowSchemas and PriorityLevelConfigurations, compiled. Pure.
//!
//! Source: apiserver `pkg/util/flowcontrol/{rule,conc_alloc,apf_controller}.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use store::View;

use super::STORE_PREFIX;
use crate::auth::Identity;
use crate::auth::identity::SERVICE_ACCOUNT_PREFIX;
use crate::hooks::flowcontrol::bootstrap;

/// What is asked for, as the schemas see it.
pub struct Request<'a> {
    pub identity: &'a Identity,
    pub verb: &'a str,
    pub target: Target<'a>,
}

#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    Path(&'a str),
    Resource { group: &'a str, resource: &'a str, subresource: &'a str, namespace: &'a str },
}

/// What a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    pub schema: Arc<str>,
    pub schema_uid: Arc<str>,
    pub level: Arc<str>,
    pub level_uid: Arc<str>,
    pub exempt: bool,
    /// Chooses the queues.
    pub flow: u64,
}

/// The limits of a level, in shares of the server's seats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    pub uid: Arc<str>,
    pub exempt: bool,
    pub shares: u32,
    pub lendable_percent: u32,
    pub borrowing_percent: Option<u32>,
    /// `None`: a request that finds no seat is refused.
    pub queuing: Option<Queuing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queuing {
    pub queues: usize,
    pub hand: usize,
    pub length: usize,
}

#[derive(Default)]
pub struct Rules {
    /// By precedence, then name.
    schemas: Vec<Schema>,
    levels: BTreeMap<Arc<str>, Level>,
}

struct Schema {
    name: Arc<str>,
    uid: Arc<str>,
    precedence: i64,
    level: Arc<str>,
    by: By,
    rules: Vec<Rule>,
}

#[derive(PartialEq)]
enum By {
    User,
    Namespace,
    Nothing,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<(Vec<String>, Vec<String>)>,
}

enum Subject {
    User(String),
    Group(String),
    Account { namespace: String, name: String },
}

struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster: bool,
    namespaces: Vec<String>,
}

impl Rules {
    /// What is stored, and the mandatory objects where they are not.
    pub fn read(view: &dyn View) -> Self {
        let all = |plural: &str, mandatory: Vec<Value>| {
            let prefix = format!("{STORE_PREFIX}{plural}/");
            let stored = view.range(&prefix, None).filter_map(|e| serde_json::from_slice::<Value>(e.value()).ok());
            let mut all: Vec<Value> = stored.collect();
            for object in mandatory {
                if !all.iter().any(|o| o["metadata"]["name"] == object["metadata"]["name"]) {
                    all.push(object);
                }
            }
            all
        };
        Self::compile(
            &all("prioritylevelconfigurations", bootstrap::mandatory_levels()),
            &all("flowschemas", bootstrap::mandatory_schemas()),
        )
    }

    pub fn compile(levels: &[Value], schemas: &[Value]) -> Self {
        let levels: BTreeMap<Arc<str>, Level> = levels.iter().map(|l| (name(l), level(l))).collect();
        let mut schemas: Vec<Schema> = schemas.iter().map(schema).filter(|s| levels.contains_key(&s.level)).collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Self { schemas, levels }
    }

    pub fn levels(&self) -> &BTreeMap<Arc<str>, Level> {
        &self.levels
    }

    pub fn classify(&self, request: &Request<'_>) -> Class {
        let found = self.schemas.iter().find(|s| s.rules.iter().any(|r| r.matches(request)));
        // The mandatory catch-all matches everybody; without an identity that it knows there is nobody to be fair to.
        let schema = found.or(self.schemas.last());
        let Some((schema, level)) = schema.and_then(|s| Some((s, self.levels.get(&s.level)?))) else {
            let none: Arc<str> = "".into();
            let (schema_uid, level, level_uid) = (none.clone(), none.clone(), none.clone());
            return Class { schema: none, schema_uid, level, level_uid, exempt: true, flow: 0 };
        };
        let distinguisher = match (&schema.by, request.target) {
            (By::User, _) => request.identity.user.as_str(),
            (By::Namespace, Target::Resource { namespace, .. }) => namespace,
            (By::Namespace, Target::Path(_)) | (By::Nothing, _) => "",
        };
        Class {
            schema: schema.name.clone(),
            schema_uid: schema.uid.clone(),
            level: schema.level.clone(),
            level_uid: level.uid.clone(),
            exempt: level.exempt,
            flow: if level.exempt { 0 } else { hash(&schema.name, distinguisher) },
        }
    }
}

fn hash(schema: &str, distinguisher: &str) -> u64 {
    let mut digest = Sha256::new();
    digest.update(schema);
    digest.update([0]);
    digest.update(distinguisher);
    let bytes: [u8; 32] = digest.finalize().into();
    bytes[..8].iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

impl Rule {
    fn matches(&self, request: &Request<'_>) -> bool {
        let identity = request.identity;
        let subject = self.subjects.iter().any(|subject| match subject {
            Subject::User(name) => name == "*" || *name == identity.user,
            Subject::Group(name) => name == "*" || identity.in_group(name),
            Subject::Account { namespace, name } => {
                let of = identity.user.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'));
                of.is_some_and(|(its_namespace, its_name)| {
                    its_namespace == namespace && (name == "*" || its_name == name)
                })
            }
        });
        subject
            && match request.target {
                Target::Path(path) => self.paths.iter().any(|(verbs, paths)| {
                    has(verbs, request.verb) && paths.iter().any(|spec| path_matches(path, spec))
                }),
                Target::Resource { group, resource, subresource, namespace } => self.resources.iter().any(|r| {
                    has(&r.verbs, request.verb)
                        && has(&r.groups, group)
                        && r.resources.iter().any(|given| resource_matches(given, resource, subresource))
                        && if namespace.is_empty() { r.cluster } else { has(&r.namespaces, namespace) }
                }),
            }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

fn resource_matches(given: &str, resource: &str, subresource: &str) -> bool {
    given == "*"
        || match given.split_once('/') {
            Some((plural, sub)) => plural == resource && sub == subresource,
            None => subresource.is_empty() && given == resource,
        }
}

fn path_matches(path: &str, spec: &str) -> bool {
    spec == "*" || spec == path || spec.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

fn name(object: &Value) -> Arc<str> {
    object["metadata"]["name"].as_str().unwrap_or_default().into()
}

fn number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    value.as_u64().and_then(|n| T::try_from(n).ok())
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|t| t.as_str().map(str::to_owned)).collect()
}

fn level(object: &Value) -> Level {
    let spec = &object["spec"];
    let exempt = spec["type"] == "Exempt";
    let limits = &spec[if exempt { "exempt" } else { "limited" }];
    let queuing = &limits["limitResponse"]["queuing"];
    Level {
        uid: object["metadata"]["uid"].as_str().unwrap_or_default().into(),
        exempt,
        shares: number(&limits["nominalConcurrencyShares"]).unwrap_or(if exempt { 0 } else { 30 }),
        lendable_percent: number(&limits["lendablePercent"]).unwrap_or(0),
        borrowing_percent: number(&limits["borrowingLimitPercent"]),
        queuing: (!exempt && limits["limitResponse"]["type"] == "Queue").then(|| Queuing {
            queues: number(&queuing["queues"]).unwrap_or(64).max(1),
            hand: number(&queuing["handSize"]).unwrap_or(8).max(1),
            length: number(&queuing["queueLengthLimit"]).unwrap_or(50),
        }),
    }
}

fn schema(object: &Value) -> Schema {
    let spec = &object["spec"];
    let rules = spec["rules"].as_array().into_iter().flatten().map(|rule| Rule {
        subjects: rule["subjects"].as_array().into_iter().flatten().filter_map(subject).collect(),
        resources: rule["resourceRules"].as_array().into_iter().flatten().map(resources).collect(),
        paths: rule["nonResourceRules"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|r| (texts(&r["verbs"]), texts(&r["nonResourceURLs"])))
            .collect(),
    });
    Schema {
        name: name(object),
        uid: object["metadata"]["uid"].as_str().unwrap_or_default().into(),
        precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
        level: spec["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default().into(),
        by: match spec["distinguisherMethod"]["type"].as_str() {
            Some("ByUser") => By::User,
            Some("ByNamespace") => By::Namespace,
            _ => By::Nothing,
        },
        rules: rules.collect(),
    }
}

fn subject(subject: &Value) -> Option<Subject> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match subject["kind"].as_str()? {
        "User" => Some(Subject::User(text(&subject["user"]["name"]))),
        "Group" => Some(Subject::Group(text(&subject["group"]["name"]))),
        "ServiceAccount" => {
            let account = &subject["serviceAccount"];
            Some(Subject::Account { namespace: text(&account["namespace"]), name: text(&account["name"]) })
        }
        _ => None,
    }
}

fn resources(rule: &Value) -> Resources {
    Resources {
        verbs: texts(&rule["verbs"]),
        groups: texts(&rule["apiGroups"]),
        resources: texts(&rule["resources"]),
        cluster: rule["clusterScope"] == true,
        namespaces: texts(&rule["namespaces"]),
    }
}
