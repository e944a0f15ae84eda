//! Whether anything is going on over a connection, so that one that says nothing can be closed.
//!
//! What never lives here: a socket, a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// A client that has not sent the first request in this time is none. Source: upstream's `ReadHeaderTimeout` of 32 s.
const FIRST_REQUEST_SECONDS: u64 = 30;
/// A connection over which nothing is asked for so long is closed. Source: upstream's `IdleTimeout`.
const IDLE_SECONDS: u64 = 90;

/// What goes on over one connection. Watches count as long as they are open.
#[derive(Debug, Default)]
pub struct Activity {
    open: AtomicUsize,
    begun: AtomicUsize,
    /// The last open request is over.
    quiet: Notify,
}

impl Activity {
    /// A request has come; it is open until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> Open {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        Open(self.clone())
    }

    /// Returns when nothing has gone on for too long.
    pub async fn over(&self) {
        loop {
            while self.open.load(Ordering::SeqCst) > 0 {
                self.quiet.notified().await;
            }
            let begun = self.begun.load(Ordering::SeqCst);
            let seconds = if begun == 0 { FIRST_REQUEST_SECONDS } else { IDLE_SECONDS };
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            if self.open.load(Ordering::SeqCst) == 0 && self.begun.load(Ordering::SeqCst) == begun {
                return;
            }
        }
    }
}

/// A request that is open; a response's body holds it until it is sent or abandoned.
#[derive(Debug)]
pub struct Open(Arc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.quiet.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_over_when_nothing_goes_on() {
        let seconds = |from: tokio::time::Instant| from.elapsed().as_secs();
        let start = tokio::time::Instant::now();
        let activity = Arc::new(Activity::default());
        activity.over().await;
        assert_eq!(seconds(start), FIRST_REQUEST_SECONDS, "nothing was ever asked");

        // A watch is open for an hour; another request comes while the connection is idle.
        let start = tokio::time::Instant::now();
        let watch = activity.begin();
        let other = activity.clone();
        let later = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            drop(watch);
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(other.begin());
        });
        activity.over().await;
        later.await.unwrap();
        // Looked at when the first wait ends, at 3690 s, and again 90 s later.
        assert_eq!(seconds(start), 3600 + 2 * IDLE_SECONDS);
    }
}
