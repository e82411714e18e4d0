//! Circuits, on `breaker::Circuit`: what is public of it is all that is used.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower_mesh_breaker::{BreakerConfig, Circuit, CircuitSnapshot, Permit, State, WindowKind};
use tower_mesh_core::classify::{Origin, Outcome as Counts};
use tower_mesh_core::window::{CountWindow, Sample, WindowCounts};
use tower_mesh_core::{Classify, Ratio, Tick};
use tower_mesh_http::Classifier;
use tower_mesh_tests::now;
use tracing::field::{Field, Visit};
use tracing::span;

use crate::case::{Case, Outcome, op, same, unknown, whole};

const FAILURE: Counts = Counts::Failure(Origin::Remote);

fn state(name: &str) -> Result<State, String> {
    Ok(match name {
        "CLOSED" => State::Closed,
        "OPEN" => State::Open,
        "HALF_OPEN" => State::HalfOpen,
        "FORCED_OPEN" => State::ForcedOpen,
        "DISABLED" => State::Disabled,
        "METRICS_ONLY" => State::MetricsOnly,
        _ => return Err(unknown(&name)),
    })
}

fn order(circuit: &Circuit, to: State, at: Tick) -> bool {
    let before = circuit.state();
    match to {
        State::Open => circuit.trip(at),
        State::HalfOpen => return circuit.half_open(at),
        State::Closed => circuit.close(at),
        State::ForcedOpen => circuit.force_open(at),
        State::Disabled => circuit.disable(at),
        _ => circuit.metrics_only(at),
    }
    circuit.state() != before
}

fn traced(case: &Case) -> Result<BreakerConfig, String> {
    let config = case.given.object("config")?;
    let fields = &config.0;
    let kind = fields.text("window")?;
    let window = match kind {
        // One-second buckets, as the source has them, are what windows of 10 to 60 seconds have here.
        "time" => match fields.whole("window_size_s")? {
            size @ 10..=60 => WindowKind::Time(Duration::from_secs(size)),
            size => return Err(unknown(&size)),
        },
        "count" => WindowKind::Calls(fields.small("window_size")?),
        _ => return Err(unknown(&kind)),
    };
    let slow = fields.whole("slow_ms")?;
    let built = BreakerConfig::builder()
        .window(window)
        .failure_threshold(fields.number("failure_rate")? / 100.0)
        .slow_call_threshold(fields.number("slow_rate")? / 100.0)
        .slow_call_duration(Duration::from_millis(slow))
        .min_calls(fields.small("min_calls")?)
        .consecutive_failures(0)
        .reset_timeout(Duration::from_millis(fields.whole("wait_open_ms")?))
        .half_open_permits(fields.small("half_open_permits")?)
        .build();
    config.done()?;
    built.map_err(|error| error.to_string())
}

pub(crate) fn cb_trace(case: &Case) -> Outcome {
    let mut at = now();
    let circuit = Circuit::new(traced(case)?, at);
    let mut permits: VecDeque<Permit> = VecDeque::new();
    // Theirs counts refusals anew in each state: the generation of ours, and what had been refused before it.
    let mut before = (0, 0);
    for (i, value) in case.given.list("ops")?.iter().enumerate() {
        let here = |error: String| format!("operation {i}: {error}");
        match op(value)? {
            ("try_acquire", [expected]) => {
                let permit = circuit.acquire(at).ok();
                same("admitted", &Some(permit.is_some()), &expected.as_bool()).map_err(here)?;
                permits.extend(permit);
            }
            (end @ ("ok" | "err"), [took]) => {
                let took = whole(took).map(Duration::from_millis).ok_or_else(|| unknown(value))?;
                // A call that no acquire stands for is made here.
                let permit = match permits.pop_front() {
                    Some(permit) => permit,
                    None => circuit.acquire(at).map_err(|error| here(error.to_string()))?,
                };
                permit.finish(if end == "ok" { Counts::Success } else { FAILURE }, took, at);
            }
            // A call that ended without saying anything, or that was not made after all.
            ("ignored" | "ignore" | "release" | "cancel", []) | ("ignored" | "ignore", [_]) => {
                let permit = permits.pop_front().ok_or_else(|| unknown(value))?;
                permit.finish(Counts::Ignored, Duration::ZERO, at);
            }
            ("adv", [ms]) => at = at + Duration::from_millis(whole(ms).ok_or_else(|| unknown(value))?),
            (force @ ("force" | "force_illegal"), [to]) => {
                let to = state(to.as_str().ok_or_else(|| unknown(value))?)?;
                same(value, &order(&circuit, to, at), &(force == "force")).map_err(here)?;
            }
            ("expect", [field, expected]) => {
                let field = field.as_str().ok_or_else(|| unknown(value))?;
                expect(case, &circuit.snapshot(at), before.1, field, expected).map_err(here)?;
            }
            _ => return Err(unknown(value)),
        }
        let snapshot = circuit.snapshot(at);
        if snapshot.generation != before.0 {
            before = (snapshot.generation, snapshot.refused);
        }
    }
    Ok(())
}

fn expect(
    case: &Case,
    snapshot: &CircuitSnapshot,
    refused_before: u64,
    field: &str,
    expected: &serde_json::Value,
) -> Outcome {
    let number = || expected.as_f64().ok_or_else(|| unknown(expected));
    match field {
        "state" => same(field, &snapshot.state, &state(expected.as_str().ok_or_else(|| unknown(expected))?)?),
        // Theirs says -1 where ours says none.
        "failure_rate" => case.close(field, snapshot.failure_rate().unwrap_or(-1.0), number()?),
        "slow_rate" => case.close(field, snapshot.slow_call_rate().unwrap_or(-1.0), number()?),
        "buffered" => case.close(field, snapshot.counts.total as f64, number()?),
        "failed" => case.close(field, snapshot.counts.failed as f64, number()?),
        "slow" => case.close(field, snapshot.counts.slow as f64, number()?),
        "not_permitted" => case.close(field, (snapshot.refused - refused_before) as f64, number()?),
        _ => Err(unknown(&field)),
    }
}

pub(crate) fn cb_count_window(case: &Case) -> Outcome {
    let window = CountWindow::new(case.given.small("window_size")?);
    let min_calls = case.given.whole("min_calls")?;
    let threshold = ratio(case.given.number("failure_rate")? / 100.0)?;
    let blocks = case.given.text("sequence")?.split('|');
    let rows = case.expect.rows("after_each_block")?;
    same("number of blocks", &blocks.clone().count(), &rows.len())?;
    for (block, row) in blocks.zip(rows) {
        for call in block.chars() {
            let failed = match call {
                'S' => false,
                'E' => true,
                _ => return Err(unknown(&call)),
            };
            window.record(Sample { failed, slow: false });
        }
        let counts = window.counts();
        same("buffered", &counts.total, &row.0.whole("buffered")?)?;
        same("failed", &counts.failed, &row.0.whole("failed")?)?;
        let enough = counts.total >= min_calls;
        let rate = if enough { counts.failed as f64 * 100.0 / counts.total as f64 } else { -1.0 };
        case.close("rate", rate, row.0.number("rate")?)?;
        let verdict = match (enough, counts.failure_rate_reached(threshold, min_calls)) {
            (false, false) => "below_minimum",
            (_, true) => "exceeded",
            (true, false) => "below",
        };
        same("verdict", &verdict, &row.0.text("verdict")?)?;
        row.done()?;
    }
    Ok(())
}

fn ratio(value: f64) -> Result<Ratio, String> {
    Ratio::new(value).map_err(|error| error.to_string())
}

pub(crate) fn cb_threshold(case: &Case) -> Outcome {
    let total = case.given.whole("throughput")?;
    // Ours counts calls: the ratio is that of the next whole number of them.
    let failed = (case.given.number("failure_ratio")? * total as f64).round() as u64;
    let counts = WindowCounts { total, failed, slow: 0 };
    let threshold = ratio(case.given.number("threshold")?)?;
    let reached = counts.failure_rate_reached(threshold, case.given.whole("minimum_throughput")?);
    same("break", &reached, &case.expect.flag("break")?)
}

/// A circuit that only failures in a row open.
fn in_a_row(failures: u32) -> Result<Circuit, String> {
    let config = BreakerConfig::builder().consecutive_failures(failures).min_calls(u32::MAX).build();
    Ok(Circuit::new(config.map_err(|error| error.to_string())?, now()))
}

fn end(circuit: &Circuit, outcome: Counts) -> Outcome {
    let permit = circuit.acquire(now()).map_err(|error| error.to_string())?;
    permit.finish(outcome, Duration::ZERO, now());
    Ok(())
}

pub(crate) fn consecutive_accrual(case: &Case) -> Outcome {
    let circuit = in_a_row(case.given.small("n")?)?;
    let mut dead_after = None;
    for (step, number) in case.given.text("sequence")?.chars().zip(1_u64..) {
        match step {
            'F' => end(&circuit, FAILURE)?,
            'S' => end(&circuit, Counts::Success)?,
            // It was dead and is alive again.
            'R' => {
                circuit.trip(now());
                circuit.close(now());
            }
            _ => return Err(unknown(&step)),
        }
        if circuit.state() == State::Open && dead_after.is_none() {
            dead_after = Some(number);
        }
    }
    same("dead after", &dead_after, &Some(case.expect.whole("dead_after")?))
}

pub(crate) fn linkerd_unified_rule(case: &Case) -> Outcome {
    match case.given.text("response")? {
        "HTTP 429 or gRPC RESOURCE_EXHAUSTED" => overload(case),
        "one response crosses both thresholds" => both_thresholds(case),
        other => Err(unknown(&other)),
    }
}

fn overload(case: &Case) -> Outcome {
    let http = http::Response::builder().status(429);
    let grpc =
        http::Response::builder().header("content-type", "application/grpc").header("grpc-status", "8");
    for answer in [http, grpc] {
        let answer = answer.body(String::new()).map_err(|error| error.to_string())?;
        let outcome = Classifier::default().head(Ok(&answer)).outcome;

        let consecutive = in_a_row(2)?;
        (0..10).try_for_each(|_| end(&consecutive, outcome))?;
        let counted = consecutive.state() == State::Open;
        same("consecutive", &counted, &case.expect.flag("counts_for_consecutive")?)?;

        let config =
            BreakerConfig::builder().consecutive_failures(0).min_calls(10).half_open_permits(1).build();
        let rate = Circuit::new(config.map_err(|error| error.to_string())?, now());
        (0..10).try_for_each(|_| end(&rate, outcome))?;
        same("rate", &(rate.state() == State::Open), &case.expect.flag("counts_for_success_rate")?)?;

        rate.half_open(now());
        end(&rate, outcome)?;
        same("probe", &(rate.state() == State::Open), &case.expect.flag("fails_a_probe")?)?;
    }
    Ok(())
}

fn both_thresholds(case: &Case) -> Outcome {
    let config = BreakerConfig::builder().consecutive_failures(5).min_calls(5).build();
    let circuit = Circuit::new(config.map_err(|error| error.to_string())?, now());
    let reasons = Reasons::default();
    tracing::subscriber::with_default(reasons.clone(), || (0..5).try_for_each(|_| end(&circuit, FAILURE)))?;
    same("state", &circuit.state(), &State::Open)?;
    let told = reasons.0.lock().map_err(|error| error.to_string())?.clone();
    // In their words.
    let told = told.iter().map(|reason| match reason.as_str() {
        "Some(ConsecutiveFailures)" => "consecutive_failures",
        other => other,
    });
    same("reason", &told.collect::<Vec<_>>(), &vec![case.expect.text("trip_reason")?])
}

/// The reasons that a circuit tells for its transitions.
#[derive(Clone, Default)]
struct Reasons(Arc<Mutex<Vec<String>>>);

impl Visit for Reasons {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "reason"
            && let Ok(mut reasons) = self.0.lock()
        {
            reasons.push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Reasons {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_mesh_breaker")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
