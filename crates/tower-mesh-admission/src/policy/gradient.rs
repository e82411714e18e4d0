//! By the gradient of latency: Netflix's `Gradient2Limit`.

use std::time::Duration;

use tower_mesh_core::Tick;

use super::LimitSample;

/// Over how many steps the latency of long is averaged.
const LONG: f64 = 600.0;
/// Over how many steps at first, with equal weight.
const WARM_UP: u32 = 10;
/// How many calls a step needs at least.
const MIN_SAMPLES: u32 = 10;
/// The least that one step's answer is of the limit.
const LEAST: f64 = 0.5;

/// Follows how the latency of now, averaged over a short window, compares with that of long: as long as it is at most `tolerance` times that, the limit grows by what
/// may queue; beyond, it shrinks in proportion. Nothing is probed for, and no traffic is held back to measure an idle server.
///
/// The source takes each call for a step, and does not look at dropped ones. Here a step is a window of at least ten calls, so that one slow call among many is no
/// congestion; and a window in which a call was dropped has the least gradient, whatever the latency of those that were not: about a tenth less, as with
/// [`Aimd`](super::Aimd).
#[derive(Debug, Clone)]
pub struct Gradient {
    limit: f64,
    rule: GradientRule,
    window: Duration,
    long_ns: f64,
    steps: u32,
    current: Current,
}

/// The numbers of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradientRule {
    /// The least that the limit becomes.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// How many times the latency of long the latency of now may be.
    pub tolerance: f64,
    /// How many calls may queue at the server at any limit. Netflix's default is 4, and ours.
    pub queue: f64,
    /// How quickly the limit follows: this share of a step's answer, the rest of what was before. Netflix's default is 0.2, and ours.
    pub smoothing: f64,
}

/// The window that is not over yet.
#[derive(Debug, Clone, Copy, Default)]
struct Current {
    began: Option<Tick>,
    samples: u32,
    latency_ns: f64,
    in_flight: u32,
    dropped: bool,
}

impl Gradient {
    /// Begins with `limit`.
    pub fn new(limit: u32, min: u32, max: u32, tolerance: f64, window: Duration) -> Self {
        let (min, max) = (f64::from(min.max(1)), f64::from(max));
        let limit = f64::from(limit).max(min).min(max);
        let rule = GradientRule { min, max, tolerance, queue: 4.0, smoothing: 0.2 };
        Self { limit, rule, window, long_ns: 0.0, steps: 0, current: Current::default() }
    }

    /// Takes in a call; the limit after it.
    pub fn observe(&mut self, sample: LimitSample) -> u32 {
        let current = &mut self.current;
        let began = *current.began.get_or_insert(sample.ended);
        // How long a call took that was dropped says nothing of how long they take: it may have been refused at once.
        if sample.dropped {
            current.dropped = true;
        } else {
            current.latency_ns += sample.ended.nanos_since(sample.started) as f64;
            current.samples += 1;
        }
        current.in_flight = current.in_flight.max(sample.in_flight);
        let enough = current.samples >= MIN_SAMPLES || current.dropped;
        if enough && sample.ended.since(began) >= self.window {
            let over = std::mem::take(current);
            self.step(&over);
        }
        self.limit()
    }

    fn step(&mut self, over: &Current) {
        let ratio = if over.samples > 0 {
            let short = over.latency_ns / f64::from(over.samples);
            self.average(short);
            let ratio = self.long_ns / short.max(1.0);
            // The latency of long is that of a congestion which is over: it is to be forgotten sooner.
            if ratio > 2.0 {
                self.long_ns *= 0.95;
            }
            ratio
        } else {
            1.0
        };
        let ratio = if over.dropped { 0.0 } else { ratio };
        self.limit = self.rule.step(self.limit, ratio, over.in_flight);
    }

    fn average(&mut self, short: f64) {
        self.steps = self.steps.saturating_add(1);
        let weight = if self.steps <= WARM_UP { 1.0 / f64::from(self.steps) } else { 2.0 / (LONG + 1.0) };
        self.long_ns += (short - self.long_ns) * weight;
    }

    /// The limit now.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }
}

impl GradientRule {
    /// The limit after a step, in which `long_to_short` is how many times the latency of now goes into that of long, and `in_flight` is how many calls were under way
    /// at most: unless they were at least half of the limit, it stays. A limit that does nothing says nothing.
    pub fn step(&self, limit: f64, long_to_short: f64, in_flight: u32) -> f64 {
        if f64::from(in_flight) < limit / 2.0 {
            return limit;
        }
        let gradient = (self.tolerance * long_to_short).clamp(LEAST, 1.0);
        let next = limit * gradient + self.queue;
        (limit * (1.0 - self.smoothing) + next * self.smoothing).max(self.min).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that works on `capacity` calls at a time, each for `work_ms`; what is beyond waits there. The limit that is found, and the latency with it.
    fn settle(capacity: f64, work_ms: f64, steps: u32) -> (u32, f64) {
        let origin = Tick::of(tokio::time::Instant::now().into_std());
        let mut gradient = Gradient::new(20, 1, 1000, 1.5, Duration::ZERO);
        let (mut now, mut latency) = (origin, work_ms);
        for _ in 0..steps {
            let in_flight = gradient.limit();
            latency = work_ms * (f64::from(in_flight) / capacity).max(1.0);
            for _ in 0..MIN_SAMPLES {
                let ended = now + Duration::from_secs_f64(latency / 1000.0);
                gradient.observe(LimitSample { started: now, ended, in_flight, dropped: false });
            }
            now = now + Duration::from_millis(10);
        }
        (gradient.limit(), latency)
    }

    #[test]
    fn it_settles_near_what_a_server_can_do() {
        let (limit, latency) = settle(100.0, 10.0, 400);
        assert!((100..260).contains(&limit), "{limit}");
        assert!(latency < 26.0, "{latency} ms");
        let (small, _) = settle(30.0, 10.0, 400);
        assert!(small < limit / 2, "it follows the server's size: {small} and {limit}");
    }

    #[test]
    fn a_limit_that_is_not_used_does_not_grow() {
        let origin = Tick::of(tokio::time::Instant::now().into_std());
        let mut gradient = Gradient::new(50, 1, 1000, 1.5, Duration::ZERO);
        for i in 0..1000 {
            let started = origin + Duration::from_millis(i);
            let ended = started + Duration::from_millis(1);
            gradient.observe(LimitSample { started, ended, in_flight: 24, dropped: false });
        }
        assert_eq!(gradient.limit(), 50);
    }

    #[test]
    fn a_window_in_which_calls_were_dropped_lowers_it_by_a_tenth_once() {
        let origin = Tick::of(tokio::time::Instant::now().into_std());
        let mut gradient = Gradient::new(100, 1, 1000, 1.5, Duration::from_millis(100));
        let mut sample = |at, dropped| {
            let ended = origin + Duration::from_millis(at);
            gradient.observe(LimitSample { started: origin, ended, in_flight: 100, dropped })
        };
        for at in 0..50 {
            assert_eq!(sample(at, true), 100, "the window is not over");
        }
        assert_eq!(sample(100, false), 90);
    }

    #[test]
    fn one_slow_call_among_many_is_no_congestion() {
        let origin = Tick::of(tokio::time::Instant::now().into_std());
        let mut gradient = Gradient::new(100, 1, 1000, 1.5, Duration::from_millis(100));
        for at in 0..2000 {
            let started = origin + Duration::from_millis(at);
            let took = Duration::from_millis(if at % 100 == 0 { 40 } else { 1 });
            let in_flight = gradient.limit();
            gradient.observe(LimitSample { started, ended: started + took, in_flight, dropped: false });
        }
        assert!(gradient.limit() > 100, "{}", gradient.limit());
    }
}
