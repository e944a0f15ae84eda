//! Configuration files become the defaults of the flags with the same names.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Command};
use serde_yaml_ng::Value;

use super::ConfigError;

/// `command` with the values of the configuration files as its defaults. The file is the one that `--config` or
/// `KEDGE_CONFIG` names; a missing default file is no error, a missing named one is.
pub fn with_defaults(command: Command, verb: &'static str, args: &[String]) -> Result<Command, ConfigError> {
    with(command, Some(verb), args)
}

/// As [`with_defaults`], for a command that shares some values with the daemon: keys and switches that are not its own are left
/// out.
pub fn with_shared_defaults(command: Command, args: &[String]) -> Result<Command, ConfigError> {
    with(command, None, args)
}

fn with(command: Command, verb: Option<&'static str>, args: &[String]) -> Result<Command, ConfigError> {
    let early = command.clone().ignore_errors(true).try_get_matches_from(args)?;
    let Some(path) = early.get_one::<PathBuf>("config") else { return Ok(command) };
    let mut command = command;
    for file in read(path)? {
        command = apply(command, verb, file)?;
    }
    Ok(command)
}

struct File {
    path: PathBuf,
    text: String,
}

/// The configuration file and its drop-ins, in the order in which they apply.
fn read(path: &Path) -> Result<Vec<File>, ConfigError> {
    let mut paths = vec![path.to_owned()];
    let mut folder = path.as_os_str().to_owned();
    folder.push(".d");
    if let Ok(entries) = std::fs::read_dir(&folder) {
        let mut drop_ins: Vec<PathBuf> = entries
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|x| x == "yaml" || x == "yml"))
            .collect();
        drop_ins.sort();
        paths.extend(drop_ins);
    }
    let mut files = Vec::new();
    for path in paths {
        match std::fs::read_to_string(&path) {
            Ok(text) => files.push(File { path, text }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        }
    }
    Ok(files)
}

/// `verb`: whose keys the file may have; `None`: those that the command does not know are another's.
fn apply(mut command: Command, verb: Option<&'static str>, file: File) -> Result<Command, ConfigError> {
    let malformed = |detail: String| ConfigError::Malformed { path: file.path.clone(), detail };
    let map = match serde_yaml_ng::from_str::<Value>(&file.text).map_err(|e| malformed(e.to_string()))? {
        Value::Null => return Ok(command),
        Value::Mapping(map) => map,
        _ => return Err(malformed("a mapping of keys to values is wanted".into())),
    };
    for (key, value) in map {
        let key = key.as_str().ok_or_else(|| malformed("keys are text".into()))?.to_owned();
        let id = command.get_arguments().find(|a| a.get_long() == Some(&key) && key != "config").map(|a| {
            (a.get_id().clone(), matches!(a.get_action(), ArgAction::SetTrue), a.get_value_delimiter().is_some())
        });
        let (id, is_switch, is_list) = match (id, verb) {
            (Some((_, true, _)) | None, None) => continue,
            (None, Some(verb)) => return Err(ConfigError::UnknownKey { path: file.path.clone(), key, verb }),
            (Some(known), _) => known,
        };
        let bad =
            |detail: &str| ConfigError::BadValue { path: file.path.clone(), key: key.clone(), detail: detail.into() };
        let texts = texts(&value).ok_or_else(|| bad("a plain value or a list of them is wanted"))?;
        if is_switch && !matches!(texts.as_slice(), [t] if t == "true" || t == "false") {
            return Err(bad("true or false is wanted"));
        }
        if texts.len() != 1 && !is_list {
            return Err(bad("one value is wanted"));
        }
        command = command.mut_arg(id, |a| a.default_values(texts));
    }
    Ok(command)
}

/// The value as command line texts; `None` for a mapping or a nested list.
fn texts(value: &Value) -> Option<Vec<String>> {
    let one = |v: &Value| match v {
        Value::String(s) => Some(s.clone()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    };
    match value {
        Value::Sequence(list) => list.iter().map(one).collect(),
        other => one(other).map(|t| vec![t]),
    }
}
