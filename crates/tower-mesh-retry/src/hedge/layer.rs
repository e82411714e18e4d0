use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;
use tower_mesh_core::{Live, Sharded};

use super::service::{Hedge, Parts};
use crate::budget::RetryBudget;
use crate::config::{BudgetConfig, HedgeConfig};
use crate::policy::latency::Latencies;
use crate::told::{HedgeCounts, HedgeTold};

/// Asks another endpoint when the first has not answered after a while, and takes the first good answer.
///
/// The while is a fixed [`delay`](HedgeConfig::delay) or a live [`percentile`](HedgeConfig::percentile) of the latency of first attempts; timing
/// is that of gRFC A6. Each hedge takes what a retry costs from a [`RetryBudget`], so that a service that is slow altogether gets a fifth more traffic and not twice
/// as much; the first attempt takes nothing. Only requests that are idempotent and can be copied wholly are hedged: `R`, a
/// [`Replay`](tower_mesh_core::Replay), says which. Attempts that lose are dropped and their guards told
/// [`HedgeLost`](tower_mesh_core::DropReason::HedgeLost), which counts as no failure.
///
/// It stands around a load balancer, which sends each attempt elsewhere while it can, and inside a [`RetryLayer`](crate::RetryLayer) if there is one: then each
/// attempt of that may be hedged.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_core::classify::ByResult;
/// use tower_mesh_core::replay::Idempotent;
/// use tower_mesh_retry::{HedgeConfig, HedgeLayer};
/// let config = HedgeConfig::builder().percentile(0.95).delay(Duration::from_millis(500)).build()?;
/// let layer = HedgeLayer::new(config, ByResult).replay(Idempotent);
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
pub struct HedgeLayer<C, R = C> {
    config: Live<HedgeConfig>,
    budget: RetryBudget,
    counted_outside: bool,
    classifier: C,
    replay: R,
    latencies: Arc<Latencies>,
    told: Arc<HedgeTold>,
}

impl<C: Clone> HedgeLayer<C> {
    /// A layer with a budget of its own, of the default configuration. `classifier` is also asked which requests can be sent twice, unless
    /// [`replay`](Self::replay) says otherwise.
    pub fn new(config: HedgeConfig, classifier: C) -> Self {
        Self {
            config: Live::new(config),
            budget: RetryBudget::new(BudgetConfig::default()),
            counted_outside: false,
            replay: classifier.clone(),
            classifier,
            latencies: Arc::new(Latencies::new()),
            told: Arc::default(),
        }
    }
}

impl<C, R> HedgeLayer<C, R> {
    /// The same configuration, budget and measured latencies, with another judgement on what is a failure.
    pub fn classify<C2>(self, classifier: C2) -> HedgeLayer<C2, R> {
        let Self { config, budget, counted_outside, replay, latencies, told, .. } = self;
        HedgeLayer { config, budget, counted_outside, classifier, replay, latencies, told }
    }

    /// Asks `replay` which requests can be sent twice.
    pub fn replay<R2>(self, replay: R2) -> HedgeLayer<C, R2> {
        let Self { config, budget, counted_outside, classifier, latencies, told, .. } = self;
        HedgeLayer { config, budget, counted_outside, classifier, replay, latencies, told }
    }

    /// Shares `budget` with whoever else has it.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Does not count calls in favour of the budget: a [`RetryLayer`](crate::RetryLayer) around this one, with the same budget, does.
    pub fn counted_outside(mut self) -> Self {
        self.counted_outside = true;
        self
    }

    /// The configuration cell of all services made by this layer. A call keeps the configuration it began with.
    pub fn live(&self) -> &Live<HedgeConfig> {
        &self.config
    }

    /// The budget of all services made by this layer.
    pub fn get_budget(&self) -> &RetryBudget {
        &self.budget
    }

    /// How often the services made by this layer hedged since the start.
    pub fn counts(&self) -> HedgeCounts {
        self.told.counts()
    }
}

impl<S: Clone, C: Clone, R: Clone> Layer<S> for HedgeLayer<C, R> {
    type Service = Hedge<S, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        let parts = Parts {
            template: inner.clone(),
            config: self.config.clone(),
            budget: self.budget.clone(),
            counted_outside: self.counted_outside,
            classifier: self.classifier.clone(),
            replay: self.replay.clone(),
            latencies: self.latencies.clone(),
            told: self.told.clone(),
        };
        Hedge::new(inner, self.config.reader(), Sharded::new(parts))
    }
}

impl<C, R> fmt::Debug for HedgeLayer<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeLayer")
            .field("config", &self.config.snapshot())
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
