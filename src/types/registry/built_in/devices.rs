//! storage.k8s.io, resource.k8s.io and node.k8s.io: what machines have to offer to pods.

use super::*;

pub(super) fn kinds() -> Vec<Kind> {
    let cluster = |group, kind, plural, singular, hash| Kind {
        scope: Scope::Cluster,
        storage_version_hash: Borrowed(hash),
        ..base(group, kind, plural, singular)
    };
    vec![
        cluster(STORAGE, "CSIDriver", "csidrivers", "csidriver", "hL6j/rwBV5w="),
        cluster(STORAGE, "CSINode", "csinodes", "csinode", "Pe62DkZtjuo="),
        Kind {
            storage_version_hash: Borrowed("xeVl+2Ly1kE="),
            ..base(STORAGE, "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("sc")]),
            ..cluster(STORAGE, "StorageClass", "storageclasses", "storageclass", "K+m6uJwbjGY=")
        },
        Kind {
            subresources: Owned(vec![STATUS]),
            ..cluster(STORAGE, "VolumeAttachment", "volumeattachments", "volumeattachment", "tJx/ezt6UDU=")
        },
        Kind {
            short_names: Borrowed(&[Borrowed("vac")]),
            ..cluster(
                STORAGE,
                "VolumeAttributesClass",
                "volumeattributesclasses",
                "volumeattributesclass",
                "tIjydgKBC5w=",
            )
        },
        cluster("node.k8s.io", "RuntimeClass", "runtimeclasses", "runtimeclass", "WQTu1GL3T2Q="),
        cluster(RESOURCE, "DeviceClass", "deviceclasses", "deviceclass", "Yk2PTc1Ybxk="),
        Kind {
            subresources: Owned(vec![STATUS]),
            storage_version_hash: Borrowed("wgAZaHcZxUg="),
            ..base(RESOURCE, "ResourceClaim", "resourceclaims", "resourceclaim")
        },
        Kind {
            storage_version_hash: Borrowed("TuzjC49aUfM="),
            ..base(RESOURCE, "ResourceClaimTemplate", "resourceclaimtemplates", "resourceclaimtemplate")
        },
        Kind {
            selectable_fields: Borrowed(&[Borrowed("spec.nodeName"), Borrowed("spec.driver")]),
            ..cluster(RESOURCE, "ResourceSlice", "resourceslices", "resourceslice", "KsC072WgaEY=")
        },
    ]
}

const STORAGE: &str = "storage.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
