//! Objects from files: YAML with many documents, JSON, lists, folders, standard input, URLs not.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Deserialize as _;
use serde_json::Value;

/// `-f` and `-R`.
#[derive(Debug, Clone, Default, Args)]
pub struct Files {
    /// File or folder with manifests; - reads standard input
    #[arg(long = "filename", short = 'f', value_name = "FILE", value_delimiter = ',')]
    pub files: Vec<String>,
    /// Take the folders within a folder too
    #[arg(long, short = 'R')]
    pub recursive: bool,
}

/// An object and the file that it is from.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub object: Value,
    pub source: String,
}

impl Manifest {
    pub fn text(&self, pointer: &str) -> &str {
        text(&self.object, pointer)
    }
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }
}

/// The text at a JSON pointer, or nothing.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Files {
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Every object of every file, in order.
    ///
    /// # Errors
    /// A file that cannot be read, a document that is no object with `kind` and `apiVersion`; no object at all.
    pub fn read(&self) -> Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        for name in &self.files {
            if name == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("read standard input")?;
                manifests.extend(parse(&text, "STDIN")?);
                continue;
            }
            let path = Path::new(name);
            let meta = match std::fs::metadata(path) {
                Ok(meta) => meta,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    anyhow::bail!("the path {name:?} does not exist")
                }
                Err(e) => return Err(e).with_context(|| format!("read {name}")),
            };
            if meta.is_dir() {
                let mut files = Vec::new();
                collect(path, self.recursive, &mut files)?;
                for file in files {
                    manifests.extend(read_file(&file)?);
                }
            } else {
                manifests.extend(read_file(path)?);
            }
        }
        if manifests.is_empty() {
            anyhow::bail!("no objects passed to {}", self.verb_hint());
        }
        Ok(manifests)
    }

    fn verb_hint(&self) -> String {
        std::env::args().nth(1).unwrap_or_else(|| "kedge".into())
    }
}

fn read_file(path: &Path) -> Result<Vec<Manifest>> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("read {name}"))?;
    parse(&text, &name)
}

fn collect(folder: &Path, recursive: bool, into: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if recursive {
                collect(&path, true, into)?;
            }
        } else if path.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml") {
            into.push(path);
        }
    }
    Ok(())
}

/// The objects of a text; lists are taken apart, empty documents passed over.
pub fn parse(text: &str, source: &str) -> Result<Vec<Manifest>> {
    let unreadable = |e: &dyn std::fmt::Display| anyhow::anyhow!("error parsing {source}: {e}");
    let yaml = || serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize).collect::<Result<Vec<_>, _>>();
    let documents = if text.trim_start().starts_with('{') {
        let json: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        // A brace may also begin a YAML document in flow style.
        json.or_else(|error| yaml().map_err(|_| unreadable(&error)))?
    } else {
        yaml().map_err(|e| unreadable(&e))?
    };
    let mut manifests = Vec::new();
    for document in documents {
        flatten(document, source, &mut manifests)?;
    }
    Ok(manifests)
}

fn flatten(document: Value, source: &str, into: &mut Vec<Manifest>) -> Result<()> {
    match &document {
        Value::Null => return Ok(()),
        Value::Object(map) if map.is_empty() => return Ok(()),
        Value::Object(_) => {}
        _ => anyhow::bail!("error validating {source:?}: a document is not an object"),
    }
    for field in ["kind", "apiVersion"] {
        if text(&document, &format!("/{field}")).is_empty() {
            anyhow::bail!("error validating {source:?}: error validating data: {field} not set");
        }
    }
    if text(&document, "/kind").ends_with("List")
        && let Some(Value::Array(items)) = document.get("items")
    {
        for item in items {
            flatten(item.clone(), source, into)?;
        }
        return Ok(());
    }
    into.push(Manifest { object: document, source: source.to_owned() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        parse(text, "f").unwrap().iter().map(|m| m.name().to_owned()).collect()
    }

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let yaml = "# c\n---\nkind: A\napiVersion: v1\nmetadata: {name: a}\n---\n---\nkind: List\napiVersion: v1\nitems:\n\
                    - {kind: B, apiVersion: v1, metadata: {name: b}}\n- {kind: C, apiVersion: v1, metadata: {name: c}}\n";
        assert_eq!(names(yaml), ["a", "b", "c"]);
        let json = r#"{"kind":"A","apiVersion":"v1","metadata":{"name":"a"}} {"kind":"B","apiVersion":"v1","metadata":{"name":"b"}}"#;
        assert_eq!(names(json), ["a", "b"]);
        assert!(names("").is_empty());
        let flow =
            "{kind: A, apiVersion: v1, metadata: {name: a}}\n---\n{kind: B, apiVersion: v1, metadata: {name: b}}\n";
        assert_eq!(names(flow), ["a", "b"]);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for (text, expected) in [
            ("kind: A\n", "error validating \"f\": error validating data: apiVersion not set"),
            ("- a\n", "error validating \"f\": a document is not an object"),
        ] {
            assert_eq!(parse(text, "f").unwrap_err().to_string(), expected);
        }
        assert!(parse("{a", "f").unwrap_err().to_string().starts_with("error parsing f: "));
        assert!(parse("a: [", "f").unwrap_err().to_string().starts_with("error parsing f: "));
    }

    #[test]
    fn folders_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for (file, name) in [("b.yaml", "b"), ("a.yml", "a"), ("x.txt", "x"), ("sub/c.json", "c")] {
            let body = format!("{{\"kind\":\"A\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"{name}\"}}}}");
            std::fs::write(dir.path().join(file), body).unwrap();
        }
        let mut files = Files { files: vec![dir.path().display().to_string()], recursive: false };
        let read = |f: &Files| f.read().unwrap().iter().map(|m| m.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(read(&files), ["a", "b"]);
        files.recursive = true;
        assert_eq!(read(&files), ["a", "b", "c"]);
        files.files = vec!["/nothing/here".into()];
        assert_eq!(files.read().unwrap_err().to_string(), "the path \"/nothing/here\" does not exist");
    }
}
