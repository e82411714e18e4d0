use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;
use tower_mesh_core::{Live, Sharded};

use super::service::{Parts, Retry};
use crate::budget::RetryBudget;
use crate::config::{BudgetConfig, RetryConfig};
use crate::told::{GaveUp, RetryCounts, RetryTold};

/// Sends requests again that failed, with growing random waits, within a budget over the traffic and within the deadline of the call.
///
/// The classifier `C` says what failed and whether the server may have acted on it; `R`, a [`Replay`](tower_mesh_core::Replay), says which requests can be sent
/// twice and which may be. Where one value knows both, as for HTTP, it is given once.
///
/// ```
/// use tower_mesh_core::classify::ByResult;
/// use tower_mesh_core::replay::Idempotent;
/// use tower_mesh_retry::{RetryConfig, RetryLayer};
/// let layer = RetryLayer::new(RetryConfig::default(), ByResult).replay(Idempotent);
/// let off = RetryConfig::builder().max_attempts(1).build()?;
/// layer.live().reload(off);                        // all services made by this layer, from their next call on
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
pub struct RetryLayer<C, R = C> {
    config: Live<RetryConfig>,
    budget: RetryBudget,
    classifier: C,
    replay: R,
    told: Arc<RetryTold>,
}

impl<C: Clone> RetryLayer<C> {
    /// A layer with a budget of its own, of the default configuration. `classifier` is also asked which requests can be sent twice, unless
    /// [`replay`](Self::replay) says otherwise.
    pub fn new(config: RetryConfig, classifier: C) -> Self {
        Self {
            config: Live::new(config),
            budget: RetryBudget::new(BudgetConfig::default()),
            replay: classifier.clone(),
            classifier,
            told: Arc::default(),
        }
    }
}

impl<C, R> RetryLayer<C, R> {
    /// The same configuration and budget, with another judgement on what is a failure.
    pub fn classify<C2>(self, classifier: C2) -> RetryLayer<C2, R> {
        let Self { config, budget, replay, told, .. } = self;
        RetryLayer { config, budget, classifier, replay, told }
    }

    /// Asks `replay` which requests can be sent twice.
    pub fn replay<R2>(self, replay: R2) -> RetryLayer<C, R2> {
        let Self { config, budget, classifier, told, .. } = self;
        RetryLayer { config, budget, classifier, replay, told }
    }

    /// Shares `budget` with whoever else has it.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// The configuration cell of all services made by this layer. A call takes its attempt timeout when it begins and the rest at its first failure.
    pub fn live(&self) -> &Live<RetryConfig> {
        &self.config
    }

    /// The budget of all services made by this layer.
    pub fn get_budget(&self) -> &RetryBudget {
        &self.budget
    }

    /// How often the services made by this layer sent again since the start, and did not.
    pub fn counts(&self) -> RetryCounts {
        self.told.counts()
    }

    /// Tells `listener` of every call that is given up from now on. It runs on the thread of the call, under no lock, and should be quick; if it panics, nobody
    /// else is harmed.
    pub fn on_give_up(&self, listener: impl Fn(&GaveUp) + Send + Sync + 'static) {
        self.told.listeners.add(listener);
    }
}

impl<S: Clone, C: Clone, R: Clone> Layer<S> for RetryLayer<C, R> {
    type Service = Retry<S, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        let parts = Parts {
            template: inner.clone(),
            config: self.config.clone(),
            budget: self.budget.clone(),
            classifier: self.classifier.clone(),
            replay: self.replay.clone(),
            told: self.told.clone(),
        };
        Retry::new(inner, self.config.reader(), Sharded::new(parts))
    }
}

impl<C, R> fmt::Debug for RetryLayer<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("config", &self.config.snapshot())
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
