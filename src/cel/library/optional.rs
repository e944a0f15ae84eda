//! Optional values. `or`, `orValue` and optional selection run in the evaluator, which skips what is not needed.
//!
//! Source: cel-go `cel/library.go` `optionalLib`.

use crate::signature::Function;
use crate::value::{Answer, List, Value, fault, no_overload};

pub const FUNCTIONS: &[Function] = &[
    Function {
        run: |args| Ok(Value::some(args[0].clone())),
        overloads: &[("optional.of", "optional_of", "(V) optional(V)")],
    },
    Function {
        run: |args| Ok(if args[0].is_zero() { Value::Optional(None) } else { Value::some(args[0].clone()) }),
        overloads: &[("optional.ofNonZeroValue", "optional_ofNonZeroValue", "(V) optional(V)")],
    },
    Function { run: |_| Ok(Value::Optional(None)), overloads: &[("optional.none", "optional_none", "() optional(V)")] },
    Function { run: value, overloads: &[("value", "optional_value", "optional(V).() V")] },
    Function { run: has_value, overloads: &[("hasValue", "optional_hasValue", "optional(V).() bool")] },
    Function { run: |args| end(args, |_| 0), overloads: &[("first", "list_first", "list(V).() optional(V)")] },
    Function {
        run: |args| end(args, |length| length.saturating_sub(1)),
        overloads: &[("last", "list_last", "list(V).() optional(V)")],
    },
    Function {
        run: unwrap,
        overloads: &[
            ("optional.unwrap", "optional_unwrap", "(list(optional(V))) list(V)"),
            ("unwrapOpt", "optional_unwrapOpt", "list(optional(V)).() list(V)"),
        ],
    },
];

fn value<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Optional(Some(inner))] => Ok((**inner).clone()),
        [Value::Optional(None)] => fault("optional.none() dereference"),
        _ => no_overload(),
    }
}
fn has_value<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Optional(inner)] => Ok(Value::Bool(inner.is_some())),
        _ => no_overload(),
    }
}
fn end<'a>(args: &[Value<'a>], which: fn(usize) -> usize) -> Answer<'a> {
    match args {
        [Value::List(list)] => match list.get(which(list.len())) {
            Some(item) => Ok(Value::some(item?)),
            None => Ok(Value::Optional(None)),
        },
        _ => no_overload(),
    }
}
fn unwrap<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    unwrapped(list)
}
fn unwrapped<'a>(list: &List<'a>) -> Answer<'a> {
    let mut items = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(Some(inner)) => items.push((*inner).clone()),
            Value::Optional(None) => {}
            other => return fault(format!("value {} is not optional", super::conversions::plain(&other))),
        }
    }
    Ok(Value::list(items))
}
