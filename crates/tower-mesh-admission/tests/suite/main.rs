//! Admission around services.
#![allow(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests own the tasks that they spawn, and measure real time")]

mod adaptive;
mod limit;
mod overload;
mod priority;
mod reload;
mod success_rate;
mod waiting;

use std::time::Duration;

use tower_mesh_admission::{LimitConfig, OverloadReason, Overloaded};
use tower_mesh_core::{BoxError, Tick, error};
use tower_mesh_test::Inner;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn now() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}

/// Takes as many milliseconds as it is asked to.
fn sleeper() -> Inner<u64, u64> {
    Inner::new(|_, time| async move {
        tokio::time::sleep(ms(time)).await;
        Ok(time)
    })
}

fn fixed(calls: u32) -> LimitConfig {
    LimitConfig::fixed(calls).unwrap()
}

/// Why a call was refused; none if it has an answer.
///
/// # Panics
/// When it failed otherwise.
fn refusal<T>(answer: Result<T, BoxError>) -> Option<OverloadReason> {
    answer.err().map(|error| match error::find::<Overloaded>(&*error) {
        Some(overloaded) => overloaded.reason(),
        None => panic!("{error}"),
    })
}
