//! The disk of a test machine: an ext4 image behind a write cache that forgets.
//!
//! Killing an emulator alone would be kind: all that the guest ever wrote would be in this machine's page cache. Real disks
//! lose what was not flushed, and not in order. So the image is served to the emulator over NBD by a [`Disk`] that keeps
//! writes in memory until the guest flushes (or writes with FUA). When the power goes, each block that was not flushed
//! survives or not by lot. The power can also be cut at the n-th request, which is in the middle of a commit.
//! Source: <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};

use crate::machine_kernel::run;

const SECTOR: u64 = 512;
/// What survives or is lost as a whole: the physical sector of today's disks and the least page of flash. Torn below that,
/// ext4's own superblock (1 KiB, written in place) would not be mountable, which says nothing about Kedge.
pub(crate) const BLOCK: u64 = 4096;
/// A disk may write its cache back whenever it likes; this one does when it holds 64 MiB, more than real ones have.
const CACHE_SECTORS_MAX: usize = (64 << 20) / SECTOR as usize;
/// The longest request that a client may send without asking first.
const REQUEST_BYTES_MAX: u32 = 32 << 20;
/// The power is on for as many requests as there will ever be.
const NEVER: u64 = u64::MAX;

/// Makes an ext4 image with the content of `root`, without mounting anything.
pub(crate) fn make(root: &Path, image: &Path, size_mib: u64) -> Result<()> {
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0,nodiscard,lazy_itable_init=0"]);
    run(command.arg("-d").arg(root).arg(image).arg(format!("{size_mib}M"))).map(drop)
}

/// When the power goes.
#[derive(Clone)]
pub(crate) struct Fuse(Arc<AtomicU64>);

impl Fuse {
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NEVER)))
    }

    /// Blows at the `requests`-th request from now on.
    pub fn blow_after(&self, requests: u64) {
        self.0.store(requests, Ordering::SeqCst);
    }

    pub fn blown(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }

    /// Counts one request; false when it is the one that is never answered.
    fn holds(&self) -> bool {
        let count = |left: u64| Some(if left == NEVER { NEVER } else { left.saturating_sub(1) });
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count).unwrap_or(NEVER) > 1
    }
}

/// What a power cut did to the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Sectors that were written and not flushed, and are as they were before.
    pub lost: usize,
    /// Those that made it to the disk all the same.
    pub survived: usize,
}

/// A disk that is plugged in: serves one emulator until that goes away.
pub(crate) struct Disk {
    socket: PathBuf,
    server: JoinHandle<Result<Lost>>,
}

impl Disk {
    pub fn plug(image: &Path, socket: &Path, fuse: Fuse) -> Result<Self> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
        let image = File::options().read(true).write(true).open(image)?;
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            let mut cache = Cache { sectors: BTreeMap::new(), size: image.metadata()?.len(), image };
            let served = serve(stream, &mut cache, &fuse);
            let lost = cache.power_off()?;
            served.map(|()| lost)
        });
        Ok(Self { socket: socket.to_owned(), server })
    }

    /// To be called once the emulator is gone: waits until the lots are drawn.
    pub fn unplug(self) -> Result<Lost> {
        drop(UnixStream::connect(&self.socket)); // an emulator that never came would be waited for
        self.server.join().map_err(|_| anyhow::anyhow!("the disk's thread panicked"))?
    }
}

/// The image with what was written to it and not flushed.
struct Cache {
    image: File,
    size: u64,
    sectors: BTreeMap<u64, Box<[u8]>>,
}

impl Cache {
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.image.read_exact_at(into, offset)?;
        let first = offset / SECTOR;
        for (sector, bytes) in self.sectors.range(first..first + into.len() as u64 / SECTOR) {
            let at = ((sector - first) * SECTOR) as usize;
            into[at..at + SECTOR as usize].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        for (i, sector) in bytes.chunks(SECTOR as usize).enumerate() {
            self.sectors.insert(offset / SECTOR + i as u64, sector.into());
        }
        if self.sectors.len() > CACHE_SECTORS_MAX { self.flush() } else { Ok(()) }
    }

    /// Force unit access: on the disk before it is answered, whatever else waits in the cache.
    fn write_through(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let first = offset / SECTOR;
        for sector in first..first + bytes.len() as u64 / SECTOR {
            self.sectors.remove(&sector);
        }
        Ok(self.image.write_all_at(bytes, offset)?)
    }

    fn flush(&mut self) -> Result<()> {
        for (sector, bytes) in std::mem::take(&mut self.sectors) {
            self.image.write_all_at(&bytes, sector * SECTOR)?;
        }
        Ok(())
    }

    fn power_off(&mut self) -> Result<Lost> {
        let lots = RandomState::new(); // keys of its own each time
        let mut outcome = Lost::default();
        for (sector, bytes) in std::mem::take(&mut self.sectors) {
            if lots.hash_one(sector / (BLOCK / SECTOR)) & 1 == 0 {
                self.image.write_all_at(&bytes, sector * SECTOR)?;
                outcome.survived += 1;
            } else {
                outcome.lost += 1;
            }
        }
        Ok(outcome)
    }
}

/// Answers requests until the emulator goes away; none once the fuse has blown.
fn serve(mut stream: UnixStream, cache: &mut Cache, fuse: &Fuse) -> Result<()> {
    const READ: u16 = 0;
    const WRITE: u16 = 1;
    const DISCONNECT: u16 = 2;
    const FLUSH: u16 = 3;
    const FUA: u16 = 1;
    if !shake_hands(&mut stream, cache.size)? {
        return Ok(());
    }
    loop {
        let mut header = [0; 28];
        match stream.read_exact(&mut header) {
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Ok(());
            }
            read => read?,
        }
        let (magic, flags, verb) = (be32(&header[0..4]), be16(&header[4..6]), be16(&header[6..8]));
        let (offset, length) = (be64(&header[16..24]), be32(&header[24..28]));
        if magic != 0x2560_9513 || length > REQUEST_BYTES_MAX || offset.saturating_add(length.into()) > cache.size {
            bail!("the emulator sent a request that no disk takes: verb {verb}, {length} bytes at {offset}");
        }
        if !fuse.holds() {
            // Silence, not an error: the guest could act on an error, while nobody acts after a power cut.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
            return Ok(());
        }
        let mut data = Vec::new();
        match verb {
            READ => {
                data.resize(length as usize, 0);
                cache.read(offset, &mut data)?;
            }
            WRITE => {
                let mut bytes = vec![0; length as usize];
                if stream.read_exact(&mut bytes).is_err() {
                    return Ok(()); // the emulator was killed while it wrote
                }
                match flags & FUA {
                    0 => cache.write(offset, &bytes)?,
                    _ => cache.write_through(offset, &bytes)?,
                }
            }
            DISCONNECT => return Ok(()),
            FLUSH => cache.flush()?,
            other => bail!("the emulator sent verb {other}, which was not offered"),
        }
        let mut answer = 0x6744_6698_u32.to_be_bytes().to_vec();
        answer.extend_from_slice(&0_u32.to_be_bytes());
        answer.extend_from_slice(&header[8..16]); // its name for the request
        answer.extend_from_slice(&data);
        if stream.write_all(&answer).is_err() {
            return Ok(());
        }
    }
}

/// The fixed newstyle handshake; false when the client only looked.
fn shake_hands(stream: &mut UnixStream, size: u64) -> Result<bool> {
    const OPTION: u64 = 0x4948_4156_454F_5054; // "IHAVEOPT"
    const ABORT: u32 = 2;
    const GO: u32 = 7;
    const UNSUPPORTED: u32 = (1 << 31) | 1;
    const HAS_FLAGS_FLUSH_FUA: u16 = 1 | 4 | 8;
    stream.write_all(b"NBDMAGICIHAVEOPT")?;
    stream.write_all(&3_u16.to_be_bytes())?; // fixed newstyle, no zeroes
    let mut client_flags = [0; 4];
    match stream.read_exact(&mut client_flags) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        read => read?,
    }
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let (option, length) = (be32(&header[8..12]), be32(&header[12..16]));
        if be64(&header[0..8]) != OPTION || length > REQUEST_BYTES_MAX {
            bail!("the emulator does not speak NBD");
        }
        stream.read_exact(&mut vec![0; length as usize])?;
        let mut reply = |kind: u32, data: &[u8]| -> Result<()> {
            let mut bytes = 0x0003_E889_0455_65A9_u64.to_be_bytes().to_vec();
            for field in [option, kind, data.len() as u32] {
                bytes.extend_from_slice(&field.to_be_bytes());
            }
            bytes.extend_from_slice(data);
            Ok(stream.write_all(&bytes)?)
        };
        match option {
            GO => {
                let mut export = vec![0, 0];
                export.extend_from_slice(&size.to_be_bytes());
                export.extend_from_slice(&HAS_FLAGS_FLUSH_FUA.to_be_bytes());
                reply(3, &export)?;
                reply(1, &[])?;
                return Ok(true);
            }
            ABORT => {
                reply(1, &[])?;
                return Ok(false);
            }
            _ => reply(UNSUPPORTED, &[])?,
        }
    }
}

fn be16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |n, b| n << 8 | u16::from(*b))
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b))
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_flushed_stays_and_what_was_not_is_drawn_by_lot() {
        const SECTORS: u64 = 256;
        let path = std::env::temp_dir().join(crate::unique("kedge-disk"));
        std::fs::write(&path, vec![0; (SECTORS * SECTOR) as usize]).unwrap();
        let image = File::options().read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut cache = Cache { image, size: SECTORS * SECTOR, sectors: BTreeMap::new() };
        let all = |byte: u8| vec![byte; (SECTORS * SECTOR) as usize];
        cache.write(0, &all(1)).unwrap();
        cache.flush().unwrap();
        cache.write(0, &all(2)).unwrap();
        cache.write_through(SECTOR, &[3; SECTOR as usize]).unwrap();
        let mut seen = all(0);
        cache.read(0, &mut seen).unwrap();
        assert_eq!((seen[0], seen[SECTOR as usize], seen[2 * SECTOR as usize]), (2, 3, 2));

        let Lost { lost, survived } = cache.power_off().unwrap();
        assert_eq!(lost + survived, SECTORS as usize - 1);
        assert!(lost > 0 && survived > 0, "{lost} lost, {survived} survived");
        cache.read(0, &mut seen).unwrap();
        let count = |byte| seen.chunks(SECTOR as usize).filter(|s| s.iter().all(|b| *b == byte)).count();
        assert_eq!((count(1), count(2), count(3)), (lost, survived, 1));
    }

    #[test]
    fn a_fuse_blows_at_the_request_that_was_named() {
        let fuse = Fuse::new();
        assert!((0..1000).all(|_| fuse.holds()));
        fuse.blow_after(3);
        assert_eq!([fuse.holds(), fuse.holds()], [true, true]);
        assert!(!fuse.blown());
        assert_eq!([fuse.holds(), fuse.holds()], [false, false]);
        assert!(fuse.blown());
    }
}
