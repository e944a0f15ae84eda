//! Devices, as selectors of classes and claims see them: `device.driver`, `device.attributes["domain"].name`,
//! `device.capacity["domain"].name`, `device.allowMultipleAllocations`.
//!
//! A name without a domain is in the driver's own. Behind a domain of which the device says nothing stands an empty map.
//!
//! Source: k8s.io/dynamic-resource-allocation `cel/compile.go`; limits: `k8s.io/api/resource/v1/types.go`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use types::quantity::Quantity;

use super::library::semver::Semver;
use super::schema::{Decl, DeclKind};
use super::types::Type;
use super::value::{Key, Map, Text};
use super::{Activation, Env, Program, Value, issue};

/// What one evaluation may cost, and what an expression may cost at most to be accepted.
pub const COST_MAX: u64 = 1_000_000;
/// Attributes and capacities together.
const NAMES_MAX: i64 = 32;
const VALUE_MAX: i64 = 64;
const DRIVER_MAX: i64 = 63;

/// The value of an attribute.
#[derive(Debug, Clone, Copy)]
pub enum Attribute<'a> {
    Bool(bool),
    Int(i64),
    Text(&'a str),
    Version(&'a str),
}

/// What a selector may ask about.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    pub driver: &'a str,
    pub allow_multiple_allocations: bool,
    /// By names with or without a domain.
    pub attributes: &'a [(&'a str, Attribute<'a>)],
    pub capacity: &'a [(&'a str, Quantity)],
}

/// A selector.
#[derive(Debug)]
pub struct Selector(Program);

fn environment() -> &'static Env {
    static MADE: OnceLock<Env> = OnceLock::new();
    MADE.get_or_init(|| {
        let named = |value: Decl| {
            let mut inner = Decl::map(value).at_most(NAMES_MAX);
            inner.by_name = matches!(&inner.kind, DeclKind::Map(value) if value.kind == DeclKind::Dyn);
            Decl::map(inner).at_most(NAMES_MAX)
        };
        let fields = [
            ("driver", Decl::scalar(Type::String).at_most(DRIVER_MAX)),
            ("allowMultipleAllocations", Decl::scalar(Type::Bool).at_most(1)),
            ("attributes", named(Decl::dynamic().at_most(VALUE_MAX))),
            ("capacity", named(Decl::opaque(Type::object("kubernetes.Quantity")))),
        ];
        Env::default().with("device", Decl::object("kubernetes.DRADevice", fields)).with_bindings()
    })
}

impl Selector {
    /// Compiles an expression. It may cost more than [`COST_MAX`]: see [`Selector::is_cheap`].
    ///
    /// # Errors
    /// What upstream says of it.
    pub fn compile(text: &str) -> Result<Self, String> {
        let program =
            environment().compile(text).map_err(|all| format!("compilation failed: {}", issue::render(text, &all)))?;
        match program.result_type() {
            Type::Bool | Type::Dyn => Ok(Self(program)),
            other => Err(format!("must evaluate to bool or the unknown type, not {}", other.plain())),
        }
    }

    /// Whether no device can make it cost too much.
    pub fn is_cheap(&self) -> bool {
        self.0.estimate().max <= COST_MAX
    }

    /// Whether the device is meant.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub fn matches(&self, device: &Device<'_>) -> Result<bool, String> {
        let mut attributes = Domains::default();
        for (name, value) in device.attributes {
            let value = match *value {
                Attribute::Bool(b) => Value::Bool(b),
                Attribute::Int(i) => Value::Int(i),
                Attribute::Text(text) => Value::String(Text::Borrowed(text)),
                Attribute::Version(text) => {
                    let parsed: Result<Semver, String> = Semver::parse(text);
                    let version = parsed.map_err(|e| format!("attribute {name}: parse semantic version: {e}"))?;
                    Value::Semver(Arc::new(version))
                }
            };
            attributes.insert(device.driver, name, value);
        }
        let mut capacity = Domains::default();
        for (name, quantity) in device.capacity {
            capacity.insert(device.driver, name, Value::Quantity(Arc::new(*quantity)));
        }
        let fields = [
            ("driver", Value::String(Text::Borrowed(device.driver))),
            ("allowMultipleAllocations", Value::Bool(device.allow_multiple_allocations)),
            ("attributes", attributes.value()),
            ("capacity", capacity.value()),
        ];
        let fields = fields.into_iter().map(|(name, value)| (Key::String(name.into()), value)).collect();
        let activation = Activation::default().with("device", Value::map(fields));
        match self.0.eval(&activation, COST_MAX).value {
            Ok(Value::Bool(matches)) => Ok(matches),
            Ok(other) => {
                let name = other.type_name();
                Err(format!(
                    "CEL result of type {name} could not be converted to bool: type conversion error from '{name}' to 'bool'"
                ))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

#[derive(Default)]
struct Domains<'a>(BTreeMap<Key, BTreeMap<Key, Value<'a>>>);

impl<'a> Domains<'a> {
    fn insert(&mut self, driver: &str, name: &str, value: Value<'a>) {
        let (domain, id) = name.split_once('/').unwrap_or((driver, name));
        self.0.entry(Key::String(domain.into())).or_default().insert(Key::String(id.into()), value);
    }
    fn value(self) -> Value<'a> {
        Value::Map(Map::Open(Arc::new(self.0.into_iter().map(|(domain, all)| (domain, Value::map(all))).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<bool, &str>) {
        let attributes = [
            ("cores", Attribute::Int(4)),
            ("model", Attribute::Text("a100")),
            ("dra.example.com/healthy", Attribute::Bool(true)),
            ("other.example.com/version", Attribute::Version("1.2.3")),
        ];
        let capacity = [("memory", "8Gi".parse().unwrap()), ("other.example.com/slots", "3".parse().unwrap())];
        let device = Device {
            driver: "dra.example.com",
            allow_multiple_allocations: false,
            attributes: &attributes,
            capacity: &capacity,
        };
        let found = Selector::compile(text).and_then(|selector| selector.matches(&device));
        assert_eq!(found.as_ref().map(|b| *b).map_err(String::as_str), expected, "{text}");
    }

    #[test]
    fn devices_are_selected() {
        check("device.driver == 'dra.example.com' && !device.allowMultipleAllocations", Ok(true));
        check("device.attributes['dra.example.com'].cores >= 4", Ok(true));
        check("device.attributes['dra.example.com'].model == 'a100'", Ok(true));
        check("device.attributes['dra.example.com'].healthy", Ok(true));
        check("device.attributes['other.example.com'].version.isGreaterThan(semver('1.0.0'))", Ok(true));
        check("device.capacity['dra.example.com'].memory.compareTo(quantity('8Gi')) == 0", Ok(true));
        check("device.capacity['other.example.com'].slots.isGreaterThan(quantity('5'))", Ok(false));
        check("cel.bind(dra, device.attributes['dra.example.com'], dra.cores == 4 && dra.healthy)", Ok(true));
        // What nobody says of a domain is not there; a domain itself always is.
        check("has(device.attributes['none.example.com'].cores)", Ok(false));
        check("'none.example.com' in device.attributes", Ok(false));
        check("'dra.example.com' in device.attributes", Ok(true));
        check("device.attributes['none.example.com'].cores == 1", Err("no such key: cores"));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        check("device.driver", Err("must evaluate to bool or the unknown type, not string"));
        check(
            "device.attributes['dra.example.com'].cores",
            Err("CEL result of type int could not be converted to bool: type conversion error from 'int' to 'bool'"),
        );
        let unknown = Selector::compile("device.nothing == 1").unwrap_err();
        assert!(unknown.starts_with("compilation failed: ERROR: <input>:1:7: undefined field 'nothing'"), "{unknown}");
        let bound = Env::default().compile("cel.bind(x, 1, x == 1)");
        assert!(bound.is_err(), "elsewhere nothing is bound");
    }

    #[test]
    fn what_would_cost_too_much_is_known_before() {
        assert!(Selector::compile("device.attributes['dra.example.com'].model.startsWith('a')").unwrap().is_cheap());
        let all = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, \
                   device.attributes.all(d, device.attributes[a].x == device.attributes[b].y))))";
        assert!(!Selector::compile(all).unwrap().is_cheap());
    }
}
