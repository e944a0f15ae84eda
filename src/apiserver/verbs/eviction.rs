//! Eviction: a deletion that disruption budgets may refuse. No budget is served yet, so that none refuses.
//!
//! Source: `pkg/registry/core/pod/storage/eviction.go`.

use bytes::Bytes;
use serde_json::Value;
use types::registry::GroupVersionKind;
use types::status::Status;

use super::ask::{Answer, Ask};
use super::object::meta;
use super::options::DeleteOptions;
use crate::http::query::Query;

const EVICTION: GroupVersionKind = GroupVersionKind::new("policy", "v1", "Eviction");

pub async fn evict(ask: &mut Ask<'_>, body: &Bytes) -> Result<Answer, Status> {
    let dry_run = ask.dry_run("CreateOptions")?;
    let eviction = ask.decode(body, &EVICTION)?;
    let named = meta(&eviction, "name");
    if !named.is_empty() && named != ask.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = match &eviction["deleteOptions"] {
        Value::Null => DeleteOptions::default(),
        value => {
            // The options inside an eviction carry no version of their own.
            let mut value = value.clone();
            value["apiVersion"] = "v1".into();
            value["kind"] = "DeleteOptions".into();
            DeleteOptions::parse(None, &Bytes::from(value.to_string()), &Query::default())?
        }
    };
    let options = DeleteOptions { dry_run: options.dry_run || dry_run, ..options };
    let mut pod = Ask { subresource: "", warnings: Vec::new(), ..*ask };
    super::delete::delete_one(&mut pod, &options).await?;
    let mut status = Status::success();
    status.code = 201;
    Ok(Answer::Object { code: 201, value: serde_json::to_value(status).unwrap_or(Value::Null) })
}
