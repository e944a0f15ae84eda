//! The KubeSchedulerConfiguration file: profiles, their plugins, weights and arguments. Strict: what is not known is an error.
//!
//! Fields that tell upstream's process how to run (parallelism, leader election, client connection, profiling) are accepted and
//! mean nothing here. Extenders are refused.
//!
//! Source: `pkg/scheduler/apis/config/{types,types_pluginargs}.go`, `apis/config/v1`, `apis/config/validation`,
//! `pkg/scheduler/framework/runtime/framework.go` (expandMultiPointPlugins, and the texts about plugins that are missing).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use types::field::{FieldError, Path, Shown};

use super::profile::{Fit, Plugin, Profile, Strategy};
use super::queue::Backoff;
use super::{Configuration, NAME};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";
/// Plugins of upstream that decide nothing here: naming them is no error.
const ELSEWHERE: [&str; 5] =
    ["PrioritySort", "DefaultBinder", "NodeDeclaredFeatures", "GangScheduling", "PodGroupPodsCount"];
const EXTENSION_POINTS: [&str; 15] = [
    "multiPoint",
    "preEnqueue",
    "queueSort",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
    "placementGenerate",
    "placementScore",
];

impl Configuration {
    /// Reads the document.
    ///
    /// # Errors
    /// Each with the path of the field.
    pub fn parse(document: &Value) -> Result<Self, Vec<String>> {
        let mut reader = Reader::default();
        let configuration = reader.configuration(document);
        if reader.0.is_empty() { Ok(configuration) } else { Err(reader.0) }
    }
}

/// Collects errors and goes on.
#[derive(Default)]
struct Reader(Vec<String>);

impl Reader {
    fn error(&mut self, error: &FieldError) {
        self.0.push(error.to_string());
    }

    fn invalid(&mut self, path: &Path, value: impl Shown, detail: &str) {
        self.error(&FieldError::invalid(path, value, detail));
    }

    /// The fields of an object, all of which must be known.
    fn fields<'v>(&mut self, path: &Path, value: &'v Value, known: &[&str]) -> Option<&'v Map<String, Value>> {
        let Some(map) = value.as_object() else {
            if !value.is_null() {
                self.invalid(path, value, "must be an object");
            }
            return None;
        };
        for key in map.keys().filter(|k| !known.contains(&k.as_str())) {
            self.0.push(format!("strict decoding error: unknown field \"{}\"", path.child(key)));
        }
        Some(map)
    }

    fn list<'v>(&mut self, path: &Path, map: &'v Map<String, Value>, key: &str) -> &'v [Value] {
        match map.get(key) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.invalid(&path.child(key), other, "must be a list");
                &[]
            }
        }
    }

    fn text<'v>(&mut self, path: &Path, map: &'v Map<String, Value>, key: &str) -> Option<&'v str> {
        match map.get(key)? {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => {
                self.invalid(&path.child(key), other, "must be a string");
                None
            }
        }
    }

    fn flag(&mut self, path: &Path, map: &Map<String, Value>, key: &str) -> bool {
        match map.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.invalid(&path.child(key), other, "must be a boolean");
                false
            }
        }
    }

    /// A number within `range`; `detail` says which.
    fn number(
        &mut self,
        path: &Path,
        map: &Map<String, Value>,
        key: &str,
        range: (i64, i64),
        detail: &str,
    ) -> Option<i64> {
        let value = map.get(key).filter(|v| !v.is_null())?;
        match value.as_i64() {
            Some(n) if (range.0..=range.1).contains(&n) => Some(n),
            _ => {
                self.invalid(&path.child(key), value, detail);
                None
            }
        }
    }

    /// A value as a type; fields that the type does not have are errors.
    fn typed<T: DeserializeOwned + Serialize>(&mut self, path: &Path, value: &Value) -> Option<T> {
        let parsed = match serde_json::from_value::<T>(value.clone()) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.invalid(path, value, &error.to_string());
                return None;
            }
        };
        let back = serde_json::to_value(&parsed).unwrap_or_default();
        self.known(path, value, &back);
        Some(parsed)
    }

    fn known(&mut self, path: &Path, given: &Value, taken: &Value) {
        match (given, taken) {
            (Value::Object(given), Value::Object(taken)) => {
                for (key, value) in given.iter().filter(|(_, v)| !v.is_null()) {
                    match taken.get(key) {
                        Some(taken) => self.known(&path.child(key), value, taken),
                        None => self.0.push(format!("strict decoding error: unknown field \"{}\"", path.child(key))),
                    }
                }
            }
            (Value::Array(given), Value::Array(taken)) => {
                for (i, (given, taken)) in given.iter().zip(taken).enumerate() {
                    self.known(&path.index(i), given, taken);
                }
            }
            _ => {}
        }
    }

    fn configuration(&mut self, document: &Value) -> Configuration {
        let path = Path::root();
        let known = [
            "apiVersion",
            "kind",
            "parallelism",
            "leaderElection",
            "clientConnection",
            "enableProfiling",
            "enableContentionProfiling",
            "percentageOfNodesToScore",
            "podInitialBackoffSeconds",
            "podMaxBackoffSeconds",
            "profiles",
            "extenders",
            "delayCacheUntilActive",
        ];
        let mut all = Configuration { profiles: BTreeMap::new(), backoff: Backoff::default() };
        let Some(map) = self.fields(&path, document, &known) else {
            self.0.push(format!("a {KIND} of {API_VERSION} is wanted"));
            return all;
        };
        let (version, kind) = (self.text(&path, map, "apiVersion"), self.text(&path, map, "kind"));
        if (version, kind) != (Some(API_VERSION), Some(KIND)) {
            let found = format!("{}, {}", version.unwrap_or("no apiVersion"), kind.unwrap_or("no kind"));
            self.0.push(format!("a {KIND} of {API_VERSION} is wanted, not {found}"));
        }
        let more = "should be an integer value greater than zero";
        self.number(&path, map, "parallelism", (1, i32::MAX.into()), more);
        let percentage = self.percentage(&path, map).unwrap_or(0);
        let seconds = |n: i64| Duration::from_secs(n.unsigned_abs());
        if let Some(n) = self.number(&path, map, "podInitialBackoffSeconds", (1, i64::MAX), "must be greater than 0") {
            all.backoff.first = seconds(n);
        }
        let detail = "must be greater than or equal to PodInitialBackoffSeconds";
        let least = i64::try_from(all.backoff.first.as_secs()).unwrap_or(i64::MAX);
        match self.number(&path, map, "podMaxBackoffSeconds", (least, i64::MAX), detail) {
            Some(n) => all.backoff.most = seconds(n),
            None if all.backoff.most < all.backoff.first => {
                self.invalid(&path.child("podMaxBackoffSeconds"), 10i64, detail)
            }
            None => {}
        }
        if !self.list(&path, map, "extenders").is_empty() {
            self.error(&FieldError::forbidden(&path.child("extenders"), "extenders are not served"));
        }
        let profiles = self.list(&path, map, "profiles");
        if profiles.is_empty() {
            all.profiles.insert(NAME.to_owned(), Arc::new(Profile { percentage, ..Profile::default() }));
        }
        for (i, value) in profiles.iter().enumerate() {
            let path = path.child("profiles").index(i);
            let Some((name, profile)) = self.profile(&path, value, percentage, profiles.len() == 1) else { continue };
            if all.profiles.contains_key(&name) {
                self.error(&FieldError::duplicate(&path.child("schedulerName"), &name));
            }
            all.profiles.insert(name, Arc::new(profile));
        }
        all
    }

    fn percentage(&mut self, path: &Path, map: &Map<String, Value>) -> Option<usize> {
        let n = self.number(path, map, "percentageOfNodesToScore", (0, 100), "not in valid range [0-100]")?;
        usize::try_from(n).ok()
    }

    fn profile(&mut self, path: &Path, value: &Value, percentage: usize, only: bool) -> Option<(String, Profile)> {
        let known = ["schedulerName", "percentageOfNodesToScore", "plugins", "pluginConfig"];
        let map = self.fields(path, value, &known)?;
        let mut profile = Profile { percentage, ..Profile::default() };
        if let Some(own) = self.percentage(path, map) {
            profile.percentage = own;
        }
        let name = match self.text(path, map, "schedulerName").filter(|n| !n.is_empty()) {
            Some(name) => name.to_owned(),
            None if only => NAME.to_owned(),
            None => {
                self.error(&FieldError::required(&path.child("schedulerName"), ""));
                String::new()
            }
        };
        if let Some(plugins) = map.get("plugins") {
            self.plugins(&path.child("plugins"), plugins, &name, &mut profile);
        }
        let mut seen: Vec<&str> = Vec::new();
        for (i, value) in self.list(path, map, "pluginConfig").iter().enumerate() {
            let path = path.child("pluginConfig").index(i);
            let Some(map) = self.fields(&path, value, &["name", "args"]) else { continue };
            let name = self.text(&path, map, "name").unwrap_or_default();
            if seen.contains(&name) {
                self.error(&FieldError::duplicate(&path, name));
            }
            seen.push(name);
            let args = map.get("args").unwrap_or(&Value::Null);
            self.arguments(&path, name, args, &mut profile);
        }
        Some((name, profile))
    }

    /// Which plugins are enabled where.
    fn plugins(&mut self, path: &Path, value: &Value, name: &str, profile: &mut Profile) {
        let Some(map) = self.fields(path, value, &EXTENSION_POINTS) else { return };
        let mut sets: BTreeMap<&str, Set> = BTreeMap::new();
        for (point, value) in map {
            if let Some(point) = EXTENSION_POINTS.into_iter().find(|p| p == point) {
                let set = self.set(&path.child(point), value, point);
                sets.insert(point, set);
            }
        }
        let none = Set::default();
        let at = |point: &str| sets.get(point).unwrap_or(&none);
        let multi = at("multiPoint");
        // Where a plugin is enabled at one point it is, whatever is said of all; so with disabled.
        let is_on = |plugin: &str, point: &str| {
            at(point).has(plugin) || !at(point).lacks(plugin) && (multi.has(plugin) || !multi.lacks(plugin))
        };
        for plugin in Plugin::ALL {
            if !is_on(plugin.name(), "filter") {
                profile.filters.remove(plugin);
            }
            let weight = |set: &Set| set.enabled.iter().find(|(n, _)| n == plugin.name()).map(|(_, w)| *w);
            let given = weight(at("score")).or_else(|| weight(multi)).filter(|w| *w != 0);
            profile.weights[plugin as usize] = match (is_on(plugin.name(), "score"), plugin.weight()) {
                (false, _) | (_, 0) => 0,
                (true, usual) => given.unwrap_or(if weight(at("score")).is_some() { 1 } else { usual }),
            };
        }
        profile.preempts = is_on(Plugin::DefaultPreemption.name(), "postFilter");
        profile.gates = is_on(Plugin::SchedulingGates.name(), "preEnqueue");
        if !is_on("PrioritySort", "queueSort") {
            let text = "only one queue sort plugin required for profile with scheduler name";
            self.0.push(format!("{text} {name:?}, but got 0"));
        }
        if !is_on("DefaultBinder", "bind") {
            self.0.push(format!("at least one bind plugin is needed for profile with scheduler name {name:?}"));
        }
    }

    fn set(&mut self, path: &Path, value: &Value, point: &str) -> Set {
        let mut all = Set::default();
        let Some(map) = self.fields(path, value, &["enabled", "disabled"]) else { return all };
        for (list, key) in [(true, "enabled"), (false, "disabled")] {
            for (i, value) in self.list(path, map, key).iter().enumerate() {
                let path = path.child(key).index(i);
                let Some(map) = self.fields(&path, value, &["name", "weight"]) else { continue };
                let name = self.text(&path, map, "name").unwrap_or_default().to_owned();
                let weight = self.number(&path, map, "weight", (0, i32::MAX.into()), "must not be negative");
                let exists = Plugin::ALL.iter().any(|p| p.name() == name) || ELSEWHERE.contains(&name.as_str());
                match (list, exists) {
                    (true, false) => self.0.push(format!("{path}: {point} plugin {name:?} does not exist")),
                    (true, true) => all.enabled.push((name, weight.unwrap_or(0))),
                    (false, _) => all.disabled.push(name),
                }
            }
        }
        all
    }

    fn arguments(&mut self, path: &Path, name: &str, args: &Value, profile: &mut Profile) {
        let path_of_args = path.child("args");
        let (own, path) = (format!("{name}Args"), &path_of_args);
        let known: &[&str] = match name {
            "DefaultPreemption" => &["minCandidateNodesPercentage", "minCandidateNodesAbsolute"],
            "InterPodAffinity" => &["hardPodAffinityWeight", "ignorePreferredTermsOfExistingPods"],
            "NodeAffinity" => &["addedAffinity"],
            "NodeResourcesBalancedAllocation" => &["resources"],
            "NodeResourcesFit" => &["ignoredResources", "ignoredResourceGroups", "scoringStrategy"],
            "PodTopologySpread" => &["defaultConstraints", "defaultingType"],
            "VolumeBinding" => &["bindTimeoutSeconds"],
            "DynamicResources" => &["filterTimeout", "bindingTimeout"],
            _ => {
                self.invalid(path, name, "is no plugin with arguments");
                return;
            }
        };
        let known: Vec<&str> = known.iter().copied().chain(["apiVersion", "kind"]).collect();
        let Some(map) = self.fields(path, args, &known) else { return };
        for (key, wanted) in [("apiVersion", API_VERSION), ("kind", own.as_str())] {
            if let Some(found) = self.text(path, map, key).filter(|found| *found != wanted) {
                self.invalid(&path.child(key), found, "has to match plugin args");
            }
        }
        match name {
            "DefaultPreemption" => self.preemption(path, map, profile),
            "InterPodAffinity" => {
                let range = "not in valid range [0, 100]";
                if let Some(n) = self.number(path, map, "hardPodAffinityWeight", (0, 100), range) {
                    profile.hard_affinity_weight = n;
                }
                profile.ignore_preferred_terms_of_existing = self.flag(path, map, "ignorePreferredTermsOfExistingPods");
            }
            "NodeAffinity" => {
                if let Some(added) = map.get("addedAffinity").filter(|v| !v.is_null()) {
                    profile.added_affinity = self.typed(&path.child("addedAffinity"), added);
                }
            }
            "NodeResourcesBalancedAllocation" => {
                if let Some(resources) = self.resources(path, map, (1, 1), "must be 1") {
                    profile.balanced = resources.into_iter().map(|(name, _)| name).collect();
                }
            }
            "NodeResourcesFit" => self.fit(path, map, &mut profile.fit),
            "PodTopologySpread" => self.spread(path, map, profile),
            _ => drop(self.number(path, map, "bindTimeoutSeconds", (0, i64::MAX), "should not be a negative value")),
        }
    }

    fn preemption(&mut self, path: &Path, map: &Map<String, Value>, profile: &mut Profile) {
        let (percentage, absolute) = ("minCandidateNodesPercentage", "minCandidateNodesAbsolute");
        if let Some(n) = self.number(path, map, percentage, (0, 100), "not in valid range [0, 100]") {
            profile.candidates.0 = usize::try_from(n).unwrap_or(0);
        }
        if let Some(n) = self.number(path, map, absolute, (0, i32::MAX.into()), "not in valid range [0, inf)") {
            profile.candidates.1 = usize::try_from(n).unwrap_or(0);
        }
        if profile.candidates == (0, 0) {
            for (one, other) in [(percentage, absolute), (absolute, percentage)] {
                self.invalid(&path.child(one), 0i64, &format!("cannot be zero at the same time as {other}"));
            }
        }
    }

    /// `None`: the usual ones.
    fn resources(
        &mut self,
        path: &Path,
        map: &Map<String, Value>,
        weights: (i64, i64),
        detail: &str,
    ) -> Option<Vec<(Box<str>, i64)>> {
        let mut all: Vec<(Box<str>, i64)> = Vec::new();
        for (i, value) in self.list(path, map, "resources").iter().enumerate() {
            let path = path.child("resources").index(i);
            let Some(map) = self.fields(&path, value, &["name", "weight"]) else { continue };
            let name = self.text(&path, map, "name").unwrap_or_default();
            if all.iter().any(|(n, _)| **n == *name) {
                self.error(&FieldError::duplicate(&path.child("name"), name));
            }
            // An explicit zero is the default, too.
            let weight = match map.get("weight").and_then(Value::as_i64) {
                Some(0) => None,
                _ => self.number(&path, map, "weight", weights, detail),
            };
            all.push((name.into(), weight.unwrap_or(1)));
        }
        (!all.is_empty()).then_some(all)
    }

    fn fit(&mut self, path: &Path, map: &Map<String, Value>, fit: &mut Fit) {
        for (key, target) in
            [("ignoredResources", &mut fit.ignored), ("ignoredResourceGroups", &mut fit.ignored_groups)]
        {
            for (i, value) in self.list(path, map, key).iter().enumerate() {
                let path = path.child(key).index(i);
                match value.as_str() {
                    Some(group) if key == "ignoredResourceGroups" && group.contains('/') => {
                        self.invalid(&path, group, "resource group name can't contain '/'");
                    }
                    Some(name) => target.push(name.into()),
                    None => self.invalid(&path, value, "must be a string"),
                }
            }
        }
        let Some(value) = map.get("scoringStrategy") else { return };
        let path = path.child("scoringStrategy");
        let known = ["type", "resources", "requestedToCapacityRatio"];
        let Some(map) = self.fields(&path, value, &known) else { return };
        if let Some(resources) = self.resources(&path, map, (1, 100), "not in valid range (0, 100]") {
            fit.resources = resources;
        }
        let kind = self.text(&path, map, "type").unwrap_or_default();
        let ratio = map.get("requestedToCapacityRatio").filter(|v| !v.is_null());
        let path_of_ratio = path.child("requestedToCapacityRatio");
        match (kind, ratio) {
            ("LeastAllocated" | "MostAllocated", Some(_)) => {
                let why = "must be nil when type is not RequestedToCapacityRatio";
                self.error(&FieldError::forbidden(&path_of_ratio, why));
            }
            ("LeastAllocated", None) => fit.strategy = Strategy::Least,
            ("MostAllocated", None) => fit.strategy = Strategy::Most,
            ("RequestedToCapacityRatio", Some(ratio)) => {
                if let Some(map) = self.fields(&path_of_ratio, ratio, &["shape"]) {
                    fit.strategy = Strategy::Ratio(self.shape(&path_of_ratio, map));
                }
            }
            ("RequestedToCapacityRatio", None) => {
                let why = "must be specified when type is RequestedToCapacityRatio";
                self.error(&FieldError::required(&path_of_ratio, why));
            }
            (other, _) => {
                let supported = ["LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"];
                self.error(&FieldError::not_supported(&path.child("type"), other, &supported));
            }
        }
    }

    fn shape(&mut self, path: &Path, map: &Map<String, Value>) -> Vec<(i64, i64)> {
        let mut all: Vec<(i64, i64)> = Vec::new();
        for (i, value) in self.list(path, map, "shape").iter().enumerate() {
            let path = path.child("shape").index(i);
            let Some(map) = self.fields(&path, value, &["utilization", "score"]) else { continue };
            let range = "not in valid range [0, 100]";
            let at = self.number(&path, map, "utilization", (0, 100), range).unwrap_or(0);
            let score = self.number(&path, map, "score", (0, 10), "not in valid range [0, 10]").unwrap_or(0);
            if all.last().is_some_and(|(before, _)| *before >= at) {
                self.invalid(&path.child("utilization"), at, "values must be sorted in increasing order");
            }
            all.push((at, score * 10));
        }
        if all.is_empty() {
            self.error(&FieldError::required(&path.child("shape"), "at least one point must be specified"));
        }
        all
    }

    fn spread(&mut self, path: &Path, map: &Map<String, Value>, profile: &mut Profile) {
        let list = self.list(path, map, "defaultConstraints");
        let (path_of_type, path_of_list) = (path.child("defaultingType"), path.child("defaultConstraints"));
        match self.text(path, map, "defaultingType").unwrap_or("System") {
            "System" if !list.is_empty() => {
                self.invalid(&path_of_type, "System", "when .defaultConstraints are not empty");
            }
            "System" => return,
            "List" => {}
            other => self.error(&FieldError::not_supported(&path_of_type, other, &["System", "List"])),
        }
        let mut all: Vec<k8s_openapi::api::core::v1::TopologySpreadConstraint> = Vec::new();
        for (i, value) in list.iter().enumerate() {
            let path = path_of_list.index(i);
            let mut value = value.clone();
            for (key, default) in
                [("maxSkew", Value::from(0)), ("topologyKey", "".into()), ("whenUnsatisfiable", "".into())]
            {
                if let Some(map) = value.as_object_mut() {
                    map.entry(key).or_insert(default);
                }
            }
            let Some(constraint) = self.typed::<k8s_openapi::api::core::v1::TopologySpreadConstraint>(&path, &value)
            else {
                continue;
            };
            if constraint.max_skew <= 0 {
                self.invalid(&path.child("maxSkew"), i64::from(constraint.max_skew), "not in valid range (0, inf)");
            }
            if constraint.topology_key.is_empty() {
                self.error(&FieldError::required(&path.child("topologyKey"), "can not be empty"));
            }
            let action = &constraint.when_unsatisfiable;
            match action.as_str() {
                "DoNotSchedule" | "ScheduleAnyway" => {}
                "" => self.error(&FieldError::required(&path.child("whenUnsatisfiable"), "can not be empty")),
                other => {
                    let supported = ["DoNotSchedule", "ScheduleAnyway"];
                    self.error(&FieldError::not_supported(&path.child("whenUnsatisfiable"), other, &supported));
                }
            }
            if constraint.label_selector.is_some() {
                let why = "constraint must not define a selector, as they deduced for each pod";
                self.error(&FieldError::forbidden(&path.child("labelSelector"), why));
            }
            if all.iter().any(|c| c.topology_key == constraint.topology_key && c.when_unsatisfiable == *action) {
                let twice = format!("{{{}, {action}}}", constraint.topology_key);
                self.error(&FieldError::duplicate(&path, &twice));
            }
            all.push(constraint);
        }
        profile.spread = Some(all);
    }
}

/// What is said of one extension point.
#[derive(Default)]
struct Set {
    enabled: Vec<(String, i64)>,
    disabled: Vec<String>,
}

impl Set {
    fn has(&self, plugin: &str) -> bool {
        self.enabled.iter().any(|(name, _)| name == plugin)
    }
    fn lacks(&self, plugin: &str) -> bool {
        self.disabled.iter().any(|name| name == plugin || name == "*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(more: Value) -> Value {
        let mut all = json!({"apiVersion": API_VERSION, "kind": KIND});
        for (k, v) in more.as_object().unwrap() {
            all[k] = v.clone();
        }
        all
    }

    fn profile(more: Value) -> Profile {
        let all = Configuration::parse(&with(json!({"profiles": [more]}))).unwrap();
        (**all.profiles.values().next().unwrap()).clone()
    }

    #[test]
    fn what_is_not_said_is_as_upstream_has_it() {
        assert_eq!(Configuration::parse(&with(json!({}))).unwrap(), Configuration::default());
        let ignored =
            json!({"parallelism": 4, "leaderElection": {"leaderElect": false}, "clientConnection": {"qps": 5}});
        assert_eq!(Configuration::parse(&with(ignored)).unwrap(), Configuration::default());
        assert_eq!(profile(json!({"plugins": {}, "pluginConfig": []})), Profile::default());
        for name in ["DefaultPreemption", "InterPodAffinity", "NodeAffinity", "NodeResourcesFit", "PodTopologySpread"] {
            assert_eq!(profile(json!({"pluginConfig": [{"name": name, "args": {}}]})), Profile::default(), "{name}");
        }
    }

    #[test]
    fn profiles_and_backoff() {
        let all = Configuration::parse(&with(json!({
            "podInitialBackoffSeconds": 2, "podMaxBackoffSeconds": 30, "percentageOfNodesToScore": 40,
            "profiles": [{"schedulerName": "a"}, {"schedulerName": "b", "percentageOfNodesToScore": 100}]})))
        .unwrap();
        assert_eq!(all.backoff, Backoff { first: Duration::from_secs(2), most: Duration::from_secs(30) });
        let percentages: Vec<_> = all.profiles.iter().map(|(n, p)| (n.as_str(), p.percentage)).collect();
        assert_eq!(percentages, [("a", 40), ("b", 100)]);
    }

    #[test]
    fn plugins_are_switched_and_weighed() {
        let (taint, image, spread) = (Plugin::TaintToleration, Plugin::ImageLocality, Plugin::PodTopologySpread);
        let found = profile(json!({"plugins": {
            "multiPoint": {"enabled": [{"name": "TaintToleration", "weight": 7}], "disabled": [{"name": "ImageLocality"}]},
            "score": {"enabled": [{"name": "NodeAffinity"}], "disabled": [{"name": "PodTopologySpread"}]},
            "postFilter": {"disabled": [{"name": "*"}]}}}));
        let weight = |p: Plugin| found.weights[p as usize];
        assert_eq!((weight(taint), weight(image), weight(spread), weight(Plugin::NodeAffinity)), (7, 0, 0, 1));
        assert!(found.filters.has(spread) && !found.preempts && found.gates);
        let only = profile(json!({"plugins": {
            "multiPoint": {"disabled": [{"name": "*"}], "enabled": [{"name": "PrioritySort"}, {"name": "DefaultBinder"}]},
            "filter": {"enabled": [{"name": "NodeResourcesFit"}]}}}));
        assert_eq!(only.filters.iter().collect::<Vec<_>>(), [Plugin::NodeResourcesFit]);
        assert!(only.weights.iter().all(|w| *w == 0) && !only.gates);
    }

    #[test]
    fn arguments_are_taken_over() {
        let of = |name: &str, args: Value| profile(json!({"pluginConfig": [{"name": name, "args": args}]}));
        let found = of(
            "NodeResourcesFit",
            json!({"ignoredResourceGroups": ["x.io"], "scoringStrategy": {
            "type": "RequestedToCapacityRatio", "resources": [{"name": "cpu", "weight": 3}, {"name": "memory"}],
            "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}}}),
        );
        assert_eq!(found.fit.strategy, Strategy::Ratio(vec![(0, 0), (100, 100)]));
        assert_eq!(found.fit.resources, [("cpu".into(), 3), ("memory".into(), 1)]);
        assert_eq!(found.fit.ignored_groups, ["x.io".into()]);
        let found = of(
            "PodTopologySpread",
            json!({"defaultingType": "List", "defaultConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]}),
        );
        assert_eq!(found.spread.unwrap().len(), 1);
        assert_eq!(of("InterPodAffinity", json!({"hardPodAffinityWeight": 9})).hard_affinity_weight, 9);
        assert_eq!(of("DefaultPreemption", json!({"minCandidateNodesAbsolute": 5})).candidates, (10, 5));
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}});
        assert!(of("NodeAffinity", json!({"addedAffinity": required})).added_affinity.is_some());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let args = |name: &str, args: Value| json!({"profiles": [{"pluginConfig": [{"name": name, "args": args}]}]});
        let at = "profiles[0].pluginConfig[0].args";
        for (document, expected) in [
            (json!({"kind": "Other"}), "is wanted, not kubescheduler.config.k8s.io/v1, Other".to_owned()),
            (json!({"foo": 1}), "strict decoding error: unknown field \"foo\"".into()),
            (json!({"profiles": [{"foo": 1}]}), "strict decoding error: unknown field \"profiles[0].foo\"".into()),
            (json!({"profiles": {}}), "profiles: Invalid value: {}: must be a list".into()),
            (json!({"profiles": [{}, {}]}), "profiles[0].schedulerName: Required value".into()),
            (
                json!({"profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}]}),
                "profiles[1].schedulerName: Duplicate value: \"a\"".into(),
            ),
            (
                json!({"parallelism": 0}),
                "parallelism: Invalid value: 0: should be an integer value greater than zero".into(),
            ),
            (json!({"percentageOfNodesToScore": 101}), "Invalid value: 101: not in valid range [0-100]".into()),
            (
                json!({"podInitialBackoffSeconds": 20}),
                "podMaxBackoffSeconds: Invalid value: 10: must be greater".into(),
            ),
            (json!({"extenders": [{}]}), "extenders: Forbidden: extenders are not served".into()),
            (
                json!({"profiles": [{"plugins": {"filter": {"enabled": [{"name": "Foo"}]}}}]}),
                "profiles[0].plugins.filter.enabled[0]: filter plugin \"Foo\" does not exist".into(),
            ),
            (
                json!({"profiles": [{"plugins": {"bind": {"disabled": [{"name": "*"}]}}}]}),
                "at least one bind plugin is needed for profile with scheduler name \"default-scheduler\"".into(),
            ),
            (args("Foo", json!({})), "is no plugin with arguments".into()),
            (args("NodeResourcesFit", json!({"foo": 1})), format!("unknown field \"{at}.foo\"")),
            (args("NodeResourcesFit", json!({"kind": "X"})), "has to match plugin args".into()),
            (
                args("DefaultPreemption", json!({"minCandidateNodesPercentage": 101})),
                format!("{at}.minCandidateNodesPercentage: Invalid value: 101: not in valid range [0, 100]"),
            ),
            (
                args("DefaultPreemption", json!({"minCandidateNodesPercentage": 0, "minCandidateNodesAbsolute": 0})),
                "cannot be zero at the same time as minCandidateNodesAbsolute".into(),
            ),
            (
                args("NodeResourcesFit", json!({"scoringStrategy": {"type": "Foo"}})),
                format!("{at}.scoringStrategy.type: Unsupported value: \"Foo\""),
            ),
            (
                args("NodeResourcesFit", json!({"scoringStrategy": {"type": "RequestedToCapacityRatio"}})),
                "must be specified when type is RequestedToCapacityRatio".into(),
            ),
            (
                args("NodeResourcesBalancedAllocation", json!({"resources": [{"name": "cpu", "weight": 2}]})),
                format!("{at}.resources[0].weight: Invalid value: 2: must be 1"),
            ),
            (
                args("NodeAffinity", json!({"addedAffinity": {"foo": 1}})),
                format!("unknown field \"{at}.addedAffinity.foo\""),
            ),
            (
                args("PodTopologySpread", json!({"defaultingType": "List", "defaultConstraints": [{"maxSkew": 1}]})),
                format!("{at}.defaultConstraints[0].topologyKey: Required value: can not be empty"),
            ),
            (
                args("PodTopologySpread", json!({"defaultConstraints": [{"maxSkew": 1}]})),
                "when .defaultConstraints are not empty".into(),
            ),
        ] {
            let errors = Configuration::parse(&with(document.clone())).expect_err(&document.to_string());
            assert!(errors.iter().any(|e| e.contains(&expected)), "{document}: {errors:?}, not {expected}");
        }
        assert!(Configuration::parse(&json!([])).is_err());
    }
}
