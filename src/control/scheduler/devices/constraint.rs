//! What the devices of a claim must have in common, or must not. Pure.
//!
//! Source: k8s.io/dynamic-resource-allocation `structured/internal/incubating/{allocator_incubating,constraint}.go`.

use client::devices::{Attribute, Constraint, Device};

/// A constraint and what the devices that were added say. Once it refuses a device it does so however many more there are.
pub struct Met<'a> {
    /// Requests, or alternatives of them, that it is about; none: all.
    requests: &'a [String],
    attribute: &'a str,
    /// All the same, or all different.
    distinct: bool,
    seen: Vec<&'a Attribute>,
}

impl<'a> Met<'a> {
    /// `None`: it says nothing.
    pub fn of(constraint: &'a Constraint) -> Option<Self> {
        let (attribute, distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), _) => (attribute, false),
            (None, Some(attribute)) => (attribute, true),
            (None, None) => return None,
        };
        Some(Self { requests: &constraint.requests, attribute, distinct, seen: Vec::new() })
    }

    fn concerns(&self, request: &str, alternative: &str) -> bool {
        let is = |name: &String| {
            name == request
                || name.split_once('/').is_some_and(|(r, a)| r == request && a == alternative && !a.is_empty())
        };
        self.requests.is_empty() || self.requests.iter().any(is)
    }

    /// Whether the device may be added; then it is.
    pub fn add(&mut self, request: &str, alternative: &str, driver: &str, device: &'a Device) -> bool {
        if !self.concerns(request, alternative) {
            return true;
        }
        let Some(attribute) = find(device, driver, self.attribute) else { return false };
        let fits = match self.distinct {
            true => !self.seen.contains(&attribute),
            false => self.seen.first().is_none_or(|first| *first == attribute),
        };
        if fits {
            self.seen.push(attribute);
        }
        fits
    }

    /// Takes the device off that was added last.
    pub fn remove(&mut self, request: &str, alternative: &str) {
        if self.concerns(request, alternative) {
            self.seen.pop();
        }
    }
}

/// The attribute of that full name; what has no domain is in the driver's.
fn find<'d>(device: &'d Device, driver: &str, name: &str) -> Option<&'d Attribute> {
    device.attributes.get(name).or_else(|| {
        let (domain, id) = name.split_once('/')?;
        device.attributes.get(id).filter(|_| domain == driver)
    })
}
