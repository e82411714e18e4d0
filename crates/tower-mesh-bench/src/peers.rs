//! What somebody would assemble from tower by hand: retry > timeout > buffer > P2C on peak EWMA.

use std::future::{Ready, ready};
use std::time::Duration;

use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwmaDiscover};
use tower::retry::Policy;
use tower::retry::budget::{Budget as _, TpsBudget};
use tower::{BoxError, ServiceBuilder};
use tower_service::Service;

use crate::inner::{Echo, Request};

/// Retries errors within a budget.
#[derive(Clone)]
struct WithinBudget(std::sync::Arc<TpsBudget>);

impl Policy<Request, u64, BoxError> for WithinBudget {
    type Future = Ready<()>;

    fn retry(&mut self, _request: &mut Request, result: &mut Result<u64, BoxError>) -> Option<Ready<()>> {
        if result.is_ok() {
            self.0.deposit();
            return None;
        }
        self.0.withdraw().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(*request)
    }
}

/// Tower's balancer alone, behind the `Buffer` without which it cannot be shared.
pub(crate) fn tower_balance(
    endpoints: usize,
) -> impl Service<Request, Response = u64, Error = BoxError, Future: Send> + Clone + Send + 'static {
    let services: Vec<_> = (0..endpoints).map(|_| Echo).collect();
    let discover = PeakEwmaDiscover::new(
        ServiceList::new::<Request>(services),
        Duration::from_millis(1),
        Duration::from_secs(10),
        CompleteOnResponse::default(),
    );
    ServiceBuilder::new().buffer(1024).service(Balance::new(discover))
}

/// Must be called inside a runtime: `Buffer` spawns its worker.
pub(crate) fn tower_stack(
    endpoints: usize,
) -> impl Service<Request, Response = u64, Error = BoxError, Future: Send> + Clone + Send + 'static {
    let services: Vec<_> = (0..endpoints).map(|_| Echo).collect();
    let discover = PeakEwmaDiscover::new(
        ServiceList::new::<Request>(services),
        Duration::from_millis(1),
        Duration::from_secs(10),
        CompleteOnResponse::default(),
    );
    let budget = TpsBudget::new(Duration::from_secs(10), 10, 0.2);
    ServiceBuilder::new()
        .retry(WithinBudget(std::sync::Arc::new(budget)))
        .timeout(Duration::from_secs(5))
        .buffer(1024)
        .service(Balance::new(discover))
}
