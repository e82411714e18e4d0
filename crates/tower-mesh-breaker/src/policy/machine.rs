//! The state machine of a circuit: two verbs, [`Machine::enter`] and [`Machine::exit`], and what an operator may order.
//!
//! ```text
//!            a rule trips                        the wait is over, or a probe passed
//!  closed ─────────────────▶ open ─────────────────────────────────────────────▶ half-open
//!    ▲                        ▲     a rate is reached, or no decision in time        │ │
//!    │                        └──────────────────────────────────────────────────────┘ │
//!    └──────────────────────────────────────────── k calls came back, no rate reached ─┘
//!
//!  by order, from any state: forced open (no traffic, no time set), disabled (all traffic, nothing counted),
//!  metrics only (all traffic, counted)
//! ```

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tower_mesh_core::Tick;
use tower_mesh_core::backoff::Chance;
use tower_mesh_core::window::{Sample, WindowCounts};

use crate::config::{BreakerConfig, OpenDelay};

/// What a circuit does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Calls pass and are counted.
    Closed,
    /// No call passes until a time has come.
    Open,
    /// A limited number of calls passes, to find out.
    HalfOpen,
    /// No call passes until an operator says otherwise.
    ForcedOpen,
    /// Calls pass, nothing is counted.
    Disabled,
    /// Calls pass and are counted; it never opens.
    MetricsOnly,
}

impl State {
    /// The name used in status and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::ForcedOpen => "forced-open",
            Self::Disabled => "disabled",
            Self::MetricsOnly => "metrics-only",
        }
    }
}

/// Why a circuit opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TripReason {
    /// So many failures in a row.
    ConsecutiveFailures,
    /// Too large a share of failures.
    FailureRate,
    /// Too large a share of slow calls.
    SlowCallRate,
    /// The trial calls did not come back in time.
    HalfOpenTimeout,
    /// By order.
    Manual,
}

impl TripReason {
    /// The name used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive-failures",
            Self::FailureRate => "failure-rate",
            Self::SlowCallRate => "slow-call-rate",
            Self::HalfOpenTimeout => "half-open-timeout",
            Self::Manual => "manual",
        }
    }
}

/// One change of state, as a value: the shell tells the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why it opened, if it did.
    pub reason: Option<TripReason>,
    /// Counts the transitions of this circuit.
    pub generation: u64,
    /// What was counted in the state before.
    pub counts: WindowCounts,
    /// How long it stays open, if a time is set.
    pub open_for: Option<Duration>,
}

/// The state that admitted a call: its outcome counts only while that state lasts. One word, none included, as it rides with each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admission(NonZeroU64);

/// What becomes of the outcome of an admitted call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// It counts in the window.
    Window,
    /// It counts as a trial.
    Trial,
    /// It does not count.
    Not,
}

impl Admission {
    const BITS: u32 = 2;

    #[inline]
    pub(crate) fn new(generation: u64, counted: Counted) -> Self {
        let counted = match counted {
            Counted::Window => NonZeroU64::MIN,
            Counted::Trial => NonZeroU64::MIN.saturating_add(1),
            Counted::Not => NonZeroU64::MIN.saturating_add(2),
        };
        Self(counted | (generation << Self::BITS))
    }

    #[inline]
    pub(crate) fn generation(self) -> u64 {
        self.0.get() >> Self::BITS
    }

    #[inline]
    pub(crate) fn counted(self) -> Counted {
        match self.0.get() & ((1 << Self::BITS) - 1) {
            1 => Counted::Window,
            2 => Counted::Trial,
            _ => Counted::Not,
        }
    }
}

/// What [`Machine::enter`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The admission, or how long until it is worth asking again, if that is known.
    pub(crate) admitted: Result<Admission, Option<Duration>>,
    pub(crate) transition: Option<Transition>,
}

#[derive(Debug)]
pub(crate) struct Machine {
    /// Shared: there are as many machines as endpoints.
    config: Arc<BreakerConfig>,
    generation: u64,
    phase: Phase,
    /// How often it has opened since it was last settled: the open time grows with it.
    opens: u32,
    /// Whether passing probes bring the trial forward. Not after a trial that a probe had brought forward failed: what the probe sees is
    /// not what calls see.
    believe_probes: bool,
    /// What was counted in the state before, for an open circuit to show.
    last: WindowCounts,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed {
        since: Tick,
    },
    Open {
        until: Tick,
    },
    HalfOpen {
        leased: u32,
        counts: WindowCounts,
        until: Tick,
        early: bool,
    },
    /// Half-open still: the trial calls went well, and a growing share of the calls is let in.
    Ramp {
        since: Tick,
        counts: WindowCounts,
        early: bool,
    },
    Standing(State),
}

impl Machine {
    pub(crate) fn new(config: impl Into<Arc<BreakerConfig>>, now: Tick) -> Self {
        Self {
            config: config.into(),
            generation: 0,
            phase: Phase::Closed { since: now },
            opens: 0,
            believe_probes: true,
            last: WindowCounts::default(),
        }
    }

    pub(crate) fn state(&self) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } | Phase::Ramp { .. } => State::HalfOpen,
            Phase::Standing(state) => state,
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// When a trial call is wanted, if a time is set.
    pub(crate) fn open_until(&self) -> Option<Tick> {
        match self.phase {
            Phase::Open { until } => Some(until),
            _ => None,
        }
    }

    pub(crate) fn believes_probes(&self) -> bool {
        self.believe_probes
    }

    /// What the current state has counted outside the window: the trial calls, or for an open circuit what made it open.
    pub(crate) fn counts(&self) -> WindowCounts {
        match self.phase {
            Phase::HalfOpen { counts, .. } | Phase::Ramp { counts, .. } => counts,
            _ => self.last,
        }
    }

    /// Asks for admission. `due`: a passing probe says that the wait of an open circuit is over.
    pub(crate) fn enter(&mut self, now: Tick, due: bool, chance: Chance) -> Entry {
        let mut transition = None;
        match self.phase {
            Phase::Open { until } if now >= until || due => {
                transition = Some(self.half_open(now, now < until));
            }
            Phase::HalfOpen { until, .. } if now >= until => {
                transition = Some(self.open(now, TripReason::HalfOpenTimeout, self.counts(), None, chance));
            }
            Phase::Ramp { since, .. } if now.since(since) >= self.config.ramp() => {
                transition = Some(self.close(now));
            }
            _ => {}
        }
        let generation = self.generation;
        let admitted = match &mut self.phase {
            Phase::Closed { .. } | Phase::Standing(State::MetricsOnly) => {
                Ok(Admission::new(generation, Counted::Window))
            }
            Phase::Standing(State::Disabled) => Ok(Admission::new(generation, Counted::Not)),
            Phase::HalfOpen { leased, counts, .. }
                if u64::from(*leased) + counts.total < u64::from(self.config.half_open_permits()) =>
            {
                *leased += 1;
                Ok(Admission::new(generation, Counted::Trial))
            }
            Phase::Ramp { since, .. }
                if chance.uniform() < ramp_share(now.since(*since), self.config.ramp()) =>
            {
                Ok(Admission::new(generation, Counted::Trial))
            }
            Phase::Ramp { .. } => Err(None),
            Phase::HalfOpen { until, .. } | Phase::Open { until } => Err(Some(until.since(now))),
            Phase::Standing(_) => Err(None),
        };
        Entry { admitted, transition }
    }

    /// Takes a trial call back, with what it showed; none if it showed nothing, so that another may be made in its stead. `asked` is how long the server
    /// asked to be left alone.
    pub(crate) fn exit(
        &mut self,
        admission: Admission,
        sample: Option<Sample>,
        asked: Option<Duration>,
        now: Tick,
        chance: Chance,
    ) -> Option<Transition> {
        if admission.generation() != self.generation {
            return None; // late news of a state that is over
        }
        let counts = match &mut self.phase {
            Phase::HalfOpen { leased, counts, .. } => {
                *leased = leased.saturating_sub(1);
                counts
            }
            Phase::Ramp { counts, .. } => counts,
            _ => return None,
        };
        let sample = sample?;
        counts.total += 1;
        counts.failed += u64::from(sample.failed);
        counts.slow += u64::from(sample.slow);
        self.judge(asked, now, chance)
    }

    /// Decides about a half-open circuit that has heard of enough calls.
    fn judge(&mut self, asked: Option<Duration>, now: Tick, chance: Chance) -> Option<Transition> {
        let (Phase::HalfOpen { counts, early, .. } | Phase::Ramp { counts, early, .. }) = self.phase else {
            return None;
        };
        if counts.total < u64::from(self.config.half_open_permits()) {
            return None;
        }
        match rate_reached(&self.config, counts, 0) {
            Some(reason) => Some(self.open(now, reason, counts, asked, chance)),
            None if matches!(self.phase, Phase::Ramp { .. }) => None,
            None if self.config.ramp() > Duration::ZERO => {
                self.phase = Phase::Ramp { since: now, counts: WindowCounts::default(), early };
                None
            }
            None => Some(self.close(now)),
        }
    }

    /// Goes by `config` from now on. A state with a time set keeps that time; a half-open circuit that has heard of enough calls, as seen from now, decides.
    pub(crate) fn reconfigure(
        &mut self,
        config: impl Into<Arc<BreakerConfig>>,
        now: Tick,
        chance: Chance,
    ) -> Option<Transition> {
        self.config = config.into();
        self.judge(None, now, chance)
    }

    /// Opens a closed circuit of this `generation`; nothing if that is over.
    pub(crate) fn trip(
        &mut self,
        generation: u64,
        reason: TripReason,
        counts: WindowCounts,
        asked: Option<Duration>,
        now: Tick,
        chance: Chance,
    ) -> Option<Transition> {
        let Phase::Closed { since } = self.phase else {
            return None;
        };
        if generation != self.generation {
            return None;
        }
        if now.since(since) >= self.config.settled_after() {
            self.opens = 0;
        }
        self.believe_probes = true;
        Some(self.open(now, reason, counts, asked, chance))
    }

    /// Goes to `state` by order. None if it is there already, or for half-open from anything but open: there is nothing to find out.
    pub(crate) fn order(&mut self, state: State, now: Tick, chance: Chance) -> Option<Transition> {
        match (state, self.state()) {
            (to, from) if to == from => None,
            (State::Closed, _) => {
                self.opens = 0;
                Some(self.close(now))
            }
            (State::Open, _) => {
                self.believe_probes = true;
                Some(self.open(now, TripReason::Manual, self.last, None, chance))
            }
            (State::HalfOpen, State::Open | State::ForcedOpen) => Some(self.half_open(now, false)),
            (State::HalfOpen, _) => None,
            (State::ForcedOpen, _) => Some(self.go(Phase::Standing(state), Some(TripReason::Manual), None)),
            (State::Disabled | State::MetricsOnly, _) => Some(self.go(Phase::Standing(state), None, None)),
        }
    }

    fn open(
        &mut self,
        now: Tick,
        reason: TripReason,
        counts: WindowCounts,
        asked: Option<Duration>,
        chance: Chance,
    ) -> Transition {
        if matches!(self.phase, Phase::HalfOpen { early: true, .. } | Phase::Ramp { early: true, .. }) {
            self.believe_probes = false;
        }
        self.opens = self.opens.saturating_add(1);
        let grown = || self.config.open_backoff().delay(self.opens, Duration::ZERO, chance);
        let open_for = match (self.config.open_delay(), asked) {
            (OpenDelay::AsAsked, Some(asked)) => {
                asked.max(Duration::from_millis(1)).min(self.config.max_reset_timeout())
            }
            _ => grown(),
        };
        self.last = counts;
        self.go(Phase::Open { until: now + open_for }, Some(reason), Some(open_for))
    }

    fn half_open(&mut self, now: Tick, early: bool) -> Transition {
        // As long to decide as it was last open at most: a trial call that never comes back cannot hold the circuit for good.
        let limit = self.config.open_backoff().ceiling(self.opens.max(1));
        let phase = Phase::HalfOpen { leased: 0, counts: WindowCounts::default(), until: now + limit, early };
        self.go(phase, None, None)
    }

    fn close(&mut self, now: Tick) -> Transition {
        self.believe_probes = true;
        self.last = WindowCounts::default();
        self.go(Phase::Closed { since: now }, None, None)
    }

    fn go(&mut self, phase: Phase, reason: Option<TripReason>, open_for: Option<Duration>) -> Transition {
        let (from, counts) = (self.state(), self.counts());
        self.phase = phase;
        self.generation += 1;
        Transition { from, to: self.state(), reason, generation: self.generation, counts, open_for }
    }
}

/// The share of calls that is let in after `passed` of `ramp`: from a tenth to all of them.
fn ramp_share(passed: Duration, ramp: Duration) -> f64 {
    const FIRST: f64 = 0.1;
    FIRST + (1.0 - FIRST) * passed.as_secs_f64() / ramp.as_secs_f64()
}

/// The rate that `counts` reach, if any, once there are at least `min_calls`.
pub(crate) fn rate_reached(
    config: &BreakerConfig,
    counts: WindowCounts,
    min_calls: u64,
) -> Option<TripReason> {
    if counts.failure_rate_reached(config.failure_threshold(), min_calls) {
        Some(TripReason::FailureRate)
    } else if counts.slow_rate_reached(config.slow_call_threshold(), min_calls) {
        Some(TripReason::SlowCallRate)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Chance = Chance::Uniform(0.0);
    const GOOD: Option<Sample> = Some(Sample { failed: false, slow: false });
    const BAD: Option<Sample> = Some(Sample { failed: true, slow: false });

    fn open(permits: u32) -> (Machine, Tick) {
        let config = BreakerConfig::builder().half_open_permits(permits).build().unwrap();
        let now = Tick::of(tokio::time::Instant::now().into_std());
        let mut machine = Machine::new(config, now);
        machine.trip(0, TripReason::FailureRate, WindowCounts::default(), None, now, ZERO).unwrap();
        (machine, now)
    }

    fn later(now: Tick, seconds: u64) -> Tick {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn exactly_the_permitted_number_of_trial_calls_is_out_and_ignored_ones_come_back() {
        let (mut machine, now) = open(2);
        let at = later(now, 5);
        let first = machine.enter(at, false, ZERO).admitted.unwrap();
        machine.enter(at, false, ZERO).admitted.unwrap();
        assert!(machine.enter(at, false, ZERO).admitted.is_err());
        assert_eq!(machine.exit(first, None, None, at, ZERO), None);
        let again = machine.enter(at, false, ZERO).admitted.unwrap();
        assert_eq!(machine.exit(again, GOOD, None, at, ZERO), None);
        assert!(machine.enter(at, false, ZERO).admitted.is_err(), "one came back, one is out: two in all");
    }

    #[test]
    fn late_news_moves_nothing() {
        let (mut machine, now) = open(1);
        let at = later(now, 5);
        let probe = machine.enter(at, false, ZERO).admitted.unwrap();
        let before = Admission::new(0, Counted::Window);
        assert_eq!(machine.exit(before, GOOD, None, at, ZERO), None);
        assert_eq!(machine.state(), State::HalfOpen);
        assert_eq!(machine.exit(probe, GOOD, None, at, ZERO).unwrap().to, State::Closed);
        assert_eq!(machine.exit(probe, BAD, None, at, ZERO), None, "told twice, counted once");
    }

    #[test]
    fn half_open_ends_even_if_no_trial_call_ever_comes_back() {
        let (mut machine, now) = open(1);
        machine.enter(later(now, 5), false, ZERO).admitted.unwrap();
        let entry = machine.enter(later(now, 10), false, ZERO);
        assert_eq!(entry.transition.unwrap().reason, Some(TripReason::HalfOpenTimeout));
        assert_eq!(machine.state(), State::Open);
    }

    #[test]
    fn the_open_time_doubles_until_it_has_been_closed_for_a_window() {
        let (mut machine, _) = open(1);
        let mut waits = Vec::new();
        for _ in 0..3 {
            let now = machine.open_until().unwrap();
            let probe = machine.enter(now, false, ZERO).admitted.unwrap();
            waits.push(machine.exit(probe, BAD, None, now, ZERO).unwrap().open_for.unwrap().as_secs());
        }
        assert_eq!(waits, [5, 10, 20], "equal jitter with the lowest draw: half of 10, 20, 40");
        let now = machine.open_until().unwrap();
        let probe = machine.enter(now, false, ZERO).admitted.unwrap();
        machine.exit(probe, GOOD, None, now, ZERO).unwrap();
        let generation = machine.generation();
        let soon = machine.trip(
            generation,
            TripReason::FailureRate,
            WindowCounts::default(),
            None,
            later(now, 9),
            ZERO,
        );
        assert_eq!(soon.unwrap().open_for, Some(Duration::from_secs(40)));
        machine.order(State::Closed, later(now, 9), ZERO);
        let generation = machine.generation();
        let settled = machine.trip(
            generation,
            TripReason::FailureRate,
            WindowCounts::default(),
            None,
            later(now, 60),
            ZERO,
        );
        assert_eq!(settled.unwrap().open_for, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_probe_whose_promise_was_not_kept_is_not_believed_again_until_it_closes() {
        let (mut machine, now) = open(1);
        let probe = machine.enter(later(now, 1), true, ZERO).admitted.unwrap();
        machine.exit(probe, BAD, None, later(now, 1), ZERO).unwrap();
        assert!(!machine.believes_probes());
        let at = machine.open_until().unwrap();
        let probe = machine.enter(at, false, ZERO).admitted.unwrap();
        machine.exit(probe, GOOD, None, at, ZERO).unwrap();
        assert!(machine.believes_probes());
    }

    #[test]
    fn orders_hold_and_half_open_is_only_for_what_is_open() {
        let (mut machine, now) = open(1);
        assert_eq!(machine.order(State::ForcedOpen, now, ZERO).unwrap().to, State::ForcedOpen);
        assert!(machine.enter(later(now, 10_000), true, ZERO).admitted.is_err());
        assert_eq!(machine.order(State::Closed, now, ZERO).unwrap().to, State::Closed);
        assert_eq!(machine.order(State::HalfOpen, now, ZERO), None);
        assert_eq!(machine.order(State::Closed, now, ZERO), None);
    }

    #[test]
    fn the_open_time_is_fixed_or_what_the_server_asked_if_that_is_wanted() {
        let waits = |delay: OpenDelay, asked: Option<Duration>| {
            let config = BreakerConfig::builder().open_delay(delay).half_open_permits(1).build().unwrap();
            let now = Tick::of(tokio::time::Instant::now().into_std());
            let mut machine = Machine::new(config, now);
            let (rate, counts) = (TripReason::FailureRate, WindowCounts::default());
            let first = machine.trip(0, rate, counts, asked, now, ZERO).unwrap().open_for.unwrap();
            let at = machine.open_until().unwrap();
            let probe = machine.enter(at, false, ZERO).admitted.unwrap();
            let second =
                machine.exit(probe, BAD, asked, at, Chance::Uniform(0.999)).unwrap().open_for.unwrap();
            [first, second].map(|wait| wait.as_millis())
        };
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(waits(OpenDelay::Fixed, ms(700)), [5000, 5000]);
        assert_eq!(waits(OpenDelay::AsAsked, ms(700)), [700, 700]);
        assert_eq!(waits(OpenDelay::AsAsked, ms(0)), [1, 1]);
        assert_eq!(waits(OpenDelay::AsAsked, ms(u64::MAX)), [300_000, 300_000]);
        assert_eq!(waits(OpenDelay::AsAsked, None), [5000, 9995]);
        assert_eq!(waits(OpenDelay::Growing, ms(700)), [5000, 9995]);
    }

    #[test]
    fn a_ramp_lets_in_a_growing_share_and_ends_in_closed_or_open() {
        let config =
            BreakerConfig::builder().half_open_permits(2).ramp(Duration::from_secs(100)).build().unwrap();
        let now = Tick::of(tokio::time::Instant::now().into_std());
        let ramped = || {
            let mut machine = Machine::new(config, now);
            machine.order(State::Open, now, ZERO).unwrap();
            let at = later(now, 5);
            for _ in 0..2 {
                let probe = machine.enter(at, false, ZERO).admitted.unwrap();
                assert_eq!(machine.exit(probe, GOOD, None, at, ZERO), None);
            }
            assert_eq!(machine.state(), State::HalfOpen);
            (machine, at)
        };
        let (mut machine, at) = ramped();
        for (seconds, share) in [(0, 10), (50, 55), (99, 99)] {
            let draws = (0..100).map(|draw| Chance::Uniform(f64::from(draw) / 100.0 + 0.001));
            let admitted =
                draws.filter(|&draw| machine.enter(later(at, seconds), false, draw).admitted.is_ok()).count();
            assert!(admitted.abs_diff(share) <= 1, "{admitted} after {seconds} s");
        }
        let entry = machine.enter(later(at, 100), false, Chance::Uniform(0.999));
        assert_eq!(entry.transition.unwrap().to, State::Closed);
        assert_eq!(entry.admitted.unwrap().counted(), Counted::Window);

        let (mut machine, at) = ramped();
        let calls = [GOOD, BAD, BAD].map(|sample| (machine.enter(at, false, ZERO).admitted.unwrap(), sample));
        let [good, bad, late] = calls.map(|(call, sample)| machine.exit(call, sample, None, at, ZERO));
        assert_eq!((good, late), (None, None));
        assert_eq!(bad.unwrap().reason, Some(TripReason::FailureRate), "half of two");
    }

    #[test]
    fn with_fewer_permits_from_now_on_what_has_come_back_may_decide() {
        let (mut machine, now) = open(3);
        let at = later(now, 5);
        let probe = machine.enter(at, false, ZERO).admitted.unwrap();
        assert_eq!(machine.exit(probe, GOOD, None, at, ZERO), None);
        let one = BreakerConfig::builder().half_open_permits(1).build().unwrap();
        assert_eq!(machine.reconfigure(one, at, ZERO).unwrap().to, State::Closed);
    }
}
