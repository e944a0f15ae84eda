//! Which devices the claims of a pod get on a node: the first solution of a search through all, request by request, alternative
//! by alternative, device by device. Pure.
//!
//! Pools, slices and devices are tried in the order of their names, so that the same question has the same answer. Within a
//! request only later devices follow a device, since their order means nothing.
//!
//! Source: k8s.io/dynamic-resource-allocation `structured/internal/incubating/allocator_incubating.go`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::Object as _;
use client::devices::{Allocation, Claim, Class, Device, RESULTS_MAX, Slice, Wanted};

use super::capacity::{self, Used};
use super::constraint::Met;
use super::pools::{self, Counts, Pool, State};
use super::result;
use super::selectors::Selectors;
use super::taken::Taken;
use crate::scheduler::snapshot::Facts;

/// Devices that one search looks at, the same one again included. Upstream stops after ten seconds; the scheduler does nothing
/// else meanwhile, and this is some tens of milliseconds.
const STEPS_MAX: usize = 200_000;

/// What is the same for all nodes.
pub struct World<'w> {
    pub classes: &'w dyn Fn(&str) -> Option<Arc<Class>>,
    pub selectors: &'w Selectors,
    pub taken: &'w Taken,
}

/// Why there are no devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Not on this node.
    Here(String),
    /// Something is wrong with a claim or a class: nowhere.
    Everywhere(String),
}

/// Where a device is offered: pool, slice, device.
pub type Place = (usize, usize, usize);

/// What a request, or one of its alternatives, comes to on this node.
pub struct Want<'a> {
    pub request: &'a str,
    /// Empty: there are none.
    pub alternative: &'a str,
    pub wanted: &'a Wanted,
    pub class: Arc<Class>,
    number: usize,
    /// Of a request for all devices.
    all: Vec<Place>,
}

impl Want<'_> {
    /// `request`, or `request/alternative`.
    pub fn name(&self) -> String {
        match self.alternative {
            "" => self.request.to_owned(),
            alternative => format!("{}/{alternative}", self.request),
        }
    }
    fn is_admin(&self) -> bool {
        self.wanted.admin_access == Some(true)
    }
    fn is_all(&self) -> bool {
        self.wanted.allocation_mode == "All"
    }
}

/// A device that a claim gets.
pub struct Pick {
    pub request: usize,
    pub alternative: usize,
    pub place: Place,
    /// Others may have the rest of it; what this takes.
    pub share: Option<Used>,
}

/// Gives each claim its devices. `None`: there are not enough.
///
/// # Errors
/// Why that cannot be told, or never will be.
pub fn allocate(
    claims: &[Arc<Claim>],
    node: &Facts,
    pools: &[Pool],
    world: &World<'_>,
) -> Result<Option<Vec<Allocation>>, Failure> {
    let mut search = Search {
        claims,
        node,
        pools,
        world,
        wants: Vec::new(),
        constraints: Vec::new(),
        matches: HashMap::new(),
        in_use: HashSet::new(),
        in_part: HashMap::new(),
        users: HashMap::new(),
        filling: HashMap::new(),
        consumed: vec![Counts::new(); pools.len()],
        available: (0..pools.len()).map(|_| None).collect(),
        picks: claims.iter().map(|_| Vec::new()).collect(),
        chosen: HashMap::new(),
        steps: 0,
    };
    search.look_around();
    for (at, claim) in claims.iter().enumerate() {
        search.prepare(at, claim).map_err(Failure::Everywhere)?;
    }
    match search.next(Spot::default(), false, (0, 0, 0)) {
        Ok(true) => {
            let results = claims.iter().enumerate().map(|(at, claim)| {
                let wants = &search.wants[at];
                let chosen = |request: usize| search.chosen.get(&(at, request)).copied().unwrap_or(0);
                result::of(claim, wants, &chosen, &search.picks[at], pools, node)
            });
            Ok(Some(results.collect()))
        }
        Ok(false) | Err(Stop::TooMany) => match pools.iter().any(|pool| pool.state == State::Invalid) {
            true => Err(Failure::Here("invalid resource pools were encountered".into())),
            false => Ok(None),
        },
        Err(Stop::Failed(why)) => Err(Failure::Everywhere(why)),
    }
}

/// Where the search is.
#[derive(Debug, Clone, Copy, Default)]
struct Spot {
    claim: usize,
    request: usize,
    alternative: usize,
    device: usize,
}

/// Why a part of the search ends at once.
enum Stop {
    /// A claim would get more devices than it may: no device of an earlier request changes that.
    TooMany,
    Failed(String),
}

type Found = Result<bool, Stop>;

struct Search<'a> {
    claims: &'a [Arc<Claim>],
    node: &'a Facts,
    pools: &'a [Pool],
    world: &'a World<'a>,
    /// By claim, request and alternative.
    wants: Vec<Vec<Vec<Want<'a>>>>,
    constraints: Vec<Vec<Met<'a>>>,
    /// Whether a device suits a request: that does not depend on the others.
    matches: HashMap<(usize, usize, usize, Place), bool>,
    /// Devices that others have, and those of which others have a part.
    in_use: HashSet<Place>,
    in_part: HashMap<Place, &'a Used>,
    /// Which claims get a device.
    users: HashMap<Place, Vec<usize>>,
    /// How much of shared devices is being given, and how often.
    filling: HashMap<Place, (usize, Used)>,
    consumed: Vec<Counts>,
    /// What devices in use leave of a pool's counters; worked out when it is asked for.
    available: Vec<Option<Counts>>,
    picks: Vec<Vec<Pick>>,
    /// The alternative that was taken, by claim and request.
    chosen: HashMap<(usize, usize), usize>,
    steps: usize,
}

impl<'a> Search<'a> {
    fn slice(&self, place: Place) -> &'a Arc<Slice> {
        &self.pools[place.0].slices[place.1]
    }
    fn device(&self, place: Place) -> &'a Device {
        &self.slice(place).spec.devices[place.2]
    }

    fn look_around(&mut self) {
        for (p, pool) in self.pools.iter().enumerate() {
            for (s, slice) in pool.slices.iter().enumerate() {
                for (d, device) in slice.spec.devices.iter().enumerate() {
                    let id = pool.id(device);
                    if self.world.taken.is_whole(&id) {
                        self.in_use.insert((p, s, d));
                    }
                    if let Some(amounts) = self.world.taken.amounts(&id) {
                        self.in_part.insert((p, s, d), amounts);
                    }
                }
            }
        }
    }

    /// Reads what a claim asks for.
    fn prepare(&mut self, at: usize, claim: &'a Arc<Claim>) -> Result<(), String> {
        let (key, asked) = (claim.key(), &claim.spec.devices);
        self.wants.push(Vec::new());
        let mut least = 0_usize;
        for (r, request) in asked.requests.iter().enumerate() {
            self.wants[at].push(Vec::new());
            let alternatives: Vec<(&str, &Wanted)> = match &request.exactly {
                Some(wanted) => vec![("", wanted)],
                None => request.first_available.iter().map(|wanted| (wanted.name.as_str(), wanted)).collect(),
            };
            for (alternative, wanted) in alternatives {
                let name = if alternative.is_empty() { &request.name } else { alternative };
                let class = (self.world.classes)(&wanted.device_class_name).ok_or_else(|| {
                    let class = &wanted.device_class_name;
                    format!("claim {key}, request {name}: could not retrieve device class {class}")
                })?;
                let want = Want { request: &request.name, alternative, wanted, class, number: 0, all: Vec::new() };
                self.wants[at][r].push(want);
                let number = match wanted.allocation_mode.as_str() {
                    "All" => self.find_all(at, r, &format!("claim {key}, request {name}"))?,
                    "ExactCount" => usize::try_from(wanted.count).unwrap_or(usize::MAX),
                    other => return Err(format!("claim {key}, request {name}: unsupported count mode {other}")),
                };
                if let Some(want) = self.wants[at][r].last_mut() {
                    want.number = number;
                }
            }
            let fewest = self.wants[at][r].iter().map(|want| want.number).min();
            least = least.saturating_add(fewest.unwrap_or(0));
        }
        if least > RESULTS_MAX {
            return Err(format!(
                "claim {key}: number of requested devices {least} exceeds the claim limit of {RESULTS_MAX}"
            ));
        }
        let met = asked.constraints.iter().enumerate().map(|(i, constraint)| {
            Met::of(constraint)
                .ok_or_else(|| format!("claim {key}, constraint #{i}: empty constraint (unsupported constraint type?)"))
        });
        self.constraints.push(met.collect::<Result<_, _>>()?);
        Ok(())
    }

    /// Every device that suits the latest alternative of a request; of pools that are not whole nobody can say what all is.
    fn find_all(&mut self, claim: usize, request: usize, of: &str) -> Result<usize, String> {
        let spot = Spot { claim, request, alternative: self.wants[claim][request].len() - 1, device: 0 };
        let mut all = Vec::new();
        for (p, pool) in self.pools.iter().enumerate() {
            let id = format_args!("{}/{}", pool.driver, pool.name).to_string();
            match pool.state {
                State::Incomplete => {
                    return Err(format!(
                        "{of}: asks for all devices, but resource pool {id} is currently being updated"
                    ));
                }
                State::Invalid => {
                    return Err(format!("{of}: asks for all devices, but resource pool {id} is currently invalid"));
                }
                State::Complete => {}
            }
            for (s, slice) in pool.slices.iter().enumerate() {
                for d in 0..slice.spec.devices.len() {
                    if self.suits(spot, (p, s, d))? && self.has_capacity(spot, (p, s, d)) {
                        all.push((p, s, d));
                    }
                }
            }
        }
        let number = all.len();
        self.wants[claim][request][spot.alternative].all = all;
        Ok(number)
    }

    /// Whether the selectors of the class and of the request select the device, and the node reaches it.
    fn suits(&mut self, spot: Spot, place: Place) -> Result<bool, String> {
        let key = (spot.claim, spot.request, spot.alternative, place);
        if let Some(known) = self.matches.get(&key) {
            return Ok(*known);
        }
        let want = &self.wants[spot.claim][spot.request][spot.alternative];
        let (slice, device) = (self.slice(place), self.device(place));
        let ask = |selectors| self.world.selectors.match_all(selectors, &slice.spec.driver, device);
        let by_class = ask(&want.class.spec.selectors).map_err(|why| format!("class {}: {why}", want.class.name()))?;
        let suits = by_class
            && ask(&want.wanted.selectors).map_err(|why| format!("claim {}: {why}", self.claims[spot.claim].key()))?
            && (!slice.spec.per_device_node_selection || pools::device_is_on(self.node, device));
        self.matches.insert(key, suits);
        Ok(suits)
    }

    fn has_capacity(&self, spot: Spot, place: Place) -> bool {
        let want = &self.wants[spot.claim][spot.request][spot.alternative];
        let device = self.device(place);
        let used = self.in_part.get(&place).copied();
        let giving = self.filling.get(&place).map(|(_, used)| used);
        capacity::fits(&want.wanted.capacity, &device.capacity, used, giving)
    }

    /// Goes on from a spot: whether everything from there on can be given. `picked`: the alternative of the spot is the one that
    /// is tried.
    fn next(&mut self, spot: Spot, picked: bool, from: Place) -> Found {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            let node = &self.node.name;
            return Err(Stop::Failed(format!("node {node}: timed out trying to allocate devices")));
        }
        if spot.claim >= self.claims.len() {
            return Ok(true);
        }
        if spot.request >= self.wants[spot.claim].len() {
            let next = Spot { claim: spot.claim + 1, ..Spot::default() };
            return match self.next(next, false, (0, 0, 0)) {
                // Another alternative of an earlier claim changes nothing here, but a later one may need fewer.
                Err(Stop::TooMany) => Ok(false),
                other => other,
            };
        }
        let want = &self.wants[spot.claim][spot.request][spot.alternative];
        if !picked && !want.alternative.is_empty() {
            return self.alternatives(spot);
        }
        let (number, is_all) = (want.number, want.is_all());
        if is_all && number == 0 {
            return Ok(false);
        }
        if spot.device >= number {
            return self.next(
                Spot { claim: spot.claim, request: spot.request + 1, ..Spot::default() },
                false,
                (0, 0, 0),
            );
        }
        if self.picks[spot.claim].len() + number - spot.device > RESULTS_MAX {
            return Err(Stop::TooMany);
        }
        if is_all {
            let place = want.all[spot.device];
            return self.attempt(spot, picked, place, (0, 0, 0), true);
        }
        for p in from.0..self.pools.len() {
            if self.pools[p].state != State::Complete {
                continue;
            }
            let first_slice = if p == from.0 { from.1 } else { 0 };
            for s in first_slice..self.pools[p].slices.len() {
                let first = if (p, s) == (from.0, from.1) { from.2 } else { 0 };
                for d in first..self.pools[p].slices[s].spec.devices.len() {
                    let place = (p, s, d);
                    self.steps += 1;
                    if self.is_in_use(spot, place)
                        || !self.suits(spot, place).map_err(Stop::Failed)?
                        || !self.has_capacity(spot, place)
                    {
                        continue;
                    }
                    if self.attempt(spot, picked, place, (p, s, d + 1), false)? {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// The first alternative with which the rest can be given.
    fn alternatives(&mut self, spot: Spot) -> Found {
        let mut always_too_many = true;
        for alternative in 0..self.wants[spot.claim][spot.request].len() {
            match self.next(Spot { alternative, ..spot }, true, (0, 0, 0)) {
                Err(Stop::TooMany) => continue,
                Err(failed) => return Err(failed),
                Ok(true) => {
                    self.chosen.insert((spot.claim, spot.request), alternative);
                    return Ok(true);
                }
                Ok(false) => always_too_many = false,
            }
        }
        if always_too_many { Err(Stop::TooMany) } else { Ok(false) }
    }

    /// Takes a device and goes on; gives it back if that leads nowhere.
    fn attempt(&mut self, spot: Spot, picked: bool, place: Place, from: Place, must: bool) -> Found {
        if !self.take(spot, place, must)? {
            return Ok(false);
        }
        let found = self.next(Spot { device: spot.device + 1, ..spot }, picked, from);
        if !matches!(found, Ok(true)) {
            self.give_back(spot, place);
        }
        found
    }

    fn is_in_use(&self, spot: Spot, place: Place) -> bool {
        let users = self.users.get(&place);
        if self.wants[spot.claim][spot.request][spot.alternative].is_admin() {
            return users.is_some_and(|users| users.contains(&spot.claim));
        }
        users.is_some_and(|users| !users.is_empty()) || self.in_use.contains(&place)
    }

    /// `must`: the claim gets this device or nothing.
    fn take(&mut self, spot: Spot, place: Place, must: bool) -> Found {
        let device = self.device(place);
        let shared = device.allow_multiple_allocations;
        let want = &self.wants[spot.claim][spot.request][spot.alternative];
        let (is_admin, request, alternative) = (want.is_admin(), want.request, want.alternative);
        if !(shared && is_admin) && self.is_in_use(spot, place) || !self.has_capacity(spot, place) {
            return Ok(false);
        }
        let want = &self.wants[spot.claim][spot.request][spot.alternative];
        let bars = |t: &&client::devices::Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute");
        if device.taints.iter().filter(bars).any(|taint| !super::tolerates(&want.wanted.tolerations, taint)) {
            return Ok(false);
        }
        let name = if alternative.is_empty() { request } else { alternative };
        let share = shared.then(|| capacity::all_taken(&want.wanted.capacity, &device.capacity));
        // A device of which others have a part has its counters already.
        let counts = if shared && self.is_filled(place) { false } else { !device.consumes_counters.is_empty() };
        if counts && !self.consume(place) {
            return Ok(false);
        }
        let driver = &self.pools[place.0].driver;
        for i in 0..self.constraints[spot.claim].len() {
            if self.constraints[spot.claim][i].add(request, alternative, driver, device) {
                continue;
            }
            for met in &mut self.constraints[spot.claim][..i] {
                met.remove(request, alternative);
            }
            if counts {
                self.release(place);
            }
            if must {
                let (claim, id) = (self.claims[spot.claim].key(), self.pools[place.0].id(device));
                return Err(Stop::Failed(format!(
                    "claim {claim}, request {name}: cannot add device {id} because a claim constraint would not be \
                     satisfied"
                )));
            }
            return Ok(false);
        }
        match &share {
            Some(share) => {
                let (users, used) = self.filling.entry(place).or_default();
                *users += 1;
                for (name, amount) in share {
                    let sum = used.entry(name.clone()).or_default();
                    *sum = sum.plus(amount);
                }
            }
            None => self.users.entry(place).or_default().push(spot.claim),
        }
        let pick = Pick { request: spot.request, alternative: spot.alternative, place, share };
        self.picks[spot.claim].push(pick);
        Ok(true)
    }

    /// Undoes the latest [`Search::take`].
    fn give_back(&mut self, spot: Spot, place: Place) {
        let want = &self.wants[spot.claim][spot.request][spot.alternative];
        for met in &mut self.constraints[spot.claim] {
            met.remove(want.request, want.alternative);
        }
        let Some(pick) = self.picks[spot.claim].pop() else { return };
        let device = self.device(place);
        match pick.share {
            None => {
                if let Some(users) = self.users.get_mut(&place)
                    && let Some(at) = users.iter().rposition(|user| *user == spot.claim)
                {
                    users.remove(at);
                }
                if !device.consumes_counters.is_empty() {
                    self.release(place);
                }
            }
            Some(share) => {
                let Some((users, used)) = self.filling.get_mut(&place) else { return };
                *users -= 1;
                for (name, amount) in &share {
                    if let Some(sum) = used.get_mut(name) {
                        *sum = sum.minus(amount);
                    }
                }
                if *users == 0 {
                    self.filling.remove(&place);
                    // The first to have a part of it took its counters.
                    if !device.consumes_counters.is_empty() && !self.is_filled(place) {
                        self.release(place);
                    }
                }
            }
        }
    }

    fn is_filled(&self, place: Place) -> bool {
        self.filling.contains_key(&place) || self.in_part.contains_key(&place)
    }

    /// Takes what the device does of the counters of its pool. Whether there was as much.
    fn consume(&mut self, place: Place) -> bool {
        let pool = &self.pools[place.0];
        let taken = self.world.taken;
        let available = self.available[place.0].get_or_insert_with(|| {
            let mut left = pool.counters.clone();
            let in_use = |device: &&Device| {
                let id = pool.id(device);
                taken.is_whole(&id) || taken.amounts(&id).is_some()
            };
            for device in pool.all().filter(in_use) {
                add(&mut left, device, true);
            }
            left
        });
        let consumed = &mut self.consumed[place.0];
        let device = &pool.slices[place.1].spec.devices[place.2];
        add(consumed, device, false);
        let enough = consumed.iter().all(|(counter, used)| available.get(counter).is_some_and(|left| used <= left));
        if !enough {
            add(consumed, device, true);
        }
        enough
    }

    fn release(&mut self, place: Place) {
        let device = self.device(place);
        add(&mut self.consumed[place.0], device, true);
    }
}

/// Adds what a device takes of counters, or takes it off.
fn add(counts: &mut Counts, device: &Device, off: bool) {
    for taken in &device.consumes_counters {
        for (name, counter) in &taken.counters {
            let count = counts.entry((taken.counter_set.clone(), name.clone())).or_default();
            *count = if off { count.minus(&counter.value) } else { count.plus(&counter.value) };
        }
    }
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
