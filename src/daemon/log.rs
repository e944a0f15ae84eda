//! The log: to stderr, as text for people or JSON for collectors.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat};

const TAKES: &str = "off, error, warn, info, debug or trace is wanted, or a filter such as info,apiserver=debug";

/// The filter that `level` is: a level, or levels of targets such as `info,apiserver=debug`. Errors: what is wanted.
pub fn filter(level: &str) -> Result<EnvFilter, &'static str> {
    // The library takes a word that is no level for a target to be traced, and leaves the rest of the log out. Filters of
    // spans are left to it: their values may hold anything.
    let known = |part: &str| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        !level.is_empty() && level.parse::<LevelFilter>().is_ok()
    };
    if !level.contains('[') && !level.split(',').all(known) {
        return Err(TAKES);
    }
    EnvFilter::try_new(level).map_err(|_| TAKES)
}

/// Sets the process's log up. `level` is as [`filter`] takes it.
///
/// # Errors
/// [`ConfigError::Invalid`] for a filter that cannot be read.
pub fn start(level: &str, format: LogFormat) -> Result<(), ConfigError> {
    let filter = filter(level).map_err(|takes| ConfigError::Invalid(format!("--log-level {level:?}: {takes}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
