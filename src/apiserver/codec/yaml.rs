//! YAML bodies, read as upstream's library reads them: into the JSON that they stand for.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess as _, Visitor};
use serde_json::{Map, Number, Value};

/// What aliases may add to a document, in bytes of text and one for each value: a few lines repeated in every container of a
/// pod, not a list of lists of lists. Upstream's library limits the share of what comes from aliases.
const ALIASED_BYTES_MAX: usize = 256 << 10;

/// Keys that are set twice which are told of: finding the line of each takes a reading of its own.
const DOUBLED_MAX: usize = 8;

/// Parses one YAML document. Keys become strings, as they must be in JSON; of keys that are set twice the last counts. Plain
/// scalars are resolved by the YAML 1.2 core schema: `yes` and `on` are strings, where upstream's YAML 1.1 library has booleans.
///
/// Errors: the parser's own words behind the Go library's prefix, whose positions differ from the Go library's.
pub fn parse(body: &[u8]) -> Result<Value, String> {
    Reading::of(body, None).read(body).map_err(|e| format!("yaml: {e}"))
}

/// What the Go library says of keys that are set twice, line by line; nothing of a body that cannot be read.
pub fn duplicates(body: &[u8]) -> Vec<String> {
    let whole = Reading::of(body, None);
    if whole.read(body).is_err() {
        return Vec::new();
    }
    let keys = whole.doubled.into_inner();
    let line = |at: usize| Reading::of(body, Some(at)).read(body).err()?.location().map(|place| place.line());
    let told = keys.iter().enumerate().filter_map(|(at, key)| Some((key, line(at)?)));
    told.map(|(key, line)| format!("line {line}: key {key:?} already set in map")).collect()
}

/// One error out of what [`duplicates`] says.
pub fn duplicates_error(duplicates: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", duplicates.join("\n  "))
}

/// One pass over a document.
struct Reading {
    left: Cell<usize>,
    /// The first keys that are set again.
    doubled: RefCell<Vec<String>>,
    /// Which of these keys' values to fail at, so that the error tells where it is.
    fails_at: Option<usize>,
}

impl Reading {
    fn of(body: &[u8], fails_at: Option<usize>) -> Self {
        // No document weighs more than twice its length by itself.
        Self { left: Cell::new(2 * body.len() + ALIASED_BYTES_MAX), doubled: RefCell::default(), fails_at }
    }

    fn read(&self, body: &[u8]) -> Result<Value, serde_yaml_ng::Error> {
        Node(self).deserialize(serde_yaml_ng::Deserializer::from_slice(body))
    }

    /// Notes a key that is set again; whether to fail at its value.
    fn fails_at(&self, key: &str) -> bool {
        let mut doubled = self.doubled.borrow_mut();
        if doubled.len() == DOUBLED_MAX {
            return false;
        }
        doubled.push(key.to_owned());
        self.fails_at == Some(doubled.len() - 1)
    }
}

/// A value to be read, which takes its weight from what is left.
#[derive(Clone, Copy)]
struct Node<'a>(&'a Reading);

impl Node<'_> {
    fn weigh<E: Error>(self, text: usize) -> Result<(), E> {
        let left =
            self.0.left.get().checked_sub(1 + text).ok_or_else(|| E::custom("document contains excessive aliasing"))?;
        self.0.left.set(left);
        Ok(())
    }
}

/// A value that is refused whatever it is, at its place.
struct Nothing;

impl<'de> DeserializeSeed<'de> for Nothing {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Nothing {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is not set yet")
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.weigh(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, b: bool) -> Result<Value, E> {
        self.weigh(0)?;
        Ok(Value::Bool(b))
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Value, E> {
        self.weigh(0)?;
        Ok(Value::Number(n.into()))
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Value, E> {
        self.weigh(0)?;
        Ok(Value::Number(n.into()))
    }

    fn visit_f64<E: Error>(self, float: f64) -> Result<Value, E> {
        self.weigh(0)?;
        // The Go library writes a float without a fraction as an integer.
        if float.fract() == 0.0 && float.abs() < 1e15 {
            return Ok(Value::Number((float as i64).into()));
        }
        Number::from_f64(float)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format_args!("number {float} has no JSON form")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.weigh(text.len())?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        self.weigh(text.len())?;
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.weigh(0)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.weigh(0)?;
        let mut object = Map::new();
        while let Some(key) = entries.next_key_seed(self)? {
            let key = match key {
                Value::String(text) => text,
                Value::Number(n) => n.to_string(),
                Value::Bool(b) => b.to_string(),
                other => return Err(A::Error::custom(format_args!("unsupported map key of type: {other:?}"))),
            };
            let value = if object.contains_key(&key) && self.0.fails_at(&key) {
                entries.next_value_seed(Nothing)?
            } else {
                entries.next_value_seed(self)?
            };
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }

    /// A tag says nothing here.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (_, value) = tagged.variant_seed(self)?;
        value.newtype_variant_seed(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{DOUBLED_MAX, duplicates, parse};

    #[test]
    fn values() {
        for (text, expected) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("{a: 1, 2: x, true: [1.0, 1.5, -3, 0x10]}", json!({"a": 1, "2": "x", "true": [1, 1.5, -3, 16]})),
            ("a: !!str 5\nb: !own {c: d}", json!({"a": "5", "b": {"c": "d"}})),
            (
                "a: &x {k: v}\nb: *x\nc: [*x, *x]",
                json!({"a": {"k": "v"}, "b": {"k": "v"}, "c": [{"k": "v"}, {"k": "v"}]}),
            ),
            ("on: yes", json!({"on": "yes"})),
            ("a: 1\na: 2", json!({"a": 2})),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
        }
        for (text, part) in [
            ("a: .inf", "has no JSON form"),
            ("[1]: x", "unsupported map key"),
            ("a: [1", "did not find expected"),
            ("a\n---\nb", "more than one document"),
            ("\u{0}", "control characters are not allowed"),
        ] {
            let why = parse(text.as_bytes()).unwrap_err();
            assert!(why.starts_with("yaml: ") && why.contains(part), "{text}: {why}");
        }
        assert!(parse(b"a: \xff\xfe").is_err());
        assert!(parse("[".repeat(10_000).as_bytes()).unwrap_err().contains("recursion limit"));
    }

    #[test]
    fn keys_that_are_set_twice() {
        for (text, expected) in [
            ("a: 1\nb: [1]", vec![]),
            ("{a: 1, a: 2}", vec!["line 1: key \"a\" already set in map"]),
            (
                "\nx:\n- a: 1\n  b: 2\n  a:\n    c: 3\nx: &y {}\nx:\n- 1\nz: *y\nz: ~\n",
                vec![
                    "line 6: key \"a\" already set in map",
                    "line 7: key \"x\" already set in map",
                    "line 9: key \"x\" already set in map",
                    "line 11: key \"z\" already set in map",
                ],
            ),
            ("a: 1\na: [", vec![]),
        ] {
            assert_eq!(duplicates(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(duplicates("a: 1\n".repeat(100).as_bytes()).len(), DOUBLED_MAX);
    }

    #[test]
    fn aliases_do_not_blow_up() {
        // Wide: 44 kB that would be four million values. Deep: ten lines that would be a billion.
        let wide = format!("a: &a [{}]\nb: [{}]", "a,".repeat(2000), "*a,".repeat(2000));
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for i in 1..10 {
            deep.push_str(&format!("a{i}: &a{i} [{}]\n", format!("*a{},", i - 1).repeat(8)));
        }
        let long = format!("a: &a {}\nb: [{}]", "x".repeat(100_000), "*a,".repeat(100));
        for bomb in [wide, deep, long] {
            let why = parse(bomb.as_bytes()).unwrap_err();
            assert!(why.contains("excessive aliasing") || why.contains("repetition limit"), "{why}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([a-c]: |- |[&*][ab] |[a-c0-9~]{1,3}|[\\[\\]{},]|\n {0,6}|!!?[a-z]{1,4} |['\"|>?%#]|<<: ){0,30}", other: Vec<u8>) {
            let _ = (parse(text.as_bytes()), parse(&other));
        }
    }
}
