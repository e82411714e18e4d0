//! The set: who is in it, who is out, and what happens to whom.

use std::collections::BTreeMap;
use std::fmt;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use tower_mesh_core::backoff::Chance;
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::{EndpointHandle, EndpointId, Listeners, Live, Reason, Tick};

use super::config::OutlierConfig;
use super::driver::OutlierDriver;
use super::layer::OutlierLayer;
use super::member::Member;
use super::policy::{Change, Counts, Ejection, Host, Rule, decide, sweep};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// A set of endpoints, each of which is judged by the others. Cheap to clone; clones are the same set.
///
/// An endpoint is in it as long as its record is there. Those that drain are not counted.
#[derive(Debug, Clone)]
pub struct Outliers {
    owner: Arc<Owner>,
}

impl Outliers {
    /// An empty set and the driver that looks it over. Until that is spawned or polled nothing is ejected, because nobody would end it.
    pub fn new(config: OutlierConfig) -> (Self, OutlierDriver) {
        let shared = Arc::new(Shared {
            limits: Limits::default(),
            config: Live::new(config),
            registry: Mutex::default(),
            driver: Mutex::default(),
            closed: AtomicBool::new(false),
            listeners: Listeners::default(),
        });
        shared.follow(&config);
        let driver = OutlierDriver::new(shared.clone());
        (Self { owner: Arc::new(Owner { shared }) }, driver)
    }

    /// The layer for the stack of one endpoint: it counts calls, and the endpoint is in the set from now on until its record goes.
    ///
    /// By default an `Err` is a failure; [`OutlierLayer::classify`] says otherwise. Where a breaker watches the endpoint too,
    /// [`BreakerLayer::ejecting`](crate::BreakerLayer::ejecting) counts without a second layer.
    pub fn watching(&self, endpoint: &EndpointHandle) -> OutlierLayer<ByResult> {
        OutlierLayer::new(self.member(endpoint))
    }

    pub(crate) fn member(&self, endpoint: &EndpointHandle) -> Arc<Member> {
        let member = self.owner.shared.join(endpoint);
        member.attach_to(endpoint);
        member
    }

    /// Tells `listener` of every change from now on, after it is in force. It runs on the thread that found it, a caller's or the driver's, under no
    /// lock, and should be quick; if it panics, nobody else is harmed.
    pub fn on_event(&self, listener: impl Fn(&OutlierEvent) + Send + Sync + 'static) {
        self.owner.shared.listeners.add(listener);
    }

    /// Who is in the set, in the order of their ids, and what each rule found. Reading changes nothing.
    pub fn status(&self) -> OutlierStatus {
        self.owner.shared.status()
    }

    /// The configuration in use.
    pub fn config(&self) -> OutlierConfig {
        *self.owner.shared.config.snapshot()
    }

    /// Replaces the configuration. What was counted stays, and so do ejections and the times they were given; another interval begins anew.
    pub fn reload(&self, config: OutlierConfig) {
        self.owner.shared.config.reload(config);
        self.owner.shared.follow(&config);
        self.owner.shared.wake();
    }
}

/// Tells the driver when the last handle is gone.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake();
    }
}

/// What handles, members and the driver share.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) config: Live<OutlierConfig>,
    registry: Mutex<Registry>,
    /// There is one driver, and it cannot be cloned.
    driver: Mutex<Option<Waker>>,
    closed: AtomicBool,
    listeners: Listeners<OutlierEvent>,
}

/// What calls read of the configuration.
#[derive(Default)]
pub(super) struct Limits {
    pub(super) consecutive: AtomicU32,
    pub(super) consecutive_local: AtomicU32,
    pub(super) split_local: AtomicBool,
    pub(super) latency: AtomicBool,
    pub(super) stalled_ns: AtomicU64,
}

#[derive(Default)]
struct Registry {
    /// By endpoint key.
    members: BTreeMap<u32, Entry>,
    counts: [RuleCounts; Rule::ALL.len()],
    driven: bool,
}

struct Entry {
    member: Weak<Member>,
    ejection: Ejection,
}

/// Kept while the set is looked at: what goes with the last handle takes the set's lock, so handles are dropped after it is let go.
type Held = Vec<(Arc<Member>, Option<EndpointHandle>)>;

impl Shared {
    fn follow(&self, config: &OutlierConfig) {
        let limits = &self.limits;
        limits.consecutive.store(config.consecutive_failures(), Ordering::Relaxed);
        limits.consecutive_local.store(config.consecutive_local(), Ordering::Relaxed);
        limits.split_local.store(config.split_local(), Ordering::Relaxed);
        limits.latency.store(config.latency_factor().is_some(), Ordering::Relaxed);
        let stalled_ns = u64::try_from(config.stalled_after().as_nanos()).unwrap_or(u64::MAX);
        limits.stalled_ns.store(stalled_ns, Ordering::Relaxed);
        let (min_hosts, needed) = (config.success_rate_min_hosts(), config.lone_outlier_hosts());
        if min_hosts < needed {
            let factor = config.success_rate_factor();
            tracing::warn!(
                min_hosts,
                needed,
                factor,
                "a lone outlier cannot be found by its success rate among so few"
            );
        }
    }

    fn join(self: &Arc<Self>, endpoint: &EndpointHandle) -> Arc<Member> {
        let mut registry = self.lock();
        let known = registry.members.get(&endpoint.key()).and_then(|entry| entry.member.upgrade());
        known.unwrap_or_else(|| {
            let member = Arc::new(Member::new(endpoint, self.clone()));
            let entry = Entry { member: Arc::downgrade(&member), ejection: Ejection::default() };
            registry.members.insert(endpoint.key(), entry);
            member
        })
    }

    pub(super) fn leave(&self, member: &Member) {
        let mut registry = self.lock();
        // There may be a later one for the same endpoint already.
        if registry.members.get(&member.key).is_some_and(|entry| std::ptr::eq(entry.member.as_ptr(), member))
        {
            registry.members.remove(&member.key);
        }
        drop(registry);
        if self.closed.load(Ordering::Acquire) {
            self.wake();
        }
    }

    /// A rule of failures in a row has found `member`.
    #[cold]
    pub(super) fn found(&self, member: &Member, rule: Rule, now: Tick) {
        let config = *self.config.snapshot();
        self.change(&config, now, false, |keys, hosts| {
            let index = keys.iter().position(|key| *key == member.key);
            let change =
                index.and_then(|i| decide(&config, hosts, i, rule, now, chance).map(|change| (i, change)));
            change.into_iter().collect()
        });
    }

    /// Looks the set over.
    pub(super) fn sweep(&self, config: &OutlierConfig, now: Tick) {
        self.change(config, now, true, |_, hosts| sweep(config, hosts, now, chance));
    }

    /// Lets `policy` look at those who count, puts in force what it says, and then tells.
    fn change(
        &self,
        config: &OutlierConfig,
        now: Tick,
        take_counts: bool,
        policy: impl FnOnce(&[u32], &mut [Host]) -> Vec<(usize, Change)>,
    ) {
        let mut held = Held::new();
        let mut events = Vec::new();
        {
            let mut registry = self.lock();
            if !registry.driven {
                return;
            }
            let (mut keys, mut hosts, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
            let mut changes = Vec::new();
            for (&key, entry) in &mut registry.members {
                let Some(member) = entry.member.upgrade() else { continue };
                let endpoint = member.endpoint();
                held.push((member, endpoint));
                let Some((member, Some(endpoint))) = held.last() else { continue };
                let available = endpoint.availability();
                let counts = if take_counts { member.take_counts() } else { Counts::default() };
                if available.contains(Reason::Draining) {
                    continue;
                }
                if entry.ejection.is_out() && !available.contains(Reason::Ejected) {
                    entry.ejection.restore(now);
                    changes.push((hosts.len(), Change::Recovered));
                }
                keys.push(key);
                endpoints.push(held.len() - 1);
                let blocked = available.without(Reason::Ejected).is_blocked();
                hosts.push(Host { ejection: entry.ejection, counts, blocked });
            }
            changes.extend(policy(&keys, &mut hosts));
            for (key, host) in keys.iter().zip(&hosts) {
                if let Some(entry) = registry.members.get_mut(key) {
                    entry.ejection = host.ejection;
                }
            }
            for (i, change) in changes {
                registry.count(change);
                let Some((member, Some(endpoint))) = held.get(endpoints[i]) else { continue };
                // Under the lock: two changes that follow one another must not be shown in the other order.
                match change {
                    Change::Ejected { .. } => endpoint.eject(now, config.believe_probes()),
                    Change::Restored => {
                        endpoint.restore();
                    }
                    Change::Recovered | Change::NotEnforced(_) | Change::TooMany(_) => {}
                }
                if !matches!(change, Change::NotEnforced(_) | Change::TooMany(_)) {
                    member.restart_rows();
                }
                let ejections = hosts[i].ejection.multiplier();
                events.push(OutlierEvent { endpoint: member.id.clone(), change, ejections, at: now });
            }
        }
        drop(held);
        for event in events {
            event.trace();
            let panicked = self.listeners.tell(&event);
            if panicked > 0 {
                tracing::error!(panicked, "listeners for outliers panicked");
            }
        }
    }

    /// From here on somebody takes back what is ejected.
    pub(super) fn driver_runs(&self) {
        self.lock().driven = true;
    }

    /// Nobody does any more: all are taken back.
    pub(super) fn driver_gone(&self, now: Tick) {
        let mut held = Held::new();
        let mut registry = self.lock();
        registry.driven = false;
        for entry in registry.members.values_mut() {
            if let Some(member) = entry.member.upgrade() {
                let endpoint = member.endpoint();
                if let Some(endpoint) = &endpoint {
                    endpoint.restore();
                }
                held.push((member, endpoint));
            }
            if entry.ejection.is_out() {
                entry.ejection.restore(now);
            }
        }
        drop(registry);
    }

    /// Whether nobody can be ejected any more: no handle, no member.
    pub(super) fn is_done(&self) -> bool {
        self.closed.load(Ordering::Acquire) && self.lock().members.is_empty()
    }

    pub(super) fn wake_on_news(&self, waker: &Waker) {
        let old = self.driver.lock().unwrap_or_else(PoisonError::into_inner).replace(waker.clone());
        drop(old);
    }

    fn wake(&self) {
        let waker = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn status(&self) -> OutlierStatus {
        let mut held = Held::new();
        let registry = self.lock();
        let mut members = Vec::new();
        for entry in registry.members.values() {
            let Some(member) = entry.member.upgrade() else { continue };
            let endpoint = member.endpoint();
            let ejected =
                endpoint.as_ref().is_some_and(|endpoint| endpoint.availability().contains(Reason::Ejected));
            members.push(MemberStatus {
                id: member.id.clone(),
                ejected_until: entry.ejection.until().filter(|_| ejected),
                ejections: entry.ejection.multiplier(),
            });
            held.push((member, endpoint));
        }
        let counts = registry.counts;
        drop(registry);
        members.sort_by(|a, b| a.id.cmp(&b.id));
        OutlierStatus { members, counts }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    fn count(&mut self, change: Change) {
        let (rule, enforced, too_many) = match change {
            Change::Ejected { rule, .. } => (rule, 1, 0),
            Change::NotEnforced(rule) => (rule, 0, 0),
            Change::TooMany(rule) => (rule, 0, 1),
            Change::Restored | Change::Recovered => return,
        };
        let counts = &mut self.counts[rule as usize];
        counts.detected += 1;
        counts.enforced += enforced;
        counts.too_many += too_many;
    }
}

fn chance() -> Chance {
    Chance::Raw(fastrand::u64(..))
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("members", &self.lock().members.len()).finish_non_exhaustive()
    }
}

/// One thing that happened in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutlierEvent {
    /// To whom.
    pub endpoint: EndpointId,
    /// What.
    pub change: Change,
    /// How often it has been ejected, less what has been forgotten.
    pub ejections: u32,
    /// When.
    pub at: Tick,
}

impl OutlierEvent {
    fn trace(&self) {
        let Self { endpoint, ejections, .. } = self;
        match self.change {
            Change::Ejected { rule, time } => {
                tracing::warn!(%endpoint, rule = rule.as_str(), ?time, ejections, "outlier ejected");
            }
            Change::NotEnforced(rule) => {
                tracing::info!(%endpoint, rule = rule.as_str(), "outlier found, and left in: a dry run");
            }
            Change::TooMany(rule) => {
                tracing::warn!(%endpoint, rule = rule.as_str(), "outlier found, and left in: too many are out");
            }
            Change::Restored => tracing::info!(%endpoint, ejections, "outlier taken back: its time is over"),
            Change::Recovered => tracing::info!(%endpoint, ejections, "outlier taken back: a probe passed"),
        }
    }
}

/// A set at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutlierStatus {
    /// Its members, in the order of their ids.
    pub members: Vec<MemberStatus>,
    counts: [RuleCounts; Rule::ALL.len()],
}

impl OutlierStatus {
    /// What `rule` has found so far.
    pub fn counts(&self, rule: Rule) -> RuleCounts {
        self.counts[rule as usize]
    }
}

/// A member at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberStatus {
    /// Who it is.
    pub id: EndpointId,
    /// When its time is over, if it is ejected; it is back with the sweep after.
    pub ejected_until: Option<Tick>,
    /// How often it has been ejected, less what has been forgotten.
    pub ejections: u32,
}

/// What one rule has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RuleCounts {
    /// Outliers.
    pub detected: u64,
    /// Those of them that were ejected.
    pub enforced: u64,
    /// Those of them that stayed because too many were out. The rest is the dry run's.
    pub too_many: u64,
}
