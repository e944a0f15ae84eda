//! Wire formats: JSON, YAML and protobuf to one untyped value and back.
