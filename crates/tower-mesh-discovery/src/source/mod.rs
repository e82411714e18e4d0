//! The truth that all balancers of one layer share: what the driver puts in, and what everybody else sees.

mod known;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tower_mesh_core::{EndpointHandle, Listeners, ResolveError, ServiceName, Tick, Update};

use self::known::{Known, Publication, Rests};
use crate::balance::clock;
use crate::config::DiscoveryConfig;
use crate::event::{Before, DiscoveryEvent};
use crate::members::{Change, Members};
use crate::policy::disappearance::Limit;
use crate::policy::retention::{self, Retention};
use crate::rest::Asked;
use crate::set::{Retired, Subscriber};
use crate::status::{DiscoveryState, DiscoveryStatus};

/// The truth that all balancers of one layer share.
pub(crate) struct Source {
    pub(crate) service: ServiceName,
    config: DiscoveryConfig,
    known: Mutex<Known>,
    /// Told of what happened, after it is in force.
    pub(crate) listeners: Listeners<DiscoveryEvent>,
    /// Told after every change: calls that wait for endpoints look again.
    pub(crate) changed: Arc<Notify>,
    /// Told when the layer and its balancers are gone: the driver ends.
    pub(crate) gone: Arc<Notify>,
    asked: Asked,
}

impl Source {
    pub(crate) fn new(service: ServiceName, config: DiscoveryConfig) -> Arc<Self> {
        let rules = retention::Rules {
            grace: config.removal_grace(),
            empty_grace: config.empty_grace(),
            while_well: config.keep_healthy(),
        };
        Arc::new(Self {
            service,
            config,
            known: Mutex::new(Known {
                state: DiscoveryState::NotDriven,
                members: Members::default(),
                version: 0,
                updated_at: None,
                ages_from: None,
                rests: None,
                last_error: None,
                errors: 0,
                subscribers: Vec::new(),
                retention: Retention::new(rules),
                removals: Limit::new(config.max_removal_percent(), config.removal_interval()),
                unpublished_since: None,
            }),
            listeners: Listeners::default(),
            changed: Arc::default(),
            gone: Arc::default(),
            asked: Asked::default(),
        })
    }

    /// Adds a balancer and gives it what is known.
    pub(crate) fn subscribe(&self, subscriber: &Arc<dyn Subscriber>) {
        let (version, members, dead) = {
            let mut known = self.known();
            // A source that never changes would keep those that are gone, and what they hold, for ever.
            let (mut alive, dead): (Vec<_>, Vec<_>) =
                known.subscribers.drain(..).partition(|subscriber| subscriber.is_alive());
            alive.push(subscriber.clone());
            known.subscribers = alive;
            (known.version, known.members.clone(), dead)
        };
        // Outside the lock, as what follows: they hold the user's clients.
        drop(dead);
        // Outside the lock: this runs the user's bind. What it replaces is the empty set it was made with.
        drop(subscriber.publish(version, &members));
    }

    pub(crate) fn status(&self) -> DiscoveryStatus {
        let known = self.known();
        DiscoveryStatus {
            service: self.service.clone(),
            state: known.state,
            endpoints: known.members.as_slice().iter().map(|member| member.handle.clone()).collect(),
            updated_at: known.updated_at,
            absent: known.members.as_slice().iter().filter(|member| member.absent).count(),
            version: known.version,
            errors: known.errors,
            last_error: known.last_error.clone(),
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.known().version
    }

    pub(crate) fn state(&self) -> (DiscoveryState, Option<Arc<ResolveError>>) {
        let known = self.known();
        (known.state, known.last_error.clone())
    }

    /// What is asked of the driver about resting.
    pub(crate) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// A count that grows with calls, and whether any are under way.
    pub(crate) fn calls(&self) -> (u64, bool) {
        // A reference to the set, so that no lock is held while so many records are read.
        let members = self.known().members.clone();
        members
            .as_slice()
            .iter()
            .map(|member| member.handle.counts())
            .fold((0, false), |(calls, busy), counts| {
                (calls + counts.started, busy || counts.in_flight() > 0)
            })
    }

    /// The source is not listened to any more.
    pub(crate) fn rests(&self) {
        let from = {
            let mut known = self.known();
            let now = clock();
            // Nobody goes while nobody is heard of.
            known.retention.source(false, now);
            let aging = matches!(known.state, DiscoveryState::Stale | DiscoveryState::Resting);
            known.rests = Some(Rests { since: now, aging });
            std::mem::replace(&mut known.state, DiscoveryState::Resting)
        };
        tracing::debug!(service = self.service.as_str(), "discovery rests");
        self.changed.notify_waiters();
        self.report_state(from, DiscoveryState::Resting);
    }

    /// The source is asked again. What it said is no older than before the rest, and as new as can be if nothing spoke against it then.
    pub(crate) fn woken(&self) {
        let now = clock();
        let mut known = self.known();
        if let Some(Rests { since, aging }) = known.rests.take() {
            known.ages_from = known.ages_from.map(|from| if aging { from + now.since(since) } else { now });
        }
    }

    pub(crate) fn set_driven(&self, driven: bool) {
        let (from, to, publication) = {
            let mut known = self.known();
            let from = known.state;
            known.state = match (driven, known.state, known.updated_at) {
                (true, DiscoveryState::NotDriven, _) => DiscoveryState::Resolving,
                (true, state, _) => state,
                (false, DiscoveryState::Expired, _) => DiscoveryState::Expired,
                (false, _, None) => DiscoveryState::NotDriven,
                (false, _, Some(_)) => DiscoveryState::Stale,
            };
            // Without a driver nobody ends the gathering of changes later.
            let since = known.unpublished_since.filter(|_| !driven);
            let publication = since.and_then(|since| known.publication(true, since, &self.config));
            (from, known.state, publication)
        };
        drop(publish(publication));
        self.changed.notify_waiters();
        self.report_state(from, to);
    }

    /// Takes in what the source said; the sets that this replaced.
    pub(crate) fn apply(&self, item: Result<Update, ResolveError>) -> Vec<Retired> {
        let take_in = |known: &mut Known, _: &Members, now| {
            known.retention.source(item.is_ok(), now);
            match item {
                Ok(update) => {
                    let first = known.updated_at.is_none();
                    let not_found = update == Update::NotFound;
                    let held = self.holds();
                    let change = known.members.apply(update, self.config.max_endpoints(), held);
                    if held {
                        known.absentees(now);
                    }
                    known.state = if not_found { DiscoveryState::NotFound } else { DiscoveryState::Current };
                    known.updated_at = Some(now);
                    known.ages_from = Some(now);
                    known.last_error = None;
                    // The first answer is a version of its own even when it is empty.
                    let publication = known.changed(&change, first, now, &self.config);
                    (Ok(change), publication)
                }
                Err(error) => {
                    let answered = known.updated_at.is_some();
                    known.state = match known.state {
                        DiscoveryState::Expired => DiscoveryState::Expired,
                        _ if answered => DiscoveryState::Stale,
                        _ => DiscoveryState::Failed,
                    };
                    let error = Arc::new(error);
                    known.last_error = Some(error.clone());
                    known.errors += 1;
                    (Err(error), None)
                }
            }
        };
        self.change(take_in, |change| match change {
            Ok(change) => {
                self.tell(&change);
                (change.over, None)
            }
            Err(error) => {
                tracing::warn!(service = self.service.as_str(), %error, "resolution failed; the last good endpoints stay");
                (0, Some(error))
            }
        })
    }

    /// Lets `step` change what is known, given the members before it, and tells of it once the lock is released: the log by `log`, which gives what listeners are to hear
    /// besides, then balancers, calls that wait, and listeners. The sets that this replaced.
    fn change<R>(
        &self,
        step: impl FnOnce(&mut Known, &Members, Tick) -> (R, Option<Publication>),
        log: impl FnOnce(R) -> (usize, Option<Arc<ResolveError>>),
    ) -> Vec<Retired> {
        let now = clock();
        // Keeps the records of endpoints that go, and what is attached to them, until the lock is released.
        let before;
        let news;
        let (result, publication) = {
            let mut known = self.known();
            before = known.members.clone();
            news = self.listeners.any().then(|| Before::new(known.state, &before));
            step(&mut known, &before, now)
        };
        let (over, error) = log(result);
        let retired = publish(publication);
        self.changed.notify_waiters();
        if let Some(news) = news {
            self.report(news, over, error);
        }
        drop(before);
        retired
    }

    fn holds(&self) -> bool {
        let config = &self.config;
        config.keep_healthy()
            || config.removal_grace() > Duration::ZERO
            || config.empty_grace() > Duration::ZERO
            || config.max_removal_percent() < 100
    }

    /// How long until [`tend`](Self::tend) is wanted.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.known().wait(clock(), &self.config)
    }

    /// Does what is due without news of the source; the sets that this replaced.
    pub(crate) fn tend(&self) -> Vec<Retired> {
        let let_go = |known: &mut Known, before: &Members, now| {
            let expired = known.expires_at(&self.config).is_some_and(|at| at <= now);
            let change = if expired {
                known.state = DiscoveryState::Expired;
                known.members.evict(|_| true)
            } else {
                let absent = before.as_slice().iter().filter(|member| member.absent);
                let absent: HashMap<_, _> = absent.map(|member| (member.key, &member.handle)).collect();
                let is_well = |key: &u32| absent.get(key).is_some_and(|handle| is_well(handle));
                let size = before.as_slice().len();
                let most = known.removals.allowance(size, now);
                let due = known.retention.due_up_to(most, now, is_well, |below| fastrand::usize(..below));
                let change =
                    known.members.evict(|member| member.absent && due.binary_search(&member.key).is_ok());
                known.removals.gone(change.removed, size, now);
                change
            };
            if expired {
                known.absentees(now);
            }
            let publication = known.changed(&change, false, now, &self.config);
            (change, publication)
        };
        self.change(let_go, |change| {
            if change.is_news() {
                self.tell(&change);
            }
            (0, None)
        })
    }

    /// Tells listeners how it is now, if that is other than `before`.
    fn report(&self, before: Before, over: usize, error: Option<Arc<ResolveError>>) {
        let (state, members, version) = {
            let known = self.known();
            (known.state, known.members.clone(), known.version)
        };
        for event in before.events(state, &members, version, over, error) {
            self.say(&event);
        }
    }

    fn report_state(&self, from: DiscoveryState, to: DiscoveryState) {
        if from != to {
            self.say(&DiscoveryEvent::State { from, to });
        }
    }

    fn say(&self, event: &DiscoveryEvent) {
        let panicked = self.listeners.tell(event);
        if panicked > 0 {
            tracing::error!(panicked, "listeners for endpoints panicked");
        }
    }

    fn tell(&self, change: &Change) {
        let service = self.service.as_str();
        let Change { added, removed, moved, over, .. } = *change;
        tracing::debug!(service, added, removed, moved, "endpoints updated");
        if over > 0 {
            let max = self.config.max_endpoints();
            tracing::warn!(service, over, max, "endpoints over the bound are left out");
        }
    }

    pub(crate) fn ended(&self) {
        let (from, to) = {
            let mut known = self.known();
            let from = known.state;
            known.retention.source(false, clock());
            known.state = match known.state {
                DiscoveryState::Resolving => DiscoveryState::Failed,
                DiscoveryState::Current => DiscoveryState::Stale,
                // Woken, but not answered.
                DiscoveryState::Resting => DiscoveryState::Stale,
                state => state,
            };
            (from, known.state)
        };
        self.changed.notify_waiters();
        self.report_state(from, to);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing keeps calls away from it.
fn is_well(endpoint: &EndpointHandle) -> bool {
    !endpoint.availability().is_blocked()
}

/// Tells the balancers. Under no lock: it runs the user's bind, and drops the user's clients.
fn publish(publication: Option<Publication>) -> Vec<Retired> {
    let Some(Publication { version, members, subscribers, dead }) = publication else { return Vec::new() };
    drop(dead);
    subscribers.iter().filter_map(|subscriber| subscriber.publish(version, &members)).collect()
}

impl Drop for Source {
    fn drop(&mut self) {
        // Leaves a permit if the driver is not waiting just now.
        self.gone.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_is_attached_to_an_endpoint_that_goes_is_dropped_outside_the_lock() {
        struct Attached(Arc<Source>, Arc<AtomicBool>);
        impl Drop for Attached {
            fn drop(&mut self) {
                self.1.store(self.0.known.try_lock().is_ok(), Ordering::Relaxed);
            }
        }
        let source = Source::new("users".parse().unwrap(), DiscoveryConfig::default());
        let free = Arc::new(AtomicBool::new(false));
        source.apply(Ok(Update::Reset(vec!["a:1".parse().unwrap()])));
        let attached = Arc::new(Attached(source.clone(), free.clone()));
        source.status().endpoints[0].attach(attached);
        assert!(!free.load(Ordering::Relaxed));
        source.apply(Ok(Update::Reset(Vec::new())));
        assert!(free.load(Ordering::Relaxed));
    }
}
