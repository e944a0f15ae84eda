//! Expressions of a policy, compiled, and how a set of them is evaluated over one request within a budget.
//!
//! Source: apiserver `pkg/admission/plugin/cel/{activation,composition,condition}.go`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use serde_json::Value as Json;

use super::environment::{self, Options, Returns};
use crate::hooks::json::{list, text};
use cel::types::Type;
use cel::value::fault;
use cel::{Activation, CALL_COST_MAX, Env, EvalError, Program, Value, Variables};

/// What is said when the budget does not suffice for all expressions.
pub const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// One expression; the text of its error when it cannot be compiled, which fails whoever needs it.
pub struct Expression {
    pub text: String,
    program: Result<Program, String>,
}

impl Expression {
    pub fn compile(env: &Env, text: &str, returns: Returns) -> Self {
        Self { text: text.to_owned(), program: environment::compile(env, text, returns) }
    }
    pub fn error(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }
}

/// The variables of a policy, which all of its expressions may use.
#[derive(Default)]
pub struct Composition {
    variables: Vec<(String, Expression)>,
    types: Vec<(String, Type)>,
}

impl Composition {
    /// Of a policy's `spec`.
    pub fn compile(spec: &Json, options: Options) -> Self {
        let mut composition = Self::default();
        for variable in list(spec, "variables") {
            let env = composition.env(options);
            let expression = Expression::compile(&env, text(variable, "expression"), Returns::Any);
            let t = expression.program.as_ref().map_or(Type::Dyn, |program| program.result_type().clone());
            let name = text(variable, "name").to_owned();
            composition.types.push((name.clone(), t));
            composition.variables.push((name, expression));
        }
        composition
    }
    /// The environment in which the policy's expressions are compiled.
    pub fn env(&self, options: Options) -> Env {
        let types = self.types.iter().map(|(name, t)| (name.as_str(), t.clone()));
        environment::variables(environment::environment(options), types)
    }
    pub fn errors(&self) -> impl Iterator<Item = (usize, &str)> {
        self.variables.iter().enumerate().filter_map(|(i, (_, expression))| Some((i, expression.error()?)))
    }
}

/// The variables over one activation: each is evaluated when it is first asked for.
struct Composed<'e, 'a> {
    composition: &'e Composition,
    activation: &'e Activation<'a>,
    known: RefCell<HashMap<usize, Result<Value<'a>, EvalError>>>,
    cost: Cell<u64>,
}

impl<'a> Variables<'a> for Composed<'_, 'a> {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let at = self.composition.variables.iter().position(|(known, _)| known == name)?;
        if let Some(known) = self.known.borrow().get(&at) {
            return Some(known.clone());
        }
        let answer = match &self.composition.variables[at].1.program {
            Err(why) => fault(format!("composited variable {name:?} fails to compile: {why}")),
            Ok(program) => {
                let outcome = program.eval_with(self.activation, self, CALL_COST_MAX);
                self.cost.set(self.cost.get().saturating_add(outcome.cost));
                outcome.value.or_else(|why| fault(format!("composited variable {name:?} fails to evaluate: {why}")))
            }
        };
        self.known.borrow_mut().insert(at, answer.clone());
        Some(answer)
    }
}

/// What came of one expression: its value, or why it has none.
pub type Evaluated<'a> = Result<Value<'a>, String>;

/// Evaluates all expressions, `None` where one is left out, and takes their price from the budget.
///
/// # Errors
/// The budget is used up.
pub fn evaluate<'a, 'e>(
    expressions: impl IntoIterator<Item = Option<&'e Expression>>,
    composition: &Composition,
    activation: &Activation<'a>,
    budget: &mut u64,
) -> Result<Vec<Option<Evaluated<'a>>>, &'static str> {
    let variables = Composed { composition, activation, known: RefCell::new(HashMap::new()), cost: Cell::new(0) };
    let mut results = Vec::new();
    for expression in expressions {
        let Some(expression) = expression else {
            results.push(None);
            continue;
        };
        let evaluated = match &expression.program {
            Err(why) => Err(format!("compilation error: {why}")),
            Ok(program) => {
                let outcome = program.eval_with(activation, &variables, CALL_COST_MAX);
                let cost = outcome.cost.saturating_add(variables.cost.take());
                *budget = budget.checked_sub(cost).ok_or(OUT_OF_BUDGET)?;
                outcome.value.map_err(|why| format!("expression '{}' resulted in error: {why}", expression.text))
            }
        };
        results.push(Some(evaluated));
    }
    Ok(results)
}
