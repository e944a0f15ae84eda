//! `events`: what happened, oldest first.
//!
//! Source: kubectl `pkg/cmd/events`.

use anyhow::Result;
use clap::Args;
use client::watch::EventType;
use client::{Clock, ListParams};
use jiff::Timestamp;
use serde_json::Value;

use crate::describe::interval;
use crate::failure::usage;
use crate::manifest::text;
use crate::output::{self, Format};
use crate::session::Session;
use crate::table::Table;
use crate::target;

#[derive(Debug, Clone, Args)]
pub struct Events {
    /// Only events about this object: TYPE/NAME
    #[arg(long = "for", value_name = "TYPE/NAME")]
    pub about: Option<String>,
    /// Only events of these types: Normal, Warning
    #[arg(long, value_delimiter = ',')]
    pub types: Vec<String>,
    /// All namespaces
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
    /// Leave the headers out
    #[arg(long)]
    pub no_headers: bool,
    /// Print new events as they come
    #[arg(long, short = 'w')]
    pub watch: bool,
    /// json, yaml, name, jsonpath=…
    #[arg(long, short = 'o', default_value = "", hide_default_value = true)]
    pub output: String,
}

pub async fn run(session: &Session, events: &Events) -> Result<()> {
    let format = Format::parse(&events.output)?;
    if events.types.iter().any(|t| !["normal", "warning"].contains(&t.to_lowercase().as_str())) {
        return Err(usage("valid --types are Normal or Warning"));
    }
    let discovery = session.discovery().await?;
    let mut params = ListParams::default();
    if let Some(about) = &events.about {
        let Some((kind, name)) = about.split_once('/') else {
            return Err(usage("--for must be in resource/name form"));
        };
        let kind = discovery.only(kind)?;
        let terms = [("kind", kind.kind.clone()), ("apiVersion", kind.api_version()), ("name", name.to_owned())];
        let terms = terms.map(|(field, value)| format!("involvedObject.{field}={value}"));
        params.field_selector = terms.join(",");
    }
    let namespace = if events.all_namespaces { "" } else { &session.namespace };
    let resource = discovery.only("events")?;
    let is_wanted = |event: &Value| {
        events.types.is_empty() || events.types.iter().any(|t| t.eq_ignore_ascii_case(text(event, "/type")))
    };
    let mut table = Table::default();
    let mut headed = events.no_headers;
    let mut rows = |items: &[Value]| {
        let mut lines: Vec<Vec<String>> = Vec::new();
        if !std::mem::replace(&mut headed, true) {
            let columns = ["NAMESPACE", "LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
            let first = usize::from(!events.all_namespaces);
            lines.push(columns[first..].iter().map(ToString::to_string).collect());
        }
        let now = Clock::system().now();
        lines.extend(items.iter().map(|e| row(e, now, events.all_namespaces)));
        table.lay_out(&lines)
    };
    let path = resource.path(namespace);
    if events.watch {
        let mut stream = session.client.watch_path(&path, params.query(), "application/json").await?;
        while let Some(event) = stream.next().await {
            let event = event?;
            if matches!(event.event, EventType::Bookmark | EventType::Deleted) {
                continue;
            }
            let object: Value = event.decode()?;
            if is_wanted(&object) {
                session.print(&rows(&[object]))?;
            }
        }
        return Ok(());
    }
    let (mut items, _) = target::list_all(session, &path, &params).await?;
    items.retain(is_wanted);
    if items.is_empty() {
        let place =
            if events.all_namespaces { ".".to_owned() } else { format!(" in {} namespace.", session.namespace) };
        session.note(format!("No events found{place}"));
        return Ok(());
    }
    items.sort_by_key(last_seen);
    if format.is_table() {
        return session.print(&rows(&items));
    }
    let found: Vec<_> = items.into_iter().map(|e| target::as_found(&resource, e)).collect();
    session.print(&output::objects(&format, &found, true, false)?)
}

fn last_seen(event: &Value) -> Timestamp {
    let times = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime"];
    times.iter().find_map(|t| text(event, t).parse().ok()).unwrap_or(Timestamp::MIN)
}

fn row(event: &Value, now: Timestamp, with_namespace: bool) -> Vec<String> {
    let object = format!("{}/{}", text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
    let mut row = vec![interval(event, now), text(event, "/type").into(), text(event, "/reason").into(), object];
    row.push(text(event, "/message").trim().into());
    if with_namespace {
        row.insert(0, text(event, "/metadata/namespace").into());
    }
    row
}
