//! Rules in CEL (`x-kubernetes-validations`): compiled with their schema, evaluated over an object within one budget.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema/cel/{compilation,validation}.go`; KEP-2876, KEP-4008.

use std::sync::Arc;

use serde_json::{Map, Value};
use types::field::{FieldError, Path, Problem};

use super::{Additional, Schema, list};
use cel::types::Type;
use cel::{Activation, CALL_COST_MAX, Decl, Env, OBJECT_COST_MAX, Program, issue, schema, value};

/// Longer messages are not shown. Source: apiserver `pkg/apis/cel/config.go` `MaxEvaluatedMessageExpressionSizeBytes`.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
const NO_MORE: &str = "validation failed due to running out of cost budget, no further validation rules will be run";

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    /// What it is over.
    decl: Arc<Decl>,
    /// `None`: the text is empty.
    program: Option<Result<Program, String>>,
    message: Option<Result<Program, String>>,
    /// The rule uses `oldSelf`.
    transition: bool,
    /// `oldSelf` is an optional, and the rule is asked of new values too.
    optional_old: bool,
    text: Box<str>,
    said: Box<str>,
    reason: Box<str>,
    field: Box<str>,
    type_: Box<str>,
}

/// What compiling a rule found, for those who check a definition.
pub struct Findings<'r> {
    /// Why the rule cannot be compiled.
    pub error: Option<&'r str>,
    pub message_error: Option<&'r str>,
    pub transition: bool,
    /// The most that one evaluation can cost, and how often it can be evaluated in one object at most.
    pub cost: u64,
    pub message_cost: Option<u64>,
    pub times_max: u64,
}

impl Rule {
    pub fn findings(&self) -> Findings<'_> {
        let cost = |of: &Option<Result<Program, String>>| match of {
            Some(Ok(program)) => Some(program.estimate().max),
            _ => None,
        };
        fn wrong(of: &Option<Result<Program, String>>) -> Option<&str> {
            of.as_ref()?.as_ref().err().map(String::as_str)
        }
        Findings {
            error: wrong(&self.program),
            message_error: wrong(&self.message),
            transition: self.transition,
            cost: cost(&self.program).unwrap_or(0),
            message_cost: cost(&self.message),
            times_max: u64::try_from(schema::REQUEST_BYTES_MAX / (self.decl.min_size + 1)).unwrap_or(u64::MAX),
        }
    }

    /// What the rule is called in errors.
    fn shown(&self) -> &str {
        if self.said.is_empty() { self.text.trim() } else { self.said.trim() }
    }
}

/// Compiles the rules of one node; `root`: of a whole object.
pub fn compile(props: &Map<String, Value>, root: bool) -> Box<[Rule]> {
    let rules = props.get("x-kubernetes-validations").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if rules.is_empty() {
        return Box::default();
    }
    let node = Value::Object(props.clone());
    let embedded = props.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true));
    let declared = schema::of_schema(&node, root || embedded, "selfType", &|_| None);
    let decl = Arc::new(declared.unwrap_or_else(Decl::dynamic));
    let plain = Env::default().with("self", (*decl).clone());
    let env = plain.clone().with("oldSelf", (*decl).clone());
    let optional = plain.with("oldSelf", Decl::opaque(Type::optional(decl.type_of())));
    let compiled = rules.iter().map(|rule| {
        let text = |key: &str| -> &str { rule.get(key).and_then(Value::as_str).unwrap_or_default() };
        let optional_old = rule.get("optionalOldSelf") == Some(&Value::Bool(true));
        let env = if optional_old { &optional } else { &env };
        let program = (!text("rule").trim().is_empty()).then(|| program(env, text("rule"), &Type::Bool));
        let message = text("messageExpression");
        let message = (!message.trim().is_empty()).then(|| program_of_message(env, message));
        Rule {
            transition: matches!(&program, Some(Ok(program)) if program.uses("oldSelf")),
            decl: decl.clone(),
            program,
            message,
            optional_old,
            text: text("rule").into(),
            said: text("message").into(),
            reason: text("reason").into(),
            field: normal_path(text("fieldPath")).into(),
            type_: props.get("type").and_then(Value::as_str).unwrap_or_default().into(),
        }
    });
    compiled.collect()
}

fn program(env: &Env, text: &str, expected: &Type) -> Result<Program, String> {
    let program =
        env.compile(text).map_err(|issues| format!("compilation failed: {}", issue::render(text, &issues)))?;
    if program.result_type() != expected {
        return Err("cel expression must evaluate to a bool".into());
    }
    Ok(program)
}

fn program_of_message(env: &Env, text: &str) -> Result<Program, String> {
    let program = env
        .compile(text)
        .map_err(|issues| format!("messageExpression compilation failed: {}", issue::render(text, &issues)))?;
    if *program.result_type() != Type::String {
        return Err("messageExpression must evaluate to a string".into());
    }
    Ok(program)
}

/// A field path as errors show it: without its leading dot, keys in plain brackets.
fn normal_path(path: &str) -> String {
    path.strip_prefix('.').unwrap_or(path).replace("['", "[").replace("']", "]")
}

/// What the rules of a schema say of an object that is otherwise valid.
pub fn check(new: &Value, old: Option<&Value>, schema: &Schema) -> Vec<FieldError> {
    let mut walk = Walk { left: OBJECT_COST_MAX, over: false, errors: Vec::new() };
    walk.node(new, old, schema, &Path::root(), old == Some(new));
    walk.errors
}

struct Walk {
    left: u64,
    /// Nothing is evaluated any more.
    over: bool,
    errors: Vec<FieldError>,
}

impl Walk {
    /// `same`: the value, or the nearest one around it that can be compared, is as it was.
    fn node(&mut self, new: &Value, old: Option<&Value>, schema: &Schema, path: &Path, same: bool) {
        if self.over || !schema.ruled || new.is_null() {
            return;
        }
        for rule in schema.checks.iter().flat_map(|checks| &checks.rules) {
            self.rule(rule, new, old.filter(|old| !old.is_null()), path, same);
            if self.over {
                return;
            }
        }
        match new {
            Value::Object(object) => {
                for (name, value) in object {
                    let before = old.and_then(|old| old.get(name));
                    let same = before.map_or(same, |before| before == value);
                    match (schema.property(name), &schema.additional) {
                        (Some(below), _) => self.node(value, before, below, &path.child(name), same),
                        (None, Additional::Of(below)) => self.node(value, before, below, &path.key(name), same),
                        _ => {}
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = schema.items.as_deref() else { return };
                let older = list::Older::new(old, schema);
                for (i, item) in items.iter().enumerate() {
                    let before = older.of(item, schema);
                    let same = before.map_or(same, |before| before == item);
                    self.node(item, before, below, &path.index(i), same);
                }
            }
            _ => {}
        }
    }

    fn say(&mut self, rule: &Rule, path: &Path, words: String) {
        let value = Value::String(rule.type_.to_string());
        self.errors.push(FieldError::invalid(path, &value, words));
    }

    fn rule(&mut self, rule: &Rule, new: &Value, old: Option<&Value>, path: &Path, same: bool) {
        if self.left == 0 {
            self.say(rule, path, NO_MORE.to_owned());
            self.over = true;
            return;
        }
        let program = match &rule.program {
            None => return,
            Some(Err(why)) => return self.say(rule, path, format!("rule compile error: {why}")),
            Some(Ok(program)) => program,
        };
        if rule.transition && old.is_none() && !rule.optional_old {
            return;
        }
        let typed = |json| value::Value::typed(json, &rule.decl).unwrap_or(value::Value::Null);
        let mut activation = Activation::default().with("self", typed(new));
        match (rule.optional_old, old) {
            (true, Some(old)) => activation.bind("oldSelf", value::Value::some(typed(old))),
            (true, None) => activation.bind("oldSelf", value::Value::Optional(None)),
            (false, Some(old)) => activation.bind("oldSelf", typed(old)),
            (false, None) => {}
        }
        let outcome = program.eval(&activation, CALL_COST_MAX);
        if outcome.cost > self.left {
            self.say(rule, path, NO_MORE.to_owned());
            self.over = true;
            return;
        }
        self.left -= outcome.cost;
        match outcome.value {
            Ok(value::Value::Bool(true)) => return,
            Ok(_) => {}
            Err(error) => {
                let (error, shown) = (error.to_string(), rule.shown());
                if error.starts_with("no such overload") {
                    let words = format!(
                        "'{error}': call arguments did not match a supported operator, function or macro signature for \
                         rule: {shown}"
                    );
                    self.say(rule, path, words);
                } else if error.starts_with("operation cancelled: actual cost limit exceeded") {
                    let words = format!(
                        "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                    );
                    self.say(rule, path, words);
                    self.over = true;
                } else {
                    self.say(rule, path, format!("{error} evaluating rule: {shown}"));
                }
                return;
            }
        }
        let mut detail = if rule.said.is_empty() {
            format!("failed rule: {}", rule.text.trim())
        } else {
            rule.said.trim().to_owned()
        };
        if let Some(Ok(message)) = &rule.message {
            let outcome = message.eval(&activation, CALL_COST_MAX);
            if outcome.cost > self.left {
                let words = "messageExpression evaluation failed due to running out of cost budget, no further validation \
                             rules will be run";
                self.say(rule, path, words.to_owned());
                self.over = true;
                return;
            }
            self.left -= outcome.cost;
            if let Ok(value) = outcome.value
                && let Ok(Value::String(text)) = value.to_json()
            {
                let text = text.trim();
                if !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n') {
                    detail = text.to_owned();
                }
            }
        }
        // What does not change may be wrong, but for rules about changes.
        if same && !rule.transition {
            return;
        }
        let path = if rule.field.is_empty() { path.clone() } else { path.child(&rule.field) };
        let shown = match &*rule.type_ {
            "object" | "array" => None,
            _ if new.is_string() => Some(format!("{:?}", new.as_str().unwrap_or_default())),
            _ => Some(new.to_string()),
        };
        let problem = match &*rule.reason {
            "FieldValueForbidden" => Problem::Forbidden,
            "FieldValueRequired" => Problem::Required,
            "FieldValueDuplicate" => Problem::Duplicate,
            _ => Problem::Invalid,
        };
        let value = shown.filter(|_| matches!(problem, Problem::Invalid | Problem::Duplicate));
        let detail = if problem == Problem::Duplicate { String::new() } else { detail };
        self.errors.push(FieldError { path, problem, value, detail });
    }
}
