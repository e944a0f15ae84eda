//! The device allow-list on cgroup v2, which knows it only as a BPF program: a few instructions per rule, assembled here,
//! loaded and attached with two system calls.
//!
//! Source: linux Documentation/admin-guide/cgroup-v2.rst "Device controller"; include/uapi/linux/bpf.h.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use crate::shim::protocol::DeviceRule;

/// Registers: type, access, major, minor of the request; a scratch one; the verdict.
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 1;
const VERDICT: u8 = 0;

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

fn op(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    // Registers are two nibbles, the target's the lower one on little-endian machines.
    let registers = if cfg!(target_endian = "little") { source << 4 | target } else { target << 4 | source };
    Instruction { code, registers, offset, immediate }
}

/// Access bits as the kernel passes them.
fn access_bits(access: &str) -> i32 {
    access.bytes().fold(0, |bits, b| {
        bits | match b {
            b'm' => 1,
            b'r' => 2,
            b'w' => 4,
            _ => 0,
        }
    })
}

/// Allows what any rule allows, denies the rest.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        op(LOAD_WORD, TYPE, 1, 0, 0),
        op(LOAD_WORD, MAJOR, 1, 4, 0),
        op(LOAD_WORD, MINOR, 1, 8, 0),
        op(MOVE_REGISTER, ACCESS, TYPE, 0, 0),
        op(AND, TYPE, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
    ];
    for rule in rules {
        let mut block = Vec::new();
        match rule.kind {
            'b' => block.push(op(JUMP_NOT_EQUAL, TYPE, 0, 0, 1)),
            'c' => block.push(op(JUMP_NOT_EQUAL, TYPE, 0, 0, 2)),
            _ => {}
        }
        let bits = access_bits(&rule.access);
        if bits != 7 {
            block.push(op(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
            block.push(op(AND, SCRATCH, 0, 0, bits));
            block.push(op(JUMP_NOT_EQUAL_REGISTER, SCRATCH, ACCESS, 0, 0));
        }
        if let Some(major) = rule.major {
            block.push(op(JUMP_NOT_EQUAL, MAJOR, 0, 0, major as i32));
        }
        if let Some(minor) = rule.minor {
            block.push(op(JUMP_NOT_EQUAL, MINOR, 0, 0, minor as i32));
        }
        block.push(op(MOVE, VERDICT, 0, 0, 1));
        block.push(op(EXIT, 0, 0, 0, 0));
        // Every jump goes past the end of its block.
        let length = block.len();
        for (at, instruction) in block.iter_mut().enumerate() {
            if matches!(instruction.code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER) {
                instruction.offset = (length - at - 1) as i16;
            }
        }
        code.append(&mut block);
    }
    code.push(op(MOVE, VERDICT, 0, 0, 0));
    code.push(op(EXIT, 0, 0, 0, 0));
    code
}

/// Makes the (single, v2) cgroup directory if needed and attaches the rules to it. They go with the cgroup.
pub fn restrict(cgroups: &[PathBuf], rules: &[DeviceRule]) -> io::Result<()> {
    let [dir] = cgroups else { return Ok(()) };
    std::fs::create_dir_all(dir)?;
    attach(&File::open(dir)?, &load(&program(rules))?)
}

fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        /// Name and everything that later kernels added: zero.
        rest: [u64; 10],
    }
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let attributes = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // JUSTIFICATION: bpf(2) has no wrapper without C libraries.
    // SAFETY: the structure begins as the kernel's union does and is zero beyond; what it points to lives through the call;
    // the kernel returns a new descriptor.
    unsafe {
        let fd = crate::shim::sys::check(libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &attributes,
            std::mem::size_of::<Load>(),
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

fn attach(cgroup: &File, program: &OwnedFd) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    const BPF_PROG_ATTACH: i32 = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attributes = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // JUSTIFICATION: as above.
    // SAFETY: the structure is the beginning of the kernel's union and lives through the call.
    crate::shim::sys::check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attributes, std::mem::size_of::<Attach>())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the few instructions that `program` uses.
    fn verdict(code: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let memory = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let i = code[at];
            let (target, source) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            at += 1;
            match i.code {
                LOAD_WORD => registers[target] = u64::from(memory[i.offset as usize / 4]),
                AND => registers[target] &= i.immediate as u64,
                SHIFT_RIGHT => registers[target] >>= i.immediate,
                MOVE => registers[target] = i.immediate as u64,
                MOVE_REGISTER => registers[target] = registers[source],
                JUMP_NOT_EQUAL if registers[target] != i.immediate as u64 => at += i.offset as usize,
                JUMP_NOT_EQUAL_REGISTER if registers[target] != registers[source] => at += i.offset as usize,
                JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER => {}
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    fn rule(kind: char, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
        DeviceRule { kind, major, minor, access: access.into() }
    }

    #[test]
    fn rules_decide() {
        let code =
            program(&[rule('c', Some(1), Some(3), "rwm"), rule('c', None, None, "m"), rule('b', Some(8), None, "r")]);
        let (block, character, mknod, read, write) = (1, 2, 1, 2, 4);
        assert!(verdict(&code, character, read | write, 1, 3));
        assert!(!verdict(&code, character, read, 1, 5));
        assert!(verdict(&code, character, mknod, 200, 7));
        assert!(!verdict(&code, character, mknod | read, 200, 7));
        assert!(verdict(&code, block, read, 8, 16));
        assert!(!verdict(&code, block, read | write, 8, 16));
        assert!(!verdict(&code, block, mknod, 1, 3));
        assert!(verdict(&program(&[rule('a', None, None, "rwm")]), block, 7, 99, 99));
        assert!(!verdict(&program(&[]), character, read, 1, 3));
    }

    /// The kernel's verifier takes the program, on a hierarchy of version 2 wherever that is mounted.
    #[test]
    fn the_kernel_accepts_and_enforces() {
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let Some(root) = mounts.iter().map(std::path::Path::new).find(|m| m.join("cgroup.controllers").exists()) else {
            panic!("no cgroup v2 hierarchy here");
        };
        let dir = root.join(format!("kedge-test-devices-{}", std::process::id()));
        restrict(std::slice::from_ref(&dir), &[rule('c', Some(1), Some(3), "rwm")]).unwrap();
        // The shell enters the cgroup and then tries one device that is allowed and one that is not.
        let script = format!(
            "echo 0 > {}/cgroup.procs && : < /dev/null && echo null; : < /dev/zero && echo zero; echo 0 > {}/cgroup.procs",
            dir.display(),
            root.display()
        );
        let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        super::super::remove_tree(&dir).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "null\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
}
