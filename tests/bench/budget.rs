//! What is promised of a figure, and whether it holds.
//!
//! The one place where a budget is a number; docs/SPECIFICATION.md says the same in words. A verdict is printed, never an
//! exit status: what a busy machine shows is for its reader to judge.

use crate::report::{Row, shown};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    AtMost(f64),
    AtLeast(f64),
}

use Budget::{AtLeast, AtMost};

/// Figure and budget, in the figure's unit.
const BUDGETS: &[(&str, Budget)] = &[
    ("binary_size", AtMost(25.0)),
    ("start_api_ready", AtMost(100.0)),
    ("start_with_node_api_ready", AtMost(100.0)),
    ("start_node_ready", AtMost(300.0)),
    ("idle_with_node_resident", AtMost(25.0)),
    ("idle_with_node_cpu", AtMost(0.2)),
    ("idle_with_node_written_in_60_s", AtMost(0.0)),
    ("idle_api_only_written_in_60_s", AtMost(0.0)),
    ("creates_http1_64_connections", AtLeast(12_000.0)),
    ("creates_http2_64_connections", AtLeast(12_000.0)),
    ("memory_of_10000_objects_to_stored_bytes", AtMost(1.5)),
    ("get_p50", AtMost(0.15)),
    ("list_5000_pods", AtMost(50.0)),
    ("watch_1_p99", AtMost(2.0)),
    ("watch_200_p99", AtMost(4.0)),
    ("watch_1000_p99", AtMost(10.0)),
    ("crds_200_established", AtMost(2_000.0)),
    ("webhook_added", AtMost(1.0)),
    ("namespace_of_1000_deleted", AtMost(1_000.0)),
    ("pod_running", AtMost(60.0)),
    ("pod_running_to_crun_run", AtMost(2.0)),
    ("pods_running_20_at_once", AtMost(800.0)),
    // One megabyte.
    ("shim_private_memory", AtMost(976.0)),
    ("schedule_pods_1000_nodes", AtLeast(5_000.0)),
    ("schedule_constrained_pods_1000_nodes", AtLeast(1_000.0)),
    ("deployment_of_10000_bound", AtMost(10.0)),
    ("memory_of_a_pod_beyond_its_bytes", AtMost(6.0)),
    ("roll_of_100_for_each_pod", AtMost(2.0)),
    ("replacement_p99", AtMost(5.0)),
    ("services_change_one_of_1000x3", AtMost(5.0)),
];

pub fn of(figure: &str) -> Option<Budget> {
    BUDGETS.iter().find(|(name, _)| *name == figure).map(|(_, budget)| *budget)
}

impl Budget {
    fn holds(self, value: f64) -> bool {
        match self {
            AtMost(limit) => value <= limit,
            AtLeast(limit) => value >= limit,
        }
    }

    pub fn text(self) -> String {
        match self {
            AtMost(limit) => format!("≤ {}", shown(limit)),
            AtLeast(limit) => format!("≥ {}", shown(limit)),
        }
    }

    /// By the median, which is what a budget speaks of; it is said when a round was outside.
    pub fn verdict(self, row: &Row) -> &'static str {
        match (self.holds(row.median), self.holds(row.min) && self.holds(row.max)) {
            (true, true) => "met",
            (true, false) => "met, not in every round",
            (false, _) => "**missed**",
        }
    }
}
