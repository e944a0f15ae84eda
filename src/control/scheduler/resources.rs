//! NodeResourcesFit and NodeResourcesBalancedAllocation: whether there is room, and where it is used best. Pure.
//!
//! Source: `pkg/scheduler/framework/plugins/noderesources`.

use std::borrow::Cow;

use super::amounts::{Amounts, CPU, MEMORY, is_extended};
use super::filter::Refusal;
use super::needs::Needs;
use super::profile::{Fit, Plugin, SCORE_MAX, Strategy};
use super::snapshot::{Facts, Load};

/// What is missing on a node.
pub fn refusal(wanted: &Amounts, fit: &Fit, node: &Facts, load: &Load) -> Option<Refusal> {
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut for_good = false;
    if load.pods.len() as i64 + 1 > node.pods_max {
        reasons.push("Too many pods".into());
    }
    let (has, taken) = (&node.allocatable, &load.taken);
    for (wanted, has, taken, reason) in [
        (wanted.cpu, has.cpu, taken.cpu, "Insufficient cpu"),
        (wanted.memory, has.memory, taken.memory, "Insufficient memory"),
        (wanted.ephemeral, has.ephemeral, taken.ephemeral, "Insufficient ephemeral-storage"),
    ] {
        if wanted > 0 && wanted > has - taken {
            reasons.push(reason.into());
            for_good |= wanted > has;
        }
    }
    for (name, wanted) in wanted.others() {
        let group = name.split('/').next().unwrap_or_default();
        let ignored = || fit.ignored.iter().any(|i| **i == *name) || fit.ignored_groups.iter().any(|g| **g == *group);
        let by_devices = || has.get(name) == 0 && fit.by_devices.iter().any(|d| **d == *name);
        if is_extended(name) && ignored() || by_devices() {
            continue;
        }
        if wanted > has.get(name) - taken.get(name) {
            reasons.push(format!("Insufficient {name}").into());
            for_good |= wanted > has.get(name);
        }
    }
    (!reasons.is_empty()).then_some(Refusal { plugin: Plugin::NodeResourcesFit, for_good, reasons })
}

/// Capacity, what is taken, and what a pod adds, of one resource; `None`: it says nothing about this pod and node.
fn figures(name: &str, needs: &Needs, node: &Facts, load: &Load, filled: bool) -> Option<(i64, i64, i64)> {
    let resident = &*needs.resident;
    let (taken, adds) = match name {
        CPU if filled => (load.filled[0], resident.filled[0]),
        MEMORY if filled => (load.filled[1], resident.filled[1]),
        _ => (load.taken.get(name), resident.requests.get(name)),
    };
    let capacity = node.allocatable.get(name);
    let scalar = ![CPU, MEMORY, super::amounts::EPHEMERAL].contains(&name);
    (capacity != 0 && !(scalar && adds == 0)).then_some((capacity, taken, adds))
}

/// The score by the strategy of the profile.
pub fn fit_score(fit: &Fit, needs: &Needs, node: &Facts, load: &Load) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for (name, weight) in &fit.resources {
        let Some((capacity, taken, adds)) = figures(name, needs, node, load, true) else { continue };
        let used = taken + adds;
        let score = match &fit.strategy {
            Strategy::Least if used > capacity => 0,
            Strategy::Least => (capacity - used) * SCORE_MAX / capacity,
            Strategy::Most => used.min(capacity) * SCORE_MAX / capacity,
            Strategy::Ratio(shape) if used > capacity => on_line(shape, 100),
            Strategy::Ratio(shape) => on_line(shape, used * 100 / capacity),
        };
        if matches!(fit.strategy, Strategy::Ratio(_)) && score <= 0 {
            continue;
        }
        sum += score * weight;
        weights += weight;
    }
    match (&fit.strategy, weights) {
        (_, 0) => 0,
        (Strategy::Ratio(_), _) => (sum as f64 / weights as f64).round() as i64,
        (Strategy::Least | Strategy::Most, _) => sum / weights,
    }
}

/// The height of a line through points, level before the first and after the last.
fn on_line(shape: &[(i64, i64)], at: i64) -> i64 {
    let mut before: Option<(i64, i64)> = None;
    for (x, y) in shape {
        if at <= *x {
            return before.map_or(*y, |(x0, y0)| y0 + (y - y0) * (at - x0) / (x - x0));
        }
        before = Some((*x, *y));
    }
    before.map_or(0, |(_, y)| y)
}

/// Whether a pod asks for any of the resources that are balanced; if not, its scores say nothing.
pub fn is_balanced(resources: &[Box<str>], needs: &Needs) -> bool {
    resources.iter().any(|r| needs.resident.requests.get(r) != 0)
}

/// How much more even the use of the resources becomes: 75 when it stays as it is, 50 to 100.
pub fn balance_score(resources: &[Box<str>], needs: &Needs, node: &Facts, load: &Load) -> i64 {
    let score = |with: bool| {
        let fractions = resources.iter().filter_map(|name| {
            let (capacity, taken, adds) = figures(name, needs, node, load, false)?;
            Some((((taken + if with { adds } else { 0 }) as f64) / capacity as f64).min(1.0))
        });
        ((1.0 - deviation(fractions)) * SCORE_MAX as f64) as i64
    };
    SCORE_MAX / 2 + (SCORE_MAX / 2 + score(true) - score(false)) / 2
}

/// Standard deviation; of fewer than two it is none.
fn deviation(fractions: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = fractions.clone().count();
    if count < 2 {
        return 0.0;
    }
    let mean = fractions.clone().sum::<f64>() / count as f64;
    (fractions.map(|f| (f - mean) * (f - mean)).sum::<f64>() / count as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use serde_json::json;

    fn facts() -> Facts {
        let mut facts = Facts::of(&testing::node("n", &[]));
        facts.allocatable.set("cpu", 4000);
        facts.allocatable.set("memory", 8000);
        facts.allocatable.set("x.io/gpu", 4);
        facts
    }

    fn needs(cpu: &str, memory: &str) -> Needs {
        let requests = json!({"cpu": cpu, "memory": memory});
        testing::needs(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    fn fit(strategy: Strategy) -> Fit {
        Fit { strategy, ..super::super::profile::Profile::default().fit }
    }

    #[test]
    fn strategies() {
        let load = Load { filled: [1000, 4000], ..Load::default() };
        // cpu 2 of 4, memory 6 of 8
        let pod = needs("1", "2000");
        for (name, strategy, expected) in [
            ("least", Strategy::Least, i64::midpoint(50, 25)),
            ("most", Strategy::Most, i64::midpoint(50, 75)),
            ("ratio up", Strategy::Ratio(vec![(0, 0), (100, 100)]), 63),
            ("ratio down", Strategy::Ratio(vec![(0, 100), (100, 0)]), 38),
            ("ratio, nothing but the full", Strategy::Ratio(vec![(60, 0), (70, 100)]), 100),
        ] {
            assert_eq!(fit_score(&fit(strategy), &pod, &facts(), &load), expected, "{name}");
        }
        let mut weighted = fit(Strategy::Most);
        weighted.resources = vec![("cpu".into(), 3), ("x.io/gpu".into(), 5), ("y.io/none".into(), 1)];
        assert_eq!(fit_score(&weighted, &pod, &facts(), &load), 50, "what is not asked for does not count");
        let too_much = needs("9", "9000");
        assert_eq!(fit_score(&fit(Strategy::Least), &too_much, &facts(), &load), 0);
        assert_eq!(fit_score(&fit(Strategy::Most), &too_much, &facts(), &load), 100);
    }

    #[test]
    fn a_pod_that_evens_out_is_welcome() {
        let both: Vec<Box<str>> = vec!["cpu".into(), "memory".into()];
        let mut load = Load::default();
        let score = |pod: &Needs, load: &Load| balance_score(&both, pod, &facts(), load);
        assert_eq!(score(&needs("1", "2000"), &load), 75);
        assert_eq!(score(&needs("4", "1"), &load), 50);
        load.taken.set("cpu", 4000);
        assert_eq!(score(&needs("1", "8000"), &load), 100);
        assert!(!is_balanced(&both, &testing::needs(json!({}))));
        let three = [0.0, 0.5, 1.0];
        assert!((deviation(three.into_iter()) - 0.408).abs() < 0.001);
    }

    #[test]
    fn ignored_resources_are_not_judged() {
        let pod = testing::needs(json!({"containers": [{"name": "c",
            "resources": {"requests": {"x.io/gpu": "9", "y.io/a": "1"}}}]}));
        let mut args = fit(Strategy::Least);
        let found = |args: &Fit| refusal(&pod.resident.requests, args, &facts(), &Load::default());
        assert_eq!(found(&args).unwrap().reasons, ["Insufficient x.io/gpu", "Insufficient y.io/a"]);
        args.ignored = vec!["x.io/gpu".into()];
        args.ignored_groups = vec!["y.io".into()];
        assert_eq!(found(&args), None);
    }
}
