//! How pods of one `schedulerName` are placed: which plugins judge them, with which weights and arguments.
//!
//! Source: `pkg/scheduler/apis/config/v1/{default_plugins,defaults}.go`, `pkg/scheduler/framework/plugins/names/names.go`.

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};

/// Best score that a plugin gives.
pub const SCORE_MAX: i64 = 100;

/// Upstream's plugins that decide here, in the order in which they filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plugin {
    SchedulingGates,
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DynamicResources,
    DefaultPreemption,
    NodeResourcesBalancedAllocation,
    ImageLocality,
}

impl Plugin {
    pub const ALL: [Self; 17] = [
        Self::SchedulingGates,
        Self::NodeUnschedulable,
        Self::NodeName,
        Self::TaintToleration,
        Self::NodeAffinity,
        Self::NodePorts,
        Self::NodeResourcesFit,
        Self::VolumeRestrictions,
        Self::NodeVolumeLimits,
        Self::VolumeBinding,
        Self::VolumeZone,
        Self::PodTopologySpread,
        Self::InterPodAffinity,
        Self::DynamicResources,
        Self::DefaultPreemption,
        Self::NodeResourcesBalancedAllocation,
        Self::ImageLocality,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::SchedulingGates => "SchedulingGates",
            Self::NodeUnschedulable => "NodeUnschedulable",
            Self::NodeName => "NodeName",
            Self::TaintToleration => "TaintToleration",
            Self::NodeAffinity => "NodeAffinity",
            Self::NodePorts => "NodePorts",
            Self::NodeResourcesFit => "NodeResourcesFit",
            Self::VolumeRestrictions => "VolumeRestrictions",
            Self::NodeVolumeLimits => "NodeVolumeLimits",
            Self::VolumeBinding => "VolumeBinding",
            Self::VolumeZone => "VolumeZone",
            Self::PodTopologySpread => "PodTopologySpread",
            Self::InterPodAffinity => "InterPodAffinity",
            Self::DynamicResources => "DynamicResources",
            Self::DefaultPreemption => "DefaultPreemption",
            Self::NodeResourcesBalancedAllocation => "NodeResourcesBalancedAllocation",
            Self::ImageLocality => "ImageLocality",
        }
    }

    /// Its weight unless the configuration says otherwise; 0: it does not score.
    pub fn weight(self) -> i64 {
        match self {
            Self::TaintToleration => 3,
            Self::NodeAffinity | Self::PodTopologySpread | Self::InterPodAffinity | Self::DynamicResources => 2,
            Self::NodeResourcesFit | Self::NodeResourcesBalancedAllocation | Self::ImageLocality => 1,
            Self::SchedulingGates
            | Self::NodeUnschedulable
            | Self::NodeName
            | Self::NodePorts
            | Self::VolumeRestrictions
            | Self::NodeVolumeLimits
            | Self::VolumeBinding
            | Self::VolumeZone
            | Self::DefaultPreemption => 0,
        }
    }
}

/// A set of plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plugins(u32);

impl Plugins {
    pub const NONE: Self = Self(0);
    pub const EVERY: Self = Self((1 << Plugin::ALL.len()) - 1);

    pub fn insert(&mut self, plugin: Plugin) {
        self.0 |= 1 << plugin as u32;
    }
    pub fn remove(&mut self, plugin: Plugin) {
        self.0 &= !(1 << plugin as u32);
    }
    #[must_use]
    pub fn with(mut self, plugin: Plugin) -> Self {
        self.insert(plugin);
        self
    }
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    pub fn has(self, plugin: Plugin) -> bool {
        self.0 & (1 << plugin as u32) != 0
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub fn iter(self) -> impl Iterator<Item = Plugin> {
        Plugin::ALL.into_iter().filter(move |p| self.has(*p))
    }
}

/// How NodeResourcesFit scores a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The emptier the better.
    #[default]
    Least,
    /// The fuller the better: bin packing.
    Most,
    /// A line through points of (utilization 0 to 100, score 0 to 100).
    Ratio(Vec<(i64, i64)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    pub strategy: Strategy,
    /// Resources with their weights.
    pub resources: Vec<(Box<str>, i64)>,
    /// Extended resources, and groups of them, that are somebody else's to judge.
    pub ignored: Vec<Box<str>>,
    pub ignored_groups: Vec<Box<str>>,
    /// Extended resources that are devices where a node does not count them. Of one pod, not of a configuration.
    pub by_devices: Vec<Box<str>>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub filters: Plugins,
    /// By plugin, as it is numbered; 0: it does not score.
    pub weights: [i64; Plugin::ALL.len()],
    /// Whether pods may push others out.
    pub preempts: bool,
    pub gates: bool,
    /// Percentage of the nodes that are searched for such that fit; 0: fewer, the more there are.
    pub percentage: usize,
    pub fit: Fit,
    pub balanced: Vec<Box<str>>,
    /// For pods without constraints of their own; `None`: the system's.
    pub spread: Option<Vec<TopologySpreadConstraint>>,
    pub hard_affinity_weight: i64,
    pub ignore_preferred_terms_of_existing: bool,
    /// Nodes that are tried at least when room is made: percentage and number.
    pub candidates: (usize, usize),
    pub added_affinity: Option<NodeAffinity>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            filters: Plugins::EVERY,
            weights: Plugin::ALL.map(Plugin::weight),
            preempts: true,
            gates: true,
            percentage: 0,
            fit: Fit {
                strategy: Strategy::Least,
                resources: vec![("cpu".into(), 1), ("memory".into(), 1)],
                ignored: Vec::new(),
                ignored_groups: Vec::new(),
                by_devices: Vec::new(),
            },
            balanced: vec!["cpu".into(), "memory".into()],
            spread: None,
            hard_affinity_weight: 1,
            ignore_preferred_terms_of_existing: false,
            candidates: (10, 100),
            added_affinity: None,
        }
    }
}

/// Source: `systemDefaultConstraints` of `podtopologyspread/plugin.go`.
pub fn system_constraints() -> Vec<TopologySpreadConstraint> {
    let soft = |key: &str, max_skew| TopologySpreadConstraint {
        topology_key: key.into(),
        max_skew,
        when_unsatisfiable: "ScheduleAnyway".into(),
        ..TopologySpreadConstraint::default()
    };
    vec![soft("kubernetes.io/hostname", 3), soft("topology.kubernetes.io/zone", 5)]
}
