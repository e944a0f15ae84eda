//! What a run did, in one number: two runs of a seed must agree in it.

/// FNV-1a, continued from `from`.
pub fn hash(from: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(from ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
