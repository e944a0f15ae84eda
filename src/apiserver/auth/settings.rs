//! The file that says whom the server believes besides its own certificates and tokens: `AuthenticationConfiguration`.
//!
//! What never lives here: a file, a token.
//!
//! Source: apiserver `pkg/apis/apiserver/{v1,validation}`, KEP-3331, KEP-4633.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use types::field::{FieldError, Path};

use super::claims::Claims;
use super::issuer::Fetch;

const GROUP: &str = "apiserver.config.k8s.io/";
const KIND: &str = "AuthenticationConfiguration";
/// Issuers in one file; each costs memory for its keys. Source: upstream's limit of 64.
const ISSUERS_MAX: usize = 64;

/// Who else is believed.
#[derive(Clone, Default)]
pub struct Settings {
    pub anonymous: Anonymous,
    pub issuers: Vec<Issuer>,
    /// Reads the issuers' documents; `None`: over HTTPS.
    pub fetch: Option<Arc<dyn Fetch>>,
}

/// Which paths are served to requests without credentials. Everything else is refused with 401.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Anonymous {
    Nowhere,
    /// What tells nothing about the cluster: health and version.
    #[default]
    Public,
    Paths(Vec<String>),
    /// Authorization decides.
    Everywhere,
}

impl Anonymous {
    pub fn served(&self, path: &str) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Public => crate::http::documents::is_public(path),
            Self::Paths(paths) => paths.iter().any(|p| p == path),
            Self::Everywhere => true,
        }
    }
}

/// A foreign issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuer {
    pub issuer: Source,
    #[serde(default)]
    pub claim_validation_rules: Vec<Rule>,
    pub claim_mappings: Mappings,
    #[serde(default)]
    pub user_validation_rules: Vec<UserRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    #[serde(default)]
    pub url: String,
    #[serde(default, rename = "discoveryURL")]
    pub discovery_url: String,
    /// PEM; empty: the authorities of the machine.
    #[serde(default)]
    pub certificate_authority: String,
    #[serde(default)]
    pub audiences: Vec<String>,
    #[serde(default)]
    pub audience_match_policy: String,
    #[serde(default)]
    pub egress_selector_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    #[serde(default)]
    pub claim: String,
    #[serde(default)]
    pub required_value: String,
    #[serde(default)]
    pub expression: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mappings {
    #[serde(default)]
    pub username: Mapping,
    #[serde(default)]
    pub groups: Mapping,
    #[serde(default)]
    pub uid: Mapping,
    #[serde(default)]
    pub extra: Vec<Extra>,
}

/// What a user gets besides the usual.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Extra {
    #[serde(default)]
    pub key: String,
    #[serde(default)]
    pub value_expression: String,
}

/// What must hold of a user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserRule {
    #[serde(default)]
    pub expression: String,
    #[serde(default)]
    pub message: String,
}

/// Where a part of the identity comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mapping {
    #[serde(default)]
    pub claim: String,
    /// What stands before it; must be said, even if it is nothing.
    pub prefix: Option<String>,
    #[serde(default)]
    pub expression: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    jwt: Vec<Issuer>,
    anonymous: Option<AnonymousFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnonymousFile {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    path: String,
}

/// Reads the file's text. `own` is the issuer of this server's tokens, whom no other may pretend to be.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn parse(text: &str, own: &str) -> Result<Settings, String> {
    let file: File = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    let version = file.api_version.strip_prefix(GROUP);
    if !matches!(version, Some("v1" | "v1beta1" | "v1alpha1")) || file.kind != KIND {
        return Err(format!("an {KIND} of {GROUP}v1 is wanted, this is {:?} of {:?}", file.kind, file.api_version));
    }
    let mut errors = Vec::new();
    check_all(&file.jwt, own, &mut errors);
    let anonymous = match file.anonymous {
        None => Anonymous::default(),
        Some(a) if !a.enabled && !a.conditions.is_empty() => {
            let words = "enabled should be set to true when conditions are defined";
            errors.push(FieldError::invalid(&Path::new("anonymous.conditions"), a.conditions.len() as i64, words));
            Anonymous::Nowhere
        }
        Some(a) if !a.enabled => Anonymous::Nowhere,
        Some(a) if a.conditions.is_empty() => Anonymous::Everywhere,
        Some(a) => Anonymous::Paths(a.conditions.into_iter().map(|c| c.path).collect()),
    };
    match errors.first() {
        Some(error) => Err(error.to_string()),
        None => Ok(Settings { anonymous, issuers: file.jwt, fetch: None }),
    }
}

fn check_all(issuers: &[Issuer], own: &str, errors: &mut Vec<FieldError>) {
    let root = Path::new("jwt");
    if issuers.len() > ISSUERS_MAX {
        errors.push(FieldError::too_many(&root, issuers.len(), ISSUERS_MAX));
    }
    let mut seen = BTreeSet::new();
    for (i, issuer) in issuers.iter().enumerate() {
        let path = root.index(i);
        let source = &issuer.issuer;
        let at = path.child("issuer");
        if source.url == own {
            let words = format!("URL must not overlap with disallowed issuers: [{own}]");
            errors.push(FieldError::invalid(&at.child("url"), source.url.as_str(), words));
        }
        if source.url.is_empty() {
            errors.push(FieldError::required(&at.child("url"), ""));
        } else {
            check_url(&source.url, &at.child("url"), errors);
        }
        if !source.discovery_url.is_empty() {
            let path = at.child("discoveryURL");
            if source.discovery_url.trim_end_matches('/') == source.url.trim_end_matches('/') {
                let words = "discoveryURL must be different from URL";
                errors.push(FieldError::invalid(&path, source.discovery_url.as_str(), words));
            }
            check_url(&source.discovery_url, &path, errors);
        }
        if !seen.insert(&source.url) {
            errors.push(FieldError::duplicate(&at.child("url"), source.url.as_str()));
        }
        check_audiences(source, &at, errors);
        Claims::compile(issuer, &path, errors);
    }
}

fn check_url(url: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let mut say = |words: &str| errors.push(FieldError::invalid(path, url, words));
    let Some(rest) = url.strip_prefix("https://") else { return say("URL scheme must be https") };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        say("URL must not contain a username or password");
    }
    if url.contains('?') {
        say("URL must not contain a query");
    }
    if url.contains('#') {
        say("URL must not contain a fragment");
    }
}

fn check_audiences(source: &Source, at: &Path, errors: &mut Vec<FieldError>) {
    let path = at.child("audiences");
    if source.audiences.is_empty() {
        errors.push(FieldError::required(&path, &format!("at least one {path} is required")));
    }
    let mut seen = BTreeSet::new();
    for (i, audience) in source.audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.push(FieldError::required(&path.index(i), ""));
        } else if !seen.insert(audience) {
            errors.push(FieldError::duplicate(&path.index(i), audience.as_str()));
        }
    }
    let policy = source.audience_match_policy.as_str();
    let words = match (source.audiences.len(), policy) {
        (_, "MatchAny") | (0 | 1, "") => return,
        (0 | 1, _) => "audienceMatchPolicy must be empty or MatchAny for single audience",
        _ => "audienceMatchPolicy must be MatchAny for multiple audiences",
    };
    errors.push(FieldError::invalid(&at.child("audienceMatchPolicy"), policy, words));
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "https://kubernetes.default.svc";

    fn file(rest: &str) -> String {
        format!("apiVersion: {GROUP}v1\nkind: {KIND}\n{rest}")
    }

    fn issuer(source: &str, mappings: &str) -> String {
        file(&format!("jwt:\n- issuer: {source}\n  claimMappings: {mappings}\n"))
    }

    #[test]
    fn files_are_read() {
        for (rest, wanted) in [
            ("", Anonymous::Public),
            ("anonymous: {enabled: false}", Anonymous::Nowhere),
            ("anonymous: {enabled: true}", Anonymous::Everywhere),
            ("anonymous: {enabled: true, conditions: [{path: /livez}]}", Anonymous::Paths(vec!["/livez".into()])),
        ] {
            assert_eq!(parse(&file(rest), OWN).ok().map(|s| s.anonymous), Some(wanted), "{rest}");
        }
        let text = issuer("{url: 'https://a.example', audiences: [kedge]}", "{username: {claim: sub, prefix: ''}}");
        let settings = parse(&text, OWN).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(settings.issuers[0].issuer.audiences, ["kedge"]);
    }

    #[test]
    fn mistakes_are_named() {
        let good = "{username: {claim: sub, prefix: ''}}";
        let source = "{url: 'https://a.example', audiences: [kedge]}";
        let with_extra = |key: &str| {
            issuer(
                source,
                &format!(
                    "{{username: {{claim: sub, prefix: ''}}, extra: [{{key: {key}, valueExpression: claims.a}}]}}"
                ),
            )
        };
        let ruled = |rules: &str| format!("{}  {rules}\n", issuer(source, good));
        for (text, part) in [
            ("kind: Other".to_owned(), "is wanted"),
            (file("colour: red"), "unknown field `colour`"),
            (file("anonymous: {enabled: false, conditions: [{path: /}]}"), "enabled should be set to true"),
            (issuer("{url: 'http://a.example', audiences: [k]}", good), "URL scheme must be https"),
            (issuer("{url: 'https://u@a.example', audiences: [k]}", good), "must not contain a username"),
            (issuer("{audiences: [k]}", good), "jwt[0].issuer.url: Required"),
            (issuer(&format!("{{url: '{OWN}', audiences: [k]}}"), good), "disallowed issuers"),
            (issuer("{url: 'https://a.example'}", good), "jwt[0].issuer.audiences: Required"),
            (issuer("{url: 'https://a.example', audiences: [a, b]}", good), "must be MatchAny for multiple"),
            (issuer(source, "{username: {claim: sub}}"), "prefix is required when claim is set"),
            (issuer(source, "{username: {prefix: a}}"), "claim or expression is required"),
            (
                issuer(source, "{username: {expression: claims.sub, prefix: ''}}"),
                "may not be specified when expression is set",
            ),
            (issuer(source, "{username: {expression: claims., claim: sub}}"), "claim and expression can't both be set"),
            (issuer(source, "{username: {expression: 'claims.'}}"), "compilation failed: ERROR: <input>:1:"),
            (issuer(source, "{username: {expression: claims.email}}"), "claims.email_verified must be used"),
            (with_extra("example.org/A"), "must be lowercase"),
            (with_extra("a"), "must be a domain-prefixed path"),
            (with_extra("x.k8s.io/a"), "reserved for Kubernetes use"),
            (ruled("claimValidationRules: [{expression: '1'}]"), "must evaluate to bool"),
            (
                ruled("claimValidationRules: [{expression: 'true', requiredValue: a}]"),
                "may not be specified when expression",
            ),
            (ruled("userValidationRules: [{expression: user.name == ''}]"), "undefined field 'name'"),
            (ruled("userValidationRules: [{message: a}]"), "userValidationRules[0].expression: Required"),
        ] {
            let error = parse(&text, OWN).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
