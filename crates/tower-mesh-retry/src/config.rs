//! Every knob, once.

mod budget;
mod deadline;
mod hedge;
mod retry;

use std::time::Duration;

pub use budget::{BudgetConfig, BudgetConfigBuilder};
pub use deadline::{DeadlineConfig, DeadlineConfigBuilder};
pub use hedge::{HedgeConfig, HedgeConfigBuilder};
pub use retry::{GrowthKind, RetryConfig, RetryConfigBuilder};

const MAX_WAIT: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use tower_mesh_core::error::{InvalidConfig, Mistake};

    use super::*;

    fn fields(error: &InvalidConfig) -> Vec<&str> {
        error.mistakes().iter().map(Mistake::field).collect()
    }

    #[test]
    fn every_mistake_is_told_and_the_edges_are_allowed() {
        let wrong = RetryConfig::builder()
            .max_attempts(21)
            .max_local_failures(0)
            .max_remote_failures(21)
            .max_overloads(0)
            .max_refusals(0)
            .base_delay(3 * HOUR)
            .max_delay(2 * HOUR)
            .multiplier(0.5)
            .attempt_timeout(Duration::ZERO)
            .max_wait(MAX_WAIT + Duration::from_nanos(1))
            .ready_timeout(Duration::ZERO)
            .build()
            .unwrap_err();
        let all = ["max_attempts", "base_delay", "max_delay", "multiplier", "attempt_timeout", "max_wait"];
        let limits = ["max_local_failures", "max_remote_failures", "max_overloads", "max_refusals"];
        assert_eq!(fields(&wrong), [&all[..1], &limits, &all[1..], &["ready_timeout"]].concat());
        let edge = RetryConfig::builder().max_attempts(1).base_delay(HOUR).max_delay(HOUR);
        assert!(edge.max_wait(Duration::ZERO).build().is_ok());

        let wrong = BudgetConfig::builder().ratio(f64::NAN).ttl(Duration::from_secs(61));
        let wrong = wrong.active_ratio(1.1).max_tokens(0).token_ratio(0.0).build();
        let all = ["ratio", "ttl", "active_ratio", "max_tokens", "token_ratio"];
        assert_eq!(fields(&wrong.unwrap_err()), all);
        assert!(BudgetConfig::builder().ratio(1000.0).min_per_second(0).build().is_ok());
        let wrong = DeadlineConfig::builder().timeout(Duration::ZERO).build();
        assert_eq!(fields(&wrong.unwrap_err()), ["timeout"]);
        let wrong = HedgeConfig::builder().max_hedges(5).delay(2 * HOUR).percentile(1.0);
        let wrong = wrong.ready_timeout(Duration::ZERO).build().unwrap_err();
        assert_eq!(fields(&wrong), ["max_hedges", "delay", "percentile", "ready_timeout"]);
        assert!(HedgeConfig::builder().percentile(f64::NAN).build().is_err());
    }

    #[test]
    fn the_readme_lists_the_defaults() {
        let (retry, budget, deadline) =
            (RetryConfig::default(), BudgetConfig::default(), DeadlineConfig::default());
        let hedge = HedgeConfig::default();
        let limit = |n: Option<u32>| n.map_or("none".to_owned(), |n| n.to_string());
        let optional = |d: Option<Duration>| d.map_or("none".to_owned(), |d| format!("{d:?}"));
        let rows = [
            ("max_attempts", retry.max_attempts().to_string()),
            ("max_local_failures", limit(retry.max_local_failures())),
            ("max_remote_failures", limit(retry.max_remote_failures())),
            ("max_overloads", limit(retry.max_overloads())),
            ("max_refusals", limit(retry.max_refusals())),
            ("base_delay", format!("{:?}", retry.base_delay())),
            ("max_delay", format!("{:?}", retry.max_delay())),
            ("growth", format!("{:?}", retry.growth()).to_lowercase()),
            ("multiplier", retry.multiplier().to_string()),
            ("jitter", format!("{:?}", retry.jitter()).to_lowercase()),
            ("attempt_timeout", optional(retry.attempt_timeout())),
            ("max_wait", format!("{:?}", retry.max_wait())),
            ("ready_timeout", format!("{:?}", retry.ready_timeout())),
            ("ratio", budget.ratio().to_string()),
            ("min_per_second", budget.min_per_second().to_string()),
            ("ttl", format!("{:?}", budget.ttl())),
            ("min_concurrency", budget.min_concurrency().to_string()),
            ("active_ratio", budget.active_ratio().map_or("none".to_owned(), |r| r.to_string())),
            ("max_tokens", limit(budget.max_tokens())),
            ("token_ratio", budget.token_ratio().to_string()),
            ("max_hedges", hedge.max_hedges().to_string()),
            ("delay", format!("{:?}", hedge.delay())),
            ("percentile", hedge.percentile().map_or("none".to_owned(), |p| p.to_string())),
            ("ready_timeout", format!("{:?}", hedge.ready_timeout())),
            ("timeout", optional(deadline.timeout())),
        ];
        let readme = include_str!("../README.md").split("# Examples").next().unwrap_or_default();
        for (field, default) in &rows {
            let row = format!("| `{field}` | {default} |");
            assert!(readme.contains(&row), "README lacks: {row}");
        }
        let listed =
            readme.lines().filter(|line| line.starts_with("| `") && !line.ends_with("default | |")).count();
        assert_eq!(listed, rows.len(), "README lists what does not exist");
    }
}
