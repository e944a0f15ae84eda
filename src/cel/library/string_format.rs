//! `string.format()`: the clauses of a format text, what each makes of a value, and what can be said against a call whose
//! format and arguments are literals.
//!
//! Source: cel-go `ext/formatting.go`.

use super::conversions::to_text;
use super::number_text;
use crate::types::Type;
use crate::value::{EvalError, List, Map, TEXT_BYTES_MAX, Value, bounded, fault};

/// Digits behind the point when a clause does not say. Source: cel-go `defaultPrecision`.
const PRECISION: usize = 6;
/// More digits than any double has; a larger precision only fills memory.
const PRECISION_MAX: usize = 1_100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clause {
    String,
    Decimal,
    Fixed(usize),
    Scientific(usize),
    Binary,
    Hex(bool),
    Octal,
}

enum Piece<'f> {
    Text(&'f str),
    Clause(Clause),
}

/// Splits the format. `count`: how many arguments there are.
fn pieces<'f>(
    format: &'f str,
    count: usize,
    mut each: impl FnMut(Piece<'f>) -> Result<(), String>,
) -> Result<usize, String> {
    let mut rest = format;
    let mut used = 0;
    while let Some(percent) = rest.find('%') {
        each(Piece::Text(&rest[..percent]))?;
        rest = &rest[percent + 1..];
        if let Some(behind) = rest.strip_prefix('%') {
            each(Piece::Text("%"))?;
            rest = behind;
            continue;
        }
        if used >= count {
            return Err(format!("index {used} out of range"));
        }
        if rest.is_empty() {
            return Err("unexpected end of string".into());
        }
        let mut precision = PRECISION;
        if let Some(behind) = rest.strip_prefix('.') {
            let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
            let wrong = |why: &str| format!("could not parse formatting clause: error while parsing precision: {why}");
            if digits == behind.len() {
                return Err(wrong("could not find end of precision specifier"));
            }
            precision = behind[..digits].parse().map_err(|_| {
                wrong(&format!(
                    "error while converting precision to integer: strconv.Atoi: parsing \"{}\": invalid syntax",
                    &behind[..digits]
                ))
            })?;
            precision = precision.min(PRECISION_MAX);
            rest = &behind[digits..];
        }
        let letter = rest.chars().next().unwrap_or(' ');
        rest = &rest[letter.len_utf8()..];
        each(Piece::Clause(match letter {
            's' => Clause::String,
            'd' => Clause::Decimal,
            'f' => Clause::Fixed(precision),
            'e' => Clause::Scientific(precision),
            'b' => Clause::Binary,
            'x' | 'X' => Clause::Hex(letter == 'X'),
            'o' => Clause::Octal,
            other => {
                return Err(format!("could not parse formatting clause: unrecognized formatting clause \"{other}\""));
            }
        }))?;
        used += 1;
    }
    each(Piece::Text(rest))?;
    Ok(used)
}

/// What a clause says of a type that it cannot show.
fn refusal(clause: Clause, given: &str) -> String {
    let what = match clause {
        Clause::String => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
        }
        Clause::Decimal => "decimal clause can only be used on integers",
        Clause::Fixed(_) => "fixed-point clause can only be used on doubles",
        Clause::Scientific(_) => "scientific clause can only be used on doubles",
        Clause::Binary => "only integers and bools can be formatted as binary",
        Clause::Hex(_) => "only integers, byte buffers, and strings can be formatted as hex",
        Clause::Octal => "octal clause can only be used on integers",
    };
    format!("error during formatting: {what}, was given {given}")
}

/// Fills in the format.
///
/// # Errors
/// Faults in cel-go's words.
pub fn format(format: &str, args: &List) -> Result<String, EvalError> {
    let mut out = String::new();
    let mut next = 0;
    let mut failed = None;
    let result = pieces(format, args.len(), |piece| {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Clause(clause) => {
                match args.get(next) {
                    Some(Ok(value)) => out.push_str(&show(clause, &value)?),
                    Some(Err(error)) => failed = Some(error),
                    None => return Err(format!("index {next} out of range")),
                }
                next += 1;
            }
        }
        Ok(())
    });
    match (failed, result) {
        (Some(error), _) => Err(error),
        (None, Err(message)) => fault(message),
        (None, Ok(_)) => bounded(out.len(), TEXT_BYTES_MAX).map(|()| out),
    }
}

fn show(clause: Clause, value: &Value) -> Result<String, String> {
    let refuse = || refusal(clause, &value.type_name());
    let special = |text: &str| match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    };
    let double = |value: &Value| match value {
        Value::Double(d) => Some(*d),
        Value::String(text) => special(text),
        _ => None,
    };
    Ok(match (clause, value) {
        (Clause::String, _) => text(value).ok_or_else(refuse)?,
        (Clause::Decimal, Value::Int(i)) => i.to_string(),
        (Clause::Decimal, Value::Uint(u)) => u.to_string(),
        (Clause::Fixed(precision), _) => {
            let d = double(value).ok_or_else(refuse)?;
            if d.is_finite() { format!("{d:.precision$}") } else { infinite(d) }
        }
        (Clause::Scientific(precision), _) => {
            let d = double(value).ok_or_else(refuse)?;
            if d.is_finite() { number_text::scientific(d, precision) } else { infinite(d) }
        }
        (Clause::Binary, Value::Int(i)) => signed(*i, |n| format!("{n:b}")),
        (Clause::Binary, Value::Uint(u)) => format!("{u:b}"),
        (Clause::Binary, Value::Bool(b)) => u8::from(*b).to_string(),
        (Clause::Octal, Value::Int(i)) => signed(*i, |n| format!("{n:o}")),
        (Clause::Octal, Value::Uint(u)) => format!("{u:o}"),
        (Clause::Hex(upper), _) => {
            let hex = match value {
                Value::Int(i) => signed(*i, |n| format!("{n:x}")),
                Value::Uint(u) => format!("{u:x}"),
                Value::String(text) => hex_bytes(text.as_bytes()),
                Value::Bytes(bytes) => hex_bytes(bytes),
                _ => return Err(refuse()),
            };
            if upper { hex.to_uppercase() } else { hex }
        }
        _ => return Err(refuse()),
    })
}
fn infinite(d: f64) -> String {
    if d.is_nan() {
        "NaN"
    } else if d > 0.0 {
        "∞"
    } else {
        "-∞"
    }
    .into()
}
fn signed(i: i64, show: fn(u64) -> String) -> String {
    format!("{}{}", if i < 0 { "-" } else { "" }, show(i.unsigned_abs()))
}
fn hex_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::List(list) => list_text(list),
        Value::Map(map) => map_text(map),
        Value::Null => Some("null".into()),
        Value::Ip(_) | Value::Cidr(..) => None,
        other => match to_text(other) {
            Ok(Value::String(text)) => Some(text.to_string()),
            _ => None,
        },
    }
}
/// A value inside a list or a map.
fn inner(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(text) => format!("{:?}", &**text),
        Value::Bytes(bytes) => format!("b{:?}", String::from_utf8_lossy(bytes)),
        Value::Double(d) if d.is_finite() => format!("{d:.PRECISION$}"),
        Value::Double(d) => format!("{:?}", number_text::double(*d)),
        Value::Timestamp(_) => format!("timestamp({:?})", text(value)?),
        Value::Duration(_) => format!("duration({:?})", text(value)?),
        Value::Type(name) => format!("type({name})"),
        other => text(other)?,
    })
}
fn list_text(list: &List) -> Option<String> {
    let items = list.iter().map(|item| inner(&item.ok()?)).collect::<Option<Vec<_>>>()?;
    Some(format!("[{}]", items.join(", ")))
}
fn map_text(map: &Map) -> Option<String> {
    let mut entries = Vec::new();
    for (key, value) in map.entries() {
        entries.push((inner(&key)?, inner(&value.ok()?)?));
    }
    entries.sort();
    let entries: Vec<String> = entries.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
    Some(format!("{{{}}}", entries.join(", ")))
}

/// What is wrong with a call whose format and list of arguments are literals: the argument it is about, if it is one.
pub fn check(format: &str, args: &[Type]) -> Option<(Option<usize>, String)> {
    let mut next = 0;
    let mut bad = None;
    let result = pieces(format, args.len(), |piece| {
        if let Piece::Clause(clause) = piece {
            let given = &args[next];
            let fits = match clause {
                _ if *given == Type::Dyn => true,
                Clause::String => !matches!(given, Type::Object(_) | Type::Optional(_) | Type::Opaque(_)),
                Clause::Decimal | Clause::Octal => matches!(given, Type::Int | Type::Uint),
                Clause::Fixed(_) | Clause::Scientific(_) => matches!(given, Type::Double | Type::String),
                Clause::Binary => matches!(given, Type::Int | Type::Uint | Type::Bool),
                Clause::Hex(_) => matches!(given, Type::Int | Type::Uint | Type::String | Type::Bytes),
            };
            if !fits {
                bad = Some(next);
                return Err(refusal(clause, given.runtime_name()));
            }
            next += 1;
        }
        Ok(())
    });
    match result {
        Err(message) => Some((bad, message)),
        Ok(used) if used < args.len() => {
            let message = format!("too many arguments supplied to string.format (expected {used}, got {})", args.len());
            Some((None, message))
        }
        Ok(_) => None,
    }
}
