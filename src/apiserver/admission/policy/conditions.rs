//! Match conditions of a policy or a webhook: expressions that all have to hold before anybody is asked.
//!
//! Source: apiserver `pkg/admission/plugin/webhook/matchconditions/matcher.go`.

use serde_json::Value as Json;

use super::environment::{Options, Returns};
use super::expression::{Composition, Expression, evaluate};
use crate::hooks::json::{list, text};
use cel::{Activation, MATCH_CONDITIONS_COST_MAX, Value};

pub struct Conditions(Vec<Expression>);

impl Conditions {
    /// Of an object with `matchConditions`.
    pub fn compile(of: &Json, composition: &Composition, options: Options) -> Self {
        let conditions = list(of, "matchConditions");
        if conditions.is_empty() {
            return Self(Vec::new());
        }
        let env = composition.env(options);
        let compile = |condition| Expression::compile(&env, text(condition, "expression"), Returns::Bool);
        Self(conditions.iter().map(compile).collect())
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of them hold; one that does not hold decides, whatever else fails.
    ///
    /// # Errors
    /// None is false and these could not be evaluated; what follows is the failure policy's.
    pub fn hold(&self, composition: &Composition, activation: &Activation) -> Result<bool, String> {
        let mut budget = MATCH_CONDITIONS_COST_MAX;
        let results = evaluate(self.0.iter().map(Some), composition, activation, &mut budget)?;
        let mut errors: Vec<String> = Vec::new();
        for result in results.into_iter().flatten() {
            match result {
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => {}
                Err(why) if errors.contains(&why) => {}
                Err(why) => errors.push(why),
            }
        }
        match &errors[..] {
            [] => Ok(true),
            [only] => Err(only.clone()),
            all => Err(format!("[{}]", all.join(", "))),
        }
    }
}
