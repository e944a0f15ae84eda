//! The served groups and versions in upstream's order: by the priority of the group, then by its name, then by the priority
//! of the version in it. Discovery, the list of built-in kinds and the APIService objects follow it.
//!
//! Source: `pkg/controlplane/apiserver/aggregator.go` `DefaultGenericAPIServicePriorities`,
//! `cmd/kube-apiserver/app/aggregator.go`; kube-aggregator `pkg/apis/apiregistration/v1/helpers.go`.

/// A group and version with their priorities: as an APIService object names them, greater is earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupVersion {
    pub group: &'static str,
    pub version: &'static str,
    pub group_priority: i64,
    pub version_priority: i64,
}

const fn v1(group: &'static str, group_priority: i64, version_priority: i64) -> GroupVersion {
    GroupVersion { group, version: "v1", group_priority, version_priority }
}

/// What a CustomResourceDefinition's group and version get, and any group that is not listed.
pub const DEFAULT_GROUP_PRIORITY: i64 = 1000;
pub const DEFAULT_VERSION_PRIORITY: i64 = 100;

pub const GROUP_VERSIONS: &[GroupVersion] = &[
    v1("apiregistration.k8s.io", 20_000, 1),
    v1("", 18_000, 1),
    v1("apps", 17_800, 15),
    v1("events.k8s.io", 17_750, 15),
    v1("authentication.k8s.io", 17_700, 15),
    v1("authorization.k8s.io", 17_600, 15),
    GroupVersion { version: "v2", version_priority: 30, ..v1("autoscaling", 17_500, 15) },
    v1("autoscaling", 17_500, 15),
    v1("batch", 17_400, 15),
    v1("certificates.k8s.io", 17_300, 15),
    v1("networking.k8s.io", 17_200, 15),
    v1("policy", 17_100, 15),
    v1("rbac.authorization.k8s.io", 17_000, 15),
    v1("storage.k8s.io", 16_800, 15),
    v1("admissionregistration.k8s.io", 16_700, 15),
    v1("apiextensions.k8s.io", 16_700, 15),
    v1("scheduling.k8s.io", 16_600, 15),
    v1("coordination.k8s.io", 16_500, 15),
    v1("node.k8s.io", 16_300, 15),
    v1("discovery.k8s.io", 16_200, 15),
    v1("resource.k8s.io", 16_200, 21),
    v1("flowcontrol.apiserver.k8s.io", 16_100, 21),
    // As metrics-server registers it.
    GroupVersion { version: "v1beta1", version_priority: 100, ..v1("metrics.k8s.io", 100, 15) },
];

/// Where a group and version stand in [`GROUP_VERSIONS`]; those that are not there come last.
pub(super) fn position(group: &str, version: &str) -> usize {
    GROUP_VERSIONS.iter().position(|g| g.group == group && g.version == version).unwrap_or(GROUP_VERSIONS.len())
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;

    #[test]
    fn the_order_is_by_priority_and_name() {
        let key = |g: &GroupVersion| (Reverse(g.group_priority), g.group, Reverse(g.version_priority));
        assert!(GROUP_VERSIONS.windows(2).all(|w| key(&w[0]) < key(&w[1])));
    }

    #[test]
    fn every_built_in_kind_is_in_one_of_them() {
        for kind in super::super::BUILT_IN.iter() {
            assert!(position(&kind.group, &kind.version) < GROUP_VERSIONS.len(), "{}/{}", kind.group, kind.version);
        }
        for known in GROUP_VERSIONS {
            let served = super::super::BUILT_IN.iter().any(|k| k.group == known.group && k.version == known.version);
            assert!(served, "{known:?}");
        }
    }
}
