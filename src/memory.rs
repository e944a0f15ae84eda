//! `memcpy`, `memmove`, `memcmp` and `bcmp` of the static binary.
//!
//! musl compares one byte at a time, moves towards higher addresses one byte at a time, and starts a string instruction for
//! every copy on x86-64, which takes longer than most copies: a tenth of a create's time in the server. These move and compare
//! sixteen and eight bytes at a time with what every processor of the architecture has. musl's `memset` is good as it is.
//!
//! What never lives here: a loop that the compiler could take for one of these functions and replace by a call of itself; that is
//! what [`opaque`] is for.

#[cfg(target_arch = "aarch64")]
use core::arch::aarch64::uint8x16_t as Block;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::__m128i as Block;
use core::cmp::Ordering;

/// Bytes of a [`Block`].
const BLOCK: usize = size_of::<Block>();
/// Bytes that a long move takes at once, and that it begins or ends with.
const STEP: usize = 4 * BLOCK;

/// A copy of any bytes in a register.
#[inline(always)]
unsafe fn load<T: Copy>(from: *const u8) -> T {
    // SAFETY: the caller says that so many bytes may be read; any bytes are an integer or a vector of integers.
    unsafe { from.cast::<T>().read_unaligned() }
}

#[inline(always)]
unsafe fn store<T: Copy>(to: *mut u8, value: T) {
    // SAFETY: the caller says that so many bytes may be written.
    unsafe { to.cast::<T>().write_unaligned(value) }
}

/// Two overlapping halves, both read before either is written.
#[inline(always)]
unsafe fn halves<T: Copy>(to: *mut u8, from: *const u8, length: usize) {
    let last = length - size_of::<T>();
    // SAFETY: `length` is at least the size of `T` and at most twice that, and so much may be read and written.
    unsafe {
        let (head, tail): (T, T) = (load(from), load(from.add(last)));
        store(to, head);
        store(to.add(last), tail);
    }
}

/// Keeps the compiler from seeing a loop of moves as one move.
#[inline(always)]
fn opaque() {
    // SAFETY: does nothing.
    unsafe { core::arch::asm!("", options(nostack, preserves_flags)) }
}

/// Moves `length` bytes, which may overlap.
///
/// # Safety
/// So many bytes may be read at `from` and written at `to`.
unsafe extern "C" fn move_bytes(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: every access is within the `length` bytes that the caller speaks for; in each branch everything that a write could
    // overwrite has been read before it.
    unsafe {
        match length {
            0 => {}
            1 => store::<u8>(to, load(from)),
            2..=3 => halves::<u16>(to, from, length),
            4..=7 => halves::<u32>(to, from, length),
            8..=15 => halves::<u64>(to, from, length),
            16..=32 => halves::<Block>(to, from, length),
            33..=64 => halves::<[Block; 2]>(to, from, length),
            65..=128 => halves::<[Block; 4]>(to, from, length),
            // Backwards only when a write would reach what is still to be read.
            _ if to.addr().wrapping_sub(from.addr()) < length => move_backward(to, from, length),
            _ => move_forward(to, from, length),
        }
    }
    to
}

#[inline(always)]
unsafe fn move_forward(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: as in `move_bytes`; `length` is more than two steps. Written is always behind what has been read, because `to` is
    // below `from` or apart from it; the end is read first and written last.
    unsafe {
        let end: [Block; 4] = load(from.add(length - STEP));
        let mut at = 0;
        while at < length - STEP {
            store(to.add(at), load::<[Block; 4]>(from.add(at)));
            at += STEP;
            opaque();
        }
        store(to.add(length - STEP), end);
    }
}

#[inline(always)]
unsafe fn move_backward(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: as in `move_forward`, the other way round.
    unsafe {
        let start: [Block; 4] = load(from);
        let mut left = length;
        while left > STEP {
            left -= STEP;
            store(to.add(left), load::<[Block; 4]>(from.add(left)));
            opaque();
        }
        store(to, start);
    }
}

/// The order of the first bytes that differ: negative, zero, positive.
///
/// # Safety
/// `length` bytes may be read at both.
unsafe extern "C" fn compare_bytes(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: every read is within the `length` bytes that the caller speaks for.
    let (a, b): (u64, u64) = unsafe {
        match length {
            0 => return 0,
            1..=3 => (few(a, length), few(b, length)),
            4..=7 => (two(a, length), two(b, length)),
            _ => {
                let last = length - 8;
                let mut at = 0;
                loop {
                    let (x, y): (u64, u64) = (load(a.add(at)), load(b.add(at)));
                    if x != y || at == last {
                        break (u64::from_be(x), u64::from_be(y));
                    }
                    at = last.min(at + 8);
                }
            }
        }
    };
    match a.cmp(&b) {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    }
}

/// One to three bytes in their order, some of them twice.
#[inline(always)]
unsafe fn few(at: *const u8, length: usize) -> u64 {
    // SAFETY: within `length`, which is at least one.
    let [a, b, c]: [u8; 3] = unsafe { [load(at), load(at.add(length / 2)), load(at.add(length - 1))] };
    u64::from(a) << 16 | u64::from(b) << 8 | u64::from(c)
}

/// Four to seven bytes in their order, some of them twice.
#[inline(always)]
unsafe fn two(at: *const u8, length: usize) -> u64 {
    // SAFETY: within `length`, which is at least four.
    let [a, b]: [u32; 2] = unsafe { [load(at), load(at.add(length - 4))] };
    u64::from(u32::from_be(a)) << 32 | u64::from(u32::from_be(b))
}

/// The names by which the compiler and C call them. In assembly, because the optimizer would drop a function that nobody calls
/// yet, and call it afterwards. All four, so that the linker takes none of musl's. Not without optimization, where a move of a block may itself
/// be a call of `memcpy`.
#[cfg(all(target_env = "musl", not(debug_assertions), not(test)))]
mod names {
    macro_rules! name {
        ($($name:ident is $function:path;)*) => {$(
            // SAFETY: the function of C by this name, with its arguments and its promises.
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            unsafe extern "C" fn $name() {
                #[cfg(target_arch = "x86_64")]
                core::arch::naked_asm!("jmp {}", sym $function);
                #[cfg(target_arch = "aarch64")]
                core::arch::naked_asm!("b {}", sym $function);
            }
        )*};
    }
    name! {
        memcpy is super::move_bytes;
        memmove is super::move_bytes;
        memcmp is super::compare_bytes;
        bcmp is super::compare_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths around every branch.
    const LENGTHS: [usize; 29] = [
        0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 130, 191, 192, 193, 255, 256,
        257, 1000,
    ];

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    #[test]
    fn moves_as_slices_do() {
        for length in LENGTHS {
            // Apart, and overlapping by every distance in both directions.
            for from in [0, 1, 3, 15, 16, 17, 63, 64, 65, 100, 1100] {
                for to in [0, 1, 2, 16, 30, 64, 66, 129, 1100, 2200] {
                    let mut moved = bytes(4000);
                    let mut expected = moved.clone();
                    expected.copy_within(from..from + length, to);
                    let start = moved.as_mut_ptr();
                    // SAFETY: both ranges end before 4000.
                    let returned = unsafe { move_bytes(start.add(to), start.add(from).cast_const(), length) };
                    assert_eq!(returned.addr(), start.addr() + to);
                    assert!(moved == expected, "{length} bytes from {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn compares_as_slices_do() {
        for length in LENGTHS {
            let a = bytes(length);
            // SAFETY: as many bytes as there are.
            let compare = |a: &[u8], b: &[u8]| unsafe { compare_bytes(a.as_ptr(), b.as_ptr(), length) };
            assert_eq!(compare(&a, &a), 0, "{length}");
            for at in 0..length {
                for change in [1, 0x7f, 0x80, 0xff] {
                    let mut b = a.clone();
                    b[at] = b[at].wrapping_add(change);
                    // What comes after the first difference does not count.
                    for later in &mut b[at + 1..] {
                        *later = !*later;
                    }
                    assert_eq!(compare(&a, &b), a.cmp(&b) as i32, "{length} bytes, {at} differs by {change}");
                    assert_eq!(compare(&b, &a), b.cmp(&a) as i32, "{length} bytes, {at} differs by {change}");
                }
            }
        }
    }
}
