//! Resource quantities. Source: apiserver `pkg/cel/library/quantity.go`.

use std::cmp::Ordering;
use std::sync::Arc;

use types::quantity::Quantity;

use crate::signature::Function;
use crate::value::{Answer, Value, fault, no_overload};

pub const FUNCTIONS: &[Function] = &[
    Function { run: parse, overloads: &[("quantity", "string_to_quantity", "(string) kubernetes.Quantity")] },
    Function {
        run: |args| match args {
            [Value::String(text)] => Ok(Value::Bool(text.parse::<Quantity>().is_ok())),
            _ => no_overload(),
        },
        overloads: &[("isQuantity", "is_quantity_string", "(string) bool")],
    },
    Function {
        run: |args| {
            one(args, |q| {
                Ok(Value::Int(if q.is_zero() {
                    0
                } else if q.is_negative() {
                    -1
                } else {
                    1
                }))
            })
        },
        overloads: &[("sign", "quantity_sign", "(kubernetes.Quantity) int")],
    },
    Function {
        run: |args| order(args, |o| Value::Bool(o.is_gt())),
        overloads: &[("isGreaterThan", "quantity_is_greater_than", "kubernetes.Quantity.(kubernetes.Quantity) bool")],
    },
    Function {
        run: |args| order(args, |o| Value::Bool(o.is_lt())),
        overloads: &[("isLessThan", "quantity_is_less_than", "kubernetes.Quantity.(kubernetes.Quantity) bool")],
    },
    Function {
        run: |args| order(args, |o| Value::Int(o as i64)),
        overloads: &[("compareTo", "quantity_compare_to", "kubernetes.Quantity.(kubernetes.Quantity) int")],
    },
    Function {
        run: |args| one(args, |q| Ok(Value::Double(float(q)))),
        overloads: &[("asApproximateFloat", "quantity_get_float", "kubernetes.Quantity.() double")],
    },
    Function {
        run: |args| {
            one(args, |q| match whole(q) {
                Some(n) => Ok(Value::Int(n)),
                None => fault("cannot convert value to integer"),
            })
        },
        overloads: &[("asInteger", "quantity_get_int", "kubernetes.Quantity.() int")],
    },
    Function {
        run: |args| one(args, |q| Ok(Value::Bool(whole(q).is_some()))),
        overloads: &[("isInteger", "quantity_is_integer", "kubernetes.Quantity.() bool")],
    },
    Function {
        run: |args| combine(args, Quantity::plus),
        overloads: &[
            ("add", "quantity_add", "kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity"),
            ("add", "quantity_add_int", "kubernetes.Quantity.(int) kubernetes.Quantity"),
        ],
    },
    Function {
        run: |args| combine(args, Quantity::minus),
        overloads: &[
            ("sub", "quantity_sub", "kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity"),
            ("sub", "quantity_sub_int", "kubernetes.Quantity.(int) kubernetes.Quantity"),
        ],
    },
];

fn parse<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::String(text)] = args else { return no_overload() };
    match text.parse() {
        Ok(quantity) => Ok(Value::Quantity(Arc::new(quantity))),
        Err(_) => fault("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
    }
}
fn one<'a>(args: &[Value<'a>], f: fn(&Quantity) -> Answer<'a>) -> Answer<'a> {
    match args {
        [Value::Quantity(quantity)] => f(quantity),
        _ => no_overload(),
    }
}
fn order<'a>(args: &[Value<'a>], f: fn(Ordering) -> Value<'a>) -> Answer<'a> {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(f(Ord::cmp(&**a, &**b))),
        _ => no_overload(),
    }
}
fn combine<'a>(args: &[Value<'a>], f: fn(&Quantity, &Quantity) -> Quantity) -> Answer<'a> {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(Value::Quantity(Arc::new(f(a, b)))),
        [Value::Quantity(a), Value::Int(b)] => Ok(Value::Quantity(Arc::new(f(a, &Quantity::from_units(*b))))),
        _ => no_overload(),
    }
}
fn whole(q: &Quantity) -> Option<i64> {
    q.is_integer().then(|| q.value())
}
fn float(q: &Quantity) -> f64 {
    if q.is_integer() {
        return q.value() as f64;
    }
    // what is left below a thousandth is below what a double of this size can tell
    q.millis() as f64 / 1000.0
}
