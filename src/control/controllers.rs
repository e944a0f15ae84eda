//! The controllers, one file each: a contract, a pure `plan`, an `apply` that makes no choices, tests.
//!
//! To add one see docs/checklists/new-controller.md.

use crate::Context;

pub mod attach_detach;
pub mod autoscaler;
pub mod certificate;
pub mod certificate_approval;
pub mod certificate_cleaner;
pub mod certificate_signing;
pub mod cluster_role_aggregation;
pub mod cron_job;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod ephemeral_volume;
pub mod garbage;
pub mod job;
pub mod local_path;
pub mod namespace;
pub mod node_lifecycle;
pub mod pod_garbage;
pub mod replicaset;
pub mod replicationcontroller;
pub mod resource_claim;
pub mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod service_account_token;
pub mod service_range;
pub mod stale_disruption;
pub mod statefulset;
pub mod storage_protection;
pub mod taint_eviction;
pub mod ttl_after_finished;
pub mod volume_binder;

#[cfg(test)]
mod harness;

/// Every controller's start function.
pub const ALL: &[fn(&Context)] = &[
    namespace::start,
    service_account::start,
    service_account_token::start,
    cluster_role_aggregation::start,
    certificate_approval::start,
    certificate_signing::start,
    certificate_cleaner::start,
    root_ca::start,
    deployment::start,
    replicaset::start,
    replicationcontroller::start,
    statefulset::start,
    daemonset::start,
    endpoints::start,
    service_range::start,
    endpointslice::start,
    endpointslice_mirroring::start,
    garbage::start,
    node_lifecycle::start,
    taint_eviction::start,
    pod_garbage::start,
    resource_quota::start,
    disruption::start,
    stale_disruption::start,
    job::start,
    job::orphans::start,
    ttl_after_finished::start,
    cron_job::start,
    volume_binder::start,
    attach_detach::start,
    storage_protection::start,
    ephemeral_volume::start,
    resource_claim::start,
    resource_claim::release::start,
    local_path::start,
    autoscaler::start,
];
