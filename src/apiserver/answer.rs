//! The way of one request from the door to whoever answers it: who sends it, when it is its turn, whether it may be sent; then
//! to a document, to another server, or to the verbs.
//!
//! What never lives here: what a verb does.

use std::sync::Arc;
use std::time::Duration;

use ::http::header::HeaderValue;
use ::http::{Method, Request, Response};
use bytes::Bytes;
use types::percent::percent_decode;
use types::registry::WriteClass;
use types::status::Status;

use crate::aggregator::Registration;
use crate::aggregator::proxy::{DISCOVERY_LIMIT, Sender, proxy};
use crate::audit::{self, Annotations, Level};
use crate::auth::authenticate::{forget_token, impersonate};
use crate::auth::identity::Identity;
use crate::auth::{Attributes, Target};
use crate::codec::Accepted;
use crate::conversion;
use crate::flow::Seat;
use crate::http::body::Body;
use crate::http::metrics::method_name;
use crate::http::query::Query;
use crate::http::router::{self, Path, Resource};
use crate::http::{deadline, documents, gzip, hop, respond};
use crate::request::{Asked, Trace, authorize, authorized, is_stream, negotiate, request_object, response_object};
use crate::server::{ApiServer, Peer};
use crate::verbs;
use crate::verbs::ask::Ask;

/// What is known of a request that may be answered.
struct Known<'a> {
    identity: &'a Identity,
    peer: &'a Peer,
    audit_id: &'a HeaderValue,
    path: &'a str,
    query: &'a Query,
    verb: &'a str,
    now: jiff::Timestamp,
}

impl ApiServer {
    /// Whose request it is, whether they may send it, and the answer of whoever serves it.
    ///
    /// # Errors
    /// What the client is told instead.
    pub(crate) async fn answer(
        &self,
        mut request: Request<Body>,
        peer: &Peer,
        audit_id: &HeaderValue,
        trace: &mut Trace,
    ) -> Result<Response<Body>, Status> {
        let shared = &self.shared;
        let now = self.now();
        let path = percent_decode(request.uri().path(), false);
        let query = Query::parse(request.uri().query());
        let method = request.method().clone();
        let view = shared.store.snapshot();
        let parsed = router::parse(&path);
        let lower;
        let verb = match &parsed {
            Path::Resource(resource) => resource.verb(&method, &query),
            Path::Other => {
                lower = method.as_str().to_ascii_lowercase();
                lower.as_str()
            }
        };
        trace.asks(verb, &path, &parsed);
        let asked =
            Asked { uri: request.uri(), headers: request.headers(), path: &path, parsed: &parsed, verb, peer, now };
        let sender = shared.authenticator.authenticate(request.headers(), &path, peer, now, &*view).await;
        trace.audit = asked.record(shared, audit_id, sender.as_ref().ok());
        let sender = sender?;
        let identity = impersonate(request.headers(), &sender.identity, &shared.authorizer, &*view)?;
        if let Some(record) = &mut trace.audit
            && !Arc::ptr_eq(&identity, &sender.identity)
        {
            record.impersonates(&identity);
        }
        let seat = asked.seat(shared, &identity, trace).await?;
        forget_token(request.headers_mut());
        let known = Known { identity: &identity, peer, audit_id, path: &path, query: &query, verb, now };
        let resource = match parsed {
            Path::Resource(resource) => resource,
            Path::Other => {
                trace.labels.verb = method_name(&method);
                // All of them are answered at once; what asks for a nonsensical time is refused all the same.
                deadline::of(&query)?;
                let attributes = Attributes { identity: &identity, verb, target: Target::Path(&path) };
                let decision =
                    shared.authorizer.authorize(&attributes, &*view).map_err(|why| attributes.forbidden(&why));
                authorized(&mut trace.audit, decision)?;
                drop(view);
                if let Some(registration) = documents::elsewhere(shared, &path) {
                    return self.carry(&known, &registration, request, seat, Some(DISCOVERY_LIMIT)).await;
                }
                let accepted = negotiate(request.headers(), &query);
                let response = documents::answer(shared, &method, &path, &query, request.headers(), accepted)?;
                return Ok(gzip::compress(request.headers(), response));
            }
        };
        let decision = authorize(shared, &identity, &resource, verb, request.headers(), &query, &*view);
        authorized(&mut trace.audit, decision)?;
        drop(view);
        if let Some(registration) = shared.aggregator.remote(resource.group, resource.version) {
            trace.streams = is_stream(verb, resource.subresource) || hop::is_upgrade(request.headers());
            trace.labels.verb = method_name(&method);
            let limit = if trace.streams { None } else { Some(deadline::of(&query)?) };
            return self.carry(&known, &registration, request, seat, limit).await;
        }
        let response = self.serve(&known, &resource, request, trace).await;
        drop(seat);
        response
    }

    /// Has another server answer, within `limit`; a stream has none.
    async fn carry(
        &self,
        known: &Known<'_>,
        registration: &Registration,
        request: Request<Body>,
        seat: Option<Seat>,
        limit: Option<Duration>,
    ) -> Result<Response<Body>, Status> {
        let Known { identity, peer, audit_id, path, query, .. } = *known;
        let sender = Sender { identity, address: peer.address(), audit_id, path, query, limit, seat };
        proxy(self.store(), registration, request, sender).await
    }

    /// Answers what is asked of a resource that is served here.
    async fn serve(
        &self,
        known: &Known<'_>,
        resource: &Resource<'_>,
        request: Request<Body>,
        trace: &mut Trace,
    ) -> Result<Response<Body>, Status> {
        let Known { identity, peer, query, verb, now, .. } = *known;
        let shared = &self.shared;
        let method = request.method().clone();
        let found = shared.kinds.served().find(resource.group, resource.version, resource.plural);
        let sub = resource.resolve(&method, verb, found.as_deref())?;
        let Some(served) = &found else { return Err(Status::no_such_path()) };
        let kind = &conversion::keeper(served);
        trace.labels = shared.metrics.labels(served, resource, verb, &method, query, request.headers());
        let subresource = sub.map_or("", |s| &*s.name);
        // What a proxied server answers is between it and the client.
        let proxied = subresource == "proxy";
        let accepted = if proxied { Accepted::JSON } else { negotiate(request.headers(), query)? };
        let connects = is_stream("", subresource);
        trace.streams = is_stream(verb, subresource);
        let _working = (!trace.streams).then(|| shared.metrics.work_on(verb));
        let (parts, body) = request.into_parts();
        let mut ask = Ask {
            shared,
            kind,
            served,
            subresource,
            namespace: resource.namespace,
            name: resource.name,
            query,
            headers: &parts.headers,
            identity,
            now,
            accepted,
            // Leases and Events of our own parts come by the minute and nobody applies them: they stay untracked, as objects
            // from before there was apply are, and no larger than they must be.
            tracked: !(matches!(peer, Peer::Local(_)) && kind.write_class == WriteClass::Relaxed),
            annotations: Annotations::new(trace.audit.as_ref().map_or(Level::None, audit::Record::level)),
            warnings: Some(crate::hooks::of(kind).deprecation())
                .filter(|w| !w.is_empty())
                .map(str::to_owned)
                .into_iter()
                .collect(),
        };
        respond::check_shape(kind, &accepted)?;
        let answer = if connects {
            let mut request = Request::from_parts(parts.clone(), body);
            // Cloned parts do not carry the connection's promise to be upgraded.
            *request.extensions_mut() = parts.extensions.clone();
            if proxied {
                verbs::proxy::proxy(&mut ask, request).await
            } else {
                verbs::connect::connect(&mut ask, request).await
            }
        } else {
            // A watch has a `timeoutSeconds` of its own.
            let limit = if trace.streams { deadline::LIMIT } else { deadline::of(query)? };
            let body = match method {
                Method::GET | Method::HEAD => Bytes::new(),
                _ => body.read(&parts.headers).await?,
            };
            if let Some(record) = &mut trace.audit {
                record.request(|| request_object(&ask, &body));
            }
            let late = |_| Err(Status::timeout("Timeout: request did not complete within the allotted timeout"));
            tokio::time::timeout(limit, verbs::dispatch::dispatch(&mut ask, verb, &method, &body))
                .await
                .unwrap_or_else(late)
        };
        trace.warnings = std::mem::take(&mut ask.warnings);
        if let Some(record) = &mut trace.audit {
            for (key, value) in std::mem::take(&mut ask.annotations) {
                record.annotate(key, value);
            }
        }
        let answer = answer?;
        if let Some(record) = &mut trace.audit
            && !trace.streams
        {
            record.response(|| response_object(&answer));
        }
        let response = verbs::dispatch::finish(&ask, answer).await?;
        if verb == "watch"
            && let Some(socket) = verbs::message_socket::Wish::of(&parts.headers, &parts.extensions)?
        {
            return socket.events(response, accepted.media);
        }
        Ok(if !proxied && (verb == "list" || verb == "get") {
            gzip::compress(&parts.headers, response)
        } else {
            response
        })
    }
}
