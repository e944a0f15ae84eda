//! From a request that may be worked on to its verb, and from the verb's answer to what the client accepts.

use std::borrow::Cow;

use ::http::{Method, Response};
use bytes::Bytes;
use types::status::Status;

use super::ask::{Answer, Ask};
use super::object;
use crate::auth::review;
use crate::codec::{Accepted, As};
use crate::http::body::Body;
use crate::http::respond;
use crate::{conversion, custom, verbs};

/// Hands the request to its verb.
///
/// # Errors
/// What the client is to be told.
pub async fn dispatch(ask: &mut Ask<'_>, verb: &str, method: &Method, body: &Bytes) -> Result<Answer, Status> {
    match (ask.subresource, verb) {
        ("scale", _) => verbs::scale::scale(ask, method, body).await,
        ("binding", _) => verbs::binding::bind(ask, body).await,
        ("eviction", _) => verbs::eviction::evict(ask, body).await,
        ("token", _) => verbs::token_request::create(ask, body).await,
        (_, "get") if ask.kind.kind == "ComponentStatus" => verbs::component_status::get(ask),
        (_, "list") if ask.kind.kind == "ComponentStatus" => verbs::component_status::list(ask),
        (_, "get") if ask.kind.group == verbs::metrics::GROUP => verbs::metrics::get(ask).await,
        (_, "list") if ask.kind.group == verbs::metrics::GROUP => verbs::metrics::list(ask).await,
        (_, "get") => verbs::read::get(ask).await,
        (_, "list") => verbs::read::list(ask).await,
        (_, "watch") => verbs::watch::watch(ask).await,
        (_, "create") if ask.kind.kind == "Binding" => verbs::binding::bind(ask, body).await,
        (_, "create") if !ask.kind.stored => review(ask, body).await,
        (_, "create") => verbs::create::create(ask, body).await,
        (_, "update") => verbs::update::update(ask, body).await,
        (_, "patch") => verbs::patch::patch(ask, body).await,
        (_, "delete") => verbs::delete::delete(ask, body).await,
        (_, "deletecollection") => verbs::delete::delete_collection(ask, body).await,
        _ => Err(Status::method_not_allowed()),
    }
}

async fn review(ask: &mut Ask<'_>, body: &Bytes) -> Result<Answer, Status> {
    ask.dry_run("CreateOptions")?;
    let mut object = ask.decode(body, &ask.kind.gvk())?;
    let hooks = crate::hooks::of(ask.kind);
    hooks.default(&mut object)?;
    let errors = hooks.validate(&object);
    if !errors.is_empty() {
        return Err(Status::invalid(ask.kind, object::meta(&object, "name"), &errors));
    }
    let view = ask.view();
    let desk = review::Desk {
        authorizer: &ask.shared.authorizer,
        authenticator: &ask.shared.authenticator,
        view: &*view,
        identity: ask.identity,
        now: ask.now,
    };
    let mut value = review::answer(&desk, ask.kind, ask.namespace, object).await?;
    let metadata = object::meta_mut(&mut value);
    metadata.entry("creationTimestamp").or_insert(serde_json::Value::Null);
    Ok(Answer::Object { code: 201, value })
}

/// The answer in the shape and format that the client accepts.
///
/// # Errors
/// The object has no such shape.
pub async fn finish(ask: &Ask<'_>, answer: Answer) -> Result<Response<Body>, Status> {
    let accepted = ask.accepted;
    let (code, text) = match answer {
        Answer::Response(response) => return Ok(response),
        Answer::Entry { code, entry } => {
            let entry = custom::present(&*ask.shared.store, ask.kind, entry).await?;
            let text = match conversion::text(ask.served, Cow::Borrowed(entry.value()))? {
                Cow::Borrowed(_) => entry.bytes(),
                Cow::Owned(text) => text.into(),
            };
            (code, text)
        }
        // A Status has no other shape; what a subresource exchanges says itself what it is.
        Answer::Object { code, value } if accepted.as_ == As::Object || value["kind"] == "Status" => {
            let shown = if value["kind"] == "Status" { Cow::Borrowed(&value) } else { ask.shown(&value) };
            return Ok(respond::value(code, &Accepted { as_: As::Object, ..accepted }, &shown));
        }
        Answer::Object { code, value } => {
            (code, serde_json::to_vec(&*ask.shown(&value)).map_err(Status::internal)?.into())
        }
    };
    let include = verbs::read::include_object(ask)?;
    // What is read of a workload there is its Scale.
    let kind = if ask.subresource == "scale" { &verbs::scale::SCALE_KIND } else { &**ask.served };
    respond::shaped(code, &respond::Shape { kind, accepted: &accepted, include, now: ask.now }, &text)
}
