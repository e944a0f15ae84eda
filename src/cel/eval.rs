//! Evaluation: walks the tree over an activation and counts what it costs.
//!
//! Errors are values to `&&`, `||` and the quantifiers, as cel-go has it: what decides the result absorbs them. The budget is
//! not absorbed. Constant lists, maps and conversions cost nothing, because cel-go computes them when it compiles.
//!
//! Source: cel-go `interpreter/interpretable.go`, `interpreter/attributes.go`, `interpreter/optimizations.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Program;
use super::ast::{Comprehension, Entry, Id, Literal, Node};
use super::check::Meaning;
use super::cost;
use super::library::{conversions, regex, standard};
use super::macros::ACCUMULATOR;
use super::value::{Answer, EvalError, Key, List, Map, NO_OVERLOAD, Struct, Text, Value, fault};

/// The variables of one evaluation.
#[derive(Default)]
pub struct Activation<'a> {
    bindings: Vec<(&'static str, Value<'a>)>,
}

impl<'a> Activation<'a> {
    pub fn bind(&mut self, name: &'static str, value: Value<'a>) {
        match self.bindings.iter_mut().find(|(known, _)| *known == name) {
            Some((_, slot)) => *slot = value,
            None => self.bindings.push((name, value)),
        }
    }
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Value<'a>) -> Self {
        self.bind(name, value);
        self
    }
    fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.bindings.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// The fields of the `variables` object, computed by their owner when they are first asked for.
pub trait Variables<'a> {
    /// `None`: there is no variable of that name.
    fn variable(&self, name: &str) -> Option<Answer<'a>>;
}

/// What came of an evaluation, and its price.
#[derive(Debug)]
pub struct Outcome<'a> {
    pub value: Answer<'a>,
    pub cost: u64,
}

pub fn eval<'a>(
    program: &Program,
    activation: &Activation<'a>,
    variables: Option<&dyn Variables<'a>>,
    limit: u64,
) -> Outcome<'a> {
    let mut run = Run { program, activation, variables, scopes: Vec::new(), cost: 0, limit };
    let value = run.eval(program.root);
    Outcome { value, cost: run.cost }
}

struct Run<'r, 'a> {
    program: &'r Program,
    activation: &'r Activation<'a>,
    variables: Option<&'r dyn Variables<'a>>,
    /// Variables of comprehensions, the innermost last. An accumulator may hold an error.
    scopes: Vec<(Arc<str>, Answer<'a>)>,
    cost: u64,
    limit: u64,
}

impl<'a> Run<'_, 'a> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::OutOfBudget) } else { Ok(()) }
    }

    fn eval(&mut self, id: Id) -> Answer<'a> {
        let program = self.program;
        match program.ast.node(id) {
            Node::Literal(literal) => Ok(constant(literal)),
            Node::Ident(name) => self.ident(id, name),
            Node::Select { operand, field, test } => self.select(*operand, field, *test),
            Node::Call { function, target, args } => self.call(id, function, *target, args),
            Node::List { items, optional } => self.list(id, items, optional),
            Node::Map(entries) => self.map(id, entries),
            Node::Struct { name, fields } => {
                let mut made = BTreeMap::new();
                for field in fields {
                    match (self.eval(field.value)?, field.optional) {
                        (Value::Optional(None), true) => {}
                        (Value::Optional(Some(inner)), true) => {
                            made.insert(field.name.clone(), (*inner).clone());
                        }
                        (value, _) => {
                            made.insert(field.name.clone(), value);
                        }
                    }
                }
                self.charge(cost::STRUCT_CREATE)?;
                Ok(Value::Struct(Arc::new(Struct { name: name.clone(), fields: made })))
            }
            Node::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    fn ident(&mut self, id: Id, name: &str) -> Answer<'a> {
        if matches!(self.program.meanings[id.index()], Meaning::TypeName) {
            let named = super::types::Type::named(name).map_or_else(|| name.into(), |t| t.runtime_name().into());
            return Ok(Value::Type(named));
        }
        self.charge(cost::SELECT_AND_IDENT)?;
        if let Some((_, value)) = self.scopes.iter().rev().find(|(n, _)| **n == *name) {
            return value.clone();
        }
        match self.activation.get(name) {
            Some(value) => Ok(value.clone()),
            None => fault(format!("no such attribute(s): {name}")),
        }
    }

    fn select(&mut self, operand: Id, field: &str, test: bool) -> Answer<'a> {
        let found = match self.policy_variable(operand, field)? {
            Some(found) => found,
            None => {
                let operand = self.eval(operand)?;
                if let Value::Optional(inner) = &operand {
                    self.charge(if test { 0 } else { cost::SELECT_AND_IDENT })?;
                    let found = inner.as_ref().and_then(|inner| member(inner, field)).transpose()?;
                    return Ok(match (test, found) {
                        (true, found) => Value::Bool(found.is_some()),
                        (false, Some(value)) => Value::some(value),
                        (false, None) => Value::Optional(None),
                    });
                }
                member(&operand, field)
            }
        };
        if test {
            return Ok(Value::Bool(found.transpose()?.is_some()));
        }
        self.charge(cost::SELECT_AND_IDENT)?;
        found.unwrap_or_else(|| fault(format!("no such key: {field}")))
    }
    /// `variables.name` of a policy: asked of its owner, whatever else an activation holds.
    fn policy_variable(&mut self, operand: Id, field: &str) -> Result<Option<Option<Answer<'a>>>, EvalError> {
        let Some(variables) = self.variables else { return Ok(None) };
        match self.program.ast.node(operand) {
            Node::Ident(name) if &**name == "variables" && !self.scopes.iter().any(|(n, _)| **n == **name) => {
                self.charge(cost::SELECT_AND_IDENT)?;
                Ok(Some(variables.variable(field)))
            }
            _ => Ok(None),
        }
    }

    fn call(&mut self, id: Id, function: &str, target: Option<Id>, args: &[Id]) -> Answer<'a> {
        match (function, args) {
            ("_&&_", &[a, b]) => return self.logical(a, b, false),
            ("_||_", &[a, b]) => return self.logical(a, b, true),
            ("_?_:_", &[condition, yes, no]) => {
                return match self.eval(condition)? {
                    Value::Bool(true) => self.eval(yes),
                    Value::Bool(false) => self.eval(no),
                    _ => fault(NO_OVERLOAD),
                };
            }
            ("_==_" | "_!=_", &[a, b]) => {
                let sides = [self.eval(a)?, self.eval(b)?];
                let overload = if function == "_==_" { "equals" } else { "not_equals" };
                self.charge(cost::call(function, overload, &sides, None))?;
                return Ok(Value::Bool(sides[0].equals(&sides[1]) == (function == "_==_")));
            }
            ("@not_strictly_false", &[a]) => {
                let strictly_false = match self.eval(a) {
                    Err(EvalError::OutOfBudget) => return Err(EvalError::OutOfBudget),
                    Ok(Value::Bool(b)) => !b,
                    _ => false,
                };
                self.charge(1)?;
                return Ok(Value::Bool(!strictly_false));
            }
            ("_[_]", &[operand, index]) => return self.index(operand, index, false),
            ("_[?_]", &[operand, index]) => return self.index(operand, index, true),
            ("_?._", &[operand, field]) => {
                let Node::Literal(Literal::String(field)) = self.program.ast.node(field) else {
                    return fault(NO_OVERLOAD);
                };
                let found = match self.policy_variable(operand, field)? {
                    Some(found) => found.transpose()?,
                    None => match self.eval(operand)? {
                        Value::Optional(None) => None,
                        Value::Optional(Some(inner)) => member(&inner, field).transpose()?,
                        operand => member(&operand, field).transpose()?,
                    },
                };
                self.charge(cost::SELECT_AND_IDENT)?;
                return Ok(found.map_or(Value::Optional(None), Value::some));
            }
            ("_+_", &[accumulator, item]) if self.is_accumulator(accumulator) => {
                if let Some(list) = self.take_accumulator(|v| matches!(v, Value::List(List::Made(_)))) {
                    return self.accumulate(list, &[item]);
                }
            }
            ("cel.@mapInsert", &[accumulator, ref rest @ ..]) if self.is_accumulator(accumulator) => {
                if let Some(map) = self.take_accumulator(|v| matches!(v, Value::Map(Map::Made(_)))) {
                    return self.accumulate(map, rest);
                }
            }
            ("or" | "orValue", &[other]) if target.is_some() => {
                let first = match target {
                    Some(target) => self.eval(target)?,
                    None => return fault(NO_OVERLOAD),
                };
                return match (first, function) {
                    (Value::Optional(None), _) => self.eval(other),
                    (some @ Value::Optional(_), "or") => Ok(some),
                    (Value::Optional(Some(inner)), _) => Ok((*inner).clone()),
                    (other, _) => Ok(other),
                };
            }
            _ => {}
        }
        self.plain_call(id, function, target, args)
    }

    fn plain_call(&mut self, id: Id, function: &str, target: Option<Id>, args: &[Id]) -> Answer<'a> {
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in target.iter().chain(args) {
            values.push(self.eval(*arg)?);
        }
        let Meaning::Call(overloads) = &self.program.meanings[id.index()] else { return fault(NO_OVERLOAD) };
        let overload = if let [only] = overloads[..] { only.id } else { "" };
        let member_of_constant = function == "@in" && args.get(1).is_some_and(|a| self.program.constant[a.index()]);
        let free =
            self.program.constant[id.index()] || (member_of_constant && matches!(values.get(1), Some(Value::List(_))));
        if let ("matches" | "find" | "findAll", Some(Value::String(pattern))) = (function, values.get(1))
            && !regex::is_kept(pattern)
        {
            self.charge(cost::compilation(pattern))?;
        }
        // Paid before it runs: what is too expensive does not, and what fails has cost as much.
        let least = if free { 0 } else { cost::call(function, overload, &values, None) };
        self.charge(least)?;
        let mut answer = fault(NO_OVERLOAD);
        for (i, overload) in overloads.iter().enumerate() {
            // overloads that share what runs follow each other
            if i > 0 && std::ptr::fn_addr_eq(overloads[i - 1].run, overload.run) {
                continue;
            }
            answer = (overload.run)(&values);
            if !matches!(&answer, Err(EvalError::Fault(text)) if text == NO_OVERLOAD) {
                break;
            }
        }
        if matches!(&answer, Err(EvalError::Fault(text)) if text == NO_OVERLOAD) && !function.contains('_') {
            let types: Vec<String> = values.iter().map(Value::type_name).collect();
            return fault(format!("{NO_OVERLOAD}: {function}({})", types.join(", ")));
        }
        let value = answer?;
        if !free && cost::depends_on_result(function, overload) {
            self.charge(cost::call(function, overload, &values, Some(&value)).saturating_sub(least))?;
        }
        Ok(value)
    }

    /// `stop`: the value that decides: false for `&&`, true for `||`.
    fn logical(&mut self, a: Id, b: Id, stop: bool) -> Answer<'a> {
        let first = self.eval(a);
        match &first {
            Ok(Value::Bool(value)) if *value == stop => return first,
            Err(EvalError::OutOfBudget) => return first,
            _ => {}
        }
        let second = self.eval(b);
        match &second {
            Ok(Value::Bool(value)) if *value == stop => return second,
            Err(EvalError::OutOfBudget) => return second,
            _ => {}
        }
        match (first, second) {
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!stop)),
            (Err(error), _) | (Ok(Value::Bool(_)), Err(error)) => Err(error),
            _ => fault(NO_OVERLOAD),
        }
    }

    fn index(&mut self, operand: Id, index: Id, optional: bool) -> Answer<'a> {
        let operand = self.eval(operand)?;
        let index = self.eval(index)?;
        self.charge(cost::SELECT_AND_IDENT)?;
        let (target, unwrapped) = match &operand {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => (&**inner, true),
            other => (other, false),
        };
        let found = match target {
            Value::List(list) => {
                let position = match &index {
                    Value::Int(i) => usize::try_from(*i).ok(),
                    Value::Uint(u) => usize::try_from(*u).ok(),
                    Value::Double(d) if d.fract() == 0.0 && *d >= 0.0 => Some(*d as usize),
                    _ => return fault(format!("unsupported index type '{}' in list", index.type_name())),
                };
                position.and_then(|i| list.get(i))
            }
            Value::Map(map) => map.find(&index),
            _ => None,
        };
        let found = found.transpose()?;
        if optional || unwrapped {
            return Ok(found.map_or(Value::Optional(None), Value::some));
        }
        match (found, target) {
            (Some(value), _) => Ok(value),
            (None, Value::List(_)) => fault(format!("index out of bounds: {}", conversions::plain(&index))),
            (None, _) => fault(format!("no such key: {}", conversions::plain(&index))),
        }
    }

    fn list(&mut self, id: Id, items: &[Id], optional: &[usize]) -> Answer<'a> {
        let mut values = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let value = self.eval(*item)?;
            if optional.contains(&i) {
                match value {
                    Value::Optional(Some(inner)) => values.push((*inner).clone()),
                    Value::Optional(None) => {}
                    other => return not_optional(&other),
                }
            } else {
                values.push(value);
            }
        }
        if !self.program.constant[id.index()] {
            self.charge(cost::LIST_CREATE)?;
        }
        Ok(Value::list(values))
    }
    fn map(&mut self, id: Id, entries: &[Entry]) -> Answer<'a> {
        let mut made = BTreeMap::new();
        for entry in entries {
            let key = self.eval(entry.key)?;
            let mut value = self.eval(entry.value)?;
            if entry.optional {
                value = match value {
                    Value::Optional(Some(inner)) => (*inner).clone(),
                    Value::Optional(None) => continue,
                    other => return not_optional(&other),
                };
            }
            let Some(key) = Key::of(&key) else { return fault(format!("unsupported key type: {}", key.type_name())) };
            made.insert(key, value);
        }
        if !self.program.constant[id.index()] {
            self.charge(cost::MAP_CREATE)?;
        }
        Ok(Value::map(made))
    }

    fn is_accumulator(&self, id: Id) -> bool {
        matches!(self.program.ast.node(id), Node::Ident(name) if &**name == ACCUMULATOR)
    }
    /// The accumulator's value, taken out of its scope so that it is the only one and can grow in place.
    fn take_accumulator(&mut self, wanted: fn(&Value<'a>) -> bool) -> Option<Value<'a>> {
        let (_, slot) = self.scopes.iter_mut().rev().find(|(name, _)| &**name == ACCUMULATOR)?;
        if !slot.as_ref().is_ok_and(wanted) {
            return None;
        }
        std::mem::replace(slot, fault("accumulator is being computed")).ok()
    }
    fn accumulate(&mut self, accumulator: Value<'a>, rest: &[Id]) -> Answer<'a> {
        self.charge(cost::SELECT_AND_IDENT)?;
        let mut values = Vec::with_capacity(rest.len());
        for id in rest {
            values.push(self.eval(*id)?);
        }
        self.charge(1)?;
        match (accumulator, &values[..]) {
            (Value::List(list), [Value::List(more)]) => standard::append(list, more),
            (Value::Map(map), rest) => standard::insert(map, rest),
            _ => fault(NO_OVERLOAD),
        }
    }

    fn comprehension(&mut self, c: &Comprehension) -> Answer<'a> {
        let range = self.eval(c.range)?;
        let init = self.eval(c.init);
        if matches!(init, Err(EvalError::OutOfBudget)) {
            return init;
        }
        let depth = self.scopes.len();
        self.scopes.push((c.accumulator.clone(), init));
        let result = self.fold(c, range, depth);
        self.scopes.truncate(depth + 1);
        let result = result.and_then(|()| self.eval(c.result));
        self.scopes.truncate(depth);
        result
    }
    fn fold(&mut self, c: &Comprehension, range: Value<'a>, depth: usize) -> Result<(), EvalError> {
        match range {
            Value::List(list) => {
                for i in 0..list.len() {
                    let Some(item) = list.get(i) else { break };
                    let index = Value::Int(i64::try_from(i).unwrap_or(i64::MAX));
                    let goes_on = match c.var2 {
                        Some(_) => self.step(c, depth, Ok(index), Some(item))?,
                        None => self.step(c, depth, item, None)?,
                    };
                    if !goes_on {
                        break;
                    }
                }
                Ok(())
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let value = c.var2.as_ref().and_then(|_| map.find(&key));
                    if !self.step(c, depth, Ok(key), value)? {
                        break;
                    }
                }
                Ok(())
            }
            other => fault(format!("got '{}', expected iterable type", other.type_name())),
        }
    }
    /// One turn; false when the fold has its result.
    fn step(
        &mut self,
        c: &Comprehension,
        depth: usize,
        first: Answer<'a>,
        second: Option<Answer<'a>>,
    ) -> Result<bool, EvalError> {
        self.scopes.truncate(depth + 1);
        self.scopes.push((c.var.clone(), first));
        if let (Some(var2), Some(second)) = (&c.var2, second) {
            self.scopes.push((var2.clone(), second));
        }
        match self.eval(c.condition) {
            Ok(Value::Bool(false)) => return Ok(false),
            Err(EvalError::OutOfBudget) => return Err(EvalError::OutOfBudget),
            _ => {}
        }
        let accumulator = self.eval(c.step);
        let failed = accumulator.is_err();
        if matches!(accumulator, Err(EvalError::OutOfBudget)) {
            return Err(EvalError::OutOfBudget);
        }
        self.scopes[depth].1 = accumulator;
        // An error stays where nothing absorbs it: there the condition is a literal.
        let unconditional = matches!(self.program.ast.node(c.condition), Node::Literal(_));
        Ok(!(failed && unconditional))
    }
}

fn not_optional<'a>(value: &Value) -> Answer<'a> {
    fault(format!("cannot initialize optional list element from non-optional value {}", conversions::plain(value)))
}

/// A field by name; `None` when it is absent.
fn member<'a>(value: &Value<'a>, field: &str) -> Option<Answer<'a>> {
    match value {
        Value::Map(map) => map.field(field),
        Value::Struct(made) => made.fields.get(field).map(|value| Ok(value.clone())),
        _ => None,
    }
}

fn constant<'a>(literal: &Literal) -> Value<'a> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(text) => Value::String(Text::Shared(text.clone())),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}
