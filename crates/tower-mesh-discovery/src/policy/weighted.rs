//! Shares in proportion of weights: in turn, or at random.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::pick::scale;

/// The longest schedule, unless there are more hosts than an eighth of it. Weights that would need a longer one are rounded.
const MAX_SCHEDULE: u64 = 65_536;

/// One round of weighted turns, as indexes: earliest deadline first, with deadlines 1/weight apart and ties in the order in which they were set (as in Envoy).
/// Repeated without end it is that scheduler's sequence while no weight changes.
pub fn schedule(weights: &[u32]) -> Vec<u32> {
    let weights = reduced(weights);
    let total: u64 = weights.iter().sum();
    // Deadlines k/w are compared as fractions, so that ties are ties.
    #[derive(PartialEq, Eq)]
    struct Due {
        turn: u64,
        weight: u64,
        set: u64,
        host: u32,
    }
    impl Ord for Due {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            (self.turn * other.weight).cmp(&(other.turn * self.weight)).then(self.set.cmp(&other.set))
        }
    }
    impl PartialOrd for Due {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    let mut set = weights.len() as u64;
    let mut due: BinaryHeap<_> = (0..)
        .zip(&weights)
        .map(|(host, &weight)| Reverse(Due { turn: 1, weight, set: host, host: host as u32 }))
        .collect();
    let mut turns = Vec::with_capacity(total as usize);
    while (turns.len() as u64) < total {
        let Some(Reverse(next)) = due.pop() else { break };
        turns.push(next.host);
        due.push(Reverse(Due { turn: next.turn + 1, set, ..next }));
        set += 1;
    }
    turns
}

/// The weights without what they have in common, and rounded if their sum is too large; at least 1.
fn reduced(weights: &[u32]) -> Vec<u64> {
    fn gcd(a: u32, b: u32) -> u32 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let common = u64::from(weights.iter().copied().fold(0, gcd).max(1));
    let total: u64 = weights.iter().map(|&weight| u64::from(weight) / common).sum();
    let max = MAX_SCHEDULE.max(8 * weights.len() as u64);
    let fit = |weight: u64| {
        if total <= max { weight } else { (weight as u128 * max as u128 / total as u128) as u64 }
    };
    weights.iter().map(|&weight| fit(u64::from(weight) / common).max(1)).collect()
}

/// Draws indexes in proportion of weights in constant time (A. Walker's alias method, built as by M. Vose).
#[derive(Debug)]
pub struct Alias(Vec<(u32, u32)>);

impl Alias {
    /// The table of these weights.
    pub fn new(weights: &[u32]) -> Self {
        let n = weights.len() as u128;
        let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum::<u128>().max(1);
        // Each column holds `total`; a host fills n·weight of the n·total.
        let mut left: Vec<u128> = weights.iter().map(|&weight| u128::from(weight) * n).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|&i| left[i] < total);
        let mut table: Vec<(u32, u32)> = (0..weights.len() as u32).map(|i| (u32::MAX, i)).collect();
        while let (Some(&giver), Some(taker)) = (large.last(), small.pop()) {
            let part = (left[taker] << 32) / total;
            table[taker] = (u32::try_from(part).unwrap_or(u32::MAX), giver as u32);
            left[giver] -= total - left[taker];
            if left[giver] < total {
                large.pop();
                small.push(giver);
            }
        }
        Self(table)
    }

    /// The index for 64 random bits. The table must not be empty.
    pub fn draw(&self, bits: u64) -> usize {
        let column = scale(bits as u32, self.0.len());
        let (own, other) = self.0[column];
        if ((bits >> 32) as u32) < own { column } else { other as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(picks: impl Iterator<Item = usize>, n: usize) -> Vec<u32> {
        let mut counts = vec![0; n];
        picks.for_each(|i| counts[i] += 1);
        counts
    }

    #[test]
    fn a_round_has_each_as_often_as_its_weight_says_and_spreads_it() {
        let turns = schedule(&[10, 20, 50]);
        assert_eq!(turns.len(), 8);
        assert_eq!(counts(turns.iter().map(|&i| i as usize), 3), [1, 2, 5]);
        let longest = turns.iter().chain(&turns).copied().collect::<Vec<_>>();
        assert!(
            !longest.windows(4).any(|four| four == [2; 4]),
            "the heavy one does not come in a burst: {turns:?}"
        );
        assert_eq!(schedule(&[7; 3]), [0, 1, 2]);
        assert!(schedule(&[]).is_empty());
    }

    #[test]
    fn weights_beyond_the_longest_schedule_are_rounded_not_dropped() {
        let turns = schedule(&[u32::MAX, 1, u32::MAX / 2]);
        let counts = counts(turns.iter().map(|&i| i as usize), 3);
        assert!(turns.len() <= MAX_SCHEDULE as usize + 3);
        assert_eq!(counts[1], 1);
        assert!((1.99..2.01).contains(&(f64::from(counts[0]) / f64::from(counts[2]))));
    }

    #[test]
    fn draws_follow_the_weights() {
        for weights in [vec![1, 2, 3, 4], vec![1], vec![1, 1_000_000], vec![5; 7]] {
            let alias = Alias::new(&weights);
            let mut random = fastrand::Rng::with_seed(11);
            let n = 200_000;
            let counts = counts((0..n).map(|_| alias.draw(random.u64(..))), weights.len());
            let total: u32 = weights.iter().sum();
            for (&count, &weight) in counts.iter().zip(&weights) {
                let share = f64::from(weight) / f64::from(total);
                let off = (f64::from(count) / f64::from(n) - share).abs();
                assert!(off < 0.005, "{weights:?} {counts:?}");
            }
        }
    }
}
