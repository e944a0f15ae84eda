//! When nothing changes nothing is written.
//!
//! Heartbeats of nodes are no change and are left out; events are not: one that comes again and again means that somebody tries
//! again and again.
//!
//! Source: docs/ARCHITECTURE.md, "What must stay true": nothing polls; at idle nothing runs but the node's lease.

/// What was written in a quiet time.
///
/// # Errors
/// What should not have been.
pub fn judge(writes: &[String]) -> Result<(), String> {
    if writes.is_empty() { Ok(()) } else { Err(format!("written at rest:\n  {}", writes.join("\n  "))) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_write_at_rest_is_told() {
        assert_eq!(super::judge(&[]), Ok(()));
        let why = super::judge(&["deployment-controller: write deployments.apps shop/web".into()]);
        assert_eq!(why, Err("written at rest:\n  deployment-controller: write deployments.apps shop/web".into()));
    }
}
