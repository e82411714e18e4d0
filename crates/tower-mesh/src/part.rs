//! What the mesh keeps of one service: its layers, and the background work that belongs to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tower_mesh_admission::AdmissionLayer;
use tower_mesh_breaker::BreakerLayer;
use tower_mesh_breaker::outlier::Outliers;
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::error::Mistake;
use tower_mesh_core::{CallOptions, Operation, ServiceName};
use tower_mesh_discovery::{DiscoveryLayer, FixedList};
use tower_mesh_health::HealthLayer;
use tower_mesh_retry::{DeadlineLayer, HedgeLayer, RetryBudget, RetryLayer};

use crate::authorize::Authorization;
use crate::builder::{AnyHealth, Shared};
use crate::config::{ServiceConfig, SourceConfig};
use crate::credentials::Credentials;
use crate::error::{Error, ErrorKind};
use crate::events::{EventKind, of_discovery, of_outlier};
use crate::measure::Calls;
use crate::observer::Seen;
use crate::resolver::AnyResolver;
use crate::under_way::UnderWay;

/// One service of a mesh. Every handle to it is made from these layers, so all of them share endpoints, circuits, probes and budget.
pub(crate) struct Part {
    pub(crate) name: ServiceName,
    /// What it goes by now.
    config: Mutex<ServiceConfig>,
    /// The endpoints, where they stand in the configuration.
    list: Option<FixedList>,
    pub(crate) discovery: DiscoveryLayer,
    pub(crate) breaker: BreakerLayer<ByResult>,
    pub(crate) outliers: Option<Outliers>,
    pub(crate) retry: RetryLayer<ByResult>,
    pub(crate) hedge: HedgeLayer<ByResult>,
    pub(crate) deadline: DeadlineLayer,
    pub(crate) admission: AdmissionLayer<ByResult>,
    pub(crate) health: Option<HealthLayer>,
    pub(crate) credentials: Option<Credentials>,
    /// Calls through the layers whose answer is awaited.
    pub(crate) calls: UnderWay,
    /// Calls by name whose answer is awaited, through the layers or not.
    pub(crate) named_calls: UnderWay,
    /// What looking at it has told.
    pub(crate) seen: Seen,
    /// Whole calls, if that was asked for.
    pub(crate) measured: Option<Calls>,
    work: Mutex<Vec<Work>>,
    /// Ends its background work, when the service is taken out of the mesh.
    pub(crate) stop: CancellationToken,
    gone: AtomicBool,
    pub(crate) authorization: Authorization,
    /// What is otherwise for some operations; none if for none.
    operations: ArcSwapOption<BTreeMap<Operation, CallOptions>>,
    has_operations: AtomicBool,
    /// A call has more to ask than whether the mesh runs: it is gone, or somebody decides who may call.
    asks: AtomicBool,
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
    Credentials,
    Outlier,
    Health,
}

impl Component {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::Credentials => "credentials",
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
        credentials: Option<Credentials>,
        shared: &Shared,
    ) -> Self {
        let events = &shared.events;
        let authorization = Authorization::new(&shared.authorizer, config.allow.clone(), events);
        let (discovery, driver) = DiscoveryLayer::with_config(resolver, name.clone(), config.discovery);
        let driver = match config.rest_after {
            Some(_) => driver.resting(resolver.clone(), config.rest_after),
            None => driver,
        };
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
        if let Some(credentials) = &credentials {
            let driver = Box::pin(credentials.driver());
            work.push(Work { component: Component::Credentials, future: driver });
        }
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
            config: Mutex::new(config.clone()),
            list: resolver.list().cloned(),
            discovery,
            breaker,
            outliers,
            hedge: HedgeLayer::new(config.hedge, ByResult).budget(budget).counted_outside(),
            retry,
            deadline: DeadlineLayer::new(config.deadline),
            admission: AdmissionLayer::new(config.admission_config(), ByResult),
            health,
            credentials,
            calls: UnderWay::default(),
            named_calls: UnderWay::default(),
            seen: Seen::default(),
            measured: shared.measured.then(Calls::default),
            work: Mutex::new(work),
            stop: CancellationToken::new(),
            gone: AtomicBool::new(false),
            asks: AtomicBool::new(authorization.asks()),
            authorization,
            has_operations: AtomicBool::new(!config.operations.is_empty()),
            operations: ArcSwapOption::from_pointee(config.operations.clone()),
        }
    }

    /// What is otherwise for this operation.
    #[inline]
    pub(crate) fn options_of(&self, operation: Operation) -> CallOptions {
        if !self.has_operations.load(Ordering::Acquire) {
            return CallOptions::new();
        }
        let operations = self.operations.load();
        operations.as_ref().and_then(|operations| operations.get(&operation)).copied().unwrap_or_default()
    }

    /// The tables and fields in which `next` differs from what this goes by; and, in `wrong`, what of it cannot change while it runs.
    pub(crate) fn differing(&self, next: &ServiceConfig, wrong: &mut Vec<Mistake>) -> Vec<&'static str> {
        const RESTART: &str = "what it was started with: this takes a restart";

        let now = self.config();
        let only_list = self.list.is_some() && matches!(next.source, SourceConfig::Endpoints(_));
        let fixed = [
            ("source", now.source.is_same_as(&next.source) || only_list),
            ("discovery", now.discovery == next.discovery && now.rest_after == next.rest_after),
            ("discovery.locality", now.locality == next.locality),
            ("outlier", now.outlier.is_some() == next.outlier.is_some()),
            ("credentials", now.credentials.is_some() == next.credentials.is_some()),
            ("health", now.health.is_some() == next.health.is_some()),
            (
                "health",
                now.health.as_ref().map(|now| &now.probe) == next.health.as_ref().map(|next| &next.probe),
            ),
        ];
        let moved = fixed.into_iter().filter(|(_, same)| !same);
        wrong.extend(moved.map(|(field, _)| Mistake::new(field, "another one", RESTART)));
        wrong.dedup();
        if let Err(invalid) = now.budget.check_change(&next.budget) {
            wrong.extend(invalid.mistakes().iter().map(|mistake| mistake.clone().under("budget")));
        }
        let same = [
            ("endpoints", now.source.is_same_as(&next.source)),
            ("required", now.required == next.required),
            ("allow", now.allow == next.allow),
            ("operations", now.operations == next.operations),
            ("ready_when", now.ready_when == next.ready_when),
            ("deadline", now.deadline == next.deadline),
            ("limit", now.limit == next.limit),
            ("admission", now.admission == next.admission),
            ("retry", now.retry == next.retry),
            ("budget", now.budget == next.budget),
            ("hedge", now.hedge == next.hedge),
            ("breaker", now.breaker == next.breaker),
            ("outlier", now.outlier == next.outlier),
            ("credentials", now.credentials == next.credentials),
            (
                "health",
                now.health.as_ref().map(|now| now.config) == next.health.as_ref().map(|next| next.config),
            ),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(field, _)| field).collect()
    }

    /// The credentials of `next`, if they are to take the place of others.
    pub(crate) fn other_credentials(&self, next: &ServiceConfig) -> Result<Option<Credentials>, Mistake> {
        let now = self.config().credentials.clone();
        match (now, &next.credentials) {
            (Some(now), Some(next)) if now != *next => Credentials::load(next).map(Some),
            _ => Ok(None),
        }
    }

    /// Goes by `next` from now on, in which nothing is [wrong](Self::differing), with its [credentials](Self::other_credentials).
    pub(crate) fn reload(&self, next: &ServiceConfig, credentials: Option<&Credentials>) {
        let now = std::mem::replace(&mut *self.config(), next.clone());
        if let (Some(list), SourceConfig::Endpoints(endpoints)) = (&self.list, &next.source)
            && now.source != next.source
        {
            // One that names an endpoint twice was refused.
            let _ = list.set(endpoints.iter().cloned());
        }
        if now.allow != next.allow {
            self.authorization.reload(next.allow.clone());
            self.asks.store(self.authorization.asks(), Ordering::Release);
        }
        if now.operations != next.operations {
            self.operations.store(Some(Arc::new(next.operations.clone())));
            self.has_operations.store(!next.operations.is_empty(), Ordering::Release);
        }
        if now.deadline != next.deadline {
            self.deadline.live().reload(next.deadline);
        }
        if now.admission_config() != next.admission_config() {
            self.admission.reload(next.admission_config());
        }
        if now.retry != next.retry {
            self.retry.live().reload(next.retry);
        }
        if now.hedge != next.hedge {
            self.hedge.live().reload(next.hedge);
        }
        if now.budget != next.budget {
            // What cannot change was refused.
            let _ = self.retry.get_budget().reload(next.budget);
        }
        if now.breaker != next.breaker {
            self.breaker.reload(next.breaker);
        }
        if let (Some(outliers), Some(next)) = (&self.outliers, next.outlier)
            && now.outlier != Some(next)
        {
            outliers.reload(next);
        }
        if let (Some(layer), Some(next)) = (&self.health, &next.health)
            && now.health.is_none_or(|now| now.config != next.config)
        {
            layer.reload(next.config);
        }
        if let (Some(credentials), Some(next)) = (&self.credentials, credentials) {
            credentials.take_over(next);
        }
    }

    pub(crate) fn config(&self) -> MutexGuard<'_, ServiceConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call may be made, as far as the service has a say.
    #[inline]
    pub(crate) fn admit(&self, operation: Option<Operation>) -> Result<(), Error> {
        if self.asks.load(Ordering::Acquire) { self.look(operation) } else { Ok(()) }
    }

    #[cold]
    fn look(&self, operation: Option<Operation>) -> Result<(), Error> {
        if self.gone.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::ServiceNotFound, self.name.as_str(), operation));
        }
        self.authorization.check(&self.name, operation)
    }

    /// Takes it out: its background work ends, calls under way go on.
    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.asks.store(true, Ordering::Release);
        self.stop.cancel();
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
