//! The functions that expressions may call: names, overloads and their types, read once from the libraries' tables.
//!
//! An overload is written as it is called: `string.(string, int) list(string)`, `(A, list(A)) bool`.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::library;
use super::types::{Param, Type};
use super::value::{Answer, Value};

/// What a function does with its arguments; the target of a method is the first.
pub type Run = for<'a> fn(&[Value<'a>]) -> Answer<'a>;

/// One implementation and the overloads that it serves: name, id, signature.
pub struct Function {
    pub run: Run,
    pub overloads: &'static [(&'static str, &'static str, &'static str)],
}

/// An overload, parsed.
#[derive(Debug)]
pub struct Overload {
    pub id: &'static str,
    pub method: bool,
    /// The target first.
    pub args: Vec<Type>,
    pub result: Type,
    /// Whether it has type parameters, which every call instantiates anew.
    pub generic: bool,
    pub run: Run,
}

/// All overloads of a name.
pub fn overloads(name: &str) -> Option<&'static [Overload]> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Overload>>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table: HashMap<&'static str, Vec<Overload>> = HashMap::new();
        for function in library::ALL.into_iter().flatten() {
            for &(name, id, signature) in function.overloads {
                if let Some(overload) = parse(id, signature, function.run) {
                    table.entry(name).or_default().push(overload);
                }
            }
        }
        table
    });
    table.get(name).map(Vec::as_slice)
}

fn parse(id: &'static str, signature: &str, run: Run) -> Option<Overload> {
    let mut reader = Reader { rest: signature, generic: false };
    let mut args = Vec::new();
    let method = !reader.rest.starts_with('(');
    if method {
        args.push(reader.read()?);
        reader.eat(".")?;
    }
    reader.eat("(")?;
    while reader.eat(")").is_none() {
        args.push(reader.read()?);
        let _ = reader.eat(",");
    }
    let result = reader.read()?;
    Some(Overload { id, method, args, result, generic: reader.generic, run })
}

struct Reader<'a> {
    rest: &'a str,
    generic: bool,
}

impl Reader<'_> {
    fn eat(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(text)?;
        Some(())
    }
    fn read(&mut self) -> Option<Type> {
        self.rest = self.rest.trim_start();
        // a dot belongs to the name unless a parenthesis follows it
        let end = self
            .rest
            .char_indices()
            .find(|&(i, c)| !(c.is_alphanumeric() || c == '_' || c == '.' && !self.rest[i + 1..].starts_with('(')))
            .map_or(self.rest.len(), |(i, _)| i);
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(match name {
            "list" | "optional" | "type" => {
                self.eat("(")?;
                let inner = Arc::new(self.read()?);
                self.eat(")")?;
                match name {
                    "list" => Type::List(inner),
                    "optional" => Type::Optional(inner),
                    _ => Type::Type(Some(inner)),
                }
            }
            "map" => {
                self.eat("(")?;
                let key = self.read()?;
                self.eat(",")?;
                let value = self.read()?;
                self.eat(")")?;
                Type::map(key, value)
            }
            "timestamp" => Type::Timestamp,
            "duration" => Type::Duration,
            "null" => Type::Null,
            "ip" => Type::Opaque("net.IP"),
            "cidr" => Type::Opaque("net.CIDR"),
            _ if name.len() == 1 => {
                self.generic = true;
                Type::Param(Param::Named(name.chars().next()?))
            }
            _ => return Type::named(name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_can_be_read() {
        for function in library::ALL.into_iter().flatten() {
            for (name, id, signature) in function.overloads {
                assert!(parse(id, signature, function.run).is_some(), "{name}: {signature}");
            }
        }
    }

    #[test]
    fn ids_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for function in library::ALL.into_iter().flatten() {
            for (_, id, _) in function.overloads {
                assert!(seen.insert(*id), "{id}");
            }
        }
    }
}
