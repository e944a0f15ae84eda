//! What a verb works on: `pods`, `pod a b`, `pod/a svc/b`, `pods,services`, `-f file`, a selector.
//!
//! Source: cli-runtime `resource/builder.go` for the forms and the error texts.

use std::rc::Rc;

use anyhow::Result;
use clap::Args;
use client::ListParams;
use serde_json::Value;

use crate::discovery::{Discovery, Resource};
use crate::failure::usage;
use crate::manifest::{Files, Manifest, text};
use crate::session::Session;

/// Objects of a list are asked for in pages of so many, as kubectl does: neither side holds a large list at once.
pub const PAGE: u32 = 500;

const NOTHING_GIVEN: &str = "You must provide one or more resources by argument or filename.\nExample resource specifications \
                             include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'";

/// `-l`, `--field-selector`, `-A`.
#[derive(Debug, Clone, Default, Args)]
pub struct Selection {
    /// Label selector: key=value, key!=value, key in (a,b), key, !key
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Field selector: metadata.name=x, status.phase!=Running
    #[arg(long, default_value = "", hide_default_value = true)]
    pub field_selector: String,
    /// All namespaces
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
}

impl Selection {
    pub fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.field_selector.is_empty()
    }
    pub fn params(&self) -> ListParams {
        ListParams {
            label_selector: self.selector.clone(),
            field_selector: self.field_selector.clone(),
            ..ListParams::default()
        }
    }
}

/// A resource by name, or all of a kind.
#[derive(Debug, Clone)]
pub struct Target {
    pub resource: Rc<Resource>,
    /// Empty: cluster-scoped, or across namespaces.
    pub namespace: String,
    /// None: the collection.
    pub name: Option<String>,
    /// From a file, whole.
    pub manifest: Option<Manifest>,
}

impl Target {
    pub fn path(&self) -> String {
        match &self.name {
            Some(name) => self.resource.object_path(&self.namespace, name),
            None => self.resource.path(&self.namespace),
        }
    }
    /// `deployment.apps/x`.
    pub fn named(&self) -> String {
        self.resource.named(self.name.as_deref().unwrap_or_default())
    }
}

/// One object that was found.
#[derive(Debug, Clone)]
pub struct Found {
    pub resource: Rc<Resource>,
    pub namespace: String,
    pub name: String,
    pub object: Value,
}

impl Found {
    pub fn path(&self) -> String {
        self.resource.object_path(&self.namespace, &self.name)
    }
    pub fn named(&self) -> String {
        self.resource.named(&self.name)
    }
}

/// The words as (resource word, name) pairs; a name of none is a whole kind.
pub fn split(words: &[String]) -> Result<Vec<(String, Option<String>)>> {
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if words.iter().any(|w| w.contains('/')) {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
                    Ok((kind.to_owned(), Some(name.to_owned())))
                }
                Some(_) => Err(usage("arguments in resource/name form must have a single resource and name")),
                None => Err(usage(
                    "there is no need to specify a resource type as a separate argument when passing arguments in \
                     resource/name form (e.g. 'kedge get resource/<resource_name>' instead of 'kedge get resource \
                     resource/<resource_name>'",
                )),
            })
            .collect();
    }
    let kinds = first.split(',').filter(|k| !k.is_empty()).map(str::to_owned);
    if words.len() == 1 {
        return Ok(kinds.map(|kind| (kind, None)).collect());
    }
    if words[1..].iter().any(String::is_empty) {
        return Err(usage("resource name may not be empty"));
    }
    Ok(kinds.flat_map(|kind| words[1..].iter().map(move |name| (kind.clone(), Some(name.clone())))).collect())
}

/// Resolves words to targets.
pub fn of_words(discovery: &Discovery, words: &[String], namespace: &str, all: bool) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for (word, name) in split(words)? {
        if name.is_some() && all {
            return Err(usage("a resource cannot be retrieved by name across all namespaces"));
        }
        let resources = if name.is_some() { vec![discovery.only(&word)?] } else { discovery.find(&word)? };
        for resource in resources {
            let namespace = if all || !resource.namespaced { "" } else { namespace };
            targets.push(Target { namespace: namespace.to_owned(), name: name.clone(), manifest: None, resource });
        }
    }
    Ok(targets)
}

/// Resolves a file's objects to targets.
pub fn of_manifest(session: &Session, discovery: &Discovery, manifest: Manifest) -> Result<Target> {
    let (api_version, kind) = (manifest.text("/apiVersion"), manifest.text("/kind"));
    let Some(resource) = discovery.of_kind(api_version, kind) else {
        anyhow::bail!(
            "resource mapping not found for name: {:?} namespace: {:?} from {:?}: no matches for kind {kind:?} in \
             version {api_version:?}\nensure CRDs are installed first",
            manifest.name(),
            manifest.text("/metadata/namespace"),
            manifest.source,
        );
    };
    let namespace = match manifest.text("/metadata/namespace") {
        _ if !resource.namespaced => String::new(),
        "" => session.namespace.clone(),
        own if session.namespace_given && own != session.namespace => anyhow::bail!(
            "the namespace from the provided object {own:?} does not match the namespace {:?}. You must pass \
             '--namespace={own}' to perform this operation.",
            session.namespace
        ),
        own => own.to_owned(),
    };
    let name = Some(manifest.name().to_owned()).filter(|n| !n.is_empty());
    Ok(Target { resource, namespace, name, manifest: Some(manifest) })
}

/// Words or files, whichever is given.
pub async fn resolve(session: &Session, files: &Files, words: &[String], selection: &Selection) -> Result<Vec<Target>> {
    let discovery = session.discovery().await?;
    if !files.is_empty() {
        if !words.is_empty() {
            return Err(usage(
                "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well",
            ));
        }
        let manifests = files.read()?;
        return manifests.into_iter().map(|m| of_manifest(session, discovery, m)).collect();
    }
    let targets = of_words(discovery, words, &session.namespace, selection.all_namespaces)?;
    if targets.is_empty() {
        return Err(usage(NOTHING_GIVEN));
    }
    if !selection.is_empty() && targets.iter().any(|t| t.name.is_some()) {
        return Err(usage("name cannot be provided when a selector is specified"));
    }
    Ok(targets)
}

/// Every item of a collection, page by page.
pub async fn list_all(session: &Session, path: &str, params: &ListParams) -> client::Result<(Vec<Value>, String)> {
    let mut params = ListParams { limit: PAGE, ..params.clone() };
    let mut items = Vec::new();
    loop {
        let page: client::List<Value> = session.client.list_path(path, &params).await?;
        items.extend(page.items);
        if page.metadata.continue_token.is_empty() {
            return Ok((items, page.metadata.resource_version));
        }
        params.continue_token = page.metadata.continue_token;
    }
}

/// The objects of targets as they are now; errors do not stop the others.
pub async fn fetch(session: &Session, targets: &[Target], selection: &Selection) -> (Vec<Found>, Vec<anyhow::Error>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for target in targets {
        let objects = match &target.name {
            Some(_) => session.client.get_path(&target.path()).await.map(|object: Value| vec![object]),
            None => {
                let listed = list_all(session, &target.path(), &selection.params()).await;
                listed.map(|(items, _)| items).map_err(|e| unlisted(&target.resource, selection, e))
            }
        };
        match objects {
            Ok(objects) => found.extend(objects.into_iter().map(|object| as_found(&target.resource, object))),
            Err(error) => errors.push(error.into()),
        }
    }
    (found, errors)
}

/// A list that was refused for its selectors says which they were. Source: cli-runtime `resource/helper.go`.
pub fn unlisted(resource: &Resource, selection: &Selection, error: client::Error) -> client::Error {
    match error {
        client::Error::Status(mut status) if status.is(types::status::Reason::BadRequest) && !selection.is_empty() => {
            status.message = format!(
                "Unable to find \"{}/{}, Resource={}\" that match label selector {:?}, field selector {:?}: {}",
                resource.group,
                resource.version,
                resource.plural,
                selection.selector,
                selection.field_selector,
                status.message
            );
            client::Error::Status(status)
        }
        other => other,
    }
}

/// Items of a list do not say what they are; they are told here.
pub fn as_found(resource: &Rc<Resource>, mut object: Value) -> Found {
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.as_str().into();
    Found {
        namespace: text(&object, "/metadata/namespace").to_owned(),
        name: text(&object, "/metadata/name").to_owned(),
        resource: Rc::clone(resource),
        object,
    }
}

/// What is said when there is none.
pub fn nothing(session: &Session, targets: &[Target], all_namespaces: bool) -> String {
    if all_namespaces || targets.iter().all(|t| !t.resource.namespaced) {
        "No resources found".into()
    } else {
        format!("No resources found in {} namespace.", session.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_become_targets() {
        let d = Discovery::built_in();
        let shown = |text: &str, all| {
            of_words(&d, &words(text), "ns", all)
                .map(|t| t.iter().map(Target::path).collect::<Vec<_>>().join(" "))
                .unwrap_or_else(|e| format!("{e}"))
        };
        for (text, all, expected) in [
            ("pods", false, "/api/v1/namespaces/ns/pods"),
            ("po", true, "/api/v1/pods"),
            ("po,svc", false, "/api/v1/namespaces/ns/pods /api/v1/namespaces/ns/services"),
            ("po a b", false, "/api/v1/namespaces/ns/pods/a /api/v1/namespaces/ns/pods/b"),
            ("po/a deploy/b", false, "/api/v1/namespaces/ns/pods/a /apis/apps/v1/namespaces/ns/deployments/b"),
            ("no", false, "/api/v1/nodes"),
            ("po,svc a", false, "/api/v1/namespaces/ns/pods/a /api/v1/namespaces/ns/services/a"),
            ("po a", true, "a resource cannot be retrieved by name across all namespaces"),
            ("po/", false, "arguments in resource/name form must have a single resource and name"),
            ("what", false, "the server doesn't have a resource type \"what\""),
        ] {
            assert_eq!(shown(text, all), expected, "{text}");
        }
    }
}
