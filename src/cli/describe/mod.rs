//! `describe`: what people want to know of an object, its relatives and its events, on one page.
//!
//! ```text
//! object ── table of describers ── facts (relatives and events, fetched) ── write (pure) ── Page ── text
//! ```
//!
//! A kind is a row of [`DESCRIBERS`]: what must be fetched for it, and the pure function that writes its page. Kinds without a
//! row are shown field by field. Source: kubectl `pkg/cmd/describe`, `pkg/describe`.

use anyhow::Result;
use clap::Args;
use client::{Clock, ListParams};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::failure;
use crate::manifest::{Files, text};
use crate::session::Session;
use crate::target::{self, Found, PAGE, Selection, Target};

mod cluster;
mod containers;
mod events;
mod generic;
mod node;
mod page;
mod plain;
mod pod;
mod rbac;
mod services;
mod volumes;
mod workloads;

pub use events::interval;
use page::Page;
pub use page::lay_out;
pub use rbac::table as rules_table;

/// A pod template on its own, with tabs where a page would have columns: how `rollout history` shows one.
pub fn template(template: &Value) -> String {
    let mut page = Page::default();
    pod::template(&mut page, template);
    page.raw()
}

#[derive(Debug, Clone, Args)]
pub struct Describe {
    /// TYPE, TYPE NAME_PREFIX, TYPE/NAME…
    #[arg(value_name = "RESOURCE")]
    pub resources: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    /// Label selector: key=value, key!=value, key in (a,b), key, !key
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub selector: String,
    /// All namespaces
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Show the events about each object; unless given, only when it is a single one
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub show_events: Option<bool>,
    /// Objects per page; 0: all at once
    #[arg(long, default_value_t = PAGE)]
    pub chunk_size: u32,
}

/// What is fetched for a page besides the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Events,
    /// The pods that the object's selector matches and that it controls.
    OwnPods,
    /// The replica sets that the object controls.
    Sets,
    /// The endpoint slices of a service.
    Slices,
    /// A node's pods that have not ended, and its lease.
    NodePods,
    /// A namespace's quotas and limit ranges.
    Limits,
}

/// All that a page is written from.
struct Facts<'a> {
    object: &'a Value,
    /// None: not asked for.
    events: Option<Vec<Value>>,
    pods: Result<Vec<Value>, client::Error>,
    sets: Vec<Value>,
    slices: Vec<Value>,
    lease: Option<Result<Value, client::Error>>,
    /// None: the server has no such kind.
    quotas: Option<Vec<Value>>,
    limit_ranges: Option<Vec<Value>>,
    now: Timestamp,
    zone: TimeZone,
}

/// Group, kind, needs, and who writes the page.
type Describer = (&'static str, &'static str, &'static [Need], fn(&mut Page, &Facts<'_>));

const RBAC: &str = "rbac.authorization.k8s.io";

const DESCRIBERS: &[Describer] = &[
    ("", "Pod", &[Need::Events], pod::pod),
    ("", "Node", &[Need::NodePods, Need::Events], node::node),
    ("", "Namespace", &[Need::Limits], cluster::namespace),
    ("", "ResourceQuota", &[], cluster::quota),
    ("", "LimitRange", &[], cluster::limit_range),
    ("", "Service", &[Need::Slices, Need::Events], services::service),
    ("", "Endpoints", &[Need::Events], services::endpoints),
    ("discovery.k8s.io", "EndpointSlice", &[Need::Events], services::endpoint_slice),
    ("", "ConfigMap", &[Need::Events], plain::config_map),
    ("", "Secret", &[], plain::secret),
    ("", "ServiceAccount", &[Need::Events], plain::service_account),
    ("scheduling.k8s.io", "PriorityClass", &[Need::Events], plain::priority_class),
    ("", "ReplicationController", &[Need::OwnPods, Need::Events], workloads::replication_controller),
    ("apps", "ReplicaSet", &[Need::OwnPods, Need::Events], workloads::replica_set),
    ("apps", "Deployment", &[Need::Sets, Need::Events], workloads::deployment),
    ("apps", "DaemonSet", &[Need::OwnPods, Need::Events], workloads::daemon_set),
    (RBAC, "Role", &[], rbac::role),
    (RBAC, "ClusterRole", &[], rbac::role),
    (RBAC, "RoleBinding", &[], rbac::binding),
    (RBAC, "ClusterRoleBinding", &[], rbac::binding),
];

const GENERIC: Describer = ("", "", &[Need::Events], generic::generic);

pub async fn run(session: &Session, describe: &Describe) -> Result<()> {
    if describe.resources.is_empty() && describe.files.is_empty() {
        return Err(anyhow::anyhow!(
            "You must specify the type of resource to describe. Use \"kedge api-resources\" for a complete list of \
             supported resources."
        ));
    }
    let selection = Selection {
        selector: describe.selector.clone(),
        all_namespaces: describe.all_namespaces,
        ..Selection::default()
    };
    let targets = target::resolve(session, &describe.files, &describe.resources, &selection).await?;
    let (mut found, mut errors) = target::fetch(session, &targets, &selection).await;
    let mut with_events = describe.show_events.unwrap_or(errors.is_empty() && found.len() <= 1);
    // A name that is not there may be how several begin.
    let prefix = match &targets[..] {
        [target] if is_missing(&errors) && describe.resources.len() == 2 => begins(session, target).await?,
        _ => Vec::new(),
    };
    let matched = !prefix.is_empty();
    if matched {
        (found, errors) = (prefix, Vec::new());
        with_events = describe.show_events.unwrap_or(false);
    }
    for (i, one) in found.iter().enumerate() {
        let page = describe_one(session, one, with_events).await?;
        let (before, after) = if matched { ("", "\n") } else { (if i > 0 { "\n\n" } else { "" }, "") };
        session.print(&format!("{before}{page}{after}"))?;
    }
    if found.is_empty() && errors.is_empty() {
        session.note(target::nothing(session, &targets, describe.all_namespaces));
    }
    failure::all(errors)
}

fn is_missing(errors: &[anyhow::Error]) -> bool {
    matches!(errors, [one] if one.downcast_ref::<client::Error>().is_some_and(client::Error::is_not_found))
}

/// The objects whose names begin with the target's.
async fn begins(session: &Session, target: &Target) -> Result<Vec<Found>> {
    let prefix = target.name.clone().unwrap_or_default();
    let all = Target { name: None, ..target.clone() };
    let (found, errors) = target::fetch(session, &[all], &Selection::default()).await;
    failure::all(errors)?;
    Ok(found.into_iter().filter(|f| f.name.starts_with(&prefix)).collect())
}

async fn describe_one(session: &Session, one: &Found, with_events: bool) -> Result<String> {
    let (group, kind) = (&one.resource.group, &one.resource.kind);
    let row = DESCRIBERS.iter().find(|d| d.0 == group && d.1 == kind).unwrap_or(&GENERIC);
    let facts = gather(session, one, row.2, with_events).await?;
    let mut page = Page::default();
    row.3(&mut page, &facts);
    Ok(page.finish())
}

async fn gather<'a>(session: &Session, one: &'a Found, needs: &[Need], with_events: bool) -> Result<Facts<'a>> {
    let mut facts = Facts {
        object: &one.object,
        events: None,
        pods: Ok(Vec::new()),
        sets: Vec::new(),
        slices: Vec::new(),
        lease: None,
        quotas: None,
        limit_ranges: None,
        now: Clock::system().now(),
        zone: TimeZone::system(),
    };
    let (namespace, object) = (one.namespace.as_str(), &one.object);
    let list = async |group: &str, version: &str, plural: &str, params: ListParams| {
        let path = client::api::resource_path(group, version, namespace, plural);
        target::list_all(session, &path, &params).await.map(|(items, _)| items)
    };
    let own = |items: Vec<Value>| -> Vec<Value> {
        let uid = text(object, "/metadata/uid");
        let owned = |o: &Value| page::controller(o).is_some_and(|c| text(c, "/uid") == uid);
        items.into_iter().filter(owned).collect()
    };
    for need in needs {
        match need {
            Need::Events if with_events => facts.events = Some(events::search(session, one).await),
            Need::Events => {}
            Need::OwnPods => facts.pods = list("", "v1", "pods", selected(object)).await.map(own),
            Need::Sets => {
                facts.sets = list("apps", "v1", "replicasets", selected(object)).await.map(own).unwrap_or_default()
            }
            Need::Slices => {
                let of = format!("kubernetes.io/service-name={}", one.name);
                let slices = list("discovery.k8s.io", "v1", "endpointslices", ListParams::labels(of)).await;
                facts.slices = slices.unwrap_or_default();
            }
            Need::NodePods => {
                let on = format!("spec.nodeName={},status.phase!=Failed,status.phase!=Succeeded", one.name);
                facts.pods = list("", "v1", "pods", ListParams::fields(on)).await;
                let path = client::api::resource_path("coordination.k8s.io", "v1", "kube-node-lease", "leases");
                let path = client::api::object_path(&path, &one.name, "");
                facts.lease = Some(session.client.get_path(&path).await);
            }
            Need::Limits => {
                let of = |plural: &str| client::api::resource_path("", "v1", &one.name, plural);
                facts.quotas =
                    optional(target::list_all(session, &of("resourcequotas"), &ListParams::default()).await)?;
                facts.limit_ranges =
                    optional(target::list_all(session, &of("limitranges"), &ListParams::default()).await)?;
            }
        }
    }
    Ok(facts)
}

/// A kind that the server does not have is nothing to show.
fn optional(listed: client::Result<(Vec<Value>, String)>) -> Result<Option<Vec<Value>>> {
    match listed {
        Ok((items, _)) => Ok(Some(items)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn selected(object: &Value) -> ListParams {
    let selector = &object["spec"]["selector"];
    let is_plain = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    ListParams::labels(match is_plain {
        true => page::pairs_text(&page::map(object, "/spec/selector")),
        false => page::selector_text(selector),
    })
}

impl Facts<'_> {
    fn date(&self, pointer: &str) -> String {
        page::date(text(self.object, pointer), &self.zone)
    }

    /// The events, if they are wanted: every page's end.
    fn write_events(&self, page: &mut Page) {
        if let Some(events) = &self.events {
            events::write(page, events, self.now);
        }
    }
}
