//! Configuration files become the defaults of the flags with the same names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_yaml_ng::Value;

use super::ConfigError;

/// A command whose defaults are the files' values.
pub struct WithFiles {
    command: Command,
    /// The file that a key's value is from.
    origins: BTreeMap<String, PathBuf>,
}

/// `command` with the values of the configuration files as its defaults. The file is the one that `--config` or
/// `KEDGE_CONFIG` names; a missing default file is no error, a missing named one is.
pub fn with_defaults(command: Command, verb: &'static str, args: &[String]) -> Result<WithFiles, ConfigError> {
    with(command, Some(verb), args)
}

/// As [`with_defaults`], for a command that shares some values with the daemon: keys and switches that are not its own are left
/// out.
pub fn with_shared_defaults(command: Command, args: &[String]) -> Result<WithFiles, ConfigError> {
    with(command, None, args)
}

fn with(command: Command, verb: Option<&'static str>, args: &[String]) -> Result<WithFiles, ConfigError> {
    let early = command.clone().ignore_errors(true).try_get_matches_from(args)?;
    let mut with = WithFiles { command, origins: BTreeMap::new() };
    let Some(path) = early.get_one::<PathBuf>("config") else { return Ok(with) };
    let named = early.value_source("config") != Some(ValueSource::DefaultValue);
    for file in read(path, named)? {
        with = with.apply(verb, file)?;
    }
    Ok(with)
}

/// What the command line says, and whose fault a value is.
pub struct Parsed {
    pub matches: ArgMatches,
    origins: BTreeMap<String, PathBuf>,
}

impl WithFiles {
    /// # Errors
    /// The command line's own: the files' values have been tried.
    pub fn parse(self, args: &[String]) -> Result<Parsed, ConfigError> {
        Ok(Parsed { matches: self.command.try_get_matches_from(args)?, origins: self.origins })
    }
}

impl Parsed {
    /// Names the file and key instead of the flag where the refused value is from a file.
    pub fn blame(&self, error: ConfigError) -> ConfigError {
        let ConfigError::Invalid(text) = &error else { return error };
        let Some((key, detail)) = text.strip_prefix("--").and_then(|text| text.split_once(' ')) else { return error };
        let origin = self.origins.get_key_value(key).filter(|_| {
            let id = key.replace('-', "_");
            self.matches.value_source(&id) == Some(ValueSource::DefaultValue)
        });
        match origin {
            Some((key, path)) => {
                ConfigError::BadValue { path: path.clone(), key: key.clone(), detail: detail.to_owned() }
            }
            None => error,
        }
    }
}

struct File {
    path: PathBuf,
    text: String,
}

/// The configuration file and its drop-ins, in the order in which they apply. One that somebody `named` has to be there.
fn read(path: &Path, named: bool) -> Result<Vec<File>, ConfigError> {
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
    for (i, path) in paths.into_iter().enumerate() {
        match std::fs::read_to_string(&path) {
            Ok(text) => files.push(File { path, text }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !(named && i == 0) => {}
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        }
    }
    Ok(files)
}

impl WithFiles {
    /// `verb`: whose keys the file may have; `None`: those that the command does not know are another's.
    fn apply(mut self, verb: Option<&'static str>, file: File) -> Result<Self, ConfigError> {
        let malformed = |detail: String| ConfigError::Malformed { path: file.path.clone(), detail };
        let map = match serde_yaml_ng::from_str::<Value>(&file.text).map_err(|e| malformed(e.to_string()))? {
            Value::Null => return Ok(self),
            Value::Mapping(map) => map,
            _ => return Err(malformed("a mapping of keys to values is wanted".into())),
        };
        for (key, value) in map {
            let key = key.as_str().ok_or_else(|| malformed("keys are text".into()))?.to_owned();
            let arg =
                self.command.get_arguments().find(|a| a.get_long() == Some(&key) && key != "config").map(|a| {
                    (a.clone(), matches!(a.get_action(), ArgAction::SetTrue), a.get_value_delimiter().is_some())
                });
            let (arg, is_switch, is_list) = match (arg, verb) {
                (Some((_, true, _)) | None, None) => continue,
                (None, Some(verb)) => return Err(ConfigError::UnknownKey { path: file.path.clone(), key, verb }),
                (Some(known), _) => known,
            };
            let bad = |detail: &str| ConfigError::BadValue {
                path: file.path.clone(),
                key: key.clone(),
                detail: detail.into(),
            };
            let texts = texts(&value).ok_or_else(|| bad("a plain value or a list of them is wanted"))?;
            if is_switch && !matches!(texts.as_slice(), [t] if t == "true" || t == "false") {
                return Err(bad("true or false is wanted"));
            }
            if texts.len() != 1 && !is_list {
                return Err(bad("one value is wanted"));
            }
            if !is_switch && let Err(why) = takes(&arg, &texts) {
                return Err(bad(&why));
            }
            self.command = self.command.mut_arg(arg.get_id(), |a| a.default_values(texts));
            self.origins.insert(key, file.path.clone());
        }
        Ok(self)
    }
}

/// Whether the flag takes the values; why not, in one line.
fn takes(arg: &Arg, texts: &[String]) -> Result<(), String> {
    let flag = arg.get_long().unwrap_or_default();
    for text in texts {
        let words = ["kedge".to_owned(), format!("--{flag}={text}")];
        let Err(error) = Command::new("kedge").arg(arg.clone()).try_get_matches_from(words) else { continue };
        let why = match (std::error::Error::source(&error), error.get(ContextKind::ValidValue)) {
            (Some(source), _) => source.to_string(),
            (None, Some(ContextValue::Strings(known))) if !known.is_empty() => format!("one of {}", known.join(", ")),
            (None, _) => "not a value of this key".to_owned(),
        };
        return Err(format!("{text:?}: {why}"));
    }
    Ok(())
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
