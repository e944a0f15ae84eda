//! What expressions may call. One file per library; each is a table of signatures beside what runs.
//!
//! The set is that of Kubernetes 1.36: cel-go's standard functions, optionals, strings (version 2), sets, lists (version 3) and
//! the two-variable comprehensions' own, with Kubernetes' lists, regex, URL, quantity, IP, CIDR, format, semver and
//! authorizer. `math`, `encoders` and `cel.bind` are not in it.
//!
//! Source: apiserver `pkg/cel/environment/base.go`.

use super::signature::Function;

pub mod authorizer;
pub mod conversions;
pub mod format;
pub mod json_patch;
pub mod lists;
pub mod net;
pub mod number_text;
pub mod optional;
pub mod quantity;
pub mod regex;
pub mod semver;
pub mod sets;
pub mod standard;
pub mod string_format;
pub mod strings;
pub mod time;
pub mod url;

pub const ALL: [&[Function]; 16] = [
    standard::OPERATORS,
    conversions::FUNCTIONS,
    standard::CONTAINERS,
    time::FUNCTIONS,
    strings::FUNCTIONS,
    optional::FUNCTIONS,
    sets::FUNCTIONS,
    lists::FUNCTIONS,
    regex::FUNCTIONS,
    url::FUNCTIONS,
    quantity::FUNCTIONS,
    net::FUNCTIONS,
    format::FUNCTIONS,
    semver::FUNCTIONS,
    authorizer::FUNCTIONS,
    json_patch::FUNCTIONS,
];
