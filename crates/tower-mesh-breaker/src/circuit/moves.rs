//! How a circuit moves: by order, by another configuration, and as its machine says.

use std::sync::Arc;

use tower_mesh_core::Tick;
use tower_mesh_core::window::Window;

use super::{Circuit, CircuitEvent, RESHAPED, chance, new_window, slow_after_ns, word};
use crate::config::BreakerConfig;
use crate::metering;
use crate::policy::machine::{Machine, State, Transition};
use crate::sync::atomic::Ordering;

impl Circuit {
    /// Opens it, as a rule would: trial calls follow once the wait is over.
    pub fn trip(&self, now: Tick) {
        self.order(State::Open, now);
    }

    /// Lets trial calls in now, if it is open; whether it was.
    pub fn half_open(&self, now: Tick) -> bool {
        self.order(State::HalfOpen, now)
    }

    /// Closes it, with an empty window. One that is closed already stays as it is, window included.
    pub fn close(&self, now: Tick) {
        self.order(State::Closed, now);
    }

    /// Opens it until somebody says otherwise.
    pub fn force_open(&self, now: Tick) {
        self.order(State::ForcedOpen, now);
    }

    /// Lets every call by, uncounted, until somebody says otherwise.
    pub fn disable(&self, now: Tick) {
        self.order(State::Disabled, now);
    }

    /// Lets every call by, counted, until somebody says otherwise: what would have happened can be read, nothing does.
    pub fn metrics_only(&self, now: Tick) {
        self.order(State::MetricsOnly, now);
    }

    fn order(&self, state: State, now: Tick) -> bool {
        self.update(now, |machine| {
            let transition = machine.order(state, now, chance());
            (transition, transition.is_some())
        })
    }

    /// Goes by `config` from now on, and never has to be told twice: calls under way are judged by it when they end.
    ///
    /// The state stays, and so does what the window holds unless the window itself is another: then the new one begins empty. An open circuit stays open
    /// for as long as it was to. A half-open one that has heard of as many calls as it now wants decides.
    pub fn reload(&self, config: BreakerConfig, now: Tick) {
        self.reload_shared(&Arc::new(config), now);
    }

    pub(crate) fn reload_shared(&self, config: &Arc<BreakerConfig>, now: Tick) {
        let inner = &*self.0;
        self.update(now, |machine| {
            let old = inner.config.swap(config.clone());
            inner.slow_after_ns.store(slow_after_ns(config), Ordering::Relaxed);
            if old.window() != config.window() {
                inner.reshaped.store(Some(Arc::new(new_window(config, now))));
                inner.flags.fetch_or(RESHAPED, Ordering::Release);
            }
            (machine.reconfigure(config.clone(), now, chance()), ())
        });
    }

    /// Lets the machine move, publishes where it stands, then tells the world, in this order. The endpoint's availability changes under the lock:
    /// two transitions that follow one another must not be shown in the other order.
    pub(super) fn update<R>(
        &self,
        now: Tick,
        step: impl FnOnce(&mut Machine) -> (Option<Transition>, R),
    ) -> R {
        let inner = &*self.0;
        let (transition, result) = {
            let mut machine = self.machine();
            let (transition, result) = step(&mut machine);
            if transition.is_some() {
                let state = machine.state();
                if matches!(state, State::Closed | State::HalfOpen | State::MetricsOnly) {
                    inner.with_window(Window::clear);
                    inner.consecutive.store(0, Ordering::Relaxed);
                }
                inner.word.store(word::of(state, machine.generation()), Ordering::Release);
                if let Some(endpoint) = &inner.endpoint {
                    match state {
                        State::Open => {
                            endpoint.open_circuit(now, machine.open_until(), machine.believes_probes());
                        }
                        State::ForcedOpen => endpoint.open_circuit(now, None, false),
                        State::HalfOpen => endpoint.half_open_circuit(),
                        State::Closed | State::Disabled | State::MetricsOnly => endpoint.close_circuit(),
                    }
                }
            }
            (transition, result)
        };
        if let Some(transition) = transition {
            if let Some(changed) = inner.changed.get() {
                changed.notify_waiters();
            }
            self.tell(transition, now);
        }
        result
    }

    fn tell(&self, transition: Transition, now: Tick) {
        let (inner, endpoint) = (&*self.0, self.endpoint().map(tracing::field::display));
        let Transition { from, to, reason, generation, counts, open_for } = transition;
        metering::moved(&inner.family, &transition);
        let (total, failed, slow) = (counts.total, counts.failed, counts.slow);
        if to == State::Open {
            tracing::warn!(
                endpoint,
                ?from,
                ?to,
                ?reason,
                generation,
                total,
                failed,
                slow,
                ?open_for,
                "circuit opened"
            );
        } else {
            tracing::info!(endpoint, ?from, ?to, ?reason, generation, total, failed, slow, "circuit changed");
        }
        let own = inner.listeners.get();
        if own.is_some() || inner.family.listeners.any() {
            let event = CircuitEvent { circuit: self.clone(), transition, at: now };
            let panicked = own.map_or(0, |own| own.tell(&event)) + inner.family.listeners.tell(&event);
            if panicked > 0 {
                tracing::error!(panicked, "listeners for transitions panicked");
            }
        }
    }
}
