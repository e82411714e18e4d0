//! Adaptive limits and admission by success rate, on `admission`.

use std::time::Duration;

use tower_mesh_admission::SuccessRateConfig;
use tower_mesh_admission::policy::{Aimd, GradientRule, LimitSample};
use tower_mesh_core::Priority;
use tower_mesh_tests::now;

use crate::case::{Case, Outcome, same};

pub(crate) fn aimd(case: &Case) -> Outcome {
    let given = &case.given;
    let bounds = (given.small("initial")?, given.small("min")?, given.small("max")?);
    let mut aimd = Aimd::new(bounds.0, bounds.1, bounds.2, Duration::from_secs(5));
    let (mut limits, mut started) = (Vec::new(), now());
    for sample in given.rows("samples")? {
        // Each begins when the one before it is over.
        let ended = started + Duration::from_nanos(sample.0.whole("rtt_ns")?);
        let (in_flight, dropped) = (sample.0.small("inflight")?, sample.0.flag("drop")?);
        limits.push(u64::from(aimd.observe(LimitSample { started, ended, in_flight, dropped })));
        started = ended;
        sample.done()?;
    }
    same("limits", &limits, &case.expect.wholes("limits")?)
}

pub(crate) fn gradient2_step(case: &Case) -> Outcome {
    let given = &case.given;
    let rule = GradientRule {
        min: given.number("min")?,
        max: given.number("max")?,
        tolerance: given.number("tolerance")?,
        queue: given.number("queue")?,
        smoothing: given.number("smoothing")?,
    };
    let ratio = given.number("long_rtt")? / given.number("short_rtt")?;
    let found = rule.step(given.number("limit")?, ratio, given.small("inflight")?);
    case.close("limit", found, case.expect.number("new_limit")?)
}

pub(crate) fn envoy_admission(case: &Case) -> Outcome {
    let given = &case.given;
    let config = SuccessRateConfig::builder()
        .threshold(given.number("threshold")?)
        .aggression(given.number("aggression")?)
        .max_rejection(given.number("max")?)
        .min_calls(0);
    let config = config.build().map_err(|error| error.to_string())?;
    let found = config.rejection(given.whole("total")?, given.whole("success")?, Priority::Normal);
    case.close("probability", found, case.expect.number("probability")?)
}

pub(crate) fn sre_throttle(case: &Case) -> Outcome {
    let given = &case.given;
    let config = SuccessRateConfig::builder()
        .threshold(given.number("success_threshold")?)
        .max_rejection(given.number("max")?)
        .min_calls(given.small("execution_threshold")?);
    let config = config.build().map_err(|error| error.to_string())?;
    let found = config.rejection(given.whole("executions")?, given.whole("successes")?, Priority::Normal);
    case.close("rate", found, case.expect.number("rate")?)
}
