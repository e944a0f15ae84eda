//! How fast an autoscaler's wishes are followed: stabilization windows, policies, and the limits of its spec. Pure over what is
//! remembered of each autoscaler.
//!
//! Source: kubernetes `pkg/controller/podautoscaler/horizontal.go` (`normalizeDesiredReplicas…`, `stabilizeRecommendation…`,
//! `convertDesiredReplicas…`, `calculateScale…Limit…`, `storeScaleEvent`).

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Source: `--horizontal-pod-autoscaler-downscale-stabilization`.
const DOWN_WINDOW_SECONDS: i64 = 300;
/// Without a behaviour: at most twice as many, or this many. Source: `scaleUpLimitFactor`, `scaleUpLimitMinimum`.
const UP_FACTOR: i32 = 2;
const UP_LEAST: i32 = 4;
/// Windows and periods are an hour at most, and somebody may ask for it every 15 s; spec changes bring more. What is older goes
/// first.
const REMEMBERED_MAX: usize = 512;

/// What was wished for or done, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Then {
    at: Timestamp,
    replicas: i32,
}

/// What is remembered of one autoscaler. Lost with the process, as upstream's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    wishes: Vec<Then>,
    /// By how much it was scaled.
    ups: Vec<Then>,
    downs: Vec<Then>,
}

/// The autoscaler's limits, and what is wished for.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// `null`: none.
    pub behavior: &'a Value,
    pub min: i32,
    pub max: i32,
    pub current: i32,
    pub desired: i32,
}

/// Reason and message of a condition, and whether the wish was changed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    pub changed: bool,
    pub reason: &'static str,
    pub message: &'static str,
}

/// What is done of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    pub replicas: i32,
    pub stabilized: Said,
    pub limited: Said,
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const FASTER_UP: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const FASTER_DOWN: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const STABLE_UP: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const STABLE_DOWN: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);

impl History {
    /// Whatever the target has when it is first seen counts as a wish.
    pub fn begin(&mut self, current: i32, now: Timestamp) {
        if self.wishes.is_empty() {
            self.wishes.push(Then { at: now, replicas: current });
        }
    }

    /// What is done of the wish; remembers it.
    pub fn limit(&mut self, wish: Wish<'_>, now: Timestamp) -> Limited {
        let (stable, why) = self.stabilize(&wish, now);
        let stabilized = said(stable != wish.desired, if stable == wish.desired { READY } else { why });
        let (replicas, why) =
            if wish.behavior.is_null() { by_default(&wish, stable) } else { self.by_behavior(&wish, stable, now) };
        Limited { replicas, stabilized, limited: said(replicas != stable, why) }
    }

    fn stabilize(&mut self, wish: &Wish<'_>, now: Timestamp) -> (i32, (&'static str, &'static str)) {
        let window = |field: &str, otherwise: i64| {
            wish.behavior[field]["stabilizationWindowSeconds"].as_i64().unwrap_or(otherwise)
        };
        let (up, down) = (since(now, window("scaleUp", 0)), since(now, window("scaleDown", DOWN_WINDOW_SECONDS)));
        let stable = if wish.behavior.is_null() {
            let recent = self.wishes.iter().filter(|w| w.at >= down).map(|w| w.replicas);
            recent.fold(wish.desired, i32::max)
        } else {
            let recent = |from: Timestamp| self.wishes.iter().filter(move |w| w.at > from).map(|w| w.replicas);
            let (lowest, highest) =
                (recent(up).fold(wish.desired, i32::min), recent(down).fold(wish.desired, i32::max));
            wish.current.max(lowest).min(highest)
        };
        remember(&mut self.wishes, Then { at: now, replicas: wish.desired }, up.min(down));
        let goes_up = !wish.behavior.is_null() && wish.desired >= wish.current;
        (stable, if goes_up { STABLE_UP } else { STABLE_DOWN })
    }

    fn by_behavior(&self, wish: &Wish<'_>, stable: i32, now: Timestamp) -> (i32, (&'static str, &'static str)) {
        if stable > wish.current {
            let rate = self.rate(wish.current, &wish.behavior["scaleUp"], true, now).max(wish.current);
            let (most, why) = if wish.max > rate { (rate, FASTER_UP) } else { (wish.max, TOO_MANY) };
            if stable > most {
                return (most, why);
            }
        } else if stable < wish.current {
            let rate = self.rate(wish.current, &wish.behavior["scaleDown"], false, now).min(wish.current);
            let (least, why) = if wish.min < rate { (rate, FASTER_DOWN) } else { (wish.min, TOO_FEW) };
            if stable < least {
                return (least, why);
            }
        }
        (stable, WITHIN)
    }

    /// How far policies let it go.
    fn rate(&self, current: i32, rules: &Value, up: bool, now: Timestamp) -> i32 {
        let select = rules["selectPolicy"].as_str().unwrap_or("Max");
        if select == "Disabled" {
            return current;
        }
        let limits = rules["policies"].as_array().into_iter().flatten().map(|policy| {
            let from = since(now, policy["periodSeconds"].as_i64().unwrap_or(0));
            let changed = |all: &[Then]| all.iter().filter(|e| e.at > from).map(|e| e.replicas).sum::<i32>();
            let start = current - changed(&self.ups) + changed(&self.downs);
            let value = policy["value"].as_i64().unwrap_or(0);
            let signed = if up { value } else { -value };
            if policy["type"] == "Percent" {
                let limit = f64::from(start) * (1.0 + signed as f64 / 100.0);
                // Rounded towards a change: half a replica is one.
                if up { limit.ceil() as i32 } else { limit as i32 }
            } else {
                start.saturating_add(i32::try_from(signed).unwrap_or(if up { i32::MAX } else { i32::MIN }))
            }
        });
        // The largest change: the most when it grows, the fewest when it shrinks.
        let found = if up == (select != "Min") { limits.max() } else { limits.min() };
        found.unwrap_or(current)
    }

    /// It was scaled.
    pub fn scaled(&mut self, behavior: &Value, from: i32, to: i32, now: Timestamp) {
        if behavior.is_null() {
            return;
        }
        let (events, field) = if to > from { (&mut self.ups, "scaleUp") } else { (&mut self.downs, "scaleDown") };
        let policies = behavior[field]["policies"].as_array().into_iter().flatten();
        let longest = policies.filter_map(|p| p["periodSeconds"].as_i64()).max().unwrap_or(0);
        remember(events, Then { at: now, replicas: (to - from).abs() }, since(now, longest));
    }
}

fn since(now: Timestamp, seconds: i64) -> Timestamp {
    now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
}

/// What is older than `from` is forgotten.
fn remember(all: &mut Vec<Then>, new: Then, from: Timestamp) {
    all.retain(|then| then.at >= from);
    if all.len() >= REMEMBERED_MAX {
        all.remove(0);
    }
    all.push(new);
}

fn said(changed: bool, (reason, message): (&'static str, &'static str)) -> Said {
    Said { changed, reason, message }
}

fn by_default(wish: &Wish<'_>, stable: i32) -> (i32, (&'static str, &'static str)) {
    let rate = wish.current.saturating_mul(UP_FACTOR).max(UP_LEAST);
    let (most, why) = if wish.max > rate { (rate, FASTER_UP) } else { (wish.max, TOO_MANY) };
    if stable < wish.min {
        (wish.min, TOO_FEW)
    } else if stable > most {
        (most, why)
    } else {
        (stable, WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn wish<'a>(behavior: &'a Value, current: i32, desired: i32) -> Wish<'a> {
        Wish { behavior, min: 1, max: 100, current, desired }
    }

    fn rules(window: i64, select: &str, policies: &[(&str, i64, i64)]) -> Value {
        let policies: Vec<Value> =
            policies.iter().map(|(t, v, p)| json!({"type": t, "value": v, "periodSeconds": p})).collect();
        json!({"stabilizationWindowSeconds": window, "selectPolicy": select, "policies": policies})
    }

    #[test]
    fn without_a_behavior() {
        for (name, min, max, current, desired, expected, reason) in [
            ("as it is", 1, 10, 3, 3, 3, "DesiredWithinRange"),
            ("up", 1, 10, 3, 5, 5, "DesiredWithinRange"),
            ("at most twice", 1, 100, 3, 50, 6, "ScaleUpLimit"),
            ("at least four", 1, 100, 1, 50, 4, "ScaleUpLimit"),
            ("the maximum", 1, 5, 3, 50, 5, "TooManyReplicas"),
            ("the minimum", 2, 5, 3, 0, 2, "TooFewReplicas"),
        ] {
            let mut history = History::default();
            let limited = history.limit(Wish { behavior: &Value::Null, min, max, current, desired }, at(0));
            assert_eq!((limited.replicas, limited.limited.reason), (expected, reason), "{name}");
            assert_eq!(limited.stabilized.reason, "ReadyForNewScale", "{name}");
        }
    }

    #[test]
    fn it_shrinks_when_nothing_more_was_wished_for_five_minutes() {
        let mut history = History::default();
        history.begin(10, at(0));
        let mut wanted = |seconds: i64| {
            let limited = history.limit(wish(&Value::Null, 10, 2), at(seconds));
            (limited.replicas, limited.stabilized.reason)
        };
        assert_eq!(wanted(15), (10, "ScaleDownStabilized"));
        assert_eq!(wanted(300), (10, "ScaleDownStabilized"));
        assert_eq!(wanted(301), (2, "ReadyForNewScale"));
    }

    #[test]
    fn windows_of_a_behavior() {
        let free: &[(&str, i64, i64)] = &[("Percent", 1000, 15)];
        let behavior =
            json!({"scaleUp": rules(60, "Max", free), "scaleDown": rules(0, "Max", &[("Percent", 100, 15)])});
        let mut history = History::default();
        history.begin(5, at(0));
        let mut wanted = |current: i32, desired: i32, seconds: i64| {
            let limited = history.limit(wish(&behavior, current, desired), at(seconds));
            (limited.replicas, limited.stabilized.reason)
        };
        assert_eq!(wanted(5, 8, 15), (5, "ScaleUpStabilized"));
        assert_eq!(wanted(5, 9, 60), (8, "ScaleUpStabilized"));
        assert_eq!(wanted(5, 9, 75), (9, "ReadyForNewScale"));
        assert_eq!(wanted(9, 3, 76), (3, "ReadyForNewScale"), "no window: down at once");
    }

    #[test]
    fn policies_count_what_was_done_in_their_period() {
        let up = rules(0, "Max", &[("Pods", 4, 60), ("Percent", 20, 60)]);
        let down = rules(0, "Min", &[("Pods", 1, 60), ("Percent", 50, 60)]);
        let behavior = json!({"scaleUp": up, "scaleDown": down});
        let mut history = History::default();
        history.scaled(&behavior, 10, 13, at(0));
        let rate = |history: &History, current: i32, up: bool, seconds: i64| {
            let field = if up { "scaleUp" } else { "scaleDown" };
            history.rate(current, &behavior[field], up, at(seconds))
        };
        assert_eq!(rate(&history, 13, true, 30), 14, "ten and four");
        assert_eq!(rate(&history, 13, true, 60), 17, "the period is over");
        assert_eq!(rate(&history, 100, true, 90), 120, "a fifth is more");
        assert_eq!(rate(&history, 10, false, 90), 9, "the smaller change");
        history.scaled(&behavior, 10, 9, at(90));
        assert_eq!(rate(&history, 9, false, 100), 9, "it has shrunk by one already");
        let limited = history.limit(wish(&behavior, 9, 4), at(100));
        assert_eq!((limited.replicas, limited.limited.reason), (9, "ScaleDownLimit"));
        let off = json!({"scaleUp": rules(0, "Max", &[]), "scaleDown": rules(0, "Disabled", &[("Pods", 9, 60)])});
        assert_eq!(history.limit(wish(&off, 9, 4), at(200)).replicas, 9);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut history = History::default();
        for seconds in 0..2000 {
            history.limit(wish(&json!({"scaleDown": rules(3600, "Max", &[])}), 1, 1), at(seconds));
        }
        assert_eq!(history.wishes.len(), REMEMBERED_MAX);
    }
}
