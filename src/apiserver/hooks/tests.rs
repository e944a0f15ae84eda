//! Promises about all kinds at once.

use types::registry::BUILT_IN;

use super::*;

#[test]
fn every_registry_entry_has_hooks() {
    for kind in BUILT_IN.iter() {
        assert!(named(&kind.group, &kind.kind).is_some(), "{} has no hooks", kind.group_resource());
        for subresource in kind.subresources.iter() {
            let exchanged = subresource.response.as_ref().filter(|r| !r.kind.ends_with("Options"));
            if let Some(response) = exchanged {
                assert!(named(&response.group, &response.kind).is_some(), "{} has no hooks", response.kind);
            }
        }
    }
}
