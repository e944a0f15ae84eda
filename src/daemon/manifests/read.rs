//! The files of the folder, as objects.

use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value;

/// A manifest above this is refused, as the API would refuse its objects.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// One file as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    pub name: String,
    /// Its objects, or why it cannot be read; then the objects that it made before stay.
    pub objects: Result<Vec<Value>, String>,
}

/// Every manifest of the folder, by name.
///
/// Errors: the folder itself cannot be read.
pub fn read_all(folder: &Path) -> std::io::Result<Vec<File>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.retain(|p| p.extension().is_some_and(|x| x == "yaml" || x == "yml" || x == "json"));
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let label = types::names::label_value(&name);
        let objects = if let Some(why) = label.into_iter().next() {
            Err(format!("the file's name is no label value: {why}"))
        } else {
            read_objects(&path)
        };
        File { name, objects }
    };
    Ok(paths.into_iter().map(read).collect())
}

/// The objects of a multi-document YAML (or JSON) file; lists are taken apart.
fn read_objects(path: &Path) -> Result<Vec<Value>, String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{size} bytes are more than the {FILE_BYTES_MAX} that are read"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        match Value::deserialize(document).map_err(|e| e.to_string())? {
            Value::Null => {}
            Value::Object(map) if map.get("kind").and_then(Value::as_str) == Some("List") => {
                objects.extend(map.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
            }
            object @ Value::Object(_) => objects.push(object),
            _ => return Err("a document is no object".into()),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("a.yaml"),
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("b.yml"), "a: [").unwrap();
        std::fs::write(dir.path().join("c.txt"), "not read").unwrap();
        let files = read_all(dir.path()).unwrap();
        assert_eq!(files.len(), 2);
        assert_eq!(files[0].objects.as_ref().unwrap().len(), 2);
        assert!(files[1].objects.is_err());
    }
}
