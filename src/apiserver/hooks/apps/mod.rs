//! The kinds of the apps group: workloads with a pod template.

pub mod deployment;
pub mod replica_set;
