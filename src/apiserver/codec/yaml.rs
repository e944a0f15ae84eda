//! YAML bodies, read as upstream's library reads them: into the JSON that they stand for.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess as _, Visitor};
use serde_json::{Map, Number, Value};

/// What aliases may add to a document, in bytes of text and one for each value: a few lines repeated in every container of a
/// pod, not a list of lists of lists. Upstream's library limits the share of what comes from aliases.
const ALIASED_BYTES_MAX: usize = 256 << 10;

/// Parses one YAML document. Keys become strings, as they must be in JSON. Plain scalars are
/// resolved by the YAML 1.2 core schema: `yes` and `on` are strings, where upstream's YAML 1.1 library has booleans.
///
/// Errors: the parser's own words behind the Go library's prefix, whose positions differ from the Go library's.
pub fn parse(body: &[u8]) -> Result<Value, String> {
    // No document weighs more than twice its length by itself.
    let left = Cell::new(2 * body.len() + ALIASED_BYTES_MAX);
    let document = serde_yaml_ng::Deserializer::from_slice(body);
    Node { left: &left }.deserialize(document).map_err(|e| format!("yaml: {e}"))
}

/// A value to be read, which takes its weight from what is left.
#[derive(Clone, Copy)]
struct Node<'a> {
    left: &'a Cell<usize>,
}

impl Node<'_> {
    fn weigh<E: Error>(self, text: usize) -> Result<(), E> {
        let left =
            self.left.get().checked_sub(1 + text).ok_or_else(|| E::custom("document contains excessive aliasing"))?;
        self.left.set(left);
        Ok(())
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
            let value = entries.next_value_seed(self)?;
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate entry with key {key:?}")));
            }
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

    use super::parse;

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
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
        }
        for (text, part) in [
            ("a: 1\na: 2", "duplicate entry with key \"a\""),
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
}
