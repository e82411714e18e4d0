//! What is kept of a set that its source changes, on `discovery::retention`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tower_mesh_core::{Availability, Reason};
use tower_mesh_discovery::disappearance::Limit;
use tower_mesh_discovery::retention::{Retention, Rules};
use tower_mesh_tests::now;

use crate::case::{Case, Outcome, op, same, unknown, whole};

fn set(value: &Value) -> Result<BTreeSet<u64>, String> {
    let list = value.as_array().ok_or_else(|| unknown(value))?;
    list.iter().map(|value| whole(value).ok_or_else(|| unknown(value))).collect()
}

pub(crate) fn stabilize(case: &Case) -> Outcome {
    let mut at = now();
    let grace = Duration::from_millis(case.given.whole("grace_ms")?);
    let mut retention = Retention::new(Rules { grace, ..Rules::default() });
    let mut named = set(case.given.value("all")?)?;
    let mut here = named.clone();
    let mut denied = false;
    for (i, value) in case.given.list("ops")?.iter().enumerate() {
        let (name, rest) = op(value)?;
        match (name, rest) {
            ("health", [health]) => match health.as_str() {
                Some("healthy") => retention.source(true, at),
                Some("unhealthy") => retention.source(false, at),
                _ => return Err(unknown(value)),
            },
            ("adv", [ms]) => at = at + Duration::from_millis(whole(ms).ok_or_else(|| unknown(value))?),
            ("set", [members]) => {
                named = set(members)?;
                denied = false;
            }
            ("neg", []) => {
                named = BTreeSet::new();
                denied = true;
            }
            ("limbo", [n]) => {
                same(format_args!("waiting at {i}"), &Some(retention.waiting() as u64), &whole(n))?;
            }
            ("out", [members]) => same(format_args!("set at {i}"), &here, &set(members)?)?,
            ("out_neg", []) => same(format_args!("at {i}"), &(denied, here.len()), &(true, 0))?,
            _ => return Err(unknown(value)),
        }
        here.extend(&named);
        retention.absent(here.difference(&named).copied(), named.is_empty(), at);
        for gone in retention.due(at, |_| true) {
            here.remove(&gone);
        }
    }
    Ok(())
}

pub(crate) fn envoy_matrix(case: &Case) -> Outcome {
    let (mut route, mut delete) = (Vec::new(), Vec::new());
    for row in case.given.rows("rows")? {
        let availability: Availability = match row.0.text("health")? {
            "ok" => Availability::FULL,
            "fail" => [Reason::ProbeDown].into_iter().collect(),
            other => return Err(unknown(&other)),
        };
        let mut retention = Retention::new(Rules { while_well: true, ..Rules::default() });
        retention.source(true, now());
        retention.absent((!row.0.flag("discovered")?).then_some(0), false, now());
        let gone = !retention.due(now(), |_| !availability.is_blocked()).is_empty();
        delete.push(Value::from(gone));
        route.push(Value::from(!gone && !availability.is_blocked()));
        row.done()?;
    }
    same("routed", &&*route, &case.expect.list("route")?)?;
    same("deleted", &&*delete, &case.expect.list("delete")?)
}

pub(crate) fn eureka_eviction(case: &Case) -> Outcome {
    let mut evicted = Vec::new();
    for row in case.given.rows("rows")? {
        let (registry, expired) = (row.0.whole("registry")?, row.0.whole("expired")?);
        let percent = 100 - (row.0.number("threshold")? * 100.0).round() as u32;
        row.done()?;
        let limit = Limit::new(percent, Duration::from_secs(60));
        let mut retention = Retention::new(Rules::default());
        retention.source(true, now());
        retention.absent(0..expired, expired == registry, now());
        let most = limit.allowance(registry as usize, now());
        evicted.push(Value::from(retention.due_up_to(most, now(), |_| true, |_| 0).len()));
    }
    same("evicted", &&*evicted, &case.expect.list("evict")?)
}
