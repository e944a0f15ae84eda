//! CEL's types, how errors spell them, and which is assignable to which.
//!
//! Source: cel-go `checker/types.go`, `checker/format.go`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Type {
    Dyn,
    /// What an expression with an error has; everything may be done with it, so that one mistake is told once.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    /// The type of types, with the type if it is known.
    Type(Option<Arc<Type>>),
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    /// An object whose fields the environment knows.
    Object(Arc<str>),
    Optional(Arc<Type>),
    /// `net.IP` and `net.CIDR`.
    Opaque(&'static str),
    /// A parameter of an overload (`A`), or an inferred variable while checking.
    Param(Param),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Param {
    Named(char),
    Var(u32),
}

impl Type {
    pub fn list(item: Type) -> Self {
        Type::List(Arc::new(item))
    }
    pub fn map(key: Type, value: Type) -> Self {
        Type::Map(Arc::new((key, value)))
    }
    pub fn optional(inner: Type) -> Self {
        Type::Optional(Arc::new(inner))
    }
    pub fn object(name: &str) -> Self {
        Type::Object(name.into())
    }
    pub fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }
    /// The type inside an optional, or the type itself; and whether it was optional.
    pub fn unwrap_optional(&self) -> (&Type, bool) {
        match self {
            Type::Optional(inner) => (inner, true),
            other => (other, false),
        }
    }

    /// The name without parameters, as `type(x)` and errors at run time have it.
    pub fn runtime_name(&self) -> &str {
        match self {
            Type::Dyn => "dyn",
            Type::Error => "error",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Duration => "google.protobuf.Duration",
            Type::Type(_) => "type",
            Type::List(_) => "list",
            Type::Map(_) => "map",
            Type::Object(name) => name,
            Type::Optional(_) => "optional_type",
            Type::Opaque(name) => name,
            Type::Param(_) => "type_param",
        }
    }
    /// As cel-go's `String()` has it, which differs from that of its errors in a few names.
    pub fn plain(&self) -> String {
        match self {
            Type::List(item) => format!("list({})", item.plain()),
            Type::Map(entry) => format!("map({}, {})", entry.0.plain(), entry.1.plain()),
            Type::Optional(inner) => format!("optional_type({})", inner.plain()),
            other => other.runtime_name().to_owned(),
        }
    }
    /// A built-in type by the name that an expression may use for it.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "double" => Type::Double,
            "google.protobuf.Duration" => Type::Duration,
            "google.protobuf.Timestamp" => Type::Timestamp,
            "dyn" => Type::Dyn,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "string" => Type::String,
            "null_type" => Type::Null,
            "type" => Type::Type(None),
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "optional_type" => Type::optional(Type::Dyn),
            "net.IP" => Type::Opaque("net.IP"),
            "net.CIDR" => Type::Opaque("net.CIDR"),
            "kubernetes.Quantity" | "kubernetes.URL" | "kubernetes.Semver" | "kubernetes.NamedFormat" => {
                Type::object(name)
            }
            name if name.starts_with("kubernetes.authorization.") => Type::object(name),
            _ => return None,
        })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::Type(Some(inner)) => write!(f, "type({inner})"),
            Type::List(item) => write!(f, "list({item})"),
            Type::Map(entry) => write!(f, "map({}, {})", entry.0, entry.1),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Param(Param::Named(name)) => write!(f, "{name}"),
            Type::Param(Param::Var(number)) => write!(f, "_var{number}"),
            other => f.write_str(other.runtime_name()),
        }
    }
}

/// What is known of type variables.
#[derive(Debug, Clone, Default)]
pub struct Substitution(HashMap<Param, Type>);

impl Substitution {
    fn find(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Param(param) => self.0.get(param),
            _ => None,
        }
    }
    pub fn add(&mut self, param: Param, t: Type) {
        self.0.insert(param, t);
    }

    /// The type with every known variable replaced; unknown ones become `dyn` when `to_dyn`.
    pub fn apply(&self, t: &Type, to_dyn: bool) -> Type {
        if let Some(found) = self.find(t) {
            return self.apply(found, to_dyn);
        }
        match t {
            Type::Param(_) if to_dyn => Type::Dyn,
            Type::Type(Some(inner)) => Type::Type(Some(Arc::new(self.apply(inner, to_dyn)))),
            Type::List(item) => Type::list(self.apply(item, to_dyn)),
            Type::Map(entry) => Type::map(self.apply(&entry.0, to_dyn), self.apply(&entry.1, to_dyn)),
            Type::Optional(inner) => Type::optional(self.apply(inner, to_dyn)),
            other => other.clone(),
        }
    }

    /// Whether a value of `from` may stand where `to` is wanted; learns variables when it may, and nothing when not.
    pub fn assignable(&mut self, to: &Type, from: &Type) -> bool {
        let mut trial = self.clone();
        let fits = trial.fits(to, from);
        if fits {
            *self = trial;
        }
        fits
    }
    pub fn assignable_all<'t>(&mut self, pairs: impl IntoIterator<Item = (&'t Type, &'t Type)>) -> bool {
        let mut trial = self.clone();
        let fits = pairs.into_iter().all(|(a, b)| trial.fits(a, b));
        if fits {
            *self = trial;
        }
        fits
    }

    fn fits(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Param(param) = *b {
            let (valid, known) = self.learn(a, param);
            if valid || known {
                return valid;
            }
        }
        if let Type::Param(param) = *a {
            return self.learn(b, param).0;
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null | Type::Opaque(_) | Type::Optional(_) | Type::Object(_) | Type::Duration | Type::Timestamp
            ),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(x), Type::List(y)) | (Type::Optional(x), Type::Optional(y)) => self.fits(x, y),
            (Type::Map(x), Type::Map(y)) => self.fits(&x.0, &y.0) && self.fits(&x.1, &y.1),
            _ => a == b,
        }
    }
    /// Lets the variable be the type: whether it may be, and whether it was known already.
    fn learn(&mut self, t: &Type, param: Param) -> (bool, bool) {
        let variable = Type::Param(param);
        if *t == variable {
            return (true, true);
        }
        if let Some(known) = self.0.get(&param).cloned() {
            if *t == known {
                return (true, true);
            }
            if self.fits(t, &known) {
                let general = most_general(t, &known);
                if self.absent_in(&variable, &general) {
                    self.add(param, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.absent_in(&variable, t) {
            self.add(param, t.clone());
            return (true, false);
        }
        (false, false)
    }
    /// Whether the variable does not occur in the type, which would make it endless.
    fn absent_in(&self, variable: &Type, within: &Type) -> bool {
        if variable == within {
            return false;
        }
        match within {
            Type::Param(_) => self.find(within).is_none_or(|known| self.absent_in(variable, known)),
            Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => self.absent_in(variable, inner),
            Type::Map(entry) => self.absent_in(variable, &entry.0) && self.absent_in(variable, &entry.1),
            _ => true,
        }
    }
}

/// The one of two assignable types that says less.
pub fn most_general(a: &Type, b: &Type) -> Type {
    if says_no_more(a, b) { a.clone() } else { b.clone() }
}

fn says_no_more(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(x), Type::List(y)) | (Type::Optional(x), Type::Optional(y)) => says_no_more(x, y),
        (Type::Map(x), Type::Map(y)) => says_no_more(&x.0, &y.0) && says_no_more(&x.1, &y.1),
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}

/// `int.(string, list(int))`, as errors show what was called with what.
pub fn call_signature(target: Option<&Type>, args: &[Type]) -> String {
    let args: Vec<String> = args.iter().map(Type::to_string).collect();
    match target {
        Some(target) => format!("{target}.({})", args.join(", ")),
        None => format!("({})", args.join(", ")),
    }
}
