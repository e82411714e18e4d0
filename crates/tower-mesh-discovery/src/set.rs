//! One balancer's snapshot of endpoints with their services, and how it is replaced.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tower_mesh_core::Bind;
use tower_mesh_core::sharded::WeakSharded;

use crate::balance::clock;
use crate::config::DiscoveryConfig;
use crate::in_flight::Rules;
use crate::layer::PerEndpoint;
use crate::members::{Member, Members};
use crate::plan::{self, Plan, Settings};
use crate::source::Source;

/// What calls read: replaced as a whole, never changed. Members and services lie apart, so that a pick runs over small, dense entries.
pub(crate) struct Set<S> {
    pub(crate) version: u64,
    pub(crate) members: Members,
    pub(crate) services: Vec<S>,
    pub(crate) plan: Plan,
}

/// What the clones of one balancer share.
pub(crate) struct Shared<S> {
    pub(crate) set: ArcSwap<Set<S>>,
    pub(crate) config: DiscoveryConfig,
    pub(crate) rules: Rules,
    pub(crate) settings: Settings,
    pub(crate) source: Arc<Source>,
    /// See [`PerEndpoint::PREFETCH`].
    pub(crate) prefetch: Option<fn(&S)>,
}

/// A set that was replaced. It is dropped where it is found to be the last reference, off the call path.
pub(crate) type Retired = Arc<dyn Any + Send + Sync>;

/// One balancer, as the driver sees it.
pub(crate) trait Subscriber: Send + Sync {
    /// Publishes `members`; the set this replaced. None if the balancer is gone or has seen a newer version.
    fn publish(&self, version: u64, members: &Members) -> Option<Retired>;

    /// Whether the balancer is still there.
    fn is_alive(&self) -> bool;
}

/// Makes the services of one balancer out of the user's client.
pub(crate) struct Binding<C, B: Bind<C>, P: PerEndpoint<B::Service>> {
    pub(crate) client: C,
    pub(crate) bind: Arc<B>,
    pub(crate) per_endpoint: Arc<P>,
    pub(crate) shared: WeakSharded<Shared<P::Service>>,
}

impl<C, B, P> Subscriber for Binding<C, B, P>
where
    C: Send + Sync + 'static,
    B: Bind<C> + Send + Sync + 'static,
    P: PerEndpoint<B::Service> + Send + Sync + 'static,
    P::Service: Clone + Send + Sync + 'static,
{
    fn publish(&self, version: u64, members: &Members) -> Option<Retired> {
        let shared = self.shared.upgrade()?;
        // The user's bind and per-endpoint code runs here, under no lock. Two publications of one balancer may so overlap; the newer wins.
        let next = Arc::new(self.build(&shared, version, members));
        let mut current = shared.set.load_full();
        loop {
            if current.version >= version {
                return None;
            }
            let seen = shared.set.compare_and_swap(&current, next.clone());
            if Arc::ptr_eq(&seen, &current) {
                return Some(current);
            }
            current = Arc::clone(&seen);
        }
    }

    fn is_alive(&self) -> bool {
        self.shared.is_alive()
    }
}

impl<C, B, P> Binding<C, B, P>
where
    B: Bind<C>,
    P: PerEndpoint<B::Service>,
    P::Service: Clone,
{
    fn build(&self, shared: &Shared<P::Service>, version: u64, members: &Members) -> Set<P::Service> {
        let (config, settings) = (&shared.config, &shared.settings);
        let old = shared.set.load();
        let members = match config.subset_size() {
            0 => members.clone(),
            size => Members::new(plan::subset(members.as_slice(), size, settings.seed)),
        };
        let known: HashMap<u32, (&Member, &P::Service)> = old
            .members
            .as_slice()
            .iter()
            .zip(&old.services)
            .map(|(member, service)| (member.key, (member, service)))
            .collect();
        let service = |member: &Member| match known.get(&member.key) {
            Some((before, service)) if member.is_served_as(before) => (*service).clone(),
            _ => self.per_endpoint.layer(&member.handle, self.bind.bind(&self.client, &member.handle)),
        };
        let services = members.as_slice().iter().map(service).collect();
        let before = (&old.plan, old.members.as_slice());
        let plan = Plan::new(config, settings, members.as_slice(), before, clock());
        Set { version, members, services, plan }
    }
}

impl<S> Set<S> {
    pub(crate) fn empty() -> Self {
        Self { version: 0, members: Members::default(), services: Vec::new(), plan: Plan::empty() }
    }
}
