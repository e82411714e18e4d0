//! What the mesh keeps of one service: its layers, and the background work that belongs to them.

use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tower_mesh_breaker::BreakerLayer;
use tower_mesh_breaker::outlier::Outliers;
use tower_mesh_core::ServiceName;
use tower_mesh_core::classify::ByResult;
use tower_mesh_discovery::DiscoveryLayer;
use tower_mesh_health::HealthLayer;
use tower_mesh_retry::{DeadlineLayer, HedgeLayer, RetryBudget, RetryLayer};

use crate::builder::AnyHealth;
use crate::config::{ReadyWhen, ServiceConfig};
use crate::events::{EventKind, Publisher, of_discovery, of_outlier};
use crate::measure::Calls;
use crate::observer::Seen;
use crate::resolver::AnyResolver;
use crate::under_way::UnderWay;

/// One service of a mesh. Every handle to it is made from these layers, so all of them share endpoints, circuits, probes and budget.
pub(crate) struct Part {
    pub(crate) name: ServiceName,
    pub(crate) required: bool,
    pub(crate) ready_when: ReadyWhen,
    pub(crate) discovery: DiscoveryLayer,
    pub(crate) breaker: BreakerLayer<ByResult>,
    pub(crate) outliers: Option<Outliers>,
    pub(crate) retry: RetryLayer<ByResult>,
    pub(crate) hedge: HedgeLayer<ByResult>,
    pub(crate) deadline: DeadlineLayer,
    pub(crate) health: Option<HealthLayer>,
    /// Calls through the layers whose answer is awaited.
    pub(crate) calls: UnderWay,
    /// Calls by name whose answer is awaited, through the layers or not.
    pub(crate) named_calls: UnderWay,
    /// What looking at it has told.
    pub(crate) seen: Seen,
    /// Whole calls, if that was asked for.
    pub(crate) measured: Option<Calls>,
    work: Mutex<Vec<Work>>,
}

/// Something that must run for a service, and its name in errors and reports.
pub(crate) struct Work {
    pub(crate) component: Component,
    pub(crate) future: BoxFuture<'static, ()>,
}

/// A kind of background work, in the order of starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Component {
    Discovery,
    Outlier,
    Health,
}

impl Component {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::Outlier => "outlier",
            Self::Health => "health",
        }
    }
}

impl Part {
    pub(crate) fn new(
        name: ServiceName,
        config: &ServiceConfig,
        resolver: &AnyResolver,
        health: Option<AnyHealth>,
        events: &Publisher,
        measured: bool,
    ) -> Self {
        let (discovery, driver) = DiscoveryLayer::with_config(resolver, name.clone(), config.discovery);
        let discovery = match &config.locality {
            Some(own) => discovery.locality(own),
            None => discovery,
        };
        let mut work = vec![Work { component: Component::Discovery, future: Box::pin(driver) }];
        let tell = (events.clone(), name.clone());
        discovery.on_event(move |event| tell.0.tell(Some(&tell.1), || of_discovery(event)));
        let health = health.map(|(layer, prober)| {
            let tell = (events.clone(), name.clone());
            let prober =
                prober.on_transition(move |change| tell.0.tell(Some(&tell.1), || EventKind::from(change)));
            work.push(Work { component: Component::Health, future: Box::pin(prober) });
            layer
        });
        let breaker = BreakerLayer::named(name.as_str(), config.breaker, ByResult);
        let tell = (events.clone(), name.clone());
        breaker.on_transition(move |event| tell.0.tell(Some(&tell.1), || EventKind::from(event)));
        let outliers = config.outlier.map(|config| {
            let (outliers, driver) = Outliers::new(config);
            let tell = (events.clone(), name.clone());
            outliers.on_event(move |event| tell.0.tell(Some(&tell.1), || of_outlier(event)));
            work.push(Work { component: Component::Outlier, future: Box::pin(driver) });
            outliers
        });
        let breaker = match &outliers {
            Some(outliers) => breaker.ejecting(outliers),
            None => breaker,
        };
        let budget = RetryBudget::new(config.budget);
        let retry = RetryLayer::new(config.retry, ByResult).budget(budget.clone());
        let tell = (events.clone(), name.clone());
        retry.on_give_up(move |call| tell.0.tell(Some(&tell.1), || EventKind::from(call)));
        Self {
            name,
            required: config.required,
            ready_when: config.ready_when,
            discovery,
            breaker,
            outliers,
            hedge: HedgeLayer::new(config.hedge, ByResult).budget(budget).counted_outside(),
            retry,
            deadline: DeadlineLayer::new(config.deadline),
            health,
            calls: UnderWay::default(),
            named_calls: UnderWay::default(),
            seen: Seen::default(),
            measured: measured.then(Calls::default),
            work: Mutex::new(work),
        }
    }

    /// How many calls are under way, at least: what waits for its answer, and what is still being read.
    pub(crate) fn under_way(&self) -> u64 {
        // The circuits know the endpoints that discovery has taken out too, for as long as a call holds them.
        let circuits = self.breaker.circuits();
        let endpoints = circuits.iter().filter_map(|circuit| circuit.handle());
        let in_flight = endpoints.map(|endpoint| endpoint.counts().in_flight()).sum::<u64>();
        in_flight.max(self.calls.count()).max(self.named_calls.count())
    }

    /// Hands the work of one kind over, once.
    pub(crate) fn take_work(&self, component: Component) -> Vec<Work> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, left) = work.drain(..).partition(|work| work.component == component);
        *work = left;
        taken
    }
}
