//! What runs in a test machine before and beside the tests: the initramfs that loads modules and mounts the disk, and the
//! loop that serves commands.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::machine_kernel::Kernel;

/// Without these there is no disk and no line to the tests.
const DEVICES: &[&str] =
    &["virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "virtio_rng", "crc32c_generic", "ext4"];

/// What Kedge uses on a node, and what tests of networks need. All of it is loaded at boot: there is no modprobe in a
/// machine, so that what is missing here is missing loudly.
const NODE: &[&str] = &[
    "overlay",
    "veth",
    "bridge",
    "br_netfilter",
    "dummy",
    "vxlan",
    "wireguard",
    "sch_netem",
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_objref",
    "nft_redir",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "autofs4", // systemd asks for it
];

/// The first process: loads modules, mounts the disk and hands over to it.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /disk
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
while read -r module; do
	$b insmod "$module" || echo "machine: $module was not loaded"
done </modules
# Devices appear when the emulator has answered for them; nothing here is told when. Ports are known by their names: their
# numbers depend on what else is plugged in.
until [ -b /dev/vda ] && [ -e /dev/machine-commands ] && [ -e /dev/machine-stream ]; do
	for port in /sys/class/virtio-ports/*; do
		read -r name <$port/name && [ -c /dev/${port##*/} ] && $b ln -sf ${port##*/} /dev/machine-$name
	done
	$b usleep 20000
done
$b mount -t ext4 /dev/vda /disk || { echo "machine: no disk"; $b poweroff -f; }
for m in proc sys dev; do $b mkdir -p /disk/$m; $b mount --move /$m /disk/$m; done
exec $b switch_root /disk "$MACHINE_INIT"
"#;

/// The first process of the disk when it holds nothing but busybox.
const DISK_INIT: &str = r#"#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
# A group with processes in it cannot hand controllers down.
mkdir -p /sys/fs/cgroup/init
echo 1 >/sys/fs/cgroup/init/cgroup.procs
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$c" >/sys/fs/cgroup/cgroup.subtree_control; done
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf 2>/dev/null
hostname "$MACHINE_NAME"
ip link set lo up
[ -d /sys/class/net/eth0 ] && ip link set eth0 up
setsid /sbin/machine-serve </dev/null >/dev/console 2>&1 &
# Reaps what is orphaned until the end.
wait
poweroff -f
"#;

/// Serves commands, one at a time: a line `run BYTES` or `push BYTES MODE PATH`, the bytes, and for an answer a line
/// `CODE OUT ERR` with as many bytes of standard output and of standard error. Lengths instead of an encoding: binary safe,
/// and nothing is computed in an emulated machine. `head` may read ahead: the other side sends nothing before the answer.
const SERVE: &str = r#"#!/bin/sh
d=/run/machine
mkdir -p $d
exec 3<>/dev/machine-commands || exit 1
echo ready >&3
while read -r verb size mode path <&3; do
	rm -f $d/out $d/err
	: >$d/out
	: >$d/err
	case $verb in
	run)
		head -c "$size" <&3 >$d/line
		sh $d/line </dev/null >$d/out 2>$d/err 3>&-
		code=$?
		;;
	push)
		mkdir -p "${path%/*}/"
		head -c "$size" <&3 >"$path" 2>$d/err && chmod "$mode" "$path" 2>>$d/err
		code=$?
		;;
	esac
	out=$(wc -c <$d/out)
	err=$(wc -c <$d/err)
	echo "$code $((out)) $((err))" >&3
	head -c "$out" $d/out >&3
	head -c "$err" $d/err >&3
done
"#;

/// Runs [`SERVE`] on a disk whose first process is systemd.
const SERVE_UNIT: &str = "[Unit]\nDescription=Commands of the test\nDefaultDependencies=no\nAfter=sysinit.target\n\
    [Service]\nExecStart=/bin/sh /sbin/machine-serve\nEnvironment=HOME=/root\n\
    Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
    [Install]\nWantedBy=multi-user.target\n";

/// Writes the initramfs for `kernel`. `init` is the program on the disk that becomes the first process.
pub(crate) fn write_initramfs(kernel: &Kernel, init: &str, extra_modules: &[String], to: &Path) -> Result<()> {
    let mut names: Vec<&str> = DEVICES.iter().chain(NODE).copied().collect();
    names.extend(extra_modules.iter().map(String::as_str));
    let mut archive = Archive::default();
    for folder in ["bin", "lib", "dev", "proc", "sys", "disk"] {
        archive.entry(folder, FOLDER, &[]);
    }
    archive.entry("bin/busybox", FILE_EXECUTABLE, &fs::read(&kernel.busybox)?);
    archive.entry("init", FILE_EXECUTABLE, INIT.replace("$MACHINE_INIT", init).as_bytes());
    let mut list = String::new();
    for file in kernel.closure(&names)? {
        let name = file.file_name().context("a module has a name")?.to_string_lossy().into_owned();
        archive.entry(&format!("lib/{name}"), FILE, &fs::read(&file)?);
        list.push_str(&format!("/lib/{name}\n"));
    }
    archive.entry("modules", FILE, list.as_bytes());
    Ok(fs::write(to, archive.finish())?)
}

/// Makes `root` the content of a disk that runs with busybox alone.
pub(crate) fn lay_out_busybox(kernel: &Kernel, name: &str, root: &Path) -> Result<()> {
    for folder in
        ["bin", "sbin", "etc", "proc", "sys", "dev", "run", "tmp", "root", "var/log", "var/tmp", "usr/local/bin"]
    {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(&kernel.busybox, root.join("bin/busybox"))?;
    // The applets of this machine's own busybox package: the same version for every architecture.
    for applet in crate::sh("busybox", &["--list"])?.lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(root.join("etc/hosts"), format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n"))?;
    fs::write(root.join("etc/hostname"), format!("{name}\n"))?;
    write_executable(&root.join("sbin/machine-init"), &DISK_INIT.replace("$MACHINE_NAME", name))?;
    write_executable(&root.join("sbin/machine-serve"), SERVE)
}

/// Adds the command server to a disk that boots with systemd.
pub(crate) fn add_to_systemd(root: &Path) -> Result<()> {
    write_executable(&root.join("sbin/machine-serve"), SERVE)?;
    let units = root.join("etc/systemd/system");
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    fs::write(units.join("machine-serve.service"), SERVE_UNIT)?;
    std::os::unix::fs::symlink(
        "../machine-serve.service",
        units.join("multi-user.target.wants/machine-serve.service"),
    )?;
    Ok(())
}

fn write_executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const FILE_EXECUTABLE: u32 = 0o100_755;

/// An initramfs, uncompressed: unpacking costs an emulated machine more than reading.
/// Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst ("newc").
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let (size, name_size) = (content.len(), name.len() + 1);
        let header = [self.inode, mode, 0, 0, 1, 0, size as u32, 0, 0, 0, 0, name_size as u32, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in header {
            let _ = write!(self.bytes, "{field:08X}"); // a Vec takes every write
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
