//! CEL as Kubernetes speaks it: an environment of declared variables compiles a text to a program, a program is evaluated
//! over an activation within a budget.
//!
//! ```text
//! text ─ lexer, parser, macros ─► tree ─ check, literals ─► Program ─┬─ estimate ─► the most it can cost
//!        Env (declared types, from schema) ──┘                       └─ eval(Activation, limit) ─► value, cost
//! ```
//!
//! Why not a crate: `cel`, the one that is maintained, parses and interprets. It has no type checker, so none of cel-go's
//! compile errors, no costs, neither static nor at run time, and converts whole objects into values of its own; what remained
//! of it would be its parser, which drags ANTLR's runtime and generated tables into the binary, reports errors in words of its
//! own and expands other macros. The grammar is three hundred lines; everything else here would be needed anyway.
//!
//! What never lives here: a Kubernetes kind, the store, a clock, a request. Who answers an authorizer's questions comes in as a
//! trait.
//!
//! Source: cel-go v0.26 as Kubernetes 1.36 uses it; apiserver `pkg/cel`.

mod ast;
mod check;
mod cost;
pub mod device;
mod estimate;
mod eval;
pub mod issue;
mod lexer;
pub mod library;
mod literals;
mod macros;
mod parser;
pub mod schema;
mod signature;
#[cfg(test)]
mod tests;
pub mod types;
pub mod value;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use estimate::Range;
pub use eval::{Activation, Outcome, Variables};
pub use issue::Issue;
pub use library::authorizer::{Authorization, Authorize, Decision, Question};
pub use parser::RESERVED;
pub use schema::Decl;
pub use value::{EvalError, Value};

use ast::{Ast, Id, Node};
use check::Meaning;
use schema::ObjectDecl;

/// What one evaluation may cost, about a tenth of a second. Source: apiserver `pkg/apis/cel/config.go` `PerCallLimit`.
pub const CALL_COST_MAX: u64 = 1_000_000;
/// What all evaluations for one object may cost together. Source: there, `RuntimeCELCostBudget`.
pub const OBJECT_COST_MAX: u64 = 10_000_000;
/// What all match conditions of one webhook or policy may cost. Source: there, `RuntimeCELCostBudgetMatchConditions`.
pub const MATCH_CONDITIONS_COST_MAX: u64 = 2_500_000;

/// Declared variables and types. A cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Env(Arc<Declared>);

#[derive(Debug, Clone, Default)]
struct Declared {
    variables: BTreeMap<Arc<str>, Arc<Decl>>,
    objects: HashMap<Arc<str>, Arc<ObjectDecl>>,
    mutates: bool,
    binds: bool,
}

impl Env {
    /// The environment with one more variable. A name with dots is that whole name.
    #[must_use]
    pub fn with(mut self, name: &str, decl: Decl) -> Self {
        let declared = Arc::make_mut(&mut self.0);
        decl.collect_objects(&mut declared.objects);
        declared.variables.insert(name.into(), Arc::new(decl));
        self
    }
    /// The environment of mutations: `Object{…}`, `JSONPatch{…}` and the library of JSON patches.
    #[must_use]
    pub fn for_mutations(mut self) -> Self {
        let declared = Arc::make_mut(&mut self.0);
        declared.mutates = true;
        let text = || Decl::scalar(types::Type::String);
        let patch = [("op", text()), ("from", text()), ("path", text()), ("value", Decl::dynamic())];
        Decl::object("JSONPatch", patch).collect_objects(&mut declared.objects);
        self
    }
    /// The environment in which `cel.bind` names a value.
    #[must_use]
    fn with_bindings(mut self) -> Self {
        Arc::make_mut(&mut self.0).binds = true;
        self
    }

    /// Compiles an expression.
    ///
    /// # Errors
    /// At least one issue; [`issue::render`] makes cel-go's text of them.
    pub fn compile(&self, text: &str) -> Result<Program, Vec<Issue>> {
        let (mut ast, root) = parser::parse(text, self.0.binds)?;
        let checked = check::check(&mut ast, root, self)?;
        let issues = literals::check(&ast, root, &checked);
        if !issues.is_empty() {
            return Err(issues);
        }
        let constant = constants(&ast);
        let check::Checked { types, meanings } = checked;
        Ok(Program { ast, root, types, meanings, constant, env: self.clone() })
    }

    fn variable(&self, name: &str) -> Option<&Decl> {
        self.0.variables.get(name).map(|decl| &**decl)
    }
    fn object(&self, name: &str) -> Option<&ObjectDecl> {
        self.0.objects.get(name).map(|object| &**object)
    }
    /// Whether it is the type of a part of an object that a mutation makes: `Object`, `Object.spec`.
    fn is_dynamic_object(&self, name: &str) -> bool {
        self.0.mutates && (name == "Object" || name.starts_with("Object."))
    }
    fn mutates(&self) -> bool {
        self.0.mutates
    }
}

/// A compiled expression.
pub struct Program {
    ast: Ast,
    root: Id,
    types: Vec<types::Type>,
    meanings: Vec<Meaning>,
    /// Which nodes are computed from literals alone, where cel-go does that ahead.
    constant: Vec<bool>,
    env: Env,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("result", self.result_type()).finish_non_exhaustive()
    }
}

impl Program {
    /// The type of the result.
    pub fn result_type(&self) -> &types::Type {
        &self.types[self.root.index()]
    }
    /// Evaluates within `limit`, which is at most [`CALL_COST_MAX`] for one call.
    pub fn eval<'a>(&self, activation: &Activation<'a>, limit: u64) -> Outcome<'a> {
        eval::eval(self, activation, None, limit)
    }
    /// Evaluates with somebody who knows the fields of `variables`.
    pub fn eval_with<'a>(&self, activation: &Activation<'a>, variables: &dyn Variables<'a>, limit: u64) -> Outcome<'a> {
        eval::eval(self, activation, Some(variables), limit)
    }
    /// The least and the most that an evaluation can cost, by what is declared of sizes.
    pub fn estimate(&self) -> Range {
        estimate::estimate(self)
    }
    /// Whether the expression reads that field of a variable, at any depth, or asks for it.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        let is = |id: Id| matches!(self.ast.node(id), Node::Ident(name) if &**name == variable);
        let selects = |id: &Id| match self.ast.node(*id) {
            Node::Select { operand, field: name, .. } => &**name == field && is(*operand),
            Node::Call { function, target: None, args } if &**function == "_?._" => match args.as_slice() {
                [operand, name] => {
                    let text =
                        matches!(self.ast.node(*name), Node::Literal(ast::Literal::String(text)) if &**text == field);
                    text && is(*operand)
                }
                _ => false,
            },
            _ => false,
        };
        self.ast.reachable(self.root).iter().any(selects)
    }
    /// Whether the expression uses a variable, at any depth.
    pub fn uses(&self, variable: &str) -> bool {
        let uses = |id: &Id| matches!(self.ast.node(*id), Node::Ident(name) if &**name == variable);
        self.ast.reachable(self.root).iter().any(uses)
    }
}

/// Source: cel-go `interpreter/optimizations.go`, `common/overloads/overloads.go` `IsTypeConversionFunction`.
fn constants(ast: &Ast) -> Vec<bool> {
    const CONVERSIONS: [&str; 10] =
        ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"];
    let mut constant = vec![false; ast.len()];
    for id in ast.ids() {
        let is = |id: &Id| constant[id.index()];
        let value = match ast.node(id) {
            Node::Literal(_) => true,
            Node::List { items, optional } => optional.is_empty() && items.iter().all(is),
            Node::Map(entries) => entries.iter().all(|e| !e.optional && is(&e.key) && is(&e.value)),
            Node::Call { function, target: None, args } => {
                CONVERSIONS.contains(&&**function) && args.len() == 1 && is(&args[0])
            }
            _ => false,
        };
        constant[id.index()] = value;
    }
    constant
}
