//! Content negotiation: the `Accept` header to a format and a shape.
//!
//! Source: apiserver `pkg/endpoints/handlers/negotiation/negotiate.go`; RFC 9110 §12.5.1.

use types::status::Status;

use super::Media;

/// The shape in which the client wants the object or list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// As it is.
    Object,
    TableV1,
    TableV1beta1,
    PartialObjectMetadata,
    PartialObjectMetadataList,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    pub media: Media,
    pub as_: As,
    /// Indented JSON was asked for by a `pretty` parameter of the media range.
    pub pretty: bool,
}

impl Accepted {
    pub const JSON: Accepted = Accepted { media: Media::Json, as_: As::Object, pretty: false };

    /// The value of the `Content-Type` header of a plain response; watches have [`Media::watch_content_type`].
    pub const fn content_type(&self) -> &'static str {
        self.media.as_str()
    }
}

/// Chooses what to answer. The client's quality values decide, then its order; no header or `*/*` gives JSON.
/// Tables exist in JSON and YAML only, so a protobuf Table is passed over in favour of the next range.
///
/// Errors: 406 when nothing that the client accepts is served.
pub fn negotiate(accept: Option<&str>) -> Result<Accepted, Status> {
    let header = accept.unwrap_or("").trim();
    if header.is_empty() {
        return Ok(Accepted::JSON);
    }
    let mut best: Option<(f32, Accepted)> = None;
    for range in header.split(',') {
        let Some((quality, accepted)) = parse_range(range) else { continue };
        if quality > best.map_or(0.0, |(q, _)| q) {
            best = Some((quality, accepted));
        }
    }
    best.map(|(_, accepted)| accepted).ok_or_else(|| Status::not_acceptable(Media::ALL))
}

/// Chooses among media types that are no formats of objects; a range with `*` takes the first. No header is `*/*`.
/// Parameters but the quality are ignored.
pub fn choose(accept: &str, served: &[&'static str]) -> Option<&'static str> {
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    let mut best: Option<(f32, &'static str)> = None;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let any = matches!(essence, "*/*" | "application/*");
        let media = served.iter().find(|m| any || m.eq_ignore_ascii_case(essence));
        let quality = parts.find_map(|p| p.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(1.0));
        if let Some(media) = media
            && quality > best.map_or(0.0, |(q, _)| q)
        {
            best = Some((quality, media));
        }
    }
    best.map(|(_, media)| media)
}

/// Whether JSON is indented: the query says so, or else the client is one that people look through.
///
/// Source: `negotiate.go` `isPrettyPrint`, Go `strconv.ParseBool`.
pub fn is_pretty(parameter: Option<&str>, user_agent: &str) -> bool {
    match parameter.filter(|p| !p.is_empty()) {
        Some(text) => matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True"),
        None => ["curl", "Wget", "Mozilla/5.0"].iter().any(|human| user_agent.starts_with(human)),
    }
}

/// One media range with its quality; `None` when it asks for something that is not served.
fn parse_range(range: &str) -> Option<(f32, Accepted)> {
    let mut parts = range.split(';').map(str::trim);
    let essence = parts.next()?;
    let is = |name: &str| essence.eq_ignore_ascii_case(name);
    let media = [Media::Json, Media::Yaml, Media::Protobuf].into_iter().find(|m| is(m.as_str()));
    let media = media.or_else(|| (is("*/*") || is("application/*")).then_some(Media::Json))?;
    let (mut quality, mut pretty) = (1.0, false);
    let (mut kind, mut group, mut version) = ("", "", "");
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name.trim() {
            "q" => quality = value.trim().parse().unwrap_or(1.0),
            "pretty" => pretty = value == "1",
            "as" => kind = value,
            "g" => group = value,
            "v" => version = value,
            _ => {}
        }
    }
    let as_ = match (kind, group, version) {
        ("", "", "") => As::Object,
        ("Table", "meta.k8s.io", "v1") => As::TableV1,
        ("Table", "meta.k8s.io", "v1beta1") => As::TableV1beta1,
        ("PartialObjectMetadata", "meta.k8s.io", "v1" | "v1beta1") => As::PartialObjectMetadata,
        ("PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") => As::PartialObjectMetadataList,
        _ => return None,
    };
    if media == Media::Protobuf && matches!(as_, As::TableV1 | As::TableV1beta1) {
        return None;
    }
    Some((quality, Accepted { media, as_, pretty }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_among_other_types() {
        for (accept, expected) in [
            ("", Some("application/json")),
            ("*/*", Some("application/json")),
            ("application/a@v1", Some("application/a@v1")),
            ("application/*;q=0.5, application/a@v1", Some("application/a@v1")),
            ("application/a@v1;q=0.8, application/JSON;charset=utf-8", Some("application/json")),
            ("application/a@v1, application/json", Some("application/a@v1")),
            ("text/html, application/json;q=0", None),
        ] {
            assert_eq!(choose(accept, &["application/json", "application/a@v1"]), expected, "{accept}");
        }
    }

    #[test]
    fn people_get_indented_json() {
        for (parameter, agent, expected) in [
            (None, "", false),
            (None, "kubectl/v1.36.0", false),
            (None, "curl/8.5.0", true),
            (None, "Mozilla/5.0 (X11)", true),
            (Some(""), "Wget/1.21", true),
            (Some("false"), "curl/8.5.0", false),
            (Some("0"), "curl/8.5.0", false),
            (Some("true"), "", true),
            (Some("1"), "", true),
            (Some("yes"), "curl/8.5.0", false),
        ] {
            assert_eq!(is_pretty(parameter, agent), expected, "{parameter:?} {agent}");
        }
    }

    #[test]
    fn what_clients_send() {
        let json = Accepted::JSON;
        let protobuf = Accepted { media: Media::Protobuf, ..json };
        let table = Accepted { as_: As::TableV1, ..json };
        let list = Accepted { as_: As::PartialObjectMetadataList, ..protobuf };
        for (header, expected) in [
            (None, Some(json)),
            (Some(""), Some(json)),
            (Some("*/*"), Some(json)),
            (Some("text/html, application/xhtml+xml, */*;q=0.8"), Some(json)),
            (Some("application/json"), Some(json)),
            (Some("application/json; pretty=1"), Some(Accepted { pretty: true, ..json })),
            (Some("application/yaml"), Some(Accepted { media: Media::Yaml, ..json })),
            (Some("application/vnd.kubernetes.protobuf,application/json"), Some(protobuf)),
            (Some("application/vnd.kubernetes.protobuf;q=0.5,application/json"), Some(json)),
            (
                Some(
                    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                ),
                Some(table),
            ),
            (Some("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json"), Some(json)),
            (
                Some(
                    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
                ),
                Some(list),
            ),
            (Some("application/cbor, application/json;q=0.9"), Some(json)),
            (Some("application/json;as=Nonsense;v=v1;g=meta.k8s.io"), None),
            (Some("text/html"), None),
            (Some("application/json;q=0"), None),
        ] {
            assert_eq!(negotiate(header).ok(), expected, "{header:?}");
        }
        let refused = negotiate(Some("text/html")).unwrap_err();
        assert_eq!(refused.code, 406);
    }
}
