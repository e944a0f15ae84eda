//! One webhook of a stored configuration, parsed.
//!
//! Source: `staging/src/k8s.io/api/admissionregistration/v1/types.go`, apiserver `pkg/admission/plugin/webhook/accessors.go`.

use std::time::Duration;

use serde_json::Value;
use types::status::Status;

use crate::admission::Request;
use crate::admission::matching::{Rule, Selectors};
use crate::hooks::json::{get, int, list, text, texts};
use crate::webhook::Endpoint;

/// Source: `SetDefaults_ValidatingWebhook`.
const TIMEOUT_SECONDS: i64 = 10;

/// The two forms of a review that are spoken. They differ in how much of an answer is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewVersion {
    V1,
    V1beta1,
}

#[derive(Debug)]
pub struct Hook {
    pub name: String,
    pub failure_ignored: bool,
    pub timeout: Duration,
    /// Whether a call changes nothing elsewhere when the request is a dry run.
    pub dry_run_safe: bool,
    /// The first of the accepted versions that is known; `None`: no review can be sent.
    pub version: Option<ReviewVersion>,
    /// Called again when another webhook changed the object after it.
    pub reinvoked: bool,
    pub endpoint: Result<Endpoint, String>,
    rules: Vec<Rule>,
    selectors: Result<Selectors, String>,
}

impl Hook {
    pub fn read(webhook: &Value) -> Self {
        let timeout =
            int(webhook, "timeoutSeconds").and_then(|s| u64::try_from(s).ok()).unwrap_or(TIMEOUT_SECONDS as u64);
        Self {
            name: text(webhook, "name").to_owned(),
            failure_ignored: text(webhook, "failurePolicy") == "Ignore",
            timeout: Duration::from_secs(timeout),
            dry_run_safe: matches!(text(webhook, "sideEffects"), "None" | "NoneOnDryRun"),
            version: texts(webhook, "admissionReviewVersions").find_map(|version| match version {
                "v1" => Some(ReviewVersion::V1),
                "v1beta1" => Some(ReviewVersion::V1beta1),
                _ => None,
            }),
            reinvoked: text(webhook, "reinvocationPolicy") == "IfNeeded",
            endpoint: Endpoint::parse(get(webhook, "clientConfig")),
            rules: list(webhook, "rules").iter().map(Rule::read).collect(),
            selectors: Selectors::read(webhook).map_err(|e| e.to_string()),
        }
    }

    /// Whether it is to be asked about the request.
    ///
    /// # Errors
    /// When that cannot be said of a request that the rules match.
    pub fn wants(&self, request: &Request) -> Result<bool, Status> {
        if !self.rules.iter().any(|rule| rule.matches(request, request.kind)) {
            return Ok(false);
        }
        let selectors = self.selectors.as_ref().map_err(Status::internal)?;
        selectors.match_(request)
    }
}
