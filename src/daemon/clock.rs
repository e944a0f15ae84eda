//! The clocks of the composition root; everything below is given the time as a value or a function.

use jiff::Timestamp;

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "this is where the wall clock enters the server")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is where the monotonic clock enters the daemon")]
pub fn monotonic() -> std::time::Instant {
    std::time::Instant::now()
}
