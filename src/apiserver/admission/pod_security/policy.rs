//! What a namespace's labels ask for.
//! Source: `staging/src/k8s.io/pod-security-admission/api/helpers.go`.

use std::fmt;

use types::field::{FieldError, Path};
use types::selector::Labels;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// Of the standards, which grow with Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    #[default]
    Latest,
    /// `v1.<minor>`.
    Minor(u32),
}

impl Version {
    /// Whether what came with `v1.<minor>` is in force.
    pub fn has(self, minor: u32) -> bool {
        match self {
            Version::Latest => true,
            Version::Minor(own) => own >= minor,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standard {
    pub level: Level,
    pub version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })?;
        match self.version {
            Version::Latest => f.write_str(":latest"),
            Version::Minor(minor) => write!(f, ":v1.{minor}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    pub enforce: Standard,
    pub audit: Standard,
    pub warn: Standard,
}

fn level(text: &str) -> Result<Level, &'static str> {
    match text {
        "privileged" => Ok(Level::Privileged),
        "baseline" => Ok(Level::Baseline),
        "restricted" => Ok(Level::Restricted),
        _ => Err("must be one of privileged, baseline, restricted"),
    }
}

fn version(text: &str) -> Result<Version, &'static str> {
    if text == "latest" {
        return Ok(Version::Latest);
    }
    let minor = text.strip_prefix("v1.").filter(|m| *m == "0" || !m.starts_with('0'));
    let minor = minor.filter(|m| m.bytes().all(|b| b.is_ascii_digit())).and_then(|m| m.parse().ok());
    minor.map(Version::Minor).ok_or("must be \"latest\" or \"v1.x\"")
}

impl Policy {
    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|standard| standard.level == Level::Privileged)
    }

    /// The policy, and what is wrong with the labels: what cannot be read is enforced as strictly as can be.
    pub fn read(labels: &dyn Labels) -> (Self, Vec<FieldError>) {
        let mut policy = Self::default();
        let mut errors = Vec::new();
        let path = Path::new("metadata.labels");
        let mut wrong =
            |label: &str, value: &str, why: &str| errors.push(FieldError::invalid(&path.key(label), value, why));
        let name = |mode: &str| format!("pod-security.kubernetes.io/{mode}");
        let (mut enforces, mut warns, mut warn_versioned) = (false, false, false);
        for mode in ["enforce", "audit", "warn"] {
            let (level_label, version_label) = (name(mode), name(&format!("{mode}-version")));
            let mut standard = Standard::default();
            if let Some(text) = labels.label(&level_label) {
                match level(text) {
                    Ok(level) => {
                        standard.level = level;
                        enforces |= mode == "enforce";
                    }
                    Err(why) => {
                        standard.level = if mode == "enforce" { Level::Restricted } else { Level::Privileged };
                        wrong(&level_label, text, why);
                    }
                }
                warns |= mode == "warn";
            }
            if let Some(text) = labels.label(&version_label) {
                standard.version = version(text).unwrap_or_else(|why| {
                    wrong(&version_label, text, why);
                    Version::Latest
                });
                warn_versioned |= mode == "warn";
            }
            match mode {
                "enforce" => policy.enforce = standard,
                "warn" => policy.warn = standard,
                _ => policy.audit = standard,
            }
        }
        // Whoever is going to be refused pods is warned about what makes them.
        if !warns && enforces && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if !warn_versioned {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}
