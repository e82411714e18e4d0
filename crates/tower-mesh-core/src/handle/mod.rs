//! The one shared record of a live endpoint.

mod calls;
mod latency;
/// The word and the counters; the latency within is one writer's or another's, whole by itself.
#[cfg(all(loom, test))]
#[expect(clippy::disallowed_methods, reason = "time is an argument; tests need some instant")]
mod loom_tests;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "time is an argument; tests need some instant")]
mod tests;
mod trial;
mod word;

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use crate::availability::{Availability, Reason};
use crate::endpoint::{Endpoint, EndpointId};
use crate::ewma::PeakEwma;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::statics::AtomicU32 as StaticU32;
use crate::tick::Tick;

pub use self::calls::{CallCounts, CallEnd};
pub use self::latency::LatencyEpoch;

/// What is known of one live endpoint, shared by every layer and every caller; cheap to clone.
///
/// It holds the attributes that discovery announced, the [`Availability`] word in which each layer sets and clears its own
/// [`Reason`], the count of calls by outcome, and a peak-sensitive latency estimate. Health and breaker speak to the balancer through
/// it without knowing the balancer, so foreign layers may stand in between.
///
/// Nothing here waits: reads and writes on the call path are single atomic operations on one cache line.
#[derive(Clone)]
pub struct EndpointHandle(Arc<Record>);

#[repr(C)] // What calls touch comes first, beside the counts of references.
struct Record {
    hot: Hot,
    trial: Trial,
    /// Calls that were in flight when the latency was forgotten. Read only while there is none.
    from_before: AtomicU32,
    key: u32,
    id: EndpointId,
    cold: Mutex<Cold>,
}

impl Drop for Record {
    fn drop(&mut self) {
        Names::lock().remove(&self.key);
    }
}

/// What the endpoints of this process are called, by their keys: for reports, which know only the key of where a call went.
struct Names;

impl Names {
    fn lock() -> MutexGuard<'static, HashMap<u32, EndpointId>> {
        static NAMES: LazyLock<Mutex<HashMap<u32, EndpointId>>> = LazyLock::new(Mutex::default);
        NAMES.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What no call reads. Small, so that the whole record keeps to two cache lines.
struct Cold {
    endpoint: Arc<Endpoint>,
    attached: Option<Box<Attached>>,
}

/// What few records have.
#[derive(Default)]
struct Attached {
    /// Never taken from, so nothing of it is dropped before the record is, and then under no lock.
    kept: Vec<Arc<dyn Any + Send + Sync>>,
    /// Of an ejected endpoint: probes that began after this end it. None: no probe does.
    recovers_after: Option<Tick>,
    /// Whom to tell that probes have found it down.
    down_listeners: Vec<Weak<DownListener>>,
}

/// Who is told that an endpoint is down by its probes.
pub type DownListener = dyn Fn() + Send + Sync;

/// All that a pick reads and a call writes, in one cache line.
#[repr(align(64))]
#[derive(Default)]
struct Hot {
    /// Low half: the availability bits, and [`PENALIZED`]. High half: the latency epoch, which tells late samples from current ones.
    word: AtomicU32,
    weight: AtomicU32,
    started: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    ignored: AtomicU64,
    abandoned: AtomicU64,
    latency: PeakEwma,
}

const EPOCH: u32 = 1 << 16;
/// Failed calls weigh in the latency.
const PENALIZED: u32 = 1 << 15;
const BITS: u32 = PENALIZED - 1;
/// The bits that a pick goes by.
const PICKING: u32 = Availability::BLOCKING.bits() as u32 | Reason::Degraded as u32;

/// When a blocked endpoint may be tried again, in nanoseconds as [`Tick`]s count. Read only while it is blocked.
struct Trial {
    recheck_at: AtomicU64,
    /// Probes that began before this do not shorten the wait. `u64::MAX`: no probe does.
    hints_after: AtomicU64,
}

impl EndpointHandle {
    /// A record for `endpoint`, fully available and without history.
    pub fn new(endpoint: Endpoint) -> Self {
        static NEXT_KEY: StaticU32 = StaticU32::new(1);
        let hot = Hot { weight: AtomicU32::new(endpoint.weight().get()), ..Hot::default() };
        let key = NEXT_KEY.fetch_add(1, Ordering::Relaxed);
        Names::lock().insert(key, endpoint.id().clone());
        Self(Arc::new(Record {
            hot,
            trial: Trial { recheck_at: AtomicU64::new(u64::MAX), hints_after: AtomicU64::new(u64::MAX) },
            from_before: AtomicU32::new(0),
            key,
            id: endpoint.id().clone(),
            cold: Mutex::new(Cold { endpoint: Arc::new(endpoint), attached: None }),
        }))
    }

    /// Its identity.
    pub fn id(&self) -> &EndpointId {
        &self.0.id
    }

    /// A number that no other live record of this process has (it would take four thousand million endpoints): what
    /// [`CallContext`](crate::CallContext) remembers of a pick.
    pub fn key(&self) -> u32 {
        self.0.key
    }

    /// The id of the live endpoint that has this [key](Self::key), if there is one. For reports: it takes a short lock.
    pub fn id_of(key: u32) -> Option<EndpointId> {
        Names::lock().get(&key).cloned()
    }

    /// Its attributes as last announced.
    pub fn endpoint(&self) -> Arc<Endpoint> {
        self.cold().endpoint.clone()
    }

    /// Takes new attributes for the same identity; everything learned stays. The id of `endpoint` is not looked at.
    pub fn update(&self, endpoint: Endpoint) {
        self.0.hot.weight.store(endpoint.weight().get(), Ordering::Relaxed);
        let endpoint = Arc::new(endpoint);
        self.cold().endpoint = endpoint;
    }

    /// Its share of traffic relative to its peers, as last announced.
    #[inline]
    pub fn weight(&self) -> u32 {
        self.0.hot.weight.load(Ordering::Relaxed)
    }

    /// Ties `state` to the record: it is kept as long as that is, and dropped with it, by whoever drops the last handle, under no lock of
    /// the record's.
    ///
    /// For what a layer keeps of an endpoint and calls need not carry. It must not hold a handle of this endpoint, or neither would ever
    /// go: a [`WeakEndpoint`] is for that. What is attached twice is kept twice.
    pub fn attach(&self, state: Arc<impl Any + Send + Sync>) {
        let mut cold = self.cold();
        let kept = &mut cold.attached.get_or_insert_default().kept;
        // Of many thousand records most have one.
        kept.reserve_exact(1);
        kept.push(state);
    }

    /// Has `listener` told each time that active probes have found the endpoint down; for what keeps idle connections to it. Kept as long as the caller keeps
    /// it. It runs on the prober's task and should be quick.
    pub fn on_down(&self, listener: &Arc<DownListener>) {
        let mut cold = self.cold();
        let listeners = &mut cold.attached.get_or_insert_default().down_listeners;
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(listener));
    }

    /// Tells them, under no lock. For whoever probes, after [`Reason::ProbeDown`] is set.
    pub fn tell_down(&self) {
        let listeners = self.cold().attached.as_ref().map(|attached| attached.down_listeners.clone());
        for listener in listeners.iter().flatten() {
            if let Some(listener) = listener.upgrade() {
                listener();
            }
        }
    }

    /// A reference that does not keep the record.
    pub fn downgrade(&self) -> WeakEndpoint {
        WeakEndpoint(Arc::downgrade(&self.0))
    }

    fn cold(&self) -> MutexGuard<'_, Cold> {
        self.0.cold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for EndpointHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointHandle")
            .field("id", self.id())
            .field("availability", &self.availability())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// A reference to the record of an endpoint that does not keep it; cheap to clone.
#[derive(Clone)]
pub struct WeakEndpoint(Weak<Record>);

impl WeakEndpoint {
    /// The record, if anybody still keeps it. Who calls this may be the last to drop it, with all that is attached: not under a lock that
    /// any of that takes.
    pub fn upgrade(&self) -> Option<EndpointHandle> {
        self.0.upgrade().map(EndpointHandle)
    }
}

impl fmt::Debug for WeakEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakEndpoint").field("is_alive", &(self.0.strong_count() > 0)).finish()
    }
}
