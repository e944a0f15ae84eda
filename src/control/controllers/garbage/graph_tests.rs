//! Tables over the graph: built-in and custom owners, known, unknown and out of place.

use serde_json::json;
use types::registry::{Extension, Scope, WriteClass};

use super::*;

fn car() -> KindRef {
    KindRef::Custom(Arc::new(Kind {
        group: "example.com".into(),
        version: "v1".into(),
        kind: "Car".into(),
        plural: "cars".into(),
        singular: "".into(),
        short_names: (&[]).into(),
        categories: (&[]).into(),
        scope: Scope::Namespaced,
        verbs: (&[]).into(),
        subresources: (&[]).into(),
        write_class: WriteClass::Durable,
        selectable_fields: (&[]).into(),
        storage_version_hash: "".into(),
        stored: true,
        kept_as: None,
        extension: Extension::NONE,
    }))
}

fn uid(text: &str) -> Uid {
    Arc::from(text)
}

/// A graph of ConfigMaps, Nodes and, when served, Cars.
struct World {
    graph: Graph,
    maps: Slot,
    nodes: Slot,
    cars: Option<Slot>,
}

impl World {
    fn new(cars: bool) -> Self {
        let mut graph = Graph::default();
        let mut built_in = |kind| graph.add_kind(KindRef::BuiltIn(registry::by_kind("", "v1", kind).unwrap())).unwrap();
        let (maps, nodes) = (built_in("ConfigMap"), built_in("Node"));
        let cars = cars.then(|| graph.add_kind(car()).unwrap());
        Self { graph, maps, nodes, cars }
    }

    /// Adds `namespace/name`, whose uid is its name, with owners as `Kind/name`.
    fn add(&mut self, slot: Slot, place: &str, owners: &[&str]) -> Changed {
        let (namespace, name) = place.split_once('/').unwrap();
        let owner = |owner: &&str| {
            let (kind, name) = owner.split_once('/').unwrap();
            let api_version = if kind == "ConfigMap" || kind == "Node" { "v1" } else { "example.com/v1beta1" };
            json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": name})
        };
        let owners: Vec<_> = owners.iter().map(owner).collect();
        let meta: Meta = serde_json::from_value(
            json!({"name": name, "namespace": namespace, "uid": name, "ownerReferences": owners}),
        )
        .unwrap();
        self.graph.upsert(uid(name), Node::of(slot, &meta))
    }

    fn decided(&self, name: &str) -> Vec<String> {
        let told = |action: &Action| match action {
            Action::Delete(place, _) => format!("delete {}", place.path),
            Action::Disown(place, owners) => format!("disown {} of {}", place.path, owners.join(" ")),
            Action::Unblock(place) => format!("unblock {}", place.path),
            Action::RemoveFinalizer(place, name) => format!("release {} of {name}", place.path),
            Action::LookUp(place) => format!("look up {}", place.path),
            Action::Wake(_) => "wake".to_owned(),
        };
        self.graph.decide(&uid(name)).actions.iter().map(told).collect()
    }
}

/// One ConfigMap `shop/m` with these owners. `absent`: owners that are known not to exist.
fn check(cars: bool, owners: &[&str], absent: &[&str], expected: &[&str]) {
    let mut world = World::new(cars);
    if let Some(slot) = world.cars {
        world.add(slot, "shop/mine", &[]);
        world.add(slot, "elsewhere/theirs", &[]);
    }
    world.add(world.maps, "shop/m", owners);
    absent.iter().for_each(|name| world.graph.is_absent(&uid(name)));
    assert_eq!(world.decided("m"), expected, "served: {cars}, {owners:?}");
}

const DELETE: &str = "delete /api/v1/namespaces/shop/configmaps/m";

#[test]
fn owners_of_custom_kinds() {
    check(true, &["Car/mine"], &[], &[]);
    check(true, &["Car/lost"], &[], &["look up /apis/example.com/v1/namespaces/shop/cars/lost", "wake"]);
    check(true, &["Car/lost"], &["lost"], &[DELETE]);
    check(true, &["Car/mine", "Car/lost"], &["lost"], &["disown /api/v1/namespaces/shop/configmaps/m of lost"]);
    // An owner in another namespace is none.
    check(true, &["Car/theirs"], &[], &["look up /apis/example.com/v1/namespaces/shop/cars/theirs", "wake"]);
    // What is not served cannot be missed, and nothing is decided beside it.
    check(false, &["Car/lost"], &[], &[]);
    check(true, &["Ship/lost"], &[], &[]);
    check(true, &["Ship/lost", "ConfigMap/lost too"], &["lost too"], &[]);
    // Its own watch saw it go before its definition went.
    check(false, &["Car/lost"], &["lost"], &[DELETE]);
}

#[test]
fn kinds_come_and_go() {
    let mut world = World::new(false);
    world.add(world.maps, "shop/m", &["Car/a"]);
    let slot = world.graph.add_kind(car()).unwrap();
    assert_eq!(world.graph.waiting_for(slot), [uid("m")]);
    world.add(slot, "shop/a", &[]);
    assert_eq!(world.graph.waiting_for(slot), []);
    assert_eq!(world.decided("m"), Vec::<String>::new());
    // Not served for a while: nobody knows.
    assert_eq!(world.graph.drop_kind(slot, false), [uid("m")]);
    assert_eq!((world.decided("m"), world.graph.len()), (vec![], 1));
    // Served again in its old place, then gone with its objects.
    assert_eq!(world.graph.add_kind(car()), Some(slot));
    world.add(slot, "shop/a", &[]);
    assert_eq!(world.graph.drop_kind(slot, true), [uid("m")]);
    assert_eq!(world.decided("m"), [DELETE]);
    // What is known of owners goes with those who name them.
    world.graph.remove(&uid("m"));
    assert_eq!((world.graph.absent.len(), world.graph.dependents.len(), world.graph.len()), (0, 0, 0));
}

#[test]
fn owners_in_another_namespace_are_told_once() {
    let told = |changed: Changed| -> Vec<String> {
        let about = |m: &Misplaced| format!("{}: {}", m.about.kind.clone().unwrap_or_default(), m.message);
        changed.misplaced.iter().map(about).collect()
    };
    let none = Vec::<String>::new();
    let expected = "ConfigMap: ownerRef [example.com/v1beta1/Car, namespace: shop, name: theirs, uid: theirs] does not exist \
                    in namespace \"shop\"";
    // The owner first, and the dependent first.
    let mut world = World::new(true);
    let cars = world.cars.unwrap();
    assert_eq!(told(world.add(cars, "elsewhere/theirs", &[])), none);
    assert_eq!(told(world.add(world.maps, "shop/m", &["Car/theirs"])), [expected]);
    assert_eq!(told(world.add(world.maps, "shop/m", &["Car/theirs", "ConfigMap/x"])), none);
    let mut world = World::new(true);
    assert_eq!(told(world.add(world.maps, "shop/m", &["Car/theirs"])), none);
    assert_eq!(told(world.add(cars, "elsewhere/theirs", &[])), [expected]);
    assert_eq!(told(world.add(cars, "elsewhere/theirs", &["ConfigMap/y"])), none);
    // A cluster-scoped object cannot have an owner in a namespace: it is told, and left alone.
    let expected = "Node: ownerRef [example.com/v1beta1/Car, namespace: , name: theirs, uid: theirs] does not exist in \
                    namespace \"\"";
    assert_eq!(told(world.add(world.nodes, "/n", &["Car/theirs"])), [expected]);
    world.graph.is_absent(&uid("theirs"));
    assert_eq!(world.decided("n"), none);
    // A cluster-scoped owner is everywhere.
    assert_eq!(told(world.add(world.maps, "shop/o", &["Node/n"])), none);
    assert_eq!(world.decided("o"), none);
}

/// Most objects of most clusters are neither custom nor owned by custom ones: they pay nothing.
#[test]
fn custom_kinds_cost_others_nothing() {
    let pointer = size_of::<usize>();
    assert_eq!(size_of::<Owner>(), 6 * pointer);
    assert_eq!(size_of::<Node>(), 6 * pointer);
}
