//! Which requests a policy or a binding is about: `matchConstraints` and `matchResources`.
//!
//! Source: apiserver `pkg/admission/plugin/policy/matching/matching.go`.

use serde_json::Value as Json;
use types::registry::KindRef;

use crate::admission::Request;
use crate::admission::matching::{Rule, Selectors};
use crate::hooks::json::{list, text};

pub struct Constraints {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Rules are also about the other versions of the kinds that they name.
    equivalent: bool,
    selectors: Result<Selectors, String>,
}

impl Constraints {
    pub fn read(of: &Json) -> Self {
        let rules = |field| list(of, field).iter().map(Rule::read).collect();
        Self {
            rules: rules("resourceRules"),
            excluded: rules("excludeResourceRules"),
            equivalent: text(of, "matchPolicy") == "Equivalent",
            selectors: Selectors::read(of).map_err(|e| e.to_string()),
        }
    }

    /// The version in which the request is one of theirs; `None` when it is not. No rules are all resources.
    ///
    /// # Errors
    /// The rules match and the selectors cannot be applied.
    pub fn match_(&self, request: &Request) -> Result<Option<KindRef>, String> {
        let version = |rules: &[Rule]| Rule::version(request, self.equivalent, rules);
        if version(&self.excluded).is_some() {
            return Ok(None);
        }
        let matched = if self.rules.is_empty() { Some(request.served.clone()) } else { version(&self.rules) };
        let Some(kind) = matched else { return Ok(None) };
        let selectors = self.selectors.as_ref().map_err(Clone::clone)?;
        Ok(selectors.match_(request).map_err(|status| status.message)?.then_some(kind))
    }
}
