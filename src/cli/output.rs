//! `-o`: what is printed of objects, other than tables.
//!
//! Source: cli-runtime `genericclioptions/print_flags.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::failure::usage;
use crate::jsonpath::{Template, show};
use crate::manifest::text;
use crate::table::Table;
use crate::target::Found;
use crate::yaml::to_yaml;

#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// A table, with or without the wide columns.
    Table {
        wide: bool,
    },
    Json,
    Yaml,
    Name,
    JsonPath(Template),
    JsonPathAsJson(Template),
    /// Headers and paths.
    Columns(Vec<(String, Template)>),
}

impl Format {
    /// # Errors
    /// An unknown format, in kubectl's words; a template that cannot be parsed.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once('=').unwrap_or((text, ""));
        let template = |text: &str| -> Result<Template> {
            if text.is_empty() {
                return Err(usage("template format specified but no template given"));
            }
            let text = if text.contains('{') { text.to_owned() } else { format!("{{{text}}}") };
            Template::parse(&text).map_err(|e| usage(format!("error parsing jsonpath {text}, {e}")))
        };
        Ok(match name {
            "" => Self::Table { wide: false },
            "wide" => Self::Table { wide: true },
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "name" => Self::Name,
            "jsonpath" => Self::JsonPath(template(rest)?),
            "jsonpath-as-json" => Self::JsonPathAsJson(template(rest)?),
            "jsonpath-file" => Self::JsonPath(template(std::fs::read_to_string(rest)?.trim_end())?),
            "custom-columns" => {
                let columns = rest.split(',').map(|column| match column.split_once(':') {
                    Some((header, path)) if !path.is_empty() => Template::relaxed(path)
                        .map(|t| (header.to_owned(), t))
                        .map_err(|e| usage(format!("error parsing {column}, {e}"))),
                    _ => Err(usage(format!(
                        "unexpected custom-columns spec: {column}, expected <header>:<json-path-expr>"
                    ))),
                });
                Self::Columns(columns.collect::<Result<_>>()?)
            }
            _ => {
                return Err(usage(format!(
                    "unable to match a printer suitable for the output format {text:?}, allowed formats are: \
                     custom-columns,json,jsonpath,jsonpath-as-json,jsonpath-file,name,wide,yaml"
                )));
            }
        })
    }

    pub fn is_table(&self) -> bool {
        matches!(self, Self::Table { .. })
    }
}

/// JSON as kubectl prints it: four spaces, and HTML's characters escaped as Go does.
pub fn to_json(value: &Value) -> String {
    use serde::Serialize as _;
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // A Value in memory always has a JSON form.
    let _ = value.serialize(&mut serializer);
    let text = String::from_utf8(out).unwrap_or_default();
    format!("{}\n", client::apply::escape_html(&text))
}

/// Takes away what only machines read.
pub fn without_managed_fields(mut object: Value) -> Value {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    object
}

/// Prints objects; several or a list as one `List`.
pub fn objects(format: &Format, found: &[Found], as_list: bool, managed: bool) -> Result<String> {
    whole(format, found, as_list, managed, true)
}

/// As [`objects`], with or without the headers of columns.
pub fn whole(format: &Format, found: &[Found], as_list: bool, managed: bool, headers: bool) -> Result<String> {
    // Who asks for a path gets what is there.
    let managed = managed || matches!(format, Format::JsonPath(_) | Format::JsonPathAsJson(_));
    let clean = |f: &Found| if managed { f.object.clone() } else { without_managed_fields(f.object.clone()) };
    let whole = || {
        if as_list || found.len() != 1 {
            let metadata = if as_list { json!({"resourceVersion": ""}) } else { json!({}) };
            json!({"apiVersion": "v1", "kind": "List", "metadata": metadata,
                   "items": found.iter().map(clean).collect::<Vec<_>>()})
        } else {
            clean(&found[0])
        }
    };
    Ok(match format {
        Format::Json => to_json(&whole()),
        Format::Yaml => to_yaml(&whole()),
        Format::Name => found.iter().map(|f| format!("{}\n", f.named())).collect(),
        Format::JsonPath(template) => {
            template.render(&whole()).map_err(|e| anyhow::anyhow!("error executing jsonpath: {e}"))?
        }
        Format::JsonPathAsJson(template) => {
            let whole = whole();
            let values = template.values(&whole).map_err(|e| anyhow::anyhow!("error executing jsonpath: {e}"))?;
            to_json(&Value::Array(values.into_iter().cloned().collect()))
        }
        Format::Columns(columns) => {
            let mut rows: Vec<Vec<String>> = Vec::new();
            if headers {
                rows.push(columns.iter().map(|(h, _)| h.clone()).collect());
            }
            for f in found {
                rows.push(columns.iter().map(|(_, t)| column(t, &f.object)).collect());
            }
            Table::default().lay_out(&rows)
        }
        Format::Table { .. } => String::new(),
    })
}

fn column(template: &Template, object: &Value) -> String {
    match template.values(object) {
        Ok(values) if !values.is_empty() => values.into_iter().map(show).collect::<Vec<_>>().join(","),
        _ => "<none>".into(),
    }
}

/// One line about what became of an object, or the object itself when `-o` asks for it.
pub fn outcome(format: &Format, found: &Found, what: &str) -> Result<String> {
    match format {
        Format::Table { .. } => Ok(format!("{} {what}\n", found.named())),
        other => objects(other, std::slice::from_ref(found), false, false),
    }
}

/// The uid, for waits and preconditions.
pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        assert_eq!(Format::parse("wide").unwrap(), Format::Table { wide: true });
        assert!(matches!(Format::parse("jsonpath={.a}").unwrap(), Format::JsonPath(_)));
        assert!(matches!(Format::parse("custom-columns=A:.a,B:.b.c").unwrap(), Format::Columns(c) if c.len() == 2));
        for (text, part) in [
            ("xml", "unable to match a printer suitable for the output format \"xml\""),
            ("jsonpath", "template format specified but no template given"),
            ("custom-columns=A", "unexpected custom-columns spec: A"),
        ] {
            assert!(Format::parse(text).unwrap_err().to_string().starts_with(part));
        }
    }

    #[test]
    fn json_is_indented_and_escaped_as_gos() {
        let text = to_json(&json!({"b": [1, {}], "a": "<&>"}));
        assert_eq!(text, "{\n    \"a\": \"\\u003c\\u0026\\u003e\",\n    \"b\": [\n        1,\n        {}\n    ]\n}\n");
    }
}
