//! A share between nothing and all, held exactly.

use std::fmt;

/// A ratio from 0 to 1 in millionths, so that comparing counts with it is integer arithmetic and never rounds.
///
/// ```
/// use tower_mesh_core::Ratio;
/// let half = Ratio::new(0.5)?;
/// assert!(half.is_reached_by(3, 6) && !half.is_reached_by(2, 5));
/// assert!(Ratio::new(1.5).is_err() && Ratio::new(f64::NAN).is_err());
/// # Ok::<(), tower_mesh_core::InvalidRatio>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ratio(u32);

impl Ratio {
    const SCALE: u32 = 1_000_000;
    /// None of it.
    pub const ZERO: Self = Self(0);
    /// All of it.
    pub const ONE: Self = Self(Self::SCALE);

    /// A ratio of `value`, rounded to the nearest millionth.
    ///
    /// # Errors
    /// When `value` is not a number from 0 to 1.
    pub fn new(value: f64) -> Result<Self, InvalidRatio> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self((value * f64::from(Self::SCALE)).round() as u32))
        } else {
            Err(InvalidRatio(value))
        }
    }

    /// A ratio of `percent` hundredths; more than 100 is taken as 100.
    pub const fn percent(percent: u8) -> Self {
        let percent = if percent > 100 { 100 } else { percent };
        Self(percent as u32 * (Self::SCALE / 100))
    }

    /// The ratio as a fraction of one.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(Self::SCALE)
    }

    /// Whether `part` of `whole` is at least this ratio (`≥`). Nothing of nothing reaches no ratio.
    #[inline]
    pub fn is_reached_by(self, part: u64, whole: u64) -> bool {
        whole > 0 && u128::from(part) * u128::from(Self::SCALE) >= u128::from(whole) * u128::from(self.0)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.as_f64() * 100.0)
    }
}

impl fmt::Debug for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ratio({})", self.as_f64())
    }
}

/// A number that is not a [`Ratio`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InvalidRatio(f64);

impl fmt::Display for InvalidRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid ratio {}: allowed is 0 to 1", self.0)
    }
}

impl std::error::Error for InvalidRatio {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_is_exact_at_the_edge() {
        let third = Ratio::new(0.333_333).unwrap();
        assert!(third.is_reached_by(333_333, 1_000_000));
        assert!(!third.is_reached_by(333_332, 1_000_000));
        assert!(!Ratio::ZERO.is_reached_by(0, 0), "an empty window reaches nothing");
        assert!(Ratio::ZERO.is_reached_by(0, 1));
        assert!(Ratio::ONE.is_reached_by(u64::MAX, u64::MAX), "no overflow");
    }
}
