//! The expressions of an issuer's configuration: what the claims of a token become, and what must hold of them and of the user.
//!
//! What never lives here: a signature, a claim that is named without an expression ([`super::issuer`] reads those).
//!
//! Source: apiserver `pkg/authentication/cel`, `pkg/apis/apiserver/validation`, `plugin/pkg/authenticator/token/oidc/oidc.go`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Value as Json, json};
use types::field::{FieldError, Path};

use super::identity::Identity;
use super::settings::{Issuer, Mapping};
use crate::hooks::check;
use cel::types::Type;
use cel::{Activation, CALL_COST_MAX, Decl, Env, Program, Value, issue};

static CLAIMS: LazyLock<Env> = LazyLock::new(|| Env::default().with("claims", Decl::map(Decl::dynamic())));
static USER: LazyLock<Env> = LazyLock::new(|| {
    let text = || Decl::scalar(Type::String);
    let texts = || Decl::list(text());
    let fields = [("username", text()), ("uid", text()), ("groups", texts()), ("extra", Decl::map(texts()))];
    Env::default().with("user", Decl::object("kubernetes.UserInfo", fields))
});

const NOT_TEXTS: &str = "expression must return a string or a list of strings";

struct Expression {
    text: String,
    program: Program,
}

struct Rule {
    expression: Expression,
    message: String,
}

/// The compiled expressions of one issuer.
#[derive(Default)]
pub struct Claims {
    username: Option<Expression>,
    groups: Option<Expression>,
    uid: Option<Expression>,
    /// By key.
    extra: Vec<(String, Expression)>,
    rules: Vec<Rule>,
    user_rules: Vec<Rule>,
}

impl Claims {
    /// Compiles what the configuration says, and checks it; `path` is the issuer's.
    pub fn compile(issuer: &Issuer, path: &Path, errors: &mut Vec<FieldError>) -> Self {
        let mut claims = Self::default();
        claims.claim_rules(issuer, &path.child("claimValidationRules"), errors);
        claims.mappings(issuer, &path.child("claimMappings"), errors);
        claims.users(issuer, &path.child("userValidationRules"), errors);
        claims
    }

    fn claim_rules(&mut self, issuer: &Issuer, path: &Path, errors: &mut Vec<FieldError>) {
        let (mut claims, mut expressions) = (BTreeSet::new(), BTreeSet::new());
        for (i, rule) in issuer.claim_validation_rules.iter().enumerate() {
            let path = path.index(i);
            match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (false, false) => {
                    let words = "claim and expression can't both be set";
                    errors.push(FieldError::invalid(&path, rule.claim.as_str(), words));
                }
                (true, true) => errors.push(FieldError::required(&path, "claim or expression is required")),
                (false, true) => {
                    if !rule.message.is_empty() {
                        let words = "may not be specified when claim is set";
                        errors.push(FieldError::invalid(&path.child("message"), rule.message.as_str(), words));
                    }
                    if !claims.insert(&rule.claim) {
                        errors.push(FieldError::duplicate(&path.child("claim"), rule.claim.as_str()));
                    }
                }
                (true, false) => {
                    if !rule.required_value.is_empty() {
                        let path = path.child("requiredValue");
                        let words = "may not be specified when expression is set";
                        errors.push(FieldError::invalid(&path, rule.required_value.as_str(), words));
                    }
                    let path = path.child("expression");
                    if !expressions.insert(&rule.expression) {
                        errors.push(FieldError::duplicate(&path, rule.expression.as_str()));
                        continue;
                    }
                    let compiled = Expression::compile(&CLAIMS, &rule.expression, true, &path, errors);
                    let message = rule.message.clone();
                    self.rules.extend(compiled.map(|expression| Rule { expression, message }));
                }
            }
        }
    }

    fn mappings(&mut self, issuer: &Issuer, path: &Path, errors: &mut Vec<FieldError>) {
        let mappings = &issuer.claim_mappings;
        self.username = prefixed(&mappings.username, &path.child("username"), errors);
        if mappings.username.claim.is_empty() && mappings.username.expression.is_empty() {
            errors.push(FieldError::required(&path.child("username"), "claim or expression is required"));
        }
        self.groups = prefixed(&mappings.groups, &path.child("groups"), errors);
        let (uid, at) = (&mappings.uid, path.child("uid"));
        if !uid.claim.is_empty() && !uid.expression.is_empty() {
            errors.push(FieldError::invalid(&at, "", "claim and expression can't both be set"));
        } else if !uid.expression.is_empty() {
            self.uid = Expression::compile(&CLAIMS, &uid.expression, false, &at.child("expression"), errors);
        }
        let mut keys = BTreeSet::new();
        for (i, mapping) in mappings.extra.iter().enumerate() {
            let path = path.child("extra").index(i);
            let (key, at) = (mapping.key.as_str(), path.child("key"));
            check::domain_prefixed_path(key, &at, errors);
            if key != key.to_lowercase() {
                errors.push(FieldError::invalid(&at, key, "must be lowercase"));
            }
            if is_reserved(key) {
                let words = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
                errors.push(FieldError::invalid(&at, key, words));
            }
            if !keys.insert(key) {
                errors.push(FieldError::duplicate(&at, key));
                continue;
            }
            let path = path.child("valueExpression");
            if mapping.value_expression.is_empty() {
                errors.push(FieldError::required(&path, ""));
                continue;
            }
            let compiled = Expression::compile(&CLAIMS, &mapping.value_expression, false, &path, errors);
            self.extra.extend(compiled.map(|expression| (key.to_owned(), expression)));
        }
        let verified = |expression: &Expression| expression.program.selects("claims", "email_verified");
        let mut verifying = self.username.iter().chain(self.extra.iter().map(|(_, expression)| expression));
        let unverified = !verifying.any(verified) && !self.rules.iter().any(|rule| verified(&rule.expression));
        if unverified && self.username.as_ref().is_some_and(|name| name.program.selects("claims", "email")) {
            let words = "claims.email_verified must be used in claimMappings.username.expression or \
                         claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is \
                         used in claimMappings.username.expression";
            let path = path.child("username").child("expression");
            errors.push(FieldError::invalid(&path, mappings.username.expression.as_str(), words));
        }
    }

    fn users(&mut self, issuer: &Issuer, path: &Path, errors: &mut Vec<FieldError>) {
        let mut seen = BTreeSet::new();
        for (i, rule) in issuer.user_validation_rules.iter().enumerate() {
            let path = path.index(i).child("expression");
            if rule.expression.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else if !seen.insert(&rule.expression) {
                errors.push(FieldError::duplicate(&path, rule.expression.as_str()));
            } else {
                let compiled = Expression::compile(&USER, &rule.expression, true, &path, errors);
                let message = rule.message.clone();
                self.user_rules.extend(compiled.map(|expression| Rule { expression, message }));
            }
        }
    }

    /// The name that an expression makes; `None` when a claim names it.
    ///
    /// # Errors
    /// Why it makes none.
    pub fn username(&self, claims: &Json) -> Result<Option<String>, String> {
        let Some(expression) = &self.username else { return Ok(None) };
        let name = expression.text_of("username", claims)?;
        if name.is_empty() {
            return Err("oidc: empty username via CEL expression is not allowed".into());
        }
        Ok(Some(name))
    }

    /// As [`Claims::username`].
    pub fn uid(&self, claims: &Json) -> Result<Option<String>, String> {
        self.uid.as_ref().map(|expression| expression.text_of("uid", claims)).transpose()
    }

    /// As [`Claims::username`].
    pub fn groups(&self, claims: &Json) -> Result<Option<Vec<String>>, String> {
        let texts = |expression: &Expression| texts(&expression.eval("claims", claims)?).map_err(str::to_owned);
        let failed = |why| format!("oidc: error evaluating group claim expression: {why}");
        self.groups.as_ref().map(|expression| texts(expression).map_err(failed)).transpose()
    }

    /// What the expressions add to the user, by key.
    ///
    /// # Errors
    /// Why one adds nothing that it may.
    pub fn extra(&self, claims: &Json) -> Result<Vec<(String, Vec<String>)>, String> {
        let mut all = Vec::new();
        for (key, expression) in &self.extra {
            let value = expression.eval("claims", claims)?;
            let values = texts(&value)
                .map_err(|why| format!("oidc: error evaluating extra claim expression: {}: {why}", expression.text))?;
            if !values.is_empty() {
                all.push((key.clone(), values));
            }
        }
        Ok(all)
    }

    /// # Errors
    /// Which rule does not hold of the claims.
    pub fn check_claims(&self, claims: &Json) -> Result<(), String> {
        let failed = |why| format!("oidc: error evaluating claim validation expression: {why}");
        self.rules.iter().try_for_each(|rule| rule.holds("claims", claims)).map_err(failed)
    }

    /// # Errors
    /// Which rule does not hold of the user.
    pub fn check_user(&self, user: &Identity) -> Result<(), String> {
        if self.user_rules.is_empty() {
            return Ok(());
        }
        // Every field is there, as the type of `user` has it.
        let info = json!({"username": user.user, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        let failed = |why| format!("oidc: error evaluating user info validation rule: {why}");
        self.user_rules.iter().try_for_each(|rule| rule.holds("user", &info)).map_err(failed)
    }
}

impl Expression {
    /// `condition`: it must evaluate to a truth.
    fn compile(env: &Env, text: &str, condition: bool, path: &Path, errors: &mut Vec<FieldError>) -> Option<Self> {
        match env.compile(text) {
            Ok(program) if condition && *program.result_type() != Type::Bool => {
                errors.push(FieldError::invalid(path, text, "must evaluate to bool"));
                None
            }
            Ok(program) => Some(Self { text: text.to_owned(), program }),
            Err(issues) => {
                let why = format!("compilation failed: {}", issue::render(text, &issues));
                errors.push(FieldError::invalid(path, text, why));
                None
            }
        }
    }

    fn eval<'a>(&self, name: &'static str, of: &'a Json) -> Result<Value<'a>, String> {
        let activation = Activation::default().with(name, Value::of_json(of));
        let outcome = self.program.eval(&activation, CALL_COST_MAX);
        outcome.value.map_err(|why| format!("expression '{}' resulted in error: {why}", self.text))
    }

    fn text_of(&self, what: &str, claims: &Json) -> Result<String, String> {
        let failed = |why: String| format!("oidc: error evaluating {what} claim expression: {why}");
        match self.eval("claims", claims).map_err(failed)? {
            Value::String(text) => Ok(text.to_string()),
            _ => Err(failed(format!("{what} claim expression must return a string"))),
        }
    }
}

impl Rule {
    fn holds(&self, name: &'static str, of: &Json) -> Result<(), String> {
        match self.expression.eval(name, of)? {
            Value::Bool(true) => Ok(()),
            Value::Bool(false) => {
                Err(format!("validation expression '{}' failed: {}", self.expression.text, self.message))
            }
            _ => Err("validation expression must return a boolean".into()),
        }
    }
}

/// One text, several or none; empty ones are left out.
fn texts(value: &Value) -> Result<Vec<String>, &'static str> {
    let mut all = match value {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text.to_string()],
        Value::List(list) => list
            .iter()
            .map(|item| match item {
                Ok(Value::String(text)) => Ok(text.to_string()),
                _ => Err(NOT_TEXTS),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(NOT_TEXTS),
    };
    all.retain(|text| !text.is_empty());
    Ok(all)
}

fn prefixed(mapping: &Mapping, path: &Path, errors: &mut Vec<FieldError>) -> Option<Expression> {
    match (mapping.claim.is_empty(), mapping.expression.is_empty()) {
        (true, true) => None,
        (false, false) => {
            errors.push(FieldError::invalid(path, "", "claim and expression can't both be set"));
            None
        }
        (false, true) => {
            if mapping.prefix.is_none() {
                let words =
                    "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.push(FieldError::required(&path.child("prefix"), words));
            }
            None
        }
        (true, false) => {
            if let Some(prefix) = &mapping.prefix {
                let words = "may not be specified when expression is set";
                errors.push(FieldError::invalid(&path.child("prefix"), prefix.as_str(), words));
            }
            Expression::compile(&CLAIMS, &mapping.expression, false, &path.child("expression"), errors)
        }
    }
}

fn is_reserved(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    ["kubernetes.io", "k8s.io"].iter().any(|own| domain == *own || domain.ends_with(&format!(".{own}")))
}
