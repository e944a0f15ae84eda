//! Small kinds: config maps, secrets, service accounts, priority classes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Facts;
use super::page::{NONE, Page, flag, int, list, map, or, pairs_text};
use crate::manifest::text;

pub fn config_map(page: &mut Page, facts: &Facts<'_>) {
    page.head(facts.object);
    page.line(0, "\nData\n====");
    for (key, value) in map(facts.object, "/data") {
        page.line(0, format!("{key}:\n----\n{value}\n"));
    }
    page.line(0, "\nBinaryData\n====");
    for (key, value) in map(facts.object, "/binaryData") {
        page.line(0, format!("{key}: {} bytes", decoded(&value).len()));
    }
    page.line(0, "");
    facts.write_events(page);
}

fn decoded(text: &str) -> Vec<u8> {
    BASE64.decode(text).unwrap_or_default()
}

pub fn secret(page: &mut Page, facts: &Facts<'_>) {
    let kind = text(facts.object, "/type");
    page.head(facts.object);
    page.line(0, format!("\nType:\t{kind}"));
    page.line(0, "\nData\n====");
    for (key, value) in map(facts.object, "/data") {
        let bytes = decoded(&value);
        if key == "token" && kind == "kubernetes.io/service-account-token" {
            page.field(0, &key, String::from_utf8_lossy(&bytes));
        } else {
            page.field(0, &key, format!("{} bytes", bytes.len()));
        }
    }
}

pub fn service_account(page: &mut Page, facts: &Facts<'_>) {
    page.head(facts.object);
    let names: Vec<&str> = list(facts.object, "/imagePullSecrets").iter().map(|s| text(s, "/name")).collect();
    page.field(0, "Image pull secrets", names.first().copied().unwrap_or(NONE));
    for name in names.iter().skip(1) {
        page.line(0, format!("{}\t{name}", " ".repeat("Image pull secrets:".len())));
    }
    facts.write_events(page);
}

pub fn priority_class(page: &mut Page, facts: &Facts<'_>) {
    let o = facts.object;
    page.field(0, "Name", text(o, "/metadata/name"));
    page.field(0, "Value", int(o, "/value"));
    page.field(0, "GlobalDefault", flag(o, "/globalDefault"));
    page.field(0, "PreemptionPolicy", or(text(o, "/preemptionPolicy"), "PreemptLowerPriority"));
    page.field(0, "Description", text(o, "/description"));
    page.field(0, "Annotations", pairs_text(&map(o, "/metadata/annotations")));
    facts.write_events(page);
}
