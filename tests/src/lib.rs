//! What the test targets share: the layers under test, each around the kit's inner service, and a response that streams.

mod streaming;
mod subjects;

pub use streaming::{Body, Guarded, Head, Streams};
pub use subjects::{
    ALL, Query, Subject, Wrap, admission, balance, breaker, circuit_of, composed, deadline, discovery,
    health, hedge, retry,
};

use std::time::Duration;

use tower_mesh_core::Tick;

/// The layers' clock.
pub fn now() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}

/// Whole seconds.
pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Whole milliseconds.
pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Lets every task that can run do so, without time passing.
pub async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
