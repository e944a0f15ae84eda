//! ServiceCIDR controller. A range has a finalizer and says whether Services get addresses of it; one that is deleted stays
//! until no address would be left that lies in no range.
//!
//! One range is worked on at a time, and its writes are seen before the next: of two that cover each other's addresses and
//! are both deleted, one stays.
//!
//! Source: kubernetes `pkg/controller/servicecidrs/servicecidrs_controller.go`, KEP-1880.

use std::net::IpAddr;
use std::sync::Arc;

use client::api::{collection_path, object_path};
use client::range::Address;
use client::runner::{Controller, Plan, Seen};
use client::{Cache, Client, Clock, Key, Object, Patch, Recorder, Result, Selector, ServiceRange, WriteParams};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::Context;

/// The account that it acts as.
const NAME: &str = "service-cidrs-controller";
/// Whom conditions and events name.
const COMPONENT: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Since its deletion a range gives no addresses; a Service that was given one just before has been written after so long.
const GRACE: SignedDuration = SignedDuration::from_secs(10);
/// See the head of the file.
const WORKERS: usize = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Protect,
    Release,
    Say(&'static Said),
}

/// A condition `Ready`, but for its time.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    status: &'static str,
    reason: &'static str,
    message: &'static str,
}

const READY: Said = Said { status: "True", reason: "", message: "Kubernetes Service CIDR is ready" };
const TERMINATING: Said = Said {
    status: "False",
    reason: "Terminating",
    message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
};

/// `taken`: the addresses that Services have.
pub fn plan(
    range: &ServiceRange,
    all: &[Arc<ServiceRange>],
    taken: impl Iterator<Item = IpAddr>,
    now: Timestamp,
) -> Plan<Action> {
    let mut plan = Plan::nothing();
    let protected = range.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let Some(since) = &range.metadata.deletion_timestamp else {
        if !protected {
            plan.push(Action::Protect, "addresses may be taken from it");
        }
        say(&mut plan, range, &READY);
        return plan;
    };
    if !is_spare(range, all, taken) {
        say(&mut plan, range, &TERMINATING);
    } else if since.0 + GRACE > now {
        plan.again_at(since.0 + GRACE);
    } else if protected {
        plan.push(Action::Release, "no address lies in it alone");
    }
    plan
}

fn say(plan: &mut Plan<Action>, range: &ServiceRange, said: &'static Said) {
    let known = range.status.conditions.iter().flatten().find(|c| c["type"] == "Ready");
    let same = |field: &str, value: &str| known.is_some_and(|c| c[field].as_str().unwrap_or_default() == value);
    if !(same("status", said.status) && same("reason", said.reason) && same("message", said.message)) {
        plan.push(Action::Say(said), said.message);
    }
}

/// Whether every address would lie in a range without this one.
fn is_spare(range: &ServiceRange, all: &[Arc<ServiceRange>], mut taken: impl Iterator<Item = IpAddr>) -> bool {
    let others = || all.iter().filter(|other| other.name() != range.name());
    let covered = |cidr: IpNet| others().any(|other| other.cidrs().any(|larger| larger.contains(&cidr)));
    range.cidrs().all(covered) || !taken.any(|ip| range.contains(ip) && !others().any(|other| other.contains(ip)))
}

fn overlap(a: &ServiceRange, b: &ServiceRange) -> bool {
    a.cidrs().any(|a| b.cidrs().any(|b| a.contains(&b) || b.contains(&a)))
}

struct Ranges {
    client: Client,
    clock: Clock,
    recorder: Recorder,
    ranges: Arc<Cache<ServiceRange>>,
    addresses: Arc<Cache<Address>>,
}

pub fn start(context: &Context) {
    let ranges = context.informers.cache::<ServiceRange>(Selector::all());
    let addresses = context.informers.trimmed::<Address>(Selector::all(), Address::trim);
    let queue = context.queue();
    let (dirty, all) = (Arc::clone(&queue), Arc::downgrade(&ranges));
    ranges.on_change(Box::new(move |old, new| {
        let Some(new) = new else { return };
        dirty.add(new.key());
        // One that has come may cover what another could not be deleted for.
        if old.is_none_or(|old| old.spec != new.spec) {
            let known = all.upgrade().into_iter().flat_map(|all| all.all());
            known.filter(|other| overlap(other, new)).for_each(|other| dirty.add(other.key()));
        }
    }));
    let (dirty, all) = (Arc::clone(&queue), Arc::downgrade(&ranges));
    addresses.on_change(Box::new(move |old, new| {
        let ((None, Some(address)) | (Some(address), None)) = (old, new) else { return };
        let Some(ip) = address.of_service() else { return };
        let known = all.upgrade().into_iter().flat_map(|all| all.all());
        known.filter(|range| range.is_terminating() && range.contains(ip)).for_each(|range| dirty.add(range.key()));
    }));
    let client = context.client(NAME);
    let recorder = context.recorder(&client, COMPONENT);
    context.run(Ranges { client, clock: context.config.clock, recorder, ranges, addresses }, queue, WORKERS);
}

impl Controller for Ranges {
    type Action = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    fn plan(&self, key: &Key, now: Timestamp) -> Plan<Action> {
        let Some(range) = self.ranges.get(key) else { return Plan::nothing() };
        let addresses = self.addresses.all();
        plan(&range, &self.ranges.all(), addresses.iter().filter_map(|a| a.of_service()), now)
    }

    async fn apply(&self, key: &Key, action: Action) -> Result<Vec<Seen>> {
        let collection = collection_path::<ServiceRange>("");
        let path = |part| object_path(&collection, &key.name, part);
        let written = match action {
            Action::Protect => {
                let patch = json!({"metadata": {"finalizers": [FINALIZER]}});
                self.client.patch_path::<Value>(&path(""), Patch::Strategic(&patch), &WriteParams::default()).await
            }
            Action::Release => {
                let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
                self.client.patch_path::<Value>(&path(""), Patch::Strategic(&patch), &WriteParams::default()).await
            }
            Action::Say(Said { status, reason, message }) => {
                let since = types::time::rfc3339(self.clock.now());
                let wanted = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                    "metadata": {"name": &*key.name}, "status": {"conditions": [{"type": "Ready", "status": status,
                        "reason": reason, "message": message, "lastTransitionTime": since}]}});
                let params = WriteParams { field_manager: COMPONENT.into(), force: true, ..WriteParams::default() };
                let said = self.client.patch_path::<Value>(&path("status"), Patch::Apply(&wanted), &params).await;
                if said.is_err()
                    && *status == "True"
                    && let Some(range) = self.ranges.get(key)
                {
                    let message = "The ServiceCIDR Status can not be set to Ready=True";
                    self.recorder.warning(&*range, "KubernetesServiceCIDRError", message);
                }
                said
            }
        };
        match written {
            Ok(written) => {
                let revision = written["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                Ok(vec![Box::pin(self.ranges.reached(client::Revision::parse(revision)))])
            }
            Err(error) if error.is_not_found() => Ok(vec![]),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, cidrs: &[&str]) -> ServiceRange {
        let mut range = ServiceRange::default();
        range.metadata.name = Some(name.into());
        range.metadata.finalizers = Some(vec![FINALIZER.into()]);
        range.spec.cidrs = cidrs.iter().map(|&c| c.into()).collect();
        range
    }

    fn saying(mut range: ServiceRange, said: &Said) -> ServiceRange {
        let Said { status, reason, message } = said;
        range.status.conditions =
            Some(vec![json!({"type": "Ready", "status": status, "reason": reason, "message": message})]);
        range
    }

    fn going(mut range: ServiceRange) -> ServiceRange {
        range.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        range
    }

    #[test]
    fn what_a_range_is_due() {
        let own = || range("own", &["10.44.0.0/24"]);
        let dual = || range("own", &["10.44.0.0/24", "fd44::/112"]);
        let bare = {
            let mut bare = range("own", &["10.44.0.0/24"]);
            bare.metadata.finalizers = None;
            bare
        };
        let (say_ready, say_going) = (Action::Say(&READY), Action::Say(&TERMINATING));
        let late = 10;
        for (case, range, others, taken, seconds, expected, again) in [
            ("all well", saying(own(), &READY), vec![], vec![], 0, vec![], false),
            ("new", bare.clone(), vec![], vec![], 0, vec![Action::Protect, say_ready.clone()], false),
            (
                "another's words",
                saying(own(), &Said { message: "Kubernetes default Service CIDR is ready", ..READY }),
                vec![],
                vec![],
                0,
                vec![say_ready],
                false,
            ),
            ("just deleted", going(own()), vec![], vec!["10.45.0.9"], 9, vec![], true),
            ("deleted", going(own()), vec![], vec!["10.45.0.9"], late, vec![Action::Release], false),
            ("released", going(bare), vec![], vec![], late, vec![], false),
            ("in use", going(own()), vec![], vec!["10.44.0.9"], late, vec![say_going.clone()], false),
            ("in use, said", saying(going(own()), &TERMINATING), vec![], vec!["10.44.0.9"], late, vec![], false),
            ("no address of its", going(own()), vec![], vec!["10.44.0.255"], late, vec![Action::Release], false),
            (
                "within another",
                going(own()),
                vec![range("large", &["10.44.0.0/16"])],
                vec!["10.44.0.9"],
                late,
                vec![Action::Release],
                false,
            ),
            (
                "its address is in another too",
                going(own()),
                vec![range("half", &["10.44.0.0/28"])],
                vec!["10.44.0.9"],
                late,
                vec![Action::Release],
                false,
            ),
            (
                "one of its addresses is not",
                going(own()),
                vec![range("half", &["10.44.0.0/28"])],
                vec!["10.44.0.9", "10.44.0.99"],
                late,
                vec![say_going.clone()],
                false,
            ),
            (
                "one family is within another",
                going(dual()),
                vec![range("large", &["10.44.0.0/16"])],
                vec!["10.44.0.9", "fd44::9"],
                late,
                vec![say_going],
                false,
            ),
            (
                "one family is within another, and the other unused",
                going(dual()),
                vec![range("large", &["10.44.0.0/16"])],
                vec!["10.44.0.9"],
                late,
                vec![Action::Release],
                false,
            ),
        ] {
            let all: Vec<Arc<ServiceRange>> = others.into_iter().chain([range.clone()]).map(Arc::new).collect();
            let taken = taken.into_iter().map(|ip: &str| ip.parse().unwrap());
            let done = plan(&range, &all, taken, Timestamp::from_second(seconds).unwrap());
            assert_eq!((done.actions, done.again.is_some()), (expected, again), "{case}");
        }
    }

    #[test]
    fn ranges_meet_when_they_have_an_address_in_common() {
        let meet = |a: &[&str], b: &[&str]| overlap(&range("a", a), &range("b", b));
        assert!(meet(&["10.44.0.0/24"], &["10.44.0.0/16"]) && meet(&["10.44.0.0/16"], &["10.44.0.0/24"]));
        assert!(meet(&["fd44::/112", "10.44.0.0/24"], &["10.44.0.0/24"]));
        assert!(!meet(&["10.44.0.0/24"], &["10.45.0.0/24"]) && !meet(&["fd44::/112"], &["10.44.0.0/24"]));
    }
}
