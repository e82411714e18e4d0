//! What looks a set over.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;
use tower_mesh_core::{LiveReader, Tick};

use super::config::OutlierConfig;
use super::set::Shared;
use crate::service::clock;

/// Looks a set over once each interval: a future to spawn or to poll, made by [`Outliers::new`](super::Outliers::new). It must run inside a tokio runtime with
/// time, and spawns nothing.
///
/// It ends when the last [`Outliers`](super::Outliers) and the last member are gone. Dropped before, it takes every ejected endpoint back, and from then on
/// none is ejected: nobody would be left who ends it.
pub struct OutlierDriver {
    shared: Arc<Shared>,
    reader: LiveReader<OutlierConfig>,
    interval: Duration,
    next: Option<Tick>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl OutlierDriver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let mut reader = shared.config.reader();
        let interval = reader.get().interval();
        Self { shared, reader, interval, next: None, sleep: None }
    }

    fn poll_until(&mut self, at: Tick, cx: &mut Context<'_>) -> Poll<()> {
        let at = tokio::time::Instant::from_std(at.instant());
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}

impl Future for OutlierDriver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // First of all: what changes from here on wakes us.
        this.shared.wake_on_news(cx.waker());
        loop {
            if this.shared.is_done() {
                return Poll::Ready(());
            }
            let config = **this.reader.get();
            if this.next.is_none() {
                this.shared.driver_runs();
            }
            if config.interval() != this.interval || this.next.is_none() {
                this.interval = config.interval();
                this.next = Some(clock() + this.interval);
            }
            let Some(at) = this.next else { return Poll::Pending };
            ready!(this.poll_until(at, cx));
            let now = clock();
            this.shared.sweep(&config, now);
            this.next = Some(now + this.interval);
        }
    }
}

impl Drop for OutlierDriver {
    fn drop(&mut self) {
        self.shared.driver_gone(clock());
    }
}

impl fmt::Debug for OutlierDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutlierDriver").field("next", &self.next).finish_non_exhaustive()
    }
}
