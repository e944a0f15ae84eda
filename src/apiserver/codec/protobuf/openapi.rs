//! OpenAPI v2 documents as protobuf: `openapi.v2.Document` of gnostic, written from the JSON by a table of field numbers.
//!
//! The table has what the documents of this server contain, where a test tells when they contain more, and what the paths and
//! definitions of aggregated servers may contain. Members that the format does not know are left out, as upstream does.
//!
//! Source: google/gnostic-models `openapiv2/OpenAPIv2.proto`; kube-openapi `pkg/handler/handler.go`.

use serde::de::{DeserializeSeed, Deserializer as _, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::encode::{double, nested, number, text};
use super::wire::Result;

/// How a JSON value stands in a field.
#[derive(Clone, Copy)]
enum Shape {
    /// A string, boolean or integer; of an array, each.
    Scalar,
    /// A number with a fraction.
    Double,
    /// An `Any`, which holds its value as YAML. JSON is YAML.
    Yaml,
    /// An `Any` for each of an array.
    Yamls,
    Message(&'static Message),
    /// A message for each of an array.
    Messages(&'static Message),
}

use Shape::{Double, Message as One, Messages as Many, Scalar, Yaml, Yamls};

enum Message {
    /// Members by their names in JSON; those that begin with `x-` are pairs in the field `extensions`.
    Object { fields: &'static [(&'static str, u16, Shape)], extensions: u16 },
    /// Members of any name, as pairs of name and value in one repeated field.
    Pairs(u16, Shape),
    /// A message that JSON does not have: the value is in the field that it calls for.
    Around(fn(&Value) -> (u16, Shape)),
}

static DOCUMENT: Message = Message::Object {
    fields: &[
        ("swagger", 1, Scalar),
        ("info", 2, One(&INFO)),
        ("paths", 8, One(&PATHS)),
        ("definitions", 9, One(&SCHEMAS)),
        ("security", 12, Many(&SECURITY_REQUIREMENT)),
        ("securityDefinitions", 13, One(&SECURITY_DEFINITIONS)),
    ],
    extensions: 16,
};
static INFO: Message = Message::Object { fields: &[("title", 1, Scalar), ("version", 2, Scalar)], extensions: 7 };
static PATHS: Message = Message::Pairs(2, One(&PATH_ITEM));
static PATH_ITEM: Message = Message::Object {
    fields: &[
        ("$ref", 1, Scalar),
        ("get", 2, One(&OPERATION)),
        ("put", 3, One(&OPERATION)),
        ("post", 4, One(&OPERATION)),
        ("delete", 5, One(&OPERATION)),
        ("options", 6, One(&OPERATION)),
        ("head", 7, One(&OPERATION)),
        ("patch", 8, One(&OPERATION)),
        ("parameters", 9, Many(&PARAMETERS_ITEM)),
    ],
    extensions: 10,
};
static OPERATION: Message = Message::Object {
    fields: &[
        ("tags", 1, Scalar),
        ("summary", 2, Scalar),
        ("description", 3, Scalar),
        ("externalDocs", 4, One(&EXTERNAL_DOCS)),
        ("operationId", 5, Scalar),
        ("produces", 6, Scalar),
        ("consumes", 7, Scalar),
        ("parameters", 8, Many(&PARAMETERS_ITEM)),
        ("responses", 9, One(&RESPONSES)),
        ("schemes", 10, Scalar),
        ("deprecated", 11, Scalar),
        ("security", 12, Many(&SECURITY_REQUIREMENT)),
    ],
    extensions: 13,
};
static PARAMETERS_ITEM: Message =
    Message::Around(|p| if p.get("$ref").is_some() { (2, One(&REFERENCE)) } else { (1, One(&PARAMETER)) });
static REFERENCE: Message =
    Message::Object { fields: &[("$ref", 1, Scalar), ("description", 2, Scalar)], extensions: 0 };
static PARAMETER: Message =
    Message::Around(|p| if p["in"] == "body" { (1, One(&BODY_PARAMETER)) } else { (2, One(&OTHER_PARAMETER)) });
static OTHER_PARAMETER: Message = Message::Around(|p| match p["in"].as_str() {
    Some("header") => (1, One(&PLAIN_PARAMETER)),
    Some("formData") => (2, One(&EMPTY_PARAMETER)),
    Some("path") => (4, One(&PLAIN_PARAMETER)),
    _ => (3, One(&EMPTY_PARAMETER)),
});
static BODY_PARAMETER: Message = Message::Object {
    fields: &[
        ("description", 1, Scalar),
        ("name", 2, Scalar),
        ("in", 3, Scalar),
        ("required", 4, Scalar),
        ("schema", 5, One(&SCHEMA)),
    ],
    extensions: 6,
};
/// In a query or a form, where it may be empty.
static EMPTY_PARAMETER: Message = Message::Object {
    fields: &[
        ("required", 1, Scalar),
        ("in", 2, Scalar),
        ("description", 3, Scalar),
        ("name", 4, Scalar),
        ("allowEmptyValue", 5, Scalar),
        ("type", 6, Scalar),
        ("format", 7, Scalar),
        ("items", 8, One(&PRIMITIVES)),
        ("collectionFormat", 9, Scalar),
        ("default", 10, Yaml),
        ("maximum", 11, Double),
        ("exclusiveMaximum", 12, Scalar),
        ("minimum", 13, Double),
        ("exclusiveMinimum", 14, Scalar),
        ("maxLength", 15, Scalar),
        ("minLength", 16, Scalar),
        ("pattern", 17, Scalar),
        ("maxItems", 18, Scalar),
        ("minItems", 19, Scalar),
        ("uniqueItems", 20, Scalar),
        ("enum", 21, Yamls),
        ("multipleOf", 22, Double),
    ],
    extensions: 23,
};
/// In a path or a header.
static PLAIN_PARAMETER: Message = Message::Object {
    fields: &[
        ("required", 1, Scalar),
        ("in", 2, Scalar),
        ("description", 3, Scalar),
        ("name", 4, Scalar),
        ("type", 5, Scalar),
        ("format", 6, Scalar),
        ("items", 7, One(&PRIMITIVES)),
        ("collectionFormat", 8, Scalar),
        ("default", 9, Yaml),
        ("maximum", 10, Double),
        ("exclusiveMaximum", 11, Scalar),
        ("minimum", 12, Double),
        ("exclusiveMinimum", 13, Scalar),
        ("maxLength", 14, Scalar),
        ("minLength", 15, Scalar),
        ("pattern", 16, Scalar),
        ("maxItems", 17, Scalar),
        ("minItems", 18, Scalar),
        ("uniqueItems", 19, Scalar),
        ("enum", 20, Yamls),
        ("multipleOf", 21, Double),
    ],
    extensions: 22,
};
static PRIMITIVES: Message = Message::Object {
    fields: &[
        ("type", 1, Scalar),
        ("format", 2, Scalar),
        ("items", 3, One(&PRIMITIVES)),
        ("collectionFormat", 4, Scalar),
        ("default", 5, Yaml),
        ("maximum", 6, Double),
        ("exclusiveMaximum", 7, Scalar),
        ("minimum", 8, Double),
        ("exclusiveMinimum", 9, Scalar),
        ("maxLength", 10, Scalar),
        ("minLength", 11, Scalar),
        ("pattern", 12, Scalar),
        ("maxItems", 13, Scalar),
        ("minItems", 14, Scalar),
        ("uniqueItems", 15, Scalar),
        ("enum", 16, Yamls),
        ("multipleOf", 17, Double),
    ],
    extensions: 18,
};
static RESPONSES: Message = Message::Pairs(1, One(&RESPONSE_VALUE));
static RESPONSE_VALUE: Message =
    Message::Around(|r| if r.get("$ref").is_some() { (2, One(&REFERENCE)) } else { (1, One(&RESPONSE)) });
static RESPONSE: Message = Message::Object {
    fields: &[
        ("description", 1, Scalar),
        ("schema", 2, One(&SCHEMA_ITEM)),
        ("headers", 3, One(&HEADERS)),
        ("examples", 4, One(&EXAMPLES)),
    ],
    extensions: 5,
};
static EXAMPLES: Message = Message::Pairs(1, Yaml);
static HEADERS: Message = Message::Pairs(1, One(&HEADER));
static HEADER: Message = Message::Object {
    fields: &[
        ("type", 1, Scalar),
        ("format", 2, Scalar),
        ("items", 3, One(&PRIMITIVES)),
        ("collectionFormat", 4, Scalar),
        ("default", 5, Yaml),
        ("description", 18, Scalar),
    ],
    extensions: 19,
};
/// Of a response one; of an array's items one, or one for each.
static SCHEMA_ITEM: Message =
    Message::Around(|value| if value.is_array() { (1, Many(&SCHEMA)) } else { (1, One(&SCHEMA)) });
static SCHEMAS: Message = Message::Pairs(1, One(&SCHEMA));
static SCHEMA: Message = Message::Object {
    fields: &[
        ("$ref", 1, Scalar),
        ("format", 2, Scalar),
        ("title", 3, Scalar),
        ("description", 4, Scalar),
        ("default", 5, Yaml),
        ("multipleOf", 6, Double),
        ("maximum", 7, Double),
        ("exclusiveMaximum", 8, Scalar),
        ("minimum", 9, Double),
        ("exclusiveMinimum", 10, Scalar),
        ("maxLength", 11, Scalar),
        ("minLength", 12, Scalar),
        ("pattern", 13, Scalar),
        ("maxItems", 14, Scalar),
        ("minItems", 15, Scalar),
        ("uniqueItems", 16, Scalar),
        ("maxProperties", 17, Scalar),
        ("minProperties", 18, Scalar),
        ("required", 19, Scalar),
        ("enum", 20, Yamls),
        ("additionalProperties", 21, One(&ADDITIONAL_PROPERTIES)),
        ("type", 22, One(&STRINGS)),
        ("items", 23, One(&SCHEMA_ITEM)),
        ("allOf", 24, Many(&SCHEMA)),
        ("properties", 25, One(&SCHEMAS)),
        ("discriminator", 26, Scalar),
        ("readOnly", 27, Scalar),
        ("xml", 28, One(&XML)),
        ("externalDocs", 29, One(&EXTERNAL_DOCS)),
        ("example", 30, Yaml),
    ],
    extensions: 31,
};
static XML: Message = Message::Object {
    fields: &[
        ("name", 1, Scalar),
        ("namespace", 2, Scalar),
        ("prefix", 3, Scalar),
        ("attribute", 4, Scalar),
        ("wrapped", 5, Scalar),
    ],
    extensions: 6,
};
static EXTERNAL_DOCS: Message =
    Message::Object { fields: &[("description", 1, Scalar), ("url", 2, Scalar)], extensions: 3 };
static ADDITIONAL_PROPERTIES: Message =
    Message::Around(|value| if value.is_boolean() { (2, Scalar) } else { (1, One(&SCHEMA)) });
static STRINGS: Message = Message::Around(|_| (1, Scalar));
static SECURITY_DEFINITIONS: Message = Message::Pairs(1, One(&SECURITY_DEFINITION));
static SECURITY_DEFINITION: Message = Message::Around(|_| (2, One(&API_KEY)));
static API_KEY: Message = Message::Object {
    fields: &[("type", 1, Scalar), ("name", 2, Scalar), ("in", 3, Scalar), ("description", 4, Scalar)],
    extensions: 5,
};
static SECURITY_REQUIREMENT: Message = Message::Pairs(1, One(&STRINGS));

/// A document from its JSON. Paths and definitions are read one at a time: a tree of all of them would take megabytes.
///
/// # Errors
/// Text that is no JSON object, and members of other types than the format has.
pub fn document(json: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len());
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    deserializer.deserialize_map(Members { of: &DOCUMENT, out: &mut out }).map_err(|e| e.to_string())?;
    Ok(out)
}

/// Writes the members of a JSON object as they are read.
struct Members<'a> {
    of: &'static Message,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let Some((at, shape)) = place(self.of, &name) else {
                map.next_value::<serde::de::IgnoredAny>()?;
                continue;
            };
            match shape {
                Some(One(of @ Message::Pairs(..))) => {
                    let read = |out: &mut Vec<u8>| map.next_value_seed(Members { of, out }).map_err(|e| e.to_string());
                    nested(at, self.out, read)
                }
                _ => member(self.of, &name, &map.next_value()?, self.out),
            }
            .map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// The field of a member, and the shape of what is in it, which what is in pairs does not have; `None` for a member that the
/// format does not know.
fn place(message: &'static Message, name: &str) -> Option<(u16, Option<Shape>)> {
    match message {
        Message::Object { fields, extensions } => match fields.iter().find(|(field, ..)| *field == name) {
            Some((_, at, shape)) => Some((*at, Some(*shape))),
            None => (name.starts_with("x-") && *extensions > 0).then_some((*extensions, None)),
        },
        Message::Pairs(at, _) => Some((*at, None)),
        Message::Around(_) => None,
    }
}

fn member(of: &'static Message, name: &str, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    let Some((at, shape)) = place(of, name) else { return Ok(()) };
    let pair = match (shape, of) {
        (Some(shape), _) => return field(at, shape, value, out),
        (None, Message::Pairs(_, shape)) => *shape,
        (None, Message::Object { .. } | Message::Around(_)) => Yaml,
    };
    nested(at, out, |out| {
        text(1, name, out);
        field(2, pair, value, out)
    })
}

fn field(at: u16, shape: Shape, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match (shape, value) {
        (Yaml, value) => nested(at, out, |out| {
            text(2, &value.to_string(), out);
            Ok(())
        }),
        (One(of), value) => nested(at, out, |out| message(of, value, out)),
        (Scalar, Value::Array(items)) => items.iter().try_for_each(|item| field(at, Scalar, item, out)),
        (Yamls, Value::Array(items)) => items.iter().try_for_each(|item| field(at, Yaml, item, out)),
        (Many(of), Value::Array(items)) => items.iter().try_for_each(|item| field(at, One(of), item, out)),
        (Scalar, Value::String(value)) => {
            text(at, value, out);
            Ok(())
        }
        (Scalar, Value::Bool(value)) => {
            number(at, i64::from(*value), out);
            Ok(())
        }
        (Scalar, Value::Number(value)) if value.as_i64().is_some() => {
            number(at, value.as_i64().unwrap_or_default(), out);
            Ok(())
        }
        (Double, Value::Number(value)) => {
            double(at, value.as_f64().unwrap_or_default(), out);
            Ok(())
        }
        (Scalar | Double | Yamls | Many(_), other) => Err(format!("{other} does not fit into field {at}")),
    }
}

fn message(of: &'static Message, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match (of, value) {
        (Message::Around(choose), value) => {
            let (at, shape) = choose(value);
            field(at, shape, value, out)
        }
        (Message::Object { .. } | Message::Pairs(..), Value::Object(members)) => {
            members.iter().try_for_each(|(name, value)| member(of, name, value, out))
        }
        (Message::Object { .. } | Message::Pairs(..), other) => Err(format!("{other} is no object")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Map, json};

    use super::super::wire::{Raw, Reader};
    use super::*;
    use crate::schema::openapi;

    /// Messages as the definition has them: name, then field and type; `*` is repeated, `=` stands for the message itself.
    const DEFINITION: &str = "
        Document swagger=1:string info=2:Info paths=8:Paths definitions=9:Schemas security=12:*Requirement \
            securityDefinitions=13:SecurityDefinitions
        Info title=1:string version=2:string
        Paths {}=2:PathItem
        PathItem get=2:Operation put=3:Operation post=4:Operation delete=5:Operation options=6:Operation head=7:Operation \
            patch=8:Operation parameters=9:*ParametersItem x-=10:Any
        Operation tags=1:*string summary=2:string description=3:string externalDocs=4:ExternalDocs operationId=5:string \
            produces=6:*string consumes=7:*string parameters=8:*ParametersItem responses=9:Responses schemes=10:*string \
            deprecated=11:bool security=12:*Requirement x-=13:Any
        ParametersItem ==1:Parameter ==2:Reference
        Reference $ref=1:string description=2:string
        Parameter ==1:BodyParameter ==2:NonBodyParameter
        NonBodyParameter ==1:PathParameter ==3:QueryParameter ==4:PathParameter
        BodyParameter description=1:string name=2:string in=3:string required=4:bool schema=5:Schema x-=6:Any
        QueryParameter required=1:bool in=2:string description=3:string name=4:string allowEmptyValue=5:bool type=6:string \
            format=7:string items=8:Primitives collectionFormat=9:string default=10:Any maximum=11:double minimum=13:double \
            uniqueItems=20:bool enum=21:*Any multipleOf=22:double x-=23:Any
        PathParameter required=1:bool in=2:string description=3:string name=4:string type=5:string format=6:string \
            items=7:Primitives collectionFormat=8:string default=9:Any uniqueItems=19:bool enum=20:*Any x-=22:Any
        Primitives type=1:string format=2:string pattern=12:string enum=16:*Any
        Responses {}=1:ResponseValue
        ResponseValue ==1:Response ==2:Reference
        Response description=1:string schema=2:SchemaItem headers=3:Headers examples=4:Examples
        Headers {}=1:Header
        Header type=1:string description=18:string
        Examples {}=1:Any
        SchemaItem ==1:Schema
        Schemas {}=1:Schema
        Schema $ref=1:string format=2:string title=3:string description=4:string default=5:Any multipleOf=6:double \
            maximum=7:double exclusiveMaximum=8:bool minimum=9:double exclusiveMinimum=10:bool maxLength=11:int \
            minLength=12:int pattern=13:string maxItems=14:int minItems=15:int uniqueItems=16:bool maxProperties=17:int \
            minProperties=18:int required=19:*string enum=20:*Any additionalProperties=21:Additional type=22:TypeItem \
            items=23:SchemaItem allOf=24:*Schema properties=25:Schemas discriminator=26:string readOnly=27:bool xml=28:Xml externalDocs=29:ExternalDocs example=30:Any x-=31:Any
        Xml name=1:string attribute=4:bool
        ExternalDocs description=1:string url=2:string
        Additional ==1:Schema ==2:bool
        TypeItem ==1:string
        StringArray ==1:*string
        Requirement {}=1:StringArray
        SecurityDefinitions {}=1:SecurityDefinition
        SecurityDefinition ==2:ApiKey
        ApiKey type=1:string name=2:string in=3:string description=4:string";

    type Fields<'a> = BTreeMap<u64, (&'a str, &'a str)>;

    fn read(messages: &BTreeMap<&str, Fields<'_>>, ty: &str, raw: Raw<'_>) -> Value {
        let bytes = match ty {
            "string" => return Value::String(raw.text(ty).unwrap()),
            "bool" => return Value::Bool(raw.varint(ty).unwrap() == 1),
            "int" => return json!(raw.varint(ty).unwrap()),
            "double" => return json!(f64::from_bits(raw.fixed64(ty).unwrap())),
            _ => raw.bytes(ty).unwrap(),
        };
        let mut reader = Reader::new(bytes);
        if ty == "Any" {
            let (number, yaml) = reader.next().unwrap().unwrap();
            assert_eq!(number, 2);
            return serde_yaml_ng::from_slice(yaml.bytes(ty).unwrap()).unwrap();
        }
        let fields = &messages[ty];
        let mut object = Map::new();
        // Of messages that stand for their one field, and of those whose field is a list.
        let mut whole = (ty == "StringArray").then(|| json!([]));
        while let Some((number, raw)) = reader.next().unwrap() {
            let (name, of) = *fields.get(&number).unwrap_or_else(|| panic!("{ty} has no field {number}"));
            let many = of.strip_prefix('*');
            let (name, value) = if matches!(name, "{}" | "x-") {
                let mut pair = Reader::new(raw.bytes(ty).unwrap());
                let (one, key) = pair.next().unwrap().unwrap();
                let (two, value) = pair.next().unwrap().unwrap();
                assert!((one, two) == (1, 2) && pair.is_empty(), "{ty}");
                let key = key.text(ty).unwrap();
                assert!(name == "{}" || key.starts_with("x-"), "{key}");
                (key, read(messages, of, value))
            } else {
                (name.to_owned(), read(messages, many.unwrap_or(of), raw))
            };
            let into =
                if name == "=" { whole.get_or_insert(Value::Null) } else { object.entry(name).or_insert(Value::Null) };
            match (into, many) {
                (Value::Array(items), Some(_)) => items.push(value),
                (into, Some(_)) => *into = json!([value]),
                (into, None) => {
                    assert!(into.is_null(), "{ty} has a field twice");
                    *into = value;
                }
            }
        }
        whole.unwrap_or(Value::Object(object))
    }

    fn messages() -> BTreeMap<&'static str, Fields<'static>> {
        let lines = DEFINITION.lines().filter_map(|line| line.trim().split_once(' '));
        let messages = lines.map(|(name, fields)| {
            let fields = fields.split_whitespace().map(|field| {
                let (field, of) = field.rsplit_once(':').unwrap();
                let (name, number) = field.rsplit_once('=').unwrap();
                (number.parse().unwrap(), (name, of))
            });
            (name, fields.collect())
        });
        messages.collect()
    }

    /// Of a server made with k8s.io/apiserver, cut down to one path, with every other member that such servers may write.
    #[test]
    fn what_other_servers_write() {
        let schema = json!({"allOf": [{"$ref": "#/definitions/A"}], "readOnly": true, "discriminator": "kind",
            "xml": {"name": "n", "attribute": true}, "x-kubernetes-group-version-kind": [{"kind": "A"}]});
        let list = json!({"description": "list or watch objects of kind Fischer", "consumes": ["*/*"],
            "produces": ["application/json"], "schemes": ["https"], "tags": ["wardle_v1alpha1"],
            "operationId": "listWardleV1alpha1Fischer", "summary": "s", "deprecated": true,
            "externalDocs": {"url": "u"}, "security": [{"BearerToken": []}],
            "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/A"},
                "headers": {"X-One": {"type": "string", "description": "d"}}, "examples": {"application/json": {"a": 1}}},
                "401": {"$ref": "#/responses/Unauthorized"}},
            "parameters": [
                {"uniqueItems": true, "type": "boolean", "description": "d", "name": "watch", "in": "query",
                    "required": false, "allowEmptyValue": true, "format": "f", "default": 1, "maximum": 2.5,
                    "minimum": 1.5, "enum": [1, "a"], "multipleOf": 0.5, "collectionFormat": "csv",
                    "items": {"type": "string", "pattern": "p", "enum": ["a"]}, "x-more": true},
                {"type": "string", "name": "h", "in": "header", "format": "f", "items": {"type": "string"}, "enum": ["b"]},
                {"name": "body", "in": "body", "required": true, "description": "d", "schema": schema, "x-more": [1]},
                {"$ref": "#/parameters/limit-1NfNmdNH"}],
            "x-kubernetes-action": "list", "x-kubernetes-group-version-kind": {"group": "wardle.example.com"}});
        let path = "/apis/wardle.example.com/v1alpha1/fischers";
        let mut document = json!({"swagger": "2.0",
            "paths": {path: {"get": list, "head": {"operationId": "h"}, "options": {"operationId": "o"}}},
            "definitions": {"A": {"type": "object", "properties": {"a": {"type": "string"}}}}});
        let whole = super::document(document.to_string().as_bytes()).unwrap();
        assert_eq!(read(&messages(), "Document", Raw::Bytes(&whole)), document);
        document["paths"][path]["get"]["callbacks"] = json!({"a": 1});
        document["host"] = json!("h");
        document["definitions"]["A"]["oneOf"] = json!([]);
        assert_eq!(super::document(document.to_string().as_bytes()).unwrap(), whole, "others' words are left out");
    }

    #[test]
    fn the_document_says_what_its_json_says() {
        let messages = messages();
        let mut added = openapi::Added::default();
        let every = json!({"title": "t", "multipleOf": 0.5, "maximum": 7.25, "exclusiveMaximum": true, "minimum": 1.5,
            "exclusiveMinimum": true, "maxLength": 4, "minLength": 3, "pattern": "a", "maxItems": 2, "minItems": 1,
            "uniqueItems": true, "maxProperties": 9, "minProperties": 8, "example": {"a": [1]},
            "externalDocs": {"description": "d", "url": "u"}});
        openapi::push_member(&mut added.definitions, "com.example.v1.Car", &every);
        let mut json: Value = serde_json::from_slice(&openapi::v2(&added)).unwrap();
        let protobuf = openapi::v2_protobuf(&added).unwrap();
        let mut decoded = read(&messages, "Document", Raw::Bytes(&protobuf));
        for part in ["paths", "definitions"] {
            let expected = json[part].take();
            let got = decoded[part].take();
            assert!(expected.as_object().is_some_and(|members| members.len() > 50), "{part}");
            for (name, expected) in expected.as_object().unwrap() {
                assert_eq!(&got[name], expected, "{name}");
            }
            assert_eq!(got.as_object().unwrap().len(), expected.as_object().unwrap().len());
        }
        assert_eq!(decoded, json);
    }

    #[test]
    fn what_has_another_type_is_an_error() {
        for (json, expected) in [
            (r#"{"info":"2.0"}"#, "\"2.0\" is no object"),
            (r#"{"swagger":2.5}"#, "2.5 does not fit into field 1"),
            (r#"{"definitions":{"a":{"maximum":"2"}}}"#, "\"2\" does not fit into field 7"),
            (r#"{"swagger":"2.0""#, "EOF while parsing an object"),
        ] {
            let error = document(json.as_bytes()).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
