//! Service: what is valid. Source: `ValidateService`.

pub const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";
pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
