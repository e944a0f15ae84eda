//! Turns the facts about types (schema/types.tsv) into static tables, and k8s-openapi's schemas plus those facts into one
//! compressed OpenAPI document per group and version. Nothing of k8s-openapi or schemars is linked into the server.

#[path = "schema/build/openapi.rs"]
mod openapi;
#[path = "schema/build/tables.rs"]
mod tables;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=schema/build");
    println!("cargo::rerun-if-changed=schema/types.tsv");
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let text = std::fs::read_to_string("schema/types.tsv").expect("schema/types.tsv is readable");
    let facts = tables::Facts::parse(&text);
    std::fs::write(out.join("types.rs"), tables::rust(&facts)).expect("OUT_DIR is writable");
    openapi::write(&facts, &out);
}
