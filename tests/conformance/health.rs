//! Active checks, on `health::policy`.

use std::num::NonZeroU32;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tower_mesh_health::policy::{Cadence, HealthState, Machine, Sample, lengthen};
use tower_mesh_http::policy::grpc_health;

use crate::case::{Case, Outcome, same, unknown, whole};

pub(crate) fn hc_trace(case: &Case) -> Outcome {
    let config = case.given.object("config")?;
    let ms = |name| config.0.whole(name).map(Duration::from_millis);
    let threshold = |name| NonZeroU32::new(config.0.small(name)?).ok_or_else(|| format!("{name} is zero"));
    let interval = ms("interval")?;
    let or = |name, default| if config.0.has(name) { ms(name) } else { Ok(default) };
    let no_traffic_interval = ms("no_traffic_interval")?;
    let cadence = Cadence {
        interval,
        // Theirs has another for what is down and unused; ours checks what is down in its own time, used or not.
        no_traffic_interval: or("no_traffic_healthy_interval", no_traffic_interval)?,
        // Theirs has none: a check that could not be made counts as one that failed.
        unknown_interval: interval,
        unhealthy_interval: or("unhealthy_interval", interval)?,
        unhealthy_edge_interval: or("unhealthy_edge_interval", interval)?,
        healthy_edge_interval: or("healthy_edge_interval", interval)?,
    };
    let (fall, rise) = (threshold("unhealthy_threshold")?, threshold("healthy_threshold")?);
    config.done()?;

    let mut machine = match case.given.text("start")? {
        "healthy" => Machine::starting(HealthState::Healthy),
        // Down because nobody has looked yet.
        "failed" => Machine::new(),
        other => return Err(unknown(&other)),
    };
    for (i, value) in case.given.list("steps")?.iter().enumerate() {
        let step = value.as_array().map(Vec::as_slice);
        let Some([result, traffic, transition, next]) = step else {
            return Err(unknown(value));
        };
        let sample = match result.as_str() {
            Some("200") => Sample::Passed,
            Some("503") => Sample::Refused,
            Some("timeout") => Sample::Unreachable,
            _ => return Err(unknown(value)),
        };
        let (Some(traffic), Some(next)) = (traffic.as_bool(), whole(next)) else {
            return Err(unknown(value));
        };
        let step = machine.record(sample, rise, fall);
        let found = match (step.is_change(), step.pending) {
            (true, _) => "changed",
            (false, true) => "pending",
            (false, false) => "unchanged",
        };
        same(format_args!("transition of step {i}"), &Some(found), &transition.as_str())?;
        let wait = cadence.after(step, traffic).as_millis() as u64;
        same(format_args!("interval after step {i}"), &wait, &next)?;
    }
    Ok(())
}

pub(crate) fn hc_jitter(case: &Case) -> Outcome {
    let base = Duration::from_millis(case.given.whole("base_ms")?);
    let percent = base * case.given.small("jitter_percent")? / 100;
    let jitter = Duration::from_millis(case.given.whole("jitter_ms")?);
    let intervals = case.given.wholes("randoms")?.into_iter();
    let intervals = intervals.map(|random| lengthen(lengthen(base, percent, random), jitter, random));
    let intervals: Vec<_> = intervals.map(|interval| interval.as_millis() as u64).collect();
    same("intervals", &intervals, &case.expect.wholes("interval_ms")?)
}

/// What is told counts at once, so the thresholds are one. Their connection is usable once it is ready; ours is an endpoint, and what nothing is known of is
/// usable unless it is assumed to be down.
pub(crate) fn grpc_health_watch(case: &Case) -> Outcome {
    let one = NonZeroU32::MIN;
    let mut expected = case.expect.list("subchannel")?.iter();
    for row in case.given.rows("rows")? {
        let event = row.0.text("event")?;
        let said = |status: u8| Some(Sample::of(&grpc_health::answer(&[0x08, status])));
        let ended = |code: &str| {
            let mut fields = HeaderMap::new();
            fields.insert("grpc-status", code.parse().expect("a number"));
            Sample::of(&grpc_health::ended(StatusCode::OK, &fields))
        };
        let samples = match event {
            "connected, first answer not yet received" => vec![None],
            "SERVING" => vec![said(1)],
            "NOT_SERVING" => vec![said(2)],
            "SERVICE_UNKNOWN" => vec![said(3)],
            "Watch() -> UNIMPLEMENTED" => vec![Some(ended("12"))],
            "Watch() -> any other status" => {
                ["0", "1", "2", "5", "13", "14", "99"].map(|code| Some(ended(code))).into()
            }
            other => return Err(unknown(&other)),
        };
        row.done()?;
        let expected = expected.next().and_then(|value| value.as_str()).ok_or("too few states")?;
        let (state, more) = expected.split_at(expected.find([' ', ',']).unwrap_or(expected.len()));
        for sample in samples {
            let mut machine = Machine::new();
            if let Some(sample) = sample {
                machine.record(sample, one, one);
            }
            let found = match machine.state() {
                HealthState::Unknown => "CONNECTING",
                HealthState::Healthy => "READY",
                HealthState::Unhealthy => "TRANSIENT_FAILURE",
                other => return Err(unknown(&other)),
            };
            same(format_args!("state after {event}"), &found, &state)?;
        }
        match more {
            // That nothing more is asked is the stream's to do, and has tests against tonic's own server.
            "" | " (checking disabled, logged)" => {}
            ", retry with exponential back-off; back-off is reset by any received message" => {
                let second = Duration::from_secs(1);
                let cadence = Cadence {
                    interval: second,
                    unhealthy_interval: second,
                    healthy_edge_interval: second,
                    unhealthy_edge_interval: second,
                    no_traffic_interval: second,
                    unknown_interval: second,
                };
                let waits: Vec<_> = (0..9).map(|in_vain| cadence.reopen(in_vain).as_secs()).collect();
                same("waits", &waits, &vec![1, 2, 4, 8, 16, 32, 64, 120, 120])?;
            }
            other => return Err(unknown(&other)),
        }
    }
    same("states left over", &expected.count(), &0)
}
