//! Budgets, deadlines and attempts, on `retry`.

use std::collections::BTreeMap;
use std::time::Duration;

use tower::{Layer, ServiceExt};
use tower_mesh_core::classify::{self, Origin, Retry, Verdict};
use tower_mesh_core::replay::Idempotent;
use tower_mesh_retry::testing::{LeakyBucket, Limit, SLICES, Units};
use tower_mesh_retry::{BudgetConfig, RetryBudget, RetryConfig, RetryLayer};
use tower_mesh_test::Inner;
use tower_mesh_tests::now;

use crate::case::{Case, Fields, Outcome, op, same, unknown};

/// Finagle's budget: ours without the floor of concurrent retries.
fn budget(given: &Fields) -> Result<BudgetConfig, String> {
    let config = BudgetConfig::builder()
        .ttl(Duration::from_secs(given.whole("ttl_s")?))
        .min_per_second(given.small("min_retries_per_s")?)
        .ratio(given.number("percent_can_retry")?)
        .min_concurrency(0)
        .build();
    config.map_err(|error| error.to_string())
}

pub(crate) fn finagle_budget_frozen(case: &Case) -> Outcome {
    let policy = case.given.text("policy")?;
    if policy != "deposit, then try to withdraw, at one frozen instant" {
        return Err(unknown(&policy));
    }
    let (budget, at) = (RetryBudget::new(budget(&case.given)?), now());
    same("initial balance", &budget.snapshot(at).balance, &case.expect.whole("initial_balance")?)?;
    let mut retries = 0_u64;
    for _ in 0..case.given.whole("requests")? {
        budget.deposit(at);
        retries += u64::from(budget.withdraw(at).is_some());
    }
    let expected = case.expect.whole("retries")?;
    let off = retries.abs_diff(expected);
    if off <= case.expect.whole("tolerance")? {
        Ok(())
    } else {
        Err(format!("{retries} retries, not {expected}"))
    }
}

pub(crate) fn finagle_budget_deposits(case: &Case) -> Outcome {
    let (budget, at) = (RetryBudget::new(budget(&case.given)?), now());
    (0..case.given.whole("deposits")?).for_each(|_| budget.deposit(at));
    same("balance", &budget.snapshot(at).balance, &case.expect.whole("balance")?)
}

pub(crate) fn finagle_budget_validation(case: &Case) -> Outcome {
    for (i, row) in case.given.rows("rows")?.into_iter().enumerate() {
        // A number of retries below zero cannot so much as be written down.
        let least = row.0.number("min")?;
        let written = if least < 0.0 { None } else { Some(row.0.small("min")?) };
        let built = written.map(|least| {
            BudgetConfig::builder()
                .ttl(Duration::from_secs(row.0.whole("ttl_s")?))
                .min_per_second(least)
                .ratio(row.0.number("pct")?)
                .min_concurrency(0)
                .build()
                .map_err(|error| error.to_string())
        });
        row.0.value("ttl_s")?;
        row.0.value("pct")?;
        let config = built.and_then(Result::ok);
        same(format_args!("validity of row {i}"), &config.is_some(), &row.0.flag("valid")?)?;
        if row.0.has("is_empty_budget") {
            let budget = RetryBudget::new(config.ok_or("an empty budget that is not valid")?);
            (0..1000).for_each(|_| budget.deposit(now()));
            let empty = budget.withdraw(now()).is_none();
            same("empty", &empty, &row.0.flag("is_empty_budget")?)?;
        }
        row.done()?;
    }
    Ok(())
}

pub(crate) fn finagle_budget_params(case: &Case) -> Outcome {
    let config = budget(&case.given)?;
    let Units { deposit, withdrawal, reserve } = Units::new(&config);
    let expected = |name| case.expect.whole(name).map(|units| units as i64);
    same("deposit", &deposit, &expected("deposit_units")?)?;
    same("withdrawal", &withdrawal, &expected("withdraw_units")?)?;
    same("reserve", &reserve, &expected("reserve_units")?)?;
    let balance = RetryBudget::new(config).snapshot(now()).balance;
    same("initial balance", &balance, &case.expect.whole("initial_balance")?)
}

/// A share of the calls under way; those that wait for a connection are under way too.
pub(crate) fn envoy_retry_budget(case: &Case) -> Outcome {
    let least = case.given.small("min_concurrency")?;
    let config = BudgetConfig::builder()
        .active_ratio(case.given.number("budget_percent")? / 100.0)
        .min_concurrency(least)
        .build();
    let budget = RetryBudget::new(config.map_err(|error| error.to_string())?);
    let calls = case.given.small("active_requests")? + case.given.small("pending_requests")?;
    let _calls: Vec<_> = (0..calls).map(|_| budget.enter()).collect();
    same("limit", &budget.snapshot(now()).balance, &case.expect.whole("limit")?)?;
    let retries = (0..case.given.small("active_retries")?).map(|_| budget.withdraw(now()));
    let retries: Option<Vec<_>> = retries.collect();
    same("retries under way", &retries.is_some(), &true)?;
    same("allowed", &budget.withdraw(now()).is_some(), &case.expect.flag("allowed")?)
}

pub(crate) fn leaky_bucket_trace(case: &Case) -> Outcome {
    same("slices", &case.given.whole("slices")?, &SLICES)?;
    let reserve = case.given.whole("reserve")? as i64;
    let mut bucket = LeakyBucket::new(Duration::from_secs(case.given.whole("ttl_s")?), reserve);
    let mut at = now();
    for value in case.given.list("ops")? {
        let (name, rest) = op(value)?;
        let amount = |value: &serde_json::Value| value.as_i64().ok_or_else(|| unknown(value));
        match (name, rest) {
            ("put", [units]) => bucket.put(at, amount(units)?),
            ("get", [units, expected]) => {
                let expected = expected.as_bool().ok_or_else(|| unknown(value))?;
                same(value, &bucket.try_get(at, amount(units)?, 0), &expected)?;
            }
            ("adv", [seconds]) => {
                let seconds =
                    seconds.as_f64().filter(|seconds| *seconds >= 0.0).ok_or_else(|| unknown(value))?;
                at = at + Duration::from_secs_f64(seconds);
            }
            _ => return Err(unknown(value)),
        }
    }
    Ok(())
}

pub(crate) fn per_try_effective(case: &Case) -> Outcome {
    let began = now();
    // Zero is none, on both sides.
    let bound = |name| {
        let ms = case.given.whole(name)?;
        Ok::<_, String>((ms > 0).then(|| began + Duration::from_millis(ms)))
    };
    let effective = match Limit::earlier(bound("per_try_ms")?, bound("global_ms")?) {
        Some(Limit::Attempt(at)) => at.since(began).as_millis() as u64,
        Some(Limit::Call(_)) | None => 0,
    };
    same("per try", &effective, &case.expect.whole("per_try_ms")?)
}

/// "OK at 0,2,5; INTERNAL at 6,8,11; else ALREADY_EXISTS": what the server answers, by the number of the attempt from zero.
fn server(sequence: &str) -> Result<impl Fn(u64) -> String + Clone + use<>, String> {
    let (mut at, mut otherwise) = (BTreeMap::new(), None);
    for part in sequence.split("; ") {
        match (part.split_once(" at "), part.strip_prefix("else ")) {
            (Some((code, attempts)), _) => {
                for attempt in attempts.split(',') {
                    at.insert(attempt.parse::<u64>().map_err(|_| unknown(&part))?, code.to_owned());
                }
            }
            (None, Some(code)) => otherwise = Some(code.to_owned()),
            (None, None) => return Err(unknown(&part)),
        }
    }
    let otherwise = otherwise.ok_or_else(|| unknown(&sequence))?;
    Ok(move |attempt: u64| at.get(&attempt).unwrap_or(&otherwise).clone())
}

pub(crate) fn grpc_retry_unary(case: &Case) -> Outcome {
    let retryable: Vec<_> =
        case.given.list("retryable")?.iter().map(|code| code.as_str().map(str::to_owned)).collect();
    let classifier =
        classify::by(move |result: Result<&(String, u64), &(dyn std::error::Error + 'static)>| {
            let code = result.ok().map(|(code, _)| code.clone());
            match code.as_deref() {
                Some("OK") => Verdict::SUCCESS,
                _ if retryable.contains(&code) => Verdict::failure(Origin::Remote, Retry::IfIdempotent),
                _ => Verdict::failure(Origin::Remote, Retry::Never),
            }
        });
    let config = RetryConfig::builder().max_attempts(case.given.small("max_attempts")?).build();
    let retry = RetryLayer::new(config.map_err(|error| error.to_string())?, classifier).replay(Idempotent);
    let answers = server(case.given.text("server_sequence_from_0")?)?;
    let inner = Inner::new(move |call, ()| {
        let answer = (answers(call - 1), call - 1);
        async move { Ok(answer) }
    });
    let service = retry.layer(inner);
    let expected = case.expect.list("calls")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    for (i, call) in expected.iter().enumerate() {
        let Some([code, last]) = call.as_array().map(Vec::as_slice) else {
            return Err(unknown(call));
        };
        let answer = runtime.block_on(service.clone().oneshot(())).map_err(|error| error.to_string())?;
        let expected = code.as_str().map(str::to_owned).zip(last.as_u64());
        same(format_args!("call {i}"), &Some(answer), &expected)?;
    }
    Ok(())
}
