//! Asking memory for what the next calls will look at.
//!
//! Of thousands of endpoints little is in a nearby cache: the lines that a call needs would cost it as much as all of its work. Those of the next call are brought while this one runs.

use tower_mesh_core::prefetch::prefetch;

use crate::policy::pick;
use crate::set::Set;

/// What no more endpoints than this have stays in a nearby cache by itself.
const FEW: usize = 100;

impl<S> Set<S> {
    /// For a call that is about to draw: asks for what the next two calls of this thread will look at. Where a record or a service lies stands in the set, so the set is
    /// asked for a call earlier than they are.
    #[inline]
    pub(crate) fn prefetch(&self, prefetch_service: Option<fn(&S)>) {
        let members = self.members.as_slice();
        if members.len() <= FEW || !self.plan.is_simple() {
            return;
        }
        // What the thread's generator will say can be had from a copy of it. Said to somebody else in between, it was asked for nothing.
        let mut draws = fastrand::Rng::with_seed(fastrand::get_seed());
        let mut pair = || pick::draw_pair(draws.u64(..), members.len());
        let (_own, (a, b), (c, d)) = (pair(), pair(), pair());
        for next in [a, b] {
            members[next].handle.prefetch();
            if let Some(prefetch_service) = prefetch_service {
                prefetch_service(&self.services[next]);
            }
        }
        for after in [c, d] {
            prefetch(&members[after]);
            prefetch(&self.services[after]);
        }
    }
}
