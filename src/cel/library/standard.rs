//! cel-go's standard functions: operators, sizes and membership.
//!
//! `&&`, `||`, `?:`, `==`, `!=` and optional selection run in [`crate::eval`]; here are their types.
//!
//! Source: cel-go `common/stdlib/standard.go`, `common/types`.

use std::cmp::Ordering;

use super::conversions::plain;
use super::time;
use crate::signature::Function;
use crate::value::index::{self, Index};
use crate::value::{Answer, EvalError, ITEMS_MAX, Key, List, Map, TEXT_BYTES_MAX, Value, bounded, fault, no_overload};

/// Run by the evaluator itself.
pub fn never<'a>(_: &[Value<'a>]) -> Answer<'a> {
    no_overload()
}

pub const OPERATORS: &[Function] = &[
    Function {
        run: never,
        overloads: &[
            ("_?_:_", "conditional", "(bool, A, A) A"),
            ("_&&_", "logical_and", "(bool, bool) bool"),
            ("_||_", "logical_or", "(bool, bool) bool"),
            ("@not_strictly_false", "not_strictly_false", "(bool) bool"),
            ("_==_", "equals", "(A, A) bool"),
            ("_!=_", "not_equals", "(A, A) bool"),
            ("_[_]", "index_list", "(list(A), int) A"),
            ("_[_]", "index_map", "(map(A, B), A) B"),
            ("_[_]", "optional_list_index_int", "(optional(list(V)), int) optional(V)"),
            ("_[_]", "optional_map_index_value", "(optional(map(K, V)), K) optional(V)"),
            ("_[?_]", "list_optindex_optional_int", "(list(V), int) optional(V)"),
            ("_[?_]", "optional_list_optindex_optional_int", "(optional(list(V)), int) optional(V)"),
            ("_[?_]", "map_optindex_optional_value", "(map(K, V), K) optional(V)"),
            ("_[?_]", "optional_map_optindex_optional_value", "(optional(map(K, V)), K) optional(V)"),
            ("or", "optional_or_optional", "optional(V).(optional(V)) optional(V)"),
            ("orValue", "optional_orValue_value", "optional(V).(V) V"),
        ],
    },
    Function { run: not, overloads: &[("!_", "logical_not", "(bool) bool")] },
    Function {
        run: negate,
        overloads: &[("-_", "negate_double", "(double) double"), ("-_", "negate_int64", "(int) int")],
    },
    Function {
        run: add,
        overloads: &[
            ("_+_", "add_bytes", "(bytes, bytes) bytes"),
            ("_+_", "add_double", "(double, double) double"),
            ("_+_", "add_duration_duration", "(duration, duration) duration"),
            ("_+_", "add_duration_timestamp", "(duration, timestamp) timestamp"),
            ("_+_", "add_timestamp_duration", "(timestamp, duration) timestamp"),
            ("_+_", "add_int64", "(int, int) int"),
            ("_+_", "add_list", "(list(A), list(A)) list(A)"),
            ("_+_", "add_string", "(string, string) string"),
            ("_+_", "add_uint64", "(uint, uint) uint"),
        ],
    },
    Function {
        run: subtract,
        overloads: &[
            ("_-_", "subtract_double", "(double, double) double"),
            ("_-_", "subtract_duration_duration", "(duration, duration) duration"),
            ("_-_", "subtract_int64", "(int, int) int"),
            ("_-_", "subtract_timestamp_duration", "(timestamp, duration) timestamp"),
            ("_-_", "subtract_timestamp_timestamp", "(timestamp, timestamp) duration"),
            ("_-_", "subtract_uint64", "(uint, uint) uint"),
        ],
    },
    Function {
        run: multiply,
        overloads: &[
            ("_*_", "multiply_double", "(double, double) double"),
            ("_*_", "multiply_int64", "(int, int) int"),
            ("_*_", "multiply_uint64", "(uint, uint) uint"),
        ],
    },
    Function {
        run: divide,
        overloads: &[
            ("_/_", "divide_double", "(double, double) double"),
            ("_/_", "divide_int64", "(int, int) int"),
            ("_/_", "divide_uint64", "(uint, uint) uint"),
        ],
    },
    Function {
        run: modulo,
        overloads: &[("_%_", "modulo_int64", "(int, int) int"), ("_%_", "modulo_uint64", "(uint, uint) uint")],
    },
    Function {
        run: |args| ordered(args, Ordering::is_lt),
        overloads: &[
            ("_<_", "less_bool", "(bool, bool) bool"),
            ("_<_", "less_int64", "(int, int) bool"),
            ("_<_", "less_int64_double", "(int, double) bool"),
            ("_<_", "less_int64_uint64", "(int, uint) bool"),
            ("_<_", "less_uint64", "(uint, uint) bool"),
            ("_<_", "less_uint64_double", "(uint, double) bool"),
            ("_<_", "less_uint64_int64", "(uint, int) bool"),
            ("_<_", "less_double", "(double, double) bool"),
            ("_<_", "less_double_int64", "(double, int) bool"),
            ("_<_", "less_double_uint64", "(double, uint) bool"),
            ("_<_", "less_string", "(string, string) bool"),
            ("_<_", "less_bytes", "(bytes, bytes) bool"),
            ("_<_", "less_timestamp", "(timestamp, timestamp) bool"),
            ("_<_", "less_duration", "(duration, duration) bool"),
        ],
    },
    Function {
        run: |args| ordered(args, Ordering::is_le),
        overloads: &[
            ("_<=_", "less_equals_bool", "(bool, bool) bool"),
            ("_<=_", "less_equals_int64", "(int, int) bool"),
            ("_<=_", "less_equals_int64_double", "(int, double) bool"),
            ("_<=_", "less_equals_int64_uint64", "(int, uint) bool"),
            ("_<=_", "less_equals_uint64", "(uint, uint) bool"),
            ("_<=_", "less_equals_uint64_double", "(uint, double) bool"),
            ("_<=_", "less_equals_uint64_int64", "(uint, int) bool"),
            ("_<=_", "less_equals_double", "(double, double) bool"),
            ("_<=_", "less_equals_double_int64", "(double, int) bool"),
            ("_<=_", "less_equals_double_uint64", "(double, uint) bool"),
            ("_<=_", "less_equals_string", "(string, string) bool"),
            ("_<=_", "less_equals_bytes", "(bytes, bytes) bool"),
            ("_<=_", "less_equals_timestamp", "(timestamp, timestamp) bool"),
            ("_<=_", "less_equals_duration", "(duration, duration) bool"),
        ],
    },
    Function {
        run: |args| ordered(args, Ordering::is_gt),
        overloads: &[
            ("_>_", "greater_bool", "(bool, bool) bool"),
            ("_>_", "greater_int64", "(int, int) bool"),
            ("_>_", "greater_int64_double", "(int, double) bool"),
            ("_>_", "greater_int64_uint64", "(int, uint) bool"),
            ("_>_", "greater_uint64", "(uint, uint) bool"),
            ("_>_", "greater_uint64_double", "(uint, double) bool"),
            ("_>_", "greater_uint64_int64", "(uint, int) bool"),
            ("_>_", "greater_double", "(double, double) bool"),
            ("_>_", "greater_double_int64", "(double, int) bool"),
            ("_>_", "greater_double_uint64", "(double, uint) bool"),
            ("_>_", "greater_string", "(string, string) bool"),
            ("_>_", "greater_bytes", "(bytes, bytes) bool"),
            ("_>_", "greater_timestamp", "(timestamp, timestamp) bool"),
            ("_>_", "greater_duration", "(duration, duration) bool"),
        ],
    },
    Function {
        run: |args| ordered(args, Ordering::is_ge),
        overloads: &[
            ("_>=_", "greater_equals_bool", "(bool, bool) bool"),
            ("_>=_", "greater_equals_int64", "(int, int) bool"),
            ("_>=_", "greater_equals_int64_double", "(int, double) bool"),
            ("_>=_", "greater_equals_int64_uint64", "(int, uint) bool"),
            ("_>=_", "greater_equals_uint64", "(uint, uint) bool"),
            ("_>=_", "greater_equals_uint64_double", "(uint, double) bool"),
            ("_>=_", "greater_equals_uint64_int64", "(uint, int) bool"),
            ("_>=_", "greater_equals_double", "(double, double) bool"),
            ("_>=_", "greater_equals_double_int64", "(double, int) bool"),
            ("_>=_", "greater_equals_double_uint64", "(double, uint) bool"),
            ("_>=_", "greater_equals_string", "(string, string) bool"),
            ("_>=_", "greater_equals_bytes", "(bytes, bytes) bool"),
            ("_>=_", "greater_equals_timestamp", "(timestamp, timestamp) bool"),
            ("_>=_", "greater_equals_duration", "(duration, duration) bool"),
        ],
    },
];

pub const CONTAINERS: &[Function] = &[
    Function {
        run: contained,
        overloads: &[("@in", "in_list", "(A, list(A)) bool"), ("@in", "in_map", "(A, map(A, B)) bool")],
    },
    Function {
        run: size,
        overloads: &[
            ("size", "size_bytes", "(bytes) int"),
            ("size", "bytes_size", "bytes.() int"),
            ("size", "size_list", "(list(A)) int"),
            ("size", "list_size", "list(A).() int"),
            ("size", "size_map", "(map(A, B)) int"),
            ("size", "map_size", "map(A, B).() int"),
            ("size", "size_string", "(string) int"),
            ("size", "string_size", "string.() int"),
        ],
    },
    Function {
        run: map_insert,
        overloads: &[
            ("cel.@mapInsert", "@mapInsert_map_key_value", "(map(K, V), K, V) map(K, V)"),
            ("cel.@mapInsert", "@mapInsert_map_map", "(map(K, V), map(K, V)) map(K, V)"),
        ],
    },
];

pub fn overflow<T>() -> Result<T, EvalError> {
    fault("integer overflow")
}
pub fn unsigned_overflow<T>() -> Result<T, EvalError> {
    fault("unsigned integer overflow")
}
pub fn int<'a>(n: Option<i64>) -> Answer<'a> {
    n.map_or_else(overflow, |n| Ok(Value::Int(n)))
}
pub fn uint<'a>(n: Option<u64>) -> Answer<'a> {
    n.map_or_else(unsigned_overflow, |n| Ok(Value::Uint(n)))
}

fn not<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => no_overload(),
    }
}
fn negate<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Int(i)] => int(i.checked_neg()),
        [Value::Double(d)] => Ok(Value::Double(-d)),
        _ => no_overload(),
    }
}

pub fn add<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => int(a.checked_add(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_add(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a + b)),
        [Value::String(a), Value::String(b)] => {
            bounded(a.len() + b.len(), TEXT_BYTES_MAX)?;
            Ok(Value::text(format!("{}{}", &**a, &**b)))
        }
        [Value::Bytes(a), Value::Bytes(b)] => {
            bounded(a.len() + b.len(), TEXT_BYTES_MAX)?;
            Ok(Value::Bytes([&**a, &**b].concat().into()))
        }
        [Value::List(a), Value::List(b)] => append(a.clone(), b),
        [Value::Duration(a), Value::Duration(b)] => time::duration(a.checked_add(*b)),
        [Value::Timestamp(t), Value::Duration(d)] | [Value::Duration(d), Value::Timestamp(t)] => time::moved(*t, *d),
        _ => no_overload(),
    }
}

/// The lists joined; declared sets stay sets, and the items of declared maps replace those with their keys.
/// Source: apiserver `pkg/cel/common/valuesunstructured.go` `unstructuredSetList.Add`, `unstructuredMapList.Add`.
pub fn append<'a>(a: List<'a>, b: &List<'a>) -> Answer<'a> {
    use crate::schema::ListType;
    let (kind, decl) = match &a {
        List::Json { kind, decl, .. } => (*kind, *decl),
        List::Made(_) => (&ListType::Atomic, None),
    };
    bounded(a.len() + b.len(), ITEMS_MAX)?;
    let mut items = a.into_items()?;
    if *kind == ListType::Atomic {
        for item in b.iter() {
            items.push(item?);
        }
        return Ok(Value::list(items));
    }
    let same = |x: &Value<'a>, y: &Value<'a>| match (kind, x, y) {
        (ListType::Map(keys), Value::Map(x), Value::Map(y)) => {
            keys.iter().all(|key| match (x.field(key), y.field(key)) {
                (Some(Ok(x)), Some(Ok(y))) => x.equals(&y),
                (x, y) => x.is_none() && y.is_none(),
            })
        }
        (ListType::Map(_), ..) => false,
        _ => x.equals(y),
    };
    let mut index = Index::default();
    for (place, item) in items.iter().enumerate() {
        index.insert(index::of_item(item, kind, decl), place);
    }
    for item in b.iter() {
        let item = item?;
        let fingerprint = index::of_item(&item, kind, decl);
        match index.at(fingerprint).iter().find(|place| same(&items[**place], &item)) {
            Some(place) => {
                if *kind != ListType::Set {
                    items[*place] = item;
                }
            }
            None => {
                index.insert(fingerprint, items.len());
                items.push(item);
            }
        }
    }
    Ok(Value::list(items))
}

fn subtract<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => int(a.checked_sub(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_sub(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => time::duration(a.checked_sub(*b)),
        [Value::Timestamp(t), Value::Duration(d)] => match d.checked_neg() {
            Some(d) => time::moved(*t, d),
            None => fault("timestamp overflow"),
        },
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            time::duration(i64::try_from(a.as_nanosecond() - b.as_nanosecond()).ok())
        }
        _ => no_overload(),
    }
}
fn multiply<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => int(a.checked_mul(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_mul(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => no_overload(),
    }
}
fn divide<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => fault("division by zero"),
        [Value::Int(a), Value::Int(b)] => int(a.checked_div(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_div(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => no_overload(),
    }
}
fn modulo<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => fault("modulus by zero"),
        [Value::Int(a), Value::Int(b)] => int(a.checked_rem(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_rem(*b)),
        _ => no_overload(),
    }
}

fn ordered<'a>(args: &[Value<'a>], wanted: fn(Ordering) -> bool) -> Answer<'a> {
    let [a, b] = args else { return no_overload() };
    match a.compare(b) {
        Some(order) => Ok(Value::Bool(wanted(order))),
        None if [a, b].iter().any(|v| matches!(v, Value::Double(d) if d.is_nan())) => {
            fault("NaN values cannot be ordered")
        }
        None => no_overload(),
    }
}

fn contained<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [item, Value::List(list)] => Ok(Value::Bool(list.contains(item)?)),
        [key, Value::Map(map)] => Ok(Value::Bool(map.contains(key))),
        _ => no_overload(),
    }
}
fn size<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [v @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
            int(i64::try_from(v.size()).ok())
        }
        _ => no_overload(),
    }
}
fn map_insert<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Map(map), rest @ ..] => insert(map.clone(), rest),
        _ => no_overload(),
    }
}
/// A key and its value, or all entries of another map. Keys must be new.
pub fn insert<'a>(map: Map<'a>, rest: &[Value<'a>]) -> Answer<'a> {
    let mut entries = map.into_entries()?;
    let mut put = |key: &Value<'a>, value: Value<'a>| {
        let Some(of) = Key::of(key) else { return no_overload() };
        if entries.insert(of, value).is_some() {
            return fault(format!("insert failed: key {} already exists", plain(key)));
        }
        Ok(())
    };
    match rest {
        [key, value] => put(key, value.clone())?,
        [Value::Map(more)] => {
            for (key, value) in more.entries() {
                put(&key, value?)?;
            }
        }
        _ => return no_overload(),
    }
    Ok(Value::map(entries))
}
