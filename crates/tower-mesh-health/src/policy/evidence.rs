use tower_mesh_core::{Availability, CallCounts, Ratio, Reason};

use crate::policy::HealthState;

/// How the calls to an endpoint ended in a stretch of time, by the verdict that all layers share.
///
/// Calls that tell nothing of it, and those that were dropped before their end, are left out: nobody knows what they would have said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// Ended well.
    pub succeeded: u64,
    /// Ended badly.
    pub failed: u64,
}

impl Calls {
    /// Those between two readings.
    pub fn between(before: CallCounts, after: CallCounts) -> Self {
        Self {
            succeeded: after.succeeded.saturating_sub(before.succeeded),
            failed: after.failed.saturating_sub(before.failed),
        }
    }

    /// Whether they speak against it: at least `min_calls`, of which at least the share `threshold` failed.
    pub fn are_failing(self, threshold: Ratio, min_calls: u32) -> bool {
        let all = self.succeeded + self.failed;
        all >= u64::from(min_calls) && threshold.is_reached_by(self.failed, all)
    }
}

/// The one verdict on an endpoint, of all that is known: what its checks say, and what every layer has said in its availability.
///
/// The first row that holds decides:
///
/// | what holds | the verdict |
/// |---|---|
/// | draining | draining |
/// | down by its checks, circuit open, ejected from among its peers | unhealthy |
/// | degraded by its own word or by its calls, circuit half-open | degraded |
/// | checks passed, or none are made and `answered`: a call has ended well | healthy |
/// | nothing | unknown |
///
/// It says how an endpoint is; whether calls go to it is the balancer's to decide, which may have nothing better.
pub fn merge(checks: HealthState, availability: Availability, answered: bool) -> HealthState {
    let any = |reasons: &[Reason]| reasons.iter().any(|&reason| availability.contains(reason));
    if any(&[Reason::Draining]) {
        HealthState::Draining
    } else if any(&[Reason::ProbeDown, Reason::CircuitOpen, Reason::Ejected]) {
        HealthState::Unhealthy
    } else if any(&[Reason::Degraded, Reason::CircuitHalfOpen]) {
        HealthState::Degraded
    } else if checks == HealthState::Unknown && answered {
        HealthState::Healthy
    } else {
        checks
    }
}

/// What the layers have said of an endpoint, in words; what its checks say has words of its own.
pub fn reasons(availability: Availability) -> impl Iterator<Item = &'static str> {
    availability.reasons().filter_map(|reason| match reason {
        Reason::Draining => Some("draining"),
        Reason::CircuitOpen => Some("circuit: open"),
        Reason::CircuitHalfOpen => Some("circuit: half-open"),
        Reason::Ejected => Some("peers: ejected"),
        Reason::Warming => Some("warming"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use HealthState::{Degraded, Draining, Healthy, Unhealthy, Unknown};

    #[test]
    fn the_worst_that_holds_decides_and_nothing_hides_it() {
        let rank = |state| match state {
            Unknown | Healthy => 0,
            Degraded => 1,
            Unhealthy => 2,
            Draining => 3,
        };
        for bits in 0..1_u32 << Reason::ALL.len() {
            let set = || Reason::ALL.into_iter().enumerate().filter(move |(i, _)| bits & 1 << i != 0);
            let availability: Availability = set().map(|(_, reason)| reason).collect();
            let alone = |reason| merge(Healthy, [reason].into_iter().collect(), false);
            let worst = set().map(|(_, reason)| rank(alone(reason))).max().unwrap_or(0);
            assert_eq!(rank(merge(Healthy, availability, false)), worst, "{availability}");
            let blocked = merge(Healthy, availability, true);
            assert_eq!(availability.is_blocked(), matches!(blocked, Unhealthy | Draining), "{availability}");
        }
    }

    #[test]
    fn calls_that_end_well_tell_of_one_that_is_not_checked() {
        let none = Availability::FULL;
        assert_eq!((merge(Unknown, none, false), merge(Unknown, none, true)), (Unknown, Healthy));
        assert_eq!(merge(Degraded, none, true), Degraded);
    }

    #[test]
    fn calls_speak_against_it_from_the_share_and_the_number_on() {
        let half = Ratio::new(0.5).unwrap();
        let failing = |succeeded, failed| Calls { succeeded, failed }.are_failing(half, 10);
        assert!(failing(5, 5) && failing(0, 10) && !failing(6, 5) && !failing(0, 9) && !failing(0, 0));
        let (mut before, mut after) = (CallCounts::default(), CallCounts::default());
        (before.succeeded, before.failed, after.succeeded, after.failed) = (3, 1, 7, 11);
        assert_eq!(Calls::between(before, after), Calls { succeeded: 4, failed: 10 });
    }
}
