//! Where a walk through an object is, kept on the stack so that a clean object costs no allocation.

use crate::schema::Field;

#[derive(Clone, Copy)]
pub enum Step<'a> {
    Field(&'static Field),
    Key(&'a str),
    Index(usize),
}

#[derive(Clone, Copy)]
pub struct Trail<'a> {
    pub parent: Option<&'a Trail<'a>>,
    pub step: Step<'a>,
}

/// The path as strict decoding errors have it: `spec.containers[0].foo`, map keys after dots.
pub fn strict_path(trail: Option<&Trail<'_>>, last: &str) -> String {
    let mut path = String::new();
    push(trail, &mut path);
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(last);
    path
}

fn push(trail: Option<&Trail<'_>>, path: &mut String) {
    let Some(trail) = trail else { return };
    push(trail.parent, path);
    let name = match trail.step {
        Step::Index(i) => {
            path.push('[');
            path.push_str(&i.to_string());
            path.push(']');
            return;
        }
        Step::Field(field) => field.name,
        Step::Key(key) => key,
    };
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// The path as Go's type errors have it: fields only, with the names of embedded structs.
pub fn go_path(trail: Option<&Trail<'_>>) -> String {
    let mut names = Vec::new();
    let mut at = trail;
    while let Some(trail) = at {
        if let Step::Field(field) = trail.step {
            names.push(field.name);
            names.extend(field.extra.map(|e| e.via).filter(|v| !v.is_empty()));
        }
        at = trail.parent;
    }
    names.reverse();
    names.join(".")
}
