//! Lists as sets. Source: cel-go `ext/sets.go`.

use crate::signature::Function;
use crate::value::{Answer, EvalError, List, Value, no_overload};

pub const FUNCTIONS: &[Function] = &[
    Function {
        run: |args| compare(args, contains),
        overloads: &[("sets.contains", "list_sets_contains_list", "(list(T), list(T)) bool")],
    },
    Function {
        run: |args| compare(args, |a, b| Ok(contains(a, b)? && contains(b, a)?)),
        overloads: &[("sets.equivalent", "list_sets_equivalent_list", "(list(T), list(T)) bool")],
    },
    Function {
        run: |args| compare(args, intersects),
        overloads: &[("sets.intersects", "list_sets_intersects_list", "(list(T), list(T)) bool")],
    },
];

fn compare<'a>(args: &[Value<'a>], holds: fn(&List<'a>, &List<'a>) -> Result<bool, EvalError>) -> Answer<'a> {
    match args {
        [Value::List(a), Value::List(b)] => Ok(Value::Bool(holds(a, b)?)),
        _ => no_overload(),
    }
}
fn contains<'a>(all: &List<'a>, some: &List<'a>) -> Result<bool, EvalError> {
    for item in some.iter() {
        if !all.contains(&item?)? {
            return Ok(false);
        }
    }
    Ok(true)
}
fn intersects<'a>(a: &List<'a>, b: &List<'a>) -> Result<bool, EvalError> {
    for item in a.iter() {
        if b.contains(&item?)? {
            return Ok(true);
        }
    }
    Ok(false)
}
