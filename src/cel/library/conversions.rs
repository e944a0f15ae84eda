//! cel-go's conversions from one type to another: `int()`, `string()`, `timestamp()` and their kin.
//!
//! Source: cel-go `common/stdlib/standard.go`, `common/types`.

use std::sync::Arc;

use super::number_text::double;
use super::standard::{int, overflow, uint, unsigned_overflow};
use super::time;
use crate::signature::Function;
use crate::value::{Answer, EvalError, Text, Value, fault, no_overload};

pub const FUNCTIONS: &[Function] = &[
    Function { run: |args| Ok(Value::Type(args[0].type_name().into())), overloads: &[("type", "type", "(A) type(A)")] },
    Function { run: |args| Ok(args[0].clone()), overloads: &[("dyn", "to_dyn", "(A) dyn")] },
    Function {
        run: to_bool,
        overloads: &[("bool", "bool_to_bool", "(bool) bool"), ("bool", "string_to_bool", "(string) bool")],
    },
    Function {
        run: to_bytes,
        overloads: &[("bytes", "bytes_to_bytes", "(bytes) bytes"), ("bytes", "string_to_bytes", "(string) bytes")],
    },
    Function {
        run: to_double,
        overloads: &[
            ("double", "double_to_double", "(double) double"),
            ("double", "int64_to_double", "(int) double"),
            ("double", "string_to_double", "(string) double"),
            ("double", "uint64_to_double", "(uint) double"),
        ],
    },
    Function {
        run: to_duration,
        overloads: &[
            ("duration", "duration_to_duration", "(duration) duration"),
            ("duration", "int64_to_duration", "(int) duration"),
            ("duration", "string_to_duration", "(string) duration"),
        ],
    },
    Function {
        run: to_int,
        overloads: &[
            ("int", "int64_to_int64", "(int) int"),
            ("int", "double_to_int64", "(double) int"),
            ("int", "duration_to_int64", "(duration) int"),
            ("int", "string_to_int64", "(string) int"),
            ("int", "timestamp_to_int64", "(timestamp) int"),
            ("int", "uint64_to_int64", "(uint) int"),
        ],
    },
    Function {
        run: |args| to_text(&args[0]),
        overloads: &[
            ("string", "string_to_string", "(string) string"),
            ("string", "bool_to_string", "(bool) string"),
            ("string", "bytes_to_string", "(bytes) string"),
            ("string", "double_to_string", "(double) string"),
            ("string", "duration_to_string", "(duration) string"),
            ("string", "int64_to_string", "(int) string"),
            ("string", "timestamp_to_string", "(timestamp) string"),
            ("string", "uint64_to_string", "(uint) string"),
            ("string", "ip_to_string", "(ip) string"),
            ("string", "cidr_to_string", "(cidr) string"),
        ],
    },
    Function {
        run: to_timestamp,
        overloads: &[
            ("timestamp", "timestamp_to_timestamp", "(timestamp) timestamp"),
            ("timestamp", "int64_to_timestamp", "(int) timestamp"),
            ("timestamp", "string_to_timestamp", "(string) timestamp"),
        ],
    },
    Function {
        run: to_uint,
        overloads: &[
            ("uint", "uint64_to_uint64", "(uint) uint"),
            ("uint", "double_to_uint64", "(double) uint"),
            ("uint", "int64_to_uint64", "(int) uint"),
            ("uint", "string_to_uint64", "(string) uint"),
        ],
    },
];

fn conversion<T>(from: &Value, to: &str) -> Result<T, EvalError> {
    fault(format!("type conversion error from '{}' to '{to}'", from.type_name()))
}
fn to_bool<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [v @ Value::Bool(_)] => Ok(v.clone()),
        [v @ Value::String(text)] => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => conversion(v, "bool"),
        },
        _ => no_overload(),
    }
}
fn to_bytes<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [v @ Value::Bytes(_)] => Ok(v.clone()),
        [Value::String(text)] => Ok(Value::Bytes(text.as_bytes().into())),
        _ => no_overload(),
    }
}
fn to_double<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [v @ Value::Double(_)] => Ok(v.clone()),
        [Value::Int(i)] => Ok(Value::Double(*i as f64)),
        [Value::Uint(u)] => Ok(Value::Double(*u as f64)),
        [v @ Value::String(text)] => match text.parse() {
            Ok(d) => Ok(Value::Double(d)),
            Err(_) => conversion(v, "double"),
        },
        _ => no_overload(),
    }
}
fn to_duration<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [v @ Value::Duration(_)] => Ok(v.clone()),
        [Value::Int(nanos)] => Ok(Value::Duration(*nanos)),
        [v @ Value::String(text)] => match time::parse_duration(text) {
            Some(nanos) => Ok(Value::Duration(nanos)),
            None => conversion(v, "google.protobuf.Duration"),
        },
        _ => no_overload(),
    }
}
fn to_int<'a>(args: &[Value<'a>]) -> Answer<'a> {
    const LIMIT: f64 = 9_223_372_036_854_775_807.0;
    match args {
        [v @ Value::Int(_)] => Ok(v.clone()),
        [Value::Double(d)] if d.is_nan() || *d <= -LIMIT || *d >= LIMIT => overflow(),
        [Value::Double(d)] => Ok(Value::Int(*d as i64)),
        [Value::Duration(nanos)] => Ok(Value::Int(*nanos)),
        [Value::Timestamp(t)] => Ok(Value::Int(t.as_nanosecond().div_euclid(1_000_000_000) as i64)),
        [Value::Uint(u)] => int(i64::try_from(*u).ok()),
        [v @ Value::String(text)] => match text.parse() {
            Ok(i) => Ok(Value::Int(i)),
            Err(_) => conversion(v, "int"),
        },
        _ => no_overload(),
    }
}
fn to_uint<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [v @ Value::Uint(_)] => Ok(v.clone()),
        [Value::Double(d)] if d.is_nan() || *d < 0.0 || *d >= 18_446_744_073_709_551_615.0 => unsigned_overflow(),
        [Value::Double(d)] => Ok(Value::Uint(*d as u64)),
        [Value::Int(i)] => uint(u64::try_from(*i).ok()),
        [v @ Value::String(text)] => match text.parse() {
            Ok(u) => Ok(Value::Uint(u)),
            Err(_) => conversion(v, "uint"),
        },
        _ => no_overload(),
    }
}
fn to_timestamp<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [v @ Value::Timestamp(_)] => Ok(v.clone()),
        [Value::Int(seconds)] => match jiff::Timestamp::from_second(*seconds) {
            Ok(t) => time::in_range(t),
            Err(_) => fault("timestamp overflow"),
        },
        [v @ Value::String(text)] => match time::parse_timestamp(text) {
            Some(t) => time::in_range(t),
            None => conversion(v, "google.protobuf.Timestamp"),
        },
        _ => no_overload(),
    }
}

/// The text that `string()` makes of a value.
pub fn to_text<'a>(value: &Value<'a>) -> Answer<'a> {
    let text = match value {
        Value::String(_) => return Ok(value.clone()),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => double(*d),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return fault("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Value::Timestamp(t) => time::timestamp_text(*t),
        Value::Duration(nanos) => time::duration_text(*nanos),
        Value::Type(name) => return Ok(Value::String(Text::Shared(Arc::clone(name)))),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(ip, bits) => format!("{ip}/{bits}"),
        other => return conversion(other, "string"),
    };
    Ok(Value::text(text))
}

/// A value as errors quote it.
pub fn plain(value: &Value) -> String {
    match to_text(value) {
        Ok(Value::String(text)) => text.to_string(),
        _ => value.type_name(),
    }
}
