//! Ejection among peers: what a sweep finds, whether it may act on it, and how long that lasts.
//!
//! Pure: counts, time and chance are arguments. After Envoy's outlier detection, whose order a [`sweep`] keeps, and gRPC's proposal A50.

use std::time::Duration;

use tower_mesh_core::Tick;
use tower_mesh_core::backoff::Chance;

use crate::outlier::{Dialect, OutlierConfig};

/// What makes an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rule {
    /// So many failures in a row.
    Consecutive,
    /// So many failures of local origin in a row.
    ConsecutiveLocal,
    /// A success rate that lies too many deviations below the mean.
    SuccessRate,
    /// Too large a share of failures.
    FailureShare,
    /// The same as [`SuccessRate`](Self::SuccessRate) for failures of local origin alone.
    LocalSuccessRate,
    /// The same as [`FailureShare`](Self::FailureShare) for failures of local origin alone.
    LocalFailureShare,
    /// Much slower than its peers.
    Latency,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 7] = [
        Self::Consecutive,
        Self::ConsecutiveLocal,
        Self::SuccessRate,
        Self::FailureShare,
        Self::LocalSuccessRate,
        Self::LocalFailureShare,
        Self::Latency,
    ];

    /// The name used in status and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::ConsecutiveLocal => "consecutive-local",
            Self::SuccessRate => "success-rate",
            Self::FailureShare => "failure-share",
            Self::LocalSuccessRate => "local-success-rate",
            Self::LocalFailureShare => "local-failure-share",
            Self::Latency => "latency",
        }
    }

    /// Whether this outlier is one of those that are ejected.
    pub fn is_enforced(self, config: &OutlierConfig, chance: Chance) -> bool {
        let share = match self {
            Self::Consecutive => config.enforce_consecutive(),
            Self::ConsecutiveLocal => config.enforce_consecutive_local(),
            Self::SuccessRate | Self::LocalSuccessRate => config.enforce_success_rate(),
            Self::FailureShare | Self::LocalFailureShare => config.enforce_failure_share(),
            Self::Latency => config.enforce_latency(),
        };
        // Hundredths, as Envoy draws them; a share of 1 is all of them whatever the draw.
        (chance.below(100) as f64) < share.as_f64() * 100.0
    }
}

/// What an endpoint did between two sweeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Calls that say something.
    pub total: u64,
    /// Those that failed, whatever the origin.
    pub failed: u64,
    /// Those of them that failed on this side or on the way.
    pub local: u64,
    /// What the good ones took together, in nanoseconds.
    pub good_ns: u64,
}

/// Whether an endpoint is ejected, and what is remembered of earlier times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ejection {
    out: Option<Out>,
    multiplier: u32,
    back_since: Option<Tick>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Out {
    since: Tick,
    time: Duration,
}

impl Ejection {
    /// Whether it is ejected.
    pub fn is_out(&self) -> bool {
        self.out.is_some()
    }

    /// When its time is over, if it is ejected.
    pub fn until(&self) -> Option<Tick> {
        self.out.map(|out| out.since + out.time)
    }

    /// By how much the base time is multiplied: how often it was ejected, less what has been forgotten.
    pub fn multiplier(&self) -> u32 {
        self.multiplier
    }

    /// Ejects it at `now`; for how long.
    pub fn eject(&mut self, config: &OutlierConfig, now: Tick, chance: Chance) -> Duration {
        let (base, max) = (config.base_ejection_time(), config.max_ejection_time());
        let has_effect = base.saturating_mul(self.multiplier) < max.saturating_add(base);
        if has_effect || config.dialect() == Dialect::Grpc {
            self.multiplier = self.multiplier.saturating_add(1);
        }
        let time =
            ejection_time(base, max, self.multiplier) + ejection_jitter(config.max_ejection_jitter(), chance);
        self.out = Some(Out { since: now, time });
        time
    }

    /// Whether it is ejected and its time is over.
    pub fn is_over(&self, config: &OutlierConfig, now: Tick) -> bool {
        self.out.is_some_and(|Out { since, time }| match config.dialect() {
            Dialect::Envoy => now.since(since) >= time,
            Dialect::Grpc => now.since(since) > time,
        })
    }

    /// Takes it back.
    pub fn restore(&mut self, now: Tick) {
        self.out = None;
        self.back_since = Some(now);
    }

    /// Forgets one ejection if it has been in service for long enough: with Envoy a whole interval, with gRPC the sweep before.
    pub fn decay(&mut self, config: &OutlierConfig, now: Tick) {
        let settled = match (config.dialect(), self.back_since) {
            (Dialect::Envoy, Some(since)) => now.since(since) >= config.interval(),
            (Dialect::Grpc, Some(since)) => now > since,
            (_, None) => true,
        };
        if self.out.is_none() && settled {
            self.multiplier = self.multiplier.saturating_sub(1);
        }
    }
}

/// How long an ejection lasts, without jitter.
pub fn ejection_time(base: Duration, max: Duration, multiplier: u32) -> Duration {
    base.saturating_mul(multiplier).min(base.max(max))
}

/// What chance adds to it: whole milliseconds up to `max`.
pub fn ejection_jitter(max: Duration, chance: Chance) -> Duration {
    let max = u64::try_from(max.as_millis()).unwrap_or(u64::MAX - 1);
    Duration::from_millis(chance.below(max + 1))
}

/// Whether another may be ejected where `ejected` of `hosts` are. `others` says how many take calls besides the one it is about: without any it stays.
pub fn may_eject(config: &OutlierConfig, hosts: u64, ejected: u64, others: u64) -> bool {
    let max = u64::from(config.max_ejection_percent());
    let within = match config.dialect() {
        Dialect::Envoy => (ejected == 0 && config.at_least_one()) || 100 * (ejected + 1) <= max * hosts,
        Dialect::Grpc => 100 * ejected < max * hosts,
    };
    within && others > 0
}

/// Mean and standard deviation (of the whole population) of success rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The mean, in the unit of the rates.
    pub mean: f64,
    /// The standard deviation, in the unit of the rates.
    pub deviation: f64,
}

impl Spread {
    /// That of `rates`; none of none.
    pub fn of(rates: &[f64]) -> Option<Self> {
        let count = rates.len() as f64;
        if rates.is_empty() {
            return None;
        }
        let mean = rates.iter().sum::<f64>() / count;
        let variance = rates.iter().map(|rate| (rate - mean) * (rate - mean)).sum::<f64>() / count;
        Some(Self { mean, deviation: variance.sqrt() })
    }

    /// What lies below this (`<`) is an outlier.
    pub fn threshold(&self, factor: f64) -> f64 {
        self.mean - factor * self.deviation
    }
}

/// An endpoint as a [`sweep`] sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Host {
    /// Whether it is ejected.
    pub ejection: Ejection,
    /// What it did since the last sweep.
    pub counts: Counts,
    /// Whether something else than an ejection keeps calls from it: then it is not one that stays.
    pub blocked: bool,
}

/// What a sweep, or a failure between two, led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It is ejected for so long.
    Ejected {
        /// What made it an outlier.
        rule: Rule,
        /// For how long, not counting the wait for the next sweep.
        time: Duration,
    },
    /// It is an outlier and stays: the rule is in its dry run.
    NotEnforced(Rule),
    /// It is an outlier and stays: too many are ejected.
    TooMany(Rule),
    /// Its time is over.
    Restored,
    /// A probe passed.
    Recovered,
}

/// Decides about one outlier, which is `hosts[index]`; nothing if it is ejected already.
pub fn decide(
    config: &OutlierConfig,
    hosts: &mut [Host],
    index: usize,
    rule: Rule,
    now: Tick,
    mut chance: impl FnMut() -> Chance,
) -> Option<Change> {
    if hosts[index].ejection.is_out() {
        return None;
    }
    if !rule.is_enforced(config, chance()) {
        return Some(Change::NotEnforced(rule));
    }
    let ejected = hosts.iter().filter(|host| host.ejection.is_out()).count() as u64;
    let takes_calls = |host: &Host| !host.blocked && !host.ejection.is_out();
    let others = hosts.iter().enumerate().filter(|(i, host)| *i != index && takes_calls(host)).count() as u64;
    if !may_eject(config, hosts.len() as u64, ejected, others) {
        return Some(Change::TooMany(rule));
    }
    let time = hosts[index].ejection.eject(config, now, chance());
    Some(Change::Ejected { rule, time })
}

/// Looks the set over, and says what became of whom.
///
/// In Envoy's order: who has done his time is taken back, then success rates, shares of failures and latencies are looked at (and where origins are
/// split the first two for those of local origin), the worst first, and last one ejection is forgotten of each that has been in service.
pub fn sweep(
    config: &OutlierConfig,
    hosts: &mut [Host],
    now: Tick,
    mut chance: impl FnMut() -> Chance,
) -> Vec<(usize, Change)> {
    let mut changes = Vec::new();
    for (i, host) in hosts.iter_mut().enumerate() {
        if host.ejection.is_over(config, now) {
            host.ejection.restore(now);
            changes.push((i, Change::Restored));
        }
    }
    for (i, rule) in outliers(config, hosts) {
        changes.extend(decide(config, hosts, i, rule, now, &mut chance).map(|change| (i, change)));
    }
    for host in hosts {
        host.ejection.decay(config, now);
    }
    changes
}

/// Who is an outlier by which rule, in the order in which it is decided about them. Who is ejected is not looked at.
pub fn outliers(config: &OutlierConfig, hosts: &[Host]) -> Vec<(usize, Rule)> {
    let mut found = Vec::new();
    if config.split_local() {
        let remote = |counts: &Counts| (counts.total - counts.local, counts.failed - counts.local);
        let local = |counts: &Counts| (counts.total, counts.local);
        by_success_rate(config, hosts, remote, Rule::SuccessRate, &mut found);
        by_failure_share(config, hosts, remote, Rule::FailureShare, &mut found);
        by_success_rate(config, hosts, local, Rule::LocalSuccessRate, &mut found);
        by_failure_share(config, hosts, local, Rule::LocalFailureShare, &mut found);
    } else {
        let all = |counts: &Counts| (counts.total, counts.failed);
        by_success_rate(config, hosts, all, Rule::SuccessRate, &mut found);
        by_failure_share(config, hosts, all, Rule::FailureShare, &mut found);
    }
    by_latency(config, hosts, &mut found);
    found
}

/// Those in service with at least `min_calls`: index, calls and bad calls.
fn with_volume(
    hosts: &[Host],
    count: impl Fn(&Counts) -> (u64, u64),
    min_calls: u32,
) -> Vec<(usize, u64, u64)> {
    let in_service = hosts.iter().enumerate().filter(|(_, host)| !host.ejection.is_out());
    let counted = in_service.map(|(i, host)| {
        let (total, bad) = count(&host.counts);
        (i, total, bad)
    });
    counted.filter(|&(_, total, _)| total >= u64::from(min_calls.max(1))).collect()
}

fn by_success_rate(
    config: &OutlierConfig,
    hosts: &[Host],
    count: impl Fn(&Counts) -> (u64, u64),
    rule: Rule,
    found: &mut Vec<(usize, Rule)>,
) {
    let hosts = with_volume(hosts, count, config.success_rate_min_calls());
    if hosts.len() < config.success_rate_min_hosts() as usize {
        return;
    }
    let rates: Vec<_> =
        hosts.iter().map(|&(_, total, bad)| (total - bad) as f64 * 100.0 / total as f64).collect();
    let Some(spread) = Spread::of(&rates) else { return };
    let threshold = spread.threshold(config.success_rate_factor());
    let outliers = hosts.iter().zip(&rates).filter(|(_, rate)| **rate < threshold);
    worst_first(outliers.map(|(&(i, ..), &rate)| (i, -rate)).collect(), rule, found);
}

fn by_failure_share(
    config: &OutlierConfig,
    hosts: &[Host],
    count: impl Fn(&Counts) -> (u64, u64),
    rule: Rule,
    found: &mut Vec<(usize, Rule)>,
) {
    let hosts = with_volume(hosts, count, config.failure_min_calls());
    if hosts.len() < config.failure_min_hosts() as usize {
        return;
    }
    let threshold = config.failure_threshold();
    let is_outlier = |total: u64, bad: u64| match config.dialect() {
        Dialect::Envoy => threshold.is_reached_by(bad, total),
        Dialect::Grpc => bad as f64 > threshold.as_f64() * total as f64,
    };
    let outliers = hosts.into_iter().filter(|&(_, total, bad)| is_outlier(total, bad));
    worst_first(outliers.map(|(i, total, bad)| (i, bad as f64 / total as f64)).collect(), rule, found);
}

fn by_latency(config: &OutlierConfig, hosts: &[Host], found: &mut Vec<(usize, Rule)>) {
    let Some(factor) = config.latency_factor() else { return };
    let good = |counts: &Counts| (counts.total - counts.failed, 0);
    let counted = with_volume(hosts, good, config.latency_min_calls());
    if counted.len() < config.latency_min_hosts() as usize {
        return;
    }
    let means: Vec<_> =
        counted.iter().map(|&(i, good, _)| (i, hosts[i].counts.good_ns as f64 / good as f64)).collect();
    let mut sorted: Vec<_> = means.iter().map(|&(_, mean)| mean).collect();
    sorted.sort_by(f64::total_cmp);
    // The lower of the two in the middle: with two endpoints the slow one is measured against the other, not against itself.
    let median = sorted[(sorted.len() - 1) / 2];
    let outliers = means.into_iter().filter(|(_, mean)| *mean > factor * median);
    worst_first(outliers.collect(), Rule::Latency, found);
}

/// Where not all may be ejected it is the worst that are; equals in the order of the set.
fn worst_first(mut outliers: Vec<(usize, f64)>, rule: Rule, found: &mut Vec<(usize, Rule)>) {
    outliers.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    found.extend(outliers.into_iter().map(|(i, _)| (i, rule)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: fn() -> Chance = || Chance::Raw(0);

    fn host(ok: u64, failed: u64) -> Host {
        Host { counts: Counts { total: ok + failed, failed, ..Counts::default() }, ..Host::default() }
    }

    fn now() -> Tick {
        Tick::of(tokio::time::Instant::now().into_std())
    }

    #[test]
    fn a_lone_outlier_is_found_from_the_stated_number_of_hosts_on_and_not_below() {
        for factor in [0.5, 1.0, 1.5, 1.9, 2.0, 3.0] {
            let config = OutlierConfig::builder()
                .success_rate_factor(factor)
                .success_rate_min_hosts(0)
                .build()
                .unwrap();
            let needed = config.lone_outlier_hosts() as usize;
            let found = |count: usize| {
                let mut hosts = vec![host(200, 0); count];
                hosts[0] = host(0, 200);
                outliers(&config, &hosts).contains(&(0, Rule::SuccessRate))
            };
            assert!(found(needed), "{factor}");
            assert!(!found(needed - 1), "{factor}");
        }
    }

    #[test]
    fn the_last_one_that_takes_calls_stays_whatever_is_allowed() {
        let config = OutlierConfig::builder().max_ejection_percent(100).build().unwrap();
        let mut hosts = vec![Host::default(); 4];
        hosts[3].blocked = true;
        let changes: Vec<_> = (0..3)
            .map(|i| decide(&config, &mut hosts, i, Rule::Consecutive, now(), ALWAYS).unwrap())
            .collect();
        assert!(matches!(changes[..], [Change::Ejected { .. }, Change::Ejected { .. }, Change::TooMany(_)]));
        assert_eq!(hosts.iter().filter(|host| host.ejection.is_out()).count(), 2);
    }

    #[test]
    fn the_ejected_share_is_never_exceeded_but_for_the_one() {
        for (percent, count) in (0..=100).flat_map(|percent| (1..40_u64).map(move |count| (percent, count))) {
            let config = OutlierConfig::builder().max_ejection_percent(percent).build().unwrap();
            let mut hosts = vec![Host::default(); count as usize];
            for i in 0..hosts.len() {
                decide(&config, &mut hosts, i, Rule::Consecutive, now(), ALWAYS);
            }
            let ejected = hosts.iter().filter(|host| host.ejection.is_out()).count() as u64;
            let most = (u64::from(percent) * count / 100).max(1).min(count - 1);
            assert_eq!(ejected, most, "{percent}% of {count}");
        }
    }

    #[test]
    fn where_not_all_may_go_the_worst_go() {
        let config = OutlierConfig::builder()
            .enforce_failure_share(1.0)
            .enforce_success_rate(0.0)
            .max_ejection_percent(20)
            .build()
            .unwrap();
        let mut hosts = vec![host(10, 90), host(100, 0), host(0, 100), host(100, 0), host(100, 0)];
        sweep(&config, &mut hosts, now(), ALWAYS);
        let out: Vec<_> = hosts.iter().map(|host| host.ejection.is_out()).collect();
        assert_eq!(out, [false, false, true, false, false]);
    }

    #[test]
    fn origins_apart_are_judged_apart() {
        let config = OutlierConfig::builder().split_local(true).enforce_failure_share(1.0).build().unwrap();
        let mut hosts = vec![host(100, 0); 5];
        hosts[1].counts = Counts { total: 200, failed: 180, local: 180, good_ns: 0 };
        assert_eq!(outliers(&config, &hosts), [(1, Rule::LocalSuccessRate), (1, Rule::LocalFailureShare)]);
        let together = OutlierConfig::builder().build().unwrap();
        assert_eq!(outliers(&together, &hosts), [(1, Rule::SuccessRate), (1, Rule::FailureShare)]);
    }

    #[test]
    fn latency_is_measured_against_the_median_of_those_that_have_calls() {
        let config = OutlierConfig::builder().latency_factor(3.0).latency_min_hosts(3).build().unwrap();
        let slow = |ms: u64| Host {
            counts: Counts { total: 100, failed: 0, local: 0, good_ns: 100 * ms * 1_000_000 },
            ..Host::default()
        };
        let mut hosts = vec![slow(10), slow(12), slow(31), slow(37), slow(9)];
        assert_eq!(outliers(&config, &hosts), [(3, Rule::Latency)]);
        hosts[3].counts.total = 49;
        assert_eq!(outliers(&config, &hosts), [(2, Rule::Latency)]);
        hosts.truncate(2);
        assert_eq!(outliers(&config, &hosts), []);
    }

    #[test]
    fn a_dry_run_ejects_as_many_as_it_says() {
        let config = OutlierConfig::builder().enforce_consecutive(0.25).build().unwrap();
        let enforced =
            (0..100).filter(|&draw| Rule::Consecutive.is_enforced(&config, Chance::Raw(draw))).count();
        assert_eq!(enforced, 25);
    }
}
