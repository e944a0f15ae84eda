//! The tokens by which a list is read in pages.
//!
//! Source: apiserver `pkg/storage/continue.go`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use types::status::Status;

/// Where a chunked list goes on.
#[derive(Debug, PartialEq)]
pub struct Continue {
    /// `None`: at whatever is newest.
    pub at: Option<Pinned>,
    /// The store key below the prefix.
    pub start: String,
}

/// The state that all pages of a list show.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pinned {
    pub revision: u64,
    /// When the first page was read, in seconds since 1970.
    pub since: i64,
}

impl Pinned {
    /// Whether clients have to be told to begin anew, even where the state is still known: what works only on a quiet server is
    /// no promise.
    pub fn is_old(self, now: i64) -> bool {
        now.saturating_sub(self.since) > CONTINUE_SECONDS_MAX
    }
}

impl Continue {
    pub fn encode(&self) -> String {
        let mut token = json!({"v": "meta.k8s.io/v1", "rv": -1, "start": self.start});
        if let Some(Pinned { revision, since }) = self.at {
            token["rv"] = i64::try_from(revision).unwrap_or(i64::MAX).into();
            token["since"] = since.into();
        }
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    /// # Errors
    /// 400 for what was not made here.
    pub fn decode(text: &str) -> Result<Self, Status> {
        let wrong =
            |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| wrong(&e.to_string()))?;
        let value = crate::codec::parse_json(&bytes).map_err(|e| wrong(&e))?;
        let version = value["v"].as_str().unwrap_or_default();
        if version != "meta.k8s.io/v1" {
            let why = format!("server does not recognize this encoded version {version}");
            return Err(wrong(why.trim_end()));
        }
        let at = match value["rv"].as_i64() {
            Some(-1) => None,
            Some(n) if n > 0 => {
                Some(Pinned { revision: n.unsigned_abs(), since: value["since"].as_i64().unwrap_or_default() })
            }
            _ => return Err(wrong("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
        };
        let start = value["start"].as_str().unwrap_or_default();
        if start.is_empty() {
            return Err(wrong("encoded start key empty (version meta.k8s.io/v1)"));
        }
        // What leads out of the collection was not made here.
        let below = start.strip_prefix('/').unwrap_or(start);
        if below.is_empty() || below.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(wrong(start));
        }
        Ok(Self { at, start: start.to_owned() })
    }
}

/// How long the pages of a list can be had: as long as etcd keeps what they show. Source: kube-apiserver,
/// `--etcd-compaction-interval`.
const CONTINUE_SECONDS_MAX: i64 = 5 * 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_had_for_five_minutes() {
        let pinned = Pinned { revision: 7, since: 1_000 };
        // A clock may be set back.
        let old = [0, 1_000, 1_300, 1_301, i64::MAX].map(|now| pinned.is_old(now));
        assert_eq!(old, [false, false, false, true, true]);
    }

    #[test]
    fn continue_tokens() {
        for token in [
            Continue { at: Some(Pinned { revision: 7, since: 9 }), start: "a/b".into() },
            Continue { at: None, start: "x".into() },
        ] {
            assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        }
        let token = |rv: i64, start: &str| {
            URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": rv, "start": start}).to_string())
        };
        for (wrong, why) in [
            ("e30", "server does not recognize this encoded version"),
            (&URL_SAFE_NO_PAD.encode("{\"v\":\"v2\"}"), "server does not recognize this encoded version v2"),
            (&URL_SAFE_NO_PAD.encode("{"), "unexpected end of JSON input"),
            (&token(0, "a"), "incorrect encoded start resourceVersion (version meta.k8s.io/v1)"),
            (&token(-2, "a"), "incorrect encoded start resourceVersion (version meta.k8s.io/v1)"),
            (&token(7, ""), "encoded start key empty (version meta.k8s.io/v1)"),
            (&token(7, "../../secrets/a"), "../../secrets/a"),
            (&token(7, "a//b"), "a//b"),
        ] {
            let status = Continue::decode(wrong).unwrap_err();
            let expected = format!("invalid continue token: continue key is not valid: {why}");
            assert_eq!((status.code, status.message), (400, expected));
        }
        assert_eq!(Continue::decode("!").unwrap_err().code, 400);
    }

    proptest::proptest! {
        #[test]
        fn any_token_is_read_or_refused(text in ".*", json in "[{}\":,\\[\\]a-z0-9/.-]*") {
            let _ = Continue::decode(&text);
            let _ = Continue::decode(&URL_SAFE_NO_PAD.encode(&json));
        }

        #[test]
        fn keys_of_any_names_go_on(revision in 1..=i64::MAX, parts in proptest::collection::vec("[^/.]+", 1..3)) {
            let token = Continue { at: Some(Pinned { revision: revision.unsigned_abs(), since: revision }), start: parts.join("/") };
            proptest::prop_assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        }
    }
}
