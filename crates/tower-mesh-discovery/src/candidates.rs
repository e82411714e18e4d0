//! What a picker sees of the endpoints, and the trait that all of them implement.

use std::fmt;

use tower_mesh_core::ewma::Decay;
use tower_mesh_core::{CallContext, EndpointHandle, Reason, Tick, Tried};

use crate::members::Member;
use crate::plan::Warm;

/// Chooses an endpoint for a call. Every algorithm but the default one is a picker, and a closure is one too.
///
/// A picker is made anew, off the call path, whenever endpoints come, go or change their attributes, by what is given to
/// [`DiscoveryLayer::pick_with`](crate::DiscoveryLayer::pick_with); it may so keep whatever it has computed from them (a ring, a table, a schedule). Where there are
/// failover levels or localities, each has a picker of its own over its own endpoints.
///
/// ```
/// use tower_mesh_core::EndpointHandle;
/// use tower_mesh_discovery::{Candidates, DiscoveryLayer, FixedList};
/// # let list = FixedList::new(["a:1".parse()?, "b:1".parse()?])?;
/// let (layer, driver) = DiscoveryLayer::new(&list, "users".parse()?);
/// // The first that may be used, in the order of the list.
/// let layer = layer.pick_with(|_: &[EndpointHandle]| {
///     |among: &Candidates<'_>| (0..among.len()).find(|&i| among.may_use(i))
/// });
/// # drop((layer, driver));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Picker: Send + Sync + 'static {
    /// The index of the endpoint to use, or none if none of `among` may be used.
    ///
    /// It is asked on the call path, by many threads at once: it should neither wait nor allocate. An index that is out of range or
    /// [may not be used](Candidates::may_use) counts as none. Asked again for the same call it sees fewer restrictions, as told at
    /// [`may_use`](Candidates::may_use).
    fn pick(&self, among: &Candidates<'_>) -> Option<usize>;
}

impl<F> Picker for F
where
    F: Fn(&Candidates<'_>) -> Option<usize> + Send + Sync + 'static,
{
    fn pick(&self, among: &Candidates<'_>) -> Option<usize> {
        self(among)
    }
}

/// Whether an endpoint that is not plainly healthy is only so for an open circuit whose wait is over.
#[cold]
pub(crate) fn wants_trial(handle: &EndpointHandle, now: Tick) -> bool {
    handle.is_pickable(now) && !handle.availability().contains(Reason::Degraded)
}

/// Which endpoints count as usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Available, and not degraded.
    Healthy,
    /// Available, but degraded.
    Degraded,
    /// Available.
    Available,
    /// Available, or not only because probes or peers say so.
    Doubtful,
}

/// The endpoints to choose among for one call, in the order in which the picker was given them.
pub struct Candidates<'a> {
    pub(crate) members: &'a [Member],
    /// Which of them; all if none.
    pub(crate) indices: Option<&'a [u32]>,
    pub(crate) warm: Option<&'a Warm>,
    pub(crate) now: Tick,
    pub(crate) decay: Decay,
    pub(crate) tried: Tried,
    pub(crate) avoid: &'a Avoid,
    pub(crate) filter: Filter,
    /// Whether those that the call has tried count as usable.
    pub(crate) again: bool,
}

impl Candidates<'_> {
    /// How many there are, usable or not.
    #[inline]
    pub fn len(&self) -> usize {
        self.indices.map_or(self.members.len(), <[u32]>::len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The place of a candidate among all endpoints.
    #[inline]
    pub(crate) fn place(&self, index: usize) -> usize {
        self.indices.map_or(index, |indices| indices[index] as usize)
    }

    #[inline]
    fn member(&self, index: usize) -> &Member {
        &self.members[self.place(index)]
    }

    /// The record of one.
    ///
    /// # Panics
    /// This and the methods below, if there are not so many.
    #[inline]
    pub fn endpoint(&self, index: usize) -> &EndpointHandle {
        &self.member(index).handle
    }

    /// Whether it may be used: it is available, this call has not tried it, and it has not refused this call. If none is left, the picker is asked again with those
    /// that the call has tried, and then with those that are held back only by probes or peers.
    #[inline]
    pub fn may_use(&self, index: usize) -> bool {
        let member = self.member(index);
        let handle = &member.handle;
        let available = match self.filter {
            Filter::Healthy => handle.is_plain() || wants_trial(handle, self.now),
            Filter::Degraded => handle.is_pickable(self.now) && self.is_degraded(index),
            Filter::Available => handle.is_pickable(self.now),
            Filter::Doubtful => {
                let rest = handle.availability().without(Reason::ProbeDown).without(Reason::Ejected);
                !rest.is_blocked() || handle.is_pickable(self.now)
            }
        };
        available
            && (self.again || self.tried.is_empty() || !self.tried.contains(member.key))
            && !self.avoid.contains(member.key)
    }

    fn is_degraded(&self, index: usize) -> bool {
        self.endpoint(index).availability().contains(Reason::Degraded)
    }

    /// How loaded it looks: its latency (peak EWMA) times its calls in flight, over its weight. Lower is better; no unit. One that is
    /// [warming](Reason::Warming) looks the more loaded the newer it is, except for its first call.
    #[inline]
    pub fn load(&self, index: usize) -> f64 {
        let load = self.endpoint(index).load(self.now, self.decay);
        if self.warm.is_some() { load / self.factor(index) } else { load }
    }

    /// Its share relative to the others: the weight that discovery announced, less while it is [warming](Reason::Warming).
    #[inline]
    pub fn weight(&self, index: usize) -> f64 {
        f64::from(self.endpoint(index).weight()) * self.factor(index)
    }

    /// What slow start leaves of its weight, above 0 and at most 1.
    #[inline]
    pub fn factor(&self, index: usize) -> f64 {
        match self.warm {
            Some(warm) => warm.factor(self.place(index), self.endpoint(index), self.now),
            None => 1.0,
        }
    }

    /// Whether it is warming and has not had a call yet: such a one gets its first call at once.
    #[inline]
    pub fn is_newcomer(&self, index: usize) -> bool {
        self.warm.is_some() && {
            let endpoint = self.endpoint(index);
            endpoint.availability().contains(Reason::Warming) && endpoint.counts().started == 0
        }
    }

    /// Its calls that have not ended.
    #[inline]
    pub fn in_flight(&self, index: usize) -> u64 {
        self.endpoint(index).counts().in_flight()
    }

    /// When the call is made.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// 64 random bits, others at each asking.
    #[inline]
    pub fn draw(&self) -> u64 {
        fastrand::u64(..)
    }

    /// What the call is to be hashed by, if that was said: by [`HashKeyLayer`](crate::HashKeyLayer) or in the [`CallContext`].
    pub fn hash_key(&self) -> Option<u64> {
        CallContext::with(|call| call.hash_key()).flatten()
    }

    /// The first that may be used, looking from `start` on and around.
    #[cold]
    pub fn scan(&self, start: usize) -> Option<usize> {
        let len = self.len();
        let start = if len == 0 { 0 } else { start % len };
        (start..len).chain(0..start).find(|&i| self.may_use(i))
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidates")
            .field("len", &self.len())
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

/// Endpoints that this call should not be sent to (again): by key, the last 16 refusals.
#[derive(Debug, Default)]
pub(crate) struct Avoid {
    keys: [u32; 16],
    len: usize,
}

impl Avoid {
    pub(crate) fn add(&mut self, key: u32) {
        self.keys[self.len % self.keys.len()] = key;
        self.len += 1;
    }

    #[inline]
    pub(crate) fn contains(&self, key: u32) -> bool {
        self.len > 0 && self.keys[..self.len.min(self.keys.len())].contains(&key)
    }

    /// Whether so many have refused that looking further is no use.
    pub(crate) fn is_full(&self) -> bool {
        self.len >= self.keys.len()
    }
}
