//! One webhook of a stored configuration, parsed.
//!
//! Source: `staging/src/k8s.io/api/admissionregistration/v1/types.go`, apiserver `pkg/admission/plugin/webhook/accessors.go`.

use std::time::Duration;

use serde_json::Value;
use types::registry::KindRef;
use types::status::Status;

use crate::admission::Request;
use crate::admission::matching::{Rule, Selectors};
use crate::admission::policy::conditions::Conditions;
use crate::admission::policy::environment::Options;
use crate::admission::policy::expression::Composition;
use crate::admission::policy::input::Input;
use crate::admission::versions::Seen;
use crate::hooks::json::{get, int, list, text, texts};
use crate::webhook::Endpoint;

/// Source: `SetDefaults_ValidatingWebhook`.
const TIMEOUT_SECONDS: i64 = 10;

/// What the conditions of a webhook may name.
const CONDITIONS: Options = Options { params: false, authorizer: true, patches: false };

/// The two forms of a review that are spoken. They differ in how much of an answer is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewVersion {
    V1,
    V1beta1,
}

pub struct Hook {
    pub name: String,
    /// The name of the configuration that it stands in.
    pub configuration: String,
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
    /// Rules are also about the other versions of the kinds that they name.
    equivalent: bool,
    selectors: Result<Selectors, String>,
    conditions: Conditions,
}

impl Hook {
    pub fn read(configuration: &str, webhook: &Value) -> Self {
        let timeout =
            int(webhook, "timeoutSeconds").and_then(|s| u64::try_from(s).ok()).unwrap_or(TIMEOUT_SECONDS as u64);
        Self {
            name: text(webhook, "name").to_owned(),
            configuration: configuration.to_owned(),
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
            equivalent: text(webhook, "matchPolicy") == "Equivalent",
            selectors: Selectors::read(webhook).map_err(|e| e.to_string()),
            conditions: Conditions::compile(webhook, &Composition::default(), CONDITIONS),
        }
    }

    /// The version in which it is to see the request; `None` when it is not to be asked, as far as rules and selectors say.
    ///
    /// # Errors
    /// When that cannot be said of a request that the rules match.
    pub fn matches(&self, request: &Request) -> Result<Option<KindRef>, Status> {
        let Some(kind) = Rule::version(request, self.equivalent, &self.rules) else { return Ok(None) };
        let selectors = self.selectors.as_ref().map_err(Status::internal)?;
        Ok(selectors.match_(request)?.then_some(kind))
    }

    /// Whether its conditions hold, over the request as it is to see it.
    ///
    /// # Errors
    /// When that cannot be said, unless the webhook may fail.
    pub fn conditions_hold(&self, request: &Request, seen: &Seen) -> Result<bool, Status> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let input = Input::without_namespace(request, seen);
        let activation = input.for_conditions(seen.object.as_deref(), None);
        match self.conditions.hold(&Composition::default(), &activation) {
            Ok(hold) => Ok(hold),
            Err(_) if self.failure_ignored => Ok(false),
            Err(why) => Err(Status::forbidden(request.kind, request.name, &why)),
        }
    }
}
