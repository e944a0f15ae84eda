//! What the other tests rely on: commands, files, cables, clocks, and power cuts that forget.

use harness::machine::Cable;
use harness::{Arch, Machine, MachineSpec};

#[test]
fn machines_are_what_the_tests_take_them_for() {
    let (here, there) = Cable::lay().unwrap();
    let mut spec = MachineSpec::new("a", Arch::X86_64).memory_mib(256);
    spec.cable = Some(here);
    spec.clock = Some("2019-05-06T07:08:09".into());
    let mut a = Machine::boot(spec).unwrap();
    let mut spec = MachineSpec::new("b", Arch::Aarch64).memory_mib(256);
    spec.cable = Some(there);
    let mut b = Machine::boot(spec).unwrap();

    commands_are_binary_safe_and_tell_how_they_ended(&mut a);
    a_cable_joins_two_machines(&mut a, &mut b);
    assert_eq!(a.must("date -u +%Y-%m-%d").unwrap().trim(), "2019-05-06");
    assert_ne!(b.must("date -u +%Y").unwrap().trim(), "2019");
    drop(b);
    a_power_cut_keeps_what_was_flushed_and_forgets_what_was_not(&mut a);
}

fn commands_are_binary_safe_and_tell_how_they_ended(machine: &mut Machine) {
    let output = machine.run("echo out; printf 'a\\0b\\n' >&2; exit 3").unwrap();
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "out\n", "a\0b\n"));
    assert_eq!(machine.run("true").unwrap().stdout, "");
    // every byte there is, in a file larger than any buffer on the way
    let every_byte: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 251) as u8 ^ (n >> 12) as u8).collect();
    let file = std::env::temp_dir().join(harness::unique("kedge-push"));
    std::fs::write(&file, every_byte).unwrap();
    machine.push(&file, "/srv/deep/file", 0o640).unwrap();
    let here = harness::sh("sha256sum", &[&file.display().to_string()]).unwrap();
    std::fs::remove_file(&file).unwrap();
    let there = machine.must("sha256sum </srv/deep/file; stat -c %a /srv/deep/file").unwrap();
    assert_eq!(there, format!("{}  -\n640\n", &here[..64]));
}

fn a_cable_joins_two_machines(a: &mut Machine, b: &mut Machine) {
    a.must("ip addr add 10.98.0.1/24 dev eth0").unwrap();
    b.must("ip addr add 10.98.0.2/24 dev eth0").unwrap();
    b.must("ping -c1 -W20 10.98.0.1").unwrap();
    assert!(!a.must("ip route").unwrap().contains("default"));
}

/// Without this the tests of power cuts would prove nothing.
fn a_power_cut_keeps_what_was_flushed_and_forgets_what_was_not(machine: &mut Machine) {
    machine.must("echo kept >/kept; sync; echo forgotten >/forgotten").unwrap();
    machine.cut_power().unwrap();
    machine.power_on().unwrap();
    assert_eq!(machine.must("cat /kept").unwrap(), "kept\n");
    assert_eq!(machine.run("cat /forgotten").unwrap().stdout, "");

    // In the file as the guest's kernel wrote it, yet never flushed: a disk loses some of it.
    machine.must("head -c 4194304 /dev/zero >/file; sync").unwrap();
    machine
        .must("tr '\\0' x </dev/zero | dd of=/file conv=notrunc oflag=direct bs=4096 count=1024 2>/dev/null")
        .unwrap();
    let lost = machine.cut_power().unwrap();
    assert!(lost.lost > 0 && lost.survived > 0, "{lost:?}");
    machine.power_on().unwrap();
    let zeroes: usize = machine.must("tr -d x </file | wc -c").unwrap().trim().parse().unwrap();
    assert!(zeroes > 0 && zeroes < 4 << 20, "{zeroes} bytes are as they were before");

    machine.must("echo orderly >/orderly").unwrap();
    machine.power_off().unwrap();
    machine.power_on().unwrap();
    assert_eq!(machine.must("cat /orderly").unwrap(), "orderly\n");
}
