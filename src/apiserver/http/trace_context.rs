//! The trace that a client's request is a part of: what it says of it is said again to whoever is asked for its sake.
//!
//! This server records no spans of its own for anybody to collect, and so is no member of the trace: it hands on what it got.
//! Aggregated servers get it with the client's other headers.
//!
//! Source: W3C Trace Context, Level 1; component-base `tracing/utils.go` `WrapperFor`.

use http::{HeaderMap, HeaderName, HeaderValue};

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
/// Longer states need not be passed on. Source: §3.3.1.5.
const STATE_BYTES_MAX: usize = 512;

tokio::task_local! {
    /// Of the request that is being answered.
    static CURRENT: Option<TraceContext>;
}

/// Where in a trace a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    parent: HeaderValue,
    state: Option<HeaderValue>,
}

impl TraceContext {
    /// What the client says, if that is well formed.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(PARENT).iter();
        let parent = parents.next().filter(|p| is_parent(p.as_bytes()))?;
        if parents.next().is_some() {
            return None;
        }
        // One line or none: those who have more write it as one.
        let mut states = headers.get_all(STATE).iter();
        let state = states.next().filter(|s| s.len() <= STATE_BYTES_MAX && states.next().is_none());
        Some(Self { parent: parent.clone(), state: state.cloned() })
    }

    /// Says it to whoever is asked within [`within`].
    pub fn say(headers: &mut HeaderMap) {
        let Ok(Some(context)) = CURRENT.try_with(Clone::clone) else { return };
        headers.insert(PARENT, context.parent);
        if let Some(state) = context.state {
            headers.insert(STATE, state);
        }
    }

    /// The trace's id, 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        self.parent.to_str().ok().and_then(|p| p.get(3..35)).unwrap_or_default()
    }
}

/// Answers a request that belongs there.
pub async fn within<T>(context: Option<TraceContext>, answer: impl Future<Output = T>) -> T {
    CURRENT.scope(context, answer).await
}

/// `version-trace-parent-flags` in lower-case hexadecimal; the two ids are not zero. Later versions may say more behind that.
fn is_parent(text: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |part: &[u8]| is_hex(part) && part.iter().any(|b| *b != b'0');
    let Some((known, more)) = text.split_at_checked(55) else { return false };
    let fields = [known[2], known[35], known[52]] == [b'-'; 3]
        && is_hex(&known[..2])
        && is_id(&known[3..35])
        && is_id(&known[36..52])
        && is_hex(&known[53..]);
    fields
        && match &known[..2] {
            b"ff" => false,
            b"00" => more.is_empty(),
            _ => more.is_empty() || more[0] == b'-',
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[tokio::test]
    async fn what_is_well_formed_is_said_again() {
        for (parents, states, expected) in [
            (&[GOOD][..], &[][..], Some(None)),
            (&[GOOD], &["a=1"], Some(Some("a=1"))),
            (&[GOOD], &["a=1", "b=2"], Some(None)),
            (&["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what"], &[], Some(None)),
            (&[], &["a=1"], None),
            (&[GOOD, GOOD], &[], None),
            (&["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], &[], None),
            (&["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what"], &[], None),
            (&["00-00000000000000000000000000000000-b7ad6b7169203331-01"], &[], None),
            (&["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"], &[], None),
            (&["00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"], &[], None),
            (&["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"], &[], None),
            (&[""], &[], None),
        ] {
            let mut headers = HeaderMap::new();
            parents.iter().for_each(|p| _ = headers.append(PARENT, HeaderValue::from_static(p)));
            states.iter().for_each(|s| _ = headers.append(STATE, HeaderValue::from_static(s)));
            let context = TraceContext::of(&headers);
            let said = within(context, async {
                let mut said = HeaderMap::new();
                TraceContext::say(&mut said);
                said
            });
            let said = said.await;
            let expected = expected.map(|state: Option<&str>| (parents[0].to_owned(), state.map(str::to_owned)));
            let text = |name| said.get(name).map(|v: &HeaderValue| v.to_str().unwrap().to_owned());
            assert_eq!(text(PARENT).map(|parent| (parent, text(STATE))), expected, "{parents:?} {states:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(PARENT, HeaderValue::from_static(GOOD));
        assert_eq!(TraceContext::of(&headers).unwrap().trace_id(), "0af7651916cd43dd8448eb211c80319c");
        let mut outside = HeaderMap::new();
        TraceContext::say(&mut outside);
        assert!(outside.is_empty());
    }
}
