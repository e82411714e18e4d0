//! Where calls go beyond two choices: turns, hashes, levels, zones, subsets and slow start, on the pure rules of `discovery`.

use std::time::Duration;

use tower_mesh_discovery::hashing::{self, Ring, combine, maglev, ring};
use tower_mesh_discovery::levels::{self, Level, Zones};
use tower_mesh_discovery::pick::request_weight;
use tower_mesh_discovery::warm::SlowStart;
use tower_mesh_discovery::weighted::schedule;

use crate::case::{Case, Outcome, Row, number, same, unknown, whole};

pub(crate) fn edf_sequence(case: &Case) -> Outcome {
    let weights = case.given.wholes("weights")?.into_iter().map(|weight| weight as u32).collect::<Vec<_>>();
    let turns = schedule(&weights).into_iter().map(u64::from).collect::<Vec<_>>();
    let picks = case.given.whole("picks")? as usize;
    let sequence: Vec<_> = turns.iter().copied().cycle().take(picks).collect();
    same("sequence", &sequence, &case.expect.wholes("sequence")?)
}

fn hosts(case: &Case) -> Result<Vec<(String, u32)>, String> {
    let weights = case.given.wholes("weights")?;
    let names: Vec<String> = if case.given.has("hosts") {
        let text =
            |value: &serde_json::Value| value.as_str().map(str::to_owned).ok_or_else(|| unknown(value));
        case.given.list("hosts")?.iter().map(text).collect::<Result<_, _>>()?
    } else {
        (0..weights.len()).map(|i| format!("127.0.0.1:{}", 90 + i)).collect()
    };
    same("number of weights", &weights.len(), &names.len())?;
    Ok(names.into_iter().zip(weights.into_iter().map(|weight| weight as u32)).collect())
}

fn ring_of(case: &Case, hosts: &[(String, u32)]) -> Result<Vec<(u64, u32)>, String> {
    let hosts: Vec<_> = hosts.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    Ok(ring(&hosts, case.given.whole("min_size")? as usize, case.given.whole("max_size")? as usize))
}

pub(crate) fn ring_build(case: &Case) -> Outcome {
    let hash = case.given.text("hash")?;
    if hash != "xxh64 seed 0 of '<addr>_<i>'" {
        return Err(unknown(&hash));
    }
    let hosts = hosts(case)?;
    let ring = ring_of(case, &hosts)?;
    same("size", &(ring.len() as u64), &case.expect.whole("size")?)?;
    let entry = |value: &serde_json::Value| {
        let pair = value.as_array().filter(|pair| pair.len() == 2).ok_or_else(|| unknown(value))?;
        let hash = whole(&pair[0]).ok_or_else(|| unknown(value))?;
        Ok::<_, String>((hash, pair[1].as_str().ok_or_else(|| unknown(value))?.to_owned()))
    };
    let expected: Vec<_> = case.expect.list("ring")?.iter().map(entry).collect::<Result<_, _>>()?;
    let found: Vec<_> = ring.into_iter().map(|(hash, host)| (hash, hosts[host as usize].0.clone())).collect();
    same("ring", &found, &expected)
}

/// The ring is that of the first case of `ring_build`, which says so by name.
pub(crate) fn ring_pick(case: &Case) -> Outcome {
    let of = case.given.text("ring_of")?;
    if of != "rh-1" {
        return Err(unknown(&of));
    }
    let names: Vec<_> = (90..96).map(|port| format!("127.0.0.1:{port}")).collect();
    let hosts: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let ring = Ring::new(ring(&hosts, 12, 8_388_608));
    let picks: Vec<_> = case.given.wholes("hashes")?;
    let picks: Vec<_> =
        picks.into_iter().map(|key| names[ring.host(ring.place(key)) as usize].as_str()).collect();
    let expected: Vec<_> = case.expect.list("picks")?.iter().filter_map(|value| value.as_str()).collect();
    same("picks", &picks, &expected)
}

fn counts(owners: impl Iterator<Item = u32>, hosts: usize) -> Vec<u64> {
    let mut counts = vec![0; hosts];
    owners.for_each(|host| counts[host as usize] += 1);
    counts
}

pub(crate) fn ring_counts(case: &Case) -> Outcome {
    let hosts = hosts(case)?;
    let ring = ring_of(case, &hosts)?;
    same("size", &(ring.len() as u64), &case.expect.whole("size")?)?;
    let counts = counts(ring.into_iter().map(|(_, host)| host), hosts.len());
    if case.expect.has("counts") {
        return same("counts", &counts, &case.expect.wholes("counts")?);
    }
    let allowed = case.expect.whole("min_per_host")?..=case.expect.whole("max_per_host")?;
    if counts.iter().all(|count| allowed.contains(count)) { Ok(()) } else { Err(unknown(&counts)) }
}

pub(crate) fn maglev_table(case: &Case) -> Outcome {
    let hosts = hosts(case)?;
    let named: Vec<_> = hosts.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    let table = maglev(&named, case.given.whole("table_size")? as usize);
    if case.expect.has("per_host") {
        let counts = counts(table.iter().copied(), hosts.len());
        same("per host", &counts, &case.expect.wholes("per_host")?)?;
    }
    let table: Vec<_> = table.into_iter().map(u64::from).collect();
    same("table", &table, &case.expect.wholes("table_host_index")?)
}

pub(crate) fn hash_combine(case: &Case) -> Outcome {
    let parts = case.given.list("policy_hashes")?.iter();
    let parts: Vec<_> =
        parts
            .map(|value| {
                if value.is_null() { Ok(None) } else { whole(value).map(Some).ok_or_else(|| unknown(value)) }
            })
            .collect::<Result<_, _>>()?;
    same("hash", &combine(parts), &case.expect.whole_or_null("hash")?)
}

pub(crate) fn slow_start_factor(case: &Case) -> Outcome {
    let given = &case.given;
    let window = Duration::from_millis(given.whole("window_ms")?);
    let slow = SlowStart::new(window, given.number("aggression")?, given.number("min_weight")?);
    let slow = slow.ok_or("no window")?;
    let factor = slow.factor(Duration::from_millis(given.whole("elapsed_ms")?)).unwrap_or(1.0);
    if case.expect.has("observed_picks_old0_new1") {
        // The order in which one scheduler interleaves the two; what holds for every one is the factor, and that the newcomer is picked at all.
        let picks = case.expect.wholes("observed_picks_old0_new1")?;
        same("the newcomer is picked", &picks.contains(&1), &(factor > 0.0))?;
    }
    case.close("factor", factor, case.expect.number("factor")?)
}

fn level(row: &Row) -> Result<Level, String> {
    Ok(Level {
        hosts: row.0.small("hosts")?,
        healthy: row.0.small("healthy")?,
        degraded: row.0.small("degraded")?,
        excluded: row.0.small("excluded")?,
    })
}

pub(crate) fn priority_load(case: &Case) -> Outcome {
    let mut given = Vec::new();
    for row in case.given.rows("levels")? {
        given.push(level(&row)?);
        row.done()?;
    }
    let (over, panic) =
        (case.given.small("overprovisioning_percent")?, case.given.small("panic_threshold_percent")?);
    let shares = &levels::spread(&given, over, panic)[..given.len()];
    let healthy: Vec<u64> = shares.iter().map(|share| share.healthy.into()).collect();
    same("healthy load", &healthy, &case.expect.wholes("healthy_load")?)?;
    if case.expect.has("degraded_load") {
        let degraded: Vec<u64> = shares.iter().map(|share| share.degraded.into()).collect();
        same("degraded load", &degraded, &case.expect.wholes("degraded_load")?)?;
    }
    if case.expect.has("panic") {
        let panic: Vec<_> = shares.iter().map(|share| Some(share.panic)).collect();
        let expected: Vec<_> = case.expect.list("panic")?.iter().map(|value| value.as_bool()).collect();
        same("panic", &panic, &expected)?;
    }
    Ok(())
}

pub(crate) fn panic_single(case: &Case) -> Outcome {
    let mut panic = Vec::new();
    for row in case.given.rows("rows")? {
        let level =
            Level { hosts: row.0.small("hosts")?, healthy: row.0.small("healthy")?, ..Level::default() };
        panic.push(Some(level.is_in_panic(row.0.small("threshold")?)));
        row.done()?;
    }
    let expected: Vec<_> = case.expect.list("panic")?.iter().map(|value| value.as_bool()).collect();
    same("panic", &panic, &expected)
}

pub(crate) fn zone_aware(case: &Case) -> Outcome {
    let zones = case.given.list("upstream_hosts")?.len();
    let small =
        |name| Ok::<_, String>(case.given.wholes(name)?.into_iter().map(|n| n as u32).collect::<Vec<_>>());
    let mode = case.expect.text("mode")?;
    match levels::zones(&small("upstream_hosts")?, &small("local_hosts")?) {
        Some(Zones::Residual { local, left_over }) => {
            same("mode", &mode, &"residual")?;
            same("local", &u64::from(local), &case.expect.whole("local_percent_x100")?)?;
            let mut sum = 0;
            let cumulative: Vec<u64> = left_over[..zones]
                .iter()
                .map(|part| {
                    sum += u64::from(*part);
                    sum
                })
                .collect();
            same("residual", &cumulative, &case.expect.wholes("residual_cumulative")?)
        }
        other => Err(unknown(&other)),
    }
}

pub(crate) fn subset(case: &Case) -> Outcome {
    let names: Vec<_> = (0..case.given.whole("endpoints")?).map(|i| format!("e{i}:1")).collect();
    let keys: Vec<_> = names.iter().map(String::as_str).collect();
    let mut kept = Vec::new();
    for size in case.given.list("subset_size")? {
        let size = number(size).ok_or_else(|| unknown(size))? as usize;
        kept.push(hashing::subset(&keys, size, 7).len() as u64);
    }
    same("kept", &kept, &case.expect.wholes("kept")?)
}

pub(crate) fn lr_weight(case: &Case) -> Outcome {
    let mut weights = Vec::new();
    for row in case.given.list("rows")? {
        let row: Option<Vec<_>> = row.as_array().and_then(|row| row.iter().map(number).collect());
        match row.as_deref() {
            Some(&[weight, active, bias]) => weights.push(request_weight(weight, active as u64, bias)),
            _ => return Err(unknown(&row)),
        }
    }
    case.all_close("weight", &weights, &case.expect.numbers("weights")?)
}
