//! `api-resources`, `api-versions`: what the server serves.
//!
//! Source: kubectl `pkg/cmd/apiresources`.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;

use crate::discovery::Resource;
use crate::failure::usage;
use crate::session::Session;
use crate::table::Table;

#[derive(Debug, Clone, Args)]
pub struct Resources {
    /// Only of this group
    #[arg(long)]
    pub api_group: Option<String>,
    /// Only what is in namespaces, or (=false) only what is not
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub namespaced: Option<bool>,
    /// Only what has all of these verbs
    #[arg(long, value_delimiter = ',')]
    pub verbs: Vec<String>,
    /// Only what is in all of these categories
    #[arg(long, value_delimiter = ',')]
    pub categories: Vec<String>,
    /// name or kind
    #[arg(long, default_value = "", hide_default_value = true)]
    pub sort_by: String,
    /// Leave the headers out
    #[arg(long)]
    pub no_headers: bool,
    /// wide or name
    #[arg(long, short = 'o', default_value = "", hide_default_value = true)]
    pub output: String,
}

pub async fn resources(session: &Session, ask: &Resources) -> Result<()> {
    if !["", "name", "kind"].contains(&ask.sort_by.as_str()) {
        return Err(usage("--sort-by accepts only name or kind"));
    }
    if !["", "name", "wide"].contains(&ask.output.as_str()) {
        return Err(usage(format!("--output {} is not available", ask.output)));
    }
    let mut shown: Vec<&Resource> = session.discovery().await?.preferred().filter(|r| is_asked(ask, r)).collect();
    shown.sort_by(|a, b| {
        let key = |r: &Resource| match ask.sort_by.as_str() {
            "name" => r.plural.clone(),
            "kind" => r.kind.clone(),
            _ => r.group.clone(),
        };
        (key(a), &a.plural).cmp(&(key(b), &b.plural))
    });
    if ask.output == "name" {
        return session.print(&shown.iter().map(|r| format!("{}\n", r.group_resource())).collect::<String>());
    }
    let wide = ask.output == "wide";
    let columns = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND", "VERBS", "CATEGORIES"];
    let count = if wide { columns.len() } else { columns.len() - 2 };
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !ask.no_headers {
        rows.push(columns[..count].iter().map(ToString::to_string).collect());
    }
    for r in shown {
        let mut row =
            vec![r.plural.clone(), r.short_names.join(","), r.api_version(), r.namespaced.to_string(), r.kind.clone()];
        if wide {
            let mut verbs = r.verbs.clone();
            verbs.sort_unstable();
            row.extend([verbs.join(","), r.categories.join(",")]);
        }
        rows.push(row);
    }
    session.print(&Table::default().lay_out(&rows))
}

fn is_asked(ask: &Resources, r: &Resource) -> bool {
    !r.verbs.is_empty()
        && ask.api_group.as_ref().is_none_or(|g| *g == r.group)
        && ask.namespaced.is_none_or(|n| n == r.namespaced)
        && ask.verbs.iter().all(|v| r.allows(v))
        && ask.categories.iter().all(|c| r.categories.contains(c))
}

pub async fn versions(session: &Session) -> Result<()> {
    let versions: BTreeSet<String> = session.discovery().await?.all().map(Resource::api_version).collect();
    session.print(&versions.iter().map(|v| format!("{v}\n")).collect::<String>())
}
