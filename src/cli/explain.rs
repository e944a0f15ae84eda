//! `explain`: what a kind and its fields mean, as the server's OpenAPI document says it.
//!
//! Source: kubectl `pkg/explain/v2` (the plain template), mitchellh/go-wordwrap for where lines end.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};

use crate::failure::usage;
use crate::manifest::text;
use crate::session::Session;

/// Columns of a description.
const WIDTH: usize = 76;
/// So many values of a field are named in a list of fields.
const VALUES_MAX: usize = 4;
const GVK: &str = "x-kubernetes-group-version-kind";

#[derive(Debug, Clone, Args)]
pub struct Explain {
    /// TYPE or TYPE.FIELD.FIELD…
    #[arg(value_name = "TYPE.FIELD")]
    pub what: Option<String>,
    /// Show the names of all fields below
    #[arg(long)]
    pub recursive: bool,
    /// This version, e.g. apps/v1
    #[arg(long, default_value = "", hide_default_value = true)]
    pub api_version: String,
}

pub async fn run(session: &Session, explain: &Explain) -> Result<()> {
    let Some(what) = &explain.what else {
        return Err(usage(
            "You must specify the type of resource to explain. Use \"kedge api-resources\" for a complete list of supported \
             resources.",
        ));
    };
    let discovery = session.discovery().await?;
    let mut path: Vec<&str> = what.trim_end_matches('.').split('.').collect();
    let word = path.remove(0);
    let mut resource = discovery.only(word)?;
    // `deployments.apps.spec`: a group belongs to the kind.
    let groups: Vec<&str> = resource.group.split('.').collect();
    if !resource.group.is_empty() && path.starts_with(&groups) {
        path.drain(..groups.len());
    }
    if !explain.api_version.is_empty() {
        resource = discovery.of_kind(&explain.api_version, &resource.kind).ok_or_else(|| {
            anyhow::anyhow!("couldn't find resource for {:?} in version {:?}", resource.kind, explain.api_version)
        })?;
    }
    let place = if resource.group.is_empty() { "api".to_owned() } else { format!("apis/{}", resource.group) };
    let document: Value = session.client.get_path(&format!("/openapi/v3/{place}/{}", resource.version)).await?;
    if !resource.group.is_empty() {
        session.line(format!("GROUP:      {}", resource.group))?;
    }
    session.print(&format!("KIND:       {}\nVERSION:    {}\n\n", resource.kind, resource.version))?;
    let is_it = |schema: &Value| {
        let kinds = schema[GVK].as_array().into_iter().flatten();
        kinds.into_iter().any(|k| {
            text(k, "/group") == resource.group
                && text(k, "/version") == resource.version
                && text(k, "/kind") == resource.kind
        })
    };
    let explainer = Explainer { document: &document, recursive: explain.recursive };
    let schemas = document["components"]["schemas"].as_object();
    let Some(schema) = schemas.into_iter().flat_map(Map::values).find(|s| is_it(s)) else {
        anyhow::bail!("GVK {}/{} not found in OpenAPI schema", resource.api_version(), resource.kind);
    };
    match explainer.output(schema, &path, &mut BTreeSet::new()) {
        Some(page) => session.print(&format!("{page}\n")),
        None => anyhow::bail!("field {:?} does not exist", path.last().copied().unwrap_or_default()),
    }
}

struct Explainer<'a> {
    document: &'a Value,
    recursive: bool,
}

impl<'a> Explainer<'a> {
    fn resolve(&self, schema: &'a Value) -> (&'a str, &'a Value) {
        let reference = text(schema, "/$ref");
        let name = reference.rsplit('/').next().unwrap_or_default();
        match self.document["components"]["schemas"].get(name) {
            Some(found) if !reference.is_empty() => (reference, found),
            _ => (reference, schema),
        }
    }

    /// What a schema is made of besides its own fields.
    fn parts(schema: &'a Value) -> impl Iterator<Item = &'a Value> {
        let all = schema["allOf"].as_array().into_iter().flatten();
        let items = schema.get("items").into_iter();
        let values = schema.get("additionalProperties").filter(|v| v.is_object()).into_iter();
        all.chain(items).chain(values)
    }

    /// The page of the field at the end of a path; none when there is no such field.
    fn output(&self, schema: &'a Value, path: &[&str], seen: &mut BTreeSet<&'a str>) -> Option<String> {
        let (reference, resolved) = self.resolve(schema);
        let Some((first, rest)) = path.split_first() else {
            let mut page = String::from("DESCRIPTION:\n");
            let description = self.description(schema);
            let description = if description.is_empty() { "<empty>" } else { &description };
            page += &format!("{}\n", indent(4, &wrap(WIDTH, description)));
            let fields = self.fields(schema, 1, &BTreeSet::new());
            if !fields.is_empty() {
                page += &format!("FIELDS:\n{fields}");
            }
            return Some(page);
        };
        if !reference.is_empty() && !seen.insert(reference) {
            return None;
        }
        if let Some(field) = resolved["properties"].get(first) {
            let mut page = String::new();
            if rest.is_empty() {
                page += &format!("FIELD: {first} <{}>\n", self.type_name(field));
                for value in field["enum"].as_array().into_iter().flatten().enumerate() {
                    let head = if value.0 == 0 { "ENUM:" } else { "" };
                    page += &format!("{head}\n    {}", enum_text(value.1));
                }
                page += "\n\n";
            }
            return Some(page + &self.output(field, rest, &mut BTreeSet::new())?);
        }
        Self::parts(resolved).find_map(|part| self.output(part, path, seen))
    }

    fn description(&self, schema: &'a Value) -> String {
        let (_, resolved) = self.resolve(schema);
        let mut out = String::new();
        if !text(resolved, "/description").is_empty() {
            out = format!("{}\n", text(resolved, "/description"));
        }
        Self::parts(resolved).for_each(|part| out += &self.description(part));
        out
    }

    fn fields(&self, schema: &'a Value, level: usize, seen: &BTreeSet<&'a str>) -> String {
        let (reference, resolved) = self.resolve(schema);
        if !reference.is_empty() && seen.contains(reference) {
            return String::new();
        }
        let mut seen = seen.clone();
        seen.insert(reference);
        let mut out = String::new();
        let own: BTreeMap<&String, &'a Value> = resolved["properties"].as_object().into_iter().flatten().collect();
        for (name, field) in own {
            out += &self.field(resolved, name, field, level);
            if self.recursive {
                out += &self.fields(field, level + 1, &seen);
            }
        }
        Self::parts(resolved).for_each(|part| out += &self.fields(part, level, &seen));
        out
    }

    fn field(&self, parent: &Value, name: &str, field: &'a Value, level: usize) -> String {
        let blanks = level * 2;
        let mut out = format!("{}{name}\t<{}>", " ".repeat(blanks), self.type_name(field));
        if parent["required"].as_array().is_some_and(|r| r.iter().any(|n| n == name)) {
            out += " -required-";
        }
        let values: Vec<String> = field["enum"].as_array().into_iter().flatten().map(enum_text).collect();
        if !values.is_empty() {
            let more = if values.len() > VALUES_MAX { ", ...." } else { "" };
            let shown = values.iter().take(VALUES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
            out += &format!("\n{}enum: {shown}{more}", " ".repeat(blanks));
        }
        out.push('\n');
        if !self.recursive {
            let description = match text(field, "/description") {
                "" => "<no description>",
                text => text,
            };
            out += &format!("{}\n\n", indent(blanks + 2, &wrap(78 - blanks, description)));
        }
        out
    }

    /// `string`, `Object`, `[]Container`, `map[string]string`.
    fn type_name(&self, schema: &'a Value) -> String {
        let all = schema["allOf"].as_array();
        if let Some(items) = schema.get("items") {
            format!("[]{}", self.type_name(items))
        } else if let Some(values) = schema.get("additionalProperties").filter(|v| v.is_object()) {
            format!("map[string]{}", self.type_name(values))
        } else if let (Some([one]), None) = (all.map(Vec::as_slice), schema.get("properties")) {
            self.type_name(one)
        } else if schema.get("$ref").is_some() {
            let (reference, resolved) = self.resolve(schema);
            match text(resolved, "/type") {
                "" | "object" => reference.rsplit(['/', '.']).next().unwrap_or("Object").to_owned(),
                plain => plain.to_owned(),
            }
        } else {
            match text(schema, "/type") {
                "" | "object" => "Object".into(),
                plain => plain.into(),
            }
        }
    }
}

fn enum_text(value: &Value) -> String {
    match value.as_str() {
        Some("") => "\"\"".into(),
        Some(text) => text.into(),
        None => value.to_string(),
    }
}

fn indent(blanks: usize, text: &str) -> String {
    let blanks = " ".repeat(blanks);
    text.split('\n').map(|line| format!("{blanks}{line}")).collect::<Vec<_>>().join("\n")
}

/// Ends lines between words, so that none is wider; a word that is wider stays whole.
fn wrap(width: usize, text: &str) -> String {
    let (mut out, mut line, mut space, mut word) = (String::new(), 0, String::new(), String::new());
    let count = |t: &str| t.chars().count();
    for c in text.chars() {
        if c == '\n' {
            if !word.is_empty() || line + count(&space) <= width {
                out += &space;
            }
            out += &word;
            out.push('\n');
            line = 0;
            space.clear();
            word.clear();
        } else if c.is_whitespace() && c != '\u{a0}' {
            if space.is_empty() || !word.is_empty() {
                line += count(&space) + count(&word);
                out += &space;
                out += &word;
                space.clear();
                word.clear();
            }
            space.push(c);
        } else {
            word.push(c);
            if line + count(&space) + count(&word) > width && count(&word) < width {
                out.push('\n');
                line = 0;
                space.clear();
            }
        }
    }
    if !word.is_empty() || line + count(&space) <= width {
        out += &space;
    }
    out + &word
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_end_between_words() {
        for (text, expected) in [
            ("one two three", "one two\nthree"),
            ("one\ntwo", "one\ntwo"),
            ("averylongword a", "averylongword\na"),
            ("a b ", "a b "),
        ] {
            assert_eq!(wrap(8, text), expected, "{text:?}");
        }
    }

    #[test]
    fn pages() {
        let document = json!({"components": {"schemas": {
            "a.Pod": {"description": "A pod.", "type": "object", "required": ["spec"], "properties": {
                "spec": {"description": "Its spec.", "allOf": [{"$ref": "#/components/schemas/a.Spec"}]}}},
            "a.Spec": {"type": "object", "properties": {
                "names": {"type": "array", "items": {"type": "string"}},
                "when": {"$ref": "#/components/schemas/a.Time"},
                "mode": {"type": "string", "enum": ["", "On"]}}},
            "a.Time": {"type": "string"}}}});
        let e = Explainer { document: &document, recursive: true };
        let pod = &document["components"]["schemas"]["a.Pod"];
        let page = e.output(pod, &[], &mut BTreeSet::new()).unwrap();
        assert_eq!(
            page,
            "DESCRIPTION:\n    A pod.\n    \nFIELDS:\n  spec\t<Spec> -required-\n    mode\t<string>\n    enum: \"\", On\n    \
             names\t<[]string>\n    when\t<string>\n"
        );
        assert!(e.output(pod, &["spec", "nosuch"], &mut BTreeSet::new()).is_none());
        assert!(
            e.output(pod, &["spec", "mode"], &mut BTreeSet::new()).unwrap().starts_with("FIELD: mode <string>\nENUM:")
        );
    }
}
