//! What is told to the `metrics` facade, with the feature of that name; without it nothing is, and nothing is left of this.
//!
//! | metric | kind | labels | |
//! |---|---|---|---|
//! | `tower_mesh_circuits` | gauge | `breaker`, `state` | circuits in this state: every transition takes one from the old and adds one to the new |
//! | `tower_mesh_circuit_transitions_total` | counter | `breaker`, `from`, `to`, `reason` | changes of state |
//! | `tower_mesh_circuit_refused_total` | counter | `breaker` | calls refused |
//!
//! `breaker` is the name given to the layer, or `unnamed`. No label holds an address or a key: there are as many series as breakers in the program.

use crate::circuit::Family;
use crate::policy::machine::{State, Transition};

#[cfg(feature = "metrics")]
mod facade {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Once;

    use super::{Family, State, Transition};

    /// The recorder is the user's. If it panics, that ends no call and no circuit: in a destructor it would end the program.
    fn tell(what: impl FnOnce()) {
        static ONCE: Once = Once::new();
        if catch_unwind(AssertUnwindSafe(what)).is_err() {
            ONCE.call_once(|| tracing::error!("the recorder of metrics panicked; this is told once"));
        }
    }

    fn name(family: &Family) -> metrics::SharedString {
        family.name.clone().map_or_else(|| "unnamed".into(), Into::into)
    }

    fn circuits(family: &Family, state: State) -> metrics::Gauge {
        metrics::gauge!("tower_mesh_circuits", "breaker" => name(family), "state" => state.as_str())
    }

    pub(crate) fn born(family: &Family) {
        tell(|| circuits(family, State::Closed).increment(1.0));
    }

    pub(crate) fn gone(family: &Family, state: State) {
        tell(|| circuits(family, state).decrement(1.0));
    }

    pub(crate) fn moved(family: &Family, transition: &Transition) {
        tell(|| {
            circuits(family, transition.from).decrement(1.0);
            circuits(family, transition.to).increment(1.0);
            let reason = transition.reason.map_or("none", crate::TripReason::as_str);
            metrics::counter!("tower_mesh_circuit_transitions_total", "breaker" => name(family),
                "from" => transition.from.as_str(), "to" => transition.to.as_str(), "reason" => reason)
            .increment(1);
        });
    }

    pub(crate) fn refused(family: &Family) {
        tell(|| {
            metrics::counter!("tower_mesh_circuit_refused_total", "breaker" => name(family)).increment(1);
        });
    }
}

#[cfg(not(feature = "metrics"))]
mod facade {
    use super::{Family, State, Transition};

    #[inline]
    pub(crate) fn born(_: &Family) {}
    #[inline]
    pub(crate) fn gone(_: &Family, _: State) {}
    #[inline]
    pub(crate) fn moved(_: &Family, _: &Transition) {}
    #[inline]
    pub(crate) fn refused(_: &Family) {}
}

pub(crate) use facade::{born, gone, moved, refused};
