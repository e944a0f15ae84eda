//! Waiting for one object: list it by name, then watch, until a question about it is answered.
//!
//! Source: client-go `tools/watch` (`UntilWithSync`), kubectl `pkg/cmd/wait`.

use anyhow::Result;
use client::ListParams;
use client::watch::EventType;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::session::Session;
use crate::target::Found;

/// What a look at the object says.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    Wait,
    Done(T),
    Failed(String),
}

/// Looks at the object, now and after every change (None: it is not there), until `look` decides or the deadline passes.
///
/// # Errors
/// `timed out waiting for the condition on <what>`; the API's.
pub async fn seen<T>(
    session: &Session,
    one: &Found,
    deadline: Instant,
    mut look: impl FnMut(Option<&Value>) -> Verdict<T>,
) -> Result<T> {
    let follow = async {
        let collection = one.resource.path(&one.namespace);
        let mut params = ListParams::fields(format!("metadata.name={}", one.name));
        loop {
            params.resource_version.clear();
            let list: client::List<Value> = session.client.list_path(&collection, &params).await?;
            match look(list.items.first()) {
                Verdict::Wait => {}
                done => return Ok(done),
            }
            params.resource_version = list.metadata.resource_version;
            let mut stream = session.client.watch_path(&collection, params.query(), "application/json").await?;
            while let Some(event) = stream.next().await {
                let event = match event {
                    Ok(event) => event,
                    // The history is gone, or the server restarts: list again.
                    Err(error) if error.is_expired() || error.status().is_none() => break,
                    Err(error) => return Err(error.into()),
                };
                let object: Value = match event.event {
                    EventType::Bookmark => continue,
                    EventType::Deleted => Value::Null,
                    EventType::Added | EventType::Modified => event.decode()?,
                };
                match look(Some(&object).filter(|o| !o.is_null())) {
                    Verdict::Wait => {}
                    done => return Ok(done),
                }
            }
        }
    };
    match timeout_at(deadline, follow).await {
        Ok(Ok(Verdict::Done(value))) => Ok(value),
        Ok(Ok(Verdict::Failed(why))) => Err(anyhow::anyhow!(why)),
        Ok(Ok(Verdict::Wait)) | Err(_) => {
            // kubectl has no object to name when it waits for one to be made.
            if one.object.is_null() {
                anyhow::bail!("timed out waiting for the condition");
            }
            anyhow::bail!("timed out waiting for the condition on {}/{}", one.resource.group_resource(), one.name)
        }
        Ok(Err(error)) => Err(error),
    }
}

/// Waits until the object with this uid is gone; a namesake that follows it does not count. No uid: any namesake does.
pub async fn gone(session: &Session, one: &Found, uid: &str, deadline: Instant) -> Result<()> {
    seen(session, one, deadline, |object| match object {
        None => Verdict::Done(()),
        Some(o) if !uid.is_empty() && crate::output::uid(o) != uid => Verdict::Done(()),
        Some(_) => Verdict::Wait,
    })
    .await
}
