//! What this build is and which Kubernetes it serves.

/// The version of the API that is served.
const KUBERNETES: &str = "1.36.0";

/// `v1.36.0+kedge0.1.0`.
pub fn git_version() -> String {
    format!("v{KUBERNETES}+kedge{}", env!("CARGO_PKG_VERSION"))
}

/// For `/version`.
pub fn served() -> apiserver::Version {
    apiserver::Version {
        git_version: git_version(),
        git_commit: option_env!("KEDGE_COMMIT").unwrap_or("unknown").into(),
        build_date: option_env!("KEDGE_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z").into(),
    }
}
