//! The failure throttle, on `retry`.

use std::future::pending;
use std::time::Duration;

use tower::{Layer, ServiceExt};
use tower_mesh_core::BoxError;
use tower_mesh_core::classify::{ByResult, Origin, Retry, Verdict};
use tower_mesh_core::replay::Idempotent;
use tower_mesh_retry::testing::Throttle;
use tower_mesh_retry::{
    BudgetConfig, BudgetConfigBuilder, HedgeConfig, HedgeLayer, RetryBudget, RetryConfig, RetryLayer,
};
use tower_mesh_test::Inner;

use crate::case::{Case, Outcome, same, unknown};

/// A budget that allows all but what the throttle does not.
fn throttled(max: u32) -> BudgetConfigBuilder {
    BudgetConfig::builder().min_per_second(1000).max_tokens(max)
}

fn built(config: BudgetConfigBuilder) -> Result<RetryBudget, String> {
    config.build().map(RetryBudget::new).map_err(|error| error.to_string())
}

fn paused() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.map_err(|error| error.to_string())
}

pub(crate) fn grpc_throttle_ops(case: &Case) -> Outcome {
    let throttle = Throttle::new(case.given.small("max_tokens")?, case.given.number("token_ratio")?);
    let (mut tokens, mut above) = (Vec::new(), Vec::new());
    for op in case.given.list("ops")? {
        match op.as_str() {
            Some("ok") => throttle.succeeded(),
            Some("fail") => throttle.failed(),
            _ => return Err(unknown(op)),
        }
        tokens.push(f64::from(throttle.milli_tokens()) / 1000.0);
        above.push(throttle.allows());
    }
    case.all_close("tokens", &tokens, &case.expect.numbers("tokens")?)?;
    let expected: Vec<_> = case.expect.list("above_threshold")?.iter().map(|value| value.as_bool()).collect();
    same("above the threshold", &above.into_iter().map(Some).collect(), &expected)
}

pub(crate) fn grpc_throttle_rpc_trace(case: &Case) -> Outcome {
    let good = case.given.wholes("server_ok_attempt_indexes")?;
    let inner = Inner::new(move |attempt, ()| {
        let answer = if good.contains(&(attempt - 1)) { Ok(()) } else { Err(BoxError::from("unavailable")) };
        async move { answer }
    });
    let config = RetryConfig::builder().max_attempts(case.given.small("max_attempts")?).build();
    let budget = throttled(case.given.small("max_tokens")?).token_ratio(case.given.number("token_ratio")?);
    let retry = RetryLayer::new(config.map_err(|error| error.to_string())?, ByResult)
        .replay(Idempotent)
        .budget(built(budget)?);
    let service = retry.layer(inner.clone());
    let runtime = paused()?;
    for (i, call) in case.expect.rows("calls")?.into_iter().enumerate() {
        let answer = runtime.block_on(service.clone().oneshot(()));
        let code = if answer.is_ok() { "OK" } else { "UNAVAILABLE" };
        same(format_args!("code of call {i}"), &code, &call.0.text("code")?)?;
        same(format_args!("call {i}"), &(inner.calls() - 1), &call.0.whole("last_attempt")?)?;
        call.done()?;
    }
    Ok(())
}

pub(crate) fn grpc_throttle_validation(case: &Case) -> Outcome {
    for (i, row) in case.given.rows("rows")?.into_iter().enumerate() {
        let config = if row.0.has("max_tokens") {
            throttled(row.0.small("max_tokens")?)
        } else {
            throttled(10).token_ratio(row.0.number("token_ratio")?)
        };
        same(format_args!("validity of row {i}"), &config.build().is_ok(), &row.0.flag("valid")?)?;
        if row.0.has("used_as") {
            let throttle = Throttle::new(10, row.0.number("token_ratio")?);
            (0..10).for_each(|_| throttle.failed());
            throttle.succeeded();
            let used = f64::from(throttle.milli_tokens()) / 1000.0;
            case.all_close("ratio", &[used], &[row.0.number("used_as")?])?;
        }
        row.done()?;
    }
    Ok(())
}

pub(crate) fn hedge_throttled(case: &Case) -> Outcome {
    let (tokens, max) = (case.given.small("tokens")?, case.given.small("max_tokens")?);
    let budget = built(throttled(max))?;
    let failed = Verdict::failure(Origin::Remote, Retry::IfIdempotent);
    (tokens..max).for_each(|_| budget.judged(failed));
    let config = HedgeConfig::builder().delay(Duration::from_secs(1)).build();
    let config = config.map_err(|error| error.to_string())?;
    let layer = HedgeLayer::new(config, ByResult).replay(Idempotent).budget(budget);
    let inner = Inner::<(), ()>::new(|_, ()| pending());
    let call = layer.layer(inner.clone()).oneshot(());
    let over = paused()?.block_on(async { tokio::time::timeout(Duration::from_secs(60), call).await });
    same("over", &over.is_err(), &true)?;
    same("first attempt sent", &(inner.calls() > 0), &case.expect.flag("first_attempt_sent")?)?;
    same("hedges sent", &(inner.calls() > 1), &case.expect.flag("hedges_sent")?)
}
