//! What is known about types: fields, list semantics, defaults, wire numbers; the OpenAPI documents.
