//! The power of two choices: look at two endpoints drawn at random, take the less loaded one.
//!
//! Two distinct draws, as in Linkerd (Envoy and gRPC draw with replacement and so compare an endpoint with itself in one pick of n).

/// How often a pair is drawn anew when a drawn endpoint is of no use, before every endpoint is looked at in turn.
///
/// With half of the endpoints unusable, eight pairs leave about one pick in 65 000 to the slow way.
const DRAWS: usize = 8;

/// The result of a pick, as indexes: the endpoint to use, and the one to turn to if that is not ready at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// The less loaded of the pair.
    pub first: usize,
    /// The other of the pair, if another usable one was found.
    pub second: Option<usize>,
}

/// Two distinct indexes below `len`, out of a draw below `len` and a draw below `len - 1`.
#[inline]
pub fn distinct_pair(a: usize, b: usize) -> (usize, usize) {
    (a, if b >= a { b + 1 } else { b })
}

/// Picks among `len` endpoints. `draw` gives 64 random bits; `usable` says whether an endpoint may be picked; `load` how loaded it is.
/// On equal load the first drawn wins. None if no endpoint is usable.
#[inline]
pub fn p2c(
    len: usize,
    mut draw: impl FnMut() -> u64,
    usable: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> f64,
) -> Option<Pick> {
    if len < 2 {
        return (len == 1 && usable(0)).then_some(Pick { first: 0, second: None });
    }
    let mut found = None;
    for _ in 0..DRAWS {
        let (a, b) = draw_pair(draw(), len);
        match (usable(a), usable(b)) {
            (true, true) => {
                let (first, second) = if load(b) < load(a) { (b, a) } else { (a, b) };
                return Some(Pick { first, second: Some(second) });
            }
            (false, false) => continue,
            (a_usable, _) => {
                let one = if a_usable { a } else { b };
                match found {
                    None => found = Some(one),
                    Some(earlier) if earlier != one => {
                        let (first, second) =
                            if load(one) < load(earlier) { (one, earlier) } else { (earlier, one) };
                        return Some(Pick { first, second: Some(second) });
                    }
                    Some(_) => {}
                }
            }
        }
    }
    found.or_else(|| scan(len, draw(), usable)).map(|first| Pick { first, second: None })
}

/// What an endpoint's weight comes to with so many calls in flight: `weight/(active+1)^bias` (Envoy's least request).
#[inline]
pub fn request_weight(weight: f64, active: u64, bias: f64) -> f64 {
    let taken = active as f64 + 1.0;
    weight / if bias == 1.0 { taken } else { taken.powf(bias) }
}

/// The first usable endpoint from a random place on: reached when almost none is.
#[cold]
fn scan(len: usize, bits: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
    let start = scale(bits as u32, len);
    (start..len).chain(0..start).find(|&i| usable(i))
}

/// Two distinct indexes below `len`, which is at least 2, out of 64 random bits.
#[inline]
pub fn draw_pair(bits: u64, len: usize) -> (usize, usize) {
    distinct_pair(scale(bits as u32, len), scale((bits >> 32) as u32, len - 1))
}

/// Maps 32 random bits to a number below `len` by multiplication (Lemire), which needs no division.
#[inline]
pub(super) fn scale(bits: u32, len: usize) -> usize {
    ((u64::from(bits) * len as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws() -> impl FnMut() -> u64 {
        let mut rng = fastrand::Rng::with_seed(7);
        move || rng.u64(..)
    }

    #[test]
    fn the_two_are_never_the_same_and_every_pair_is_drawn() {
        let mut seen = std::collections::HashSet::new();
        let mut draw = draws();
        for _ in 0..1000 {
            let pick = p2c(4, &mut draw, |_| true, |_| 0.0).unwrap();
            assert_ne!(Some(pick.first), pick.second);
            seen.insert((pick.first, pick.second));
        }
        assert_eq!(seen.len(), 12, "4 · 3 ordered pairs");
    }

    #[test]
    fn the_less_loaded_wins_and_the_most_loaded_of_all_never_does() {
        let loads = [3.0, 1.0, 2.0];
        let mut draw = draws();
        let mut picks = [0; 3];
        for _ in 0..9000 {
            picks[p2c(3, &mut draw, |_| true, |i| loads[i]).unwrap().first] += 1;
        }
        assert_eq!(picks[0], 0);
        assert!((5700..6300).contains(&picks[1]), "the least loaded wins both pairs it is in: {picks:?}");
    }

    #[test]
    fn a_single_usable_one_among_many_is_found_and_none_is_none() {
        let mut draw = draws();
        for _ in 0..100 {
            let pick = p2c(10_000, &mut draw, |i| i == 777, |_| 0.0).unwrap();
            assert_eq!(pick, Pick { first: 777, second: None });
        }
        assert_eq!(p2c(10_000, &mut draw, |_| false, |_| 0.0), None);
        assert_eq!(p2c(0, &mut draw, |_| true, |_| 0.0), None);
    }

    #[test]
    fn unusable_ones_do_not_bend_the_shares_of_the_rest() {
        let mut draw = draws();
        let mut picks = [0_u32; 5];
        for _ in 0..20_000 {
            picks[p2c(5, &mut draw, |i| i != 2, |_| 0.0).unwrap().first] += 1;
        }
        assert_eq!(picks[2], 0);
        for i in [0, 1, 3, 4] {
            assert!((4600..5400).contains(&picks[i]), "{picks:?}");
        }
    }
}
