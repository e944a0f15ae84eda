//! The type checker: gives every node a type and every call its overloads, or says what is wrong.
//!
//! Source: cel-go `checker/checker.go`, `checker/errors.go`.

use std::sync::Arc;

use super::Env;
use super::ast::{Ast, Comprehension, Entry, FieldInit, Id, Literal, Node};
use super::issue::Issue;
use super::library::json_patch;
use super::signature::{self, Overload};
use super::types::{Param, Substitution, Type, call_signature, most_general};

/// What a name or a call means.
#[derive(Debug, Clone)]
pub enum Meaning {
    /// A variable, or what needs no meaning.
    Plain,
    /// The name of a type.
    TypeName,
    Call(Vec<&'static Overload>),
}

/// What checking found, by node.
pub struct Checked {
    pub types: Vec<Type>,
    pub meanings: Vec<Meaning>,
}

/// Checks the tree below `root` and rewrites qualified names in it.
///
/// # Errors
/// At least one issue.
pub fn check(ast: &mut Ast, root: Id, env: &Env) -> Result<Checked, Vec<Issue>> {
    let mut checker = Checker {
        types: vec![None; ast.len()],
        meanings: vec![Meaning::Plain; ast.len()],
        ast,
        env,
        scopes: Vec::new(),
        known: Substitution::default(),
        variables: 0,
        issues: Vec::new(),
    };
    checker.check(root);
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let known = &checker.known;
    let types = checker.types.iter().map(|t| t.as_ref().map_or(Type::Dyn, |t| known.apply(t, true))).collect();
    Ok(Checked { types, meanings: checker.meanings })
}

struct Checker<'e> {
    ast: &'e mut Ast,
    env: &'e Env,
    types: Vec<Option<Type>>,
    meanings: Vec<Meaning>,
    /// Variables of comprehensions, the innermost last.
    scopes: Vec<(Arc<str>, Type)>,
    known: Substitution,
    variables: u32,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn report(&mut self, at: u32, message: impl Into<String>) {
        self.issues.push(Issue::new(at, message));
    }
    fn report_at(&mut self, id: Id, message: impl Into<String>) {
        self.report(self.ast.position(id), message);
    }
    fn undeclared(&mut self, id: Id, name: &str) -> Type {
        self.report_at(id, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }
    fn mismatch(&mut self, id: Id, expected: &Type, found: &Type) {
        self.report_at(id, format!("expected type '{expected}' but found '{found}'"));
    }
    fn fresh(&mut self) -> Type {
        self.variables += 1;
        Type::Param(Param::Var(self.variables - 1))
    }
    fn type_of(&self, id: Id) -> Type {
        self.types[id.index()].clone().unwrap_or(Type::Error)
    }
    fn set(&mut self, id: Id, t: Type) {
        self.types[id.index()] = Some(t);
    }

    fn check(&mut self, id: Id) {
        let t = match self.ast.node(id).clone() {
            Node::Literal(literal) => match literal {
                Literal::Null => Type::Null,
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Uint(_) => Type::Uint,
                Literal::Double(_) => Type::Double,
                Literal::String(_) => Type::String,
                Literal::Bytes(_) => Type::Bytes,
            },
            Node::Ident(name) => match self.look_up(id, &name) {
                Some(t) => t,
                None => self.undeclared(id, &name),
            },
            Node::Select { operand, field, test } => self.select(id, operand, &field, test),
            Node::Call { function, target, args } => self.call(id, &function, target, &args),
            Node::List { items, optional } => self.list(&items, &optional),
            Node::Map(entries) => self.map(&entries),
            Node::Struct { name, fields } => self.message(id, &name, &fields),
            Node::Comprehension(comprehension) => self.comprehension(&comprehension),
        };
        self.set(id, t);
    }

    /// The type of a name, if it is declared; notes that the node is that name.
    fn look_up(&mut self, id: Id, name: &str) -> Option<Type> {
        let plain = name.strip_prefix('.').unwrap_or(name);
        let scoped = if plain == name { self.scopes.iter().rev().find(|(n, _)| &**n == name) } else { None };
        let found = scoped.map(|(_, t)| t.clone()).or_else(|| self.env.variable(plain).map(|decl| decl.type_of()));
        let t = match found {
            Some(t) => t,
            None => {
                let named = match self.env.object(plain) {
                    Some(_) => Type::object(plain),
                    None => Type::named(plain)?,
                };
                self.meanings[id.index()] = Meaning::TypeName;
                Type::Type(Some(Arc::new(named)))
            }
        };
        self.ast.replace(id, Node::Ident(plain.into()));
        Some(t)
    }

    fn select(&mut self, id: Id, operand: Id, field: &str, test: bool) -> Type {
        if !test
            && let Some(name) = self.ast.qualified_name(id)
            && let Some(t) = self.look_up(id, &name)
        {
            return t;
        }
        let t = self.field(id, operand, field, false);
        if test { Type::Bool } else { self.known.apply(&t, false) }
    }
    fn field(&mut self, id: Id, operand: Id, field: &str, optional: bool) -> Type {
        self.check(operand);
        let whole = self.known.apply(&self.type_of(operand), false);
        let (target, was_optional) = whole.unwrap_optional();
        let t = match target {
            Type::Map(entry) => entry.1.clone(),
            Type::Object(name) => self.declared_field(self.ast.position(id), name, field),
            Type::Param(_) => {
                self.known.assignable(&Type::Dyn, target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.report_at(id, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if optional || was_optional { Type::optional(t) } else { t }
    }
    fn declared_field(&mut self, at: u32, object: &str, field: &str) -> Type {
        if self.env.is_dynamic_object(object) {
            return Type::Dyn;
        }
        let Some(declared) = self.env.object(object) else {
            self.report(at, format!("unexpected failed resolution of '{object}'"));
            return Type::Error;
        };
        match declared.fields.get(field) {
            Some(field) => field.decl.type_of(),
            None => {
                self.report(at, format!("undefined field '{field}'"));
                Type::Error
            }
        }
    }

    fn call(&mut self, id: Id, function: &str, target: Option<Id>, args: &[Id]) -> Type {
        if function == "_?._" {
            let Node::Literal(Literal::String(field)) = self.ast.node(args[1]).clone() else { return Type::Error };
            self.set(args[1], Type::String);
            let t = self.field(id, args[0], &field, true);
            return self.known.apply(&t, false);
        }
        for arg in args {
            self.check(*arg);
        }
        let declared = |checker: &Self, name: &str| {
            let hidden = name == json_patch::NAME && !checker.env.mutates();
            signature::overloads(name.strip_prefix('.').unwrap_or(name)).filter(|_| !hidden)
        };
        let Some(receiver) = target else {
            return match declared(self, function) {
                Some(overloads) => self.resolve(id, function, overloads, None, args),
                None => self.undeclared(id, function),
            };
        };
        // `a.b.f(x)` may be the function `a.b.f`
        if let Some(prefix) = self.ast.qualified_name(receiver) {
            let full = format!("{prefix}.{function}");
            if let Some(overloads) = declared(self, &full) {
                let call = Node::Call { function: full.as_str().into(), target: None, args: args.to_vec() };
                self.ast.replace(id, call);
                return self.resolve(id, &full, overloads, None, args);
            }
        }
        self.check(receiver);
        match declared(self, function) {
            Some(overloads) => self.resolve(id, function, overloads, Some(receiver), args),
            None => self.undeclared(id, function),
        }
    }

    fn resolve(
        &mut self,
        id: Id,
        function: &str,
        overloads: &'static [Overload],
        target: Option<Id>,
        args: &[Id],
    ) -> Type {
        let given: Vec<Type> = target.iter().chain(args).map(|arg| self.type_of(*arg)).collect();
        if matches!(function, "_&&_" | "_||_") {
            let mut wrong = false;
            for (arg, t) in args.iter().zip(&given) {
                if !self.known.assignable(t, &Type::Bool) {
                    self.mismatch(*arg, &Type::Bool, t);
                    wrong = true;
                }
            }
            self.meanings[id.index()] = Meaning::Call(overloads.iter().collect());
            return if wrong { Type::Error } else { Type::Bool };
        }
        let mut fitting: Vec<&'static Overload> = Vec::new();
        let mut result: Option<Type> = None;
        for overload in overloads.iter().filter(|o| o.method == target.is_some() && o.args.len() == given.len()) {
            let mut fresh = Substitution::default();
            if overload.generic {
                for name in 'A'..='Z' {
                    let used = overload.args.iter().chain([&overload.result]).any(|t| mentions(t, name));
                    if used {
                        let variable = self.fresh();
                        fresh.add(Param::Named(name), variable);
                    }
                }
            }
            let wanted: Vec<Type> = overload.args.iter().map(|t| fresh.apply(t, false)).collect();
            if !self.known.assignable_all(given.iter().zip(&wanted)) {
                continue;
            }
            fitting.push(overload);
            let t = self.known.apply(&fresh.apply(&overload.result, false), false);
            result = Some(match result {
                None => t,
                Some(known) if known == Type::Dyn || known == t => known,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let given: Vec<Type> = given.iter().map(|t| self.known.apply(t, true)).collect();
            let signature = match target {
                Some(_) => call_signature(given.first(), &given[1..]),
                None => call_signature(None, &given),
            };
            self.report_at(id, format!("found no matching overload for '{function}' applied to '{signature}'"));
            return Type::Error;
        };
        self.meanings[id.index()] = Meaning::Call(fitting);
        result
    }

    /// The type inside an optional entry; reports one that is not optional.
    fn optional_entry(&mut self, id: Id, t: &Type) -> Type {
        let (inner, optional) = t.unwrap_optional();
        if !optional && *t != Type::Dyn {
            self.mismatch(id, &Type::optional(t.clone()), t);
        }
        inner.clone()
    }
    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else { return current };
        if self.known.assignable(&previous, &current) {
            return most_general(&previous, &current);
        }
        // the literals' check says what upstream says of a mixture
        Type::Dyn
    }
    fn list(&mut self, items: &[Id], optional: &[usize]) -> Type {
        let mut joined = None;
        for (i, item) in items.iter().enumerate() {
            self.check(*item);
            let mut t = self.type_of(*item);
            if optional.contains(&i) {
                t = self.optional_entry(*item, &t);
            }
            joined = Some(self.join(joined, t));
        }
        let item = joined.unwrap_or_else(|| self.fresh());
        Type::list(item)
    }
    fn map(&mut self, entries: &[Entry]) -> Type {
        let (mut key, mut value) = (None, None);
        for entry in entries {
            self.check(entry.key);
            key = Some(self.join(key, self.type_of(entry.key)));
            self.check(entry.value);
            let mut t = self.type_of(entry.value);
            if entry.optional {
                t = self.optional_entry(entry.value, &t);
            }
            value = Some(self.join(value, t));
        }
        match (key, value) {
            (Some(key), Some(value)) => Type::map(key, value),
            _ => {
                let key = self.fresh();
                Type::map(key, self.fresh())
            }
        }
    }
    fn message(&mut self, id: Id, name: &str, fields: &[FieldInit]) -> Type {
        let name = name.strip_prefix('.').unwrap_or(name);
        if self.env.object(name).is_none() && !self.env.is_dynamic_object(name) {
            return match Type::named(name) {
                Some(_) => {
                    self.report_at(id, format!("'{name}' is not a message type"));
                    Type::Error
                }
                None => self.undeclared(id, name),
            };
        }
        for field in fields {
            self.check(field.value);
            let wanted = self.declared_field(field.at, name, &field.name);
            let mut given = self.type_of(field.value);
            if field.optional {
                given = self.optional_entry(field.value, &given);
            }
            if !self.known.assignable(&wanted, &given) {
                let message =
                    format!("expected type of field '{}' is '{wanted}' but provided type is '{given}'", field.name);
                self.report(field.at, message);
            }
        }
        Type::object(name)
    }

    fn comprehension(&mut self, c: &Comprehension) -> Type {
        self.check(c.range);
        self.check(c.init);
        let range = self.known.apply(&self.type_of(c.range), false);
        let accumulator = self.type_of(c.init);
        let (first, second) = match &range {
            Type::List(item) if c.var2.is_some() => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Dyn),
            Type::Map(entry) => (entry.0.clone(), entry.1.clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.known.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report_at(c.range, message);
                (Type::Error, Type::Error)
            }
        };
        let depth = self.scopes.len();
        self.scopes.push((c.accumulator.clone(), accumulator.clone()));
        self.scopes.push((c.var.clone(), first));
        if let Some(var2) = &c.var2 {
            self.scopes.push((var2.clone(), second));
        }
        self.check(c.condition);
        self.expect(c.condition, &Type::Bool);
        self.check(c.step);
        self.expect(c.step, &accumulator);
        self.scopes.truncate(depth + 1);
        self.check(c.result);
        self.scopes.truncate(depth);
        self.known.apply(&self.type_of(c.result), false)
    }
    fn expect(&mut self, id: Id, wanted: &Type) {
        let found = self.type_of(id);
        if !self.known.assignable(wanted, &found) {
            self.mismatch(id, wanted, &found);
        }
    }
}

fn mentions(t: &Type, name: char) -> bool {
    match t {
        Type::Param(Param::Named(n)) => *n == name,
        Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => mentions(inner, name),
        Type::Map(entry) => mentions(&entry.0, name) || mentions(&entry.1, name),
        _ => false,
    }
}
