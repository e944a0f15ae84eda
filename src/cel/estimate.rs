//! What an expression can cost at most, and at least, by the sizes that are declared of what it reads. Decides which rules a
//! CustomResourceDefinition may have, so every number here is part of the API.
//!
//! Source: cel-go `checker/cost.go`, `ext/lists.go`, `ext/sets.go`; apiserver `pkg/cel/library/cost.go`;
//! apiextensions-apiserver `pkg/apiserver/schema/cel/compilation.go` `sizeEstimator`.

use std::collections::HashMap;
use std::sync::Arc;

use super::Program;
use super::ast::{Comprehension, Id, Literal, Node};
use super::check::Meaning;
use super::cost::{LIST_CREATE, MAP_CREATE, SELECT_AND_IDENT, STRUCT_CREATE};
use super::macros::ACCUMULATOR;
use super::types::Type;

mod calls;

/// From the least to the most; a size or a cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

impl Range {
    const UNKNOWN: Range = Range { min: 0, max: u64::MAX };
    const ONE: Range = Range::fixed(1);

    const fn fixed(n: u64) -> Self {
        Range { min: n, max: n }
    }
    fn plus(self, other: Range) -> Self {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }
    fn times(self, other: Range) -> Self {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }
    /// Rounded up; as saturating as the conversion is.
    fn scaled(self, factor: f64) -> Self {
        let scale = |n: u64| (n as f64 * factor).ceil() as u64;
        Range { min: scale(self.min), max: scale(self.max) }
    }
    fn union(self, other: Range) -> Self {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

pub fn estimate(program: &Program) -> Range {
    let mut estimator = Estimator {
        program,
        paths: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        scopes: Vec::new(),
    };
    estimator.cost(program.root)
}

/// The sizes of what a list or a map holds.
#[derive(Debug, Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Range,
    value: Range,
}
impl Entries {
    fn union(self, other: Entries) -> Self {
        Entries { is_list: self.is_list, key: self.key.union(other.key), value: self.value.union(other.value) }
    }
}

struct Local {
    name: Arc<str>,
    path: Vec<Arc<str>>,
    size: Option<Range>,
    entries: Option<Entries>,
}

struct Estimator<'p> {
    program: &'p Program,
    paths: HashMap<Id, Vec<Arc<str>>>,
    sizes: HashMap<Id, Range>,
    entries: HashMap<Id, Entries>,
    scopes: Vec<Local>,
}

/// What a call costs itself, and how large its result is.
struct Call {
    cost: Range,
    size: Option<Range>,
}
impl Call {
    fn cost(cost: Range) -> Option<Self> {
        Some(Call { cost, size: None })
    }
    fn sized(cost: Range, size: Range) -> Option<Self> {
        Some(Call { cost, size: Some(size) })
    }
}

/// An argument as estimates see it.
struct Arg {
    id: Id,
    size: Range,
}

impl Estimator<'_> {
    fn node(&self, id: Id) -> &Node {
        self.program.ast.node(id)
    }
    fn type_of(&self, id: Id) -> &Type {
        &self.program.types[id.index()]
    }
    fn local(&self, name: &str) -> Option<&Local> {
        self.scopes.iter().rev().find(|local| &*local.name == name)
    }

    fn cost(&mut self, id: Id) -> Range {
        match self.node(id).clone() {
            Node::Literal(_) => Range::default(),
            Node::Ident(name) => {
                let path = self.local(&name).map_or_else(|| vec![name.clone()], |local| local.path.clone());
                self.paths.insert(id, path);
                Range::fixed(SELECT_AND_IDENT)
            }
            Node::Select { operand, test: true, .. } => self.cost(operand),
            Node::Select { operand, field, test: false } => {
                let mut cost = self.cost(operand);
                if matches!(self.type_of(operand), Type::Map(_) | Type::Object(_)) {
                    cost = cost.plus(Range::fixed(SELECT_AND_IDENT));
                }
                let mut path = self.path(operand);
                path.push(field);
                self.paths.insert(id, path);
                cost
            }
            Node::Call { function, target, args } => self.call(id, &function, target, &args),
            Node::List { items, .. } => {
                let mut cost = Range::fixed(LIST_CREATE);
                let mut size: Option<Range> = None;
                for item in &items {
                    cost = cost.plus(self.cost(*item));
                    let of_item = self.size(*item);
                    size = Some(size.map_or(of_item, |size| size.union(of_item)));
                }
                let entries = Entries { is_list: true, key: Range::ONE, value: size.unwrap_or_default() };
                self.entries.insert(id, entries);
                cost
            }
            Node::Map(items) => {
                let mut cost = Range::fixed(MAP_CREATE);
                let mut sizes: Option<(Range, Range)> = None;
                for entry in &items {
                    cost = cost.plus(self.cost(entry.key)).plus(self.cost(entry.value));
                    let (key, value) = (self.size(entry.key), self.size(entry.value));
                    sizes = Some(sizes.map_or((key, value), |(k, v)| (k.union(key), v.union(value))));
                }
                let (key, value) = sizes.unwrap_or_default();
                self.entries.insert(id, Entries { is_list: false, key, value });
                cost
            }
            Node::Struct { fields, .. } => {
                let start = Range::fixed(STRUCT_CREATE);
                fields.iter().fold(start, |cost, field| cost.plus(self.cost(field.value)))
            }
            Node::Comprehension(comprehension) => self.comprehension(id, &comprehension),
        }
    }

    fn comprehension(&mut self, id: Id, c: &Comprehension) -> Range {
        let start = self.cost(c.range).plus(self.cost(c.init));
        let accumulator = Local {
            name: c.accumulator.clone(),
            path: self.path(c.init),
            size: self.known_size(c.init),
            entries: self.known_entries(c.init),
        };
        self.scopes.push(accumulator);
        if &*c.accumulator != ACCUMULATOR {
            // a name for a value: nothing is repeated
            let cost = start.plus(self.cost(c.result));
            self.scopes.pop();
            self.copy_sizes(id, c.result);
            return cost;
        }
        let depth = self.scopes.len();
        let entries = self.known_entries(c.range);
        let is_list = entries.map_or_else(|| matches!(self.type_of(c.range), Type::List(_)), |e| e.is_list);
        let path = self.path(c.range);
        let push = |estimator: &mut Self, name: &Arc<str>, step: &str, size: Option<Range>| {
            let mut path = path.clone();
            path.push(step.into());
            estimator.scopes.push(Local { name: name.clone(), path, size, entries: None });
        };
        let (keys, values) = if is_list { ("@indices", "@items") } else { ("@keys", "@values") };
        match &c.var2 {
            Some(var2) => {
                push(self, &c.var, keys, entries.map(|e| e.key));
                push(self, var2, values, entries.map(|e| e.value));
            }
            None if is_list => push(self, &c.var, values, entries.map(|e| e.value)),
            None => push(self, &c.var, keys, entries.map(|e| e.key)),
        }
        let turn = self.cost(c.condition).plus(self.cost(c.step));
        self.scopes.truncate(depth);
        let result = self.cost(c.result);
        self.scopes.truncate(depth - 1);
        let count = self.size(c.range);
        match self.node(c.init) {
            Node::Literal(_) => {
                if let Some(size) = self.known_size(c.init) {
                    self.sizes.insert(id, size);
                }
            }
            Node::List { .. } | Node::Map(_) => {
                self.sizes.insert(id, count);
                if let Some(entries) = self.known_entries(c.step) {
                    self.entries.insert(id, entries);
                }
            }
            _ => {}
        }
        start.plus(result).plus(count.times(turn))
    }

    fn call(&mut self, id: Id, function: &str, target: Option<Id>, args: &[Id]) -> Range {
        if function == "dyn" && args.len() == 1 {
            let cost = Range::ONE.plus(self.cost(args[0]));
            self.copy_sizes(id, args[0]);
            return cost;
        }
        let costs: Vec<Range> = args.iter().map(|arg| self.cost(*arg)).collect();
        let overloads: Vec<&'static str> = match &self.program.meanings[id.index()] {
            Meaning::Call(overloads) => overloads.iter().map(|o| o.id).collect(),
            // optional selection has no overloads of its own in the table
            _ if function == "_?._" => vec!["select_optional_field"],
            _ => Vec::new(),
        };
        if overloads.is_empty() {
            return Range::default();
        }
        let sum = target.map_or_else(Range::default, |target| self.cost(target));
        let arg = |estimator: &mut Self, id: Id| Arg { id, size: estimator.size(id) };
        let target = target.map(|target| arg(self, target));
        let given: Vec<Arg> = args.iter().map(|a| arg(self, *a)).collect();
        let mut cost: Option<Range> = None;
        let mut size: Option<Range> = None;
        for overload in overloads {
            let call = self.overload(id, function, overload, target.as_ref(), &given, &costs);
            cost = Some(cost.map_or(call.cost, |cost| cost.union(call.cost)));
            if let Some(of_call) = call.size {
                size = Some(size.map_or(of_call, |size| size.union(of_call)));
            }
            if let ("index_list" | "index_map", Some(container)) = (overload, args.first()) {
                size = self.known_entries(*container).map(|entries| entries.value);
                let mut path = self.path(*container);
                path.push(if overload == "index_list" { "@items" } else { "@values" }.into());
                self.paths.insert(id, path);
            }
            if size.is_none() {
                size = self.known_size(id);
            }
        }
        if let Some(size) = size {
            self.sizes.insert(id, size);
        }
        sum.plus(cost.unwrap_or_default())
    }

    fn overload(
        &mut self,
        id: Id,
        function: &str,
        overload: &str,
        target: Option<&Arg>,
        args: &[Arg],
        costs: &[Range],
    ) -> Call {
        let sum = costs.iter().fold(Range::default(), |sum, cost| sum.plus(*cost));
        let own =
            self.list_library(overload, target, args).or_else(|| self.kubernetes(function, overload, target, args));
        if let Some(call) = own {
            return Call { cost: call.cost.plus(sum), size: call.size };
        }
        match (overload, args) {
            ("logical_or" | "logical_and", _) if costs.len() == 2 => {
                let cost = Range { min: costs[0].min, max: costs[0].plus(costs[1]).max };
                return Call { cost, size: None };
            }
            ("conditional", [_, yes, no]) => {
                if let (Some(a), Some(b)) = (self.known_entries(yes.id), self.known_entries(no.id)) {
                    self.entries.insert(id, a.union(b));
                }
                let cost = costs[0].plus(costs[1].union(costs[2]));
                return Call { cost, size: Some(yes.size.union(no.size)) };
            }
            _ => {}
        }
        let call = self.standard(id, overload, target, args).unwrap_or(Call { cost: Range::ONE, size: None });
        Call { cost: call.cost.plus(sum), size: call.size }
    }

    /// The type of a list's items and how large they are.
    fn item(&self, list: Id) -> Option<(&Type, Range)> {
        let (item, map_key);
        match self.type_of(list) {
            Type::List(inner) | Type::Optional(inner) => item = &**inner,
            Type::Map(entry) => {
                map_key = &entry.0;
                item = map_key;
            }
            _ => return None,
        }
        let mut path = self.path(list);
        let size = if path.is_empty() || &*path[0] == ACCUMULATOR {
            None
        } else {
            path.push("@items".into());
            self.declared(&path)
        };
        Some((item, size.unwrap_or(Range::UNKNOWN)))
    }

    fn path(&self, id: Id) -> Vec<Arc<str>> {
        if let Node::Ident(name) = self.node(id)
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&id).cloned().unwrap_or_default()
    }
    /// The most elements that are declared of what a path leads to.
    fn declared(&self, path: &[Arc<str>]) -> Option<Range> {
        let (variable, rest) = path.split_first()?;
        let decl = self.program.env.variable(variable)?.at(rest)?;
        Some(Range { min: 0, max: u64::try_from(decl.max_elements).unwrap_or(0) })
    }
    fn size(&mut self, id: Id) -> Range {
        self.known_size(id).unwrap_or(Range::UNKNOWN)
    }
    fn known_size(&mut self, id: Id) -> Option<Range> {
        if let Some(size) = self.sizes.get(&id) {
            return Some(*size);
        }
        let exact = match self.node(id) {
            Node::Literal(Literal::String(text)) => Some(text.chars().count()),
            Node::Literal(Literal::Bytes(bytes)) => Some(bytes.len()),
            Node::Literal(_) => Some(1),
            Node::List { items, .. } => Some(items.len()),
            Node::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(exact) = exact {
            return Some(Range::fixed(exact as u64));
        }
        if let Some(size) = self.declared(&self.path(id)) {
            self.sizes.insert(id, size);
            return Some(size);
        }
        if is_scalar(self.type_of(id)) {
            return Some(Range::ONE);
        }
        match self.node(id) {
            Node::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }
    fn known_entries(&self, id: Id) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&id) {
            return Some(*entries);
        }
        match self.node(id) {
            Node::Ident(name) => self.local(name).and_then(|local| local.entries),
            _ => None,
        }
    }
    fn copy_sizes(&mut self, to: Id, from: Id) {
        if let Some(size) = self.known_size(from) {
            self.sizes.insert(to, size);
        }
        if let Some(entries) = self.known_entries(from) {
            self.entries.insert(to, entries);
        }
    }
}

fn is_scalar(t: &Type) -> bool {
    match t {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(inner) => is_scalar(inner),
        _ => false,
    }
}
