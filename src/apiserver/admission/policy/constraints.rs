//! Which requests a policy or a binding is about: `matchConstraints` and `matchResources`.
//!
//! Source: apiserver `pkg/admission/plugin/policy/matching/matching.go`.

use serde_json::Value as Json;

use crate::admission::Request;
use crate::admission::matching::{Rule, Selectors};
use crate::hooks::json::{list, texts};

struct NamedRule {
    rule: Rule,
    /// Empty: all names.
    names: Vec<String>,
}

impl NamedRule {
    fn all(of: &Json, field: &str) -> Vec<Self> {
        let read =
            |rule| Self { rule: Rule::read(rule), names: texts(rule, "resourceNames").map(str::to_owned).collect() };
        list(of, field).iter().map(read).collect()
    }
    fn matches(&self, request: &Request) -> bool {
        self.rule.matches(request, request.kind)
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.name))
    }
}

pub struct Constraints {
    rules: Vec<NamedRule>,
    excluded: Vec<NamedRule>,
    selectors: Result<Selectors, String>,
}

impl Constraints {
    pub fn read(of: &Json) -> Self {
        Self {
            rules: NamedRule::all(of, "resourceRules"),
            excluded: NamedRule::all(of, "excludeResourceRules"),
            selectors: Selectors::read(of).map_err(|e| e.to_string()),
        }
    }

    /// Whether the request is one of theirs. No rules are all resources.
    ///
    /// # Errors
    /// The rules match and the selectors cannot be applied.
    pub fn match_(&self, request: &Request) -> Result<bool, String> {
        let named = |rules: &[NamedRule]| rules.iter().any(|rule| rule.matches(request));
        if named(&self.excluded) || !(self.rules.is_empty() || named(&self.rules)) {
            return Ok(false);
        }
        self.selectors.as_ref().map_err(Clone::clone)?.match_(request).map_err(|status| status.message)
    }
}
