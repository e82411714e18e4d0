use std::fmt;
use std::num::NonZeroU32;

use tower_mesh_core::probe::{ProbeFailure, Probed};

/// What the checks of one endpoint say by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HealthState {
    /// No check has ended yet. It may be picked.
    #[default]
    Unknown,
    /// It is well.
    Healthy,
    /// It works, but asks to be used only if need be.
    Degraded,
    /// It is down.
    Unhealthy,
    /// It is being taken out, and not checked meanwhile. Never what checks say: what else is known of it comes first.
    Draining,
}

impl HealthState {
    /// The name used in status, events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one check said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sample {
    /// All is well.
    Passed,
    /// It works, but asks to be avoided.
    Degraded,
    /// No answer: counts towards `fall`.
    Unreachable,
    /// An answer that says no: down at once.
    Refused,
    /// The check could not be made: moves nothing.
    Inconclusive,
}

impl Sample {
    /// The sample that the result of a [`Probe`](tower_mesh_core::Probe) is.
    pub fn of(result: &Result<Probed, ProbeFailure>) -> Self {
        match result {
            Ok(Probed::Healthy) => Self::Passed,
            Ok(Probed::Degraded) => Self::Degraded,
            Err(failure) if failure.is_answer() => Self::Refused,
            Err(failure) if failure.is_conclusive() => Self::Unreachable,
            Err(_) => Self::Inconclusive,
        }
    }
}

/// The judgement over a row of checks, as in Envoy's active health checks.
///
/// ```text
///              first passes                    `fall` unreachable in a row, or one answer that says no
///   Unknown ─────────────────▶ Healthy │ Degraded ─────────────────────────────────▶ Unhealthy
///      │                            ▲                                                 │   ▲
///      │ first fails                └────────────── `rise` passes in a row ───────────┘   │
///      └──────────────────────────────────────────────────────────────────────────────────┘
/// ```
///
/// The first check decides at once, whatever was taken for granted before it. Between healthy and degraded the latest answer decides. A check that could not
/// be made moves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Machine {
    state: HealthState,
    passes: u32,
    failures: u32,
    decided: bool,
}

impl Machine {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self::assuming(HealthState::Unknown)
    }

    /// Nothing is known, and until the first check has ended `state` is taken for granted.
    pub const fn assuming(state: HealthState) -> Self {
        Self { state, passes: 0, failures: 0, decided: false }
    }

    /// An endpoint of which `state` is known from elsewhere.
    pub const fn starting(state: HealthState) -> Self {
        Self { decided: true, ..Self::assuming(state) }
    }

    /// Takes in what one check said.
    pub fn record(&mut self, sample: Sample, rise: NonZeroU32, fall: NonZeroU32) -> Step {
        let from = self.state;
        match sample {
            Sample::Passed | Sample::Degraded => {
                self.failures = 0;
                self.passes = self.passes.saturating_add(1);
                if !self.decided || from != HealthState::Unhealthy || self.passes >= rise.get() {
                    self.state =
                        if sample == Sample::Passed { HealthState::Healthy } else { HealthState::Degraded };
                }
            }
            Sample::Unreachable | Sample::Refused => {
                self.passes = 0;
                self.failures = self.failures.saturating_add(1);
                let enough = self.failures >= fall.get();
                if enough || sample == Sample::Refused || !self.decided {
                    self.state = HealthState::Unhealthy;
                }
            }
            Sample::Inconclusive => return self.standing(),
        }
        self.decided = true;
        Step { from, ..self.standing() }
    }

    /// As it stands, with nothing new.
    pub const fn standing(&self) -> Step {
        Step { from: self.state, to: self.state, pending: self.is_pending(), decided: self.decided }
    }

    /// What the checks say by now.
    pub const fn state(&self) -> HealthState {
        self.state
    }

    /// Checks that passed since the last that failed.
    pub const fn passes(&self) -> u32 {
        self.passes
    }

    /// Checks that failed since the last that passed.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the latest checks point to a change that they are too few for.
    pub const fn is_pending(&self) -> bool {
        match self.state {
            HealthState::Unknown | HealthState::Draining => false,
            HealthState::Healthy | HealthState::Degraded => self.failures > 0,
            HealthState::Unhealthy => self.passes > 0,
        }
    }
}

/// What one check did to the judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The state before.
    pub from: HealthState,
    /// The state now.
    pub to: HealthState,
    /// Whether the check points to a change that more checks must confirm.
    pub pending: bool,
    /// Whether any check has told anything yet.
    pub decided: bool,
}

impl Step {
    /// Whether the state changed.
    pub fn is_change(&self) -> bool {
        self.from != self.to
    }

    /// Whether it came back from being down.
    pub fn is_recovery(&self) -> bool {
        self.from == HealthState::Unhealthy && self.to != HealthState::Unhealthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HealthState::{Degraded, Healthy, Unhealthy, Unknown};

    const TWO: NonZeroU32 = NonZeroU32::new(2).unwrap();
    const THREE: NonZeroU32 = NonZeroU32::new(3).unwrap();

    fn run(machine: &mut Machine, samples: &[Sample]) -> Vec<(HealthState, bool)> {
        samples
            .iter()
            .map(|&sample| machine.record(sample, TWO, THREE))
            .map(|step| (step.to, step.pending))
            .collect()
    }

    #[test]
    fn the_first_check_decides_at_once_whatever_the_thresholds() {
        for (sample, state) in [
            (Sample::Passed, Healthy),
            (Sample::Degraded, Degraded),
            (Sample::Unreachable, Unhealthy),
            (Sample::Refused, Unhealthy),
        ] {
            let mut machine = Machine::new();
            assert_eq!(run(&mut machine, &[sample]), [(state, false)]);
        }
    }

    #[test]
    fn the_first_check_decides_whatever_was_assumed_and_one_that_could_not_be_made_does_not() {
        for assumed in [Unknown, Healthy, Unhealthy] {
            for (sample, state) in [(Sample::Passed, Healthy), (Sample::Unreachable, Unhealthy)] {
                let mut machine = Machine::assuming(assumed);
                assert_eq!(run(&mut machine, &[Sample::Inconclusive]), [(assumed, false)]);
                assert!(!machine.standing().decided);
                assert_eq!(run(&mut machine, &[sample]), [(state, false)]);
                assert!(machine.standing().decided);
                assert_eq!(run(&mut machine, &[Sample::Inconclusive]), [(state, false)]);
            }
        }
        let mut machine = Machine::starting(Healthy);
        let samples = [Sample::Unreachable, Sample::Unreachable, Sample::Inconclusive, Sample::Unreachable];
        assert_eq!(
            run(&mut machine, &samples),
            [(Healthy, true), (Healthy, true), (Healthy, true), (Unhealthy, false)],
            "counts go on over it"
        );
    }

    #[test]
    fn it_falls_after_fall_and_rises_after_rise_and_every_turn_starts_the_count_anew() {
        let mut machine = Machine::starting(Healthy);
        let (pass, miss) = (Sample::Passed, Sample::Unreachable);
        let samples = [miss, miss, pass, miss, miss, miss, pass, miss, pass, pass];
        assert_eq!(
            run(&mut machine, &samples),
            [
                (Healthy, true),
                (Healthy, true),
                (Healthy, false),
                (Healthy, true),
                (Healthy, true),
                (Unhealthy, false),
                (Unhealthy, true),
                (Unhealthy, false),
                (Unhealthy, true),
                (Healthy, false),
            ]
        );
    }

    #[test]
    fn an_answer_that_says_no_takes_it_down_at_once() {
        let mut machine = Machine::starting(Degraded);
        assert_eq!(run(&mut machine, &[Sample::Refused]), [(Unhealthy, false)]);
    }

    #[test]
    fn degraded_follows_the_latest_answer_and_counts_as_a_pass() {
        let mut machine = Machine::starting(Unhealthy);
        let samples = [Sample::Passed, Sample::Degraded, Sample::Passed];
        assert_eq!(run(&mut machine, &samples), [(Unhealthy, true), (Degraded, false), (Healthy, false)]);
    }

    #[test]
    fn any_row_of_checks_can_be_left_both_ways() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..500 {
            let mut machine = Machine::new();
            for _ in 0..random.u32(0..20) {
                let sample = [Sample::Passed, Sample::Degraded, Sample::Unreachable, Sample::Refused]
                    [random.usize(0..4)];
                run(&mut machine, &[sample]);
                assert_ne!(machine.state(), Unknown);
            }
            run(&mut machine, &[Sample::Passed; 2]);
            assert_eq!(machine.state(), Healthy);
            run(&mut machine, &[Sample::Unreachable; 3]);
            assert_eq!(machine.state(), Unhealthy);
        }
    }
}
