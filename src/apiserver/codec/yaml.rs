//! YAML bodies, read as upstream's library reads them: into the JSON that they stand for.

use serde_json::{Map, Number, Value};

/// Parses one YAML document. Keys become strings, as they must be in JSON. Plain scalars are
/// resolved by the YAML 1.2 core schema: `yes` and `on` are strings, where upstream's YAML 1.1 library has booleans.
///
/// Errors: the parser's own words behind the Go library's prefix, whose positions differ from the Go library's.
pub fn parse(body: &[u8]) -> Result<Value, String> {
    let failed = |e: &dyn std::fmt::Display| format!("yaml: {e}");
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_slice(body).map_err(|e| failed(&e))?;
    to_json(value).map_err(|e| failed(&e))
}

fn to_json(value: serde_yaml_ng::Value) -> Result<Value, String> {
    use serde_yaml_ng::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(b) => Value::Bool(b),
        Yaml::Number(n) => number(&n).ok_or_else(|| format!("number {n} has no JSON form"))?,
        Yaml::String(s) => Value::String(s),
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?),
        Yaml::Mapping(entries) => {
            let mut object = Map::new();
            for (key, value) in entries {
                object.insert(key_text(&key)?, to_json(value)?);
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => to_json(tagged.value)?,
    })
}

fn number(n: &serde_yaml_ng::Number) -> Option<Value> {
    if let Some(i) = n.as_i64() {
        return Some(Value::Number(i.into()));
    }
    if let Some(u) = n.as_u64() {
        return Some(Value::Number(u.into()));
    }
    let float = n.as_f64()?;
    // The Go library writes a float without a fraction as an integer.
    if float.fract() == 0.0 && float.abs() < 1e15 {
        return Some(Value::Number((float as i64).into()));
    }
    Number::from_f64(float).map(Value::Number)
}

fn key_text(key: &serde_yaml_ng::Value) -> Result<String, String> {
    use serde_yaml_ng::Value as Yaml;
    match key {
        Yaml::String(s) => Ok(s.clone()),
        Yaml::Number(n) => Ok(n.to_string()),
        Yaml::Bool(b) => Ok(b.to_string()),
        other => Err(format!("unsupported map key of type: {other:?}")),
    }
}
