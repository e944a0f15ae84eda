//! Part of the build script: reads types.tsv and writes the static type tables as Rust.

use std::collections::BTreeMap;
use std::fmt::Write;

/// One line `F` of the facts.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: String,
    pub number: u16,
    pub shape: String,
    pub go: String,
    pub flags: String,
    pub list_type: String,
    pub keys: Vec<String>,
    pub map_type: String,
    pub strategy: String,
    pub merge_key: String,
    pub default: String,
    pub choices: Vec<String>,
    /// Names of the embedded Go structs that lead to the field, joined by dots.
    pub via: String,
}

#[derive(Debug, Default)]
pub struct Type {
    pub go: String,
    pub map_type: String,
    pub inlines: Vec<(u16, String)>,
    pub fields: Vec<Field>,
}

#[derive(Debug, Default)]
pub struct Facts {
    pub types: BTreeMap<String, Type>,
    /// (group, version, kind) → type name.
    pub kinds: BTreeMap<(String, String, String), String>,
}

impl Facts {
    pub fn parse(text: &str) -> Self {
        let mut facts = Facts::default();
        let mut current = String::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let columns: Vec<&str> = line.split('\t').collect();
            let column = |i: usize| columns.get(i).copied().unwrap_or("").to_owned();
            let words = |i: usize, by: char| column(i).split(by).filter(|w| !w.is_empty()).map(str::to_owned).collect();
            match columns[0] {
                "K" => {
                    facts.kinds.insert((column(1), column(2), column(3)), column(4));
                }
                "T" => {
                    current = column(1);
                    let ty = Type { go: column(2), map_type: column(3), ..Type::default() };
                    facts.types.insert(current.clone(), ty);
                }
                "I" | "F" => {
                    let ty = facts.types.get_mut(&current).expect("a T line comes first");
                    let number = |i: usize| column(i).parse().expect("a field number");
                    if columns[0] == "I" {
                        ty.inlines.push((number(1), column(2)));
                        continue;
                    }
                    ty.fields.push(Field {
                        name: column(1),
                        number: number(2),
                        shape: column(3),
                        go: column(4),
                        flags: column(5),
                        list_type: column(6),
                        keys: words(7, ','),
                        map_type: column(8),
                        strategy: column(9),
                        merge_key: column(10),
                        default: column(11),
                        choices: words(12, '|'),
                        via: String::new(),
                    });
                }
                other => panic!("unknown line {other:?} in types.tsv"),
            }
        }
        facts
    }

    /// All JSON fields of a type, those of inlined types included, by name.
    pub fn flattened(&self, name: &str) -> BTreeMap<String, Field> {
        let ty = &self.types[name];
        let mut all = BTreeMap::new();
        for (_, inlined) in &ty.inlines {
            let go = self.types[inlined].go.rsplit('.').next().unwrap_or("").to_owned();
            for (key, mut field) in self.flattened(inlined) {
                field.via = if field.via.is_empty() { go.clone() } else { format!("{go}.{}", field.via) };
                all.insert(key, field);
            }
        }
        for field in &ty.fields {
            all.insert(field.name.clone(), field.clone());
        }
        all
    }
}

fn item(shape: &str, ids: &BTreeMap<&str, usize>) -> String {
    let word = match shape {
        "string" => "String",
        "int32" => "Int32",
        "int64" => "Int64",
        "bool" => "Bool",
        "double" => "Double",
        "bytes" => "Bytes",
        "time" => "Time",
        "microtime" => "MicroTime",
        "duration" => "Duration",
        "quantity" => "Quantity",
        "intorstring" => "IntOrString",
        "raw" => "Raw",
        "fieldsv1" => "FieldsV1",
        "json" => "Json",
        "strings" => "Strings",
        "schemaorarray" => "SchemaOrArray",
        "schemaorbool" => "SchemaOrBool",
        "schemaorstrings" => "SchemaOrStrings",
        name => {
            let id = ids.get(name).unwrap_or_else(|| panic!("unknown shape {name}"));
            return format!("Item::Message({id})");
        }
    };
    format!("Item::{word}")
}

/// The tables as Rust source: `TYPES`, in order of their names, and `KINDS`, in order of group, version and kind.
pub fn rust(facts: &Facts) -> String {
    let ids: BTreeMap<&str, usize> = facts.types.keys().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
    let mut out = String::new();
    let _ = writeln!(out, "pub static TYPES: [Type; {}] = [", ids.len());
    for (name, ty) in &facts.types {
        let fields = facts.flattened(name);
        assert!(fields.len() <= 128, "{name} has more fields than the duplicate check has bits");
        let index = |field: &str| fields.keys().position(|k| k == field).expect("flattened holds own fields");
        let whole = ty.map_type == "atomic";
        let _ = writeln!(out, "Type {{ name: {name:?}, go: {:?}, atomic: {whole}, fields: &[", ty.go);
        for field in fields.values() {
            let (container, shape) = match field.shape.split_at_checked(2) {
                Some(("[]", rest)) => ("List", rest),
                Some(("{}", rest)) => ("Map", rest),
                _ => ("Single", field.shape.as_str()),
            };
            let flag = |c: char| field.flags.contains(c);
            let item_text = item(shape, &ids);
            let atomic = match field.map_type.as_str() {
                "atomic" => true,
                "granular" => false,
                _ => container == "Single" && facts.types.get(shape).is_some_and(|t| t.map_type == "atomic"),
            };
            let list = match field.list_type.as_str() {
                "set" => "Set",
                "map" => "Map",
                _ => "Atomic",
            };
            let strategy = field.strategy.split(',').collect::<Vec<_>>();
            let extra = if field.keys.is_empty()
                && field.merge_key.is_empty()
                && field.default.is_empty()
                && field.choices.is_empty()
                && field.via.is_empty()
            {
                "None".to_owned()
            } else {
                format!(
                    "Some(&Extra {{ keys: &{:?}, merge_key: {:?}, default: {:?}, choices: &{:?}, via: {:?} }})",
                    field.keys, field.merge_key, field.default, field.choices, field.via
                )
            };
            let _ = writeln!(
                out,
                "Field {{ name: {:?}, go: {:?}, item: {item_text}, container: Container::{container}, pointer: {}, \
                 omitempty: {}, required: {}, atomic: {atomic}, list: ListType::{list}, patch_merge: {}, \
                 patch_retain_keys: {}, patch_replace: {}, extra: {extra} }},",
                field.name,
                field.go,
                flag('p'),
                flag('e') || flag('z'),
                flag('r'),
                strategy.contains(&"merge"),
                strategy.contains(&"retainKeys"),
                strategy.contains(&"replace"),
            );
        }
        let mut wires: Vec<(u16, String)> = ty
            .fields
            .iter()
            .filter(|f| f.number > 0)
            .map(|f| (f.number, format!("WireField::Own({})", index(&f.name))))
            .chain(
                ty.inlines
                    .iter()
                    .filter(|(n, _)| *n > 0)
                    .map(|(n, t)| (*n, format!("WireField::Inline({})", ids[t.as_str()]))),
            )
            .collect();
        wires.sort();
        out.push_str("], wire: &[");
        for (number, what) in wires {
            let _ = write!(out, "Wire {{ number: {number}, field: {what} }}, ");
        }
        out.push_str("] },\n");
    }
    out.push_str("];\n");
    let _ = writeln!(out, "pub static KINDS: [(&str, &str, &str, u16); {}] = [", facts.kinds.len());
    for ((group, version, kind), name) in &facts.kinds {
        let _ = writeln!(out, "({group:?}, {version:?}, {kind:?}, {}),", ids[name.as_str()]);
    }
    out.push_str("];\n");
    out
}
