//! Test machines: whole virtual machines, for what a namespace cannot show. Cgroup v2, another architecture, systemd, a
//! wrong clock, 512 MiB of memory, power cuts.
//!
//! A machine boots Debian's kernel under qemu's software emulation from a disk made for the test. It has no network, or a
//! cable to one other machine. Commands go over a virtio-serial line. Dropping a machine ends it and removes its disk.
//!
//! What never lives here: an assertion about Kedge. Needs qemu, mke2fs, dpkg-deb, apt-get, busybox-static and setpriv.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::kedge::checkout;
use crate::machine_boot as boot;
use crate::machine_disk::{BLOCK, Disk, Fuse, Lost, make};
use crate::machine_kernel::{Arch, Kernel};
use crate::{Output, sh, unique, wait};

/// From the start of the emulator until the machine takes commands: 3 to 6 s on an idle computer with busybox, 30 s with
/// systemd; five times that beside a compilation.
const BOOT: Duration = Duration::from_secs(240);
/// A command that does its work and ends. Emulated code runs 10 to 30 times slower than the computer's own.
pub const COMMAND: Duration = Duration::from_secs(180);
/// Something that a cluster in a machine does by itself: what [`wait::CLUSTER`] allows, for emulated code.
pub const CLUSTER: Duration = Duration::from_secs(900);
/// An emulator that was killed to be gone.
const END: Duration = Duration::from_secs(20);
/// How much of the console is shown with a failure.
const CONSOLE_LINES: usize = 40;

/// What the disk holds before the first boot.
pub enum System {
    /// busybox alone; the first process reaps, mounts and serves.
    Busybox,
    /// A Debian with systemd, as a folder that mmdebstrap or debootstrap made.
    Debian(PathBuf),
}

pub struct MachineSpec {
    pub name: String,
    pub arch: Arch,
    pub system: System,
    pub memory_mib: u32,
    pub cpus: u32,
    pub disk_mib: u64,
    /// What this computer has, where the machine shall have it, and with which mode.
    pub files: Vec<(PathBuf, String, u32)>,
    /// Kernel modules beyond those that every machine loads.
    pub modules: Vec<String>,
    pub cable: Option<CableEnd>,
    /// What the battery-backed clock says at power-on (`2019-01-01T00:00:00`); the true time when `None`.
    pub clock: Option<String>,
}

impl MachineSpec {
    pub fn new(name: &str, arch: Arch) -> Self {
        Self {
            name: name.into(),
            arch,
            system: System::Busybox,
            memory_mib: 512, // the smallest board that is promised to work
            cpus: 2,
            disk_mib: 2048,
            files: Vec::new(),
            modules: Vec::new(),
            cable: None,
            clock: None,
        }
    }

    pub fn file(mut self, from: impl Into<PathBuf>, to: &str, mode: u32) -> Self {
        self.files.push((from.into(), to.into(), mode));
        self
    }

    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }
}

/// A cable between two machines; each end becomes `eth0` of one.
pub struct Cable;

pub struct CableEnd {
    mine: PathBuf,
    other: PathBuf,
    mac: String,
}

impl Cable {
    pub fn lay() -> Result<(CableEnd, CableEnd)> {
        let folder = runs();
        fs::create_dir_all(&folder)?;
        let id = unique("cable");
        let (a, b) = (folder.join(format!("{id}-a")), folder.join(format!("{id}-b")));
        let end = |mine: &Path, other: &Path, last: u8| CableEnd {
            mine: mine.to_owned(),
            other: other.to_owned(),
            mac: format!("52:54:00:00:00:{last:02x}"),
        };
        Ok((end(&a, &b, 1), end(&b, &a, 2)))
    }
}

/// Sockets and disks of running machines. Not under target/: a socket's path has at most 107 bytes.
fn runs() -> PathBuf {
    PathBuf::from("/var/tmp/kedge-tests")
}

pub struct Machine {
    pub spec: MachineSpec,
    kernel: Kernel,
    folder: PathBuf,
    fuse: Fuse,
    power: Option<Power>,
}

/// What exists only while the machine is on.
struct Power {
    emulator: Child,
    disk: Disk,
    commands: BufReader<UnixStream>,
    /// What processes in the machine write to `/dev/machine-stream`.
    stream: Option<UnixStream>,
}

impl Machine {
    /// Makes the disk, switches the machine on and waits until it takes commands.
    pub fn boot(spec: MachineSpec) -> Result<Self> {
        let kernel = Kernel::fetch(spec.arch)?;
        let folder = runs().join(unique("vm"));
        let machine = Self { spec, kernel, folder, fuse: Fuse::new(), power: None };
        machine.make_disk().context("the machine's disk")?;
        let mut machine = machine;
        machine.power_on()?;
        Ok(machine)
    }

    fn make_disk(&self) -> Result<()> {
        let staged = self.folder.join("root");
        fs::create_dir_all(&staged)?;
        let root = match &self.spec.system {
            System::Busybox => {
                boot::lay_out_busybox(&self.kernel, &self.spec.name, &staged)?;
                "/sbin/machine-init"
            }
            System::Debian(folder) => {
                sh("cp", &["-a", &format!("{}/.", folder.display()), &staged.display().to_string()])?;
                boot::add_to_systemd(&staged)?;
                "/sbin/init"
            }
        };
        for (from, to, mode) in &self.spec.files {
            let to = staged.join(to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().context("a file of the machine lies in a folder")?)?;
            fs::copy(from, &to).with_context(|| from.display().to_string())?;
            fs::set_permissions(&to, fs::Permissions::from_mode(*mode))?;
        }
        make(&staged, &self.folder.join("disk"), self.spec.disk_mib)?;
        fs::remove_dir_all(&staged)?;
        boot::write_initramfs(&self.kernel, root, &self.spec.modules, &self.folder.join("initramfs"))
    }

    /// Switches the machine on with the disk as it is.
    pub fn power_on(&mut self) -> Result<()> {
        if self.power.is_some() {
            bail!("{} is on", self.spec.name);
        }
        let at = |name: &str| self.folder.join(name);
        let listen = |name: &str| -> Result<UnixListener> {
            let _ = fs::remove_file(at(name));
            UnixListener::bind(at(name)).with_context(|| at(name).display().to_string())
        };
        let (commands, stream) = (listen("commands")?, listen("stream")?);
        self.fuse = Fuse::new();
        let disk = Disk::plug(&at("disk"), &at("disk.socket"), self.fuse.clone())?;
        let log = fs::File::create(at("emulator.log"))?;
        let mut emulator = self
            .emulator()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("qemu is needed (qemu-system-x86, qemu-system-arm)")?;
        let connected = accept(&commands, &mut emulator).and_then(|c| Ok((c, accept(&stream, &mut emulator)?)));
        let (commands, stream) = match connected {
            Ok(lines) => lines,
            Err(error) => {
                let _ = emulator.kill();
                let _ = emulator.wait();
                let _ = disk.unplug();
                return Err(error.context(fs::read_to_string(at("emulator.log")).unwrap_or_default()));
            }
        };
        self.power = Some(Power { emulator, disk, commands: BufReader::new(commands), stream: Some(stream) });
        let ready = self.answer_line(BOOT).with_context(|| format!("{} does not boot", self.spec.name))?;
        if ready != "ready" {
            bail!("{} said {ready:?} at boot", self.spec.name);
        }
        Ok(())
    }

    fn emulator(&self) -> Command {
        let spec = &self.spec;
        let path = |name: &str| self.folder.join(name).display().to_string();
        // An emulator must not outlive a test that was interrupted.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        let console = match spec.arch {
            Arch::X86_64 => {
                command.args(["qemu-system-x86_64", "-M", "q35", "-cpu", "max"]);
                "ttyS0"
            }
            Arch::Aarch64 => {
                // The core of a Raspberry Pi 4.
                command.args(["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72"]);
                "ttyAMA0"
            }
        };
        command
            .args(["-accel", "tcg,thread=multi", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-m", &spec.memory_mib.to_string(), "-smp", &spec.cpus.to_string()])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .args(["-initrd", &path("initramfs")])
            .args(["-append", &format!("console={console} panic=-1 loglevel=4 random.trust_cpu=on net.ifnames=0")])
            .args(["-serial", &format!("file:{}", path("console.log"))])
            .args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"])
            .args(["-chardev", &format!("socket,id=commands,path={}", path("commands"))])
            .args(["-device", "virtserialport,chardev=commands,nr=1,name=commands"])
            .args(["-chardev", &format!("socket,id=stream,path={}", path("stream"))])
            .args(["-device", "virtserialport,chardev=stream,nr=2,name=stream"])
            .arg("-blockdev")
            .arg(format!("driver=nbd,node-name=disk,server.type=unix,server.path={}", path("disk.socket")))
            .args(["-device", &format!("virtio-blk-pci,drive=disk,write-cache=on,physical_block_size={BLOCK}")]);
        if let Some(clock) = &spec.clock {
            command.args(["-rtc", &format!("base={clock}")]);
        }
        match &spec.cable {
            None => {
                command.args(["-nic", "none"]);
            }
            Some(CableEnd { mine, other, mac }) => {
                let (mine, other) = (mine.display(), other.display());
                command
                    .arg("-netdev")
                    .arg(format!(
                        "dgram,id=cable,local.type=unix,local.path={mine},remote.type=unix,remote.path={other}"
                    ))
                    .args(["-device", &format!("virtio-net-pci,netdev=cable,mac={mac}")]);
            }
        }
        command
    }

    fn power(&mut self) -> Result<&mut Power> {
        let name = &self.spec.name;
        self.power.as_mut().with_context(|| format!("{name} is off"))
    }

    /// Runs a shell line in the machine to its end, which must come within `deadline`. What it leaves in the background
    /// must have its output elsewhere.
    pub fn run_within(&mut self, line: &str, deadline: Duration) -> Result<Output> {
        self.send(&format!("run {}\n", line.len()), line.as_bytes())?;
        self.answer(deadline).with_context(|| format!("on {}: `{line}`", self.spec.name))
    }

    /// Runs a shell line in the machine to its end.
    pub fn run(&mut self, line: &str) -> Result<Output> {
        self.run_within(line, COMMAND)
    }

    /// As [`Machine::run`]; a failure is an error that says what was printed. Returns standard output.
    pub fn must(&mut self, line: &str) -> Result<String> {
        let Output { code, stdout, stderr } = self.run(line)?;
        if code != 0 {
            bail!("on {}: `{line}` exited with {code}: {stdout}{stderr}", self.spec.name);
        }
        Ok(stdout)
    }

    /// Runs a shell line until it succeeds; returns its standard output. The error says what it printed last.
    pub fn until(&mut self, what: &str, deadline: Duration, line: &str) -> Result<String> {
        let mut last = String::new();
        let outcome = wait::until(what, deadline, || {
            let output = self.run(line)?;
            last = format!("{}{}", output.stdout, output.stderr);
            Ok((output.code == 0).then_some(output.stdout))
        });
        outcome.with_context(|| format!("on {}: `{line}`: {last}", self.spec.name))
    }

    /// Copies a file of this computer into the running machine.
    pub fn push(&mut self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let bytes = fs::read(from).with_context(|| from.display().to_string())?;
        self.send(&format!("push {} {mode:o} {to}\n", bytes.len()), &bytes)?;
        let Output { code, stderr, .. } = self.answer(COMMAND)?;
        if code != 0 {
            bail!("on {}: {to}: {stderr}", self.spec.name);
        }
        Ok(())
    }

    fn send(&mut self, header: &str, bytes: &[u8]) -> Result<()> {
        let line = self.power()?.commands.get_mut();
        line.write_all(header.as_bytes())?;
        Ok(line.write_all(bytes)?)
    }

    fn answer(&mut self, deadline: Duration) -> Result<Output> {
        let line = self.answer_line(deadline)?;
        let mut fields = line.split(' ').map(str::parse::<usize>);
        let (Some(Ok(code)), Some(Ok(out)), Some(Ok(err))) = (fields.next(), fields.next(), fields.next()) else {
            bail!("{} answered {line:?}", self.spec.name);
        };
        let commands = &mut self.power()?.commands;
        let (mut stdout, mut stderr) = (vec![0; out], vec![0; err]);
        commands.read_exact(&mut stdout)?;
        commands.read_exact(&mut stderr)?;
        Ok(Output {
            code: i32::try_from(code)?,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    fn answer_line(&mut self, deadline: Duration) -> Result<String> {
        let commands = &mut self.power()?.commands;
        commands.get_ref().set_read_timeout(Some(deadline))?;
        let mut line = String::new();
        match commands.read_line(&mut line) {
            Ok(0) => bail!("the machine ended; its console:\n{}", self.console()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => {
                bail!("no answer within {} s ({error}); the console:\n{}", deadline.as_secs(), self.console())
            }
        }
    }

    /// The end of what the machine printed on its console.
    pub fn console(&self) -> String {
        let text = fs::read(self.folder.join("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
    }

    /// What processes in the machine write to `/dev/machine-stream` from now on; one reader for each boot. It ends when the power
    /// does, after everything that left the machine before. Nothing for [`COMMAND`] is an error.
    pub fn stream(&mut self) -> Result<BufReader<UnixStream>> {
        let name = self.spec.name.clone();
        let stream = self.power()?.stream.take().with_context(|| format!("the stream of {name} is read already"))?;
        stream.set_read_timeout(Some(COMMAND))?;
        Ok(BufReader::new(stream))
    }

    /// Cuts the power at the `requests`-th request to the disk from now on, which may be in the middle of a commit. Needs
    /// something in the machine that keeps writing.
    pub fn cut_power_after(&mut self, requests: u64) -> Result<Lost> {
        self.fuse.blow_after(requests);
        wait::until("the disk to be used", COMMAND, || Ok(self.fuse.blown().then_some(())))?;
        self.cut_power()
    }

    /// Kills the machine. Of what it wrote and did not flush, some is lost.
    pub fn cut_power(&mut self) -> Result<Lost> {
        let mut power = self.power.take().context("the machine is off")?;
        sh("kill", &["-KILL", &power.emulator.id().to_string()])?;
        power.emulator.wait()?;
        power.disk.unplug()
    }

    /// Shuts the machine down in an orderly way and waits until it is off.
    pub fn power_off(&mut self) -> Result<()> {
        let line = match self.spec.system {
            System::Busybox => "sync; mount -o remount,ro /; poweroff -f",
            System::Debian(_) => "systemctl poweroff",
        };
        self.send(&format!("run {}\n", line.len()), line.as_bytes())?;
        let mut power = self.power.take().context("the machine is off")?;
        wait::until("the machine to be off", COMMAND, || Ok(power.emulator.try_wait()?))?;
        power.disk.unplug().map(drop)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- console of {}\n{}", self.spec.name, self.console());
        }
        if let Some(mut power) = self.power.take() {
            let _ = power.emulator.kill();
            let _ = power.emulator.wait();
            let _ = power.disk.unplug();
        }
        if let Some(cable) = &self.spec.cable {
            let _ = fs::remove_file(&cable.mine);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits for the emulator to connect, or to end.
fn accept(listener: &UnixListener, emulator: &mut Child) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let stream = wait::until("the emulator to start", END, || match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => match emulator.try_wait()? {
            Some(status) => bail!("the emulator ended: {status}"),
            None => Ok(None),
        },
        Err(error) => Err(error.into()),
    })?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The static binary of Kedge for `arch`, as `cargo xtask dist` makes it: in `KEDGE_DIST`, else in this checkout.
pub fn dist(arch: Arch) -> Result<PathBuf> {
    let folder = std::env::var_os("KEDGE_DIST").map_or_else(|| checkout().join("target/dist"), PathBuf::from);
    let binary = folder.join(format!("kedge-{}", arch.name()));
    if !binary.exists() {
        bail!("{} is not there: run `cargo xtask dist x86_64 aarch64`, or set KEDGE_DIST", binary.display());
    }
    Ok(binary)
}
