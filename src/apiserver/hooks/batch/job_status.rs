//! What is valid in the status of a Job, and what may change there. Each rule holds for what a write changes, so that jobs
//! from before there was the rule can still be written. Source: `getStatusValidationOptions`, `ValidateJobStatusUpdate`.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::super::check::{Errors, not_negative};
use super::super::json::{boolean, get, has, int, list, same, text};
use super::policies::bare;
use super::{indexes, is};

/// The status as it was and as it is written, and the spec beside it.
struct Change<'a> {
    spec: &'a Value,
    now: &'a Value,
    was: &'a Value,
    path: Path,
}

fn finished(status: &Value) -> bool {
    is(status, "Complete", "True") || is(status, "Failed", "True")
}

impl Change<'_> {
    fn changed(&self, field: &str) -> bool {
        !same(get(self.now, field), get(self.was, field))
    }
    fn turned(&self, condition: &str) -> bool {
        is(self.now, condition, "True") != is(self.was, condition, "True")
    }
    fn has(&self, condition: &str) -> bool {
        is(self.now, condition, "True")
    }
    fn count(&self, field: &str) -> i64 {
        int(self.now, field).unwrap_or(0)
    }
    fn conditions(&self, words: &str) -> FieldError {
        bare(&self.path.child("conditions"), words)
    }
    fn invalid(&self, field: &str, words: impl Into<String>) -> FieldError {
        FieldError::invalid(&self.path.child(field), get(self.now, field), words)
    }
    fn required(&self, field: &str, words: &str) -> FieldError {
        FieldError::required(&self.path.child(field), words)
    }
}

pub fn validate_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let change =
        Change { spec: get(new, "spec"), now: get(new, "status"), was: get(old, "status"), path: Path::new("status") };
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        not_negative(&mut errors, change.now, field, &change.path);
    }
    uncounted(&change, &mut errors);
    ends(&change, &mut errors);
    lists(&change, &mut errors);
    if (change.changed("ready") || change.changed("active")) && change.count("ready") > change.count("active") {
        errors.push(change.invalid("ready", "cannot set more ready pods than active"));
    }
    criteria(&change, &mut errors);
    steps(&change, &mut errors);
    errors
}

/// Pods that have ended and are not counted yet: each once.
fn uncounted(change: &Change<'_>, errors: &mut Errors) {
    let (pods, path) = (get(change.now, "uncountedTerminatedPods"), change.path.child("uncountedTerminatedPods"));
    let mut seen = std::collections::BTreeSet::new();
    for field in ["succeeded", "failed"] {
        for (i, uid) in list(pods, field).iter().enumerate() {
            let (uid, path) = (uid.as_str().unwrap_or_default(), path.child(field).index(i));
            if uid.is_empty() {
                errors.push(FieldError::invalid(&path, uid, "must not be empty"));
            } else if !seen.insert(uid) {
                errors.push(FieldError::duplicate(&path, uid));
            }
        }
    }
}

/// What belongs to the end of a job, and what does not.
fn ends(change: &Change<'_>, errors: &mut Errors) {
    let (complete, failed, target) = (change.has("Complete"), change.has("Failed"), change.has("FailureTarget"));
    let (completes, fails) = (change.turned("Complete"), change.turned("Failed"));
    let (end, ended) = (finished(change.now) != finished(change.was), finished(change.now));
    if (completes || fails) && complete && failed {
        errors.push(change.conditions("cannot set Complete=True and Failed=true conditions"));
    }
    if (completes || change.turned("FailureTarget")) && complete && target {
        errors.push(change.conditions("cannot set Complete=True and FailureTarget=true conditions"));
    }
    let (timed, started) = (has(change.now, "completionTime"), has(change.now, "startTime"));
    if completes || change.changed("completionTime") {
        if timed && !complete {
            let words = "cannot set completionTime when there is no Complete=True condition";
            errors.push(change.invalid("completionTime", words));
        }
        if !timed && complete {
            errors.push(change.required("completionTime", "completionTime is required for Complete jobs"));
        }
    }
    let time = |field| text(change.now, field).parse::<jiff::Timestamp>().ok();
    if (change.changed("startTime") || change.changed("completionTime"))
        && let (Some(start), Some(end)) = (time("startTime"), time("completionTime"))
        && end < start
    {
        errors.push(change.invalid("completionTime", "must be equal to or after `startTime`"));
    }
    if (fails || change.changed("failedIndexes")) && failed && !target {
        errors.push(change.conditions("cannot set Failed=True condition without the FailureTarget=true condition"));
    }
    if (completes || change.turned("SuccessCriteriaMet")) && complete && !change.has("SuccessCriteriaMet") {
        let words = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errors.push(change.conditions(words));
    }
    if !ended {
        return;
    }
    if (end || change.changed("active")) && change.count("active") > 0 {
        errors.push(change.invalid("active", "active>0 is invalid for finished job"));
    }
    let nothing_to_do = boolean(change.spec, "suspend") && int(change.spec, "completions") == Some(0);
    if (end || change.changed("startTime")) && !nothing_to_do && !started {
        errors.push(change.required("startTime", "startTime is required for finished job"));
    }
    let pods = get(change.now, "uncountedTerminatedPods");
    let left = list(pods, "failed").len() + list(pods, "succeeded").len();
    if (end || change.changed("uncountedTerminatedPods")) && left > 0 {
        errors.push(change.invalid("uncountedTerminatedPods", "must be empty for finished job"));
    }
    if (end || change.changed("terminating")) && change.count("terminating") > 0 {
        errors.push(change.invalid("terminating", "terminating>0 is invalid for finished job"));
    }
}

/// The lists of indexes that completed and failed.
fn lists(change: &Change<'_>, errors: &mut Errors) {
    let completions = int(change.spec, "completions");
    let by_index = has(change.spec, "backoffLimitPerIndex");
    let (completed, failed) = (text(change.now, "completedIndexes"), get(change.now, "failedIndexes").as_str());
    let completed_changes = completed != text(change.was, "completedIndexes");
    let failed_changes = change.changed("failedIndexes");
    let mut readable = |field: &str, listed: &str| {
        if let Some(Err(why)) = completions.map(|completions| indexes::count(listed, completions)) {
            errors.push(change.invalid(field, format!("error parsing {field}: {why}")));
        }
    };
    if completed_changes {
        readable("completedIndexes", completed);
    }
    if let Some(failed) = failed.filter(|_| failed_changes && by_index) {
        readable("failedIndexes", failed);
    }
    if completed_changes && !completed.is_empty() && text(change.spec, "completionMode") != "Indexed" {
        let words = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(change.invalid("completedIndexes", words));
    }
    let Some(failed) = failed else { return };
    if failed_changes && !by_index {
        let words = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(change.invalid("failedIndexes", words));
    }
    if (completed_changes || failed_changes)
        && let Some(at) = completions.and_then(|completions| indexes::overlap(completed, failed, completions))
    {
        let words = format!("failedIndexes and completedIndexes overlap at index: {at}");
        errors.push(change.invalid("failedIndexes", words));
    }
}

fn criteria(change: &Change<'_>, errors: &mut Errors) {
    let met = change.has("SuccessCriteriaMet");
    if met && change.has("Failed") {
        errors.push(change.conditions("cannot set SuccessCriteriaMet=True and Failed=true conditions"));
    }
    if met && change.has("FailureTarget") {
        errors.push(change.conditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"));
    }
    if has(change.spec, "successPolicy") && !met && change.has("Complete") {
        let words = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        errors.push(change.conditions(words));
    }
}

/// What goes one way only.
fn steps(change: &Change<'_>, errors: &mut Errors) {
    let was = |condition: &str| is(change.was, condition, "True");
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if was(condition) && !change.has(condition) {
            errors.push(change.conditions(&format!("cannot disable the terminal {condition}=True condition")));
        }
    }
    let less = |field| change.count(field) < int(change.was, field).unwrap_or(0);
    if less("failed") {
        let count = change.count("failed");
        errors.push(FieldError::invalid(&change.path.child("failed"), count, "cannot decrease the failed counter"));
    }
    let elastic = text(change.spec, "completionMode") == "Indexed"
        && get(change.spec, "completions") == get(change.spec, "parallelism");
    if !elastic && less("succeeded") {
        let count = change.count("succeeded");
        let words = "cannot decrease the succeeded counter";
        errors.push(FieldError::invalid(&change.path.child("succeeded"), count, words));
    }
    let both = |field| has(change.now, field) && has(change.was, field);
    if both("completionTime") && change.changed("completionTime") {
        errors.push(change.invalid("completionTime", "field is immutable"));
    }
    let resumes = was("Suspended") && is(change.now, "Suspended", "False");
    let moved = change.changed("startTime") && has(change.was, "startTime");
    if moved && !resumes && !boolean(change.spec, "suspend") {
        errors.push(change.invalid("startTime", "field is immutable for unsuspended job once set"));
    }
    if was("SuccessCriteriaMet") && !change.has("SuccessCriteriaMet") {
        errors.push(change.conditions("cannot disable the SuccessCriteriaMet=True condition"));
    }
    if was("Complete") && !was("SuccessCriteriaMet") && change.has("SuccessCriteriaMet") {
        let words = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(change.conditions(words));
    }
}
