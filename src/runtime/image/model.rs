//! The JSON documents of images, as far as they are read here, and which of several platforms is ours.
//!
//! Source: OCI image spec 1.1 (descriptor, manifest, image-index, config); Docker image manifest version 2, schema 2.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The full name of an image in an archive's index. Source: containerd.
pub const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// Its tag, or whatever the tool was given as its name. Source: OCI image spec, annotations.md.
pub const REF_NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// Bytes of a manifest, index or configuration. Registries limit manifests to 4 MiB; configurations with long histories stay
/// far below.
pub const DOCUMENT_BYTES_MAX: usize = 8 << 20;

/// Layers of one image. Overlay takes 500 lower directories, other runtimes stop at 127.
pub const LAYERS_MAX: usize = 256;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    #[serde(default)]
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A manifest or an index: which one, the fields tell.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    #[serde(default)]
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Descriptor>,
}

impl Manifest {
    pub fn is_index(&self) -> bool {
        self.config.is_none()
            && (!self.manifests.is_empty() || matches!(self.media_type.as_deref(), Some(OCI_INDEX | DOCKER_LIST)))
    }
}

/// An image's configuration document.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ConfigDocument {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
    #[serde(default)]
    config: Option<ConfigSection>,
    pub rootfs: RootFs,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct RootFs {
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigSection {
    #[serde(deserialize_with = "null_is_default")]
    user: String,
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    volumes: BTreeMap<PathBuf, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    stop_signal: String,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// What a container takes from its image unless told otherwise. Source: OCI image spec, config.md.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, …; empty is root.
    pub user: String,
    pub stop_signal: Option<String>,
    pub volumes: Vec<PathBuf>,
    pub labels: BTreeMap<String, String>,
    pub platform: Platform,
}

impl ConfigDocument {
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone().filter(|v| !v.is_empty()),
        }
    }

    pub fn image_config(&self) -> ImageConfig {
        let platform = self.platform();
        let section = self.config.clone().unwrap_or_default();
        ImageConfig {
            entrypoint: section.entrypoint,
            cmd: section.cmd,
            env: section.env,
            working_dir: section.working_dir,
            user: section.user,
            stop_signal: Some(section.stop_signal).filter(|s| !s.is_empty()),
            volumes: section.volumes.into_keys().collect(),
            labels: section.labels,
            platform,
        }
    }
}

/// Operating system, processor and its variant, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// The machine that this binary was built for.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// How well something made for `other` runs here: lower is better, `None` not at all. Code for older variants of the same
    /// family runs on newer ones. Source: containerd's platforms package.
    pub fn rank(&self, other: &Platform) -> Option<u32> {
        if self.os != other.os {
            return None;
        }
        let level = |platform: &Platform| -> Option<u32> {
            let default = match platform.architecture.as_str() {
                "arm64" => "v8",
                "arm" => "v7",
                "amd64" => "v1",
                _ => "",
            };
            let variant = platform.variant.as_deref().filter(|v| !v.is_empty()).unwrap_or(default);
            match variant {
                "" => Some(0),
                v => v.strip_prefix('v')?.parse().ok(),
            }
        };
        let (ours, theirs) = (level(self)?, level(other)?);
        match (self.architecture.as_str(), other.architecture.as_str()) {
            (a, b) if a == b => ours.checked_sub(theirs),
            // 32-bit code after every 64-bit choice.
            ("amd64", "386") => Some(100),
            ("arm64", "arm") => 8u32.checked_sub(theirs).map(|distance| 100 + distance),
            _ => None,
        }
    }

    /// The best of several; the first of equals.
    pub fn choose<'a>(&self, manifests: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let mut best: Option<(u32, &Descriptor)> = None;
        for descriptor in manifests {
            // An index without platforms lists images of which the first will do.
            let rank = match &descriptor.platform {
                Some(platform) => self.rank(platform),
                None => Some(1000),
            };
            if let Some(rank) = rank
                && best.is_none_or(|(other, _)| rank < other)
            {
                best = Some((rank, descriptor));
            }
        }
        best.map(|(_, descriptor)| descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform { os: parts.next().unwrap(), architecture: parts.next().unwrap_or_default(), variant: parts.next() }
    }

    fn check(host: &str, offered: &[&str], chosen: Option<usize>) {
        let manifests: Vec<Descriptor> = offered
            .iter()
            .enumerate()
            .map(|(index, text)| Descriptor {
                media_type: OCI_MANIFEST.into(),
                digest: Digest::of(&[index as u8]),
                size: 1,
                platform: Some(platform(text)),
                annotations: None,
            })
            .collect();
        let got = platform(host).choose(&manifests).map(|d| d.digest.clone());
        assert_eq!(got, chosen.map(|index| manifests[index].digest.clone()), "{host} of {offered:?}");
    }

    #[test]
    fn the_fitting_platform_is_chosen() {
        check("linux/amd64", &["linux/arm64", "linux/amd64", "windows/amd64"], Some(1));
        check("linux/amd64", &["unknown/unknown", "linux/386"], Some(1));
        check("linux/amd64", &["linux/386", "linux/amd64"], Some(1));
        check("linux/amd64", &["linux/amd64/v3"], None);
        check("linux/arm64/v8", &["linux/arm/v7", "linux/arm64"], Some(1));
        check("linux/arm64/v8", &["linux/arm/v6", "linux/arm/v7"], Some(1));
        check("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/arm64"], Some(1));
        check("linux/arm/v6", &["linux/arm/v7"], None);
        check("linux/amd64", &["linux/s390x"], None);
        check("linux/amd64", &[], None);
    }

    #[test]
    fn configurations_with_nulls_are_read() {
        let text = r#"{"os":"linux","architecture":"arm64","variant":"v8","config":{"Env":null,"Cmd":["sh"],"Entrypoint":null,
            "Volumes":{"/data":{}},"User":"redis","StopSignal":"SIGQUIT","Labels":null},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = serde_json::from_str::<ConfigDocument>(text).unwrap().image_config();
        assert_eq!(config.cmd, ["sh"]);
        assert_eq!(config.volumes, [PathBuf::from("/data")]);
        assert_eq!((config.user.as_str(), config.stop_signal.as_deref()), ("redis", Some("SIGQUIT")));
        assert_eq!(config.platform.to_string(), "linux/arm64/v8");
    }
}
