//! The window of successes and the chance of being refused by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tower_mesh_core::window::{Sample, TimeWindow, Window};
use tower_mesh_core::{Priority, Tick};

use crate::config::SuccessRateConfig;

pub(crate) struct Throttle {
    current: ArcSwap<Current>,
    refused: AtomicU64,
}

struct Current {
    config: SuccessRateConfig,
    window: Arc<Window>,
}

/// How finely the window slides.
const BUCKETS: u32 = 30;

impl Throttle {
    pub(crate) fn new(config: SuccessRateConfig, now: Tick) -> Self {
        let window = Arc::new(Window::Time(TimeWindow::new(config.window(), BUCKETS, now)));
        Self { current: ArcSwap::from_pointee(Current { config, window }), refused: AtomicU64::new(0) }
    }

    /// Whether a call is refused that comes now, where `draw` is from 0 to 1.
    #[inline]
    pub(crate) fn refuses(&self, priority: Priority, now: Tick, draw: impl FnOnce() -> f64) -> bool {
        let current = self.current.load();
        // The window of a service that does not fail is not added up.
        if !current.window.may_hold_bad(now) {
            return false;
        }
        let refused = draw() < current.probability(priority, now);
        if refused {
            self.refused.fetch_add(1, Relaxed);
        }
        refused
    }

    /// The chance that a normal call is refused now.
    pub(crate) fn probability(&self, now: Tick) -> f64 {
        self.current.load().probability(Priority::Normal, now)
    }

    #[inline]
    pub(crate) fn record(&self, succeeded: bool, now: Tick) {
        self.current.load().window.record(now, Sample { failed: !succeeded, slow: false });
    }

    /// Goes by `config` from now on. What was counted stays, unless the window is another.
    pub(crate) fn reload(&self, config: SuccessRateConfig, now: Tick) {
        let current = self.current.load();
        let window = if current.config.window() == config.window() {
            current.window.clone()
        } else {
            Arc::new(Window::Time(TimeWindow::new(config.window(), BUCKETS, now)))
        };
        self.current.store(Arc::new(Current { config, window }));
    }

    /// Calls refused so far, and of those in the window how many there were and how many succeeded.
    pub(crate) fn counts(&self, now: Tick) -> (u64, u64, u64) {
        let counts = self.current.load().window.counts(now);
        (self.refused.load(Relaxed), counts.total, counts.total.saturating_sub(counts.failed))
    }
}

impl Current {
    fn probability(&self, priority: Priority, now: Tick) -> f64 {
        let counts = self.window.counts(now);
        self.config.rejection(counts.total, counts.total.saturating_sub(counts.failed), priority)
    }
}
