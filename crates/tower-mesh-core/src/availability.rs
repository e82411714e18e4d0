//! Why an endpoint should not be used just now: a set of reasons in one word.

use std::fmt;

/// One reason, owned by the layer that sets and clears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u16)]
pub enum Reason {
    /// Discovery no longer lists it, or its owner takes it out: no new picks, in-flight calls finish. Owner: discovery.
    Draining = 1,
    /// Active probes say it is down. Owner: health.
    ProbeDown = 1 << 1,
    /// Its circuit is open: no traffic. Owner: breaker.
    CircuitOpen = 1 << 2,
    /// Its circuit is half-open: a limited number of trial calls. Owner: breaker. Does not by itself keep traffic away.
    CircuitHalfOpen = 1 << 3,
    /// Ejected among its peers. Owner: outlier detection.
    Ejected = 1 << 4,
    /// It answers, but says it should be avoided. Owner: health. Does not by itself keep traffic away.
    Degraded = 1 << 5,
    /// It is new or newly recovered, and its share is still growing. Owner: discovery. Does not by itself keep traffic away.
    Warming = 1 << 6,
}

impl Reason {
    /// Every reason, in the order they are shown.
    pub const ALL: [Self; 7] = [
        Self::Draining,
        Self::ProbeDown,
        Self::CircuitOpen,
        Self::CircuitHalfOpen,
        Self::Ejected,
        Self::Degraded,
        Self::Warming,
    ];

    /// The name used in status, events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::ProbeDown => "probe-down",
            Self::CircuitOpen => "circuit-open",
            Self::CircuitHalfOpen => "circuit-half-open",
            Self::Ejected => "ejected",
            Self::Degraded => "degraded",
            Self::Warming => "warming",
        }
    }
}

/// The set of [`Reason`]s that hold for an endpoint at one moment. Empty means fully available.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Availability(u16);

impl Availability {
    /// No reason at all.
    pub const FULL: Self = Self(0);
    /// The reasons that keep ordinary picks away.
    pub const BLOCKING: Self = Self(
        Reason::Draining as u16
            | Reason::ProbeDown as u16
            | Reason::CircuitOpen as u16
            | Reason::Ejected as u16,
    );

    pub(crate) const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u16 {
        self.0
    }

    /// Whether `reason` holds.
    pub const fn contains(self, reason: Reason) -> bool {
        self.0 & reason as u16 != 0
    }

    /// This set without `reason`.
    pub const fn without(self, reason: Reason) -> Self {
        Self(self.0 & !(reason as u16))
    }

    /// Whether any reason of this set keeps ordinary picks away.
    pub const fn is_blocked(self) -> bool {
        self.0 & Self::BLOCKING.0 != 0
    }

    /// The reasons, in the order of [`Reason::ALL`].
    pub fn reasons(self) -> impl Iterator<Item = Reason> {
        Reason::ALL.into_iter().filter(move |&reason| self.contains(reason))
    }
}

impl FromIterator<Reason> for Availability {
    fn from_iter<I: IntoIterator<Item = Reason>>(reasons: I) -> Self {
        Self(reasons.into_iter().fold(0, |bits, reason| bits | reason as u16))
    }
}

impl fmt::Debug for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.reasons()).finish()
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("available");
        }
        for (i, reason) in self.reasons().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(reason.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_does_not_block_and_bans_do() {
        for reason in Reason::ALL {
            let set: Availability = [reason].into_iter().collect();
            let advice = matches!(reason, Reason::CircuitHalfOpen | Reason::Degraded | Reason::Warming);
            assert_eq!(set.is_blocked(), !advice, "{reason:?}");
            assert_eq!(set.without(reason), Availability::FULL);
        }
        let two: Availability = [Reason::ProbeDown, Reason::CircuitOpen].into_iter().collect();
        assert_eq!(two.to_string(), "probe-down,circuit-open");
        assert_eq!(Availability::FULL.to_string(), "available");
    }
}
