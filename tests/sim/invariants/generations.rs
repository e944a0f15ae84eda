//! What a status says to have been observed exists, and never goes back.
//!
//! Source: API conventions, "Typical status properties": `observedGeneration` is the generation that the controller acted on.

use serde_json::Value;

use super::Invariant;
use crate::objects::{Change, Objects, count, number, uid};

#[derive(Debug)]
pub struct Generations;

impl Invariant for Generations {
    fn name(&self) -> &'static str {
        "generations"
    }

    fn observe(&mut self, _: &Objects, change: &Change) -> Result<(), String> {
        let Some(new) = &change.new else { return Ok(()) };
        let Some(observed) = number(new, "/status/observedGeneration") else { return Ok(()) };
        let (place, generation) = (format!("{} {}", change.resource, change.name), count(new, "/metadata/generation"));
        if observed > generation {
            return Err(format!("{place}: {observed} is observed, {generation} is the newest"));
        }
        let same = change.old.as_deref().filter(|old: &&Value| uid(old) == uid(new));
        match same.and_then(|old| number(old, "/status/observedGeneration")) {
            Some(before) if observed < before => Err(format!("{place}: {observed} is observed after {before}")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{History, object};
    use super::*;

    #[test]
    fn what_goes_back_or_ahead_is_told() {
        let mut history = History::of(Generations);
        let at = |generation: i64, observed: i64| {
            object("web", json!({"metadata": {"generation": generation}, "status": {"observedGeneration": observed}}))
        };
        history.write("user", "deployments.apps", &at(3, 2));
        history.holds();
        history.write("deployment-controller", "deployments.apps", &at(3, 4));
        history.breaks("deployments.apps web: 4 is observed, 3 is the newest");
        history.write("deployment-controller", "deployments.apps", &at(4, 3));
        history.breaks("deployments.apps web: 3 is observed after 4");
    }
}
