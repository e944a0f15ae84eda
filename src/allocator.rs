//! mimalloc in the daemon and in user verbs, the system's allocator in shims: musl's malloc is ten times slower under
//! threads, and a shim of one thread must stay at tens of kilobytes.
//!
//! Huge pages are off outside of shims: mimalloc asks for them, and on an idle server nine tenths of each would be air.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

struct ByVerb;

#[global_allocator]
static ALLOCATOR: ByVerb = ByVerb;

/// Set before the first allocation of the process and never again.
static IS_SHIM: AtomicBool = AtomicBool::new(false);

/// Bytes to which any allocation of as many is aligned, as C promises of `malloc`. Source: mimalloc `include/mimalloc/types.h`
/// `MI_MAX_ALIGN_SIZE`. The calls that take an alignment allocate more than is asked for and take a slower path.
const MALLOC_ALIGNS: usize = 16;

/// Whether `size` bytes need no call that takes an alignment.
#[inline(always)]
fn is_plain(size: usize, layout: Layout) -> bool {
    layout.align() <= MALLOC_ALIGNS && layout.align() <= size
}

// JUSTIFICATION: choosing an allocator at run time is only possible by implementing `GlobalAlloc`.
// SAFETY: every call is handed on, and always to the same allocator, because `IS_SHIM` is settled by a constructor that runs
// before Rust's runtime allocates anything; what comes back is aligned, see `MALLOC_ALIGNS`.
unsafe impl GlobalAlloc for ByVerb {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps GlobalAlloc's contract, which is handed on.
        unsafe {
            if IS_SHIM.load(Ordering::Relaxed) {
                System.alloc(layout)
            } else if is_plain(layout.size(), layout) {
                mi_malloc(layout.size()).cast()
            } else {
                mi_malloc_aligned(layout.size(), layout.align()).cast()
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if IS_SHIM.load(Ordering::Relaxed) {
                System.alloc_zeroed(layout)
            } else if is_plain(layout.size(), layout) {
                mi_zalloc(layout.size()).cast()
            } else {
                mi_zalloc_aligned(layout.size(), layout.align()).cast()
            }
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe {
            if IS_SHIM.load(Ordering::Relaxed) {
                System.dealloc(pointer, layout);
            } else {
                mi_free(pointer.cast());
            }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if IS_SHIM.load(Ordering::Relaxed) {
                System.realloc(pointer, layout, size)
            } else if is_plain(size, layout) {
                mi_realloc(pointer.cast(), size).cast()
            } else {
                mi_realloc_aligned(pointer.cast(), size, layout.align()).cast()
            }
        }
    }
}

unsafe extern "C" {
    fn mi_collect(force: bool);
}

/// Gives back to the kernel what mimalloc keeps ready for the calling thread, and what other threads gave back to it.
pub fn collect() {
    // JUSTIFICATION: the crate has no call for it.
    // SAFETY: mimalloc may be called by any thread at any time; memory that is in use is not touched. It is linked: it is
    // the allocator. In a shim it has nothing.
    unsafe { mi_collect(true) }
}

// JUSTIFICATION: no code of Rust's own runs before its runtime allocates; the loader's list of constructors does.
// SAFETY: the entry is a plain function pointer of the type that the loader calls, and nothing else lies in the section.
#[used]
#[unsafe(link_section = ".init_array")]
static SETTLE: extern "C" fn() = settle;

/// Reads the verb from `/proc/self/cmdline` with system calls alone.
extern "C" fn settle() {
    let mut buffer = [0u8; 4096];
    // JUSTIFICATION: the standard library's files may allocate; these calls do not.
    // SAFETY: the path is a C string, the buffer is as long as is said, and the descriptor is closed once.
    let count = unsafe {
        let fd = libc::open(c"/proc/self/cmdline".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return;
        }
        let count = libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len());
        libc::close(fd);
        count
    };
    let line = &buffer[..usize::try_from(count).unwrap_or(0)];
    let is_shim = line.split(|b| *b == 0).nth(1) == Some(super::SHIM.as_bytes());
    IS_SHIM.store(is_shim, Ordering::Relaxed);
    // Children inherit it, across exec too: a shim takes it back, so that a pod's processes have what the host gives.
    // JUSTIFICATION: nix has no call for it, and nothing may allocate yet. It can fail only by leaving things as they are.
    // SAFETY: this option takes a number and three zeroes, and touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(!is_shim), 0, 0, 0) };
}
