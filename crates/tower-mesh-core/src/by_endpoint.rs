//! What a layer knows of endpoints, without keeping it.

use std::collections::HashMap;

use crate::handle::EndpointHandle;

/// Something of a layer's for each endpoint, held weakly: it goes with the endpoint's services, and its place here soon after.
///
/// `W` is a weak reference. Those that are gone are looked for when there are twice as many entries as at the last look, so that to add so many endpoints takes their
/// number and not its square, and whenever all are asked for.
///
/// ```
/// use std::sync::{Arc, Weak};
/// use tower_mesh_core::{ByEndpoint, EndpointHandle};
/// let endpoint = EndpointHandle::new("10.0.0.1:80".parse()?);
/// let state = Arc::new("healthy");
/// let mut known = ByEndpoint::default();
/// known.insert(&endpoint, Arc::downgrade(&state), |weak| weak.strong_count() > 0);
/// assert!(known.get(&endpoint).is_some());
/// assert_eq!(known.alive(Weak::upgrade), [state]);
/// # Ok::<(), tower_mesh_core::BoxError>(())
/// ```
#[derive(Debug)]
pub struct ByEndpoint<W> {
    by_key: HashMap<u32, W>,
    sweep_at: usize,
}

impl<W> Default for ByEndpoint<W> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), sweep_at: Self::SLACK }
    }
}

impl<W> ByEndpoint<W> {
    /// So many that are gone may stay, beside as many as were there at the last look.
    const SLACK: usize = 32;

    /// What is known of `endpoint`; it may be gone.
    pub fn get(&self, endpoint: &EndpointHandle) -> Option<&W> {
        self.by_key.get(&endpoint.key())
    }

    /// Puts `weak` in the place of `endpoint`. `is_alive` tells which of the others are still there.
    pub fn insert(&mut self, endpoint: &EndpointHandle, weak: W, is_alive: impl Fn(&W) -> bool) {
        if self.by_key.len() >= self.sweep_at {
            self.by_key.retain(|_, weak| is_alive(weak));
            self.sweep_at = 2 * self.by_key.len() + Self::SLACK;
        }
        self.by_key.insert(endpoint.key(), weak);
    }

    /// All that `upgrade` finds to be there, in no order. The caller may come to be the last who keeps them: not to be dropped under a lock that their end takes.
    pub fn alive<T>(&mut self, upgrade: impl Fn(&W) -> Option<T>) -> Vec<T> {
        let mut alive = Vec::with_capacity(self.by_key.len());
        self.by_key.retain(|_, weak| upgrade(weak).map(|kept| alive.push(kept)).is_some());
        alive
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::{Arc, Weak};

    use super::*;

    fn endpoint(n: usize) -> EndpointHandle {
        EndpointHandle::new(format!("h{n}:1").parse().unwrap())
    }

    #[test]
    fn what_is_gone_leaves_no_more_than_a_few_places_and_none_once_all_are_asked_for() {
        let mut known = ByEndpoint::default();
        let is_alive = |weak: &Weak<()>| weak.strong_count() > 0;
        let (kept, first) = (Arc::new(()), endpoint(0));
        known.insert(&first, Arc::downgrade(&kept), is_alive);
        for n in 1..1000 {
            known.insert(&endpoint(n), Weak::new(), is_alive);
        }
        assert!(known.by_key.len() <= ByEndpoint::<Weak<()>>::SLACK + 2, "{}", known.by_key.len());
        assert!(known.get(&first).and_then(Weak::upgrade).is_some());
        assert_eq!((known.alive(Weak::upgrade).len(), known.by_key.len()), (1, 1));
    }

    #[test]
    fn to_add_many_takes_their_number_and_not_its_square() {
        let (mut known, looks) = (ByEndpoint::default(), Cell::new(0));
        let kept = Arc::new(());
        let is_alive = |weak: &Weak<()>| {
            looks.set(looks.get() + 1);
            weak.strong_count() > 0
        };
        (0..10_000).for_each(|n| known.insert(&endpoint(n), Arc::downgrade(&kept), is_alive));
        assert!(looks.get() < 2 * 10_000, "{}", looks.get());
    }
}
