//! Logs, exec and attach.

use std::fs;

use runtime::{AttachSpec, ExecSpec, LogPolicy, Runtime as _, TerminalSize, User};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bench::{Bench, exec, logged, output, read_until, within};

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_cut_and_rotated() {
    let bench = Bench::new();
    let pod = bench.pod("logs").await;
    let (_, text) =
        bench.run(&pod, bench.shell("long", "head -c 40000 /dev/zero | busybox tr '\\0' x; echo; printf end")).await;
    assert_eq!(text, format!("{}\nend", "x".repeat(40_000)));
    let raw = fs::read_to_string(bench.log_path("long")).unwrap();
    let tags: Vec<&str> = raw.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
    assert_eq!(tags, ["P", "P", "F", "P"]);
    let mut many =
        bench.shell("many", "for i in 1 2 3 4 5 6; do head -c 3000 /dev/zero | busybox tr '\\0' $i; echo; done");
    many.log = Some(LogPolicy { path: bench.log_path("many"), bytes_max: 7000, files_max: 2 });
    bench.run(&pod, many).await;
    let names: Vec<_> = fs::read_dir(bench.log_path("many").parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(fs::metadata(bench.log_path("many")).unwrap().len() <= 7000);
    assert!(bench.text("many").contains(&"6".repeat(3000)));

    let id = bench.shims.start_container(&pod, bench.shell("moved", "echo one; cat; echo two")).await.unwrap().id;
    logged(&bench, "moved", "two").await;
    within(bench.shims.wait(&pod, &id)).await.unwrap();
    bench.shims.remove_pod(&pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_and_without_terminal() {
    let bench = Bench::new();
    let pod = bench.pod("exec").await;
    let mut spec = bench.shell("main", "sleep 1000");
    spec.env = vec!["A=1".into(), "B=2".into()];
    spec.user = User { uid: 1000, gid: 1000, additional_gids: vec![2000] };
    let id = bench.shims.start_container(&pod, spec).await.unwrap().id;
    let run = async |spec: ExecSpec| output(bench.shims.exec(&pod, &id, spec).await.unwrap()).await;

    let script = "echo $A $B $HOME; id -u; id -G; hostname; grep -E '^(Seccomp|CapBnd|CapEff):' /proc/self/status; echo e >&2; exit 4";
    let (code, out, err) = run(ExecSpec { env: vec!["B=3".into()], ..exec(script) }).await;
    assert_eq!(
        out,
        "1 3 /home/web\n1000\n1000 2000\nhost-exec\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n"
    );
    assert_eq!((code, err.as_str()), (4, "e\n"));
    let root = User { uid: 0, gid: 0, additional_gids: vec![] };
    let (_, out, _) = run(ExecSpec { user: Some(root), cwd: Some("/etc".into()), ..exec("id -u; pwd") }).await;
    assert_eq!(out, "0\n/etc\n");

    let mut session = bench.shims.exec(&pod, &id, ExecSpec { stdin: true, ..exec("cat; echo done") }).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let big = "line\n".repeat(100_000);
    let text = big.clone();
    let writing = tokio::spawn(async move { stdin.write_all(text.as_bytes()).await });
    let (code, out, _) = output(session).await;
    writing.await.unwrap().unwrap();
    assert_eq!((code, out), (0, format!("{big}done\n")));

    let size = Some(TerminalSize { columns: 100, rows: 30 });
    let spec =
        ExecSpec { tty: true, stdin: true, size, ..exec("tty; stty size; read x; stty size; echo got $x; exit 5") };
    let mut session = bench.shims.exec(&pod, &id, spec).await.unwrap();
    let mut stdout = session.stdout.take().unwrap();
    let seen = read_until(&mut stdout, "30 100").await;
    assert!(seen.contains("/dev/pts/"), "{seen}");
    session.resizer.take().unwrap().resize(TerminalSize { columns: 80, rows: 24 }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    let seen = read_until(&mut stdout, "got hello").await;
    assert!(seen.contains("24 80"), "{seen}");
    assert_eq!(within(session.exit).await.unwrap(), 5);

    let session = bench.shims.exec(&pod, &id, exec("sleep 1000")).await.unwrap();
    session.kill().await.unwrap();
    assert_eq!(within(session.exit).await.unwrap(), 137);
    let error = bench.shims.exec(&pod, &id, ExecSpec::new(vec!["nope".into()])).await.err().unwrap();
    assert_eq!(error.to_string(), "failed to exec in container: exec: \"nope\": executable file not found in $PATH");
    let many = (0..16).map(|n| {
        let (shims, pod, id) = (bench.shims.clone(), pod.clone(), id.clone());
        tokio::spawn(async move { output(shims.exec(&pod, &id, exec(&format!("exit {n}"))).await.unwrap()).await.0 })
    });
    for (n, code) in futures_util::future::join_all(many).await.into_iter().enumerate() {
        assert_eq!(code.unwrap(), n as i32);
    }
    bench.shims.signal(&pod, &id, libc::SIGKILL).await.unwrap();
    within(bench.shims.wait(&pod, &id)).await.unwrap();
    assert!(bench.shims.exec(&pod, &id, exec("true")).await.is_err());
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_to_pipes_and_terminals() {
    let bench = Bench::new();
    let pod = bench.pod("attach").await;
    let all = AttachSpec { stdin: true, stdout: true, stderr: true };
    let mut spec = bench.shell("pipes", "while read x; do echo got $x; echo err $x >&2; done; echo end");
    (spec.stdin, spec.stdin_once) = (true, true);
    let id = bench.shims.start_container(&pod, spec).await.unwrap().id;
    let mut watcher =
        bench.shims.attach(&pod, &id, AttachSpec { stdin: false, stdout: true, stderr: false }).await.unwrap();
    let mut session = bench.shims.attach(&pod, &id, all).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"one\ntwo\n").await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got two").await;
    read_until(session.stderr.as_mut().unwrap(), "err two").await;
    session.stdin = None;
    let (code, out, _) = output(session).await;
    assert_eq!((code, out.as_str()), (0, "end\n"));
    let mut seen = String::new();
    within(watcher.stdout.take().unwrap().read_to_string(&mut seen)).await.unwrap();
    assert_eq!(seen, "got one\ngot two\nend\n");
    assert!(bench.text("pipes").contains("got one\n") && bench.text("pipes").contains("err two\n"));

    let mut spec = bench.shell("term", "tty; read x; stty size; echo got $x; exit 6");
    (spec.stdin, spec.tty) = (true, true);
    let id = bench.shims.start_container(&pod, spec).await.unwrap().id;
    let mut session =
        bench.shims.attach(&pod, &id, AttachSpec { stdin: true, stdout: true, stderr: false }).await.unwrap();
    session.resizer.as_ref().unwrap().resize(TerminalSize { columns: 90, rows: 20 }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"tea\n").await.unwrap();
    let (code, out, _) = output(session).await;
    assert!(code == 6 && out.contains("20 90") && out.contains("got tea"), "{code} {out}");
    assert!(bench.text("term").contains("/dev/"), "{}", bench.text("term"));
    assert!(bench.shims.attach(&pod, &id, all).await.is_err());
    bench.shims.remove_pod(&pod).await.unwrap();
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}
