//! `jsonpatch.escapeKey`, which only mutating policies have. Source: apiserver `pkg/cel/library/jsonpatch.go`.

use crate::signature::Function;
use crate::value::{Value, no_overload};

/// The one name of this library; [`crate::Env`] says whether it exists.
pub const NAME: &str = "jsonpatch.escapeKey";

pub const FUNCTIONS: &[Function] = &[Function {
    run: |args| match args {
        [Value::String(key)] => Ok(Value::text(key.replace('~', "~0").replace('/', "~1"))),
        _ => no_overload(),
    },
    overloads: &[(NAME, "string_jsonpatch_escapeKey_string", "(string) string")],
}];
