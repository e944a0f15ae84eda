//! A request before anybody has decided about it: who may send it, when it is its turn, and what is counted and said of it.

use ::http::header::{ACCEPT, HeaderValue, USER_AGENT};
use ::http::{HeaderMap, Uri};
use bytes::Bytes;
use tracing::Span;
use tracing::field::Empty;
use types::status::Status;

use crate::audit::{self, Level, Origin, Record};
use crate::auth::authenticate::Sender;
use crate::auth::identity::Identity;
use crate::auth::{Attributes, Target};
use crate::codec::Accepted;
use crate::flow::{self, Class};
use crate::http::metrics::Labels;
use crate::http::query::Query;
use crate::http::router::{Path, Resource};
use crate::http::trace_context::TraceContext;
use crate::server::{Peer, Shared};
use crate::verbs::ask::{Answer, Ask};

/// What is counted and said of a request besides its answer.
pub struct Trace {
    pub labels: Labels,
    pub warnings: Vec<String>,
    /// Which schema and level it belongs to.
    pub class: Option<Class>,
    pub audit: Option<Record>,
    /// It is a watch, or carried to somewhere else: it may take as long as it likes.
    pub streams: bool,
    /// What the log says of it is said within this, where anybody listens.
    pub span: Span,
}

impl Trace {
    /// Of a request that has just come.
    pub fn begin(id: &HeaderValue, context: Option<&TraceContext>) -> Self {
        let span = tracing::debug_span!(
            "request",
            audit_id = id.to_str().unwrap_or_default(),
            trace_id = context.map(TraceContext::trace_id),
            verb = Empty,
            path = Empty,
            group = Empty,
            resource = Empty,
            namespace = Empty,
            name = Empty,
        );
        Self { labels: Labels::default(), warnings: Vec::new(), class: None, audit: None, streams: false, span }
    }

    /// It is known what is asked for.
    pub fn asks(&self, verb: &str, path: &str, parsed: &Path<'_>) {
        if self.span.is_disabled() {
            return;
        }
        self.span.record("verb", verb);
        let Path::Resource(resource) = parsed else {
            self.span.record("path", path);
            return;
        };
        let full = match resource.subresource {
            "" => resource.plural.to_owned(),
            sub => format!("{}/{sub}", resource.plural),
        };
        let facts = [
            ("group", resource.group),
            ("resource", &full),
            ("namespace", resource.namespace),
            ("name", resource.name),
        ];
        for (fact, value) in facts.into_iter().filter(|(_, value)| !value.is_empty()) {
            self.span.record(fact, value);
        }
    }
}

/// What is known of a request before anybody has decided about it.
pub struct Asked<'a> {
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    pub path: &'a str,
    pub parsed: &'a Path<'a>,
    pub verb: &'a str,
    pub peer: &'a Peer,
    pub now: jiff::Timestamp,
}

impl Asked<'_> {
    /// Begins its record, when the policy wants to know of it.
    pub fn record(&self, shared: &Shared, id: &HeaderValue, sender: Option<&Sender>) -> Option<Record> {
        let settings = shared.config.audit.as_ref()?;
        let (target, version) = match self.parsed {
            Path::Other => (audit::policy::Target::Path(self.path), ""),
            Path::Resource(r) => (
                audit::policy::Target::Resource {
                    group: r.group,
                    resource: r.plural,
                    subresource: r.subresource,
                    namespace: r.authorized_namespace(),
                    name: r.name,
                },
                r.version,
            ),
        };
        let user = sender.map(|s| &*s.identity);
        let decision = settings.policy.decide(&audit::policy::Request { user, verb: self.verb, target });
        if decision.level == Level::None {
            return None;
        }
        let origin = Origin {
            id: id.to_str().unwrap_or_default(),
            uri: self.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            verb: self.verb,
            headers: self.headers,
            address: self.peer.address(),
            user,
            target,
            version,
            received: self.now,
        };
        let mut record = Record::begin(&settings.log, decision, &origin, &shared.config.clock);
        if let Some((sender, seconds)) = sender.and_then(|s| Some((s, s.stale_seconds?))) {
            let text = format!("subject: {}, seconds after warning threshold: {seconds}", sender.identity.user);
            record.annotate("authentication.k8s.io/stale-token", text);
        }
        Some(record)
    }

    /// Waits until it may be worked on. Parts of the same process and what may take as long as it likes do not wait.
    pub async fn seat(
        &self,
        shared: &Shared,
        identity: &Identity,
        trace: &mut Trace,
    ) -> Result<Option<flow::Seat>, Status> {
        if matches!(self.peer, Peer::Local(_)) {
            return Ok(None);
        }
        let (target, streams) = match self.parsed {
            Path::Other => (flow::Target::Path(self.path), false),
            Path::Resource(r) => (
                flow::Target::Resource {
                    group: r.group,
                    resource: r.plural,
                    subresource: r.subresource,
                    namespace: r.authorized_namespace(),
                },
                is_stream(self.verb, r.subresource),
            ),
        };
        let class = trace.class.insert(shared.flow.classify(&flow::Request { identity, verb: self.verb, target }));
        if streams {
            return Ok(None);
        }
        shared
            .flow
            .enter(class)
            .await
            .map_err(|_| Status::too_many_requests("Too many requests, please try again later.", 1))
    }
}

/// Whether a request may take as long as it likes.
pub fn is_stream(verb: &str, subresource: &str) -> bool {
    verb == "watch" || matches!(subresource, "proxy" | "log" | "exec" | "attach" | "portforward")
}

pub fn authorized(record: &mut Option<Record>, decision: Result<(), Status>) -> Result<(), Status> {
    if let Some(record) = record {
        record.authorized(decision.is_ok(), "");
    }
    decision
}

pub fn answered(record: &mut Option<Record>, code: u16, failure: Option<&Status>) {
    if let Some(record) = record {
        record.answered(code, failure);
    }
}

/// The body of a request as an object, whatever its format; `None` when it is none.
pub fn request_object(ask: &Ask<'_>, body: &Bytes) -> Option<serde_json::Value> {
    if body.is_empty() {
        return None;
    }
    let json = serde_json::from_slice(body).ok();
    json.or_else(|| crate::codec::decode(ask.content_type(), body, &ask.kind.gvk()).ok())
}

pub fn response_object(answer: &Answer) -> Option<serde_json::Value> {
    match answer {
        Answer::Entry { entry, .. } => serde_json::from_slice(entry.value()).ok(),
        Answer::Object { value, .. } => Some(value.clone()),
        Answer::Response(response) => serde_json::from_slice(response.body().as_full()?).ok(),
    }
}

pub fn negotiate(headers: &HeaderMap, query: &Query) -> Result<Accepted, Status> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let accepted = crate::codec::negotiate(text(ACCEPT))?;
    let pretty = crate::codec::negotiate::is_pretty(query.get("pretty"), text(USER_AGENT).unwrap_or_default());
    Ok(Accepted { pretty: accepted.pretty || pretty, ..accepted })
}

/// The client's audit id, or a new one.
pub fn audit_id(headers: &HeaderMap) -> HeaderValue {
    /// Longer ones are not taken over.
    const LENGTH_MAX: usize = 64;
    let given = headers.get("audit-id").filter(|v| !v.is_empty() && v.len() <= LENGTH_MAX).cloned();
    given.unwrap_or_else(|| {
        HeaderValue::from_str(&types::random::uuid()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    })
}

pub fn authorize(
    shared: &Shared,
    identity: &Identity,
    resource: &Resource<'_>,
    verb: &str,
    headers: &HeaderMap,
    query: &Query,
    view: &dyn store::View,
) -> Result<(), Status> {
    let selects = matches!(verb, "list" | "watch" | "deletecollection");
    let fields = query.text("fieldSelector").filter(|_| selects);
    let fields = fields.and_then(|text| types::selector::FieldSelector::parse(text).ok());
    // A list of one name is authorized as that name.
    let single = fields.as_ref().and_then(|f| f.required("metadata.name")).filter(|_| resource.name.is_empty());
    let ask = |verb: &str| {
        let target = Target::Resource {
            group: resource.group,
            version: resource.version,
            resource: resource.plural,
            subresource: resource.subresource,
            namespace: resource.authorized_namespace(),
            name: single.unwrap_or(resource.name),
            fields: fields.as_ref(),
        };
        let attributes = Attributes { identity, verb, target };
        shared.authorizer.authorize(&attributes, view).map_err(|why| attributes.forbidden(&why))
    };
    ask(verb)?;
    // Entering a container is creating something, whatever the method of the handshake. Source: KEP-5287 (1.35).
    let enters = matches!(resource.subresource, "exec" | "attach" | "portforward");
    if enters && verb != "create" && headers.contains_key(::http::header::UPGRADE) { ask("create") } else { Ok(()) }
}
