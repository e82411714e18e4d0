//! Windows, on `core::window`.

use std::time::Duration;

use tower_mesh_core::window::{CountWindow, Sample, TimeWindow, Window, WindowCounts};
use tower_mesh_core::{Ratio, Tick};
use tower_mesh_tests::now;

use crate::case::{Case, Outcome, op, same, unknown, whole};

const GOOD: Sample = Sample { failed: false, slow: false };
const BAD: Sample = Sample { failed: true, slow: false };

pub(crate) fn time_window(case: &Case) -> Outcome {
    if !case.given.flag("aligned_to_epoch_second")? {
        return Err("a window that is not aligned".into());
    }
    let (buckets, width) = (case.given.small("buckets")?, case.given.whole("bucket_ms")?);
    // The origin stands for the beginning of a second.
    let mut at = now();
    let window = Window::Time(TimeWindow::new(Duration::from_millis(width) * buckets, buckets, at));
    let (mut totals, mut failed) = (Vec::new(), Vec::new());
    for value in case.given.list("ops")? {
        match op(value)? {
            (sample @ ("S" | "E"), []) => {
                window.record(at, if sample == "S" { GOOD } else { BAD });
                let counts = window.counts(at);
                totals.push(counts.total);
                failed.push(counts.failed);
            }
            ("read", [total]) => {
                let total = whole(total).ok_or_else(|| unknown(value))?;
                same("total read", &window.counts(at).total, &total)?;
            }
            ("adv", [ms]) => at = later(at, ms)?,
            _ => return Err(unknown(value)),
        }
    }
    same("totals", &totals, &case.expect.wholes("total_after_each_record")?)?;
    same("failed", &failed, &case.expect.wholes("failed_after_each_record")?)
}

fn later(at: Tick, ms: &serde_json::Value) -> Result<Tick, String> {
    let ms = whole(ms).ok_or_else(|| unknown(ms))?;
    Ok(at + Duration::from_millis(ms))
}

pub(crate) fn count_window(case: &Case) -> Outcome {
    let window = CountWindow::new(case.given.small("size")?);
    let (mut totals, mut failed, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for call in case.given.text("sequence")?.chars() {
        window.record(match call {
            'S' => GOOD,
            'E' => BAD,
            _ => return Err(unknown(&call)),
        });
        let counts = window.counts();
        totals.push(counts.total);
        failed.push(counts.failed);
        // The source counts its rates in 32 bits.
        rates.push(f64::from(counts.failed as f32 * 100.0 / counts.total as f32));
    }
    same("totals", &totals, &case.expect.wholes("total")?)?;
    same("failed", &failed, &case.expect.wholes("failed")?)?;
    let expected = case.expect.numbers("failure_rate")?;
    same("number of rates", &rates.len(), &expected.len())?;
    let mut pairs = rates.iter().zip(&expected);
    match pairs.find(|(found, expected)| (*found - *expected).abs() > f64::from(f32::EPSILON) * 100.0) {
        Some(pair) => Err(format!("rate: found and expected {pair:?}")),
        None => Ok(()),
    }
}

/// Their rule is over successes and strict (`<`), ours is over failures and not (`≥`): the one is what the other denies.
fn trips(counts: WindowCounts, min_requests: u64, threshold: f64) -> Result<bool, String> {
    let threshold = Ratio::new(threshold).map_err(|error| error.to_string())?;
    let succeeded = counts.total - counts.failed;
    Ok(counts.total > 0 && counts.total >= min_requests && !threshold.is_reached_by(succeeded, counts.total))
}

pub(crate) fn ring_ratio(case: &Case) -> Outcome {
    let mut at = now();
    let (length, buckets) = (case.given.whole("window_ms")?, case.given.small("buckets")?);
    let window = TimeWindow::new(Duration::from_millis(length), buckets, at);
    for value in case.given.list("ops")? {
        let counts = window.counts(at);
        let succeeded = counts.total - counts.failed;
        match op(value)? {
            ("S", []) => window.record(at, GOOD),
            ("F", []) => window.record(at, BAD),
            ("adv", [ms]) => at = later(at, ms)?,
            ("ratio", [expected]) if expected.is_null() => same("calls", &counts.total, &0)?,
            ("ratio", [expected]) => {
                let expected = expected.as_f64().ok_or_else(|| unknown(value))?;
                case.close("ratio", succeeded as f64 / counts.total as f64, expected)?;
            }
            ("trip", [min_requests, threshold, expected]) => {
                let (Some(min_requests), Some(threshold), Some(expected)) =
                    (whole(min_requests), threshold.as_f64(), expected.as_bool())
                else {
                    return Err(unknown(value));
                };
                same(value, &trips(counts, min_requests, threshold)?, &expected)?;
            }
            ("totals", [good, total]) => {
                let (Some(good), Some(total)) = (whole(good), whole(total)) else {
                    return Err(unknown(value));
                };
                same("totals", &(succeeded, counts.total), &(good, total))?;
            }
            _ => return Err(unknown(value)),
        }
    }
    Ok(())
}
