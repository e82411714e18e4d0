use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::time::Duration;

use futures_util::poll;
use tokio::time::sleep;
use tower::ServiceExt;
use tower_layer::Layer;
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::replay::Idempotent;
use tower_mesh_core::{BoxError, CallContext, DropReason};
use tower_service::Service;

use super::*;
use crate::config::{DeadlineConfig, RetryConfig};
use crate::error::DeadlineExceeded;
use crate::test_inner::{Inner, SEC, Tell, Told};
use crate::timer::clock;
use crate::{Retry, RetryLayer};

fn within(timeout: impl Into<Option<Duration>>) -> DeadlineLayer {
    DeadlineLayer::new(DeadlineConfig::builder().timeout(timeout).build().unwrap())
}

fn retry<S: Clone>(inner: S) -> Retry<S, ByResult, Idempotent> {
    RetryLayer::new(RetryConfig::default(), ByResult).replay(Idempotent).layer(inner)
}

async fn ready<S: Service<()>>(mut service: S) -> S {
    assert!(poll_fn(|cx| service.poll_ready(cx)).await.is_ok());
    service
}

#[tokio::test(start_paused = true)]
async fn the_call_ends_at_the_deadline_and_its_guards_learn_why() {
    let told = Told::default();
    let seen = told.clone();
    let inner = Inner::<(), ()>::new(move |_, ()| {
        let tell = Tell::new(&seen);
        async move {
            let _tell = tell;
            pending().await
        }
    });
    let start = clock();
    let error = within(2 * SEC).layer(inner).oneshot(()).await.unwrap_err();
    assert!(error.is::<DeadlineExceeded>());
    assert_eq!(clock().since(start), 2 * SEC);
    assert_eq!(*told.lock().unwrap(), [DropReason::DeadlineExceeded]);
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_two_deadlines_counts() {
    for (outer, inner) in [(1, 2), (2, 1)] {
        let never = Inner::<(), ()>::new(|_, ()| pending());
        let service = within(outer * SEC).layer(within(inner * SEC).layer(never));
        let start = clock();
        assert!(service.oneshot(()).await.is_err());
        assert_eq!(clock().since(start), SEC);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_at_the_last_moment_counts_and_without_a_timeout_any_does() {
    let slow = || {
        Inner::new(|_, ()| async {
            sleep(2 * SEC).await;
            Ok(())
        })
    };
    assert!(within(2 * SEC).layer(slow()).oneshot(()).await.is_ok());
    assert!(within(SEC).layer(slow()).oneshot(()).await.is_err());
    assert!(within(None).layer(slow()).oneshot(()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_timer_serves_deadline_and_retry() {
    let never = || Inner::<(), ()>::new(|_, ()| pending());
    let mut alone = Box::pin(ready(within(SEC).layer(never())).await.call(()));
    assert!(poll!(&mut alone).is_pending());
    assert!(alone.is_armed());

    let mut both = Box::pin(ready(within(SEC).layer(retry(never()))).await.call(()));
    assert!(poll!(&mut both).is_pending());
    assert!(!both.is_armed());
    assert!(both.await.unwrap_err().is::<DeadlineExceeded>());

    let mut nested = Box::pin(ready(within(2 * SEC).layer(within(SEC).layer(never()))).await.call(()));
    assert!(poll!(&mut nested).is_pending());
    assert!(!nested.is_armed());
}

/// Goes on after its inner service has answered.
#[derive(Clone)]
struct Dawdle<S>(S);

impl<S: Service<()>> Service<()> for Dawdle<S>
where
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: ()) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            drop(answer.await);
            pending().await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_inner_layer_that_has_ended_keeps_no_deadline() {
    let slow = Inner::new(|_, ()| async {
        sleep(SEC).await;
        Ok(())
    });
    let service = within(2 * SEC).layer(Dawdle(retry(slow)));
    let start = clock();
    let ended = tokio::time::timeout(60 * SEC, service.oneshot(())).await;
    let error: BoxError = ended.expect("the deadline does not depend on a layer that is gone").unwrap_err();
    assert!(error.is::<DeadlineExceeded>());
    assert_eq!(clock().since(start), 2 * SEC);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_too_late_is_not_sent() {
    let inner = Inner::<(), ()>::new(|_, ()| async { Ok(()) });
    let mut service = ready(within(None).layer(inner.clone())).await;
    let mut call = CallContext::new().with_deadline(clock());
    assert!(call.lend(|| service.call(())).await.unwrap_err().is::<DeadlineExceeded>());
    assert_eq!(inner.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_configuration_serves_the_next_call() {
    let layer = within(SEC);
    let service = layer.layer(Inner::<(), ()>::new(|_, ()| pending()));
    layer.live().reload(DeadlineConfig::builder().timeout(5 * SEC).build().unwrap());
    let start = clock();
    assert!(service.oneshot(()).await.is_err());
    assert_eq!(clock().since(start), 5 * SEC);
}
