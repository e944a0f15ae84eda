//! Query strings. What never lives here: what a parameter means.

use types::percent::{percent_decode, percent_encode};

/// The parameters in order, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: Option<&str>) -> Self {
        let Some(text) = text.filter(|t| !t.is_empty()) else { return Self::default() };
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(name, true), percent_decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value; `None` when the parameter is absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The first value, unless it is empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The parameters as text again, in order of their names. Source: Go `net/url` `Values.Encode`.
    pub fn encode(&self) -> String {
        let mut pairs: Vec<&(String, String)> = self.0.iter().collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out = String::new();
        for (name, value) in pairs {
            if !out.is_empty() {
                out.push('&');
            }
            for (part, end) in [(name, "="), (value, "")] {
                for (at, word) in part.split(' ').enumerate() {
                    if at > 0 {
                        out.push('+');
                    }
                    percent_encode(&mut out, word.as_bytes(), b"");
                }
                out.push_str(end);
            }
        }
        out
    }

    /// As upstream reads booleans in queries: present and neither `false` nor `0`.
    /// Source: apimachinery `pkg/runtime/converter.go` `Convert_Slice_string_To_bool`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| !v.eq_ignore_ascii_case("false") && v != "0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let q = Query::parse(Some("a=1&b=x%3Dy+z&c&a=2&d=%zz&watch=true&e=false"));
        assert_eq!((q.get("a"), q.get("b"), q.get("c"), q.text("c")), (Some("1"), Some("x=y z"), Some(""), None));
        assert_eq!(q.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(q.get("d"), Some("%zz"));
        assert_eq!(q.encode(), "a=1&a=2&b=x%3Dy+z&c=&d=%25zz&e=false&watch=true");
        assert!(q.flag("watch") && q.flag("c") && !q.flag("e") && !q.flag("missing"));
    }

    fn escaped(text: &str) -> String {
        text.bytes().map(|b| format!("%{b:02x}")).collect()
    }

    proptest::proptest! {
        #[test]
        fn what_was_escaped_is_read_again(pairs in proptest::collection::vec((".*", ".*"), 0..5)) {
            let text: Vec<String> = pairs.iter().map(|(n, v)| format!("{}={}", escaped(n), escaped(v))).collect();
            let read = Query::parse(Some(&text.join("&")));
            let pairs: Vec<_> = pairs.into_iter().collect();
            proptest::prop_assert_eq!(&read, &Query(pairs.clone()));
            let (again, mut sorted) = (Query::parse(Some(&read.encode())), pairs);
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            proptest::prop_assert_eq!(again, Query(sorted));
        }

        #[test]
        fn any_text_is_read(text in ".*", plus: bool) {
            let query = Query::parse(Some(&text));
            let _ = (query.flag("a"), query.text("a"), percent_decode(&text, plus));
        }
    }
}
