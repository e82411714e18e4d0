//! Waits that grow, on `core::backoff`. One unit of a case is a nanosecond where the draw is reduced by a remainder, so that remainders are those of the source.

use std::time::Duration;

use tower_mesh_core::backoff::{Backoff, Chance, Growth, Jitter};
use tower_mesh_retry::testing;

use crate::case::{Case, Outcome, same, unknown};

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

pub(crate) fn full_jitter_mod(case: &Case) -> Outcome {
    let unit = |name| case.given.whole(name).map(Duration::from_nanos);
    let backoff = Backoff::new(unit("base_ms")?, unit("max_ms")?, Jitter::Full);
    let delays = case.given.wholes("randoms")?.into_iter().zip(1..);
    let delays = delays.map(|(random, attempt)| backoff.delay(attempt, Duration::ZERO, Chance::Raw(random)));
    let delays: Vec<_> = delays.map(|delay| delay.as_nanos() as u64).collect();
    same("delays", &delays, &case.expect.wholes("delays_ms")?)
}

pub(crate) fn lower_bound_jitter(case: &Case) -> Outcome {
    let least = Duration::from_nanos(case.given.whole("min_ms")?);
    let delay = testing::lower_bound_jitter(least, Chance::Raw(case.given.whole("random")?));
    same("delay", &(delay.as_nanos() as u64), &case.expect.whole("delay_ms")?)
}

pub(crate) fn exponential(case: &Case) -> Outcome {
    let max = case.given.whole_or_null("max_ms")?.map_or(Duration::MAX, Duration::from_millis);
    let backoff = Backoff::new(Duration::from_millis(case.given.whole("start_ms")?), max, Jitter::None);
    let backoff = backoff.growing(Growth::Exponential(case.given.number("multiplier")?));
    let delays = (1..=case.given.small("n")?)
        .map(|attempt| backoff.delay(attempt, Duration::ZERO, Chance::Raw(0)).as_millis() as u64);
    same("delays", &delays.collect(), &case.expect.wholes("delays_ms")?)
}

pub(crate) fn decorrelated_step(case: &Case) -> Outcome {
    steps(case, Jitter::Decorrelated)
}

pub(crate) fn equal_jitter_step(case: &Case) -> Outcome {
    steps(case, Jitter::Equal)
}

/// The first delay, and then one for each draw.
fn steps(case: &Case, jitter: Jitter) -> Outcome {
    let ms = |name| case.given.whole(name).map(Duration::from_millis);
    let backoff = Backoff::new(ms("start_ms")?, ms("max_ms")?, jitter);
    let mut previous = backoff.delay(1, Duration::ZERO, Chance::Uniform(0.0));
    let mut delays = vec![millis(previous)];
    for (draw, attempt) in case.given.numbers("uniforms")?.into_iter().zip(2..) {
        previous = backoff.delay(attempt, previous, Chance::Uniform(draw));
        delays.push(millis(previous));
    }
    case.all_close("delay", &delays, &case.expect.numbers("delays_ms")?)
}

pub(crate) fn polly_delay_max(case: &Case) -> Outcome {
    let kind = case.given.text("type")?;
    if kind != "exponential" {
        return Err(unknown(&kind));
    }
    let ms = |name| case.given.whole(name).map(Duration::from_millis);
    let backoff = Backoff::new(ms("base_ms")?, ms("max_ms")?, Jitter::None);
    // Theirs counts from zero.
    let delay = backoff.delay(case.given.small("attempt")? + 1, Duration::ZERO, Chance::Raw(0));
    same("delay", &(delay.as_millis() as u64), &case.expect.whole("delay_ms")?)
}

pub(crate) fn aws_upper_bounds(case: &Case) -> Outcome {
    let base = case.given.whole("base")?;
    if base != 2 {
        return Err(unknown(&base));
    }
    let seconds = |name| case.given.number(name).map(Duration::from_secs_f64);
    let backoff = Backoff::new(seconds("scale_s")?, seconds("max_s")?, Jitter::Full);
    let bounds: Vec<_> = (1..=case.given.small("n")?).map(|n| backoff.ceiling(n).as_secs_f64()).collect();
    case.all_close("bound", &bounds, &case.expect.numbers("max_delay_s")?)
}

pub(crate) fn linear(case: &Case) -> Outcome {
    let ms = |name| case.given.whole(name).map(Duration::from_millis);
    let backoff = Backoff::new(ms("start_ms")?, ms("max_ms")?, Jitter::None);
    let backoff = backoff.growing(Growth::Linear(ms("offset_ms")?));
    let delays = (1..=case.given.small("n")?).map(|attempt| backoff.ceiling(attempt).as_millis() as u64);
    same("delays", &delays.collect(), &case.expect.wholes("delays_ms")?)
}

pub(crate) fn grpc_retry_delay(case: &Case) -> Outcome {
    let ms = |name| case.given.whole(name).map(Duration::from_millis);
    let backoff = Backoff::new(ms("initial_ms")?, ms("max_ms")?, Jitter::Proportional(20));
    let backoff = backoff.growing(Growth::Exponential(case.given.number("multiplier")?));
    let chance = Chance::Uniform(case.given.number("uniform")?);
    let delay = backoff.delay(case.given.small("retry_number")?, Duration::ZERO, chance);
    case.all_close("delay", &[millis(delay)], &[case.expect.number("delay_ms")?])
}

pub(crate) fn linkerd_backoff(case: &Case) -> Outcome {
    let ms = |name| case.given.whole(name).map(Duration::from_millis);
    let percent = (case.given.number("jitter_ratio")? * 100.0) as u8;
    let backoff = Backoff::new(ms("min_ms")?, ms("max_ms")?, Jitter::Additive(percent));
    let chance = Chance::Uniform(case.given.number("uniform")?);
    // Theirs counts from zero.
    let delay = backoff.delay(case.given.small("iteration")? + 1, Duration::ZERO, chance);
    case.all_close("delay", &[millis(delay)], &[case.expect.number("delay_ms")?])
}

pub(crate) fn polly_delay(case: &Case) -> Outcome {
    let base = Duration::from_millis(case.given.whole("base_ms")?);
    let growth = match case.given.text("type")? {
        "constant" => Growth::Constant,
        "linear" => Growth::Linear(base),
        "exponential" => Growth::Exponential(2.0),
        other => return Err(unknown(&other)),
    };
    let drawn = !case.given.value("uniform")?.is_null();
    same("a draw", &drawn, &case.given.flag("jitter")?)?;
    let (jitter, chance) = if drawn {
        (Jitter::Symmetric(25), Chance::Uniform(case.given.number("uniform")?))
    } else {
        (Jitter::None, Chance::Raw(0))
    };
    let backoff = Backoff::new(base, Duration::MAX, jitter).growing(growth);
    let delay = backoff.delay(case.given.small("attempt")? + 1, Duration::ZERO, chance);
    case.all_close("delay", &[millis(delay)], &[case.expect.number("delay_ms")?])
}

pub(crate) fn randomized_bounds(case: &Case) -> Outcome {
    let interval = Duration::from_millis(case.given.whole("interval_ms")?);
    let percent = (case.given.number("factor")? * 100.0) as u8;
    let backoff = Backoff::new(interval, Duration::MAX, Jitter::Symmetric(percent)).growing(Growth::Constant);
    let at = |uniform| millis(backoff.delay(1, Duration::ZERO, Chance::Uniform(uniform)));
    let bounds = [case.expect.number("min_ms")?, case.expect.number("max_ms")?];
    case.all_close("bound", &[at(0.0), at(1.0)], &bounds)
}
