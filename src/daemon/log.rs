//! The log: to stderr, as text for people or JSON for collectors.

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat};

/// Sets the process's log up. `level` is a level or a filter such as `info,apiserver=debug`.
///
/// # Errors
/// [`ConfigError::Invalid`] for a filter that cannot be read.
pub fn start(level: &str, format: LogFormat) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(level).map_err(|e| {
        ConfigError::Invalid(format!("--log-level {level:?}: {e}; a level such as info or debug is wanted"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
