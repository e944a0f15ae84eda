//! What must hold, one promise a file. Each says where the promise comes from, and is shown to be able to fail.
//!
//! A controller decides by what it has heard. Where a promise can only be kept as far as that goes, a change that it need not have
//! heard of yet excuses it for a while ([`recent`]); what remains is what the promise means.

use std::fmt::Debug;

use jiff::SignedDuration;

use crate::objects::{Change, Objects};

mod available;
mod binding;
mod budgets;
mod capacity;
mod daemons;
mod devices;
mod endpoints;
mod generations;
mod jobs;
mod ordinals;
mod ownership;
pub mod quiescence;
mod recent;
mod recreate;
mod settled;
mod surge;
pub use budgets::DRAINS;
#[cfg(test)]
mod testing;

/// One promise.
pub trait Invariant: Debug + Send {
    fn name(&self) -> &'static str;

    /// Judges a write. `objects` has it already.
    ///
    /// # Errors
    /// Why the promise is broken.
    fn observe(&mut self, objects: &Objects, change: &Change) -> Result<(), String>;

    /// Judges what is there once nothing changes any more.
    ///
    /// # Errors
    /// Why the promise is not fulfilled, or not yet.
    fn settled(&self, _: &Objects) -> Result<(), String> {
        Ok(())
    }
}

/// All of them. `lag`: how late anybody may hear of a change.
pub fn all(lag: SignedDuration) -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(available::Available::new(lag)),
        Box::new(binding::Binding::new(lag)),
        Box::new(budgets::Budgets::new(lag)),
        Box::new(capacity::Capacity),
        Box::new(daemons::Daemons::new(lag)),
        Box::new(devices::Devices),
        Box::new(endpoints::Endpoints),
        Box::new(generations::Generations),
        Box::new(jobs::Jobs::new(lag)),
        Box::new(ordinals::Ordinals::new(lag)),
        Box::new(ownership::Ownership),
        Box::new(recreate::Recreate::new(lag)),
        Box::new(settled::Settled),
        Box::new(surge::Surge::new(lag)),
    ]
}
