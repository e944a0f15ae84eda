//! What API objects are made of: the kind registry, `metav1.Status`, selectors, quantities, names, field paths.
//!
//! Data and pure functions only. What never lives here: async, I/O, clocks, a decision about a request.

pub mod cron;
pub mod field;
pub mod json;
pub mod names;
pub mod percent;
pub mod quantity;
pub mod quota;
pub mod random;
pub mod registry;
pub mod resources;
pub mod selector;
pub mod status;
pub mod time;
