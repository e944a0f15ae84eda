//! One request on its way through the stages, and what every verb does with the store.

use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use jiff::Timestamp;
use serde_json::Value;
use store::{Entry, Expect, Op, Snapshot, Write};
use types::registry::{Kind, KindRef};
use types::status::{Cause, Status};

use super::facts;
use super::object;
use crate::admission;
use crate::audit::Annotations;
use crate::auth::identity::Identity;
use crate::auth::rbac;
use crate::auth::{Attributes, Target};
use crate::codec::fields::{self, FieldValidation, Raw};
use crate::codec::{Accepted, Media};
use crate::conversion;
use crate::custom;
use crate::http::query::Query;
use crate::managed::{self, Given, Managed, Writer};
use crate::server::Shared;

/// A reader that asks for a revision which the store has not reached waits this long at most. Source: apiserver
/// `pkg/storage/cacher/watch_cache.go` `blockTimeout`.
pub const FRESHNESS_SECONDS: u64 = 3;

/// What is asked, by whom, and how the answer is wanted.
pub struct Ask<'a> {
    pub shared: &'a Arc<Shared>,
    /// The kind as which objects are kept: what keys, hooks, admission and errors speak of.
    pub kind: &'a KindRef,
    /// The kind in the version that the client speaks, in which bodies and answers are: mostly the same.
    pub served: &'a KindRef,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Empty for collections.
    pub name: &'a str,
    pub query: &'a Query,
    pub headers: &'a HeaderMap,
    pub identity: &'a Identity,
    pub now: Timestamp,
    pub accepted: Accepted,
    /// Whether it is kept who owns the fields of what this creates.
    pub tracked: bool,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// What admission says for the audit log.
    pub annotations: Annotations,
}

/// How it is known who owns the fields of an object that is written.
#[derive(Clone)]
pub enum Owners {
    /// From what the write changes, and from what the request says itself.
    Track(Given),
    /// They are known.
    Known(Managed),
}

/// What a verb answers.
pub enum Answer {
    /// A stored object, served from its bytes where the format allows.
    Entry { code: u16, entry: Entry },
    /// An object that is not stored, or not yet.
    Object { code: u16, value: Value },
    /// A response that is complete.
    Response(http::Response<crate::Body>),
}

impl<'a> Ask<'a> {
    pub fn view(&self) -> Snapshot {
        self.shared.store.snapshot()
    }

    pub fn key(&self) -> String {
        self.kind.store_key(self.namespace, self.name)
    }

    pub fn content_type(&self) -> Option<&'a str> {
        self.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok())
    }

    pub fn context(&self) -> crate::hooks::Context<'a> {
        // The lifetimes of the identity and of the path are the request's.
        crate::hooks::Context { subresource: self.subresource, identity: self.identity, now: self.now }
    }

    /// `?fieldValidation=`; 400 for a value that is none.
    pub fn field_validation(&self) -> Result<FieldValidation, Status> {
        FieldValidation::parse(self.query.get("fieldValidation")).ok_or_else(|| {
            let value = self.query.get("fieldValidation").unwrap_or_default();
            let error = types::field::FieldError::not_supported(
                &types::field::Path::new("fieldValidation"),
                value,
                &["", "Ignore", "Strict", "Warn"],
            );
            super::options::invalid("meta.k8s.io", "CreateOptions", &[error])
        })
    }

    /// Who writes: `?fieldManager=`, else what the user agent calls itself.
    pub fn manager(&self) -> std::borrow::Cow<'a, str> {
        let agent = self.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        managed::manager(self.query.get("fieldManager"), agent)
    }

    pub fn writer<'w>(&'w self, manager: &'w str) -> Writer<'w> {
        Writer { kind: self.served, subresource: self.subresource, manager, now: self.now }
    }

    /// Whether answers must be made of another version.
    pub fn converts(&self) -> bool {
        self.served.kept_as.is_some()
    }

    /// The hooks of the version that the client speaks; they see objects as they are kept.
    pub fn hooks(&self) -> crate::hooks::Behaviour<'a> {
        crate::hooks::of(self.served)
    }

    /// A kept object as the client sees it.
    pub fn shown<'o>(&self, object: &'o Value) -> std::borrow::Cow<'o, Value> {
        conversion::shown(self.served, object)
    }

    /// `?dryRun=` of a write, whose other options are checked too; 422 for a value other than `All`.
    pub fn dry_run(&self, options_kind: &str) -> Result<bool, Status> {
        super::options::field_manager(self.query, options_kind)?;
        super::options::dry_run(self.query.all("dryRun").filter(|v| !v.is_empty()), options_kind)
    }

    /// Decodes the body as `expected` and checks its fields.
    pub fn decode(
        &mut self,
        body: &bytes::Bytes,
        expected: &types::registry::GroupVersionKind,
    ) -> Result<Value, Status> {
        let mode = self.field_validation()?;
        let mut value = crate::codec::decode(self.content_type(), body, expected)?;
        let raw = Raw::of(Media::of(self.content_type())?, body);
        let own = *expected.kind == *self.kind.kind && *expected.group == *self.kind.group;
        let warnings = if own && self.kind.extension.is_some() {
            fields::check_custom(self.kind, &mut value, raw, mode)?
        } else {
            fields::check(expected, &mut value, raw, mode)?
        };
        self.warnings.extend(warnings);
        Ok(value)
    }

    /// Whether the sender may create the object that the request names; asked by the verbs that create what is absent.
    ///
    /// # Errors
    /// 403 when not.
    pub fn may_create(&self) -> Result<(), Status> {
        let target = Target::Resource {
            group: &self.served.group,
            version: &self.served.version,
            resource: &self.served.plural,
            subresource: "",
            namespace: self.namespace,
            name: self.name,
            fields: None,
        };
        let attributes = Attributes { identity: self.identity, verb: "create", target };
        self.shared.authorizer.authorize(&attributes, &*self.view()).map_err(|why| attributes.forbidden(&why))
    }

    /// The entry under the key of this request, in the version that it asks for.
    pub async fn find(&self) -> Result<Option<Entry>, Status> {
        let Some(entry) = self.view().get(&self.key()) else { return Ok(None) };
        custom::present(&*self.shared.store, self.kind, entry).await.map(Some)
    }

    /// The entry under the key of this request; 404 when there is none.
    pub async fn current(&self) -> Result<Entry, Status> {
        self.find().await?.ok_or_else(|| Status::not_found(self.kind, self.name))
    }

    /// The value for the store, in the version in which objects are kept.
    ///
    /// # Errors
    /// 500 when the webhook that converts to that version does not.
    pub async fn to_store(&self, object: &Value, managed: &Managed) -> Result<store::Value, Status> {
        let kept = custom::to_storage(&*self.shared.store, self.kind, object).await?;
        Ok(object::to_store(self.kind, &kept, managed))
    }

    /// Writes one entry. Roles, definitions and webhooks that are written are in force when this returns.
    pub async fn write(&self, key: Arc<str>, expect: Expect, op: Op) -> Result<Entry, store::Error> {
        self.write_with(Vec::new(), key, expect, op).await
    }

    /// The same after `others`, in one batch.
    pub async fn write_with(
        &self,
        mut others: Vec<Write>,
        key: Arc<str>,
        expect: Expect,
        op: Op,
    ) -> Result<Entry, store::Error> {
        others.push(Write { key, expect, class: object::class(self.kind), op });
        let mut written = self.shared.store.write(others).await?;
        if self.kind.group == rbac::GROUP {
            self.shared.authorizer.rbac.changed();
        }
        if let (custom::GROUP, Some(entry)) = (&*self.kind.group, written.last()) {
            self.shared.kinds.refresh(&*self.shared.store, entry.key());
        }
        self.shared.admission.changed(&self.kind.group);
        written.pop().ok_or(store::Error::Closed)
    }

    /// The `Status` for a store that did not do what it was asked. Preconditions are the caller's to explain; what is left
    /// of them here is a conflict.
    pub fn store_error(&self, error: &store::Error) -> Status {
        store_error(self.kind, self.name, error)
    }

    /// Admission's first pass: completes the object.
    pub async fn mutate(
        &mut self,
        change: Change<'_>,
        object: Option<&mut Value>,
        view: &dyn store::View,
    ) -> Result<(), Status> {
        self.pass(Pass::Mutate, change, object, view).await
    }

    /// Admission's second pass: refuses.
    pub async fn validate(
        &mut self,
        change: Change<'_>,
        object: Option<&mut Value>,
        view: &dyn store::View,
    ) -> Result<(), Status> {
        self.pass(Pass::Validate, change, object, view).await
    }

    /// One pass. What admission says besides its verdict counts whatever that is.
    async fn pass(
        &mut self,
        pass: Pass,
        change: Change<'_>,
        object: Option<&mut Value>,
        view: &dyn store::View,
    ) -> Result<(), Status> {
        let mut request = self.admission(change, object, view);
        let outcome = match pass {
            Pass::Mutate => admission::mutate(&self.shared.admission, &mut request).await,
            Pass::Validate => admission::validate(&self.shared.admission, &mut request).await,
        };
        let (warnings, annotations) = (request.warnings, request.annotations);
        self.warnings.extend(warnings);
        self.annotations.append(annotations);
        outcome
    }

    /// For a part of this request that is a request of its own: room for what admission says of it.
    pub fn no_annotations(&self) -> Annotations {
        Annotations::new(self.annotations.level())
    }

    /// Both passes over what is not stored: a connection, a deletion, an object that only subresources exchange.
    pub async fn admit(
        &mut self,
        change: Change<'_>,
        mut object: Option<&mut Value>,
        view: &dyn store::View,
    ) -> Result<(), Status> {
        self.mutate(change, object.as_deref_mut(), view).await?;
        self.validate(change, object, view).await
    }

    fn admission<'r>(
        &'r self,
        change: Change<'r>,
        object: Option<&'r mut Value>,
        view: &'r dyn store::View,
    ) -> admission::Request<'r> {
        admission::Request {
            operation: change.operation,
            kind: self.kind,
            served: self.served,
            subresource: self.subresource,
            namespace: if self.kind.namespaced() { self.namespace } else { "" },
            name: change.name,
            object,
            old: change.old,
            user: self.identity,
            dry_run: change.dry_run,
            options: change.options,
            now: self.now,
            view,
            authorizer: Some(&self.shared.authorizer),
            warnings: Vec::new(),
            annotations: self.no_annotations(),
            others: OnceLock::new(),
        }
    }
}

/// Admission's two passes.
#[derive(Clone, Copy)]
enum Pass {
    Mutate,
    Validate,
}

/// What admission is asked about, besides the object.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    pub operation: admission::Operation,
    /// Empty when the server will choose it.
    pub name: &'a str,
    /// The object as it is; `None` for creations.
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    pub options: admission::Options<'a>,
}

/// The one place where the store's errors become what clients see.
pub fn store_error(kind: &Kind, name: &str, error: &store::Error) -> Status {
    match error {
        store::Error::Precondition { .. } => Status::conflict(kind, name, types::status::OBJECT_MODIFIED),
        store::Error::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        store::Error::Future { requested, current } => too_large(requested.0, current.0),
        // As a full etcd is shown upstream: an error of the server with the store's own words. The store has logged it, once.
        store::Error::ReadOnly { .. } => Status::internal(error),
        store::Error::Busy => Status::too_many_requests("Too many requests, please try again later.", 1),
        store::Error::Closed => Status::service_unavailable("the server is shutting down"),
        store::Error::NewerSchema { .. }
        | store::Error::Damaged { .. }
        | store::Error::InUse { .. }
        | store::Error::Io(_) => {
            tracing::error!(%error, "the store failed");
            Status::internal("the store failed")
        }
    }
}

/// Source: apiserver `pkg/storage/errors.go` `NewTooLargeResourceVersionError`.
pub fn too_large(requested: u64, current: u64) -> Status {
    Status::timeout(format!("Timeout: Too large resource version: {requested}, current: {current}"))
        .with_cause(Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            ..Cause::default()
        })
        .retry_after(1)
}

/// The uid of an entry.
pub fn uid(entry: &Entry) -> &str {
    facts::facts(entry).uid()
}
