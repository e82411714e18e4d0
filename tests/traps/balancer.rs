//! T11: balancing.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::Constant;
use tower::{Service, ServiceExt};
use tower_mesh_core::BoxError;
use tower_mesh_test::{Fleet, Inner};
use tower_mesh_tests::{Query, balance, breaker, seconds, settle};

use crate::{Seen, assert_caught, assert_told_apart, ensure};

/// An endpoint that fails once to become ready is asked again for the next call, and no caller waits for ever.
async fn t11_one_readiness_error<S>(fleet: &Fleet<Query>, mut service: S) -> Seen
where
    S: Service<Query, Response = String, Error = BoxError>,
{
    let mut call = async || {
        let answer = async { service.ready().await?.call(Query(0)).await };
        tokio::time::timeout(seconds(60), answer).await.map_err(|_| "a call waits for ever".to_owned())
    };
    fleet.at("a:1").fail_readiness();
    let refused = call().await?;
    ensure(refused.is_err(), || "answered by nobody".into())?;
    fleet.at("a:1").release();
    let answered = call().await?;
    ensure(answered.is_ok(), || format!("well again, and not used: {answered:?}"))
}

/// Takes out whatever fails to become ready.
struct Forgets(VecDeque<Inner<Query, String>>);

impl Service<Query> for Forgets {
    type Response = String;
    type Error = BoxError;
    type Future = <Inner<Query, String> as Service<Query>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        while let Some(first) = self.0.front_mut() {
            match Service::<Query>::poll_ready(first, cx) {
                Poll::Ready(Err(_)) => self.0.pop_front(),
                ready => return ready,
            };
        }
        Poll::Pending
    }

    fn call(&mut self, query: Query) -> Self::Future {
        self.0.front_mut().unwrap().call(query)
    }
}

#[tokio::test(start_paused = true)]
async fn t11_a_readiness_error_is_not_the_end_of_an_endpoint() {
    let fleet = Fleet::<Query>::new(["a:1"]);
    let ours = balance(&fleet, &breaker());
    settle().await;
    let wrong = Forgets([fleet.at("a:1").clone()].into());
    assert_told_apart(
        &t11_one_readiness_error(&fleet, ours).await,
        &t11_one_readiness_error(&fleet, wrong).await,
        "waits for ever",
    );
    let towers = Balance::new(ServiceList::new::<Query>(vec![Constant::new(fleet.at("a:1").clone(), 0)]));
    assert_caught(&t11_one_readiness_error(&fleet, towers).await, "waits for ever");
}
