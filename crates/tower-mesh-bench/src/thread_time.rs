//! What Linux tells of the thread that asks: how long it has run, and how long it could have run and did not.

use std::time::Duration;

/// Processor time so far.
pub(crate) fn processor() -> Option<Duration> {
    field(0)
}

/// Time so far in which it waited for a processor that somebody else had. Waiting for a lock is none of it.
pub(crate) fn kept_waiting() -> Option<Duration> {
    field(1)
}

/// How often it has gone to sleep of itself so far: to wait for work, or for a lock.
pub(crate) fn sleeps() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

fn field(n: usize) -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().nth(n)?.parse().ok().map(Duration::from_nanos)
}
