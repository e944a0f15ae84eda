//! Scripts of shell commands with what they print, run on a host as an administrator would run them.
//!
//! `$ command` prints, on either stream, exactly the indented lines below it (as [`normal`] shows them, without blank lines
//! and with runs of blanks drawn together), and ends with 0, or with what `= code` says. `? command` may be repeated until it
//! does. `#` and `==` begin remarks. With `KEDGE_REWRITE=1` a script is written anew with what was printed: read the difference.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::kedge::checkout;
use harness::{Host, wait};

use crate::masks::normal;

/// How long a `?` may take: a pod that starts under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// One command and what belongs to it.
#[derive(Default, PartialEq, Debug)]
struct Step {
    /// What stands before it, as it is.
    remarks: String,
    line: String,
    repeated: bool,
    answer: Answer,
}

#[derive(Default, PartialEq, Debug)]
struct Answer {
    text: String,
    code: i32,
}

fn parse(text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut remarks = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("? ")) {
            let repeated = line.starts_with('?');
            steps.push(Step {
                remarks: std::mem::take(&mut remarks),
                line: command.into(),
                repeated,
                ..Step::default()
            });
        } else if let Some(printed) = line.strip_prefix("  ") {
            let step = steps.last_mut().with_context(|| format!("{line:?} stands before any command"))?;
            writeln!(step.answer.text, "{printed}")?;
        } else if let Some(code) = line.strip_prefix("= ") {
            steps.last_mut().with_context(|| format!("{line:?} stands before any command"))?.answer.code =
                code.parse()?;
        } else if line.is_empty() || line.starts_with('#') || line.starts_with("==") {
            writeln!(remarks, "{line}")?;
        } else {
            bail!("no line of a script: {line:?}");
        }
    }
    Ok(steps)
}

fn print(steps: &[Step]) -> String {
    let mut text = String::new();
    for Step { remarks, line, repeated, answer } in steps {
        text.push_str(remarks);
        text.push_str(if *repeated { "? " } else { "$ " });
        text.push_str(line);
        text.push('\n');
        for printed in answer.text.lines() {
            text.push_str("  ");
            text.push_str(printed);
            text.push('\n');
        }
        if answer.code != 0 {
            text.push_str(&format!("= {}\n", answer.code));
        }
    }
    text
}

/// What a command answers, without what differs between runs and how wide columns are.
fn ask(host: &Host, folder: &Path, line: &str) -> Result<Answer> {
    let set = "export HOME=/root TERM=dumb KUBECONFIG=/etc/kedge/kedge.yaml PATH=/run/shared/bin:$PATH";
    let whole = format!("{set}; cd {}; exec 2>&1; {line}", folder.display());
    let output =
        host.command("timeout").args(["120", "sh", "-c", &whole]).stdin(std::process::Stdio::null()).output()?;
    let mut text = String::new();
    for line in normal(&String::from_utf8_lossy(&output.stdout), true).lines().filter(|line| !line.is_empty()) {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        let mut blanks = 0;
        text.push_str(indent);
        for c in rest.chars() {
            blanks = if c == ' ' { blanks + 1 } else { 0 };
            if blanks < 4 {
                text.push(c);
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    Ok(Answer { text, code: output.status.code().unwrap_or(-1) })
}

/// Puts programs into the path of a host's scripts, each as `name, file`.
pub fn programs(host: &Host, list: &[(&str, &Path)]) -> Result<()> {
    let folder = host.shared().join("bin");
    fs::create_dir_all(&folder)?;
    for (name, file) in list {
        std::os::unix::fs::symlink(file, folder.join(name)).with_context(|| format!("{name} at {}", file.display()))?;
    }
    Ok(())
}

/// Runs `tests/e2e/NAME` (a script) in its folder. The first wrong answer ends it.
pub fn run(host: &Host, name: &str) -> Result<()> {
    let path = checkout().join("tests/e2e").join(name);
    let folder = path.parent().context("a script lies in a folder")?;
    let mut steps = parse(&fs::read_to_string(&path)?)?;
    let rewrite = std::env::var_os("KEDGE_REWRITE").is_some();
    for step in &mut steps {
        let mut answer = ask(host, folder, &step.line)?;
        if step.repeated {
            let _in_time = wait::until("the answer", PATIENCE, || {
                let as_expected = answer == step.answer;
                if !as_expected {
                    answer = ask(host, folder, &step.line)?;
                }
                Ok(as_expected.then_some(()))
            });
        }
        if answer == step.answer {
            continue;
        }
        if !rewrite {
            let Answer { text, code } = &step.answer;
            bail!(
                "{name}: {}\n--- expected, and {code}\n{text}--- printed, and {}\n{}",
                step.line,
                answer.code,
                answer.text
            );
        }
        step.answer = answer;
    }
    if rewrite {
        fs::write(&path, print(&steps))?;
    }
    Ok(())
}

#[test]
fn scripts_are_read_and_written() {
    let text = "# a remark\n\n== part\n$ one\n  printed\n    more\n? two\n= 3\n";
    let steps = parse(text).unwrap();
    let lines: Vec<_> =
        steps.iter().map(|s| (s.line.as_str(), s.repeated, s.answer.text.as_str(), s.answer.code)).collect();
    assert_eq!(lines, [("one", false, "printed\n  more\n", 0), ("two", true, "", 3)]);
    assert_eq!(print(&steps), text);
    for wrong in ["  printed\n", "= 1\n", "one\n"] {
        assert!(parse(wrong).is_err(), "{wrong:?}");
    }
}
