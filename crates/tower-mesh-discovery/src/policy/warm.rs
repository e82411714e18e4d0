//! Slow start: the share of an endpoint that is new, or back, grows with its time there.

use std::time::Duration;

/// How the share grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    window: Duration,
    exponent: f64,
    least: f64,
}

impl SlowStart {
    /// Growing over `window`; `aggression` above 1 grows faster at the beginning, and the factor is never below `least`. None if there is no window.
    pub fn new(window: Duration, aggression: f64, least: f64) -> Option<Self> {
        (!window.is_zero()).then_some(Self { window, exponent: 1.0 / aggression, least })
    }

    /// How long the share grows.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// What the weight is multiplied by `elapsed` after the beginning (Envoy); none once the window is over.
    pub fn factor(&self, elapsed: Duration) -> Option<f64> {
        if elapsed >= self.window {
            return None;
        }
        let part = elapsed.max(Duration::from_millis(1)).as_secs_f64() / self.window.as_secs_f64();
        let grown = if self.exponent == 1.0 { part } else { part.powf(self.exponent) };
        Some(grown.max(self.least).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_only_grows_and_ends_with_the_window() {
        let slow = SlowStart::new(Duration::from_secs(10), 2.0, 0.1).unwrap();
        let factors: Vec<_> = (0..10).map(|s| slow.factor(Duration::from_secs(s)).unwrap()).collect();
        assert!(factors.is_sorted() && factors[0] == 0.1, "{factors:?}");
        assert_eq!(slow.factor(Duration::from_secs(10)), None);
        assert_eq!(SlowStart::new(Duration::ZERO, 1.0, 0.1), None);
    }
}
