//! `kedge` verbs beside stock kubectl: the commands of `cli/*.script` are run with both, and what they print on either stream
//! and how they end must be the same.
//!
//! A line of `shown.script` only looks: both clients look at the same world (namespace `east`), one after the other, and only
//! ages may differ. A line of `done.script` changes something: kubectl does it in `east`, kedge in `west`, which are alike, and
//! what is drawn by chance may differ too. Wrong usage ends with 2 in kedge (CONTRACT.md) where kubectl ends with 1.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;

use anyhow::{Result, bail};
use harness::kedge::{Server, add_images, checkout};
use harness::{Host, Switch};

use crate::masks::normal;

pub const WORLDS: [&str; 2] = ["east", "west"];

/// Files that the commands take, as `name: content`.
const FILES: &[(&str, &str)] = &[
    ("folder/one", "one"),
    ("folder/two", "two\n"),
    ("env", "A=1\n# c\nB=two words\n"),
    ("one.yaml", "kind: ConfigMap\napiVersion: v1\nmetadata: {name: one}\ndata: {a: b}\n"),
    ("unknown.yaml", "kind: ConfigMap\napiVersion: v1\nmetadata: {name: unknown}\ndatas: {a: b}\n"),
    ("noname.yaml", "kind: ConfigMap\napiVersion: v1\nmetadata: {}\n"),
    ("generate.yaml", "kind: ConfigMap\napiVersion: v1\nmetadata: {generateName: gen-}\n"),
    (
        "invalid.yaml",
        "kind: Service\napiVersion: v1\nmetadata: {name: invalid}\nspec: {ports: [{port: 0},{port: 99999}]}\n",
    ),
    (
        "folder.d/a.yaml",
        "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a, labels: {pick: \"yes\"}}\ndata: {one: old, two: same}\n---\n\
         kind: ConfigMap\napiVersion: v1\nmetadata: {name: b}\n",
    ),
    ("folder.d/c.json", r#"{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"name":"c"}}"#),
    ("folder.d/x.txt", "no"),
];

struct Answer {
    out: String,
    err: String,
    code: i32,
}

/// Runs a line with a client in a world.
fn run(host: &Host, client: &str, world: &str, line: &str) -> Result<Answer> {
    let set = format!("export HOME=/root TERM=dumb KUBECONFIG=/run/shared/cli/{world}.yaml K={client}; ");
    let output = host
        .command("timeout")
        .args(["90", "sh", "-c", &format!("{set}{line}")])
        .stdin(std::process::Stdio::null())
        .output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(client, "kedge").replace("kubectl", "kedge");
    Ok(Answer { out: text(&output.stdout), err: text(&output.stderr), code: output.status.code().unwrap_or(-1) })
}

fn same_end(kubectl: i32, kedge: i32) -> bool {
    kubectl == kedge || (kubectl == 1 && kedge == 2)
}

fn script(host: &Host, name: &str, by_chance: bool) -> Result<()> {
    let text = fs::read_to_string(checkout().join("tests/e2e/cli").join(name))?;
    let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
    let (mut wrong, mut count) = (String::new(), 0);
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#') && !l.starts_with("==")) {
        let line = line.strip_prefix("? ").unwrap_or(line);
        count += 1;
        // The world goes on between the two looks, and kubectl shows the logs of several containers in an order drawn anew each
        // time: a look that differs is taken again, often enough for two containers to come in one order some time.
        let looks = if by_chance { 1 } else { 12 };
        let mut differs = String::new();
        for _ in 0..looks {
            let theirs = run(host, &kubectl, WORLDS[0], line)?;
            let ours = run(host, "/usr/local/bin/kedge", if by_chance { WORLDS[1] } else { WORLDS[0] }, line)?;
            differs.clear();
            for (stream, theirs, ours) in [("stdout", &theirs.out, &ours.out), ("stderr", &theirs.err, &ours.err)] {
                let (theirs, ours) = (normal(theirs, by_chance), normal(ours, by_chance));
                if theirs != ours {
                    write!(differs, "--- {stream} of kubectl\n{theirs}--- {stream} of kedge\n{ours}")?;
                }
            }
            if !same_end(theirs.code, ours.code) {
                writeln!(differs, "--- kubectl ends with {}, kedge with {}", theirs.code, ours.code)?;
            }
            if differs.is_empty() {
                break;
            }
        }
        if !differs.is_empty() {
            write!(wrong, "\n=== {line}\n{differs}")?;
        }
    }
    if !wrong.is_empty() {
        bail!("{name}: of {count} commands these differ:{wrong}");
    }
    Ok(())
}

/// Makes both worlds, with a kubeconfig that names each.
fn worlds(server: &Server) -> Result<()> {
    let folder = server.host.shared().join("cli");
    for (name, content) in FILES {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&folder))?;
        fs::write(path, content)?;
    }
    fs::copy(checkout().join("tests/e2e/cli/objects.yaml"), folder.join("objects.yaml"))?;
    server.host.must(
        "cd /run/shared/cli && openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.crt -subj /CN=x -days 2",
    )?;
    let config = server.host.must("cat /etc/kedge/kedge.yaml")?;
    for world in WORLDS {
        fs::write(folder.join(format!("{world}.yaml")), &config)?;
        let client = format!("--kubeconfig /run/shared/cli/{world}.yaml");
        server.must(&format!("{client} config set-context --current --namespace={world}"))?;
        server.must(&format!("create namespace {world}"))?;
        server.must(&format!("{client} apply -f /run/shared/cli/objects.yaml"))?;
    }
    for world in WORLDS {
        let client = format!("--kubeconfig /run/shared/cli/{world}.yaml");
        server.must(&format!("{client} rollout status deployment/web --timeout=60s"))?;
        server.must(&format!("{client} wait --for=condition=Ready pod/many pod/again --timeout=60s"))?;
        let ended = "--for=jsonpath={.status.phase}=Succeeded pod/done";
        server.must(&format!("{client} wait {ended} --timeout=60s"))?;
    }
    Ok(())
}

#[test]
fn verbs_are_as_kubectls() {
    let switch = Arc::new(Switch::new().unwrap());
    let host = Host::boot("cli", &switch, [10, 99, 5, 10]).unwrap();
    add_images(&host, &["busybox"]).unwrap();
    let server = Server::start(&host, &[]).unwrap();
    worlds(&server).unwrap();
    script(&host, "shown.script", false).unwrap();
    script(&host, "done.script", true).unwrap();
}
