//! The kinds of the batch group: work that ends. Source: `pkg/apis/batch/validation/validation.go`,
//! `pkg/apis/batch/v1/defaults.go`, `pkg/registry/batch/*/strategy.go`.

use serde_json::Value;

use super::json::{list, text};

pub mod cron_job;
mod indexes;
pub mod job;
mod job_spec;
mod job_status;
mod policies;

/// Whether the status of a Job has the condition in that state.
fn is(status: &Value, condition: &str, state: &str) -> bool {
    list(status, "conditions").iter().any(|c| text(c, "type") == condition && text(c, "status") == state)
}
