//! Objects as they stand in lists: without their own `apiVersion` and `kind`, which the list says for all of them. That is how
//! upstream writes the items of built-in kinds; those of custom kinds keep theirs.
//!
//! Source: apimachinery `pkg/runtime/serializer/versioning` (types that come from the store have no kind of their own).

use types::registry::GroupVersionKind;

/// What is left out of objects of one kind. They are texts that were written here: without blanks, `apiVersion` first.
pub struct Bare {
    version: String,
    kind: String,
}

/// Where an object is cut: the place of its `kind` behind the version; `None` leaves it whole.
pub type Cut = Option<u32>;

impl Bare {
    pub fn of(gvk: &GroupVersionKind) -> Self {
        Self {
            version: format!("{{\"apiVersion\":\"{}\",", gvk.api_version()),
            kind: format!("\"kind\":\"{}\",", gvk.kind),
        }
    }

    /// Where the text is to be cut. Costs a look at what stands before `kind`.
    pub fn cut(&self, text: &[u8]) -> Cut {
        let rest = text.strip_prefix(self.version.as_bytes())?;
        let mut at = 0;
        while !rest.get(at..)?.starts_with(self.kind.as_bytes()) {
            // A member: its name, a colon, its value, a comma.
            at = string(rest, at)? + 1;
            at = value(rest, at)?;
            if rest.get(at) != Some(&b',') {
                return None;
            }
            at += 1;
        }
        u32::try_from(at).ok()
    }

    /// How much shorter a text becomes that is cut.
    pub fn saved(&self) -> usize {
        self.version.len() - 1 + self.kind.len()
    }

    /// What stays of the text.
    pub fn parts<'t>(&self, text: &'t [u8], cut: Cut) -> [&'t [u8]; 3] {
        let parts = || {
            let rest = text.get(self.version.len()..)?;
            let (before, behind) = rest.split_at_checked(usize::try_from(cut?).ok()?)?;
            Some([text.get(..1)?, before, behind.get(self.kind.len()..)?])
        };
        parts().unwrap_or([text, b"", b""])
    }
}

/// The place behind the string that begins at `at`.
fn string(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The place behind the value that begins at `at`.
fn value(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match text.get(at)? {
            b'"' => at = string(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b',' if depth == 0 => return Some(at),
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let bare = Bare::of(&GroupVersionKind::new("", "v1", "Secret"));
        let cut = bare.cut(text.as_bytes());
        let parts = bare.parts(text.as_bytes(), cut).concat();
        assert_eq!(String::from_utf8(parts.clone()).unwrap(), expected, "{text}");
        assert_eq!(parts.len(), text.len() - cut.map_or(0, |_| bare.saved()), "{text}");
    }

    #[test]
    fn version_and_kind_of_the_object_itself_go() {
        let meta = r#""metadata":{"name":"a"}}"#;
        for before in [
            "",
            r#""data":{"kind":"Secret","a":"\"}\\","b":["]",{}]},"#,
            r#""immutable":true,"#,
            r#""count":-1.5e3,"data":null,"#,
            r#""empty":[],"string":"\\\"kind\":\"Secret\",","#,
        ] {
            check(&format!(r#"{{"apiVersion":"v1",{before}"kind":"Secret",{meta}"#), &format!(r#"{{{before}{meta}"#));
        }
        // What is not as it is written here stays whole.
        for text in [
            r#"{"apiVersion":"v2","kind":"Secret","metadata":{}}"#,
            r#"{"apiVersion":"v1","kind":"Other","metadata":{}}"#,
            r#"{"apiVersion":"v1","metadata":{"kind":"Secret","a":1}}"#,
            r#"{"apiVersion":"v1","data":{"#,
            r#"{"apiVersion":"v1","data":"\"#,
            r#"{"apiVersion":"v1","data":1]"#,
            r#"{"apiVersion":"v1","#,
            "{}",
            "",
        ] {
            check(text, text);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_object_is_the_same_but_for_its_type(data: std::collections::BTreeMap<String, String>, any in ".*") {
            let object = serde_json::json!({"apiVersion": "v1", "data": data, "kind": "Secret", "metadata": {"name": any}});
            let text = object.to_string();
            let bare = Bare::of(&GroupVersionKind::new("", "v1", "Secret"));
            let read: serde_json::Value =
                serde_json::from_slice(&bare.parts(text.as_bytes(), bare.cut(text.as_bytes())).concat()).unwrap();
            proptest::prop_assert_eq!(read, serde_json::json!({"data": data, "metadata": {"name": any}}));
            let _ = bare.parts(any.as_bytes(), bare.cut(any.as_bytes()));
            let _ = bare.cut(format!("{{\"apiVersion\":\"v1\",{any}").as_bytes());
        }
    }
}
