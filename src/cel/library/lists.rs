//! Lists: Kubernetes' own library (`isSorted`, `sum`, `min`, `max`, `indexOf`) and cel-go's, version 3 (`slice`, `flatten`,
//! `sort`, `sortBy`, `distinct`, `reverse`, `lists.range`).
//!
//! Source: apiserver `pkg/cel/library/lists.go`, cel-go `ext/lists.go`.

use std::cmp::Ordering;

use super::standard::add;
use crate::signature::Function;
use crate::value::{Answer, EvalError, ITEMS_MAX, List, Value, bounded, fault, no_overload};

pub const FUNCTIONS: &[Function] = &[
    Function {
        run: is_sorted,
        overloads: &[
            ("isSorted", "list_int_is_sorted_bool", "list(int).() bool"),
            ("isSorted", "list_uint_is_sorted_bool", "list(uint).() bool"),
            ("isSorted", "list_double_is_sorted_bool", "list(double).() bool"),
            ("isSorted", "list_bool_is_sorted_bool", "list(bool).() bool"),
            ("isSorted", "list_duration_is_sorted_bool", "list(duration).() bool"),
            ("isSorted", "list_timestamp_is_sorted_bool", "list(timestamp).() bool"),
            ("isSorted", "list_string_is_sorted_bool", "list(string).() bool"),
            ("isSorted", "list_bytes_is_sorted_bool", "list(bytes).() bool"),
        ],
    },
    Function { run: |args| sum(args, Value::Int(0)), overloads: &[("sum", "list_int_sum_int", "list(int).() int")] },
    Function {
        run: |args| sum(args, Value::Uint(0)),
        overloads: &[("sum", "list_uint_sum_uint", "list(uint).() uint")],
    },
    Function {
        run: |args| sum(args, Value::Double(0.0)),
        overloads: &[("sum", "list_double_sum_double", "list(double).() double")],
    },
    Function {
        run: |args| sum(args, Value::Duration(0)),
        overloads: &[("sum", "list_duration_sum_duration", "list(duration).() duration")],
    },
    Function {
        run: |args| extreme(args, "max", Ordering::is_gt),
        overloads: &[
            ("max", "list_int_max_int", "list(int).() int"),
            ("max", "list_uint_max_uint", "list(uint).() uint"),
            ("max", "list_double_max_double", "list(double).() double"),
            ("max", "list_bool_max_bool", "list(bool).() bool"),
            ("max", "list_duration_max_duration", "list(duration).() duration"),
            ("max", "list_timestamp_max_timestamp", "list(timestamp).() timestamp"),
            ("max", "list_string_max_string", "list(string).() string"),
            ("max", "list_bytes_max_bytes", "list(bytes).() bytes"),
        ],
    },
    Function {
        run: |args| extreme(args, "min", Ordering::is_lt),
        overloads: &[
            ("min", "list_int_min_int", "list(int).() int"),
            ("min", "list_uint_min_uint", "list(uint).() uint"),
            ("min", "list_double_min_double", "list(double).() double"),
            ("min", "list_bool_min_bool", "list(bool).() bool"),
            ("min", "list_duration_min_duration", "list(duration).() duration"),
            ("min", "list_timestamp_min_timestamp", "list(timestamp).() timestamp"),
            ("min", "list_string_min_string", "list(string).() string"),
            ("min", "list_bytes_min_bytes", "list(bytes).() bytes"),
        ],
    },
    Function { run: index_of, overloads: &[("indexOf", "list_a_index_of_int", "list(A).(A) int")] },
    Function { run: last_index_of, overloads: &[("lastIndexOf", "list_a_last_index_of_int", "list(A).(A) int")] },
    Function { run: slice, overloads: &[("slice", "list_slice", "list(T).(int, int) list(T)")] },
    Function {
        run: flatten,
        overloads: &[
            ("flatten", "list_flatten", "list(list(T)).() list(T)"),
            ("flatten", "list_flatten_int", "list(dyn).(int) list(dyn)"),
        ],
    },
    Function {
        run: |args| match args {
            [Value::List(list)] => sorted(list, list),
            _ => no_overload(),
        },
        overloads: &[
            ("sort", "list_int_sort", "list(int).() list(int)"),
            ("sort", "list_uint_sort", "list(uint).() list(uint)"),
            ("sort", "list_double_sort", "list(double).() list(double)"),
            ("sort", "list_bool_sort", "list(bool).() list(bool)"),
            ("sort", "list_google.protobuf.Duration_sort", "list(duration).() list(duration)"),
            ("sort", "list_google.protobuf.Timestamp_sort", "list(timestamp).() list(timestamp)"),
            ("sort", "list_string_sort", "list(string).() list(string)"),
            ("sort", "list_bytes_sort", "list(bytes).() list(bytes)"),
        ],
    },
    Function {
        run: |args| match args {
            [Value::List(list), Value::List(keys)] => sorted(list, keys),
            _ => no_overload(),
        },
        overloads: &[
            ("@sortByAssociatedKeys", "list_int_sortByAssociatedKeys", "list(T).(list(int)) list(T)"),
            ("@sortByAssociatedKeys", "list_uint_sortByAssociatedKeys", "list(T).(list(uint)) list(T)"),
            ("@sortByAssociatedKeys", "list_double_sortByAssociatedKeys", "list(T).(list(double)) list(T)"),
            ("@sortByAssociatedKeys", "list_bool_sortByAssociatedKeys", "list(T).(list(bool)) list(T)"),
            (
                "@sortByAssociatedKeys",
                "list_google.protobuf.Duration_sortByAssociatedKeys",
                "list(T).(list(duration)) list(T)",
            ),
            (
                "@sortByAssociatedKeys",
                "list_google.protobuf.Timestamp_sortByAssociatedKeys",
                "list(T).(list(timestamp)) list(T)",
            ),
            ("@sortByAssociatedKeys", "list_string_sortByAssociatedKeys", "list(T).(list(string)) list(T)"),
            ("@sortByAssociatedKeys", "list_bytes_sortByAssociatedKeys", "list(T).(list(bytes)) list(T)"),
        ],
    },
    Function { run: range, overloads: &[("lists.range", "lists_range", "(int) list(int)")] },
    Function { run: reverse, overloads: &[("reverse", "list_reverse", "list(T).() list(T)")] },
    Function { run: distinct, overloads: &[("distinct", "list_distinct", "list(T).() list(T)")] },
];

fn is_sorted<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut previous: Option<Value> = None;
    for item in list.iter() {
        let item = item?;
        if let Some(previous) = &previous {
            match previous.compare(&item) {
                None => return no_overload(),
                Some(Ordering::Greater) => return Ok(Value::Bool(false)),
                Some(_) => {}
            }
        }
        previous = Some(item);
    }
    Ok(Value::Bool(true))
}
fn sum<'a>(args: &[Value<'a>], zero: Value<'a>) -> Answer<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut items = list.iter();
    let Some(first) = items.next() else { return Ok(zero) };
    items.try_fold(first?, |total, item| add(&[total, item?]))
}
fn extreme<'a>(args: &[Value<'a>], name: &str, better: fn(Ordering) -> bool) -> Answer<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut best: Option<Value> = None;
    for item in list.iter() {
        let item = item?;
        best = Some(match best {
            None => item,
            Some(best) => match item.compare(&best) {
                None => return no_overload(),
                Some(order) if better(order) => item,
                Some(_) => best,
            },
        });
    }
    best.map_or_else(|| fault(format!("{name} called on empty list")), Ok)
}
fn position<'a>(index: Option<usize>) -> Answer<'a> {
    Ok(Value::Int(index.and_then(|i| i64::try_from(i).ok()).unwrap_or(-1)))
}
fn index_of<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::List(list), wanted] = args else { return no_overload() };
    for (i, item) in list.iter().enumerate() {
        if item?.equals(wanted) {
            return position(Some(i));
        }
    }
    position(None)
}
fn last_index_of<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::List(list), wanted] = args else { return no_overload() };
    for i in (0..list.len()).rev() {
        if let Some(item) = list.get(i)
            && item?.equals(wanted)
        {
            return position(Some(i));
        }
    }
    position(None)
}
fn slice<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else { return no_overload() };
    let refused = |why: &str| fault(format!("cannot slice({start}, {end}), {why}"));
    let (Ok(from), Ok(to)) = (usize::try_from(*start), usize::try_from(*end)) else {
        return refused("negative indexes not supported");
    };
    if from > to {
        return refused("start index must be less than or equal to end index");
    }
    if to > list.len() {
        return refused(&format!("list is length {}", list.len()));
    }
    Ok(Value::list((from..to).filter_map(|i| list.get(i)).collect::<Result<_, _>>()?))
}
fn flatten<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (list, depth) = match args {
        [Value::List(list)] => (list, 1),
        [Value::List(list), Value::Int(depth)] => (list, *depth),
        _ => return no_overload(),
    };
    if depth < 0 {
        return fault("level must be non-negative");
    }
    let mut items = Vec::new();
    flatten_into(list, depth, &mut items)?;
    Ok(Value::list(items))
}
fn flatten_into<'a>(list: &List<'a>, depth: i64, into: &mut Vec<Value<'a>>) -> Result<(), EvalError> {
    for item in list.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, into)?,
            other => {
                bounded(into.len(), ITEMS_MAX)?;
                into.push(other);
            }
        }
    }
    Ok(())
}
fn sorted<'a>(list: &List<'a>, keys: &List<'a>) -> Answer<'a> {
    if list.len() != keys.len() {
        return fault(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        ));
    }
    let mut pairs = Vec::with_capacity(list.len());
    for (item, key) in list.iter().zip(keys.iter()) {
        pairs.push((key?, item?));
    }
    if let Some((first, _)) = pairs.first() {
        if first.compare(first).is_none() {
            return fault("list elements must be comparable");
        }
        if pairs.iter().any(|(key, _)| key.type_of() != first.type_of()) {
            return fault("list elements must have the same type");
        }
    }
    pairs.sort_by(|(a, _), (b, _)| a.compare(b).unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, item)| item).collect()))
}
fn range<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Int(n)] => {
            bounded(usize::try_from(*n).unwrap_or(0), ITEMS_MAX)?;
            Ok(Value::list((0..*n).map(Value::Int).collect()))
        }
        _ => no_overload(),
    }
}
fn reverse<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut items = list.clone().into_items()?;
    items.reverse();
    Ok(Value::list(items))
}
fn distinct<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut items: Vec<Value> = Vec::new();
    for item in list.iter() {
        let item = item?;
        if !items.iter().any(|known| known.equals(&item)) {
            items.push(item);
        }
    }
    Ok(Value::list(items))
}
