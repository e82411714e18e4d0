//! What a server asks for, on `http::Classifier`, `retry::RetryPolicy` and a balancer.

use std::time::{Duration, SystemTime};

use http_body_util::Empty;
use tower_mesh_core::Classify;
use tower_mesh_core::backoff::{Chance, Jitter};
use tower_mesh_core::classify::{Origin, Retry, Verdict};
use tower_mesh_http::Classifier;
use tower_mesh_http::policy::retry_after;
use tower_mesh_retry::RetryConfig;
use tower_mesh_retry::testing::{Decision, Failed, RetryPolicy};
use tower_mesh_tests::now;

use crate::case::{Case, Outcome, same, unknown};
use crate::ewma::observed_latency;

/// One unit is a nanosecond, so that remainders are those of the source.
pub(crate) fn envoy_reset_delay(case: &Case) -> Outcome {
    let base = case.given.whole("base_ms")?;
    let config = RetryConfig::builder()
        .base_delay(Duration::from_nanos(base))
        // Envoy's default.
        .max_delay(Duration::from_nanos(10 * base))
        .max_attempts(20)
        .jitter(Jitter::Full)
        .build();
    let mut policy = RetryPolicy::new(config.map_err(|error| error.to_string())?);
    let mut delays = Vec::new();
    for step in case.given.rows("steps")? {
        let wait = step.0.whole_or_null("retry_after_s")?.map(|seconds| Duration::from_nanos(1000 * seconds));
        let failed = Failed {
            now: now(),
            deadline: None,
            verdict: Verdict::failure(Origin::Remote, Retry::IfIdempotent).with_wait(wait),
            idempotent: true,
            new_endpoint: true,
            chance: Chance::Raw(step.0.whole("random")?),
        };
        step.done()?;
        match policy.decide(&failed, || true) {
            Decision::Retry { after } => delays.push(after.as_nanos() as u64),
            Decision::Stop(reason) => return Err(format!("stopped: {reason}")),
        }
        policy.begin();
    }
    same("delays", &delays, &case.expect.wholes("delays_ms")?)
}

/// The hint is what a balancer without a failure penalty learns from the answer; whether there is one, the verdict says.
pub(crate) fn linkerd_hint(case: &Case) -> Outcome {
    let max = case.given.whole("max_ms")?;
    if max != 300_000 {
        return Err(unknown(&max));
    }
    let mut answer = http::Response::builder();
    match case.given.whole_or_null("status")? {
        Some(status) => answer = answer.status(u16::try_from(status).map_err(|_| "no status")?),
        // A gRPC answer that is only trailers.
        None => answer = answer.header("content-type", "application/grpc").header("grpc-status", "14"),
    }
    let today = humantime::parse_rfc3339(&format!("{}T00:00:00Z", case.given.text("today")?));
    let today: SystemTime = today.map_err(|error| error.to_string())?;
    let (header, value) = (case.given.value("header")?.as_str(), case.given.value("value")?.as_str());
    if let (Some(header), Some(value)) = (header, value) {
        // The classifier's today is that of the wall: a date is read with the case's, and handed on as the seconds until then.
        let date = value.contains("GMT").then(|| retry_after::parse(value, today)).flatten();
        answer = match date {
            Some(wait) => answer.header(header, wait.as_secs()),
            None => answer.header(header, value),
        };
    }
    let answer = answer.body(Empty::new()).map_err(|error| error.to_string())?;
    let verdict = Classifier::default().head(Ok(&answer));
    let hint =
        verdict.wait.map(|_| observed_latency(answer, Duration::ZERO, Duration::ZERO).as_millis() as u64);
    same("hint", &hint, &case.expect.whole_or_null("hint_ms")?)
}
