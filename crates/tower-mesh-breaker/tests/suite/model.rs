//! For random histories a circuit agrees with a slow, obvious model of what its page says: a list of all calls, looked through each time.

use std::collections::HashMap;
use std::time::Duration;

use fastrand::Rng;
use tower_mesh_breaker::{
    BreakerConfig, BreakerConfigBuilder, Circuit, OpenDelay, Origins, Permit, State, WindowKind,
};
use tower_mesh_core::Tick;
use tower_mesh_core::classify::{Origin, Outcome};
use tower_mesh_core::window::WindowCounts;

use crate::inner::now;

#[derive(Clone, Copy)]
struct Call {
    at: Tick,
    failed: bool,
    slow: bool,
}

/// The slow one. It knows time only as a list of calls with their ends.
struct Model {
    config: BreakerConfig,
    origin: Tick,
    state: State,
    generation: u64,
    calls: Vec<Call>,
    in_a_row: u32,
    opens: u32,
    since: Tick,
    until: Option<Tick>,
    leased: u32,
    last: WindowCounts,
    refused: u64,
    late: u64,
}

impl Model {
    fn new(config: BreakerConfig, at: Tick) -> Self {
        let (origin, since) = (at, at);
        let last = WindowCounts::default();
        let (calls, state) = (Vec::new(), State::Closed);
        Self {
            config,
            origin,
            state,
            generation: 0,
            calls,
            in_a_row: 0,
            opens: 0,
            since,
            until: None,
            leased: 0,
            last,
            refused: 0,
            late: 0,
        }
    }

    fn counts(&self, at: Tick) -> WindowCounts {
        if !matches!(self.state, State::Closed | State::MetricsOnly | State::HalfOpen) {
            return self.last;
        }
        let mut counts = WindowCounts::default();
        for (i, call) in self.calls.iter().enumerate() {
            let counted = match self.config.window() {
                _ if self.state == State::HalfOpen => true,
                WindowKind::Calls(size) => i + size as usize >= self.calls.len(),
                WindowKind::Time(window) => {
                    let buckets = window.as_secs().clamp(10, 60);
                    let number =
                        |at: Tick| at.nanos_since(self.origin) / (window.as_nanos() as u64 / buckets);
                    number(call.at) + buckets > number(at)
                }
            };
            if counted {
                counts.total += 1;
                counts.failed += u64::from(call.failed);
                counts.slow += u64::from(call.slow);
            }
        }
        counts
    }

    fn go(&mut self, state: State, at: Tick) {
        self.state = state;
        self.generation += 1;
        self.since = at;
        self.until = None;
        if matches!(state, State::Closed | State::HalfOpen | State::MetricsOnly) {
            self.calls.clear();
            self.in_a_row = 0;
        }
    }

    fn open(&mut self, counts: WindowCounts, at: Tick) {
        self.opens += 1;
        self.last = counts;
        self.go(State::Open, at);
    }

    /// The longest that it may be open or half-open now.
    fn ceiling(&self) -> Duration {
        let (base, max) = (self.config.reset_timeout(), self.config.max_reset_timeout());
        match self.config.open_delay() {
            OpenDelay::Fixed => base,
            _ => base.saturating_mul(1 << (self.opens.max(1) - 1).min(30)).min(max),
        }
    }

    /// How long it stays open is partly chance: the model takes it over if it is within bounds.
    fn take_over(&mut self, circuit: &Circuit, at: Tick) {
        if self.state != State::Open || self.until.is_some() {
            return;
        }
        let until = circuit.snapshot(at).next_trial.expect("it is open");
        let (found, ceiling) = (until.since(self.since), self.ceiling());
        let least = if self.opens == 1 { ceiling } else { ceiling / 2 };
        let fixed = self.config.open_delay() == OpenDelay::Fixed;
        assert!(found <= ceiling && found >= if fixed { ceiling } else { least }, "{found:?} of {ceiling:?}");
        self.until = Some(until);
    }

    fn acquire(&mut self, at: Tick) -> bool {
        let due = self.until.is_some_and(|until| at >= until);
        if self.state == State::Open && due {
            self.half_open(at);
        } else if self.state == State::HalfOpen && due {
            self.open(self.counts(at), at);
        }
        let admitted = match self.state {
            State::Closed | State::Disabled | State::MetricsOnly => true,
            State::HalfOpen => {
                let free = self.leased as usize + self.calls.len() < self.config.half_open_permits() as usize;
                self.leased += u32::from(free);
                free
            }
            _ => false,
        };
        self.refused += u64::from(!admitted);
        admitted
    }

    fn half_open(&mut self, at: Tick) {
        self.go(State::HalfOpen, at);
        self.leased = 0;
        self.until = Some(at + self.ceiling());
    }

    fn finish(&mut self, admitted_in: (State, u64), outcome: Outcome, taken: Duration, at: Tick) {
        let (state, generation) = admitted_in;
        if state == State::Disabled {
            return;
        }
        if generation != self.generation {
            self.late += 1;
            return;
        }
        if self.state == State::HalfOpen {
            self.leased -= 1;
        }
        let failed = match outcome {
            Outcome::Success | Outcome::Undecided => false,
            Outcome::Failure(_) => true,
            Outcome::Ignored | Outcome::Refused => return,
        };
        let is_in =
            |origins: Origins| matches!(outcome, Outcome::Failure(origin) if origins.contains(origin));
        let slow = self.config.slow_call_duration().is_some_and(|limit| taken > limit);
        let in_rates = !failed || is_in(self.config.failure_origins());
        if in_rates {
            self.calls.push(Call { at, failed, slow });
        }
        let counts = self.counts(at);
        let reached = self.reached(counts);
        if self.state == State::HalfOpen {
            if in_rates {
                self.decide(at);
            }
            return;
        }
        let in_row = is_in(self.config.consecutive_origins());
        if in_row {
            self.in_a_row += 1;
        } else if !failed {
            self.in_a_row = 0;
        }
        let row = self.config.consecutive_failures();
        let in_a_row = row > 0 && self.in_a_row >= row && in_row;
        let reached = reached && (in_rates || in_row);
        if self.state == State::Closed
            && (in_a_row || (reached && counts.total >= u64::from(self.config.min_calls())))
        {
            let settled = match self.config.window() {
                WindowKind::Time(window) => window,
                WindowKind::Calls(_) => self.config.reset_timeout(),
            };
            if at.since(self.since) >= settled {
                self.opens = 0;
            }
            self.open(counts, at);
        }
    }

    fn reached(&self, counts: WindowCounts) -> bool {
        let share = |part: u64| part as f64 / counts.total as f64;
        (counts.failed > 0 && share(counts.failed) >= self.config.failure_threshold().as_f64())
            || (counts.slow > 0 && share(counts.slow) >= self.config.slow_call_threshold().as_f64())
    }

    fn decide(&mut self, at: Tick) {
        let counts = self.counts(at);
        if self.state == State::HalfOpen && counts.total >= u64::from(self.config.half_open_permits()) {
            if self.reached(counts) { self.open(counts, at) } else { self.close(at) }
        }
    }

    fn reload(&mut self, config: BreakerConfig, at: Tick) {
        if config.window() != self.config.window() {
            self.origin = at;
            if self.state != State::HalfOpen {
                self.calls.clear();
            }
        }
        self.config = config;
        self.decide(at);
    }

    fn close(&mut self, at: Tick) {
        self.last = WindowCounts::default();
        self.go(State::Closed, at);
    }

    fn order(&mut self, to: State, at: Tick) {
        match (to, self.state) {
            (to, from) if to == from => {}
            (State::Closed, _) => {
                self.opens = 0;
                self.close(at);
            }
            (State::Open, _) => self.open(self.last, at),
            (State::HalfOpen, State::Open | State::ForcedOpen) => self.half_open(at),
            (State::HalfOpen, _) => {}
            (to, _) => self.go(to, at),
        }
    }

    fn agrees(&self, circuit: &Circuit, at: Tick) {
        let found = circuit.snapshot(at);
        assert_eq!(found.state, self.state);
        assert_eq!(found.generation, self.generation);
        assert_eq!(found.counts, self.counts(at));
        assert_eq!((found.refused, found.late), (self.refused, self.late));
        assert_eq!(found.consecutive_failures, self.in_a_row);
    }
}

fn config(random: &mut Rng) -> BreakerConfig {
    builder(random).build().unwrap()
}

fn builder(random: &mut Rng) -> BreakerConfigBuilder {
    let window = if random.bool() {
        WindowKind::Calls(random.u32(1..20))
    } else {
        WindowKind::Time(Duration::from_secs(random.u64(1..90)))
    };
    BreakerConfig::builder()
        .window(window)
        .min_calls(random.u32(0..12))
        .failure_threshold(f64::from(random.u32(1..=10)) / 10.0)
        .consecutive_failures(random.u32(0..6))
        .failure_origins(origins(random))
        .consecutive_origins(origins(random))
        .slow_call_duration(random.bool().then_some(Duration::from_millis(100)))
        .slow_call_threshold(f64::from(random.u32(1..=10)) / 10.0)
        .reset_timeout(Duration::from_secs(random.u64(1..20)))
        .max_reset_timeout(Duration::from_secs(random.u64(1..60)))
        .open_delay(if random.bool() { OpenDelay::Fixed } else { OpenDelay::Growing })
        .half_open_permits(random.u32(1..5))
}

fn origins(random: &mut Rng) -> Origins {
    let all = [Origin::Local, Origin::Remote, Origin::Overload];
    Origins::of(all.into_iter().filter(|_| random.u32(0..4) > 0))
}

const OUTCOMES: [Outcome; 6] = [
    Outcome::Success,
    Outcome::Success,
    Outcome::Failure(Origin::Remote),
    Outcome::Failure(Origin::Local),
    Outcome::Failure(Origin::Overload),
    Outcome::Ignored,
];

/// Runs one; how often each state was entered.
fn history(seed: u64, entered: &mut HashMap<State, u32>) {
    let mut random = Rng::with_seed(seed);
    let (config, mut at) = (config(&mut random), now());
    let (circuit, mut model) = (Circuit::new(config, at), Model::new(config, at));
    let mut generation = 0;
    let mut out: Vec<(Permit, (State, u64), Tick)> = Vec::new();
    for _ in 0..400 {
        match random.u32(0..100) {
            0..40 => {
                let admitted = circuit.acquire(at);
                assert_eq!(admitted.is_ok(), model.acquire(at));
                if let Ok(permit) = admitted {
                    out.push((permit, (model.state, model.generation), at));
                }
            }
            40..80 if !out.is_empty() => {
                let (permit, admitted_in, since) = out.swap_remove(random.usize(0..out.len()));
                let outcome = OUTCOMES[random.usize(0..OUTCOMES.len())];
                permit.finish(outcome, at.since(since), at);
                model.finish(admitted_in, outcome, at.since(since), at);
            }
            80..84 if !out.is_empty() => {
                // Only a trial call that is dropped gives something back.
                let (permit, admitted_in, _) = out.swap_remove(random.usize(0..out.len()));
                drop(permit);
                if admitted_in.0 == State::HalfOpen {
                    model.finish(admitted_in, Outcome::Ignored, Duration::ZERO, at);
                }
            }
            84..98 => {
                let most = if random.u32(0..8) == 0 { 40_000 } else { 300 };
                at = at + Duration::from_millis(random.u64(0..most));
            }
            98 => {
                let config = if random.bool() {
                    self::config(&mut random)
                } else {
                    builder(&mut random).window(circuit.config().window()).build().unwrap()
                };
                circuit.reload(config, at);
                model.reload(config, at);
            }
            99 => {
                let order = random.usize(0..6);
                let (to, give): (State, fn(&Circuit, Tick)) = [
                    (State::Open, (|circuit, at| circuit.trip(at)) as fn(&Circuit, Tick)),
                    (State::HalfOpen, |circuit, at| {
                        circuit.half_open(at);
                    }),
                    (State::Closed, |circuit, at| circuit.close(at)),
                    (State::ForcedOpen, |circuit, at| circuit.force_open(at)),
                    (State::Disabled, |circuit, at| circuit.disable(at)),
                    (State::MetricsOnly, |circuit, at| circuit.metrics_only(at)),
                ][order];
                give(&circuit, at);
                model.order(to, at);
            }
            _ => {}
        }
        model.take_over(&circuit, at);
        model.agrees(&circuit, at);
        if model.generation != generation {
            generation = model.generation;
            *entered.entry(model.state).or_default() += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_circuit_agrees_with_the_obvious_model() {
    let mut entered = HashMap::new();
    for seed in 0..3000 {
        let run = std::panic::AssertUnwindSafe(|| history(seed, &mut entered));
        assert!(std::panic::catch_unwind(run).is_ok(), "the history of seed {seed}");
    }
    let often = |state| entered.get(&state).copied().unwrap_or_default();
    assert!(often(State::Open) > 10_000 && often(State::HalfOpen) > 5000, "{entered:?}");
    assert!(often(State::Closed) > 2000 && often(State::MetricsOnly) > 500, "{entered:?}");
}
