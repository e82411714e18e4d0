//! Ejection among peers, on `breaker::outlier`.

use std::time::Duration;

use tower_mesh_breaker::outlier::policy::{
    self, Change, Counts, Host, Rule, Spread, decide, ejection_time, sweep as sweep_set,
};
use tower_mesh_breaker::outlier::{Dialect, OutlierConfig, OutlierConfigBuilder, Outliers};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer, Circuit};
use tower_mesh_core::backoff::Chance;
use tower_mesh_core::classify::{ByResult, Origin, Outcome as Ended};
use tower_mesh_core::{EndpointHandle, Reason, Tick};
use tower_mesh_tests::now;

use crate::case::{Case, Fields, Outcome, same, unknown};

const ZERO: fn() -> Chance = || Chance::Raw(0);

fn built(builder: OutlierConfigBuilder) -> Result<OutlierConfig, String> {
    builder.build().map_err(|error| error.to_string())
}

fn dialect(case: &Case) -> Result<Dialect, String> {
    match case.model() {
        None | Some("envoy") => Ok(Dialect::Envoy),
        Some("grpc") => Ok(Dialect::Grpc),
        Some(other) => Err(unknown(&other)),
    }
}

pub(crate) fn sr_threshold(case: &Case) -> Outcome {
    let spread = Spread::of(&case.given.numbers("values")?).ok_or("no values")?;
    case.close("mean", spread.mean, case.expect.number("mean")?)?;
    case.close("stdev", spread.deviation, case.expect.number("stdev")?)?;
    case.close("threshold", spread.threshold(case.given.number("k")?), case.expect.number("threshold")?)
}

/// Envoy's names, all in one table.
fn envoy_rules(fields: &Fields) -> Result<OutlierConfigBuilder, String> {
    Ok(OutlierConfig::builder()
        .success_rate_min_hosts(fields.small("sr_min_hosts")?)
        .success_rate_min_calls(fields.small("sr_volume")?)
        .success_rate_factor(fields.number("sr_k")?)
        .enforce_success_rate(fields.number("sr_enforce")? / 100.0)
        .enforce_failure_share(fields.number("fp_enforce")? / 100.0)
        .failure_threshold(fields.number("fp_threshold")? / 100.0)
        .failure_min_hosts(fields.small("fp_min_hosts")?)
        .failure_min_calls(fields.small("fp_volume")?)
        .at_least_one(fields.flag("always_eject_one")?))
}

/// gRPC's: a table for each rule, or none where it is off.
fn grpc_rules(fields: &Fields) -> Result<OutlierConfigBuilder, String> {
    let mut config = OutlierConfig::builder().dialect(Dialect::Grpc);
    if fields.value("success_rate")?.is_null() {
        config = config.success_rate_min_hosts(u32::MAX);
    } else {
        let rule = fields.object("success_rate")?;
        config = config
            .success_rate_factor(rule.0.number("k")?)
            .enforce_success_rate(rule.0.number("enforce")? / 100.0)
            .success_rate_min_hosts(rule.0.small("min_hosts")?)
            .success_rate_min_calls(rule.0.small("volume")?);
        rule.done()?;
    }
    if fields.value("failure_percentage")?.is_null() {
        config = config.failure_min_hosts(u32::MAX);
    } else {
        let rule = fields.object("failure_percentage")?;
        config = config
            .failure_threshold(rule.0.number("threshold")? / 100.0)
            .enforce_failure_share(rule.0.number("enforce")? / 100.0)
            .failure_min_hosts(rule.0.small("min_hosts")?)
            .failure_min_calls(rule.0.small("volume")?);
        rule.done()?;
    }
    Ok(config)
}

pub(crate) fn sweep(case: &Case) -> Outcome {
    let fields = case.given.object("config")?;
    let rules = match dialect(case)? {
        Dialect::Grpc => grpc_rules(&fields.0)?,
        _ => envoy_rules(&fields.0)?,
    };
    let config = built(rules.max_ejection_percent(fields.0.small("max_ejection_percent")?))?;
    fields.done()?;
    let mut hosts = Vec::new();
    for row in case.given.rows("hosts")? {
        let (ok, failed) = (row.0.whole("ok")?, row.0.whole("fail")?);
        let counts = Counts { total: ok + failed, failed, ..Counts::default() };
        hosts.push(Host { counts, ..Host::default() });
        row.done()?;
    }
    let rates: Vec<_> = hosts
        .iter()
        .map(|host| host.counts)
        .filter(|counts| counts.total >= u64::from(config.success_rate_min_calls()))
        .map(|counts| (counts.total - counts.failed) as f64 * 100.0 / counts.total as f64)
        .collect();
    let changes = sweep_set(&config, &mut hosts, now(), ZERO);
    let ejected: Vec<_> = (0..hosts.len()).filter(|&i| hosts[i].ejection.is_out()).collect();
    let count =
        |wanted: fn(&Change) -> bool| changes.iter().filter(|(_, change)| wanted(change)).count() as u64;
    let dry = count(|change| matches!(change, Change::NotEnforced(_)));
    let too_many = count(|change| matches!(change, Change::TooMany(_)));

    if case.expect.has("ejected") {
        same("ejected", &ejected.iter().map(|&i| i as u64).collect(), &case.expect.wholes("ejected")?)?;
    }
    if case.expect.has("ejected_count") {
        same("ejected", &(ejected.len() as u64), &case.expect.whole("ejected_count")?)?;
    }
    if case.expect.has("enforced") {
        let enforced = count(|change| matches!(change, Change::Ejected { .. }));
        same("enforced", &enforced, &case.expect.whole("enforced")?)?;
    }
    if case.expect.has("unenforced") {
        same("unenforced", &(dry + too_many), &case.expect.whole("unenforced")?)?;
    }
    if case.expect.has("reason") {
        let reason = match (dry, too_many) {
            (1.., 0) => "enforcement_percentage",
            (0, 1..) => "max_ejection_overflow",
            _ => "none, or both",
        };
        same("reason", &reason, &case.expect.text("reason")?)?;
    }
    if case.expect.has("mean") {
        case.close("mean", Spread::of(&rates).ok_or("no rates")?.mean, case.expect.number("mean")?)?;
    }
    if case.expect.has("threshold") {
        let threshold = Spread::of(&rates).ok_or("no rates")?.threshold(config.success_rate_factor());
        case.close("threshold", threshold, case.expect.number("threshold")?)?;
    }
    Ok(())
}

pub(crate) fn ejection_cap(case: &Case) -> Outcome {
    let config = built(
        OutlierConfig::builder()
            .dialect(dialect(case)?)
            .max_ejection_percent(case.given.small("max_percent")?)
            .at_least_one(case.given.flag("always_eject_one")?),
    )?;
    let mut hosts = vec![Host::default(); case.given.small("hosts")? as usize];
    let (mut ejected, mut overflow) = (0, 0);
    for i in 0..case.given.small("candidates_in_order")? as usize {
        match decide(&config, &mut hosts, i, Rule::SuccessRate, now(), ZERO) {
            Some(Change::Ejected { .. }) => ejected += 1,
            Some(Change::TooMany(_)) => overflow += 1,
            other => return Err(unknown(&other)),
        }
    }
    same("ejected", &ejected, &case.expect.whole("ejected")?)?;
    if case.expect.has("overflow") {
        same("overflow", &overflow, &case.expect.whole("overflow")?)?;
    }
    Ok(())
}

/// A circuit that never opens, in a set of ten.
fn in_a_set(outliers: &Outliers) -> Result<(Circuit, Vec<EndpointHandle>), String> {
    let config = BreakerConfig::builder().consecutive_failures(0).min_calls(u32::MAX).build();
    let layer = BreakerLayer::new(config.map_err(|error| error.to_string())?, ByResult).ejecting(outliers);
    let endpoints = (0..10).map(|i| format!("a:{}", i + 1).parse().map(EndpointHandle::new));
    let endpoints = endpoints.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let mut circuits = endpoints.iter().map(|endpoint| layer.watching(endpoint).circuit().clone());
    let circuit = circuits.next().ok_or("no endpoint")?;
    circuits.for_each(drop);
    Ok((circuit, endpoints))
}

/// Their gateway errors (502, 503, 504) are failures of local origin here: what failed on the way.
pub(crate) fn consecutive(case: &Case) -> Outcome {
    let fields = case.given.object("config")?;
    let enforced = |name: &str| fields.0.flag(name).map(|enforced| f64::from(u8::from(enforced)));
    let config = built(
        OutlierConfig::builder()
            .consecutive_failures(fields.0.small("n_5xx")?)
            .consecutive_local(fields.0.small("n_gateway")?)
            .enforce_consecutive(enforced("enforce_5xx")?)
            .enforce_consecutive_local(enforced("enforce_gateway")?),
    )?;
    fields.done()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let (outliers, mut driver) = Outliers::new(config);
        // It runs from its first poll on.
        let _ = futures_util::poll!(&mut driver);
        let (circuit, endpoints) = in_a_set(&outliers)?;
        let (mut ejected_at, mut by) = (None, None);
        let mut detected = [Vec::new(), Vec::new()];
        let rules = [(Rule::Consecutive, "5xx"), (Rule::ConsecutiveLocal, "gateway")];
        for (status, number) in case.given.wholes("events")?.into_iter().zip(1_u64..) {
            let before = outliers.status();
            let outcome = match status {
                200 => Ended::Success,
                500 => Ended::Failure(Origin::Remote),
                502..=504 => Ended::Failure(Origin::Local),
                _ => return Err(unknown(&status)),
            };
            circuit.acquire(now()).map_err(|error| error.to_string())?.finish(outcome, Duration::ZERO, now());
            let after = outliers.status();
            for ((rule, name), detected) in rules.into_iter().zip(&mut detected) {
                let (before, after) = (before.counts(rule), after.counts(rule));
                if after.detected > before.detected {
                    detected.push(number);
                }
                if after.enforced > before.enforced {
                    (ejected_at, by) = (Some(number), Some(name));
                }
            }
        }
        same("out", &endpoints[0].availability().contains(Reason::Ejected), &ejected_at.is_some())?;
        same("ejected at", &ejected_at, &case.expect.whole_or_null("ejected_at_event")?)?;
        if case.expect.has("by") {
            same("by", &by, &Some(case.expect.text("by")?))?;
        }
        for (name, detected) in ["detected_5xx_at", "detected_gateway_at"].into_iter().zip(&detected) {
            if case.expect.has(name) {
                same(name, detected, &case.expect.wholes(name)?)?;
            }
        }
        Ok(())
    })
}

fn times(fields: &Fields, interval: &str) -> Result<OutlierConfigBuilder, String> {
    let ms = |name: &str| fields.whole(name).map(Duration::from_millis);
    Ok(OutlierConfig::builder()
        .base_ejection_time(ms("base_ms")?)
        .max_ejection_time(ms("max_ms")?)
        .interval(ms(interval)?))
}

pub(crate) fn ejection_timeline(case: &Case) -> Outcome {
    let fields = case.given.object("config")?;
    let config = built(times(&fields.0, "interval_ms")?.dialect(dialect(case)?))?;
    fields.done()?;
    let start = now();
    let mut hosts = [Host::default(); 4];
    for step in case.given.rows("steps")? {
        let ms = step.0.whole("t_ms")?;
        let at = start + Duration::from_millis(ms);
        match step.0.text("op")? {
            "eject" => {
                hosts[0].ejection.eject(&config, at, ZERO());
            }
            "sweep" => {
                sweep_set(&config, &mut hosts, at, ZERO);
            }
            other => return Err(unknown(&other)),
        }
        same(format_args!("ejected at {ms}"), &hosts[0].ejection.is_out(), &step.0.flag("ejected")?)?;
        step.done()?;
    }
    Ok(())
}

pub(crate) fn ejection_durations(case: &Case) -> Outcome {
    let config = built(times(&case.given, "sweep_ms")?)?;
    // "min(i,30)*10000 …"
    let formula = case.expect.text("duration_ms")?;
    let parsed = formula.strip_prefix("min(i,").and_then(|rest| {
        let (most, rest) = rest.split_once(")*")?;
        let unit = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some((most.parse::<u64>().ok()?, unit.parse::<u64>().ok()?))
    });
    let (most, unit) = parsed.ok_or_else(|| unknown(&formula))?;
    let (mut hosts, mut at) = ([Host::default(); 4], now());
    for i in 1..=case.given.whole("ejections_back_to_back")? {
        let since = at;
        hosts[0].ejection.eject(&config, at, ZERO());
        while hosts[0].ejection.is_out() {
            at = at + config.interval();
            sweep_set(&config, &mut hosts, at, ZERO);
        }
        let expected = Duration::from_millis(i.min(most) * unit);
        same(format_args!("ejection {i}"), &at.since(since), &expected)?;
    }
    Ok(())
}

pub(crate) fn ejection_jitter(case: &Case) -> Outcome {
    let max = Duration::from_millis(case.given.whole("max_jitter_ms")?);
    let jitter = policy::ejection_jitter(max, Chance::Raw(case.given.whole("random")?));
    same("jitter", &jitter, &Duration::from_millis(case.expect.whole("jitter_ms")?))
}

pub(crate) fn grpc_ejection_duration(case: &Case) -> Outcome {
    let seconds = |name: &str| case.given.whole(name).map(Duration::from_secs);
    let time = ejection_time(seconds("base_s")?, seconds("max_s")?, case.given.small("multiplier")?);
    same("time", &time, &Duration::from_secs(case.expect.whole("seconds")?))
}

pub(crate) fn hc_unejects_outlier(case: &Case) -> Outcome {
    let endpoint = EndpointHandle::new("a:1".parse().map_err(|error| format!("{error:?}"))?);
    let at: Tick = now();
    if case.given.flag("ejected_by_outlier_detection")? {
        endpoint.eject(at, case.given.flag("successful_active_health_check_uneject_host")?);
    }
    if case.given.flag("failed_active_hc")? {
        endpoint.set(Reason::ProbeDown);
    }
    match case.given.text("active_check")? {
        "success" => {
            endpoint.hint_recovery(at + Duration::from_secs(1));
        }
        "failure" => {}
        other => return Err(unknown(&other)),
    }
    let out = endpoint.availability().contains(Reason::Ejected);
    same("unejected", &!out, &case.expect.flag("unejected")?)
}
