//! Media types of request bodies and responses.

use types::status::Status;

/// A format that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Yaml,
    Protobuf,
}

impl Media {
    pub const ALL: &'static [&'static str] = &[Media::Json.as_str(), Media::Yaml.as_str(), Media::Protobuf.as_str()];

    /// What a watch can be had in.
    pub const STREAMED: &'static [&'static str] =
        &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

    pub const fn as_str(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// The `Content-Type` of a stream of watch events; events in protobuf are framed by their length.
    pub const fn watch_content_type(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }

    /// The format of a request body; none or an empty one is JSON. Parameters are ignored.
    ///
    /// Errors: 415 with the served types (CBOR among the refused; clients fall back to JSON).
    pub fn of(content_type: Option<&str>) -> Result<Self, Status> {
        let essence = content_type.unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        match essence.as_str() {
            "" | "application/json" => Ok(Media::Json),
            "application/yaml" => Ok(Media::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Media::Protobuf),
            _ => Err(Status::unsupported_media_type(Self::ALL)),
        }
    }
}
