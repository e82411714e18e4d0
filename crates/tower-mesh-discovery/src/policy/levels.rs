//! How much traffic each failover level, and each locality in it, gets: Envoy's rules, in whole percents and ten-thousandths.

/// The most failover levels told apart; what is further down counts as part of the last.
pub const MAX_LEVELS: usize = 16;

/// What is known of one level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// All endpoints of it.
    pub hosts: u32,
    /// Those that may be used.
    pub healthy: u32,
    /// Those that may be used but should be avoided.
    pub degraded: u32,
    /// Those that nothing is known of yet: they count neither way.
    pub excluded: u32,
}

impl Level {
    fn judged(self) -> u32 {
        self.hosts.saturating_sub(self.excluded)
    }

    /// Whether so few may be used that health is not looked at: strictly fewer than `threshold` percent.
    pub fn is_in_panic(self, threshold: u32) -> bool {
        let available = match self.judged() {
            0 => 0,
            judged => 100 * u64::from(self.healthy + self.degraded) / u64::from(judged),
        };
        available < u64::from(threshold)
    }
}

/// What one level gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Percent of all calls that go to its healthy endpoints, or in panic to all of them.
    pub healthy: u32,
    /// Percent that go to its degraded ones.
    pub degraded: u32,
    /// Whether it is in panic.
    pub panic: bool,
}

/// Spreads 100 percent over `levels`, of which there are at most [`MAX_LEVELS`].
///
/// A level counts as able to carry `overprovisioning` percent of what its healthy share is, at most all; what is left goes to the next ones. Degraded endpoints get
/// what healthy ones do not cover. While all levels together carry everything, none is in panic; if all are in panic, calls are spread by size.
pub fn spread(levels: &[Level], overprovisioning: u32, panic_threshold: u32) -> [Share; MAX_LEVELS] {
    let levels = &levels[..levels.len().min(MAX_LEVELS)];
    let mut shares = [Share::default(); MAX_LEVELS];
    let ability = |level: &Level, count: u32| match level.judged() {
        0 => 0,
        judged => (u64::from(overprovisioning) * u64::from(count) / u64::from(judged)).min(100) as u32,
    };
    let sum: u32 =
        levels.iter().map(|level| ability(level, level.healthy) + ability(level, level.degraded)).sum();
    let total = sum.min(100);
    let mut all_panic = true;
    for (level, share) in levels.iter().zip(&mut shares) {
        share.panic = total < 100 && level.is_in_panic(panic_threshold);
        all_panic &= share.panic;
    }
    if all_panic || total == 0 {
        by_size(levels, &mut shares);
        return shares;
    }
    let mut left = 100;
    for (level, share) in levels.iter().zip(&mut shares) {
        share.healthy = left.min(ability(level, level.healthy) * 100 / total);
        left -= share.healthy;
    }
    for (level, share) in levels.iter().zip(&mut shares) {
        share.degraded = left.min(ability(level, level.degraded) * 100 / total);
        left -= share.degraded;
    }
    if let Some(first) = levels.iter().position(|level| ability(level, level.healthy) > 0) {
        shares[first].healthy += left;
    } else if let Some(first) = levels.iter().position(|level| ability(level, level.degraded) > 0) {
        shares[first].degraded += left;
    }
    shares
}

fn by_size(levels: &[Level], shares: &mut [Share; MAX_LEVELS]) {
    let hosts: u64 = levels.iter().map(|level| u64::from(level.hosts)).sum();
    let mut left = 100;
    for (level, share) in levels.iter().zip(shares.iter_mut()) {
        share.healthy = (100 * u64::from(level.hosts)).checked_div(hosts).unwrap_or(0) as u32;
        left -= share.healthy;
    }
    let first = levels.iter().position(|level| level.hosts > 0).unwrap_or(0);
    shares[first].healthy += left;
}

/// The most localities told apart in one level; those that are left count as one.
pub const MAX_ZONES: usize = 16;

/// The whole of a level's traffic, in [`Zones`].
pub const WHOLE: u32 = 10_000;

/// How callers of one zone spread over the endpoints of all zones, in ten-thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Zones {
    /// All to the own zone.
    Direct,
    /// So much to the own zone, which is the first; the rest in proportion of what each zone has left over for others.
    Residual {
        /// To the own zone.
        local: u32,
        /// What each zone has left over.
        left_over: [u32; MAX_ZONES],
    },
}

/// Spreads over zones, of which there are at most [`MAX_ZONES`], the own one first: `upstream` counts usable endpoints and `callers` callers, by zone. None if there are no endpoints or no callers to go by.
pub fn zones(upstream: &[u32], callers: &[u32]) -> Option<Zones> {
    let part = |counts: &[u32], i: usize| {
        let all: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let own = u64::from(counts.get(i).copied().unwrap_or(0));
        (own * u64::from(WHOLE)).checked_div(all).map(|part| part as u32)
    };
    let (up, local) = (part(upstream, 0)?, part(callers, 0)?);
    if up >= local {
        return Some(Zones::Direct);
    }
    let mut left_over = [0; MAX_ZONES];
    for (i, left) in left_over.iter_mut().enumerate().take(upstream.len()) {
        let (up, local) = (part(upstream, i).unwrap_or(0), part(callers, i).unwrap_or(0));
        *left = up.saturating_sub(local);
    }
    Some(Zones::Residual { local: (u64::from(up) * u64::from(WHOLE) / u64::from(local)) as u32, left_over })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(hosts: u32, healthy: u32, degraded: u32) -> Level {
        Level { hosts, healthy, degraded, excluded: 0 }
    }

    #[test]
    fn everything_is_always_given_out_once() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let levels: Vec<_> = (0..random.usize(1..=5))
                .map(|_| {
                    let hosts = random.u32(0..9);
                    let healthy = random.u32(0..=hosts);
                    level(hosts, healthy, random.u32(0..=hosts - healthy))
                })
                .collect();
            let shares = spread(&levels, 140, random.u32(0..=100));
            let sum: u32 = shares.iter().map(|share| share.healthy + share.degraded).sum();
            assert_eq!(sum, 100, "{levels:?} {shares:?}");
        }
    }

    #[test]
    fn degraded_endpoints_get_only_what_healthy_ones_do_not_cover() {
        let shares = spread(&[level(10, 8, 2)], 140, 50);
        assert_eq!((shares[0].healthy, shares[0].degraded), (100, 0));
        let shares = spread(&[level(10, 5, 5)], 140, 50);
        assert_eq!((shares[0].healthy, shares[0].degraded), (70, 30));
    }
}
