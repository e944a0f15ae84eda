//! Webhooks: other servers that complete objects or refuse requests.
//!
//! The configurations are kept parsed: a write of one makes what is kept stale, and the next request reads again what has
//! changed, as with roles. A cluster without webhooks pays for two loads.
//!
//! Source: apiserver `pkg/admission/plugin/webhook/{generic,mutating,validating}`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use store::{Revision, Store};
use types::registry::KindRef;
use types::status::Status;

use super::versions::{self, Seen};
use super::{Operation, Request};
use crate::audit::Level;
use crate::hooks::json::{get, list, same, text};

mod config;
mod review;

use config::Hook;
use review::Response;

/// The group whose objects these are.
pub const GROUP: &str = "admissionregistration.k8s.io";
/// Where configurations lie in the store.
pub const STORE_PREFIX: &str = "admissionregistration.k8s.io/";
/// What follows the sort in the keys of audit annotations.
const ANNOTATIONS: &str = "webhook.admission.k8s.io/";
const MUTATING: &str = "mutatingwebhookconfigurations";
const VALIDATING: &str = "validatingwebhookconfigurations";

/// The webhooks of all configurations, in the order in which they are asked: by the names of the configurations.
#[derive(Default)]
struct Hooks {
    generation: u64,
    mutating: Vec<Arc<Hook>>,
    validating: Vec<Arc<Hook>>,
}

type ParsedByKey = HashMap<Arc<str>, (Revision, Vec<Arc<Hook>>)>;

/// The webhooks that are in force.
pub struct Webhooks {
    store: Arc<dyn Store>,
    hooks: ArcSwap<Hooks>,
    /// Grows with every change of a configuration; what was read at a lower generation is stale.
    wanted: AtomicU64,
    /// Parsed configurations by store key, so that a change costs the reading of what changed and other configurations keep
    /// their connections. Also the lock of reading.
    parsed: Mutex<ParsedByKey>,
}

impl Webhooks {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, hooks: ArcSwap::default(), wanted: AtomicU64::new(1), parsed: Mutex::default() }
    }

    /// A configuration was written: the next request reads it.
    pub fn changed(&self) {
        self.wanted.fetch_add(1, Ordering::AcqRel);
    }

    fn current(&self) -> arc_swap::Guard<Arc<Hooks>> {
        let wanted = self.wanted.load(Ordering::Acquire);
        let hooks = self.hooks.load();
        if hooks.generation >= wanted {
            return hooks;
        }
        drop(hooks);
        self.read(wanted);
        self.hooks.load()
    }

    fn read(&self, wanted: u64) {
        let mut parsed = self.parsed.lock();
        if self.hooks.load().generation >= wanted {
            return;
        }
        // Taken after `wanted` was read, so that it holds the change that raised it.
        let view = self.store.snapshot();
        let mut fresh = HashMap::with_capacity(parsed.len());
        let mut gather = |plural: &str| -> Vec<Arc<Hook>> {
            let mut all = Vec::new();
            for entry in view.range(&format!("{STORE_PREFIX}{plural}/"), None) {
                let hooks = match parsed.get(entry.key()) {
                    Some((revision, hooks)) if *revision == entry.modified() => hooks.clone(),
                    _ => {
                        let object: Value = serde_json::from_slice(entry.value()).unwrap_or_default();
                        let name = text(get(&object, "metadata"), "name");
                        list(&object, "webhooks").iter().map(|w| Arc::new(Hook::read(name, w))).collect()
                    }
                };
                all.extend(hooks.iter().cloned());
                fresh.insert(entry.key().into(), (entry.modified(), hooks));
            }
            all
        };
        let (mutating, validating) = (gather(MUTATING), gather(VALIDATING));
        *parsed = fresh;
        self.hooks.store(Arc::new(Hooks { generation: wanted, mutating, validating }));
    }

    /// The mutating webhooks; `None` when there are none.
    pub fn mutating(&self) -> Option<Mutating> {
        let hooks = self.current();
        (!hooks.mutating.is_empty()).then(|| Mutating {
            store: self.store.clone(),
            states: vec![State::default(); hooks.mutating.len()],
            hooks: arc_swap::Guard::into_inner(hooks),
            again: false,
            output: None,
        })
    }

    /// Asks all validating webhooks that want to be asked, at once.
    ///
    /// # Errors
    /// What the first of them in order says against it.
    pub async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let hooks = {
            let hooks = self.current();
            if hooks.validating.is_empty() {
                return Ok(());
            }
            arc_swap::Guard::into_inner(hooks)
        };
        let (mut views, mut wanting) = (Vec::new(), Vec::new());
        for hook in &hooks.validating {
            let Some(kind) = hook.matches(request)? else { continue };
            let at = Seen::among(&mut views, request, &kind, &*self.store).await?;
            if hook.conditions_hold(request, &views[at])? {
                wanting.push((hook, at));
            }
        }
        let calls = wanting.iter().map(|(hook, at)| ask(hook, request, &views[*at], &*self.store, false));
        let answers = futures_util::future::join_all(calls).await;
        drop(views);
        let mut first = Ok(());
        for (at, ((hook, _), answer)) in wanting.iter().zip(answers).enumerate() {
            let verdict = answer.and_then(|answer| take(hook, answer, request).map(|_| ()));
            let verdict = verdict.or_else(|trouble| trouble.settle(hook, request, "validating", 0, at));
            if first.is_ok() {
                first = verdict;
            }
        }
        first
    }
}

/// Why a webhook's opinion is not known, or what it is.
enum Trouble {
    /// The webhook could not be asked, or answered nonsense: what follows is its failure policy's.
    Calling(String),
    /// The request is answered so.
    Refused(Status),
}

impl Trouble {
    /// What becomes of the request; the audit log is told of a webhook that was passed over as the one at that place, of its
    /// sort, in that round.
    fn settle(self, hook: &Hook, request: &mut Request, sort: &str, round: u8, at: usize) -> Result<(), Status> {
        match self {
            Trouble::Refused(status) => Err(status),
            Trouble::Calling(why) => {
                let why = format!("failed calling webhook {:?}: {why}", hook.name);
                if hook.failure_ignored {
                    tracing::warn!(why, "a webhook that may fail was passed over");
                    let key = || format!("failed-open.{sort}.{ANNOTATIONS}round_{round}_index_{at}");
                    request.annotations.add(key, || hook.name.clone());
                    Ok(())
                } else {
                    Err(Status::internal(why))
                }
            }
        }
    }
}

/// One call. Does not change the request, so that several can go on at once.
async fn ask(
    hook: &Hook,
    request: &Request<'_>,
    seen: &Seen<'_>,
    store: &dyn Store,
    mutating: bool,
) -> Result<Response, Trouble> {
    if request.dry_run && !hook.dry_run_safe {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Trouble::Refused(Status::bad_request(why)));
    }
    let Some(version) = hook.version else {
        let why =
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return Err(Trouble::Calling(why.into()));
    };
    let endpoint = hook.endpoint.as_ref();
    let endpoint = endpoint.map_err(|why| Trouble::Calling(format!("could not get REST client: {why}")))?;
    let uid = types::random::uuid();
    let body = Bytes::from(review::request(request, seen, version, &uid));
    let answer = endpoint.post(store, body, hook.timeout).await;
    let answer = answer.map_err(|e| Trouble::Calling(format!("failed to call webhook: {e}")))?;
    Response::read(&answer, version, &uid, mutating)
        .map_err(|why| Trouble::Calling(format!("received invalid webhook response: {why}")))
}

/// Passes on what the webhook says to the client. Hands back the patch of one that allows.
fn take(hook: &Hook, mut answer: Response, request: &mut Request<'_>) -> Result<Response, Trouble> {
    for (key, value) in answer.annotations.drain(..) {
        request.annotations.add(|| format!("{}/{key}", hook.name), || value);
    }
    request.warnings.append(&mut answer.warnings);
    if answer.allowed { Ok(answer) } else { Err(Trouble::Refused(answer.rejection(&hook.name))) }
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Has been called and wants to be called again when the object changes after that.
    reinvocable: bool,
    /// The object has changed since.
    due: bool,
}

/// The mutating webhooks for one request, which goes past them once or twice.
pub struct Mutating {
    store: Arc<dyn Store>,
    hooks: Arc<Hooks>,
    states: Vec<State>,
    again: bool,
    /// The object as the first round left it.
    output: Option<Value>,
}

impl Mutating {
    /// One round over all webhooks, one after the other. Returns whether the object has changed, after which the built-in
    /// plugins are due again, and then a second round for those who ask for it.
    ///
    /// # Errors
    /// The `Status` to answer with.
    pub async fn round(&mut self, request: &mut Request<'_>) -> Result<bool, Status> {
        let mut changed = false;
        if self.again && self.output.as_ref() != request.object.as_deref() {
            self.invalidate();
        }
        let hooks = self.hooks.clone();
        for (at, hook) in hooks.mutating.iter().enumerate() {
            let Some(kind) = hook.matches(request)? else { continue };
            let seen = Seen::of(request, &kind, &*self.store).await?;
            if !hook.conditions_hold(request, &seen)? || (self.again && !self.states[at].due) {
                continue;
            }
            let answer = ask(hook, request, &seen, &*self.store, true).await;
            let view = seen.object.filter(|object| matches!(object, Cow::Owned(_))).map(Cow::into_owned);
            let outcome = match answer.and_then(|answer| take(hook, answer, request)) {
                Ok(answer) => {
                    let patched = patch(hook, &answer, request, &kind, view, &*self.store).await;
                    if patched.is_ok() && !answer.patch.is_empty() {
                        let operations: Value = serde_json::from_slice(&answer.patch).unwrap_or_default();
                        let place = ("patch", u8::from(self.again), at);
                        annotate(hook, request, Level::Request, place, |said| {
                            (said.patch, said.patch_type) = (Some(operations), Some(answer.patch_type.as_str()));
                        });
                    }
                    patched
                }
                Err(trouble) => Err(trouble),
            };
            let mutated = matches!(outcome, Ok(true));
            if mutated {
                changed = true;
                self.invalidate();
            }
            let round = u8::from(self.again);
            annotate(hook, request, Level::Metadata, ("mutation", round, at), |said| said.mutated = Some(mutated));
            if hook.reinvoked {
                self.states[at].reinvocable = true;
            }
            outcome.map(|_| ()).or_else(|trouble| trouble.settle(hook, request, "mutation", round, at))?;
        }
        if !self.again && changed {
            self.output = request.object.as_deref().cloned();
        }
        self.again = true;
        Ok(changed)
    }

    /// The object has changed: who was called before and wants to see it again is due.
    fn invalidate(&mut self) {
        for state in &mut self.states {
            state.due |= std::mem::take(&mut state.reinvocable);
        }
    }
}

/// What the audit log is told of a mutating webhook, in upstream's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Said<'a> {
    configuration: &'a str,
    webhook: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'a str>,
}

/// Tells the audit log, at that level, something of a webhook that was asked in that round as the one at that place.
fn annotate<'h>(
    hook: &'h Hook,
    request: &mut Request,
    level: Level,
    (sort, round, at): (&str, u8, usize),
    say: impl FnOnce(&mut Said<'h>),
) {
    let value = || {
        let (configuration, webhook) = (hook.configuration.as_str(), hook.name.as_str());
        let mut said = Said { configuration, webhook, mutated: None, patch: None, patch_type: None };
        say(&mut said);
        serde_json::to_string(&said).unwrap_or_default()
    };
    request.annotations.add_at(level, || format!("{sort}.{ANNOTATIONS}round_{round}_index_{at}"), value);
}

/// Applies the patch of an answer. Returns whether the object has changed.
///
/// `view`: the object in the version `kind` when that is not how the request has it.
async fn patch(
    hook: &Hook,
    answer: &Response,
    request: &mut Request<'_>,
    kind: &KindRef,
    view: Option<Value>,
    store: &dyn Store,
) -> Result<bool, Trouble> {
    if answer.patch.is_empty() {
        return Ok(false);
    }
    let operations: Value = serde_json::from_slice(&answer.patch)
        .map_err(|e| Trouble::Calling(format!("received undecodable patch in webhook response: {e}")))?;
    if operations.as_array().is_some_and(Vec::is_empty) {
        return Ok(false);
    }
    let Some(object) = view.as_ref().or(request.object.as_deref()) else {
        let why = format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        );
        return Err(Trouble::Refused(Status::internal(why)));
    };
    if answer.patch_type != "JSONPatch" {
        return Err(Trouble::Calling(format!("unsupported patch type {:?}", answer.patch_type)));
    }
    let internal = |why: &dyn std::fmt::Display| Trouble::Refused(Status::internal(why));
    let patched = crate::patch::json_patched(object, &answer.patch).map_err(|status| {
        let cause = status.details.as_ref().and_then(|d| d.causes.first()).map(|c| c.message.clone());
        internal(&cause.unwrap_or(status.message))
    })?;
    let patched = versions::taken_back(request, kind, patched, store).await.map_err(Trouble::Refused)?;
    let Some(object) = request.object.as_deref_mut() else { return Ok(false) };
    let changed = !same(object, &patched);
    *object = patched;
    Ok(changed)
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}
