//! Secret: `stringData` folds into `data`, well-known types have required keys.
//! Source: `ValidateSecret`, `ValidateSecretUpdate`, `Convert_v1_Secret_To_core_Secret`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use types::field::{FieldError, Path};
use types::names;

use super::super::json::{at, ensure_object, get, map, set, set_blank, text};
use super::super::{Context, Hooks};
use super::config_map::{DATA_BYTES_MAX, decoded_len, immutable_flag};

const REDACTED: &str = "<secret contents redacted>";

pub static HOOKS: Hooks = Hooks { default, validate, validate_update, ..Hooks::NEUTRAL };

fn default(object: &mut Value) {
    set_blank(object, "type", "Opaque");
    let written = object.as_object_mut().and_then(|o| o.remove("stringData"));
    if let Some(Value::Object(entries)) = written
        && !entries.is_empty()
        && let Some(data) = ensure_object(object, "data")
    {
        for (key, value) in entries {
            set(data, &key, BASE64.encode(value.as_str().unwrap_or_default()));
        }
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("data");
    let mut size = 0;
    for (key, value) in map(object, "data") {
        errors.extend(names::config_key(key).into_iter().map(|e| FieldError::invalid(&path.key(key), key, e)));
        size += decoded_len(value.as_str().unwrap_or_default());
    }
    if size > DATA_BYTES_MAX {
        errors.push(FieldError::too_long(&path, DATA_BYTES_MAX));
    }
    let data = get(object, "data");
    let missing = |key: &str| data.get(key).is_none();
    let require = |key: &str| FieldError::required(&path.key(key), "");
    match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            if text(at(object, &["metadata", "annotations"]), NAME).is_empty() {
                errors.push(FieldError::required(&Path::new("metadata.annotations").key(NAME), ""));
            }
        }
        "kubernetes.io/dockercfg" => docker_config(data, ".dockercfg", &path, &mut errors),
        "kubernetes.io/dockerconfigjson" => docker_config(data, ".dockerconfigjson", &path, &mut errors),
        "kubernetes.io/basic-auth" if missing("username") && missing("password") => {
            errors.extend([require("username"), require("password")]);
        }
        "kubernetes.io/ssh-auth" if text(data, "ssh-privatekey").is_empty() => errors.push(require("ssh-privatekey")),
        "kubernetes.io/tls" => errors.extend(["tls.crt", "tls.key"].into_iter().filter(|k| missing(k)).map(require)),
        _ => {}
    }
    errors
}

fn docker_config(data: &Value, key: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.key(key);
    let Some(encoded) = data.get(key) else {
        errors.push(FieldError::required(&path, ""));
        return;
    };
    let bytes = BASE64.decode(encoded.as_str().unwrap_or_default()).unwrap_or_default();
    match serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        Ok(_) => {}
        Err(e) if e.is_eof() => errors.push(FieldError::invalid(&path, REDACTED, "unexpected end of JSON input")),
        Err(e) => errors.push(FieldError::invalid(&path, REDACTED, e.to_string())),
    }
}

fn validate_update(new: &Value, old: &Value, _: &Context) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(new, "type") != text(old, "type") {
        errors.push(FieldError::invalid(&Path::new("type"), text(new, "type"), "field is immutable"));
    }
    errors.extend(immutable_flag(new, old, &["data"]));
    errors
}
