//! One look at the cluster for one pod: what is worked out once, and the judgement of each node by it. Pure.
//!
//! Source: `pkg/scheduler/framework/runtime/framework.go` (RunPreFilterPlugins, RunFilterPluginsWithNominatedPods).

use std::sync::Arc;

use super::affinity::Affinity;
use super::devices::{Asked, Devices};
use super::filter::{self, Refusal};
use super::needs::{Needs, Resident};
use super::profile::{Plugin, Profile};
use super::snapshot::{Facts, Load, Snapshot};
use super::spread::Spread;
use super::verdicts::OfKind;
use super::volumes::Claims;

pub struct Cycle<'a> {
    pub needs: &'a Needs,
    pub profile: &'a Profile,
    spread: Spread,
    affinity: Affinity,
    claims: Option<&'a Claims>,
    devices: Option<(&'a Devices, &'a Asked)>,
}

impl<'a> Cycle<'a> {
    pub fn of(needs: &'a Needs, profile: &'a Profile, snapshot: &mut Snapshot) -> Self {
        snapshot.sort();
        let on = |plugin| profile.filters.has(plugin);
        let spread = if on(Plugin::PodTopologySpread) { Spread::of(needs, snapshot) } else { Spread::default() };
        let affinity = if on(Plugin::InterPodAffinity) { Affinity::of(needs, snapshot) } else { Affinity::default() };
        Self { needs, profile, spread, affinity, claims: None, devices: None }
    }

    /// The pod has claims, which its node must suit too.
    pub fn with(self, claims: &'a Claims) -> Self {
        Self { claims: Some(claims), ..self }
    }

    /// The pod has claims of devices, which its node must suit too.
    pub fn with_devices(self, devices: &'a Devices, asked: Option<&'a Asked>) -> Self {
        Self { devices: asked.map(|asked| (devices, asked)), ..self }
    }

    /// What the choice of devices on each node is worth; `None`: all the same.
    pub fn device_points(&self, snapshot: &Snapshot, slots: &[u32]) -> Option<Vec<i64>> {
        let (devices, asked) = self.devices?;
        let nodes: Vec<&Facts> = slots.iter().map(|slot| snapshot.facts(*slot)).collect();
        devices.points(asked, &nodes)
    }

    /// Why a node with this load cannot take the pod.
    pub fn refusal(&self, snapshot: &Snapshot, slot: u32, load: &Load) -> Option<Refusal> {
        filter::refusal(self.needs, self.profile, snapshot.facts(slot), load)
            .or_else(|| self.refusal_by_others(snapshot, slot, load))
    }

    /// Of the plugins that look at more than the node and its pods.
    fn refusal_by_others(&self, snapshot: &Snapshot, slot: u32, load: &Load) -> Option<Refusal> {
        self.storage_refusal(snapshot.facts(slot), load)
            .or_else(|| self.spread.refusal(self.needs, snapshot, slot))
            .or_else(|| self.affinity.refusal(snapshot, slot))
            .or_else(|| self.devices.and_then(|(devices, asked)| devices.refusal(asked, snapshot.facts(slot))))
    }

    fn storage_refusal(&self, node: &Facts, load: &Load) -> Option<Refusal> {
        let claims = self.claims?;
        let on = |plugin| self.profile.filters.has(plugin);
        if let Some(why) = claims.is_restricted().filter(|_| on(Plugin::VolumeRestrictions)) {
            return Some(Refusal::new(Plugin::VolumeRestrictions, false, why));
        }
        if on(Plugin::NodeVolumeLimits)
            && let Some(why) = claims.is_too_many(&node.name, load.pods.iter().map(|r| &r.pod))
        {
            return Some(Refusal::new(Plugin::NodeVolumeLimits, false, why));
        }
        let why = if on(Plugin::VolumeBinding) { claims.choose(&node.name, &node.labels).err() } else { None };
        why.map(|why| Refusal::new(Plugin::VolumeBinding, true, why))
    }

    /// Counts a pod as if it came to a node, or went from it.
    pub fn change(&mut self, snapshot: &mut Snapshot, slot: u32, resident: &Resident, more: bool) {
        if self.profile.filters.has(Plugin::PodTopologySpread) {
            self.spread.change(self.needs, snapshot, slot, resident, more);
        }
        if self.profile.filters.has(Plugin::InterPodAffinity) {
            self.affinity.change(self.needs, snapshot, slot, resident, more);
        }
    }

    /// As [`Cycle::refusal`], and it must hold too with the pods that wait for room there and come before this one.
    pub fn judge(&mut self, snapshot: &mut Snapshot, slot: u32, load: &Load) -> Option<Refusal> {
        let expected = self.expected(snapshot, slot);
        if !expected.is_empty() {
            let mut full = load.clone();
            for resident in &expected {
                full.add(resident);
                self.change(snapshot, slot, resident, true);
            }
            let refused = self.refusal(snapshot, slot, &full);
            for resident in &expected {
                self.change(snapshot, slot, resident, false);
            }
            if refused.is_some() {
                return refused;
            }
        }
        self.refusal(snapshot, slot, load)
    }

    /// As [`Cycle::judge`], of the node as it is.
    pub fn judge_node(&mut self, snapshot: &mut Snapshot, kind: &mut OfKind, slot: u32) -> Option<Refusal> {
        if self.expected(snapshot, slot).is_empty() {
            return match kind.ask(snapshot, slot) {
                Err(refusal) => Some(refusal.clone()),
                Ok(_) => self.refusal_by_others(snapshot, slot, &snapshot.node(slot).load),
            };
        }
        let load = snapshot.node(slot).load.clone();
        self.judge(snapshot, slot, &load)
    }

    fn expected(&self, snapshot: &Snapshot, slot: u32) -> Vec<Arc<Resident>> {
        if !snapshot.is_anybody_nominated() {
            return Vec::new();
        }
        let (own, name) = (&self.needs.resident, &snapshot.facts(slot).name);
        let before = |r: &&Arc<Resident>| r.priority() >= own.priority() && r.key() != own.key();
        snapshot.nominated(name).iter().filter(before).cloned().collect()
    }
}
