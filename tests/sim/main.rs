//! The control plane simulated: the real API server, controllers and scheduler over a store in memory, nodes that pretend, one
//! thread, a clock that moves only when nothing else does, and one seed that decides everything.
//!
//! ```text
//! scenario ──► user ─┐                        ┌─► store (memory) ──► judge ──► invariants, trace
//! kubelets ──────────┼─► line (faults) ─► api ┤
//! control, scheduler ┘                        └─► watches ─► line (faults) ─► caches
//! ```
//!
//! A seed runs in a process of its own, because the order of hash maps and of `select!` begins with the process. A run deploys,
//! disturbs for some simulated minutes, heals, and must come to rest.
//!
//! * `KEDGE_SIM_SEED=7 cargo test -p kedge-sim seeds -- --nocapture` runs one seed; with `KEDGE_SIM_TRACE=1` it prints each write,
//!   and what the program under test logs (`KEDGE_SIM_TRACE=control=debug` says what of it).
//! * `KEDGE_SIM_SEEDS=100..400 cargo test -p kedge-sim seeds` runs many.
//!
//! What never lives here: a promise. Those are in `invariants`, a file each.

mod chance;
mod drain;
mod faults;
mod invariants;
mod judge;
mod kubelet;
mod line;
mod objects;
mod profile;
mod scenario;
mod store;
mod trace;
mod workloads;
mod world;

use std::ops::Range;
use std::process::{Command, Output};
use std::sync::Mutex;

/// The test that a process of its own is told to run.
const TEST: &str = "seeds";
/// What ordinary test runs try: nothing goes wrong, each fault alone, everything at once.
const ORDINARY: [u64; 7] = [0, 1, 2, 4, 8, 16, 31];

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Plays a seed on a thread of its own and prints how it went.
fn play(seed: u64) {
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(move || {
        chance::seed_kernel(seed);
        if let Some(wanted) = variable::<String>(judge::TRACE) {
            let filter = tracing_subscriber::EnvFilter::try_new(wanted).unwrap_or_default();
            tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stdout).init();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(scenario::play(seed))
    });
    let report = thread.expect("a thread").join().expect("the run does not panic");
    println!("seed {seed}: {} writes, {} faults, trace {:016x}", report.writes, report.faults, report.trace);
    if !report.broken.is_empty() {
        println!("{}\n-- lately:", report.broken.join("\n"));
        println!("{}\n-- broken:\n{}", report.lately.join("\n"), report.broken.join("\n"));
        panic!(
            "seed {seed} breaks a promise; again: KEDGE_SIM_SEED={seed} cargo test -p kedge-sim {TEST} -- --nocapture"
        );
    }
}

/// Plays a seed in a process of its own.
fn child(seed: u64) -> Output {
    let program = std::env::current_exe().expect("the test has a path");
    let mut command = Command::new(program);
    command.args(["--exact", TEST, "--nocapture"]).env("KEDGE_SIM_SEED", seed.to_string());
    command.output().expect("the test runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn range(text: &str) -> Range<u64> {
    let (from, to) = text.split_once("..").unwrap_or_else(|| panic!("{text} is no range like 100..200"));
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} is no number"));
    number(from)..number(to)
}

#[test]
fn seeds() {
    if let Some(seed) = variable("KEDGE_SIM_SEED") {
        return play(seed);
    }
    let seeds = variable::<String>("KEDGE_SIM_SEEDS").map_or(ORDINARY.to_vec(), |text| range(&text).collect());
    let left = Mutex::new(seeds.into_iter());
    let broken = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some(seed) = left.lock().expect("no panic").next() else { return };
                    let output = child(seed);
                    let text = text(&output);
                    println!("{}", text.lines().find(|line| line.starts_with("seed ")).unwrap_or_default());
                    if !output.status.success() {
                        broken.lock().expect("no panic").push(text);
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().expect("no panic");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Whatever is not drawn from the seed would make another trace.
#[test]
fn a_seed_is_one_trace() {
    // The wildest of the first ones.
    const SEED: u64 = 31;
    let line = |output: Output| text(&output).lines().find(|line| line.starts_with("seed ")).map(str::to_owned);
    let (one, two) = (child(SEED), child(SEED));
    let (one, two) = (line(one).expect("a trace"), line(two).expect("a trace"));
    assert_eq!(one, two);
}
