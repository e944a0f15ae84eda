//! Compiled selectors of classes and requests: a handful of texts that are asked again and again.

use std::collections::VecDeque;
use std::sync::Arc;

use cel::device;
use client::devices::{Device, Selector};
use parking_lot::Mutex;

/// Programs kept; upstream keeps ten. One is some kilobytes.
const KEPT_MAX: usize = 32;

type Compiled = Arc<Result<device::Selector, String>>;

/// The latest used is the last.
#[derive(Default)]
pub struct Selectors(Mutex<VecDeque<(String, Compiled)>>);

impl Selectors {
    fn compiled(&self, text: &str) -> Compiled {
        let mut kept = self.0.lock();
        if let Some(at) = kept.iter().position(|(known, _)| known == text)
            && let Some(found) = kept.remove(at)
        {
            let compiled = Arc::clone(&found.1);
            kept.push_back(found);
            return compiled;
        }
        let compiled = Arc::new(device::Selector::compile(text));
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((text.to_owned(), Arc::clone(&compiled)));
        compiled
    }

    /// Whether all of them select the device.
    ///
    /// # Errors
    /// Which of them cannot tell, and why.
    pub fn match_all(&self, selectors: &[Selector], driver: &str, device: &Device) -> Result<bool, String> {
        if selectors.is_empty() {
            return Ok(true);
        }
        let attributes = device.attributes.iter().map(|(name, value)| (name.as_str(), attribute(value)));
        let capacity = device.capacity.iter().map(|(name, capacity)| (name.as_str(), capacity.value));
        let (attributes, capacity): (Vec<_>, Vec<_>) = (attributes.collect(), capacity.collect());
        let seen = device::Device {
            driver,
            allow_multiple_allocations: device.allow_multiple_allocations,
            attributes: &attributes,
            capacity: &capacity,
        };
        for (i, selector) in selectors.iter().enumerate() {
            let Some(expression) = &selector.cel else {
                return Err(format!("selector #{i}: CEL expression empty (unsupported selector type?)"));
            };
            match &*self.compiled(&expression.expression) {
                Err(why) => return Err(format!("selector #{i}: CEL compile error: {why}")),
                Ok(program) => match program.matches(&seen) {
                    Err(why) => return Err(format!("selector #{i}: CEL runtime error: {why}")),
                    Ok(false) => return Ok(false),
                    Ok(true) => {}
                },
            }
        }
        Ok(true)
    }
}

fn attribute(value: &client::devices::Attribute) -> device::Attribute<'_> {
    match (value.int, value.bool, &value.string, &value.version) {
        (Some(int), ..) => device::Attribute::Int(int),
        (None, Some(bool), ..) => device::Attribute::Bool(bool),
        (None, None, Some(text), _) => device::Attribute::Text(text),
        (None, None, None, version) => device::Attribute::Version(version.as_deref().unwrap_or_default()),
    }
}
