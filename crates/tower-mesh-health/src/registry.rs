use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::task::AtomicWaker;
use tower_mesh_core::{EndpointHandle, EndpointId, Live, Reason, Tick, WeakEndpoint};

use crate::config::HealthConfig;
use crate::policy::HealthState;
use crate::probes::Probes;
use crate::status::{EndpointHealth, Report};

/// What the layers and the prober share.
pub(crate) struct Shared {
    pub(crate) config: Live<HealthConfig>,
    registry: Mutex<Registry>,
    pub(crate) probes: Probes,
    /// Wakes the prober. One slot is enough: there is one prober, and it cannot be cloned.
    pub(crate) prober: AtomicWaker,
    /// Whether the last `HealthLayer` is gone, so that nothing new will be registered through one.
    closed: AtomicBool,
}

#[derive(Default)]
struct Registry {
    /// By endpoint key; each with the serial of its registration.
    watched: BTreeMap<u32, (Serial, Weak<Registration>)>,
    changes: Changes,
    next_serial: u64,
    /// The prober is gone: nobody will take changes any more, so none are kept.
    undriven: bool,
}

/// Numbers registrations, so that a check of an earlier one is never taken for one of a later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Serial(u64);

/// What the prober has not seen yet. `added` holds live registrations only and `removed` only what the prober has seen, so both stay small
/// even if it never runs.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) added: BTreeMap<Serial, Weak<Registration>>,
    pub(crate) removed: BTreeSet<Serial>,
}

impl Shared {
    pub(crate) fn new(config: HealthConfig) -> Self {
        Self {
            config: Live::new(config),
            registry: Mutex::default(),
            probes: Probes::default(),
            prober: AtomicWaker::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// The registration of `endpoint`: the one there is, or a new one.
    pub(crate) fn register(self: &Arc<Self>, endpoint: &EndpointHandle, now: Tick) -> Arc<Registration> {
        let mut registry = self.lock();
        if let Some((_, there)) = registry.watched.get(&endpoint.key())
            && let Some(there) = there.upgrade()
        {
            return there;
        }
        let serial = Serial(registry.next_serial);
        registry.next_serial += 1;
        // What an earlier registration found is not this one's: it starts with what is taken for granted. Nothing is if nobody is there to correct it.
        let undriven = registry.undriven;
        let initial = if undriven { HealthState::Unknown } else { self.config.snapshot().initial().state() };
        if initial == HealthState::Unhealthy {
            endpoint.clear(Reason::Degraded);
            endpoint.set(Reason::ProbeDown);
        } else {
            clear_reasons(endpoint);
        }
        let registration = Arc::new(Registration {
            serial,
            key: endpoint.key(),
            id: endpoint.id().clone(),
            endpoint: endpoint.downgrade(),
            attached: AtomicBool::new(false),
            report: Mutex::new(Report::new(initial, now)),
            shared: self.clone(),
        });
        let weak = Arc::downgrade(&registration);
        registry.watched.insert(endpoint.key(), (serial, weak.clone()));
        if !registry.undriven {
            registry.changes.added.insert(serial, weak);
        }
        drop(registry);
        self.prober.wake();
        registration
    }

    /// What changed since the prober last asked.
    pub(crate) fn take_changes(&self) -> Changes {
        std::mem::take(&mut self.lock().changes)
    }

    /// The prober is gone. What it found is forgotten: nobody would ever bring a down endpoint back.
    pub(crate) fn prober_gone(&self, now: Tick) {
        let there = {
            let mut registry = self.lock();
            registry.undriven = true;
            registry.changes = Changes::default();
            self.registrations(&registry)
        };
        for registration in there {
            if let Some(endpoint) = registration.endpoint() {
                clear_reasons(&endpoint);
            }
            *registration.report() = Report::new(HealthState::Unknown, now);
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.prober.wake();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn status(&self) -> Vec<EndpointHealth> {
        // Dropping a registration takes the lock, so none is dropped while it is held.
        let there = self.registrations(&self.lock());
        let health = |there: &Registration| {
            let report = there.report().clone();
            EndpointHealth::new(there.key, there.id.clone(), report, there.endpoint().as_ref())
        };
        let mut status: Vec<_> = there.iter().map(|there| health(there)).collect();
        status.sort_by(|a, b| a.id().cmp(b.id()));
        status
    }

    fn registrations(&self, registry: &Registry) -> Vec<Arc<Registration>> {
        registry.watched.values().filter_map(|(_, there)| there.upgrade()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("watched", &self.lock().watched.len())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// One endpoint is to be checked, for as long as anybody holds this: the endpoint's own record, or a guard.
///
/// Only its holder changes the endpoint's reasons: the prober holds it while it publishes, so nothing is published after the last one let go.
pub(crate) struct Registration {
    serial: Serial,
    key: u32,
    id: EndpointId,
    /// Weak, because the record may be what holds this.
    endpoint: WeakEndpoint,
    attached: AtomicBool,
    report: Mutex<Report>,
    shared: Arc<Shared>,
}

impl Registration {
    /// The endpoint, if its record is still there. Not to be dropped under the registry's lock: with it may go the record, and with that
    /// this or another registration, which takes the lock.
    pub(crate) fn endpoint(&self) -> Option<EndpointHandle> {
        self.endpoint.upgrade()
    }

    /// Lets it live as long as the record of `endpoint`, which it is a registration of.
    pub(crate) fn attach_to(self: Arc<Self>, endpoint: &EndpointHandle) {
        if !self.attached.swap(true, Ordering::AcqRel) {
            endpoint.attach(self);
        }
    }

    pub(crate) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn clear_reasons(endpoint: &EndpointHandle) {
    endpoint.clear(Reason::ProbeDown);
    endpoint.clear(Reason::Degraded);
}

impl Drop for Registration {
    fn drop(&mut self) {
        let endpoint = self.endpoint();
        let mut registry = self.shared.lock();
        if registry.watched.get(&self.key).is_some_and(|(serial, _)| *serial == self.serial) {
            registry.watched.remove(&self.key);
            // Inside the lock: a later registration of the same endpoint must find them cleared, and then owns them.
            if let Some(endpoint) = &endpoint {
                clear_reasons(endpoint);
            }
        }
        if registry.changes.added.remove(&self.serial).is_none() && !registry.undriven {
            registry.changes.removed.insert(self.serial);
        }
        drop(registry);
        self.shared.prober.wake();
        drop(endpoint);
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("endpoint", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> EndpointHandle {
        EndpointHandle::new("a:1".parse().unwrap())
    }

    #[test]
    fn a_prober_that_never_runs_or_is_gone_costs_no_memory() {
        let now = Tick::of(tokio::time::Instant::now().into_std());
        let shared = Arc::new(Shared::new(HealthConfig::default()));
        let kept = endpoint();
        let _kept = shared.register(&kept, now);
        for _ in 0..100 {
            shared.register(&endpoint(), now);
        }
        let sizes = |changes: &Changes| (changes.added.len(), changes.removed.len());
        assert_eq!(sizes(&shared.take_changes()), (1, 0));
        shared.prober_gone(now);
        for _ in 0..100 {
            shared.register(&endpoint(), now);
        }
        assert_eq!(sizes(&shared.take_changes()), (0, 0));
        assert_eq!(shared.lock().watched.len(), 1);
    }

    #[test]
    fn a_later_registration_owns_the_reasons_of_its_endpoint() {
        let now = Tick::of(tokio::time::Instant::now().into_std());
        let shared = Arc::new(Shared::new(HealthConfig::default()));
        let endpoint = endpoint();
        let first = shared.register(&endpoint, now);
        let again = shared.register(&endpoint, now);
        assert!(Arc::ptr_eq(&first, &again));
        drop((first, again));
        endpoint.set(Reason::ProbeDown);
        let later = shared.register(&endpoint, now);
        assert!(!endpoint.availability().contains(Reason::ProbeDown), "it starts unknown");
        endpoint.set(Reason::ProbeDown);
        endpoint.set(Reason::CircuitOpen);
        drop(later);
        assert_eq!(endpoint.availability(), [Reason::CircuitOpen].into_iter().collect());
    }

    #[test]
    fn whoever_asks_again_for_what_is_watched_adds_nothing_to_it() {
        let now = Tick::of(tokio::time::Instant::now().into_std());
        let shared = Arc::new(Shared::new(HealthConfig::default()));
        let endpoint = endpoint();
        let first = shared.register(&endpoint, now);
        for _ in 0..100 {
            shared.register(&endpoint, now).attach_to(&endpoint);
        }
        assert_eq!(Arc::strong_count(&first), 2, "here and in the record");
        drop(endpoint);
        assert_eq!(Arc::strong_count(&first), 1);
        assert!(first.endpoint().is_none());
        drop(first);
        assert!(shared.lock().watched.is_empty());
    }
}
