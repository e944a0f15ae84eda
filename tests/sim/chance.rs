//! All chance of a simulation, drawn from its seed: what the scenario and the faults decide by, and what the program under
//! test takes for the kernel's generator (uids, name suffixes, jitter, the order of hash maps).

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    /// What [`getrandom`] draws from on this thread. A simulation has a thread of its own.
    static KERNEL: Cell<Chance> = const { Cell::new(Chance(0x6b65_6467_6573_696d)) };
}

/// Makes the kernel's generator, as this thread sees it, begin at `seed`. Must be called before the thread has drawn from it.
pub fn seed_kernel(seed: u64) {
    KERNEL.set(Chance::new(seed, "kernel"));
}

/// Stands in for the C library's function of this name throughout the test binary, the standard library's use of it (the keys of
/// hash maps) included.
///
/// # Safety
/// `into` must be valid for writes of `length` bytes.
// JUSTIFICATION: the seed must reach what the standard library and the dependencies draw, which no safe code can replace.
// SAFETY: the name is that of a function of the C library, whose promise it keeps: it fills the buffer and says how far.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(into: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller vouches for the buffer, as that of the C library's function does.
    let buffer = unsafe { std::slice::from_raw_parts_mut(into, length) };
    let mut chance = KERNEL.get();
    for chunk in buffer.chunks_mut(8) {
        chunk.copy_from_slice(&chance.draw().to_le_bytes()[..chunk.len()]);
    }
    KERNEL.set(chance);
    length.try_into().unwrap_or(isize::MAX)
}

/// A stream of numbers. Source: SplitMix64, Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014).
#[derive(Debug, Clone, Copy)]
pub struct Chance(u64);

impl Chance {
    /// The stream of this purpose: streams do not shift each other.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self(crate::trace::hash(seed ^ 0x9e37_79b9_7f4a_7c15, purpose.as_bytes()))
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `from..=to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.draw() % (to - from + 1)
    }

    /// Whether one of so many thousands of cases is this.
    pub fn permille(&mut self, of: u64) -> bool {
        self.draw() % 1000 < of
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.draw() as usize % from.len()]
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.between(from, to))
    }
}
