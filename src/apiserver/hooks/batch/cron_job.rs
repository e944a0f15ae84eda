//! CronJob: jobs by the clock.

use serde_json::{Value, json};
use types::cron::Schedule;
use types::field::{FieldError, Path};

use super::super::check::{Errors, not_negative};
use super::super::core::pod::{defaults, warnings};
use super::super::json::{at, boolean, copy, ensure_object, get, has, set, set_absent, set_blank, text};
use super::super::strategy::{bump_generation, first_generation, keep_metadata};
use super::super::{Context, Hooks};
use super::{job, job_spec};

pub static HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_create,
    validate_update,
    warnings: |object| {
        let mut said = warnings::pod_names(object);
        job_spec::warn(at(object, &["spec", "jobTemplate", "spec"]), &Path::new("spec.jobTemplate.spec"), &mut said);
        said
    },
    ..Hooks::NEUTRAL
};

/// Eleven characters are left for what the name of a job gets behind it.
const NAME_BYTES_MAX: usize = 63 - 11;

fn default(object: &mut Value) {
    let Some(spec) = ensure_object(object, "spec") else { return };
    set_blank(spec, "concurrencyPolicy", "Allow");
    set_absent(spec, "suspend", false);
    set_absent(spec, "successfulJobsHistoryLimit", 3);
    set_absent(spec, "failedJobsHistoryLimit", 1);
    let Some(template) = ensure_object(spec, "jobTemplate") else { return };
    set_absent(template, "metadata", json!({}));
    // the pods get their defaults now, the jobs get theirs when they are made
    if let Some(spec) = ensure_object(template, "spec") {
        job::patterns(spec);
    }
    defaults::template(template);
}

fn prepare_create(object: &mut Value, _: &Context) {
    set(object, "status", json!({}));
    first_generation(object);
}

fn prepare_update(new: &mut Value, old: &Value, context: &Context) {
    if context.subresource == "status" {
        copy(new, old, "spec");
        keep_metadata(new, old, &["generation"]);
        return;
    }
    copy(new, old, "status");
    bump_generation(new, old);
}

fn validate(object: &Value) -> Errors {
    let mut errors = Vec::new();
    let (spec, path) = (get(object, "spec"), Path::new("spec"));
    let schedule = text(spec, "schedule");
    if schedule.is_empty() {
        errors.push(FieldError::required(&path.child("schedule"), ""));
    } else if let Err(why) = Schedule::parse(schedule) {
        errors.push(FieldError::invalid(&path.child("schedule"), schedule, why));
    }
    not_negative(&mut errors, spec, "startingDeadlineSeconds", &path);
    let policy = text(spec, "concurrencyPolicy");
    if !matches!(policy, "Allow" | "Forbid" | "Replace") {
        let known = ["Allow", "Forbid", "Replace"];
        errors.push(FieldError::not_supported(&path.child("concurrencyPolicy"), policy, &known));
    }
    template(spec, &path.child("jobTemplate").child("spec"), &mut errors);
    not_negative(&mut errors, spec, "successfulJobsHistoryLimit", &path);
    not_negative(&mut errors, spec, "failedJobsHistoryLimit", &path);
    errors
}

fn template(spec: &Value, path: &Path, errors: &mut Errors) {
    let job = at(spec, &["jobTemplate", "spec"]);
    job_spec::validate(job, path, errors);
    if has(job, "selector") {
        let words = "`selector` will be auto-generated";
        errors.push(FieldError::invalid(&path.child("selector"), get(job, "selector"), words));
    }
    if boolean(job, "manualSelector") {
        let shown = get(job, "manualSelector");
        errors.push(FieldError::not_supported(&path.child("manualSelector"), shown, &["nil", "false"]));
    }
}

fn validate_create(object: &Value, _: &Context) -> Errors {
    let mut errors = Vec::new();
    let spec = get(object, "spec");
    zone_in_schedule(spec, "", &mut errors);
    zone(spec, &mut errors);
    let name = text(get(object, "metadata"), "name");
    if name.len() > NAME_BYTES_MAX {
        let words = format!("must be no more than {NAME_BYTES_MAX} characters");
        errors.push(FieldError::invalid(&Path::new("metadata.name"), name, words));
    }
    errors
}

fn validate_update(new: &Value, old: &Value, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if context.subresource == "status" {
        return errors;
    }
    let (spec, before) = (get(new, "spec"), get(old, "spec"));
    zone_in_schedule(spec, text(before, "schedule"), &mut errors);
    if get(spec, "timeZone") != get(before, "timeZone") {
        zone(spec, &mut errors);
    }
    errors
}

/// A schedule names no zone, unless it did before.
fn zone_in_schedule(spec: &Value, before: &str, errors: &mut Errors) {
    let schedule = text(spec, "schedule");
    if !schedule.contains("TZ") {
        return;
    }
    let words = match (before.contains("TZ"), has(spec, "timeZone")) {
        (false, _) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        (true, true) => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
        (true, false) => return,
    };
    errors.push(FieldError::invalid(&Path::new("spec.schedule"), schedule, words));
}

/// A zone of the time zone database, by its exact name.
fn zone(spec: &Value, errors: &mut Errors) {
    const PART_BYTES_MAX: usize = 14;
    let Some(name) = get(spec, "timeZone").as_str() else { return };
    let mut invalid = |words: &str| errors.push(FieldError::invalid(&Path::new("spec.timeZone"), name, words));
    if name.is_empty() {
        invalid("timeZone must be nil or non-empty string");
        return;
    }
    let unknown = format!("unknown time zone {name}");
    let part = |part: &str| {
        let named = part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'));
        named && (1..=PART_BYTES_MAX).contains(&part.len()) && !matches!(part, "." | "..") && !part.starts_with('-')
    };
    if !name.split('/').all(part) {
        invalid(&unknown);
        return;
    }
    let local = name.eq_ignore_ascii_case("Local");
    if local {
        invalid("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    }
    let known = || jiff::tz::TimeZone::get(name).is_ok_and(|zone| zone.iana_name() == Some(name) || name == "UTC");
    // upstream's library takes exactly this name for the machine's own zone
    if name != "Local" && !known() {
        invalid(&unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones() {
        for (name, errors) in [
            ("Europe/Berlin", 0),
            ("UTC", 0),
            ("europe/berlin", 1),
            ("Mars/Olympus", 1),
            ("../etc", 1),
            ("Local", 1),
            ("local", 2),
            ("", 1),
        ] {
            let mut found = Vec::new();
            zone(&json!({"timeZone": name}), &mut found);
            assert_eq!(found.len(), errors, "{name}: {found:?}");
        }
    }
}
