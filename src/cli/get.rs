//! `get`: tables from the server, or objects in another form; once, or as they change.
//!
//! Source: kubectl `pkg/cmd/get`.

use std::rc::Rc;

use anyhow::Result;
use clap::Args;
use client::ListParams;
use client::api::Query;
use client::watch::EventType;
use http::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::discovery::Resource;
use crate::failure::{self, usage};
use crate::jsonpath::Template;
use crate::manifest::{Files, text};
use crate::output::{self, Format};
use crate::session::Session;
use crate::table::{Table, one_line};
use crate::target::{self, Found, PAGE, Selection, Target};

const ACCEPT_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const JSON: &str = "application/json";

#[derive(Debug, Clone, Args)]
pub struct Get {
    /// TYPE, TYPE NAME…, TYPE/NAME…, or TYPE,TYPE
    #[arg(value_name = "RESOURCE")]
    pub resources: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub selection: Selection,
    /// wide, json, yaml, name, jsonpath=…, jsonpath-as-json=…, custom-columns=…
    #[arg(long, short = 'o', default_value = "", hide_default_value = true)]
    pub output: String,
    /// Print, then go on printing changes
    #[arg(long, short = 'w')]
    pub watch: bool,
    /// Print changes only
    #[arg(long)]
    pub watch_only: bool,
    /// Add a column with all labels
    #[arg(long)]
    pub show_labels: bool,
    /// Add the type to each name
    #[arg(long)]
    pub show_kind: bool,
    /// Add a column for each of these labels
    #[arg(long, short = 'L', value_name = "LABEL", value_delimiter = ',')]
    pub label_columns: Vec<String>,
    /// Leave the headers out
    #[arg(long)]
    pub no_headers: bool,
    /// Sort by this JSONPath
    #[arg(long, default_value = "", hide_default_value = true)]
    pub sort_by: String,
    /// What is not there is no error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Print managedFields in json and yaml
    #[arg(long)]
    pub show_managed_fields: bool,
    /// Objects per page; 0: all at once
    #[arg(long, default_value_t = PAGE)]
    pub chunk_size: u32,
    /// A subresource of the named objects: status, scale
    #[arg(long, default_value = "", hide_default_value = true)]
    pub subresource: String,
    /// Print this path's answer as it comes
    #[arg(long, value_name = "PATH")]
    pub raw: Option<String>,
}

/// The server's answer: columns and rows.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rows {
    #[serde(deserialize_with = "or_default")]
    column_definitions: Vec<Column>,
    #[serde(deserialize_with = "or_default")]
    rows: Vec<Row>,
    metadata: client::api::ListHead,
}
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Column {
    name: String,
    priority: i32,
}
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Row {
    cells: Vec<Value>,
    object: Value,
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

pub async fn run(session: &Session, get: &Get) -> Result<()> {
    if let Some(path) = &get.raw {
        let bytes = session.client.send(Method::GET, path, JSON, None).await?;
        return session.print_bytes(&bytes);
    }
    let format = Format::parse(&get.output)?;
    if get.resources.is_empty() && get.files.is_empty() {
        session.note(
            "You must specify the type of resource to get. Use \"kedge api-resources\" for a complete list of supported \
             resources.\n",
        );
        return Err(usage(
            "Required resource not specified.\nUse \"kedge explain <resource>\" for a detailed description of that resource \
             (e.g. kedge explain pods).\nSee 'kedge get -h' for help and examples",
        ));
    }
    let targets = target::resolve(session, &get.files, &get.resources, &get.selection).await?;
    if get.watch || get.watch_only {
        return watch(session, get, &format, &targets).await;
    }
    if format.is_table() {
        tables(session, get, &format, &targets).await
    } else {
        whole(session, get, &format, &targets).await
    }
}

fn ignored(get: &Get, error: &client::Error) -> bool {
    get.ignore_not_found && error.is_not_found()
}

async fn whole(session: &Session, get: &Get, format: &Format, targets: &[Target]) -> Result<()> {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for target in targets {
        let objects = match &target.name {
            Some(_) => session.client.get_path(&named_path(get, target)).await.map(|o: Value| vec![o]),
            None => {
                let listed = target::list_all(session, &target.path(), &get.selection.params()).await;
                listed.map(|(items, _)| items).map_err(|e| target::unlisted(&target.resource, &get.selection, e))
            }
        };
        match objects {
            Ok(objects) => found.extend(objects.into_iter().map(|o| {
                if get.subresource.is_empty() {
                    target::as_found(&target.resource, o)
                } else {
                    bare(&target.resource, o)
                }
            })),
            Err(error) if ignored(get, &error) => {}
            Err(error) => errors.push(error.into()),
        }
    }
    if !get.sort_by.is_empty() {
        let path = sort_path(get)?;
        found.sort_by(|a, b| compare(&path, &a.object, &b.object));
    }
    let as_list = targets.len() != 1 || targets[0].name.is_none();
    let nothing = found.is_empty() && targets.iter().all(|t| t.name.is_some());
    if !nothing {
        session.print(&output::whole(format, &found, as_list, get.show_managed_fields, !get.no_headers)?)?;
    }
    failure::all(errors)
}

/// An object that is not of its resource's kind: a Scale.
fn bare(resource: &Rc<Resource>, object: Value) -> Found {
    Found {
        resource: Rc::clone(resource),
        namespace: text(&object, "/metadata/namespace").to_owned(),
        name: text(&object, "/metadata/name").to_owned(),
        object,
    }
}

fn named_path(get: &Get, target: &Target) -> String {
    match &get.subresource {
        sub if sub.is_empty() => target.path(),
        sub => format!("{}/{sub}", target.path()),
    }
}

async fn tables(session: &Session, get: &Get, format: &Format, targets: &[Target]) -> Result<()> {
    let mut errors = Vec::new();
    // Rows of one kind that follow each other are one table.
    let mut groups: Vec<(Rc<Resource>, Rows)> = Vec::new();
    for target in targets {
        match rows(session, get, target).await {
            Ok(rows) => match groups.last_mut() {
                Some((resource, all)) if **resource == *target.resource => all.rows.extend(rows.rows),
                _ => groups.push((Rc::clone(&target.resource), rows)),
            },
            Err(error) if ignored(get, &error) => {}
            Err(error) => errors.push(target::unlisted(&target.resource, &get.selection, error).into()),
        }
    }
    groups.retain(|(_, rows)| !rows.rows.is_empty());
    let kinds = targets.iter().map(|t| &t.resource.kind).collect::<std::collections::BTreeSet<_>>().len();
    let mut printer = Printer::new(get, format, kinds > 1);
    for (i, (resource, rows)) in groups.iter_mut().enumerate() {
        if !get.sort_by.is_empty() {
            let path = sort_path(get)?;
            rows.rows.sort_by(|a, b| compare(&path, &a.object, &b.object));
        }
        if i > 0 && !get.no_headers {
            session.print("\n")?;
        }
        printer.start();
        session.print(&printer.render(resource, rows))?;
    }
    if groups.is_empty() && errors.is_empty() && !get.ignore_not_found {
        session.note(target::nothing(session, targets, get.selection.all_namespaces));
    }
    failure::all(errors)
}

/// The query for tables: objects whole only when they are sorted by or their labels are not enough.
fn table_query(get: &Get, params: &ListParams) -> Query {
    let mut query = params.query();
    if !get.sort_by.is_empty() {
        query.push("includeObject", "Object");
    }
    query
}

async fn rows(session: &Session, get: &Get, target: &Target) -> client::Result<Rows> {
    let ask = async |path: String| -> client::Result<Rows> {
        let bytes = session.client.send(Method::GET, &path, ACCEPT_TABLE, None).await?;
        serde_json::from_slice(&bytes).map_err(|source| client::Error::Decode { path, source })
    };
    if target.name.is_some() {
        return ask(table_query(get, &ListParams::default()).on(&named_path(get, target))).await;
    }
    let mut params = ListParams { limit: get.chunk_size, ..get.selection.params() };
    let mut all = ask(table_query(get, &params).on(&target.path())).await?;
    while !all.metadata.continue_token.is_empty() {
        params.continue_token.clone_from(&all.metadata.continue_token);
        let more = ask(table_query(get, &params).on(&target.path())).await?;
        all.rows.extend(more.rows);
        all.metadata = more.metadata;
    }
    Ok(all)
}

fn sort_path(get: &Get) -> Result<Template> {
    Template::relaxed(&get.sort_by).map_err(|e| usage(format!("error parsing --sort-by: {e}")))
}

/// Numbers by value, quantities by value, text by its natural order; what is missing comes first.
fn compare(path: &Template, a: &Value, b: &Value) -> std::cmp::Ordering {
    let key = |object| path.values(object).ok().and_then(|v| v.first().copied().cloned());
    let quantity = |v: &Value| v.as_str().and_then(|t| t.parse::<types::quantity::Quantity>().ok());
    match (key(a), key(b)) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(std::cmp::Ordering::Equal)
        }
        (Some(a), Some(b)) => match (quantity(&a), quantity(&b)) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => output_text(&a).cmp(&output_text(&b)),
        },
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

fn output_text(value: &Value) -> String {
    crate::jsonpath::show(value)
}

/// Keeps what a run of tables has in common: columns, widths, whether a header was printed.
struct Printer<'a> {
    get: &'a Get,
    wide: bool,
    with_kind: bool,
    table: Table,
    headed: bool,
}

impl<'a> Printer<'a> {
    fn new(get: &'a Get, format: &Format, with_kind: bool) -> Self {
        let wide = matches!(format, Format::Table { wide: true });
        Self { get, wide, with_kind: with_kind || get.show_kind, table: Table::default(), headed: false }
    }

    /// Begins another table.
    fn start(&mut self) {
        self.table = Table::default();
        self.headed = false;
    }

    fn render(&mut self, resource: &Resource, rows: &Rows) -> String {
        let get = self.get;
        let shown: Vec<usize> = (0..rows.column_definitions.len())
            .filter(|i| self.wide || rows.column_definitions[*i].priority == 0)
            .collect();
        let namespaces = get.selection.all_namespaces && resource.namespaced;
        let mut lines = Vec::new();
        if !self.headed && !get.no_headers {
            let mut header: Vec<String> = Vec::new();
            if namespaces {
                header.push("NAMESPACE".into());
            }
            header.extend(shown.iter().map(|i| rows.column_definitions[*i].name.to_uppercase()));
            let last = |label: &String| label.rsplit('/').next().unwrap_or_default().to_uppercase();
            header.extend(get.label_columns.iter().map(last));
            if get.show_labels {
                header.push("LABELS".into());
            }
            lines.push(header);
        }
        self.headed = true;
        for row in &rows.rows {
            let mut line: Vec<String> = Vec::new();
            if namespaces {
                line.push(text(&row.object, "/metadata/namespace").to_owned());
            }
            for i in &shown {
                let cell = one_line(&row.cells.get(*i).map(output_text).unwrap_or_default());
                let is_name = self.with_kind && rows.column_definitions[*i].name.eq_ignore_ascii_case("name");
                line.push(if is_name { resource.named(&cell) } else { cell });
            }
            let labels = row.object.pointer("/metadata/labels").and_then(Value::as_object);
            for label in &get.label_columns {
                let value = labels.and_then(|l| l.get(label)).and_then(Value::as_str);
                line.push(value.unwrap_or_default().to_owned());
            }
            if get.show_labels {
                line.push(labels_text(labels));
            }
            lines.push(line);
        }
        self.table.lay_out(&lines)
    }
}

/// `a=b,c=d`, or `<none>`.
pub fn labels_text(labels: Option<&serde_json::Map<String, Value>>) -> String {
    match labels {
        Some(labels) if !labels.is_empty() => {
            labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
        }
        _ => "<none>".into(),
    }
}

/// Lists, then follows. Ends when the server ends the watch, as kubectl does.
async fn watch(session: &Session, get: &Get, format: &Format, targets: &[Target]) -> Result<()> {
    let [target] = targets else {
        return Err(usage("you may only specify a single resource type"));
    };
    let mut params = get.selection.params();
    if let Some(name) = &target.name {
        params.field_selector = format!("metadata.name={name}");
    }
    let collection = target.resource.path(&target.namespace);
    let accept = if format.is_table() { ACCEPT_TABLE } else { JSON };
    let mut printer = Printer::new(get, format, false);
    if let Some(name) = &target.name {
        // A name that is not there is an error, not an empty watch.
        let _: Value = session.client.get_path(&target.resource.object_path(&target.namespace, name)).await?;
    }
    let show = |printer: &mut Printer<'_>, object: Value| -> Result<()> {
        if format.is_table() {
            let rows: Rows = serde_json::from_value(object)?;
            // Later tables of a watch come without columns.
            session.print(&printer.render(&target.resource, &rows))
        } else {
            let found = target::as_found(&target.resource, object);
            let text = output::objects(format, &[found], false, get.show_managed_fields)?;
            session.print(&if matches!(format, Format::Yaml) { format!("---\n{text}") } else { text })
        }
    };
    let mut columns = Vec::new();
    if format.is_table() {
        let bytes = session.client.send(Method::GET, &params.query().on(&collection), ACCEPT_TABLE, None).await?;
        let rows: Rows = serde_json::from_slice(&bytes)?;
        params.resource_version.clone_from(&rows.metadata.resource_version);
        columns.clone_from(&rows.column_definitions);
        if !get.watch_only && !rows.rows.is_empty() {
            session.print(&printer.render(&target.resource, &rows))?;
        }
    } else {
        let (items, version) = target::list_all(session, &collection, &params).await?;
        params.resource_version = version;
        if !get.watch_only {
            for item in items {
                show(&mut printer, item)?;
            }
        }
    }
    let mut stream = session.client.watch_path(&collection, params.query(), accept).await?;
    while let Some(event) = stream.next().await {
        let event = event?;
        if event.event == EventType::Bookmark {
            continue;
        }
        let mut object: Value = event.decode()?;
        if format.is_table() {
            let mut rows: Rows = serde_json::from_value(std::mem::take(&mut object))?;
            if rows.column_definitions.is_empty() {
                rows.column_definitions.clone_from(&columns);
            } else {
                columns.clone_from(&rows.column_definitions);
            }
            session.print(&printer.render(&target.resource, &rows))?;
        } else {
            show(&mut printer, object)?;
        }
    }
    Ok(())
}
