//! Named formats: `format.dns1123Label().validate(text)` says what is wrong with a text, or nothing.
//!
//! Source: apiserver `pkg/cel/library/format.go`.

use types::names;

use super::{time, url};
use crate::signature::Function;
use crate::value::{Answer, Value, no_overload};

#[derive(Debug)]
pub struct NamedFormat {
    name: &'static str,
    validate: fn(&str) -> Vec<String>,
    /// How long its regular expression is taken to be, for costs.
    pub regex_size: u64,
}

/// A prefix of a name may end in a dash, as `generateName` does.
fn prefix(text: &str, validate: fn(&str) -> Vec<String>) -> Vec<String> {
    match text.strip_suffix('-') {
        // upstream looks at the text with an `a` in the dash's place
        Some(rest) if text.len() > 1 => validate(&format!("{rest}a")),
        _ => validate(text),
    }
}
fn unless(holds: bool, message: &str) -> Vec<String> {
    if holds { Vec::new() } else { vec![message.to_owned()] }
}
fn is_uuid(text: &str) -> bool {
    // eight, four, four, four and twelve hexadecimal digits, whose dashes may be missing
    let bytes = text.as_bytes();
    let mut i = 0;
    for (group, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if group > 0 && bytes.get(i) == Some(&b'-') {
            i += 1;
        }
        let digits = bytes.get(i..i + length);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return false;
        }
        i += length;
    }
    i == bytes.len()
}
fn is_base64(text: &str) -> bool {
    use base64::Engine as _;
    !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

macro_rules! formats {
    ($($name:literal $size:literal $validate:expr;)*) => {
        pub static ALL: &[NamedFormat] = &[$(NamedFormat { name: $name, validate: $validate, regex_size: $size }),*];
        pub const FUNCTIONS: &[Function] = &[
            Function { run: validate, overloads: &[(
                "validate", "format-validate", "kubernetes.NamedFormat.(string) optional(list(string))",
            )] },
            Function { run: named, overloads: &[(
                "format.named", "format-named", "(string) optional(kubernetes.NamedFormat)",
            )] },
            $(Function { run: |_| find($name), overloads: &[(
                concat!("format.", $name), concat!("format.", $name), "() kubernetes.NamedFormat",
            )] }),*
        ];
    };
}
formats! {
    "dns1123Label" 30 names::dns1123_label;
    "dns1123Subdomain" 60 names::dns1123_subdomain;
    "dns1035Label" 30 names::dns1035_label;
    "qualifiedName" 60 names::qualified_name;
    "dns1123LabelPrefix" 30 |text| prefix(text, names::dns1123_label);
    "dns1123SubdomainPrefix" 60 |text| prefix(text, names::dns1123_subdomain);
    "dns1035LabelPrefix" 30 |text| prefix(text, names::dns1035_label);
    "labelValue" 40 names::label_value;
    "uri" 1103 |text| url::request_uri_error(text).into_iter().collect();
    "uuid" 70 |text| unless(is_uuid(text), "does not match the UUID format");
    "byte" 84 |text| unless(is_base64(text), "invalid base64");
    "date" 177 |text| unless(text.len() == 10 && time::parse_date_time(text).is_some(), "invalid date");
    "datetime" 177 |text| unless(time::parse_timestamp(text).is_some(), "invalid datetime");
}

fn find<'a>(name: &str) -> Answer<'a> {
    ALL.iter().find(|format| format.name == name).map_or_else(no_overload, |format| Ok(Value::Format(format)))
}
fn named<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::String(name)] => Ok(find(name).map_or(Value::Optional(None), Value::some)),
        _ => no_overload(),
    }
}
fn validate<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let [Value::Format(format), Value::String(text)] = args else { return no_overload() };
    let errors = (format.validate)(text);
    Ok(if errors.is_empty() { Value::Optional(None) } else { Value::some(Value::texts(errors)) })
}
