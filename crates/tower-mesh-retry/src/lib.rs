#![doc = include_str!("../README.md")]

#[cfg(feature = "tower")]
mod as_policy;
mod budget;
mod config;
mod deadline;
pub mod error;
mod hedge;
mod policy;
mod retry;
#[cfg(test)]
mod test_inner;
mod timer;
mod told;

#[cfg(feature = "tower")]
pub use as_policy::{TowerPolicy, Wait};
pub use budget::{ActiveCall, BudgetSnapshot, Denied, RetryBudget, RetryPermit};
pub use config::{
    BudgetConfig, BudgetConfigBuilder, DeadlineConfig, DeadlineConfigBuilder, GrowthKind, HedgeConfig,
    HedgeConfigBuilder, RetryConfig, RetryConfigBuilder,
};
pub use deadline::{Deadline, DeadlineFuture, DeadlineLayer};
pub use hedge::{Hedge, HedgeFuture, HedgeLayer};
pub use retry::{Retry, RetryFuture, RetryLayer};
pub use told::{GaveUp, HedgeCounts, RetryCounts};

/// The policies, for conformance tests. No part of the public interface.
#[doc(hidden)]
pub mod testing {
    pub use crate::policy::budget::{LeakyBucket, SLICES, Units};
    pub use crate::policy::decision::{Decision, Failed, RetryPolicy, lower_bound_jitter};
    pub use crate::policy::hedge::{Ended, HedgePolicy, Pushback};
    pub use crate::policy::limit::Limit;
    pub use crate::policy::throttle::Throttle;
}
