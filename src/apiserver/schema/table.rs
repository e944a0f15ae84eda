//! The static type table.

/// A Go struct of the API, seen as JSON and as a protobuf message.
#[derive(Debug)]
pub struct Type {
    /// The OpenAPI definition's name: `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    /// The Go type's name in error texts: `v1.Pod`.
    pub go: &'static str,
    /// Server-side apply owns values of the type as a whole, where a field does not say otherwise.
    pub atomic: bool,
    /// JSON fields in order of their names, those of embedded structs included.
    pub fields: &'static [Field],
    /// Protobuf fields in order of their numbers.
    pub wire: &'static [Wire],
}

/// One JSON field.
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    /// Go type in error texts, pointers left out: `[]v1.Container`, `int32`.
    pub go: &'static str,
    pub item: Item,
    pub container: Container,
    /// Absent and zero are different things.
    pub pointer: bool,
    /// Left out of JSON when zero.
    pub omitempty: bool,
    pub required: bool,
    /// A map or struct that server-side apply owns as a whole.
    pub atomic: bool,
    pub list: ListType,
    /// Strategic merge patch merges the list instead of replacing it.
    pub patch_merge: bool,
    /// Strategic merge patch honours `$retainKeys` here.
    pub patch_retain_keys: bool,
    /// Strategic merge patch replaces the struct as a whole.
    pub patch_replace: bool,
    pub extra: Option<&'static Extra>,
}

/// What few fields have.
#[derive(Debug)]
pub struct Extra {
    /// Keys of a list of type map.
    pub keys: &'static [&'static str],
    /// Key of the strategic merge; empty: merged as a set of primitives.
    pub merge_key: &'static str,
    /// A JSON text; empty: none.
    pub default: &'static str,
    /// The values of an enumeration; empty: none is published.
    pub choices: &'static [&'static str],
    /// Names of the embedded Go structs that lead to the field, joined by dots.
    pub via: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    Single,
    List,
    Map,
}

/// How server-side apply sees a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    Map,
}

/// What a field, or each element of its list or map, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    String,
    Int32,
    Int64,
    Bool,
    Double,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339 in whole seconds.
    Time,
    MicroTime,
    /// As Go writes one, `1m0.5s`; nanoseconds in protobuf.
    Duration,
    Quantity,
    IntOrString,
    /// An object of any kind.
    Raw,
    FieldsV1,
    /// Any JSON value.
    Json,
    /// A list of strings that is a message of its own in protobuf.
    Strings,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStrings,
    /// Index into [`TYPES`].
    Message(u16),
}

#[derive(Debug)]
pub struct Wire {
    pub number: u16,
    pub field: WireField,
}

#[derive(Debug, Clone, Copy)]
pub enum WireField {
    /// Index into the type's `fields`.
    Own(u8),
    /// An embedded struct, which is a message of its own on the wire; index into [`TYPES`].
    Inline(u16),
}

include!(concat!(env!("OUT_DIR"), "/types.rs"));

/// The type of a built-in kind; lists, options and Status included.
pub fn type_of(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    let at = KINDS.binary_search_by(|(g, v, k, _)| (*g, *v, *k).cmp(&(group, version, kind))).ok()?;
    Some(&TYPES[usize::from(KINDS[at].3)])
}

/// The type with that OpenAPI definition name.
pub fn type_named(name: &str) -> Option<&'static Type> {
    let at = TYPES.binary_search_by(|t| t.name.cmp(name)).ok()?;
    Some(&TYPES[at])
}

impl Type {
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        let at = self.index(name)?;
        Some(&self.fields[at])
    }

    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.fields.binary_search_by(|f| f.name.cmp(name)).ok()
    }

    pub(crate) fn wire(&self, number: u64) -> Option<WireField> {
        let at = self.wire.binary_search_by(|w| u64::from(w.number).cmp(&number)).ok()?;
        Some(self.wire[at].field)
    }
}

impl Field {
    /// The type behind the field or its elements, when that is a struct.
    pub fn message(&self) -> Option<&'static Type> {
        match self.item {
            Item::Message(id) => Some(&TYPES[usize::from(id)]),
            _ => None,
        }
    }
    pub fn keys(&self) -> &'static [&'static str] {
        self.extra.map_or(&[], |e| e.keys)
    }
    pub fn merge_key(&self) -> &'static str {
        self.extra.map_or("", |e| e.merge_key)
    }
    pub fn default(&self) -> &'static str {
        self.extra.map_or("", |e| e.default)
    }
    /// The Go type of an element in error texts.
    pub(crate) fn element_go(&self) -> &'static str {
        let named = |text: &'static str| match self.item {
            Item::Quantity => "resource.Quantity",
            Item::String => "string",
            Item::Strings => "string",
            _ => text,
        };
        match self.container {
            Container::Single => self.go,
            Container::List => self.go.strip_prefix("[]").unwrap_or_else(|| named(self.go)),
            Container::Map => match self.go.strip_prefix("map[").and_then(|t| t.split_once(']')) {
                Some((_, element)) => element,
                None => named(self.go),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_for_binary_search() {
        assert!(KINDS.is_sorted());
        for ty in &TYPES {
            assert!(ty.fields.is_sorted_by(|a, b| a.name < b.name), "{}", ty.name);
            assert!(ty.wire.is_sorted_by(|a, b| a.number < b.number), "{}", ty.name);
        }
    }

    #[test]
    fn facts_that_patches_rest_on() {
        let spec = type_of("", "v1", "Pod").and_then(|t| t.field("spec")).and_then(Field::message).unwrap();
        let containers = spec.field("containers").unwrap();
        assert!(containers.required && containers.patch_merge && containers.list == ListType::Map);
        assert_eq!(containers.merge_key(), "name");
        let ports = containers.message().unwrap().field("ports").unwrap();
        assert_eq!((ports.merge_key(), ports.keys()), ("containerPort", &["containerPort", "protocol"][..]));
        assert_eq!(ports.message().unwrap().field("protocol").unwrap().default(), "\"TCP\"");
        assert!(spec.field("nodeSelector").unwrap().atomic);
        let probe = containers.message().unwrap().field("livenessProbe").unwrap().message().unwrap();
        assert_eq!(probe.field("httpGet").unwrap().extra.unwrap().via, "ProbeHandler");
    }

    #[test]
    fn every_registered_kind_has_a_type() {
        for kind in types::registry::BUILT_IN.iter() {
            assert!(type_of(&kind.group, &kind.version, &kind.kind).is_some(), "{}", kind.kind);
        }
    }
}
