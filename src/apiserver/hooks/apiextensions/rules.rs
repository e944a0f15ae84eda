//! Whether the rules of a schema are expressions, and what they can cost.
//!
//! Source: apiextensions-apiserver `pkg/apis/apiextensions/validation/{validation,cel_validation}.go`.

use serde_json::Value;
use types::field::{FieldError, Path};

use crate::custom::schema::rules::{self, Findings};
use crate::hooks::json::{boolean, get, has, int, list, map, text};

/// What one rule of a definition may cost at most. Source: there, `StaticEstimatedCostLimit`.
const RULE_COST_MAX: u64 = 10_000_000;
/// What all rules of one schema may. Source: there, `StaticEstimatedCRDCostLimit`.
const SCHEMA_COST_MAX: u64 = 100_000_000;
/// So many of the most expensive rules are named.
const NAMED_MAX: usize = 4;

/// What is wrong with the rules of a schema that is otherwise valid. `unchanged`: it was so before.
pub fn validate(schema: &Value, unchanged: bool, path: &Path) -> Vec<FieldError> {
    let mut walk = Walk { unchanged, errors: Vec::new(), total: 0, expensive: Vec::new() };
    walk.node(schema, true, path, Some(1), None);
    if walk.total > SCHEMA_COST_MAX {
        for (at, _) in &walk.expensive {
            let words = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            walk.errors.push(FieldError::forbidden(at, words));
        }
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        walk.errors.push(FieldError::forbidden(path, exceeds(name, walk.total, SCHEMA_COST_MAX)));
    }
    walk.errors
}

struct Walk {
    unchanged: bool,
    errors: Vec<FieldError>,
    total: u64,
    expensive: Vec<(Path, u64)>,
}

impl Walk {
    /// `times`: how often the node can be in an object, when that is known. `apart`: the nearest place above in which old and
    /// new values cannot be told to be the same.
    fn node(&mut self, schema: &Value, root: bool, path: &Path, times: Option<u64>, apart: Option<&Path>) {
        let Some(props) = schema.as_object() else { return };
        let below = match text(schema, "type") {
            "object" if has(schema, "additionalProperties") => int(schema, "maxProperties"),
            "array" => int(schema, "maxItems"),
            _ => Some(1),
        };
        let below = times.zip(below).map(|(times, most)| times.saturating_mul(u64::try_from(most).unwrap_or(0)));
        for (i, rule) in rules::compile(props, root).iter().enumerate() {
            let given = &list(schema, "x-kubernetes-validations")[i];
            self.rule(given, &rule.findings(), &path.child("x-kubernetes-validations").index(i), times, apart);
        }
        for (name, property) in map(schema, "properties") {
            self.node(property, false, &path.child("properties").key(name), below, apart);
        }
        self.node(get(schema, "additionalProperties"), false, &path.child("additionalProperties"), below, apart);
        let items_apart = (text(schema, "x-kubernetes-list-type") != "map").then_some(path);
        self.node(get(schema, "items"), false, &path.child("items"), below, apart.or(items_apart));
    }

    fn rule(&mut self, rule: &Value, found: &Findings<'_>, path: &Path, times: Option<u64>, apart: Option<&Path>) {
        let at = path.child("rule");
        let cost = found.cost.saturating_mul(times.unwrap_or(found.times_max));
        if !self.unchanged && cost > RULE_COST_MAX {
            self.errors.push(FieldError::forbidden(&at, exceeds("estimated rule cost", cost, RULE_COST_MAX)));
        }
        self.observe(&at, cost);
        if let Some(why) = found.error {
            self.errors.push(FieldError::invalid(&at, &shown(rule), why));
        }
        let at_message = path.child("messageExpression");
        match (found.message_error, found.message_cost) {
            (Some(why), _) => self.errors.push(FieldError::invalid(&at_message, &shown(rule), why)),
            (None, Some(cost)) => {
                if !self.unchanged && cost > RULE_COST_MAX {
                    let words = exceeds("estimated messageExpression cost", cost, RULE_COST_MAX);
                    self.errors.push(FieldError::forbidden(&at_message, words));
                }
                self.observe(&at_message, cost);
            }
            (None, None) => {}
        }
        if found.transition {
            if let Some(apart) = apart {
                let words =
                    format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {apart}");
                self.errors.push(FieldError::invalid(&at, text(rule, "rule"), words));
            }
        } else if has(rule, "optionalOldSelf") {
            let value = Value::Bool(boolean(rule, "optionalOldSelf"));
            let words = "may not be set if oldSelf is not used in rule";
            self.errors.push(FieldError::invalid(&path.child("optionalOldSelf"), &value, words));
        }
    }

    fn observe(&mut self, path: &Path, cost: u64) {
        self.total = self.total.saturating_add(cost);
        if cost < SCHEMA_COST_MAX / 100 {
            return;
        }
        self.expensive.push((path.clone(), cost));
        self.expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        self.expensive.truncate(NAMED_MAX);
    }
}

/// A rule as upstream shows the value of its struct.
fn shown(rule: &Value) -> Value {
    let field = |key: &str| Value::String(text(rule, key).to_owned());
    let or_null = |key: &str| get(rule, key).clone();
    let mut out = serde_json::Map::new();
    for (name, value) in [
        ("Rule", field("rule")),
        ("Message", field("message")),
        ("MessageExpression", field("messageExpression")),
        ("Reason", or_null("reason")),
        ("FieldPath", field("fieldPath")),
        ("OptionalOldSelf", or_null("optionalOldSelf")),
    ] {
        out.insert(name.to_owned(), value);
    }
    Value::Object(out)
}

/// Source: `getCostErrorMessage`.
fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a factor is shown with one digit")]
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}
