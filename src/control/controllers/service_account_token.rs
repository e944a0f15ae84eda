//! Service account tokens that are kept in Secrets. A Secret of type `kubernetes.io/service-account-token` that names an
//! account gets its token, the cluster's authority and its namespace; when the account goes, the Secret goes.
//!
//! Nobody's Secrets are made here: tokens for pods are bound ones, made when they are asked for.
//!
//! Source: kubernetes `pkg/controller/serviceaccount/tokens_controller.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, DeleteParams, Key, Object, Result, Selector};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::keys::{Account, Keys};
use crate::{Context, MANAGER};

const NAME: &str = "serviceaccount-token-controller";
/// Secrets worked on at once; the work is a signature and a write.
const WORKERS: usize = 2;
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const TOKEN: &str = "token";
const ROOT_CA: &str = "ca.crt";
const NAMESPACE: &str = "namespace";

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write what is missing, the token among it if `token`.
    Complete { secret: Box<Secret>, token: Option<Account> },
    /// The account that it names is not there.
    Delete { uid: String, account: String, account_uid: String },
}

pub fn plan(secret: Option<&Secret>, account: Option<&ServiceAccount>, ca: &str) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let Some(secret) = secret.filter(|s| !s.is_terminating()) else { return plan };
    let Some(name) = secret.annotation(ACCOUNT).filter(|n| !n.is_empty()) else { return plan };
    let wanted_uid = secret.annotation(ACCOUNT_UID).unwrap_or_default();
    let Some(account) = account.filter(|a| wanted_uid.is_empty() || a.uid() == wanted_uid) else {
        let (account, account_uid) = (name.to_owned(), wanted_uid.to_owned());
        plan.push(Action::Delete { uid: secret.uid().into(), account, account_uid }, "its account is gone");
        return plan;
    };
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice()).unwrap_or_default();
    let needs_token = data(TOKEN).is_empty();
    if !needs_token && data(ROOT_CA) == ca.as_bytes() && !data(NAMESPACE).is_empty() {
        return plan;
    }
    let mut secret = secret.clone();
    let values = secret.data.get_or_insert_default();
    values.insert(ROOT_CA.into(), ByteString(ca.into()));
    if values.get(NAMESPACE).is_none_or(|n| n.0.is_empty()) {
        values.insert(NAMESPACE.into(), ByteString(account.namespace().into()));
    }
    let annotations: &mut BTreeMap<String, String> = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT_UID.into(), account.uid().into());
    let token = needs_token.then(|| Account {
        namespace: account.namespace().into(),
        name: account.name().into(),
        uid: account.uid().into(),
    });
    plan.push(Action::Complete { secret: Box::new(secret), token }, "it lacks what its account has");
    plan
}

struct Tokens {
    client: Client,
    secrets: Arc<Cache<Secret>>,
    accounts: Arc<Cache<ServiceAccount>>,
    keys: Arc<dyn Keys>,
    ca: String,
}

/// Of an account, only which one it is, is read here.
fn trim(account: &mut ServiceAccount) {
    let metadata = std::mem::take(&mut account.metadata);
    let ObjectMeta { name, namespace, uid, resource_version, .. } = metadata;
    *account = ServiceAccount {
        metadata: ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
}

pub fn start(context: &Context) {
    let Some(keys) = context.config.keys.clone() else { return };
    let secrets = context.informers.cache::<Secret>(Selector::fields("type=kubernetes.io/service-account-token"));
    let accounts = context.informers.trimmed::<ServiceAccount>(Selector::all(), trim);
    let queue = context.queue();
    let dirty = Arc::clone(&queue);
    secrets.on_change(Box::new(move |_, new| {
        if let Some(secret) = new {
            dirty.add(secret.key());
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::clone(&secrets));
    accounts.on_change(Box::new(move |old, new| {
        // An account that stays the same changes nothing about its tokens.
        if old.zip(new).is_some_and(|(old, new)| old.uid() == new.uid()) {
            return;
        }
        let Some(account) = new.or(old) else { return };
        for secret in all.in_namespace(account.namespace()) {
            if secret.annotation(ACCOUNT) == Some(account.name()) {
                dirty.add(secret.key());
            }
        }
    }));
    let ca = context.config.root_ca.clone();
    context.run(Tokens { client: context.client(MANAGER), secrets, accounts, keys, ca }, queue, WORKERS);
}

impl Controller for Tokens {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, _: Timestamp) -> Plan<Action> {
        let secret = self.secrets.get(key);
        let name = secret.as_ref().and_then(|s| s.annotation(ACCOUNT)).unwrap_or_default();
        let account = self.accounts.get(&Key::new(&key.namespace, name));
        plan(secret.as_deref(), account.as_deref(), &self.ca)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        match action {
            Action::Complete { mut secret, token } => {
                if let Some(account) = token {
                    match self.keys.account_token(&account, &key.name) {
                        Ok(token) => {
                            secret.data.get_or_insert_default().insert(TOKEN.into(), ByteString(token.into_bytes()));
                        }
                        Err(why) => {
                            // The daemon's key; nothing that comes again later would change it.
                            tracing::error!(%key, why, "a token could not be signed");
                            return Ok(vec![]);
                        }
                    }
                }
                match self.client.update(&*secret).await {
                    Ok(secret) => Ok(vec![Box::pin(self.secrets.reached(secret.revision()))]),
                    Err(error) if error.is_not_found() || error.is_conflict() => Ok(vec![]),
                    Err(error) => Err(error),
                }
            }
            Action::Delete { uid, account, account_uid } => {
                // The cache may be behind an account that was made just now.
                match self.client.get::<ServiceAccount>(&key.namespace, &account).await {
                    Ok(found) if account_uid.is_empty() || found.uid() == account_uid => {
                        return Ok(vec![Box::pin(self.accounts.reached(found.revision()))]);
                    }
                    Err(error) if !error.is_not_found() => return Err(error),
                    Ok(_) | Err(_) => {}
                }
                match self.client.delete::<Secret>(&key.namespace, &key.name, &DeleteParams::uid(&uid)).await {
                    Ok(_) => Ok(vec![Box::pin(self.secrets.going(key, &uid))]),
                    Err(error) if error.is_not_found() || error.is_conflict() => Ok(vec![]),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn account(uid: &str) -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "ci", "namespace": "shop", "uid": uid}})).unwrap()
    }

    fn secret() -> Secret {
        let metadata = json!({"name": "s", "namespace": "shop", "uid": "7", "annotations": {ACCOUNT: "ci"}});
        serde_json::from_value(json!({"metadata": metadata, "type": "kubernetes.io/service-account-token"})).unwrap()
    }

    #[test]
    fn plans() {
        let mut plan_of = plan(Some(&secret()), Some(&account("1")), "PEM");
        let Action::Complete { mut secret, token } = plan_of.actions.remove(0) else { panic!("no completion") };
        assert_eq!(token.unwrap().uid, "1");
        secret.data.as_mut().unwrap().insert(TOKEN.into(), ByteString(b"t".into()));
        // What was applied needs nothing more.
        assert!(plan(Some(&secret), Some(&account("1")), "PEM").actions.is_empty());
        // Another authority; the token stays.
        let Action::Complete { token, .. } = plan(Some(&secret), Some(&account("1")), "NEW").actions.remove(0) else {
            panic!("no completion")
        };
        assert_eq!(token, None);
        // Another account of the same name, or none.
        for account in [Some(account("2")), None] {
            let Action::Delete { uid, account_uid, .. } =
                plan(Some(&secret), account.as_ref(), "PEM").actions.remove(0)
            else {
                panic!("no deletion")
            };
            assert_eq!((uid.as_str(), account_uid.as_str()), ("7", "1"));
        }
        assert!(plan(None, Some(&account("1")), "PEM").actions.is_empty());
    }
}
