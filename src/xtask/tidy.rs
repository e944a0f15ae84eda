//! Tidiness that neither rustfmt nor clippy sees: doors between rooms, unfinished code, files without a contract.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Which rooms a room may name in its manifest; `daemon` may use every room, nobody may use `daemon` but the binary.
const DOORS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("cel", &["types"]),
    ("store", &[]),
    ("cluster", &["store"]),
    ("apiserver", &["types", "cel", "store"]),
    ("client", &["types"]),
    ("control", &["client", "types", "cel"]),
    ("runtime", &[]),
    ("net", &[]),
    ("node", &["client", "types", "runtime", "net"]),
    ("cli", &["client", "types"]),
];

/// Text that says a thing is not finished, with the reason why it may not stay.
const UNFINISHED: &[(&str, &str)] = &[
    ("todo!(", "unfinished"),
    ("unimplemented!(", "unfinished"),
    ("#[ignore", "a test that does not run proves nothing"),
    ("thread::sleep(", "wait for the event, not for time"),
];

pub fn check(root: &Path) -> Result<()> {
    let mut problems = doors(root)?;
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files)?;
    collect(&root.join("tests"), &mut files)?;
    for file in &files {
        let text = fs::read_to_string(file)?;
        let shown = file.strip_prefix(root).unwrap_or(file).display();
        if !text.starts_with("//!") && !file.ends_with("build.rs") {
            problems.push(format!("{shown}: no `//!` that says what lives here"));
        }
        if file.ends_with("xtask/tidy.rs") {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            for (what, why) in UNFINISHED {
                if line.contains(what) {
                    problems.push(format!("{shown}:{}: {what}: {why}", i + 1));
                }
            }
        }
    }
    if problems.is_empty() {
        println!("tidy: {} files, nothing found", files.len());
        return Ok(());
    }
    bail!("tidy:\n  {}", problems.join("\n  "))
}

fn doors(root: &Path) -> Result<Vec<String>> {
    let rooms: Vec<&str> = DOORS.iter().map(|d| d.0).chain(["daemon"]).collect();
    let mut problems = Vec::new();
    for (room, allowed) in DOORS {
        let manifest = fs::read_to_string(root.join("src").join(room).join("Cargo.toml"))?;
        // what only tests link is no door
        let linked = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for line in linked.lines() {
            let Some((name, _)) = line.split_once(".workspace") else { continue };
            if rooms.contains(&name) && !allowed.contains(&name) {
                problems.push(format!("src/{room}/Cargo.toml: {room} may not use {name}"));
            }
        }
    }
    Ok(problems)
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    Ok(())
}
