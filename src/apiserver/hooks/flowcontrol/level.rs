//! PriorityLevelConfiguration: how many seats a level has, and how requests wait for one.

use serde_json::Value;
use types::field::{FieldError, Path};

use super::super::check::{self, Errors};
use super::super::json::{self, get, has, int, object_mut, set_absent, set_zero, text};
use super::bootstrap;

/// The one level without a limit, and the one schema that leads to it first.
pub const EXEMPT: &str = "exempt";
const SHARES: i64 = 30;
const QUEUES: i64 = 64;
const HAND: i64 = 8;
const QUEUE_LENGTH: i64 = 50;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of the hash that hands of queues are dealt from. Source: apiserver `pkg/util/shufflesharding/dealer.go`.
const HASH_BITS: i64 = 60;
/// An annotation of the conversion to an older version, which must not be stored.
const ROUND_TRIP: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
const NOT_NEGATIVE: &str = "must be a non-negative integer";

pub fn default(level: &mut Value) {
    let Some(spec) = object_mut(level, "spec") else { return };
    if let Some(exempt) = object_mut(spec, "exempt") {
        set_absent(exempt, "nominalConcurrencyShares", 0);
        set_absent(exempt, "lendablePercent", 0);
    }
    if let Some(limited) = object_mut(spec, "limited") {
        set_absent(limited, "nominalConcurrencyShares", SHARES);
        set_absent(limited, "lendablePercent", 0);
        if let Some(queuing) = object_mut(limited, "limitResponse").and_then(|r| object_mut(r, "queuing")) {
            set_zero(queuing, "handSize", HAND);
            set_zero(queuing, "queues", QUEUES);
            set_zero(queuing, "queueLengthLimit", QUEUE_LENGTH);
        }
    }
}

pub fn validate(level: &Value) -> Errors {
    let mut errors = Vec::new();
    let metadata = get(level, "metadata");
    if has(get(metadata, "annotations"), ROUND_TRIP) {
        let words = format!("annotation '{ROUND_TRIP}' is forbidden");
        errors.push(FieldError::forbidden(&Path::new("metadata.annotations"), words));
    }
    let (spec, path) = (get(level, "spec"), Path::new("spec"));
    let kind = text(spec, "type");
    let (limited, exempt) = (path.child("limited"), path.child("exempt"));
    if (text(metadata, "name") == EXEMPT) != (kind == "Exempt") {
        let words = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(FieldError::invalid(&path.child("type"), kind, words));
    }
    match kind {
        "Exempt" => {
            if has(spec, "limited") {
                errors.push(FieldError::forbidden(&limited, "must be nil if the type is not Limited"));
            }
            shares(get(spec, "exempt"), &exempt, &mut errors);
            lendable(get(spec, "exempt"), &exempt, &mut errors);
        }
        "Limited" => {
            if has(spec, "exempt") {
                errors.push(FieldError::forbidden(&exempt, "must be nil if the type is Limited"));
            }
            if has(spec, "limited") {
                self::limited(get(spec, "limited"), &limited, &mut errors);
            } else {
                errors.push(FieldError::required(&limited, "must not be empty when type is Limited"));
            }
        }
        _ => errors.push(FieldError::not_supported(&path.child("type"), kind, &["Exempt", "Limited"])),
    }
    errors.extend(super::mandatory(level, &bootstrap::mandatory_levels()));
    errors.extend(super::conditions(level));
    errors
}

fn shares(of: &Value, path: &Path, errors: &mut Errors) {
    if let Some(n) = int(of, "nominalConcurrencyShares").filter(|n| *n < 0) {
        errors.push(FieldError::invalid(&path.child("nominalConcurrencyShares"), n, NOT_NEGATIVE));
    }
}

fn lendable(of: &Value, path: &Path, errors: &mut Errors) {
    check::in_range(errors, of, "lendablePercent", path, 0, 100);
}

fn limited(of: &Value, path: &Path, errors: &mut Errors) {
    shares(of, path, errors);
    let (response, at) = (get(of, "limitResponse"), path.child("limitResponse"));
    let (kind, queuing) = (text(response, "type"), at.child("queuing"));
    match (kind, has(response, "queuing")) {
        ("Reject", true) => {
            let words = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(FieldError::forbidden(&queuing, words));
        }
        ("Reject", false) => {}
        ("Queue", true) => self::queuing(get(response, "queuing"), &queuing, errors),
        ("Queue", false) => {
            let words = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(&queuing, words));
        }
        _ => errors.push(FieldError::not_supported(&at.child("type"), kind, &["Queue", "Reject"])),
    }
    lendable(of, path, errors);
    if let Some(n) = int(of, "borrowingLimitPercent").filter(|n| *n < 0) {
        let words = format!("if specified, {NOT_NEGATIVE}");
        errors.push(FieldError::invalid(&path.child("borrowingLimitPercent"), n, words));
    }
}

fn queuing(of: &Value, path: &Path, errors: &mut Errors) {
    let number = |field| json::int(of, field).unwrap_or(0);
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    if length <= 0 {
        errors.push(FieldError::invalid(&path.child("queueLengthLimit"), length, "must be positive"));
    }
    if queues <= 0 {
        errors.push(FieldError::invalid(&path.child("queues"), queues, "must be positive"));
    } else if queues > QUEUES_MAX {
        let words = format!("must not be greater than {QUEUES_MAX}");
        errors.push(FieldError::invalid(&path.child("queues"), queues, words));
    }
    let path = path.child("handSize");
    if hand <= 0 {
        errors.push(FieldError::invalid(&path, hand, "must be positive"));
    } else if hand > queues {
        errors.push(FieldError::invalid(&path, hand, format!("should not be greater than queues ({queues})")));
    } else if entropy_bits(queues, hand) > HASH_BITS {
        let words = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.push(FieldError::invalid(&path, hand, words));
    }
}

fn entropy_bits(deck: i64, hand: i64) -> i64 {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    let bits = ((deck as f64).log2() * hand as f64).ceil() as i64;
    bits
}
